//! What the tests need around the program.

pub(crate) mod chromium;
pub(crate) mod demo;
