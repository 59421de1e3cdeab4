//! The package for 64-bit Raspberry Pi OS in a booted one: installed, watched from outside, killed,
//! rebooted. All of it is emulated but the viewer.
//!
//! The camera and the sound card are drivers of that kernel (`vivid`, `snd-aloop`), the sandbox is that of
//! its systemd. What `installed` shows on this machine's own architecture is not shown again.

use std::process::Command;

use serde_json::Value;

use crate::doctoring::finding;
use crate::support::emulated::{self, Emulated, printed, script};

/// The oldest release that the package is for: glibc 2.31, systemd 247, Linux 5.10.
const OLDEST: &str = "bullseye";
/// And the newest: glibc 2.41, systemd 257, Linux 6.12.
const NEWEST: &str = "trixie";

/// From the death of the process to the next one, in the unit's own words `RestartSec=1`. How soon that
/// is ready is shown by `installed`: an emulated processor takes seconds for what takes others a tenth.
const BACK_WITHIN_US: u64 = 3_000_000;

/// An emulated processor with other work to do may take longer than a viewer waits for a first picture.
const ATTEMPTS: usize = 3;

#[test]
#[ignore = "needs an emulated system: scripts/test-aarch64"]
fn the_installed_service_is_seen_and_heard_on_the_oldest_system() {
    is_seen_and_heard_after_installation_death_and_reboot(OLDEST);
}

#[test]
#[ignore = "needs an emulated system: scripts/test-aarch64"]
fn the_installed_service_is_seen_and_heard_on_the_newest_system() {
    is_seen_and_heard_after_installation_death_and_reboot(NEWEST);
}

fn is_seen_and_heard_after_installation_death_and_reboot(suite: &str) {
    let mut machine = Emulated::boot(suite);
    assert_eq!(machine.run("uname -m"), "aarch64");
    machine.run("apt-get install --yes --quiet --quiet /packages/roomcam_*_arm64.deb");
    assert_eq!(machine.run("systemctl is-active roomcam"), "active");
    assert_eq!(machine.run("systemctl is-enabled roomcam"), "enabled");
    assert_eq!(journal(&mut machine, "warning"), "");
    the_sandbox_is_that_of_newer_systems(&mut machine);

    // What a Pi has from its start: it comes after the service.
    machine.write(
        "/etc/modprobe.d/camera.conf",
        "options vivid n_devs=1 node_types=0x1 num_inputs=1 input_types=0 vid_cap_nr=0",
    );
    machine.write("/etc/modules-load.d/camera.conf", "vivid\nsnd-aloop\n");
    machine.run("systemctl restart systemd-modules-load && udevadm settle");
    let port = machine.media_port();
    machine.write(
        "/etc/roomcam/roomcam.toml",
        &format!(
            "[video]\nwidth = 320\nheight = 180\nfps = 15\n\
             [audio]\nsource = \"plughw:CARD=Loopback\"\n\
             [server]\nlisten = \"0.0.0.0:8080\"\n\
             [webrtc]\nudp_port = {port}\nadvertised_addresses = [\"127.0.0.1\"]\n"
        ),
    );
    machine.run("systemctl restart roomcam");
    let link = is_seen_and_heard(&mut machine);
    let log = journal(&mut machine, "info");
    assert!(log.contains("camera live camera=\"vivid"), "{log}");
    assert!(log.contains("sound is live source=plughw"), "{log}");
    assert_eq!(opens(&mut machine, "video0"), 0);
    assert_ne!(opens(&mut machine, "kmsg"), 0);
    is_built_with_its_assembly_and_well(&mut machine);

    machine.run(
        "sed --in-place 's/fps = 15/fps = 10/' /etc/roomcam/roomcam.toml; systemctl reload roomcam",
    );
    machine.until_it_succeeds("journalctl --unit=roomcam | grep 'configuration read again'");

    let took = time_to_return(&mut machine);
    assert!(took < BACK_WITHIN_US, "{took} µs");
    is_seen_and_heard(&mut machine);

    machine.reboot();
    assert_eq!(machine.run("systemctl is-active roomcam"), "active");
    assert_eq!(is_seen_and_heard(&mut machine), link);
}

/// The encoder that is in the package uses NEON, and the doctor finds the service and its devices well.
fn is_built_with_its_assembly_and_well(machine: &mut Emulated) {
    let listing: Value =
        serde_json::from_str(&machine.run("roomcam devices --json")).expect("JSON");
    let encoders = listing["encoders"].as_array().expect("a list");
    let software = encoders.last().expect("OpenH264");
    assert!(software["problem"].is_null(), "{software}");
    let report = machine.run("roomcam doctor --json || true");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    for check in ["service", "video access", "audio access", "camera", "page"] {
        assert_eq!(finding(&report, check)[0], "ok", "{report:#}");
    }
}

