//! `roomcam doctor` beside the installed service, as root and as somebody who may read nothing of it.

use serde_json::Value;

use super::{SERVICE, url};
use crate::doctoring::finding;
use crate::guest;
use crate::support::system::System;

/// Somebody, by a command that needs no more than they have.
const SOMEBODY: &str = "runuser -u nobody -- roomcam doctor";

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn the_doctor_asks_the_running_service_and_works_for_everybody() {
    let system = System::with_service();
    system.run("chgrp roomcam /etc/roomcam/roomcam.toml && chmod 640 /etc/roomcam/roomcam.toml");
    url(&system);
    let process = system.main_pid(SERVICE);
    let (code, report) = doctor(&system, "roomcam doctor");
    assert_eq!(code, 0, "{report:#}");
    for (check, said) in [
        ("configuration", "/etc/roomcam/roomcam.toml is valid."),
        (
            "service",
            "roomcam.service runs (in the room, nobody watches).",
        ),
        ("camera", "test picture"),
        ("microphone", "dB at its loudest"),
        ("page", "served at 0.0.0.0:8080 by roomcam."),
        ("media port", "UDP 8080 is in use by roomcam (pid "),
    ] {
        let [level, text, _] = finding(&report, check);
        assert!(level == "ok" && text.contains(said), "{check}: {text}");
    }
    let key = system.run("cat /var/lib/roomcam/key");
    assert!(!report.to_string().contains(key.trim()));

    let (code, report) = doctor(&system, SOMEBODY);
    assert_eq!(code, 0, "{report:#}");
    let [level, text, remedy] = finding(&report, "configuration");
    assert_eq!((level, remedy), ("warning", "sudo roomcam doctor"));
    assert!(text.contains("Permission denied"), "{text}");
    assert_eq!(finding(&report, "service")[0], "ok");
    let system_and_service = report["findings"].as_array().map(Vec::len);
    assert!(
        system_and_service < Some(12),
        "nothing is opened: {report:#}"
    );
    assert_eq!(system.main_pid(SERVICE), process);

    // What does not run may work; whether it does, only root can tell.
    system.run("systemctl stop roomcam");
    let (code, report) = doctor(&system, "roomcam doctor");
    assert_eq!(code, 0, "{report:#}");
    let remedy = "sudo systemctl start roomcam.service";
    assert_eq!(finding(&report, "service")[2], remedy);
    assert_eq!(finding(&report, "page")[1], "0.0.0.0:8080 is free for it.");
    let (code, report) = doctor(&system, SOMEBODY);
    assert_eq!(code, 1, "{report:#}");
    assert_eq!(finding(&report, "configuration")[0], "error");
    // There is no sudo here, and root needs none.
    system.run(remedy.trim_start_matches("sudo "));
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn a_service_that_waits_for_its_camera_does_not_work_whoever_asks() {
    let system = System::with_service();
    let config = system.run("sed 's/\"pattern\"/\"\\/dev\\/video0\"/' /etc/roomcam/roomcam.toml");
    system.configure("roomcam", &config);
    system.run("chgrp roomcam /etc/roomcam/roomcam.toml && chmod 640 /etc/roomcam/roomcam.toml");
    system.run("systemctl restart roomcam");
    let link = url(&system);
    system.do_outside(async {
        let mut viewer = guest::join_at(&link).await;
        guest::until_waiting(&mut viewer).await;
        system.until_it_succeeds(
            "systemctl show --property=StatusText roomcam | grep 'waiting for camera'",
        );
        let (code, report) = doctor(&system, SOMEBODY);
        assert_eq!(code, 1, "{report:#}");
        let [level, text, remedy] = finding(&report, "service");
        assert_eq!(level, "error");
        assert!(text.contains("/dev/video0 is not present"), "{text}");
        assert_eq!(remedy, "sudo journalctl -u roomcam.service -n 20");
        let (code, report) = doctor(&system, "roomcam doctor");
        assert_eq!(code, 1, "{report:#}");
        let missing = [
            "error",
            "camera /dev/video0 is not present.",
            "roomcam devices",
        ];
        assert_eq!(finding(&report, "camera"), missing);
        let [_, text, _] = finding(&report, "video access");
        assert!(text.starts_with("there is no /dev/video*"), "{text}");
        viewer.leave().await;
    });
}

/// Runs it in the system; returns its exit code and its report.
pub(super) fn doctor(system: &System, command: &str) -> (i32, Value) {
    let (code, output) = system.attempt(&format!("{command} --json"));
    let report = serde_json::from_str(&output);
    (
        code,
        report.unwrap_or_else(|error| panic!("{error}: {output}")),
    )
}
