//! A CSI camera as a source: `rpicam-vid` as a child process, its pictures through a pipe.
//!
//! Raw pictures go into our encoder; its own H.264 costs less CPU, but comes without keyframes on
//! demand. The child is in a process group of its own, dies with this process, and is always reaped.
//! When it ends, hangs or is silent, the source fails, and is opened again like any camera. It takes
//! settings when it starts: for others it is started anew, the encoder stays.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::ChildStdout;
use std::time::{Duration, Instant};

use super::child::{self, Running};
use super::coded_stream::CodedStream;
use super::csi::CsiCamera;
use super::csi::settings::{self, Settings};
use super::encoder::Encoder;
use super::format::FourCc;
use super::raw_stream::RawStream;
use super::resume::Resume;
use super::still::{Keeper, Planes, Still};
use super::{AccessUnit, VideoError, VideoSource, csi, holder, poll};
use crate::clock;
use crate::config::{self, CsiMode};
use crate::control::camera::{Control, ControlId};
use crate::h264::access_unit;

/// Longest wait for a picture in one call, so that the capture thread notices that it is to stop.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// A pause between two pictures. Between two writes of one it is microseconds, between pictures at
/// 60 per second up to 16 ms.
const PAUSE: Duration = Duration::from_millis(6);

/// How long the program may deliver no picture. libcamera takes a second or two to start, and starts a sensor
/// that stopped answering again by itself.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// How long settings must have stayed as they are before it is started anew for them: a slider that is
/// being dragged changes them ten times a second.
const SETTLED_AFTER: Duration = Duration::from_millis(350);

/// How long it may be silent when it was started anew.
const RESTARTS_WITHIN: Duration = Duration::from_secs(3);

/// How long it may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(3);

/// How much of the pipe is read at once in coded mode; also its size, where the system allows it: a
/// raw picture is larger than the usual 64 kB.
const PIPE_BYTES: usize = 1 << 20;

/// How long it may take to list its cameras: libcamera asks each of them.
const LIST_WITHIN: Duration = Duration::from_secs(5);

/// Most bytes of what it prints when it is asked something.
const MOST_BYTES_OF_ANSWER: usize = 16_384;

/// A camera behind a program, which runs from the first picture that is asked for.
pub(super) struct Rpicam {
    program: PathBuf,
    version: Option<(u32, u32)>,
    config: config::Video,
    settings: Settings,
    /// When they were changed last, if the program does not know.
    set_at: Option<Instant>,
    process: Option<Process>,
    output: Output,
    description: String,
    /// When the first bytes of the picture that is arriving came.
    begun_at: Option<Instant>,
    /// They were there before we looked: we are slower than the camera.
    is_late: bool,
    has_skipped: bool,
    skipped: u64,
    last_picture: Instant,
    kept: Keeper,
}

/// The program, while it runs.
struct Process {
    child: Running,
    stdout: ChildStdout,
    started_at: Instant,
    has_delivered: bool,
    /// It is not the first: pictures came before it.
    is_anew: bool,
}

enum Output {
    Raw {
        stream: RawStream,
        encoder: Encoder,
    },
    Coded {
        stream: CodedStream,
        ready: VecDeque<AccessUnit>,
        resume: Resume,
        scratch: Vec<u8>,
    },
}

impl fmt::Debug for Rpicam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rpicam").field(&self.description).finish()
    }
}

