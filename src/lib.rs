//! roomcam
pub mod audio;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod daemon;
pub mod engine;
pub mod h264;
pub mod inspect;
pub mod keys;
pub mod logging;
pub mod rtp;
pub mod server;
pub mod signaling;
pub mod systemd;
pub mod video;
pub mod viewer;
