//! roomcam: watch a Raspberry Pi's camera and microphone from any browser, over WebRTC.

pub mod audio;
pub mod clock;
pub mod config;
pub mod control;
pub mod h264;
pub mod rtp;
pub mod server;
pub mod signaling;
pub mod video;
pub mod viewer;