/// All of the unit is understood, and means the same.
fn the_sandbox_is_that_of_newer_systems(machine: &mut Emulated) {
    let verified = machine.run("systemd-analyze verify --man=no roomcam.service roomcam@.service");
    assert_eq!(verified, "");
    let table = machine.run("systemd-analyze security --no-pager roomcam.service");
    let exposure = table.rsplit("roomcam.service: ").next();
    let exposure = exposure.and_then(|words| words.split_whitespace().next()?.parse::<f32>().ok());
    assert!(exposure <= Some(2.0) && exposure.is_some(), "{table}");

    let status =
        machine.run("cat /proc/$(systemctl show --property=MainPID --value roomcam)/status");
    let line = |name: &str| status.lines().find(|line| line.starts_with(name));
    assert_eq!(line("CapBnd"), Some("CapBnd:\t0000000000000000"));
    assert_eq!(line("NoNewPrivs"), Some("NoNewPrivs:\t1"));
    assert_eq!(line("Seccomp:"), Some("Seccomp:\t2"));
    let limits =
        machine.run("cd /sys/fs/cgroup/system.slice/roomcam.service && cat memory.max pids.max");
    assert_eq!(limits, "268435456\n64");
}

/// Watches from outside; returns the link to the page, as the administrator gets it.
fn is_seen_and_heard(machine: &mut Emulated) -> String {
    let inside = machine.until_it_succeeds("roomcam url | grep 10.0.2.15");
    let url = machine.seen_from_outside(&inside);
    let program = env!("CARGO_BIN_EXE_roomcam");
    let mut arguments = vec!["60", program, "watch", &url];
    arguments.extend(["--frames", "30", "--json"]);
    let mut attempts = (0..ATTEMPTS).map(|_| {
        let output = Command::new("timeout").args(&arguments).output();
        output.expect("the viewer starts")
    });
    let output = attempts.find(|output| output.status.success());
    let output = output.expect("it reports");
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(report["picture"], serde_json::json!([320, 180]));
    assert_eq!(report["device"]["video"], "live", "{report}");
    assert_eq!(report["device"]["audio"], "live", "{report}");
    assert!(report["audio_packets"].as_u64() > Some(10), "{report}");
    inside
}

/// Kills the service; returns how long there was no process, in microseconds of the machine's own clock.
fn time_to_return(machine: &mut Emulated) -> u64 {
    let show = "systemctl show --value --property";
    let before = machine.run(&format!("{show}=MainPID roomcam"));
    machine.run(&format!("kill -KILL {before}"));
    machine.until_it_succeeds(&format!(
        "systemctl is-active roomcam && [ $({show}=MainPID roomcam) != {before} ]"
    ));
    let mut time = |property: &str| {
        let value = machine.run(&format!("{show}={property} roomcam"));
        value.parse::<u64>().expect("a number of microseconds")
    };
    time("ExecMainStartTimestampMonotonic") - time("ActiveExitTimestampMonotonic")
}

/// Returns the status of opening this device as a process of the service.
fn opens(machine: &mut Emulated, device: &str) -> i32 {
    let group = "/sys/fs/cgroup/system.slice/roomcam.service/cgroup.procs";
    let command = format!("sh -c 'echo $$ >{group} && head -c 0 /dev/{device}'");
    machine.attempt(&command).0
}

/// Returns what the service, and systemd of it, logged since the boot.
fn journal(machine: &mut Emulated, priority: &str) -> String {
    machine.run(&format!(
        "journalctl --no-pager --quiet --output=cat --boot --unit=roomcam --priority={priority}"
    ))
}

#[test]
#[ignore = "needs a package for arm64: scripts/test-aarch64"]
fn the_package_for_arm64_needs_what_the_oldest_system_has() {
    let package = emulated::package();
    let field = |name: &str| {
        printed(
            Command::new("dpkg-deb")
                .arg("--field")
                .arg(&package)
                .arg(name),
        )
    };
    assert_eq!(field("Architecture"), "arm64");
    assert_eq!(
        field("Depends"),
        "libasound2 (>= 1.2.4), libc6 (>= 2.31), libstdc++6, procps, systemd | systemd-sysusers"
    );
    assert_eq!(printed(Command::new("lintian").arg(&package)), "");

    let unpacked = tempfile::tempdir().expect("the temporary directory is writable");
    printed(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([&package, unpacked.path()]),
    );
    let program = unpacked.path().join("usr/bin/roomcam");
    printed(
        script("scripts/check-symbols")
            .arg(&program)
            .args(["2.31", "3.4.28"]),
    );
}

#[test]
#[ignore = "needs a package for arm64: scripts/test-aarch64"]
fn the_package_for_arm64_is_installable_on_each_release() {
    for suite in [OLDEST, "bookworm", NEWEST] {
        let plan = printed(
            script("tests/emulated/plan")
                .arg(suite)
                .arg(emulated::package()),
        );
        assert!(plan.contains("Inst roomcam "), "{suite}: {plan}");
    }
}
