//! `roomcam devices` and `roomcam doctor` on a machine without cameras: what works, what does not, and what
//! mends it. With cameras and sound cards: `guest`; with STUN and TURN: `relaying`.

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};

use roomcam::clock;
use roomcam::config::{Secret, WebRtc};
use roomcam::server::pairing::private::Tutorials;
use roomcam::server::{Server, ServerOptions};
use roomcam::turn::credentials::IceServers;
use serde_json::Value;
use tokio::sync::watch;

use crate::support::demo::Demo;
use crate::support::program;

/// Sources that need no device, and a page that disturbs nobody.
const MADE_UP: &str = "[video]\nsource = \"pattern\"\nwidth = 320\nheight = 180\n\
                       [audio]\nsource = \"tone\"\n";

fn roomcam(arguments: &[&str], configuration: &str) -> Output {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(configuration.as_bytes()).unwrap();
    let state = tempfile::tempdir().unwrap();
    program::roomcam()
        .args(arguments)
        .arg("--config")
        .arg(file.path())
        .env("STATE_DIRECTORY", state.path())
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Returns the exit code and the report of `roomcam doctor --json`.
fn doctor(configuration: &str) -> (Option<i32>, Value) {
    let output = roomcam(&["doctor", "--json"], configuration);
    assert!(output.stderr.is_empty(), "{output:?}");
    let report = serde_json::from_slice(&output.stdout).expect("a report");
    (output.status.code(), report)
}

/// Returns level, text and remedy of a check.
pub(crate) fn finding<'a>(report: &'a Value, check: &str) -> [&'a str; 3] {
    let mut findings = report["findings"].as_array().unwrap().iter();
    let finding = findings.find(|finding| finding["check"] == check);
    let finding = finding.unwrap_or_else(|| panic!("no {check} in {report:#}"));
    ["level", "text", "remedy"].map(|key| finding[key].as_str().unwrap_or_default())
}

fn free_page() -> String {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("[server]\nlisten = \"{}\"\n", free.local_addr().unwrap())
}

#[test]
fn what_needs_no_device_works() {
    let (code, report) = doctor(&format!("{MADE_UP}{}", free_page()));
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(report["works"], true);
    for (check, said) in [
        ("configuration", "is valid"),
        ("system", "Linux"),
        ("memory", "MB available"),
        ("disk", "MB free"),
        ("camera", "test picture 320x180"),
        ("encoder", "OpenH264 takes"),
        ("microphone", "-20 dB"),
        ("page", "is free"),
    ] {
        let [level, text, _] = finding(&report, check);
        assert!(
            level == "ok" && text.contains(said),
            "{check}: {level} {text}"
        );
    }
    assert!(!finding(&report, "clock")[1].is_empty());
    let by_its_other_name = roomcam(&["check"], &format!("{MADE_UP}{}", free_page()));
    assert!(by_its_other_name.status.success(), "{by_its_other_name:?}");
}

#[test]
fn people_read_it_in_80_columns() {
    let output = roomcam(&["doctor"], &format!("{MADE_UP}{}", free_page()));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(
        text.contains("ok       page           127.0.0.1:"),
        "{text}"
    );
    assert!(
        text.lines().last().unwrap().starts_with("roomcam works"),
        "{text}"
    );
}

#[test]
fn a_camera_that_is_not_there_is_an_error_and_a_microphone_a_warning() {
    let configuration =
        "[video]\nsource = \"/dev/video99\"\n[audio]\nsource = \"plughw:CARD=Nothing\"\n";
    let (code, report) = doctor(&format!("{configuration}{}", free_page()));
    assert_eq!((code, &report["works"]), (Some(1), &Value::Bool(false)));
    let missing = [
        "error",
        "camera /dev/video99 is not present.",
        "roomcam devices",
    ];
    assert_eq!(finding(&report, "camera"), missing);
    let missing = [
        "warning",
        "microphone plughw:CARD=Nothing is not present. Pictures are shown without sound.",
        "roomcam devices",
    ];
    assert_eq!(finding(&report, "microphone"), missing);
}

#[test]
fn without_its_microphone_and_loudspeaker_it_works_unless_sound_is_all_there_is() {
    let configuration = "[video]\nsource = \"pattern\"\nwidth = 320\nheight = 180\n\
                         [audio]\nsource = \"plughw:CARD=Nothing\"\n\
                         [talkback]\nsink = \"plughw:CARD=Nothing\"\n";
    let (code, report) = doctor(&format!("{configuration}{}", free_page()));
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(finding(&report, "microphone")[0], "warning");
    let missing = [
        "warning",
        "loudspeaker plughw:CARD=Nothing is not present. Viewers cannot be heard.",
        "roomcam devices",
    ];
    assert_eq!(finding(&report, "speaker"), missing);
    let sound_only = configuration.replace("\"pattern\"", "\"none\"");
    let (code, report) = doctor(&format!("{sound_only}{}", free_page()));
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(finding(&report, "microphone")[0], "error");
}

#[test]
fn what_nobody_may_read_is_not_called_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let configuration = directory.path().join("roomcam.toml");
    fs::write(&configuration, MADE_UP).unwrap();
    fs::set_permissions(&configuration, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(&configuration).is_ok() {
        // Root may read anything: `installed` asks as somebody else.
        return;
    }
    let output = program::roomcam()
        .args(["doctor", "--json", "--config"])
        .arg(&configuration)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(finding(&report, "configuration")[2], "sudo roomcam doctor");
}

