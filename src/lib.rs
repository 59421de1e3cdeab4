//! roomcam: watch a Raspberry Pi's camera and microphone from any browser, over WebRTC.
//!
//! This page is the map. The binary (`main.rs`) is a thin shell around [`daemon`], which puts the
//! parts together; everything else is one of these:
//!
//! | module | what it turns into what |
//! |---|---|
//! | [`video`] | a camera, a file or a test picture → H.264 access units |
//! | [`h264`] | the bitstream: NAL units, access units, SPS; read and rewritten, never decoded |
//! | [`audio`] | a microphone or a tone → 20 ms Opus packets; mute is applied here |
//! | [`talkback`] | the Opus packets of viewers who speak → a loudspeaker, and who may speak |
//! | [`rtp`] | access units → payloads, once for all viewers; capture times → timestamps |
//! | [`viewer`] | one remote browser as a machine without I/O: datagrams, frames and time in, datagrams and events out |
//! | [`engine`] | the media thread: one UDP port, drives all viewers |
//! | [`control`] | what viewers may ask; the state of the device and its single writer |
//! | [`turn`] | an address lent by a relay server, for viewers that cannot reach ours |
//! | [`signaling`] | the connection to a room server, kept alive; one file per wire protocol |
//! | [`server`] | the embedded room server: page, WebSocket, WHEP, tutorial pages, keys |
//! | [`watch`] | `roomcam watch`, a viewer without a screen, on the asynchronous `webrtc` crate |
//! | [`config`], [`reload`], [`cli`], [`inspect`], [`page`], [`share`], [`interfaces`], [`keys`], [`logging`], [`progress`], [`systemd`], [`clock`] | around it |
//!
//! ```text
//!  camera ─V4L2─▶ video::capture (thread)               audio::capture (thread) ◀─ALSA─ microphone
//!          │ access units                                         │ mute → Opus
//!          │ rtp::h264: payloads, once for all viewers            │
//!          └───────────▶ bounded queue, newest wins ◀─────────────┘
//!                                   ▼
//!          engine (thread): for each viewer: gate → pacer → SRTP → one send per frame ──UDP──▶ browsers
//!                                   ▲ datagrams, timers          │ events: keyframe, command, gone
//!  room server ◀─WebSocket─▶ signaling::link ── RoomEvent / RoomMessage ──▶ engine
//!  keyframe wanted (coalesced), camera off ──▶ CaptureRequest (watch) ──▶ capture threads
//!  a viewer's Opus ──▶ engine: may it speak? ──▶ bounded queue ──▶ talkback (thread) ─ALSA─▶ loudspeaker
//!  settings, snapshots ──▶ video::desk (mpsc) ──▶ the open camera
//!  CaptureStatus, DeviceState, Control ──▶ control channel ──▶ every viewer
//! ```
//!
//! # Rules
//!
//! 1. The camera never waits, and no viewer waits on another.
//! 2. A file named after something one could install does I/O; one named after a concept is pure:
//!    no clock, no socket, no task. `tests/layering.rs` checks it.
//! 3. State travels in `watch`, events in `mpsc`, media in one bounded queue where the newest wins.
//!    No lock is held across an `.await`.
//! 4. Whatever a peer can fill is bounded by a named constant.
//! 5. A panic in one viewer's machine ends that viewer; elsewhere it ends the process, and systemd
//!    starts it again.
//! 6. Mute and camera-off act at the source: what is not produced cannot leak.

#[cfg(test)]
mod allocations;
pub mod audio;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod engine;
pub mod h264;
pub mod inspect;
pub mod interfaces;
pub mod keys;
pub mod logging;
pub mod page;
pub mod progress;
pub mod reload;
pub mod rtp;
pub mod server;
pub mod share;
pub mod signaling;
pub mod systemd;
pub mod talkback;
pub mod turn;
pub mod video;
pub mod viewer;
pub mod watch;

/// Runs `work` on this thread, which is enough: media has its own.
///
/// # Errors
///
/// Where the system has no place for another reactor.
pub fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let outcome = runtime.block_on(work);
    // A name that is still being looked up must not hold up the end.
    runtime.shutdown_background();
    Ok(outcome)
}
