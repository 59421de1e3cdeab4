//! A viewer without a screen: `roomcam watch URL`.
//!
//! Joins a room as a browser would, receives picture and sound, counts, and reports. People use it
//! as a health check, the tests and benches as a viewer. It shares nothing with the device's media
//! path: it stands on the crate `webrtc`, which plays the browser's part.
//!
//! ```text
//! invitation ─▶ websocket ⇄ protocol ─┐
//!                                      viewer ─▶ Seen ─▶ report
//! webrtc ─▶ reorder ─▶ depacketize ─▶ tally ─┘
//! ```

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::mpsc;

pub mod depacketize;
pub mod invitation;
pub mod ogg;
pub mod protocol;
pub mod reorder;
pub mod report;
pub mod reports;
pub mod seen;
pub mod speech;
pub mod tally;
pub mod timing;
pub mod viewer;
mod webrtc;
mod websocket;

use self::depacketize::AccessUnit;
use self::invitation::Invitation;
use self::protocol::Refusal;
use self::report::WatchReport;
use self::seen::{Connection, Seen};
use self::speech::Speech;
use self::viewer::{Viewer, Wishes};
use crate::clock;
use crate::config::Secret;
use crate::talkback::SAMPLE_RATE_HZ;

/// How long a device may stay away from its room.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the device may take to answer an offer, and to connect. ICE itself gives up after
/// about that long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the first frame may take. A camera that has to be opened takes a second, one that
/// cannot make keyframes on demand as long as its GOP is.
const FIRST_FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// How long after its end what was said may be on its way to the loudspeaker.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How many frames are enough where nothing is said.
const DEFAULT_FRAMES: u64 = 30;

/// How long frames are waited for where nothing is said.
const DEFAULT_LIMIT: Duration = Duration::from_secs(30);

/// How many frames may wait for the disk.
const MAX_UNSAVED_FRAMES: usize = 256;

/// What to watch, and for how long.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// Where.
    pub invitation: Invitation,
    /// Stop after so many whole frames. Without it and `seconds`: after 30.
    pub frames: Option<u64>,
    /// Stop after so many seconds of media; with `frames`, that is the time they have to come in.
    pub seconds: Option<u64>,
    /// Write the frames to this file, as Annex B, from the first keyframe on.
    pub save: Option<PathBuf>,
    /// Say this file, or `tone`, once connected; then watch.
    pub speak: Option<PathBuf>,
}

