//! The installed service in an emulated machine, which has a kernel, a camera and a sound card of its
//! own: drivers that come and go, limits of memory, tasks and devices that a container does not have.
//!
//! It is watched from outside, by the machine that emulates it. Booting takes most of the time, so there
//! is one machine for all of it.

use std::time::{Duration, Instant};

use roomcam::clock;
use roomcam::watch::seen::Seen;
use roomcam::watch::viewer::Viewer;

use crate::guest::{self, BACK_WITHIN, VIVID};
use crate::support::guest::{Guest, PATIENCE};
use crate::support::system;

/// From a camera's last picture to another process, where opening the camera again does not help: 20 s
/// until that is known, 10 s of systemd's patience, and what it takes to end and to start.
const RESTARTED_WITHIN: Duration = Duration::from_secs(60);

/// How long nothing must happen where a restart has not helped either.
const LEFT_ALONE_FOR: Duration = Duration::from_secs(50);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the guest: scripts/test"]
async fn a_machine_with_a_camera_is_seen_and_heard_from_outside_whatever_becomes_of_the_camera() {
    let mut machine = system::emulate().await;
    it_runs_without_network_and_devices(&mut machine);
    let url = connect(&mut machine);
    plug_in(&mut machine);
    let mut viewer = guest::join_at(&url).await;
    it_is_seen_and_heard(&mut machine, &mut viewer).await;
    a_camera_that_falls_silent_is_opened_again(&mut machine, &mut viewer).await;
    a_camera_that_is_unplugged_is_waited_for(&mut machine, &mut viewer).await;
    viewer.leave().await;
    one_that_stays_silent_gets_a_new_process_and_no_third_one(&mut machine, &url).await;
    it_opens_its_devices_and_nothing_else(&mut machine);
    it_gets_no_more_than_its_share(&mut machine);
    a_csi_camera_that_eats_memory_is_ended_alone(&mut machine, &url).await;
    it_stops_in_time(&mut machine, &url).await;
}

fn it_runs_without_network_and_devices(machine: &mut Guest) {
    machine.run_until_it_succeeds("systemctl is-active roomcam");
    let addresses = machine.run("ip -4 -oneline address show scope global");
    assert_eq!(addresses, "");
    let (_, drivers) = machine.attempt("grep -E 'alsa|video4linux' /proc/devices");
    assert_eq!(drivers, "", "no driver is loaded");
    until_status(machine, "in the room, nobody watches");
}

/// Plugs in the network cable; returns the link to the page.
fn connect(machine: &mut Guest) -> String {
    // udev gives it another name, a moment later.
    machine.run("modprobe virtio_net && udevadm settle");
    let interface = machine.run_until_it_succeeds("ls /sys/class/net | grep -v lo");
    let interface = interface.trim();
    machine.run(&format!(
        "ip link set {interface} up && ip address add 10.0.2.15/24 dev {interface}"
    ));
    let config = format!(
        "[video]\\nwidth = 320\\nheight = 180\\nfps = 15\\n\
         [audio]\\nsource = \"plughw:CARD=Loopback\"\\n\
         [server]\\nlisten = \"0.0.0.0:8080\"\\n\
         [webrtc]\\nudp_port = {}\\nadvertised_addresses = [\"127.0.0.1\"]\\n",
        machine.media_port()
    );
    machine.run(&format!(
        "printf '%b' '{config}' >/etc/roomcam/roomcam.toml && systemctl restart roomcam"
    ));
    until_status(machine, "in the room, nobody watches");
    let key = machine.run("cat /var/lib/roomcam/key");
    machine.url_with(key.trim())
}

/// Plugs in a camera and a sound card, in which a tone is heard.
fn plug_in(machine: &mut Guest) {
    machine.run(&format!(
        "modprobe {VIVID} && modprobe snd-aloop && udevadm settle"
    ));
    let groups = machine.run("stat -c %G /dev/video0 /dev/snd/controlC0");
    assert_eq!(groups, "video\naudio\n");
    machine.run(
        "chroot /guest speaker-test -D hw:Loopback,1 -r 48000 -c 2 -t sine -f 440 >/run/tone 2>&1 &",
    );
}

async fn it_is_seen_and_heard(machine: &mut Guest, viewer: &mut Viewer) {
    let seen = guest::until(viewer, "sees and hears", |seen| {
        seen.counts.frames >= 30 && seen.counts.audio_packets >= 100
    })
    .await;
    // A tone, not silence: Opus says silence in a few bytes.
    let bytes_a_packet = seen.counts.audio_bytes / seen.counts.audio_packets;
    assert!(bytes_a_packet > 20, "{bytes_a_packet}");
    until_logged(
        machine,
        "camera live camera=\"vivid YUYV 320x180 at 15 fps, encoded by OpenH264\"",
    );
    until_logged(machine, "sound is live source=plughw:CARD=Loopback");
    until_status(machine, "in the room, 1 viewer");
    // Of a driver that was loaded after the service was started.
    machine.run(&inside("head -c 0 /dev/media0"));
}