impl Rpicam {
    /// Finds the program. That it starts and finds a camera shows in its pictures.
    pub(super) fn open(config: &config::Video) -> Result<Self, VideoError> {
        let program = find_program(&config.csi.program).ok_or_else(|| VideoError::Program {
            program: program_name(&config.csi.program),
            reason: "is not installed (`apt install rpicam-apps-lite`)".to_owned(),
        })?;
        let version = match config.csi.mode {
            CsiMode::Raw => None,
            CsiMode::H264 => ask_version(&program),
        };
        let (width, height) = (config.width, config.height);
        // The encoder first: pictures must not pile up while it is tried out.
        let (output, how) = match config.csi.mode {
            CsiMode::Raw => {
                let encoder = Encoder::open(config, (width, height), config.fps, FourCc::H264);
                let how = format!("encoded by {}", encoder.name());
                let stream = raw_stream(config);
                (Output::Raw { stream, encoder }, how)
            }
            CsiMode::H264 => (
                Output::Coded {
                    stream: CodedStream::default(),
                    ready: VecDeque::new(),
                    resume: Resume::new(),
                    scratch: vec![0; PIPE_BYTES],
                },
                "passed through".to_owned(),
            ),
        };
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let (camera, fps) = (config.csi.camera, config.fps);
        Ok(Self {
            description: format!(
                "CSI camera {camera} by {name} {width}x{height} at {fps} fps, {how}"
            ),
            program,
            version,
            config: config.clone(),
            settings: Settings::new(&config.csi.options),
            set_at: None,
            process: None,
            output,
            begun_at: None,
            is_late: false,
            has_skipped: false,
            skipped: 0,
            last_picture: clock::now(),
            kept: Keeper::default(),
        })
    }

    /// Starts the program where it does not run, and anew where other settings have settled.
    fn keep_running(&mut self) -> Result<(), VideoError> {
        let now = clock::now();
        let has_settled = |at| now.saturating_duration_since(at) >= SETTLED_AFTER;
        let mut is_anew = false;
        if self.process.is_some() {
            if !self.set_at.is_some_and(has_settled) {
                return Ok(());
            }
            is_anew = true;
            // Ends it: two cannot have the camera.
            self.process = None;
        }
        self.start(is_anew)
    }

    fn start(&mut self, is_anew: bool) -> Result<(), VideoError> {
        let arguments = csi::arguments(&self.config, &self.settings, self.version);
        let started = Running::start(&self.program, &arguments);
        let (child, stdout) =
            started.map_err(|error| self.failed(&format!("cannot be started: {error}")))?;
        child::widen(&stdout, PIPE_BYTES);
        match &mut self.output {
            Output::Raw { stream, .. } => *stream = raw_stream(&self.config),
            Output::Coded {
                stream,
                ready,
                resume,
                ..
            } => {
                *stream = CodedStream::default();
                ready.clear();
                *resume = Resume::new();
            }
        }
        self.begun_at = None;
        self.set_at = None;
        self.last_picture = clock::now();
        self.process = Some(Process {
            child,
            stdout,
            started_at: self.last_picture,
            has_delivered: false,
            is_anew,
        });
        Ok(())
    }

    /// Reads once, where there is something; returns whether there was.
    fn read(&mut self, timeout: Duration) -> Result<bool, VideoError> {
        let Some(process) = &mut self.process else {
            return Ok(false);
        };
        let is_there = |timeout| poll::wait(process.stdout.as_raw_fd(), libc::POLLIN, timeout);
        let unwaited = is_there(Duration::ZERO)
            .and_then(|now| Ok((now != 0, now != 0 || is_there(timeout)? != 0)));
        let (unwaited, is_there) =
            unwaited.map_err(|e| failure(&self.program, &format!("cannot be waited for: {e}")))?;
        if !is_there {
            return Ok(false);
        }
        if self.begun_at.is_none() {
            self.is_late = unwaited;
        }
        let space = match &mut self.output {
            Output::Raw { stream, .. } => stream.space(),
            Output::Coded { scratch, .. } => scratch,
        };
        let length = match process.stdout.read(space) {
            Ok(0) => return self.handle_end().map(|()| false),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(error) => return Err(self.failed(&format!("cannot be read: {error}"))),
        };
        self.begun_at.get_or_insert_with(clock::now);
        match &mut self.output {
            Output::Raw { stream, .. } => {
                stream.wrote(length);
                if stream.is_lost() {
                    let reason = "writes pictures without a pause between them, which takes a \
                                  `video.width` that is a multiple of 128";
                    return Err(self.failed(reason));
                }
            }
            Output::Coded {
                stream, scratch, ..
            } => {
                stream.push(scratch.get(..length).unwrap_or_default());
            }
        }
        Ok(true)
    }

