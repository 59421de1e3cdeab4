//! What connects the engine to the rest of the daemon.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{broadcast, mpsc, watch};

use super::EngineOptions;
use crate::audio::capture::AudioRequest;
use crate::control::SourceStatus;
use crate::rtp::{AudioFrame, VideoFrame};
use crate::signaling::{RoomEvent, RoomIndex};
use crate::talkback::player::Player;
use crate::video::capture::CaptureRequest;
use crate::video::desk;

/// What connects the engine to the rest of the daemon.
#[derive(Debug)]
pub struct EngineChannels {
    /// What is asked for.
    pub options: watch::Receiver<EngineOptions>,
    /// What happens in the rooms.
    pub events: mpsc::Receiver<(RoomIndex, RoomEvent)>,
    /// Pictures.
    pub video: broadcast::Receiver<Arc<VideoFrame>>,
    /// Sound.
    pub audio: broadcast::Receiver<Arc<AudioFrame>>,
    /// What the camera does.
    pub video_status: watch::Receiver<SourceStatus>,
    /// What the microphone does.
    pub audio_status: watch::Receiver<SourceStatus>,
    /// What the camera is to do.
    pub video_request: watch::Sender<CaptureRequest>,
    /// What the microphone is to do.
    pub audio_request: watch::Sender<AudioRequest>,
    /// What plays what viewers say.
    pub player: Player,
    /// What viewers ask of the open camera.
    pub camera: desk::Client,
    /// What the engine does, for systemd and people.
    pub pulse: watch::Sender<Pulse>,
    /// True ends the engine.
    pub shutdown: watch::Receiver<bool>,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// When it was given.
    pub at: Instant,
    /// In words, for `systemctl status`.
    pub summary: String,
}
