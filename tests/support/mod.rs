//! What the tests stand on: the program, a real browser, an emulated machine, a booted system, a simulated viewer.

pub(crate) mod aiortc;
pub(crate) mod chromium;
pub(crate) mod conformance;
pub(crate) mod control;
pub(crate) mod demo;
pub(crate) mod device;
pub(crate) mod emulated;
pub(crate) mod failures;
pub(crate) mod guest;
pub(crate) mod http;
pub(crate) mod islands;
pub(crate) mod log;
pub(crate) mod microphone;
pub(crate) mod peers;
pub(crate) mod program;
pub(crate) mod room;
pub(crate) mod room_servers;
pub(crate) mod simulation;
pub(crate) mod system;