    /// Returns an access unit that is ready.
    fn take(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        match &mut self.output {
            Output::Raw { stream, encoder } => {
                if let Some(picture) = stream.take() {
                    let captured_at = self.begun_at.take().unwrap_or_else(clock::now);
                    // What waits in the pipe is old, and gets older. Every other one is shown.
                    self.has_skipped = self.is_late && !self.has_skipped;
                    if self.has_skipped {
                        self.skipped += 1;
                        return Ok(None);
                    }
                    self.kept
                        .offer(|| Still::Picture(Planes::copy_of(&picture)));
                    return encoder.encode(&picture, captured_at);
                }
                encoder.take_ready()
            }
            Output::Coded { ready, .. } => Ok(ready.pop_front()),
        }
    }

    fn pause(&mut self) {
        match &mut self.output {
            Output::Raw { stream, .. } => stream.pause(),
            Output::Coded {
                stream,
                ready,
                resume,
                ..
            } => {
                let captured_at = self.begun_at.take().unwrap_or_else(clock::now);
                let (units, is_damaged) = stream.pause();
                if is_damaged {
                    resume.handle_damage();
                }
                for data in units {
                    if resume.handle_picture(access_unit::contents(&data).is_idr, clock::now()) {
                        // Bounded: they come of one buffer that is.
                        ready.push_back(AccessUnit { data, captured_at });
                    }
                }
            }
        }
    }

    /// Returns whether a pause would end or tell something.
    fn waits_for_pause(&self) -> bool {
        match &self.output {
            Output::Raw { stream, .. } => stream.waits_for_pause(),
            Output::Coded { stream, .. } => stream.has_begun(),
        }
    }

    fn failed(&self, reason: &str) -> VideoError {
        failure(&self.program, reason)
    }

    /// The program ended by itself: its last words are the reason. Where it may have been for what was
    /// set, it is started once more without.
    fn handle_end(&mut self) -> Result<(), VideoError> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        let status = process.child.end();
        let words = process.child.last_complaint();
        if words.as_deref().is_some_and(csi::says_busy) {
            return Err(VideoError::Busy {
                path: PathBuf::from("csi"),
                holder: holder::of_program(&csi::PROGRAMS),
            });
        }
        let status = status.map_or_else(|| "ended".to_owned(), |s| format!("ended ({s})"));
        let reason = match words {
            Some(words) => format!("{status}: {words}"),
            None => status,
        };
        if !process.has_delivered && self.settings.reset() {
            let camera = &self.description;
            tracing::warn!(
                camera,
                reason,
                "started again without what viewers have set"
            );
            return self.start(process.is_anew);
        }
        Err(self.failed(&reason))
    }
}

