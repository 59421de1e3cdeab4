//! The architecture, as a test: which file may use what.
//!
//! Rust gives one package no walls between modules, so this file is the wall.

use std::fs;
use std::path::{Path, PathBuf};

/// Every outside thing is used in one place, which is named after it.
const OWNERS: &[(&str, &[&str])] = &[
    (
        "alsa::",
        &[
            "src/audio/alsa.rs",
            "src/audio/alsa/cards.rs",
            "src/audio/alsa/messages.rs",
            "src/talkback/alsa.rs",
            "src/audio/alsa/negotiation.rs",
            "src/audio/alsa/pcms.rs",
        ],
    ),
    (
        "axum::",
        &[
            "src/server/engineio.rs",
            "src/server/http.rs",
            "src/server/websocket.rs",
            "src/server/whep.rs",
        ],
    ),
    ("if_addrs::", &["src/interfaces.rs"]),
    ("jpeg_encoder::", &["src/video/still.rs"]),
    ("openh264::", &["src/video/openh264.rs"]),
    ("opus::", &["src/audio/opus.rs", "src/talkback/opus.rs"]),
    ("qrcode::", &["src/share.rs"]),
    ("hmac::", &["src/turn/credentials.rs"]),
    ("md5::", &["src/turn/message.rs"]),
    ("quinn_udp::", &["src/engine/udp.rs"]),
    (
        "rtc::",
        &[
            "src/viewer/webrtc.rs",
            "src/viewer/webrtc/feedback.rs",
            "src/viewer/webrtc/reports.rs",
            "src/watch/reports.rs",
            "src/watch/webrtc.rs",
        ],
    ),
    ("rubato::", &["src/audio/rubato.rs"]),
    ("rustls_native_certs::", &["src/signaling/websocket/tls.rs"]),
    ("tokio_rustls::", &["src/engine/turn/wire.rs"]),
    (
        "tokio_tungstenite::",
        &[
            "src/signaling/websocket.rs",
            "src/signaling/websocket/connect.rs",
            "src/server/websocket.rs",
            "src/watch/websocket.rs",
        ],
    ),
    (
        "v4l::",
        &[
            "src/video/v4l2.rs",
            "src/video/v4l2/controls.rs",
            "src/video/v4l2/memory.rs",
            "src/video/v4l2/negotiation.rs",
            "src/video/v4l2/queue.rs",
            "src/video/v4l2/request.rs",
            "src/video/v4l2/signal.rs",
        ],
    ),
    ("webrtc::", &["src/watch/webrtc.rs"]),
    ("Instant::now", &["src/clock.rs"]),
    ("SystemTime::now", &["src/clock.rs"]),
];

/// These hold logic alone: no clock, socket, file, thread or task.
const PURE: &[&str] = &[
    "src/audio/drift.rs",
    "src/audio/framer.rs",
    "src/audio/losses.rs",
    "src/audio/samples.rs",
    "src/config/control.rs",
    "src/config/media.rs",
    "src/config/ranges.rs",
    "src/config/room.rs",
    "src/config/secret.rs",
    "src/config/server.rs",
    "src/config/webrtc.rs",
    "src/control/",
    "src/engine/demux.rs",
    "src/engine/gather.rs",
    "src/h264/",
    "src/inspect/columns.rs",
    "src/inspect/doctor/access.rs",
    "src/inspect/doctor/finding.rs",
    "src/inspect/doctor/machine.rs",
    "src/inspect/doctor/media.rs",
    "src/inspect/doctor/network.rs",
    "src/inspect/doctor/service.rs",
    "src/inspect/listing.rs",
    "src/progress.rs",
    "src/reload.rs",
    "src/rtp/",
    "src/server/pairing/",
    "src/server/rooms.rs",
    "src/server/whep/headers.rs",
    "src/server/whep/sdpfrag.rs",
    "src/server/whep/session.rs",
    "src/signaling/backoff.rs",
    "src/signaling/dialect/",
    "src/signaling/flow.rs",
    "src/signaling/link.rs",
    "src/signaling/server_url.rs",
    "src/signaling/socketio.rs",
    "src/talkback/floor.rs",
    "src/talkback/jitter.rs",
    "src/talkback/mixer.rs",
    "src/talkback/packet.rs",
    "src/talkback/voice.rs",
    "src/turn/",
    "src/video/canvas.rs",
    "src/video/capture/attempts.rs",
    "src/video/coded_stream.rs",
    "src/video/csi.rs",
    "src/video/csi/",
    "src/video/effects.rs",
    "src/video/font.rs",
    "src/video/jpeg.rs",
    "src/video/jpeg/",
    "src/video/mjpeg.rs",
    "src/video/notice.rs",
    "src/video/range.rs",
    "src/video/raw_stream.rs",
    "src/video/sharing.rs",
    "src/video/v4l2_encoder/layout.rs",
    "src/viewer/",
];

