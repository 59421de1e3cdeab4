//! The service at work, in a booted system without a camera: the sandbox, restarts, reloads, several
//! cameras, and what its journal says of it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use roomcam::clock;
use roomcam::watch::protocol::Command as Control;
use roomcam::watch::seen::{Connection, Seen};
use roomcam::watch::viewer::Viewer;

use super::{SERVICE, url, viewer, watch};
use crate::guest;
use crate::support::chromium::{Chromium, Setup};
use crate::support::system::System;

/// From the death of the process to the page, in the unit's own words `RestartSec=1`.
const BACK_WITHIN: Duration = Duration::from_secs(3);

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
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn a_killed_service_is_back_within_three_seconds() {
    let system = System::with_service();
    let kill = || {
        let before = system.main_pid(SERVICE);
        let killed = clock::now();
        system.run(&format!("kill -KILL {before}"));
        system.until("another process serves", |system| {
            let page = "http://10.86.0.2:8080/healthz";
            system.main_pid(SERVICE) != before
                && system.outside("curl", &["-sf", page]).status.success()
        });
        killed.elapsed()
    };
    // This machine may have other things to do, once or twice.
    let took: Vec<Duration> = (0..3).map(|_| kill()).collect();
    assert!(took.iter().any(|took| *took < BACK_WITHIN), "{took:?}");
    watch(&system, &url(&system), &["--frames", "5"]);
}

