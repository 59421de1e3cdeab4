//! The capture threads, and the one that plays: started, configured, watched over.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{broadcast, mpsc, watch};

use crate::audio::capture::AudioRequest;
use crate::config::{self, Config};
use crate::control::SourceStatus;
use crate::engine::{EngineChannels, EngineOptions, Pulse};
use crate::progress::{Lack, Progress};
use crate::rtp::{AudioFrame, VideoFrame};
use crate::signaling::{RoomEvent, RoomIndex};
use crate::talkback::player::{self, Player};
use crate::video::capture::CaptureRequest;
use crate::video::desk::{self, desk};
use crate::{audio, video};

/// Video frames between capture and engine. The engine takes each at once; a sixth of a second at
/// 90 fps is for a machine that stumbles.
const VIDEO_QUEUE: usize = 16;

/// Audio frames between capture and engine: 320 ms.
const AUDIO_QUEUE: usize = 16;

/// The running capture threads, and the ends of channels that a missing source would have held.
pub(super) struct CaptureThreads {
    pub(super) threads: Vec<JoinHandle<()>>,
    video: watch::Sender<config::Video>,
    audio: watch::Sender<config::Audio>,
    progress: [(&'static str, Progress); 2],
    /// What only a new process may mend, when it was last looked at.
    lack: Option<(&'static str, Lack)>,
}

impl CaptureThreads {
    /// Hands the threads what is new to them.
    pub(super) fn configure(&self, video: &config::Video, audio: &config::Audio) {
        change(&self.video, video);
        change(&self.audio, audio);
    }

    /// Returns what only a new process may mend, if anything: in words, for `systemctl status`.
    pub(super) fn lack(&mut self, now: Instant) -> Option<String> {
        let mut lacks = self.progress.iter();
        let lack = lacks.find_map(|(what, progress)| Some((*what, progress.lack(now)?)));
        if lack != self.lack {
            self.lack = lack;
            match lack {
                Some((what, Lack::Hung)) => {
                    tracing::error!(what, "hangs in its driver, waiting for a restart");
                }
                Some((what, Lack::Starved)) => {
                    tracing::error!(
                        what,
                        "delivers nothing though it was opened again, waiting for a restart"
                    );
                }
                None => tracing::info!("works again"),
            }
        }
        lack.map(|(what, lack)| match lack {
            Lack::Hung => format!("the {what} hangs in its driver"),
            Lack::Starved => format!("the {what} delivers nothing"),
        })
    }
}

fn change<T: Clone + PartialEq>(settings: &watch::Sender<T>, new: &T) {
    settings.send_if_modified(|running| {
        let changed = running != new;
        if changed {
            running.clone_from(new);
        }
        changed
    });
}

/// The engine's ends of the capture channels.
pub(super) struct CaptureChannels {
    video: broadcast::Receiver<Arc<VideoFrame>>,
    audio: broadcast::Receiver<Arc<AudioFrame>>,
    video_status: watch::Receiver<SourceStatus>,
    audio_status: watch::Receiver<SourceStatus>,
    video_request: watch::Sender<CaptureRequest>,
    audio_request: watch::Sender<AudioRequest>,
    player: Player,
    camera: desk::Client,
    shutdown: watch::Receiver<bool>,
}

impl CaptureChannels {
    pub(super) fn with(
        self,
        options: watch::Receiver<EngineOptions>,
        events: mpsc::Receiver<(RoomIndex, RoomEvent)>,
        pulse: watch::Sender<Pulse>,
    ) -> EngineChannels {
        EngineChannels {
            options,
            events,
            video: self.video,
            audio: self.audio,
            video_status: self.video_status,
            audio_status: self.audio_status,
            video_request: self.video_request,
            audio_request: self.audio_request,
            player: self.player,
            camera: self.camera,
            pulse,
            shutdown: self.shutdown,
        }
    }
}

/// Starts a thread for each; one without a source waits for a configuration that has one.
pub(super) fn start_capture(
    config: &Config,
    shutdown: watch::Receiver<bool>,
) -> io::Result<(CaptureThreads, CaptureChannels)> {
    let runtime = tokio::runtime::Handle::current();
    // full: oldest lost, viewers wait for a keyframe
    let (video_tx, video) = broadcast::channel(VIDEO_QUEUE);
    let (audio_tx, audio) = broadcast::channel(AUDIO_QUEUE);
    let (video_status_tx, video_status) = watch::channel(SourceStatus::Off);
    let (audio_status_tx, audio_status) = watch::channel(SourceStatus::Off);
    let (video_request, video_requests) = watch::channel(CaptureRequest::default());
    let (audio_request, audio_requests) = watch::channel(AudioRequest {
        run: false,
        muted: config.control.muted,
        shutdown: false,
    });
    let (video_settings, video_configured) = watch::channel(config.video.clone());
    let (audio_settings, audio_configured) = watch::channel(config.audio.clone());
    let (camera_desk, client) = desk();
    let (camera, microphone) = (Progress::default(), Progress::default());
    let (talkback, player) = player::spawn()?;
    let threads = vec![
        talkback,
        video::capture::spawn(
            video_configured,
            runtime.clone(),
            video_requests,
            video_tx,
            video_status_tx,
            camera.clone(),
            camera_desk,
        )?,
        audio::capture::spawn(
            audio_configured,
            runtime,
            audio_requests,
            audio_tx,
            audio_status_tx,
            microphone.clone(),
        )?,
    ];
    let capture = CaptureThreads {
        threads,
        video: video_settings,
        audio: audio_settings,
        progress: [("camera", camera), ("microphone", microphone)],
        lack: None,
    };
    let channels = CaptureChannels {
        video,
        audio,
        video_status,
        audio_status,
        video_request,
        audio_request,
        player,
        camera: client,
        shutdown,
    };
    Ok((capture, channels))
}
