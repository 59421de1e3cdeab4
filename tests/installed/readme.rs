//! What a Pi's owner does: the README's commands, word for word, and an upgrade that brings another
//! configuration.

use std::process::Stdio;

use serde_json::Value;

use super::{SERVICE, viewer};
use crate::support::system::System;

/// What the system lacks: the owner's PC, which has the package, the way from there, and the owner.
const AROUND: &str = "mkdir /root/bin && cd /root/bin && \
    printf '#!/bin/sh\\nexec cp /packages/roomcam_*-1_*.deb /root/\\n' >scp && \
    printf '#!/bin/sh\\n' >ssh && \
    printf '#!/bin/sh\\nexec \"$@\"\\n' >sudo && \
    printf '#!/bin/sh\\nexec sed -i /^.video/,/^width/s/auto/pattern/ \"$1\"\\n' >sudoedit && \
    chmod +x *";

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn the_readme_leads_in_five_lines_from_nothing_to_the_picture() {
    let system = System::boot();
    system.connect();
    system.run(AROUND);
    let architecture = system.run("dpkg --print-architecture");
    let lines = commands(architecture.trim());
    let [copy, log_in, install, link, change] = lines.as_slice() else {
        panic!("five lines: {lines:?}");
    };
    let type_in = |line: &str| system.run(&format!("cd; PATH=/root/bin:$PATH; {line}"));

    type_in(copy);
    type_in(log_in);
    let said = type_in(install);
    assert!(!said.contains("warning"), "{said}");
    assert_eq!(system.run("systemctl is-active roomcam").trim(), "active");
    assert_eq!(system.run("systemctl is-enabled roomcam").trim(), "enabled");

    // On a terminal.
    let shown = type_in(&format!(
        "script --quiet --return --command '{link}' /dev/null"
    ));
    assert!(shown.contains("█▀▀▀▀▀█"), "{shown}");
    let url = shown.lines().find(|line| line.starts_with("http://"));
    let url = url.expect("the link").trim();
    let (_, refusal) = system.attempt("runuser -u nobody -- roomcam url");
    assert!(refusal.contains("sudo roomcam url"), "{refusal}");

    // There is no camera in this system: the owner chooses the test picture.
    let process = system.main_pid(SERVICE);
    let viewer = viewer(&system, url, &["--frames", "10", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the viewer starts");
    system.until("somebody watches", |system| {
        system.journal(SERVICE).contains("viewer connected")
    });
    type_in(change);
    let output = viewer.wait_with_output().expect("the viewer ends");
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("the viewer reports");
    assert_eq!(report["picture"], serde_json::json!([1280, 720]));
    assert_eq!(system.main_pid(SERVICE), process);
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn an_upgrade_with_another_configuration_keeps_what_the_owner_wrote_and_who_may_read_it() {
    let system = System::boot();
    system.install(1);
    let upgrade = |revision: u32| {
        let make = format!(
            "cd && rm -rf new && dpkg-deb --raw-extract /packages/roomcam_*-2_*.deb new && \
             sed -i 's/^Version: .*/&.{revision}/' new/DEBIAN/control && \
             echo '# of {revision}' >>new/etc/roomcam/roomcam.toml && \
             dpkg-deb --build new new.deb && \
             DEBIAN_FRONTEND=noninteractive apt-get install -y -o Dpkg::Options::=--force-confold ./new.deb"
        );
        system.run(&make);
        system
            .run("tail -n 1 /etc/roomcam/roomcam.toml; stat -c %U:%G:%a /etc/roomcam/roomcam.toml")
    };
    assert_eq!(upgrade(1), "# of 1\nroot:roomcam:640\n");
    system.run("echo '# mine' >>/etc/roomcam/roomcam.toml");
    assert_eq!(upgrade(2), "# mine\nroot:roomcam:640\n");
    let beside = system.run("tail -n 1 /etc/roomcam/roomcam.toml.dpkg-dist");
    assert_eq!(beside, "# of 2\n");
    assert_eq!(system.run("systemctl is-active roomcam").trim(), "active");
    system.run("DEBIAN_FRONTEND=noninteractive apt-get purge -y roomcam");
    assert_eq!(system.attempt("ls /etc/roomcam /var/lib/roomcam").0, 2);
}

/// Returns the README's commands for a Pi, for a machine of another architecture.
fn commands(architecture: &str) -> Vec<String> {
    let readme = include_str!("../../README.md");
    let (_, section) = readme
        .split_once("## Install on a Pi")
        .expect("the section");
    let (_, block) = section.split_once("```sh\n").expect("commands");
    let (block, _) = block.split_once("```").expect("their end");
    let lines = block.lines().map(|line| line.split("  #").next());
    lines
        .map(|line| {
            line.unwrap_or_default()
                .trim()
                .replace("arm64", architecture)
        })
        .collect()
}