/// Why nothing, or not enough, was seen.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The room server cannot be reached.
    #[error("no room server answers at {server}: {reason}")]
    NoServer {
        /// Its URL.
        server: String,
        /// What happened instead.
        reason: String,
    },
    /// The key does not open the room.
    #[error(
        "wrong key for room {room:?}, or there is no such room; the device prints the right URL when it starts"
    )]
    WrongKey {
        /// The room.
        room: String,
    },
    /// The room server refused.
    #[error("the room server refused: {message} ({code})")]
    RefusedByServer {
        /// The code of `docs/signaling.md`.
        code: String,
        /// What it said.
        message: String,
    },
    /// The device refused.
    #[error("the device refused: {message} ({code})")]
    RefusedByDevice {
        /// The code of `docs/signaling.md`.
        code: String,
        /// What it said.
        message: String,
    },
    /// There is no device.
    #[error("room {room:?} has no device; waited {} s for one", DEVICE_TIMEOUT.as_secs())]
    NoDevice {
        /// The room.
        room: String,
    },
    /// The device is in the room, but does not answer.
    #[error("the device does not answer; waited {} s", CONNECT_TIMEOUT.as_secs())]
    NoAnswer,
    /// No path between viewer and device.
    #[error(
        "no connection to the device: tried {} with {}{}{device}",
        list(local),
        list(remote),
        if device.is_empty() { "" } else { "; the device says: " }
    )]
    NoConnection {
        /// Our candidates.
        local: Vec<String>,
        /// The device's.
        remote: Vec<String>,
        /// What it says of that; may be empty.
        device: String,
    },
    /// Connected, but there is nothing to see.
    #[error("connected, but no picture of the camera came within {waited_s} s: {reason}")]
    NoFrames {
        /// Seconds.
        waited_s: u64,
        /// What came instead.
        reason: String,
    },
    /// Some frames came, but not as many as were asked for.
    #[error("{} of {wanted} frames came: {reason}", report.frames)]
    TooFewFrames {
        /// How many were asked for.
        wanted: u64,
        /// Why it ended.
        reason: &'static str,
        /// What came.
        report: Box<WatchReport>,
    },
    /// The connection ended before the time that was asked for.
    #[error(
        "the connection to the device was lost before the time was over; {} frames came",
        report.frames
    )]
    Lost {
        /// What came.
        report: Box<WatchReport>,
    },
    /// The file cannot be written.
    #[error("cannot write {}", path.display())]
    Save {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is to be said cannot be.
    #[error("cannot say {}: it {reason}", path.display())]
    Speech {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The device does not let us speak, or not to the end.
    #[error("not heard: {message} ({code})")]
    NotHeard {
        /// The code of `docs/control.md`.
        code: String,
        /// What it said.
        message: String,
    },
    /// The report cannot be printed.
    #[error("cannot print the report")]
    Print(#[source] io::Error),
}

impl WatchError {
    /// Tells a refusal in the terms of someone who watches `room`.
    pub(crate) fn from_refusal(refusal: Refusal, room: &str) -> Self {
        let Refusal {
            code,
            message,
            from,
        } = refusal;
        match (code.as_str(), from.as_deref()) {
            ("wrong-key", _) => Self::WrongKey {
                room: room.to_owned(),
            },
            (_, Some("device")) => Self::RefusedByDevice { code, message },
            _ => Self::RefusedByServer { code, message },
        }
    }
}

fn list(candidates: &[String]) -> String {
    if candidates.is_empty() {
        "no candidate".to_owned()
    } else {
        candidates.join(", ")
    }
}

/// Watches, and writes the report to `out`: as JSON, or for people. A watch that came to see too
/// few frames, or whose connection was lost, is reported as well.
///
/// # Errors
///
/// Any [`WatchError`]: the frames did not come.
pub async fn run(
    options: WatchOptions,
    json: bool,
    out: &mut impl Write,
) -> Result<(), WatchError> {
    let result = watch(options).await;
    let report = match &result {
        Ok(report) => Some(report),
        Err(WatchError::TooFewFrames { report, .. } | WatchError::Lost { report }) => {
            Some(report.as_ref())
        }
        Err(_) => None,
    };
    if let Some(report) = report {
        let text = if json {
            report.to_json()
        } else {
            report.to_string()
        };
        writeln!(out, "{text}").map_err(WatchError::Print)?;
    }
    result.map(drop)
}

/// Watches as `options` say, at most until Ctrl-C, and returns what was seen.
///
/// # Errors
///
/// Any [`WatchError`]: the frames did not come.
pub async fn watch(options: WatchOptions) -> Result<WatchReport, WatchError> {
    let speech = match options.speak.clone() {
        Some(name) => Some(load(name).await?),
        None => None,
    };
    let saving = match &options.save {
        Some(path) => Some(Saving::start(path).await?),
        None => None,
    };
    let frames = saving.as_ref().map(|saving| saving.frames.clone());
    let wishes = Wishes {
        frames,
        speaks: speech.is_some(),
        ..Wishes::default()
    };
    let mut viewer = Viewer::join_with(&options.invitation, wishes).await?;

    let observed = observe(&mut viewer, &options, speech.as_ref()).await;
    // Whatever came of it: who goes without a word keeps its place until it is missed.
    viewer.leave().await;
    let saved = match saving {
        Some(saving) => saving.finish().await,
        None => Ok(()),
    };
    let report = observed?;
    saved.map(|()| report)
}

/// Waits for what `options` ask for, and sums up what came.
async fn observe(
    viewer: &mut Viewer,
    options: &WatchOptions,
    speech: Option<&Speech>,
) -> Result<WatchReport, WatchError> {
    let room = options.invitation.room.as_str();
    connect(viewer, room).await?;
    if let Some(speech) = speech {
        speak(viewer, speech, &options.invitation.talk_key).await?;
    }
    let started = clock::now();
    first_frame(viewer).await?;
    let limit = options
        .seconds
        .map_or(DEFAULT_LIMIT, Duration::from_secs)
        .saturating_sub(clock::now() - started);
    let wanted = match (options.frames, options.seconds) {
        (Some(frames), _) => Some(frames.max(1)),
        (None, Some(_)) => None,
        (None, None) => Some(DEFAULT_FRAMES),
    };
    let enough = |seen: &Seen| {
        let came = wanted.is_some_and(|wanted| seen.counts.frames >= wanted);
        (came && !is_away(seen)) || !is_alive(seen)
    };
    let interrupted = tokio::select! {
        _ = viewer.until(limit, enough) => false,
        result = tokio::signal::ctrl_c() => result.is_ok(),
    };
    let seen = viewer.seen();
    if wanted.is_some() && is_alive(&seen) && is_away(&seen) && !interrupted {
        return Err(no_frames(&seen, limit));
    }
    judge(&seen, room, wanted, interrupted)
}

/// Returns the report, unless too little came. `wanted` is how many frames, `None` whatever comes
/// in the time.
fn judge(
    seen: &Seen,
    room: &str,
    wanted: Option<u64>,
    interrupted: bool,
) -> Result<WatchReport, WatchError> {
    let report = WatchReport::new(room, seen);
    match wanted {
        Some(wanted) if report.frames < wanted => Err(WatchError::TooFewFrames {
            wanted,
            reason: if interrupted {
                "interrupted"
            } else if is_alive(seen) {
                "the time is over"
            } else {
                "the connection to the device was lost"
            },
            report: Box::new(report),
        }),
        None if !is_alive(seen) => Err(WatchError::Lost {
            report: Box::new(report),
        }),
        _ => Ok(report),
    }
}

/// Waits until the device is connected.
async fn connect(viewer: &mut Viewer, room: &str) -> Result<(), WatchError> {
    let refused = |seen: &Seen| {
        let refusal = seen.refusal().cloned();
        refusal.map(|refusal| WatchError::from_refusal(refusal, room))
    };
    viewer
        .until(DEVICE_TIMEOUT, |seen| seen.offered.is_some())
        .await
        .map_err(|seen| {
            refused(&seen).unwrap_or_else(|| WatchError::NoDevice {
                room: room.to_owned(),
            })
        })?;
    let answered = |seen: &Seen| seen.answered.is_some() || seen.refusal().is_some();
    let seen = viewer
        .until(CONNECT_TIMEOUT, answered)
        .await
        .map_err(|_| WatchError::NoAnswer)?;
    if let Some(error) = refused(&seen) {
        return Err(error);
    }
    let decided = |seen: &Seen| seen.connected.is_some() || seen.connection == Connection::Failed;
    match viewer.until(CONNECT_TIMEOUT, decided).await {
        Ok(seen) if seen.connected.is_some() => Ok(()),
        Ok(seen) => Err(no_connection(seen)),
        Err(seen) => Err(no_connection(*seen)),
    }
}

async fn load(name: PathBuf) -> Result<Speech, WatchError> {
    let path = name.clone();
    let loading = tokio::task::spawn_blocking(move || Speech::load(&name)).await;
    loading.unwrap_or_else(|ended| {
        let reason = ended.to_string();
        Err(WatchError::Speech { path, reason })
    })
}

/// Says all of it, at the pace of its packets.
async fn speak(viewer: &mut Viewer, speech: &Speech, key: &Secret) -> Result<(), WatchError> {
    let not_heard = |refusal: Option<Refusal>| {
        let Refusal { code, message, .. } = refusal.unwrap_or_else(|| Refusal {
            code: "no-reply".to_owned(),
            message: "the device does not reply".to_owned(),
            from: None,
        });
        WatchError::NotHeard { code, message }
    };
    let open = |seen: &Seen| seen.control_open.is_some();
    let opened = viewer.until(CONNECT_TIMEOUT, open).await;
    opened.map_err(|_| not_heard(None))?;
    let reply = viewer.set_talking(true, key).await;
    let reply = reply.ok_or_else(|| not_heard(None))?;
    if reply.error.is_some() {
        return Err(not_heard(reply.error));
    }
    let mut due = clock::now();
    for (packet, samples) in speech.packets() {
        tokio::time::sleep_until(due.into()).await;
        if viewer.seen().talking_ended.is_some() {
            break;
        }
        viewer.say(packet, samples).await;
        due += Duration::from_secs(1) * samples / SAMPLE_RATE_HZ;
    }
    // What is on its way is to be heard, and why it may not have been.
    tokio::time::sleep_until((due + LAST_WORDS).into()).await;
    if let Some(refusal) = viewer.seen().talking_ended {
        return Err(not_heard(Some(refusal)));
    }
    viewer.set_talking(false, key).await;
    Ok(())
}

fn no_connection(seen: Seen) -> WatchError {
    let mut refusals = seen.refusals.into_iter();
    let verdict = refusals.find(|refusal| refusal.from.as_deref() == Some("device"));
    WatchError::NoConnection {
        device: verdict.map(|verdict| verdict.message).unwrap_or_default(),
        local: seen.local_candidates,
        remote: seen.remote_candidates,
    }
}

/// Waits until there is something to see.
async fn first_frame(viewer: &mut Viewer) -> Result<(), WatchError> {
    let came = |seen: &Seen| seen.counts.frames > 0 && !is_away(seen);
    let decided = |seen: &Seen| came(seen) || !is_alive(seen);
    match viewer.until(FIRST_FRAME_TIMEOUT, decided).await {
        Ok(seen) if came(&seen) => Ok(()),
        Ok(seen) => Err(no_frames(&seen, FIRST_FRAME_TIMEOUT)),
        Err(seen) => Err(no_frames(&seen, FIRST_FRAME_TIMEOUT)),
    }
}

fn no_frames(seen: &Seen, waited: Duration) -> WatchError {
    let device = match &seen.state {
        _ if !is_alive(seen) => "the connection was lost".to_owned(),
        Some(state) if !state.camera => "the camera is switched off".to_owned(),
        Some(state) if state.video == "none" => "the device has no camera".to_owned(),
        Some(state) if !state.detail.is_empty() => state.detail.clone(),
        Some(state) => format!("the device's video is {:?}", state.video),
        None => "the device told no state".to_owned(),
    };
    WatchError::NoFrames {
        waited_s: waited.as_secs(),
        reason: format!("{device}; {} video packets came", seen.counts.video_packets),
    }
}

/// Whether the device has not said that its camera is there: until then, its pictures may say that it is
/// not, and show nothing.
fn is_away(seen: &Seen) -> bool {
    let state = seen.state.as_ref();
    !state.is_some_and(|state| state.camera && state.video == "live")
}

fn is_alive(seen: &Seen) -> bool {
    !matches!(seen.connection, Connection::Failed | Connection::Closed)
}

/// Writes frames to a file, in a task of its own.
struct Saving {
    frames: mpsc::Sender<AccessUnit>,
    path: PathBuf,
    task: tokio::task::JoinHandle<io::Result<()>>,
}

impl Saving {
    async fn start(path: &Path) -> Result<Self, WatchError> {
        let (frames, unsaved) = mpsc::channel(MAX_UNSAVED_FRAMES);
        let opening = path.to_owned();
        let file = tokio::task::spawn_blocking(move || std::fs::File::create(opening))
            .await
            .unwrap_or_else(|ended| Err(ended.into()))
            .map_err(|source| WatchError::Save {
                path: path.to_owned(),
                source,
            })?;
        let task = tokio::task::spawn_blocking(move || save(unsaved, file));
        Ok(Self {
            frames,
            path: path.to_owned(),
            task,
        })
    }

    async fn finish(self) -> Result<(), WatchError> {
        drop(self.frames);
        let saved = self.task.await.unwrap_or_else(|ended| Err(ended.into()));
        saved.map_err(|source| WatchError::Save {
            path: self.path,
            source,
        })
    }
}

/// Writes what can be decoded: nothing in front of the first keyframe.
fn save(mut frames: mpsc::Receiver<AccessUnit>, file: std::fs::File) -> io::Result<()> {
    let mut file = io::BufWriter::new(file);
    let mut started = false;
    while let Some(frame) = frames.blocking_recv() {
        started |= frame.is_keyframe;
        if started {
            file.write_all(&frame.data)?;
        }
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_by_the_clock_whose_connection_died_early_fails() {
        let mut seen = Seen {
            connection: Connection::Connected,
            ..Seen::default()
        };
        seen.counts.frames = 7;
        assert_eq!(judge(&seen, "cam", None, false).unwrap().frames, 7);
        for connection in [Connection::Failed, Connection::Closed] {
            seen.connection = connection;
            let error = judge(&seen, "cam", None, false).unwrap_err();
            let words =
                "the connection to the device was lost before the time was over; 7 frames came";
            assert_eq!(error.to_string(), words);
            assert_eq!(judge(&seen, "cam", Some(7), false).unwrap().frames, 7);
        }
    }
}