#[test]
#[ignore = "needs root, systemd-nspawn and chromium: scripts/test"]
fn in_chromium_the_page_goes_on_after_the_service_was_killed() {
    let system = System::with_service();
    let url = url(&system);
    // Chromium gathers no candidates where nothing leads anywhere.
    let route = system.outside("ip", &["route", "add", "default", "via", "10.86.0.2"]);
    assert!(route.status.success(), "{route:?}");
    system.do_outside(async {
        let page = Chromium::start(Setup::default()).await;
        page.join(&url).await;
        page.wait_for_frames(15).await;
        system.run(&format!("kill -KILL {}", system.main_pid(SERVICE)));
        let words = "document.querySelector('[role=status]').textContent";
        page.wait_until(&format!("!{words}.startsWith('Live')"))
            .await;
        page.wait_for_status("Live").await;
        page.wait_for_frames(15).await;
        page.close().await;
    });
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
    // It is heard for seconds; then reading from it never returns, for nobody writes to the pipe.
    system.run("mkfifo -m 644 /etc/roomcam/pipe");
    system.run(
        "systemd-run sh -c 'exec 3>/etc/roomcam/pipe; head -c 400000 /dev/zero >&3; sleep infinity'",
    );
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
    assert!(journal.contains("sound is live"), "{journal}");
    assert!(journal.contains("hangs in its driver"), "{journal}");
    system.wait_for_another(SERVICE, &before);
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn a_reload_changes_everything_but_the_media_port_and_keeps_the_viewers() {
    let system = System::with_service();
    let process = system.main_pid(SERVICE);
    let config = system.run("cat /etc/roomcam/roomcam.toml");
    let reload = |config: &str| {
        system.configure("roomcam", config);
        system.run("systemctl reload roomcam");
    };
    system.do_outside(async {
        let mut viewer = guest::join_at(&url(&system)).await;
        until_more_frames(&mut viewer).await;

        reload(&config.replace("fps = 15", "fpss = 15"));
        system
            .until_it_succeeds("journalctl -u roomcam | grep 'the old one stays' | grep 'line 5'");

        // Another picture.
        let config = config.replace("width = 320", "width = 256");
        reload(&config);
        let is_narrow = |seen: &Seen| seen.counts.picture == Some((256, 180));
        until(&mut viewer, "sees the new size", is_narrow).await;

        // Another room, at another port, for one viewer, who is here already.
        let config = config.replace("0.0.0.0:8080", "0.0.0.0:8090")
            + "max_viewers = 1\n[room]\nname = \"attic\"\n";
        reload(&config);
        until(&mut viewer, "is out of the old room", |seen| !seen.in_room).await;
        until_more_frames(&mut viewer).await;
        let link = url(&system);
        assert!(link.contains(":8090/#room=attic&key="), "{link}");
        let second = super::viewer(&system, &link, &["--frames", "5"]).output();
        let refused = String::from_utf8(second.expect("it starts").stderr);
        assert!(refused.expect("text").contains("room-full"));

        // One that cannot be: the one that is stays.
        reload(&config.replace("0.0.0.0:8090", "192.0.2.1:8090"));
        system.until_it_succeeds(
            "journalctl -u roomcam | grep 'the new rooms cannot be opened, the old ones stay'",
        );
        until_more_frames(&mut viewer).await;

        // No picture, and a picture again; and room for others.
        let config = config.replace("max_viewers = 1", "max_viewers = 2");
        reload(&config.replace("\"pattern\"", "\"none\""));
        until(&mut viewer, "is told", |seen| video_is(seen, "none")).await;
        reload(&config);
        until(&mut viewer, "is told", |seen| video_is(seen, "live")).await;
        until_more_frames(&mut viewer).await;
        watch(&system, &link, &["--frames", "5"]);

        reload(&config.replace("udp_port = 8080", "udp_port = 8081"));
        system
            .until_it_succeeds("journalctl -u roomcam | grep 'restarted keys=\"webrtc.udp_port\"'");
        until_more_frames(&mut viewer).await;
        viewer.leave().await;
    });
    assert_eq!(system.main_pid(SERVICE), process);
    let state = system.run("systemctl show --property=ActiveState,SubState roomcam");
    assert_eq!(state, "ActiveState=active\nSubState=running\n");
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
fn the_journal_tells_a_life_and_the_status_what_it_is_at() {
    let system = System::with_service();
    let config = system.run("cat /etc/roomcam/roomcam.toml") + "[control]\nidle_timeout_s = 1\n";
    system.configure("roomcam", &config);
    system.run("systemctl stop roomcam; journalctl --rotate; journalctl --vacuum-time=1s");
    let mut journal = Journal {
        system: &system,
        read: 0,
    };

    system.run("systemctl start roomcam");
    until_status(&system, "in the room, nobody watches");
    journal.tells(&[
        "Starting roomcam.service - roomcam: camera and microphone in a browser...",
        "Started roomcam.service - roomcam: camera and microphone in a browser.",
        "roomcam::server::http: room server started address=0.0.0.0:8080",
        "roomcam::engine: media port opened port=8080",
        "Open http://10.86.0.2:8080/#room=cam with the key of room.key or of /var/lib/roomcam/key: \
         `roomcam url` prints the whole link",
        "roomcam::server::rooms: device joined room=\"cam\"",
        "roomcam::signaling::websocket: joined the room server=\"127.0.0.1:8080 room cam\"",
    ]);
    system.do_outside(async {
        let mut viewer = guest::join_at(&url(&system)).await;
        until_more_frames(&mut viewer).await;
        until_status(&system, "in the room, 1 viewer");
        journal.tells(&[
            "roomcam::server::rooms: viewer joined room=\"cam\" id=…",
            "roomcam::engine::viewers: viewer connected viewer=1 viewers=1",
            CAMERA_LIVE,
            "roomcam::audio::capture: sound is live source=a test tone of 440 Hz",
        ]);

        viewer.command(Control::SetMuted { muted: true }).await;
        until_status(&system, "in the room, 1 viewer, muted");
        journal.tells(&["roomcam::engine::viewers: device switched camera=true muted=true"]);
        viewer.command(Control::SetCamera { on: false }).await;
        until_status(&system, "in the room, 1 viewer, camera switched off, muted");
        journal.tells(&[
            "roomcam::engine::viewers: device switched camera=false muted=true",
            "roomcam::video::capture: camera closed",
        ]);
        viewer.command(Control::SetMuted { muted: false }).await;
        until_status(&system, "in the room, 1 viewer, camera switched off");
        viewer.command(Control::SetCamera { on: true }).await;
        until_status(&system, "in the room, 1 viewer");
        journal.tells(&[
            "roomcam::engine::viewers: device switched camera=false muted=false",
            "roomcam::engine::viewers: device switched camera=true muted=false",
            CAMERA_LIVE,
        ]);

        // A camera that is gone, and is back.
        let reloaded = [
            "Reloading roomcam.service - roomcam: camera and microphone in a browser...",
            "roomcam::daemon: configuration read again changed=\"video\"",
            "Reloaded roomcam.service - roomcam: camera and microphone in a browser.",
        ];
        system.configure("roomcam", &config.replace("\"pattern\"", "\"/dev/video0\""));
        system.run("systemctl reload roomcam");
        until_status(
            &system,
            "in the room, 1 viewer, waiting for camera: /dev/video0 is not present",
        );
        let waiting = "roomcam::video::capture: waiting for camera \
                       reason=\"camera /dev/video0 is not present\"";
        journal.tells(&[&reloaded[..], &[waiting]].concat());
        system.configure("roomcam", &config);
        system.run("systemctl reload roomcam");
        until_more_frames(&mut viewer).await;
        journal.tells(&[&reloaded[..], &[CAMERA_LIVE]].concat());
        viewer.leave().await;
    });
    until_status(&system, "in the room, nobody watches");
    journal.tells(&[
        "roomcam::server::rooms: viewer left room=\"cam\" id=… reason=\"bye\"",
        "roomcam::engine::viewers: viewer gone viewer=1 viewers=0 dropped=…",
        "roomcam::video::capture: camera closed",
        "roomcam::audio::capture: microphone closed",
    ]);

    system.run("systemctl stop roomcam");
    journal.tells(&[
        "Stopping roomcam.service - roomcam: camera and microphone in a browser...",
        "roomcam::daemon: stopping",
        "roomcam::server::rooms: device left room=\"cam\"",
        "roomcam::server::http: room server stopped",
        "roomcam.service: Deactivated successfully.",
        "Stopped roomcam.service - roomcam: camera and microphone in a browser.",
    ]);

    // What its key is, it tells nobody.
    let key = system.run("cat /var/lib/roomcam/key");
    let told = system.run("journalctl --no-pager --output=verbose; systemctl show roomcam");
    assert!(!told.contains(key.trim()));
}

const CAMERA_LIVE: &str = "roomcam::video::capture: camera live \
                           camera=\"test picture 320x180 at 15 fps, encoded by OpenH264\"";

/// The service's journal, read line by line.
struct Journal<'a> {
    system: &'a System,
    /// How many lines were read.
    read: usize,
}

impl Journal<'_> {
    /// Waits until these lines, and no others, were written; threads write in any order.
    fn tells(&mut self, expected: &[&str]) {
        let mut new = Vec::new();
        let system = self.system;
        system.until("the journal tells it", |system| {
            // What the kernel that the container runs on does not know is systemd's word for it.
            let journal = system.journal(SERVICE);
            let lines = journal
                .lines()
                .filter(|line| !line.contains("kill control group"));
            new = lines.skip(self.read).map(without_chance).collect();
            new.len() >= expected.len()
        });
        self.read += new.len();
        new.sort();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(new, expected);
    }
}

