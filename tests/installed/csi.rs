//! A CSI camera of the installed service, in a booted system: a program that stands in for `rpicam-vid`, and asks
//! of the kernel what libcamera asks, runs in the sandbox of the unit.

use std::time::Duration;

use roomcam::clock;
use roomcam::watch::protocol::Command as Control;
use roomcam::watch::viewer::Viewer;

use super::doctor::doctor;
use super::{SERVICE, url, watch};
use crate::doctoring::finding;
use crate::guest;
use crate::support::system::System;

/// What stands in for it.
pub(crate) const PROGRAM: &str = include_str!("../system/rpicam-vid");

/// A width without padding, and a size that an unoptimized program encodes in time.
const CSI: &str = "[video]\nsource = \"csi\"\nwidth = 256\nheight = 128\nfps = 10\n\
                   [audio]\nsource = \"tone\"\n\
                   [server]\nlisten = \"0.0.0.0:8080\"\n[webrtc]\nudp_port = 8080\n";

const LIVE: &str =
    "camera live camera=\"CSI camera 0 by rpicam-vid 256x128 at 10 fps, encoded by OpenH264\"";

fn with_csi_camera() -> System {
    let system = System::with_service();
    system.write("/usr/bin/rpicam-vid", PROGRAM, "755");
    system.configure("roomcam", CSI);
    system.run("chgrp roomcam /etc/roomcam/roomcam.toml && chmod 640 /etc/roomcam/roomcam.toml");
    system.run("systemctl restart roomcam");
    system
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn a_csi_camera_is_seen_through_the_sandbox_of_the_unit() {
    let system = with_csi_camera();
    let report = watch(&system, &url(&system), &["--frames", "20"]);
    assert_eq!(report["picture"], serde_json::json!([256, 128]));
    assert_eq!(report["device"]["video"], "live");
    let journal = system.journal(SERVICE);
    assert!(journal.contains(LIVE), "{journal}");
    // What it says is in the journal, and it has nothing to complain of but what it always has.
    let complaints: Vec<&str> = journal
        .lines()
        .filter(|line| line.contains("complained"))
        .collect();
    assert!(!complaints.is_empty(), "{journal}");
    assert!(
        complaints
            .iter()
            .all(|line| line.contains("Using legacy SDN tuning")),
        "{complaints:#?}"
    );
    let main = system.main_pid(SERVICE);
    system.do_outside(async {
        let mut viewer = guest::join_at(&url(&system)).await;
        live(&mut viewer).await;
        it_is_as_confined_as_the_service(&system, &process(&system));
        let process = process(&system);
        the_doctor_leaves_it_alone(&system, &main, &process);
        guest::until_more_frames(&mut viewer).await;
        assert_eq!(self::process(&system), process);

        it_ends_when_the_camera_is_switched_off(&system, &mut viewer).await;
        one_that_crashes_is_started_again(&system, &mut viewer).await;
        assert_eq!(system.main_pid(SERVICE), main, "the daemon stays");

        // It ends with the service, in an orderly way.
        let start = clock::now();
        system.run("systemctl stop roomcam");
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{:?}",
            start.elapsed()
        );
        viewer.leave().await;
    });
    assert_gone(&system);
    let journal = system.journal(SERVICE);
    let (_, after) = journal
        .rsplit_once("roomcam::daemon: stopping")
        .expect("it says so");
    assert!(
        !after.contains("complained") && !after.contains("left-over"),
        "{after}"
    );
    assert!(after.contains("Deactivated successfully"), "{after}");
}

fn it_is_as_confined_as_the_service(system: &System, process: &str) {
    let status = system.run(&format!("cat /proc/{process}/status"));
    for line in ["CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{status}");
    }
    let user = system.run(&format!("ps -o user= -p {process}"));
    assert_eq!(user.trim(), "roomcam");
    let group = system.run(&format!("cat /proc/{process}/cgroup"));
    assert!(group.trim().ends_with("/roomcam.service"), "{group}");
    // It is ended before the service is, and the service goes on.
    let score = system.run(&format!("cat /proc/{process}/oom_score_adj"));
    assert_eq!(score.trim(), "1000");
    let policy = system.run("systemctl show --property=OOMPolicy --value roomcam");
    assert_eq!(policy.trim(), "continue");
}

fn the_doctor_leaves_it_alone(system: &System, main: &str, process: &str) {
    let (code, report) = doctor(system, "roomcam doctor");
    let camera = finding(&report, "camera");
    let holder = format!("rpicam-vid (pid {process}) of roomcam (pid {main})");
    let expected = format!("csi is in use by the running service: {holder}.");
    assert_eq!(camera, ["ok", &expected, ""]);
    assert_eq!(code, 0, "{report:#}");
}

async fn it_ends_when_the_camera_is_switched_off(system: &System, viewer: &mut Viewer) {
    viewer.command(Control::SetCamera { on: false }).await;
    assert_gone(system);
    viewer.command(Control::SetCamera { on: true }).await;
    live(viewer).await;
    guest::until_more_frames(viewer).await;
}

async fn one_that_crashes_is_started_again(system: &System, viewer: &mut Viewer) {
    let before = process(system);
    system.run(&format!("kill -SEGV {before}"));
    system.until("another one runs", |system| {
        let (status, now) = system.attempt("pgrep -x rpicam-vid");
        status == 0 && now.trim() != before
    });
    live(viewer).await;
    guest::until_more_frames(viewer).await;
    let journal = system.journal(SERVICE);
    assert!(
        journal.contains("rpicam-vid ended (signal: 11"),
        "{journal}"
    );
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn a_csi_camera_ends_with_a_service_that_dies_and_is_back_with_it() {
    let system = with_csi_camera();
    let link = url(&system);
    let before = system.main_pid(SERVICE);
    system.do_outside(async {
        let mut viewer = guest::join_at(&link).await;
        live(&mut viewer).await;
        let process = process(&system);
        system.run(&format!("kill -KILL {before}"));
        system.until("its program is gone", |system| {
            system.attempt(&format!("test -e /proc/{process}")).0 != 0
        });
        viewer.leave().await;
    });
    system.wait_for_another(SERVICE, &before);
    watch(&system, &url(&system), &["--frames", "5"]);
}

async fn live(viewer: &mut Viewer) {
    let is_live = |seen: &_| guest::state(seen).is_some_and(|state| state.video == "live");
    guest::until(viewer, "sees the camera", is_live).await;
    guest::until_more_frames(viewer).await;
}

/// Returns the process of the camera program.
fn process(system: &System) -> String {
    let processes = system.run("pgrep -x rpicam-vid");
    assert_eq!(processes.lines().count(), 1, "{processes}");
    processes.trim().to_owned()
}

/// Waits until there is none, not even one that nobody has reaped.
fn assert_gone(system: &System) {
    system.until("it is gone and reaped", |system| {
        system.attempt("pgrep -x rpicam-vid").0 == 1
    });
}
