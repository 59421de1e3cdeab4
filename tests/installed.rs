//! The package in a booted system: installed, running, failing, upgraded, removed; watched from
//! outside.
//!
//! systemd is the real one, and so is the sandbox of the unit. There is no camera, and the service shows
//! the test picture; but for one test, which boots an emulated machine with a camera, a sound card and
//! a kernel of its own, where limits of memory and devices are real as well.

mod readme;

use std::process::{Command, Stdio};
use std::time::Duration;

use roomcam::clock;
use serde_json::Value;

use crate::support::guest;
use crate::support::system::{self, System};

const SERVICE: &str = "roomcam.service";

/// From the death of the process to the page, in the unit's own words `RestartSec=1`.
const BACK_WITHIN: Duration = Duration::from_secs(3);

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
    assert!(status.contains("Status: \"0 viewers"), "{status}");

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
fn the_sandboxed_service_is_seen_and_heard() {
    let system = System::with_service();
    let report = watch(&system, &url(&system), &["--frames", "20"]);
    assert_eq!(report["picture"], serde_json::json!([320, 180]));
    assert!(report["audio_packets"].as_u64() > Some(10), "{report}");
    // Ten times what it says: 2.0 of 10.
    system.run("systemd-analyze security --no-pager --threshold=20 roomcam.service");
    let verified = system.run("systemd-analyze verify --man=no roomcam.service roomcam@.service");
    assert_eq!(verified, "");
    let process = system.main_pid(SERVICE);
    let status = system.run(&format!("cat /proc/{process}/status"));
    let line = |name: &str| status.lines().find(|line| line.starts_with(name));
    assert_eq!(line("CapBnd"), Some("CapBnd:\t0000000000000000"));
    assert_eq!(line("NoNewPrivs"), Some("NoNewPrivs:\t1"));
    assert_eq!(line("Seccomp:"), Some("Seccomp:\t2"));
    let user = system.run(&format!("ps -o user= -p {process}"));
    assert_eq!(user.trim(), "roomcam");
}

