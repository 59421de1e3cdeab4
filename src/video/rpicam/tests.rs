//! Against a stand-in that is started like the camera program: the same options, rows that are padded,
//! writes in pieces; it dies, hangs, and says too much.

use super::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use tempfile::TempDir;
use tokio::sync::{broadcast, watch};

use crate::control::SourceStatus;
use crate::h264::annexb::nal_units;
use crate::progress::Progress;
use crate::video::capture::{self, CaptureRequest};
use crate::video::desk::desk;

const LIMIT: Duration = Duration::from_secs(20);

/// A program that notes how it was called and its process id, then runs `body` (of a shell).
struct StandIn {
    directory: TempDir,
    config: config::Video,
}

impl StandIn {
    fn running(body: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("rpicam-vid");
        let notes = directory.path().display();
        let script = format!(
            "#!/bin/sh\necho \"$@\" >{notes}/arguments\necho $$ >{notes}/pid\n{FUNCTIONS}\n{body}\n"
        );
        // Written by another process: one that is open for writing here cannot be executed, and
        // other tests fork.
        let mut writer = std::process::Command::new("sh")
            .args(["-c", "cat >\"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(&program)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = writer.stdin.take().unwrap();
        io::Write::write_all(&mut input, script.as_bytes()).unwrap();
        drop(input);
        assert!(writer.wait().unwrap().success());
        let mode = fs::metadata(&program).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111);
        let mut config = config::Video {
            width: 128,
            height: 64,
            fps: 30,
            encoder: "software".to_owned(),
            ..config::Video::default()
        };
        config.csi.program = program.display().to_string();
        Self { directory, config }
    }

    /// Opens it, and has it run.
    fn open(&self) -> Rpicam {
        let mut source = Rpicam::open(&self.config).unwrap();
        source.keep_running().unwrap();
        source
    }

    fn note(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.directory.path().join(name)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    fn wait_for_note(&self, name: &str) -> String {
        let deadline = clock::now() + LIMIT;
        loop {
            if let Some(text) = self.note(name) {
                return text;
            }
            assert!(clock::now() < deadline, "it never noted its {name}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// `picture STRIDE` writes one of 64 rows, in two pieces.
const FUNCTIONS: &str = r"
piece() { head -c $1 /dev/zero; }
picture() { piece 1000; piece $(($1 * 64 * 3 / 2 - 1000)); }
";

fn next(source: &mut Rpicam) -> AccessUnit {
    let deadline = clock::now() + LIMIT;
    loop {
        assert!(clock::now() < deadline, "no picture");
        if let Some(unit) = source.next().unwrap() {
            return unit;
        }
    }
}

fn error(source: &mut Rpicam) -> String {
    let deadline = clock::now() + LIMIT;
    loop {
        assert!(clock::now() < deadline, "no error");
        if let Err(error) = source.next() {
            assert!(error.is_retryable());
            return error.to_string();
        }
    }
}

fn is_there(process: &str) -> bool {
    // A zombie has no command line.
    fs::read(format!("/proc/{process}/cmdline")).is_ok_and(|line| !line.is_empty())
}

fn assert_gone(process: &str) {
    let deadline = clock::now() + LIMIT;
    while is_there(process) {
        assert!(clock::now() < deadline, "{process} is still there");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn types(unit: &AccessUnit) -> Vec<u8> {
    nal_units(&unit.data).map(|unit| unit.unit_type()).collect()
}

#[test]
fn raw_pictures_are_encoded_whatever_their_padding() {
    for (width, stride) in [(128, 128), (100, 112), (100, 128)] {
        let mut stand_in = StandIn::running(&format!(
            "while true; do picture {stride}; sleep 0.15; done"
        ));
        stand_in.config.width = width;
        let mut source = stand_in.open();
        let units: Vec<_> = (0..4).map(|_| next(&mut source)).collect();
        assert_eq!(types(&units[0]), [7, 8, 5]);
        assert!(units[1..].iter().all(|unit| types(unit) == [1]));
        assert!(
            units
                .windows(2)
                .all(|two| two[0].captured_at < two[1].captured_at)
        );
        source.request_keyframe();
        assert_eq!(types(&next(&mut source)), [7, 8, 5]);
        assert!(source.keyframes_on_demand());
    }
}

#[test]
fn it_is_started_with_the_options_of_the_configuration() {
    let mut stand_in = StandIn::running("sleep 60");
    stand_in.config.csi.camera = 1;
    stand_in.config.csi.options = vec!["--hflip".to_owned()];
    let source = stand_in.open();
    let arguments = stand_in.wait_for_note("arguments");
    assert!(
        arguments.contains("--camera 1 --width 128 --height 64"),
        "{arguments}"
    );
    assert!(
        arguments.ends_with("--codec yuv420 --hflip --output -"),
        "{arguments}"
    );
    let description = source.description();
    assert_eq!(
        description,
        "CSI camera 1 by rpicam-vid 128x64 at 30 fps, encoded by OpenH264"
    );
}

#[test]
fn it_is_the_first_to_go_where_memory_is_short() {
    let stand_in = StandIn::running("sleep 60");
    let _source = stand_in.open();
    let process = stand_in.wait_for_note("pid");
    let score = fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "1000");
}

#[test]
fn a_camera_that_another_process_has_is_busy() {
    let stand_in = StandIn::running(
        "echo 'ERROR Camera camera.cpp:1022 Pipeline handler in use by another process' >&2
         echo 'ERROR: *** failed to acquire camera /base/soc/i2c0mux/i2c@1/imx219@10 ***' >&2; exit 255",
    );
    let mut source = stand_in.open();
    let error = error(&mut source);
    assert_eq!(
        error,
        "camera csi is in use by another program: `sudo fuser -v /dev/media*` names it"
    );
}

#[test]
fn its_own_h264_is_passed_through_from_the_first_keyframe_on() {
    let stand_in = StandIn::running(
        r"
case $1 in --version) echo 'rpicam-apps build: v1.7.0 abc'; exit;; esac
delta() { printf '\000\000\000\001\101\232\021'; }
key() { printf '\000\000\000\001\147\102\300\037\000\000\000\001\150\316\074\200\000\000\000\001\145\210\200\021'; }
delta; sleep 0.05; key; sleep 0.05; delta; sleep 0.05; delta; sleep 60",
    );
    let mut config = stand_in.config.clone();
    config.csi.mode = CsiMode::H264;
    let mut source = Rpicam::open(&config).unwrap();
    let units: Vec<_> = (0..3).map(|_| types(&next(&mut source))).collect();
    assert_eq!(units, [vec![7, 8, 5], vec![1], vec![1]]);
    assert!(!source.keyframes_on_demand());
    let arguments = stand_in.note("arguments").unwrap();
    assert!(arguments.contains("--codec h264 --inline"), "{arguments}");
    assert!(arguments.contains("--low-latency"), "{arguments}");
}

#[test]
fn a_program_that_dies_is_an_error_with_its_last_words() {
    let stand_in =
        StandIn::running("picture 128; echo 'ERROR: *** no cameras available ***' >&2; exit 255");
    let mut source = stand_in.open();
    let error = error(&mut source);
    assert!(
        error.contains("rpicam-vid ended (exit status: 255)"),
        "{error}"
    );
    assert!(
        error.ends_with("ERROR: *** no cameras available ***"),
        "{error}"
    );
}

#[test]
fn a_program_that_dies_is_started_again_until_pictures_come() {
    // The first two attempts fail: one at once, one in the middle of a picture.
    let stand_in = StandIn::running(
        r#"
echo x >>$(dirname $0)/starts
case $(wc -l <$(dirname $0)/starts) in
1) exit 1;;
2) picture 128; piece 1000; exit 1;;
*) while true; do picture 128; sleep 0.03; done;;
esac"#,
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut config = stand_in.config.clone();
    config.source = "csi".to_owned();
    let (_settings, configured) = watch::channel(config);
    let (request, requests) = watch::channel(CaptureRequest {
        run: true,
        ..CaptureRequest::default()
    });
    let (frames_in, mut frames) = broadcast::channel(1_024);
    let (status_in, mut status) = watch::channel(SourceStatus::Off);
    let thread = capture::spawn(
        configured,
        runtime.handle().clone(),
        requests,
        frames_in,
        status_in,
        Progress::default(),
        desk().0,
    )
    .unwrap();
    let watched = async {
        // One picture of the second attempt, then those of the third, each from a keyframe on.
        let mut keyframes = 0;
        while keyframes < 2 {
            let frame = frames.recv().await.unwrap();
            keyframes += usize::from(frame.is_keyframe && !frame.is_placeholder);
        }
        let is_live = |status: &SourceStatus| matches!(status, SourceStatus::Live { .. });
        status.wait_for(is_live).await.unwrap();
    };
    let result = runtime.block_on(async { tokio::time::timeout(LIMIT, watched).await });
    result.expect("it came back");
    request.send_modify(|request| request.shutdown = true);
    thread.join().unwrap();
    assert_eq!(stand_in.note("starts").unwrap().lines().count(), 3);
    assert_gone(&stand_in.note("pid").unwrap());
}

#[test]
fn what_it_started_ends_with_it_and_all_are_reaped() {
    let stand_in = StandIn::running(
        "sleep 61 & echo $! >$(dirname $0)/grandchild; trap '' INT TERM; while true; do sleep 1; done",
    );
    let source = stand_in.open();
    let child = stand_in.wait_for_note("pid");
    let grandchild = stand_in.wait_for_note("grandchild");
    assert!(is_there(&child) && is_there(&grandchild));
    drop(source);
    assert!(
        !Path::new(&format!("/proc/{child}")).exists(),
        "it is reaped"
    );
    assert_gone(&grandchild);
}

#[test]
fn a_flood_of_words_stops_neither_pictures_nor_end() {
    let stand_in = StandIn::running(
        "(yes 'WARN: a line that is said again and again' >&2) & \
         (head -c 3000000 /dev/zero >&2) & while true; do picture 128; sleep 0.03; done",
    );
    let mut source = stand_in.open();
    for _ in 0..3 {
        next(&mut source);
    }
    let child = stand_in.wait_for_note("pid");
    drop(source);
    assert_gone(&child);
}

#[test]
fn bytes_that_never_become_a_picture_do_not_hold_the_thread() {
    let mut stand_in = StandIn::running("yes");
    stand_in.config.csi.mode = CsiMode::H264;
    let mut source = stand_in.open();
    for _ in 0..2 {
        let before = clock::now();
        assert!(source.next().unwrap().is_none());
        assert!(clock::now() - before < LONGEST_SILENCE);
    }
    let before = clock::now().checked_sub(2 * LONGEST_SILENCE).unwrap();
    source.last_picture = before;
    assert!(matches!(source.next(), Err(VideoError::Stalled { .. })));
}

#[test]
fn pictures_that_come_faster_than_they_are_encoded_do_not_pile_up() {
    let stand_in = StandIn::running("cat /dev/zero");
    let mut source = stand_in.open();
    for _ in 0..10 {
        next(&mut source);
    }
    assert!((5..=10).contains(&source.skipped), "{}", source.skipped);
}

#[test]
fn a_program_that_is_silent_is_waited_for_in_short_calls() {
    let stand_in = StandIn::running("sleep 60");
    let mut source = stand_in.open();
    let before = clock::now();
    assert!(source.next().unwrap().is_none());
    assert!(clock::now() - before < LONGEST_SILENCE);
    // As if it had been silent for long.
    source.last_picture = before.checked_sub(2 * LONGEST_SILENCE).unwrap();
    let error = error(&mut source);
    assert!(error.contains("delivered no frame for 5s"), "{error}");
}

#[test]
fn a_program_that_is_not_there_is_named_with_what_installs_it() {
    let mut config = config::Video::default();
    config.csi.program = "/nonexistent/rpicam-vid".to_owned();
    let error = Rpicam::open(&config).unwrap_err().to_string();
    assert_eq!(
        error,
        "camera program /nonexistent/rpicam-vid is not installed (`apt install rpicam-apps-lite`)"
    );
}

/// Pictures, each as bright as its program was started to make them.
const OBEYS: &str = r#"
echo x >>$(dirname $0)/starts
case "$*" in *--brightness=0.5*) luma=y;; *) luma=x;; esac
echo 'INFO RPI vc4.cpp:630 Sensor: /base/soc/i2c0mux/i2c@1/imx708@1a - Selected sensor format: a' >&2
while true; do piece 12288 | tr '\0' $luma; sleep 0.03; done"#;

#[test]
fn what_is_set_starts_the_program_anew_and_the_picture_goes_on() {
    let stand_in = StandIn::running(OBEYS);
    let mut source = stand_in.open();
    next(&mut source);
    let first = stand_in.wait_for_note("pid");
    for value in [10, 30, 50] {
        source.set_control(ControlId::Brightness, value).unwrap();
    }
    assert_eq!(
        source.control(ControlId::Brightness).unwrap().value,
        50,
        "it is told at once"
    );
    let deadline = clock::now() + LIMIT;
    let mut last = clock::now();
    while !stand_in
        .note("arguments")
        .unwrap()
        .contains("--brightness=0.5")
    {
        assert!(clock::now() < deadline, "it is started anew");
        if let Some(unit) = source.next().unwrap() {
            assert!(unit.captured_at <= clock::now());
            last = unit.captured_at;
        }
    }
    assert_gone(&first);
    assert_eq!(stand_in.note("starts").unwrap().lines().count(), 2, "once");
    let unit = next(&mut source);
    assert!(unit.captured_at > last);
    assert_eq!(types(&unit), [1], "the encoder stays");
    assert!(!source.is_restarting());
}

#[test]
fn settings_that_are_restored_are_there_from_the_first_picture_on() {
    let stand_in = StandIn::running(OBEYS);
    let mut source = Rpicam::open(&stand_in.config).unwrap();
    let set = [
        (ControlId::Brightness, 50),
        (ControlId::FocusAutomaticContinuous, 0),
        (ControlId::FocusAbsolute, 25),
    ];
    for (id, value) in set {
        assert!(source.control(id).unwrap().can_be_reset());
        source.set_control(id, value).unwrap();
    }
    next(&mut source);
    let arguments = stand_in.note("arguments").unwrap();
    let expected = "--brightness=0.5 --autofocus-mode=manual --lens-position=2.5";
    assert!(arguments.contains(expected), "{arguments}");
    assert_eq!(stand_in.note("starts").unwrap().lines().count(), 1);
    let deadline = clock::now() + LIMIT;
    while source.control(ControlId::FocusAbsolute).is_none() {
        assert!(clock::now() < deadline, "its sensor has a lens that moves");
        next(&mut source);
    }
    assert!(source.set_control(ControlId::Gain, 1).is_err());
}

#[test]
fn a_program_that_ends_for_what_was_set_is_started_without() {
    let stand_in = StandIn::running(
        r#"
case "$*" in *--contrast*) echo "ERROR: unrecognised option '--contrast'" >&2; exit 255;; esac
while true; do picture 128; sleep 0.03; done"#,
    );
    let mut source = stand_in.open();
    next(&mut source);
    source.set_control(ControlId::Contrast, 150).unwrap();
    let deadline = clock::now() + LIMIT;
    while source.control(ControlId::Contrast).unwrap().value != 100 {
        assert!(clock::now() < deadline, "it is as it was");
        source.next().unwrap();
    }
    next(&mut source);
    let arguments = stand_in.note("arguments").unwrap();
    assert!(!arguments.contains("contrast"), "{arguments}");
}
