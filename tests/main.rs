//! All integration tests, in one binary: each binary links the whole stack again, and also runs
//! emulated.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;
mod viewing;
