//! Every source of video that needs no device keeps the facts of `support::conformance`. Those with one:
//! `guest`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use roomcam::config::{self, CsiMode};
use roomcam::{clock, video};
use tempfile::TempDir;

use crate::support::conformance::{Figures, Promise, conforms, ends, goes_on};

/// How old a picture may be on a machine that does much else, or that is emulated.
const SLACK: Duration = Duration::from_secs(3);

/// A rate at which even an emulated machine encodes.
fn of(source: &str) -> config::Video {
    config::Video {
        source: source.to_owned(),
        width: 128,
        height: 64,
        fps: 25,
        encoder: "software".to_owned(),
        ..config::Video::default()
    }
}

fn holds(config: &config::Video, keyframes_on_demand: bool) -> Figures {
    let promise = Promise {
        allocations: || None,
        keyframes_on_demand,
        slack: SLACK,
    };
    let figures = conforms(config, promise);
    figures.unwrap_or_else(|fact| panic!("{}: {fact}", config.source))
}

/// Records test pictures, each into a file of its own, a keyframe each 10; returns their number.
fn record(directory: &Path) -> u32 {
    const PICTURES: u32 = 60;
    let mut source = video::open(&config::Video {
        fps: 100,
        ..of("pattern")
    })
    .unwrap();
    let deadline = clock::now() + Duration::from_secs(60);
    let mut recorded = 0;
    while recorded < PICTURES {
        assert!(clock::now() < deadline, "the test picture takes too long");
        if let Some(unit) = source.next().unwrap() {
            fs::write(directory.join(format!("{recorded:03}.h264")), &unit.data).unwrap();
            recorded += 1;
            if recorded % 10 == 0 {
                source.request_keyframe();
            }
        }
    }
    recorded
}

/// Makes a program that is called like the camera's, and runs `body` of a shell.
fn stand_in(directory: &TempDir, mode: CsiMode, body: &str) -> config::Video {
    let program = directory.path().join("rpicam-vid");
    let pictures = directory.path().display();
    let script = format!("#!/bin/sh\ncd {pictures}\n{body}\n");
    // By another name first: what is open for writing anywhere, in a fork of another test even, is not executed.
    let written = directory.path().join("script");
    fs::write(&written, script).unwrap();
    fs::set_permissions(&written, fs::Permissions::from_mode(0o755)).unwrap();
    let copied = std::process::Command::new("cp")
        .args([&written, &program])
        .status();
    assert!(copied.unwrap().success());
    let mut config = of("csi");
    config.csi.program = program.display().to_string();
    config.csi.mode = mode;
    config
}

#[test]
fn the_test_picture() {
    holds(&of("pattern"), true);
}

#[test]
fn a_file_in_a_loop() {
    let directory = TempDir::new().unwrap();
    let pictures = record(directory.path());
    let mut all = Vec::new();
    for number in 0..pictures {
        all.extend(fs::read(directory.path().join(format!("{number:03}.h264"))).unwrap());
    }
    let file = directory.path().join("all");
    fs::write(&file, all).unwrap();
    holds(&of(&format!("file:{}", file.display())), false);
}

#[test]
fn a_camera_program_with_raw_pictures() {
    let directory = TempDir::new().unwrap();
    let endless = "while head -c 12288 /dev/zero; do sleep 0.04; done";
    let config = stand_in(&directory, CsiMode::Raw, endless);
    holds(&config, true);
}

#[test]
fn a_camera_program_with_h264() {
    let directory = TempDir::new().unwrap();
    record(directory.path());
    let endless =
        "while :; do for picture in *.h264; do cat $picture || exit; sleep 0.04; done; done";
    let config = stand_in(&directory, CsiMode::H264, endless);
    holds(&config, false);
}

#[test]
fn a_camera_program_that_stutters_goes_on() {
    let directory = TempDir::new().unwrap();
    let stutters =
        "while head -c 6000 /dev/zero; do sleep 0.02; head -c 6288 /dev/zero; sleep 0.05; done";
    let config = stand_in(&directory, CsiMode::Raw, stutters);
    assert_eq!(goes_on(&config, SLACK, 20, || {}), Ok(()));
}

#[test]
fn a_camera_program_that_dies_is_one_that_is_started_again() {
    let directory = TempDir::new().unwrap();
    let dies = "for n in 1 2 3 4 5 6 7 8; do head -c 12288 /dev/zero; sleep 0.04; done; exit 3";
    let config = stand_in(&directory, CsiMode::Raw, dies);
    assert_eq!(ends(&config, || {}), Ok("program"));
}

#[test]
fn a_camera_program_that_falls_silent_is_one_that_is_started_again() {
    let directory = TempDir::new().unwrap();
    let hangs =
        "for n in 1 2 3 4 5 6 7 8; do head -c 12288 /dev/zero; sleep 0.04; done; exec sleep 60";
    let config = stand_in(&directory, CsiMode::Raw, hangs);
    assert_eq!(ends(&config, || {}), Ok("stalled"));
}