async fn a_camera_that_falls_silent_is_opened_again(machine: &mut Guest, viewer: &mut Viewer) {
    let before = main_pid(machine);
    silence(machine, true);
    until_logged(
        machine,
        "waiting for camera reason=\"camera /dev/video0 delivered no frame for 5s\"",
    );
    until_status(
        machine,
        "in the room, 1 viewer, waiting for camera: /dev/video0 delivered no frame for 5s",
    );
    let heard = viewer.seen().counts.audio_packets;
    silence(machine, false);
    sees_again_within(viewer, BACK_WITHIN).await;
    assert!(viewer.seen().counts.audio_packets > heard, "sound went on");
    assert_eq!(main_pid(machine), before);
}

async fn a_camera_that_is_unplugged_is_waited_for(machine: &mut Guest, viewer: &mut Viewer) {
    let before = main_pid(machine);
    machine.run("echo vivid.0 >/sys/bus/platform/drivers/vivid/unbind");
    until_logged(machine, "waiting for camera reason=\"no camera was found");
    until_status(machine, "in the room, 1 viewer, waiting for camera");
    // Longer than a camera that falls silent gets before the process is given up.
    tokio::time::sleep(RESTARTED_WITHIN - Duration::from_secs(20)).await;
    assert_eq!(main_pid(machine), before, "nobody is restarted for that");
    machine.run("echo vivid.0 >/sys/bus/platform/drivers/vivid/bind");
    sees_again_within(viewer, BACK_WITHIN).await;
}

async fn one_that_stays_silent_gets_a_new_process_and_no_third_one(machine: &mut Guest, url: &str) {
    let mut viewer = guest::join_at(url).await;
    guest::until_more_frames(&mut viewer).await;
    let before = main_pid(machine);
    silence(machine, true);
    let silent = clock::now();
    until_logged(
        machine,
        "delivers nothing though it was opened again, waiting for a restart what=\"camera\"",
    );
    let after = until_another(machine, &before);
    let took = silent.elapsed();
    assert!(took < RESTARTED_WITHIN, "{took:?}");
    assert!(journal(machine).contains("Watchdog timeout"));
    viewer.leave().await;

    // What a new process does not mend, it does not end for either: there is sound.
    let mut viewer = guest::join_at(url).await;
    guest::until_waiting(&mut viewer).await;
    let end = clock::now() + LEFT_ALONE_FOR;
    guest::until(&mut viewer, "hears", |seen| {
        seen.counts.audio_packets >= 100
    })
    .await;
    tokio::time::sleep_until(end.into()).await;
    assert_eq!(main_pid(machine), after);
    silence(machine, false);
    sees_again_within(&mut viewer, BACK_WITHIN).await;
    viewer.leave().await;
}

fn it_opens_its_devices_and_nothing_else(machine: &mut Guest) {
    let mut may_open = |device: &str| {
        let open = inside(&format!("head -c 0 {device}"));
        machine.attempt(&open).0 == 0
    };
    assert!(may_open("/dev/video0"));
    assert!(may_open("/dev/snd/controlC0"));
    assert!(!may_open("/dev/kmsg"));
    assert!(!may_open("/dev/mem"));
}

fn it_gets_no_more_than_its_share(machine: &mut Guest) {
    let group = "/sys/fs/cgroup/system.slice/roomcam.service";
    machine.attempt(&inside("for i in $(seq 99); do sleep 60 & done"));
    let tasks: u32 = number(&machine.run(&format!("cat {group}/pids.current")));
    assert!((10..=64).contains(&tasks), "{tasks}");
    machine.run(&format!("grep -v 'max 0' {group}/pids.events"));
    machine.attempt("pkill -x sleep");

    // Whoever eats the memory ends, and the service goes on.
    let before = main_pid(machine);
    let limit: u64 = number(&machine.run(&format!("cat {group}/memory.max")));
    assert_eq!(limit, 256 << 20);
    machine.attempt(&inside("exec tail /dev/zero"));
    assert!(killed_for_memory(machine) > 0);
    assert_eq!(main_pid(machine), before);
    assert_eq!(machine.run("systemctl is-active roomcam").trim(), "active");
}