#[test]
fn a_file_that_is_no_h264_is_named() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"no pictures in here").unwrap();
    let path = file.path().display().to_string();
    let configuration = MADE_UP.replace("pattern", &format!("file:{path}"));
    let (code, report) = doctor(&format!("{configuration}{}", free_page()));
    assert_eq!(code, Some(1));
    let [level, text, _] = finding(&report, "camera");
    assert!(level == "error" && text.contains(&path), "{text}");
}

#[test]
fn a_wrong_configuration_has_its_exit_code_and_the_machine_is_looked_at_all_the_same() {
    for (wrong, said) in [
        ("[video]\nfps = 1000\n", "video.fps = 1000"),
        ("[room]\nkey = hunter2\n", "line 2"),
        ("[room]\nserver = \"ftp://pi\"\n", "ftp://pi"),
        ("[server]\nallowed_origins = [\"nonsense\"]\n", "nonsense"),
    ] {
        let (code, report) = doctor(wrong);
        assert_eq!(code, Some(78), "{report:#}");
        let [level, text, remedy] = finding(&report, "configuration");
        assert!(level == "error" && text.contains(said), "{text}");
        assert!(remedy.starts_with("sudoedit /"), "{remedy}");
        assert_eq!(finding(&report, "system")[0], "ok");
        assert!(!report.to_string().contains("hunter2"));
    }
}

#[test]
fn ports_that_others_have_are_errors_and_one_that_roomcam_has_is_none() {
    let page = TcpListener::bind("127.0.0.1:0").unwrap();
    let media = UdpSocket::bind("0.0.0.0:0").unwrap();
    let (page_at, media_at) = (
        page.local_addr().unwrap(),
        media.local_addr().unwrap().port(),
    );
    // Who it is, is this very process.
    let me = format!("(pid {})", std::process::id());
    drop_connections(&page);
    let configuration =
        format!("{MADE_UP}[server]\nlisten = \"{page_at}\"\n[webrtc]\nudp_port = {media_at}\n");
    let (code, report) = doctor(&configuration);
    assert_eq!(code, Some(1), "{report:#}");
    for check in ["page", "media port"] {
        let [level, text, remedy] = finding(&report, check);
        assert!(level == "error" && text.contains(&me), "{text}");
        assert!(remedy.starts_with("sudo ss "), "{remedy}");
    }

    let demo = Demo::start();
    let (address, _) = demo
        .url()
        .trim_start_matches("http://")
        .split_once('/')
        .unwrap();
    let (code, report) = doctor(&format!("{MADE_UP}[server]\nlisten = \"{address}\"\n"));
    assert_eq!(code, Some(0), "{report:#}");
    let [level, text, _] = finding(&report, "page");
    assert!(level == "ok" && text.contains("by roomcam"), "{text}");
}

/// Has whoever connects be answered by nothing at once.
fn drop_connections(listener: &TcpListener) {
    let listener = listener.try_clone().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(drop));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_server_is_entered_with_the_key_and_without_saying_it() {
    let server = Server::bind(ServerOptions {
        listen: ([127, 0, 0, 1], 0).into(),
        viewer_key: Secret::new("see".to_owned()),
        device_key: Secret::new("hunter2".to_owned()),
        allowed_origins: Vec::new(),
        ice_servers: IceServers::new(&WebRtc::default(), clock::unix_time),
        tutorials: Tutorials::default(),
    });
    let server = server.await.unwrap();
    let address = server.local_addr();
    let (stop, stopped) = watch::channel(false);
    let task = tokio::spawn(server.run(stopped));
    let asked = async |key: &str| {
        let room = format!("{MADE_UP}[room]\nserver = \"ws://{address}/ws\"\nkey = \"{key}\"\n");
        tokio::task::spawn_blocking(move || doctor(&room))
            .await
            .unwrap()
    };
    let (code, report) = asked("hunter2").await;
    assert_eq!(code, Some(0), "{report:#}");
    let [level, text, _] = finding(&report, "room server");
    assert!(level == "ok" && text.contains("with our key"), "{text}");
    assert!(!report.to_string().contains("hunter2"));
    let (code, report) = asked("hunter3").await;
    assert_eq!(code, Some(1), "{report:#}");
    assert_eq!(finding(&report, "room server")[0], "error");
    assert!(!report.to_string().contains("hunter3"));
    stop.send(true).unwrap();
    task.await.unwrap();
    let (code, report) = asked("hunter2").await;
    assert_eq!(code, Some(1));
    let [_, text, _] = finding(&report, "room server");
    assert!(text.contains("nothing listens at"), "{text}");
}

#[test]
fn devices_are_listed_in_the_documented_shape() {
    let output = program::roomcam()
        .args(["devices", "--json"])
        .output()
        .unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    let listing: Value = serde_json::from_slice(&output.stdout).unwrap();
    for list in [
        "cameras",
        "csi_cameras",
        "encoders",
        "microphones",
        "speakers",
    ] {
        assert!(listing[list].is_array(), "{list}");
    }
    let encoders = listing["encoders"].as_array().unwrap();
    let software = encoders.last().unwrap();
    assert_eq!(software["name"], "OpenH264");
    assert!(
        software["problem"].is_null(),
        "built without nasm? {software}"
    );
    for what in ["camera", "encoder", "microphone"] {
        assert!(listing["automatic"][what]["because"].is_string(), "{what}");
    }
}
