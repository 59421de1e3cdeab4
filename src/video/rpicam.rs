//! A CSI camera as a source: `rpicam-vid` as a child process, its pictures through a pipe.
//!
//! Raw pictures go into our encoder; its own H.264 costs less CPU, but comes without keyframes on
//! demand. The child is in a process group of its own, dies with this process, and is always reaped.
//! When it ends, hangs or is silent, the source fails, and is opened again like any camera.

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
use super::encoder::Encoder;
use super::raw_stream::RawStream;
use super::resume::Resume;
use super::still::{Keeper, Planes, Still};
use super::{AccessUnit, VideoError, VideoSource, csi, holder, poll};
use crate::clock;
use crate::config::{self, CsiMode};
use crate::h264::access_unit;

/// Longest wait for a picture in one call, so that the capture thread notices that it is to stop.
const LONGEST_WAIT: Duration = Duration::from_millis(200);

/// A pause between two pictures. Between two writes of one it is microseconds, between pictures at
/// 60 per second up to 16 ms.
const PAUSE: Duration = Duration::from_millis(6);

/// How long the program may deliver no picture. libcamera takes a second or two to start, and starts a sensor
/// that stopped answering again by itself.
const LONGEST_SILENCE: Duration = Duration::from_secs(5);

/// How long it may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(3);

/// How much of the pipe is read at once in coded mode; also its size, where the system allows it: a
/// raw picture is larger than the usual 64 kB.
const PIPE_BYTES: usize = 1 << 20;

/// How long it may take to list its cameras: libcamera asks each of them.
const LIST_WITHIN: Duration = Duration::from_secs(5);

/// Most bytes of what it prints when it is asked something.
const MOST_BYTES_OF_ANSWER: usize = 16_384;

/// A camera program that runs.
pub(super) struct Rpicam {
    program: PathBuf,
    child: Running,
    stdout: ChildStdout,
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
    /// Starts the program. That it finds a camera shows in its pictures.
    pub(super) fn open(config: &config::Video) -> Result<Self, VideoError> {
        let program = find_program(&config.csi.program).ok_or_else(|| VideoError::Program {
            program: program_name(&config.csi.program),
            reason: "is not installed (`apt install rpicam-apps-lite`)".to_owned(),
        })?;
        let version = match config.csi.mode {
            CsiMode::Raw => None,
            CsiMode::H264 => ask_version(&program),
        };
        let failed = |error: io::Error| VideoError::Program {
            program: program.display().to_string(),
            reason: format!("cannot be started: {error}"),
        };
        let (width, height) = (config.width, config.height);
        let pixels = |n: u32| usize::try_from(n).unwrap_or_default();
        // The encoder first: pictures must not pile up while it is tried out.
        let (output, how) = match config.csi.mode {
            CsiMode::Raw => {
                let encoder = Encoder::open(config, (width, height), config.fps);
                let how = format!("encoded by {}", encoder.name());
                let stream = RawStream::new(pixels(width), pixels(height));
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
        let arguments = csi::arguments(config, version);
        let (child, stdout) = Running::start(&program, &arguments).map_err(failed)?;
        child::widen(&stdout, PIPE_BYTES);
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let (camera, fps) = (config.csi.camera, config.fps);
        Ok(Self {
            description: format!(
                "CSI camera {camera} by {name} {width}x{height} at {fps} fps, {how}"
            ),
            program,
            child,
            stdout,
            output,
            begun_at: None,
            is_late: false,
            has_skipped: false,
            skipped: 0,
            last_picture: clock::now(),
            kept: Keeper::default(),
        })
    }

    /// Reads once, where there is something; returns whether there was.
    fn read(&mut self, timeout: Duration) -> Result<bool, VideoError> {
        let is_there = |timeout| poll::wait(self.stdout.as_raw_fd(), libc::POLLIN, timeout);
        let unwaited = is_there(Duration::ZERO)
            .and_then(|now| Ok((now != 0, now != 0 || is_there(timeout)? != 0)));
        let (unwaited, is_there) =
            unwaited.map_err(|e| self.failed(&format!("cannot be waited for: {e}")))?;
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
        let length = match self.stdout.read(space) {
            Ok(0) => return Err(self.ended()),
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
                    if resume.handle_picture(access_unit::contents(&data).is_idr) {
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
        VideoError::Program {
            program: self.program.display().to_string(),
            reason: reason.to_owned(),
        }
    }

    /// The error of a program that ended by itself: its last words are the reason.
    fn ended(&mut self) -> VideoError {
        let status = self.child.end();
        let words = self.child.last_complaint();
        if words.as_deref().is_some_and(csi::says_busy) {
            return VideoError::Busy {
                path: PathBuf::from("csi"),
                holder: holder::of_program(&csi::PROGRAMS),
            };
        }
        let status = status.map_or_else(|| "ended".to_owned(), |s| format!("ended ({s})"));
        self.failed(&match words {
            Some(words) => format!("{status}: {words}"),
            None => status,
        })
    }
}

impl VideoSource for Rpicam {
    fn next(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        let deadline = clock::now() + LONGEST_WAIT;
        loop {
            let unit = self.take()?;
            let now = clock::now();
            if unit.is_some() {
                self.last_picture = now;
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