async fn a_csi_camera_that_eats_memory_is_ended_alone(machine: &mut Guest, url: &str) {
    let config = "/etc/roomcam/roomcam.toml";
    machine.run(&format!(
        "cp {config} {config}.vivid && sed -i '2i source = \"csi\"' {config} && \
         sed -i 's/^width.*/width = 128/; s/^height.*/height = 64/; s/^fps.*/fps = 5/' {config} && \
         systemctl reload roomcam"
    ));
    let mut viewer = guest::join_at(url).await;
    let is_live = |seen: &Seen| guest::state(seen).is_some_and(|state| state.video == "live");
    guest::until(&mut viewer, "sees it", is_live).await;
    until_logged(
        machine,
        "camera live camera=\"CSI camera 0 by rpicam-vid 128x64 at 5 fps, encoded by OpenH264\"",
    );
    // Devices and memory of the kernel's own, through the sandbox.
    machine.run("test -e /dev/media0 && test -e /dev/video0");
    until_logged(machine, "line=\"WARN got memory of /dev/dma_heap/system\"");
    let (before, killed) = (main_pid(machine), killed_for_memory(machine));
    machine.run("touch /etc/roomcam/hog && kill $(pgrep -x rpicam-vid)");
    let deadline = clock::now() + PATIENCE;
    while killed_for_memory(machine) == killed {
        pause(deadline, "a process that is ended for its memory");
    }
    until_logged(machine, "rpicam-vid ended (signal: 9 (SIGKILL))");
    let heard = viewer.seen().counts.audio_packets;
    guest::until(&mut viewer, "hears on", |seen| {
        seen.counts.audio_packets > heard + 20
    })
    .await;
    machine.run("rm /etc/roomcam/hog");
    guest::until(&mut viewer, "sees it again", is_live).await;
    assert_eq!(main_pid(machine), before);
    viewer.leave().await;
    machine.run(&format!(
        "mv {config}.vivid {config} && systemctl reload roomcam"
    ));
}

/// Returns how many processes of the service the kernel has ended for lack of memory.
fn killed_for_memory(machine: &mut Guest) -> u64 {
    let group = "/sys/fs/cgroup/system.slice/roomcam.service";
    number(&machine.run(&format!("sed -n 's/^oom_kill //p' {group}/memory.events")))
}

async fn it_stops_in_time(machine: &mut Guest, url: &str) {
    let mut viewer = guest::join_at(url).await;
    guest::until_more_frames(&mut viewer).await;
    let start = clock::now();
    machine.run("systemctl stop roomcam");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    until_logged(machine, "Deactivated successfully");
    guest::until(&mut viewer, "is told", |seen| {
        seen.connection == roomcam::watch::seen::Connection::Closed
    })
    .await;
    viewer.leave().await;
}

/// Has the camera deliver nothing, or everything again.
fn silence(machine: &mut Guest, on: bool) {
    let percent = if on { 100 } else { 0 };
    machine.run(&format!(
        "chroot /guest v4l2-ctl -d /dev/video0 -c percentage_of_dropped_buffers={percent}"
    ));
}

async fn sees_again_within(viewer: &mut Viewer, limit: Duration) {
    let start = clock::now();
    guest::until_more_frames(viewer).await;
    let took = start.elapsed();
    assert!(took < limit, "{took:?}");
}

/// Returns a shell command that runs `command` as if the service did.
fn inside(command: &str) -> String {
    let group = "/sys/fs/cgroup/system.slice/roomcam.service/cgroup.procs";
    format!("sh -c 'echo $$ >{group}; {command}'")
}

fn main_pid(machine: &mut Guest) -> String {
    let pid = machine.run("systemctl show --property=MainPID --value roomcam");
    pid.trim().to_owned()
}

/// Waits until the service is up with another process than `before`; returns which.
fn until_another(machine: &mut Guest, before: &str) -> String {
    let deadline = clock::now() + PATIENCE;
    loop {
        let pid = main_pid(machine);
        if pid != before && machine.attempt("systemctl is-active roomcam").0 == 0 {
            return pid;
        }
        pause(deadline, "another process");
    }
}

fn journal(machine: &mut Guest) -> String {
    machine.run("journalctl --unit=roomcam --no-pager --output=cat")
}

fn until_logged(machine: &mut Guest, line: &str) {
    let deadline = clock::now() + PATIENCE;
    while !journal(machine).contains(line) {
        pause(deadline, line);
    }
}

fn until_status(machine: &mut Guest, text: &str) {
    let deadline = clock::now() + PATIENCE;
    loop {
        let status = machine.run("systemctl show --property=StatusText --value roomcam");
        if status.starts_with(text) {
            return;
        }
        pause(deadline, &format!("{text:?} but {status:?}"));
    }
}

fn pause(deadline: Instant, what: &str) {
    assert!(clock::now() < deadline, "never: {what}");
    std::thread::sleep(Duration::from_millis(200));
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    let number = text.trim().parse().ok();
    number.unwrap_or_else(|| panic!("{text:?} is no number"))
}
