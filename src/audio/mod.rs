//! Where sound comes from: a source of samples, cut into 20 ms, silenced when muted, coded as Opus.
//!
//! | file         | what                                                              |
//! |--------------|-------------------------------------------------------------------|
//! | `alsa.rs`    | a microphone                                                      |
//! | `tone.rs`    | a steady tone; demos and tests                                    |
//! | `framer.rs`  | periods of any length → frames of 20 ms, with their capture time  |
//! | `opus.rs`    | the Opus encoder                                                  |
//! | `capture.rs` | the thread that reads a source, mutes, encodes and publishes      |

use std::time::Instant;

/// Samples per second of everything in this directory (RFC 7587 §4.1).
pub const SAMPLE_RATE_HZ: u32 = 48_000;

/// Samples per channel in one Opus frame of 20 ms.
pub const FRAME_SAMPLES: usize = 960;

/// A period of sound as the source delivered it: 48 kHz, mono, signed 16 bit.
#[derive(Clone, Debug)]
pub struct Period {
    /// The samples.
    pub samples: Vec<i16>,
    /// When the first sample was captured, on the monotonic clock.
    pub captured_at: Instant,
}
