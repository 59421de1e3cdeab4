//! The package in a booted system: installed, running, failing, upgraded, removed; watched from
//! outside.
//!
//! systemd is the real one, and so is the sandbox of the unit. There is no camera, and the service shows
//! the test picture; but for `camera`, which boots an emulated machine.

use std::process::Command;

use roomcam::watch::protocol::Reply;
use roomcam::watch::seen::Seen;
use serde_json::{Value, json};

use crate::guest;
use crate::support::system::System;

mod camera;
mod csi;
mod doctor;
mod readme;
mod service;

const SERVICE: &str = "roomcam.service";

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn the_installed_service_shows_its_page_to_holders_of_the_key() {
    // No network and no camera yet: it starts all the same.
    let system = System::boot();
    system.install(1);
    assert_eq!(system.run("systemctl is-active roomcam").trim(), "active");
    assert_eq!(system.run("systemctl is-enabled roomcam").trim(), "enabled");
    system.connect();
    let page = "http://10.86.0.2:8080/";
    let answer = system.outside("curl", &["-sSf", page]);
    assert!(
        String::from_utf8_lossy(&answer.stdout).contains("<html"),
        "{answer:?}"
    );
    let status = system.run("systemctl status --no-pager roomcam");
    assert!(
        status.contains("Status: \"in the room, nobody watches\""),
        "{status}"
    );

    let url = url(&system);
    assert!(url.starts_with(page), "{url}");
    let (room, key) = url.split_once("&key=").expect("the key comes last");
    assert_eq!(key.len(), 32, "128 bits");
    // There is no camera in this system, and viewers read so.
    let nothing = viewer(&system, &url, &["--frames", "1"]).output();
    let nothing = nothing.expect("the viewer starts").stderr;
    let reason = String::from_utf8_lossy(&nothing);
    assert!(reason.contains("no camera was found"), "{reason}");
    let refused = viewer(&system, &format!("{room}&key=wrong"), &["--frames", "1"]).output();
    let refused = refused.expect("the viewer starts");
    assert!(!refused.status.success(), "{refused:?}");

    // The keys are the service's alone.
    let others = "runuser -u nobody -- cat /var/lib/roomcam/key /etc/roomcam/roomcam.toml";
    let (status, output) = system.attempt(others);
    assert!(
        status != 0 && output.matches("Permission denied").count() == 2,
        "{output}"
    );
    assert!(!system.journal(SERVICE).contains(key));
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn the_key_and_a_second_camera_are_what_the_administrator_says() {
    let system = System::with_service();
    system.run("umask 077; echo chosen-by-hand >/etc/roomcam/roomcam.key");
    system.run("systemctl restart roomcam");
    assert!(url(&system).ends_with("&key=chosen-by-hand"));
    watch(&system, &url(&system), &["--frames", "5"]);
    the_key_of_those_who_speak_is_handed_over_too(&system);

    let config = system.run("sed s/8080/8081/ /etc/roomcam/roomcam.toml");
    system.configure("attic", &config);
    system.run("systemctl enable --now roomcam@attic");
    let attic = system.run("roomcam url --config /etc/roomcam/attic.toml");
    assert!(attic.starts_with("http://10.86.0.2:8081/"), "{attic}");
    assert!(!attic.contains("chosen-by-hand"));
    watch(&system, attic.trim(), &["--frames", "5"]);
}

fn the_key_of_those_who_speak_is_handed_over_too(system: &System) {
    let config = system.run("cat /etc/roomcam/roomcam.toml");
    system.configure("roomcam", &format!("{config}[talkback]\nsink = \"null\"\n"));
    system.run("umask 077; echo open-sesame >/etc/roomcam/roomcam.talkback.key");
    system.run("systemctl restart roomcam");
    let link = url(system);
    let talking = system.run("roomcam url --talk");
    assert_eq!(talking.trim(), format!("{link}&talk=open-sesame"));
    system.do_outside(async {
        let mut viewer = guest::join_at(&link).await;
        let connected = |seen: &Seen| seen.control_open.is_some();
        guest::until(&mut viewer, "is connected", connected).await;
        for (id, on, key) in [
            (901, true, "open-sesame"),
            (902, false, ""),
            (903, true, "guessed"),
        ] {
            let text = json!({"id": id, "type": "set_talking", "on": on, "key": key});
            viewer.send_control(text.to_string()).await;
        }
        let answered = |seen: &Seen| seen.replies.len() == 3;
        let seen = guest::until(&mut viewer, "is answered", answered).await;
        let code = |reply: &Reply| reply.error.as_ref().map(|refusal| refusal.code.clone());
        let codes: Vec<_> = seen.replies.iter().map(code).collect();
        assert_eq!(codes, [None, None, Some("wrong-talk-key".to_owned())]);
        viewer.leave().await;
    });
    // A key that is none is refused as in the file, and is not said.
    system.run("echo short >/etc/roomcam/roomcam.talkback.key; systemctl reset-failed");
    system.attempt("systemctl restart roomcam");
    system.until_it_succeeds("systemctl is-failed roomcam");
    let journal = system.journal(SERVICE);
    assert!(
        journal.contains("talkback.key = … is out of range"),
        "{journal}"
    );
    assert!(!journal.contains("open-sesame"), "{journal}");
    system.run("rm /etc/roomcam/roomcam.talkback.key");
    system.configure("roomcam", &config);
    system.run("systemctl restart roomcam");
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn an_upgrade_keeps_the_configuration_and_restarts_once_and_a_purge_leaves_nothing() {
    let system = System::with_service();
    let (before, link) = (system.main_pid(SERVICE), url(&system));
    let starts = || system.journal(SERVICE).matches("Started").count();
    let started = starts();
    system.install(2);
    assert_ne!(system.main_pid(SERVICE), before);
    assert_eq!(url(&system), link);
    assert_eq!(starts(), started + 1);
    watch(&system, &link, &["--frames", "5"]);

    // What is stopped stays so.
    system.run("systemctl stop roomcam");
    system.install(2);
    let (_, state) = system.attempt("systemctl is-active roomcam");
    assert_eq!(state.trim(), "inactive");
    system.run("systemctl start roomcam");

    let attic = system.run("sed s/8080/8081/ /etc/roomcam/roomcam.toml");
    system.configure("attic", &attic);
    system.run("systemctl enable --now roomcam@attic 2>/dev/null; dpkg --remove roomcam");
    assert_eq!(system.attempt("pgrep -x roomcam").0, 1);
    system.run("test -e /var/lib/roomcam/key -a -e /etc/roomcam/roomcam.toml");
    // Installed again, all is as it was.
    system.install(2);
    system.run("systemctl is-active roomcam roomcam@attic");
    watch(&system, &link, &["--frames", "5"]);
    // And again, which has a stopped camera stay stopped.
    system.run("systemctl stop roomcam@attic");
    system.install(2);
    let (_, states) = system.attempt("systemctl is-active roomcam roomcam@attic");
    assert_eq!(states, "active\ninactive\n");

    system.run("dpkg --purge roomcam");
    let left =
        "find / -xdev -path /proc -prune -o -iname '*roomcam*' -print; getent passwd roomcam";
    assert_eq!(system.attempt(left).1, "");
    let failed = system.run("systemctl list-units --failed --plain --no-legend");
    assert_eq!(failed, "");
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn it_comes_up_with_the_machine() {
    let mut system = System::with_service();
    let link = url(&system);
    system.reboot();
    system.connect();
    system.until("it is active", |system| {
        system.attempt("systemctl is-active roomcam").0 == 0
    });
    watch(&system, &link, &["--frames", "5"]);
}

/// Returns the link to the page, as the administrator gets it.
fn url(system: &System) -> String {
    let url = system.until_it_succeeds("roomcam url");
    url.trim().to_owned()
}

/// Watches from outside; returns the report.
fn watch(system: &System, url: &str, arguments: &[&str]) -> Value {
    let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
    let output = viewer(system, url, &arguments).output();
    let output = output.expect("the viewer starts");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("a report")
}

fn viewer(system: &System, url: &str, arguments: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_roomcam");
    let arguments: Vec<&str> = ["watch", url].iter().chain(arguments).copied().collect();
    system.outside_command(program, &arguments)
}