impl VideoSource for Rpicam {
    fn next(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        let deadline = clock::now() + LONGEST_WAIT;
        self.keep_running()?;
        loop {
            let unit = self.take()?;
            let now = clock::now();
            if unit.is_some() {
                self.last_picture = now;
                if let Some(process) = &mut self.process {
                    process.has_delivered = true;
                }
            }
            // Bytes may come without ever becoming a picture.
            if now.saturating_duration_since(self.last_picture) > LONGEST_SILENCE {
                return Err(VideoError::Stalled {
                    path: self.program.clone(),
                    silent_for: LONGEST_SILENCE,
                });
            }
            if unit.is_some() || now >= deadline {
                return Ok(unit);
            }
            let waits_for_pause = self.waits_for_pause();
            let timeout = if waits_for_pause {
                PAUSE
            } else {
                deadline - now
            };
            if !self.read(timeout)? && waits_for_pause {
                self.pause();
            }
        }
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn keyframes_on_demand(&self) -> bool {
        matches!(self.output, Output::Raw { .. })
    }

    fn request_keyframe(&mut self) {
        if let Output::Raw { encoder, .. } = &mut self.output {
            encoder.request_keyframe();
        }
    }

    fn set_bitrate(&mut self, bits_per_second: u32) {
        if let Output::Raw { encoder, .. } = &mut self.output {
            encoder.set_bitrate(bits_per_second);
        }
    }

    fn identity(&self) -> String {
        format!("CSI camera {}", self.config.csi.camera)
    }

    fn controls(&self) -> Vec<Control> {
        let sensor = self.process.as_ref().and_then(|p| p.child.sensor());
        let has_lens = sensor.is_some_and(|sensor| settings::has_lens(&sensor));
        self.settings.controls(has_lens)
    }

    fn control(&self, id: ControlId) -> Option<Control> {
        // Before the program has said which sensor it is, what was set of it before is as good as known.
        let controls = match self.process {
            Some(_) => self.controls(),
            None => self.settings.controls(true),
        };
        controls.into_iter().find(|control| control.id == id)
    }

    fn set_control(&mut self, id: ControlId, value: i32) -> Result<(), String> {
        let is_new = self.settings.set(id, value);
        if is_new.ok_or_else(|| format!("it has no {id}"))? && self.process.is_some() {
            self.set_at = Some(clock::now());
        }
        Ok(())
    }

    fn is_restarting(&self) -> bool {
        self.process.as_ref().is_some_and(|process| {
            let since = clock::now().saturating_duration_since(process.started_at);
            process.is_anew && !process.has_delivered && since < RESTARTS_WITHIN
        })
    }

    fn keep_next_picture(&mut self) -> bool {
        let has_pictures = matches!(self.output, Output::Raw { .. });
        if has_pictures {
            self.kept.ask();
        }
        has_pictures
    }

    fn take_picture(&mut self) -> Option<Still> {
        self.kept.take()
    }
}

impl Drop for Rpicam {
    fn drop(&mut self) {
        if self.skipped > 0 {
            let (camera, skipped) = (&self.description, self.skipped);
            tracing::info!(
                camera,
                skipped,
                "pictures came faster than they are encoded"
            );
        }
    }
}

fn failure(program: &Path, reason: &str) -> VideoError {
    VideoError::Program {
        program: program.display().to_string(),
        reason: reason.to_owned(),
    }
}

fn raw_stream(config: &config::Video) -> RawStream {
    let pixels = |n: u32| usize::try_from(n).unwrap_or_default();
    RawStream::new(pixels(config.width), pixels(config.height))
}

/// Returns the program of the configuration, or the first of the usual ones that is there.
fn find_program(configured: &str) -> Option<PathBuf> {
    if !configured.is_empty() {
        return on_path(configured);
    }
    csi::PROGRAMS.into_iter().find_map(on_path)
}

/// Returns whether there is a program for CSI cameras.
pub(super) fn is_installed(config: &config::Csi) -> bool {
    find_program(&config.program).is_some()
}

fn program_name(configured: &str) -> String {
    let [usual, _] = csi::PROGRAMS;
    let name = if configured.is_empty() {
        usual
    } else {
        configured
    };
    name.to_owned()
}

fn on_path(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| path.is_file());
    }
    let directories = std::env::var_os("PATH")?;
    std::env::split_paths(&directories)
        .map(|directory| directory.join(name))
        .find(|path| path.is_file())
}

/// Returns the program for CSI cameras, and those it sees; `None` where there is no program.
pub(super) fn cameras(config: &config::Csi) -> Option<(PathBuf, Vec<CsiCamera>)> {
    let program = find_program(&config.program)?;
    let list = ask(&program, "--list-cameras", LIST_WITHIN);
    let cameras = list.map(|list| csi::cameras(&list)).unwrap_or_default();
    Some((program, cameras))
}

/// Asks the program for its release; `None` where it does not say in time.
fn ask_version(program: &Path) -> Option<(u32, u32)> {
    csi::version(&ask(program, "--version", VERSION_WITHIN)?)
}

/// Returns what the program prints when it is started with `option`; `None` where it cannot be started.
fn ask(program: &Path, option: &str, within: Duration) -> Option<String> {
    let (_child, mut stdout) = Running::start(program, &[option.to_owned()]).ok()?;
    let deadline = clock::now() + within;
    let mut text = vec![0; MOST_BYTES_OF_ANSWER];
    let mut length = 0;
    loop {
        let left = deadline.saturating_duration_since(clock::now());
        let space = text.get_mut(length..)?;
        if left.is_zero() || space.is_empty() {
            break;
        }
        if poll::wait(stdout.as_raw_fd(), libc::POLLIN, left).ok()? != 0 {
            match stdout.read(space).ok()? {
                0 => break,
                more => length += more,
            }
        }
    }
    Some(String::from_utf8_lossy(text.get(..length)?).into_owned())
}

#[cfg(test)]
mod tests;