/// Returns a line without what differs from life to life: the name that the room server made up for a
/// viewer, and how many pictures a busy machine left out.
fn without_chance(line: &str) -> String {
    for (start, end) in [("id=\"v-", '"'), ("dropped=", ' ')] {
        if let Some((before, rest)) = line.split_once(start) {
            let after = rest.split_once(end).map_or("", |(_, after)| after);
            let name = start.split_once('=').map_or(start, |(name, _)| name);
            return format!("{before}{name}=…{after}");
        }
    }
    line.to_owned()
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn a_stop_says_goodbye_to_viewers_and_takes_no_time() {
    let system = System::with_service();
    system.do_outside(async {
        let mut viewer = guest::join_at(&url(&system)).await;
        until_more_frames(&mut viewer).await;
        let start = clock::now();
        system.run("systemctl stop roomcam");
        let took = start.elapsed();
        assert!(took < Duration::from_secs(5), "{took:?}");
        until(&mut viewer, "is told", |seen| {
            seen.connection == Connection::Closed && !seen.in_room
        })
        .await;
        viewer.leave().await;
    });
    let journal = system.journal(SERVICE);
    assert!(journal.contains("Deactivated successfully"), "{journal}");
    assert!(!journal.contains("left behind"), "{journal}");
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn two_cameras_are_watched_at_once() {
    let system = System::with_service();
    let config = system.run("sed s/8080/8081/ /etc/roomcam/roomcam.toml");
    system.configure("attic", &config.replace("width = 320", "width = 256"));
    system.run("systemctl enable --now roomcam@attic");
    let attic = system.until_it_succeeds("roomcam url --config /etc/roomcam/attic.toml");
    system.do_outside(async {
        let mut first = guest::join_at(&url(&system)).await;
        let mut second = guest::join_at(attic.trim()).await;
        until_more_frames(&mut first).await;
        until_more_frames(&mut second).await;
        assert_eq!(first.seen().counts.picture, Some((320, 180)));
        assert_eq!(second.seen().counts.picture, Some((256, 180)));

        // Neither minds the other.
        system.run("systemctl stop roomcam@attic");
        until_more_frames(&mut first).await;
        first.leave().await;
        second.leave().await;
    });
    let keys = system.run("cat /var/lib/roomcam/key /var/lib/roomcam/attic/key | sort -u");
    assert_eq!(keys.lines().count(), 2, "each has its own");
}

#[test]
#[ignore = "needs root and systemd-nspawn: scripts/test"]
fn an_address_that_comes_later_is_where_viewers_find_it() {
    let system = System::with_service();
    let process = system.main_pid(SERVICE);
    let before = url(&system);
    system.run("ip address del 10.86.0.2/24 dev host0 && ip address add 10.86.0.77/24 dev host0");
    let after = url(&system);
    assert_eq!(after, before.replace("10.86.0.2:", "10.86.0.77:"));
    watch(&system, &after, &["--frames", "5"]);
    assert_eq!(system.main_pid(SERVICE), process);
}

#[test]
fn the_unit_of_several_cameras_is_that_of_one_but_for_the_names() {
    let unit = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("systemd")
            .join(name);
        let text = std::fs::read_to_string(path).expect("the unit is there");
        let is_said = |line: &&str| !line.starts_with('#');
        let lines: Vec<String> = text.lines().filter(is_said).map(str::to_owned).collect();
        lines
    };
    let (one, several) = (unit("roomcam.service"), unit("roomcam@.service"));
    assert_eq!(one.len(), several.len());
    let lines = one.into_iter().zip(several);
    let differ: Vec<_> = lines.filter(|(one, several)| one != several).collect();
    let expected = [
        ("Description=roomcam: ", "Description=roomcam %i: "),
        ("/etc/roomcam/roomcam.toml", "/etc/roomcam/%i.toml"),
        ("StateDirectory=roomcam", "StateDirectory=roomcam/%i"),
        ("/etc/roomcam/roomcam.key", "/etc/roomcam/%i.key"),
        ("/roomcam.talkback.", "/%i.talkback."),
        ("/roomcam.webrtc.", "/%i.webrtc."),
        ("/roomcam.webrtc.", "/%i.webrtc."),
    ];
    assert_eq!(differ.len(), expected.len(), "{differ:#?}");
    for ((one, several), (its, theirs)) in differ.into_iter().zip(expected) {
        assert_eq!(one.replace(its, theirs), several);
    }
}

async fn until(viewer: &mut Viewer, what: &str, condition: impl FnMut(&Seen) -> bool) -> Seen {
    guest::until(viewer, what, condition).await
}

async fn until_more_frames(viewer: &mut Viewer) {
    guest::until_more_frames(viewer).await;
}

fn video_is(seen: &Seen, state: &str) -> bool {
    guest::state(seen).is_some_and(|told| told.video == state)
}

/// Waits until `systemctl status` says so.
fn until_status(system: &System, text: &str) {
    system.until(text, |system| {
        let status = system.run("systemctl show --property=StatusText --value roomcam");
        status.trim() == text
    });
}