#[test]
#[ignore = "needs root and the guest: scripts/test"]
fn with_a_real_camera_the_sandbox_lets_through_that_and_the_microphone_and_nothing_else() {
    let console = system::emulate(guest::image());
    let proof = |what: &str| {
        let mut lines = console
            .lines()
            .filter_map(|line| line.strip_prefix("PROOF "));
        let found = lines.find_map(|line| line.trim().strip_prefix(what));
        found.unwrap_or_else(|| panic!("no {what} in\n{console}"))
    };
    // Its devices are plugged in after the start, of drivers that were not even loaded.
    assert_eq!(proof("active="), "active drivers=0");
    assert_eq!(proof("groups="), "video,audio");
    let report: Value = serde_json::from_str(proof("report=")).expect("a report");
    assert_eq!(report["picture"], serde_json::json!([320, 180]));
    assert!(report["audio_packets"].as_u64() > Some(10), "{report}");
    assert!(console.contains("camera live camera=\"vivid"), "{console}");
    assert_eq!(proof("video0="), "0");
    assert_ne!(proof("kmsg="), "0");
    assert_ne!(proof("mem="), "0");
    assert_eq!(proof("MemoryMax="), "268435456");
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn a_killed_service_is_back_within_three_seconds() {
    let system = System::with_service();
    let before = system.main_pid(SERVICE);
    let killed = clock::now();
    system.run(&format!("kill -KILL {before}"));
    system.until("another process serves", |system| {
        let page = "http://10.86.0.2:8080/healthz";
        system.main_pid(SERVICE) != before
            && system.outside("curl", &["-sf", page]).status.success()
    });
    let took = killed.elapsed();
    assert!(took < BACK_WITHIN, "{took:?}");
    watch(&system, &url(&system), &["--frames", "5"]);
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn a_service_that_stands_still_is_restarted_by_the_watchdog() {
    let system = System::with_service();
    let before = system.main_pid(SERVICE);
    system.run(&format!("kill -STOP {before}"));
    system.wait_for_another(SERVICE, &before);
    let journal = system.journal(SERVICE);
    assert!(journal.contains("Watchdog timeout"), "{journal}");
    watch(&system, &url(&system), &["--frames", "5"]);
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn a_microphone_that_hangs_in_its_driver_is_left_behind_with_its_process() {
    let system = System::with_service();
    // Reading from it never returns: nobody writes to the pipe.
    system.run("mkfifo -m 644 /etc/roomcam/pipe");
    system.run(
        "printf 'pcm.hangs { type file slave.pcm null file /dev/null infile /etc/roomcam/pipe }' \
         >/etc/asound.conf",
    );
    let config = system.run("sed 's/\"tone\"/\"hangs\"/' /etc/roomcam/roomcam.toml");
    system.configure("roomcam", &config);
    system.run("systemctl restart roomcam");
    let before = system.main_pid(SERVICE);
    let mut viewer = viewer(&system, &url(&system), &["--seconds", "60"])
        .stdout(Stdio::null())
        .spawn()
        .expect("the viewer starts");
    system.until("the watchdog acts", |system| {
        system.journal(SERVICE).contains("Watchdog timeout")
    });
    viewer.kill().ok();
    viewer.wait().ok();
    let journal = system.journal(SERVICE);
    assert!(journal.contains("hangs in its driver"), "{journal}");
    system.wait_for_another(SERVICE, &before);
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn a_reload_changes_the_picture_and_keeps_the_viewers() {
    let system = System::with_service();
    let process = system.main_pid(SERVICE);
    let viewer = viewer(&system, &url(&system), &["--seconds", "12", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the viewer starts");
    system.until_it_succeeds("journalctl -u roomcam | grep -q '320x180'");

    let config = system.run("cat /etc/roomcam/roomcam.toml");
    let wrong = config.replace("fps = 15", "fpss = 15");
    system.configure("roomcam", &wrong);
    system.run("systemctl reload roomcam");
    system.until_it_succeeds("journalctl -u roomcam | grep 'the old one stays' | grep 'line 5'");

    let other = config.replace("width = 320", "width = 256");
    let other = other.replace("[webrtc]", "[webrtc]\nmax_viewers = 2");
    system.configure("roomcam", &other);
    system.run("systemctl reload roomcam");
    system.until_it_succeeds("journalctl -u roomcam | grep '256x180'");
    let journal = system.journal(SERVICE);
    assert!(
        journal.contains("changes take effect when roomcam is restarted keys=\"webrtc\""),
        "{journal}"
    );

    let output = viewer.wait_with_output().expect("the viewer ends");
    let report: Value = serde_json::from_slice(&output.stdout).expect("the viewer reports");
    assert_eq!(report["picture"], serde_json::json!([256, 180]));
    assert_eq!(journal.matches("viewer connected").count(), 1, "{journal}");
    assert_eq!(system.main_pid(SERVICE), process);
    assert_eq!(system.run("systemctl is-active roomcam").trim(), "active");
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn a_wrong_configuration_at_the_start_is_said_once() {
    let system = System::with_service();
    system.configure("roomcam", "[video]\nfps = 1000\n");
    system.attempt("systemctl restart roomcam");
    system.until_it_succeeds("systemctl is-failed roomcam");
    let journal = system.journal(SERVICE);
    let said = journal.matches("video.fps = 1000 is out of range: 1 to 120");
    assert_eq!(said.count(), 1, "{journal}");
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn the_key_and_a_second_camera_are_what_the_administrator_says() {
    let system = System::with_service();
    system.run("umask 077; echo chosen-by-hand >/etc/roomcam/roomcam.key");
    system.run("systemctl restart roomcam");
    assert!(url(&system).ends_with("&key=chosen-by-hand"));
    watch(&system, &url(&system), &["--frames", "5"]);

    let config = system.run("sed s/8080/8081/ /etc/roomcam/roomcam.toml");
    system.configure("attic", &config);
    system.run("systemctl enable --now roomcam@attic");
    let attic = system.run("roomcam url --config /etc/roomcam/attic.toml");
    assert!(attic.starts_with("http://10.86.0.2:8081/"), "{attic}");
    assert!(!attic.contains("chosen-by-hand"));
    watch(&system, attic.trim(), &["--frames", "5"]);
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn an_upgrade_keeps_the_configuration_and_restarts_once_and_a_purge_leaves_nothing() {
    let system = System::with_service();
    let (before, link) = (system.main_pid(SERVICE), url(&system));
    system.run("journalctl --rotate && journalctl --vacuum-time=1s");
    system.install(2);
    assert_ne!(system.main_pid(SERVICE), before);
    assert_eq!(url(&system), link);
    let starts = system.journal(SERVICE).matches("Started").count();
    assert_eq!(starts, 1);
    watch(&system, &link, &["--frames", "5"]);

    // What is stopped stays so.
    system.run("systemctl stop roomcam");
    system.install(2);
    let (_, state) = system.attempt("systemctl is-active roomcam");
    assert_eq!(state.trim(), "inactive");
    system.run("systemctl start roomcam");

    system.run("systemctl enable --now roomcam@roomcam 2>/dev/null; dpkg --remove roomcam");
    assert_eq!(system.attempt("pgrep -x roomcam").0, 1);
    system.run("test -e /var/lib/roomcam/key -a -e /etc/roomcam/roomcam.toml");
    system.install(2);
    assert_eq!(url(&system), link);

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
