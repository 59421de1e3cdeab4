//! What `roomcam watch --speak` says: a file or a tone, as Opus packets, one after the other.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::WatchError;
use super::ogg::{self, MAX_FILE_BYTES};
use crate::audio;
use crate::talkback::packet;

/// How long the tone lasts.
const TONE: Duration = Duration::from_secs(3);

/// For a packet that does not say how long it lasts: nobody can decode it either.
const UNKNOWN_SAMPLES: u32 = 960;

/// Packets, with how many samples of 48 kHz each lasts.
#[derive(Clone, Debug)]
pub struct Speech {
    packets: Vec<(Bytes, u32)>,
}

impl Speech {
    /// Takes what was asked for: `tone`, or a file.
    ///
    /// # Errors
    ///
    /// [`WatchError::Speech`]: the file cannot be read, or is none that can be played.
    pub fn load(name: &Path) -> Result<Self, WatchError> {
        let failed = |reason: String| WatchError::Speech {
            path: name.to_owned(),
            reason,
        };
        let packets = if name == Path::new("tone") {
            audio::tone(TONE).map_err(|error| failed(error.to_string()))?
        } else {
            let mut file = Vec::new();
            let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX);
            std::fs::File::open(name)
                .and_then(|opened| opened.take(limit + 1).read_to_end(&mut file))
                .map_err(|error| failed(error.to_string()))?;
            ogg::packets(&file).map_err(|error| failed(error.to_string()))?
        };
        let with_duration = |bytes: Bytes| {
            let samples = packet::duration(&bytes).unwrap_or(UNKNOWN_SAMPLES);
            (bytes, samples)
        };
        Ok(Self {
            packets: packets.into_iter().map(with_duration).collect(),
        })
    }

    /// Returns the packets, and how many samples of 48 kHz each lasts.
    pub fn packets(&self) -> impl Iterator<Item = (Bytes, u32)> {
        self.packets.iter().cloned()
    }
}
