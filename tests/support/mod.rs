//! What the tests stand on: the program, a real browser, a simulated one.

pub(crate) mod chromium;
pub(crate) mod demo;
pub(crate) mod room;
pub(crate) mod simulation;