/// What no pure file may name.
const IMPURE: &[&str] = &[
    "clock::now",
    "std::fs",
    "std::net::UdpSocket",
    "std::thread",
    "tokio::",
];

#[test]
fn every_outside_thing_has_one_home() {
    let mut strays = Vec::new();
    for (name, code) in production_code() {
        for (thing, homes) in OWNERS {
            if code.iter().any(|line| mentions(line, thing)) && !homes.contains(&name.as_str()) {
                strays.push(format!("{name} uses {thing} (belongs in {homes:?})"));
            }
        }
    }
    assert!(strays.is_empty(), "{}", strays.join("\n"));
}

#[test]
fn pure_files_do_no_io() {
    let mut strays = Vec::new();
    for (name, code) in production_code() {
        if PURE.iter().any(|pure| name.starts_with(pure)) {
            for thing in IMPURE {
                if code.iter().any(|line| line.contains(thing)) {
                    strays.push(format!("{name} is pure, but names {thing}"));
                }
            }
        }
    }
    assert!(strays.is_empty(), "{}", strays.join("\n"));
}

#[test]
fn every_home_exists() {
    let homes = OWNERS.iter().flat_map(|(_, homes)| homes.iter());
    for home in homes.chain(PURE) {
        assert!(root().join(home).exists(), "{home} is gone");
    }
}

#[test]
fn a_crate_is_told_from_a_module_of_the_same_name() {
    assert!(mentions("use alsa::pcm::PCM;", "alsa::"));
    assert!(mentions(
        "  let t = std::time::Instant::now();",
        "Instant::now"
    ));
    assert!(!mentions("use crate::audio::alsa::Microphone;", "alsa::"));
    assert!(!mentions("use webrtc::peer_connection;", "rtc::"));
}

/// Whether `line` names `thing`.
///
/// A crate counts only at the start of a path: `crate::audio::alsa::open` is our module, and
/// `webrtc::` is not `rtc::`. A type's function counts wherever it is written.
fn mentions(line: &str, thing: &str) -> bool {
    let is_crate = thing.starts_with(char::is_lowercase);
    line.match_indices(thing).any(|(at, _)| {
        let before = line.get(..at).and_then(|head| head.chars().next_back());
        before.is_none_or(|c| !(c.is_alphanumeric() || c == '_' || (is_crate && c == ':')))
    })
}

/// Every source file's name and the lines that are neither comments nor its unit tests. A module
/// that is named like a crate (`webrtc`) is imported with `crate::` or `super::`, so bare paths are
/// the crates'.
fn production_code() -> Vec<(String, Vec<String>)> {
    let files = rust_files(&root().join("src"));
    assert!(files.len() > 40, "the sources were not found");
    files
        .into_iter()
        .filter(|file| !file.ends_with("tests.rs"))
        .map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            let production = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let local_modules: Vec<String> = production
                .lines()
                .map(|line| {
                    line.trim_start_matches("pub(crate) ")
                        .trim_start_matches("pub ")
                })
                .filter_map(|line| line.strip_prefix("mod "))
                .map(|rest| format!("{}::", rest.trim_end_matches(';')))
                .collect();
            let lines = production
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .filter(|line| !local_modules.iter().any(|module| mentions(line, module)))
                .map(str::to_owned)
                .collect();
            let name = file.strip_prefix(root()).unwrap();
            (name.to_string_lossy().into_owned(), lines)
        })
        .collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}
