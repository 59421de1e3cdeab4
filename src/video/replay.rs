//! An Annex B H.264 file in a loop, as if it were a camera; for tests, demos and benchmarks.
//!
//! The pictures are passed through as they are: no keyframe can be made on demand, and the bitrate
//! is the file's. Containers (MP4, MKV) are left out; the error says how to unpack one.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::metronome::Metronome;
use super::{AccessUnit, VideoError, VideoSource};
use crate::clock;
use crate::h264::access_unit::{access_units, contents};
use crate::h264::annexb::{NalUnit, nal_units};

/// Largest file, in bytes: a quarter of an hour at 2 Mbit/s. It is held in memory.
const MAX_FILE_BYTES: u64 = 256 << 20;

const HOW_TO_MAKE_ONE: &str =
    "make one with `ffmpeg -i CLIP -c:v libx264 -bf 0 -bsf:v h264_mp4toannexb OUT.h264`";

/// A file that is played for ever.
#[derive(Debug)]
pub struct Replay {
    path: PathBuf,
    units: Vec<Bytes>,
    next: usize,
    fps: u32,
    metronome: Metronome,
}

impl Replay {
    /// Reads the file and checks that a decoder can start with it.
    ///
    /// # Errors
    ///
    /// [`VideoError::File`], which says what is wrong with the file and how to make a good one.
    pub fn open(path: &Path, fps: u32) -> Result<Self, VideoError> {
        let file_error = |reason: String| VideoError::File {
            path: path.to_owned(),
            reason,
        };
        let stream = read(path).map_err(file_error)?;
        let units = playable(&stream).map_err(|e| file_error(format!("{e}; {HOW_TO_MAKE_ONE}")))?;
        Ok(Self {
            path: path.to_owned(),
            units,
            next: 0,
            fps,
            metronome: Metronome::new(fps, clock::now()),
        })
    }
}

impl VideoSource for Replay {
    fn next(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        if !self.metronome.wait() {
            return Ok(None);
        }
        let Some(unit) = self.units.get(self.next) else {
            return Ok(None);
        };
        self.next = (self.next + 1) % self.units.len();
        Ok(Some(AccessUnit {
            data: unit.clone(),
            captured_at: clock::now(),
        }))
    }

    fn description(&self) -> String {
        format!(
            "file {}, {} pictures in a loop at {} fps",
            self.path.display(),
            self.units.len(),
            self.fps
        )
    }

    fn keyframes_on_demand(&self) -> bool {
        false
    }
}

fn read(path: &Path) -> Result<Bytes, String> {
    let sentence = |e: std::io::Error| format!("cannot be read: {e}");
    let about = path.metadata().map_err(sentence)?;
    if !about.is_file() {
        return Err("is no regular file".to_owned());
    }
    if about.len() > MAX_FILE_BYTES {
        return Err(format!("is larger than {} MB", MAX_FILE_BYTES >> 20));
    }
    let mut stream = Vec::new();
    // The limit again: the file may be growing.
    File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut stream))
        .map_err(sentence)?;
    Ok(stream.into())
}

/// Returns the pictures of `stream`, or what is wrong with it.
fn playable(stream: &Bytes) -> Result<Vec<Bytes>, &'static str> {
    if nal_units(stream).next().is_none() {
        return Err("is no H.264 byte stream (it has no start code)");
    }
    let units = access_units(stream);
    let Some(first) = units.first() else {
        return Err("holds no H.264 pictures");
    };
    let has = |wanted| nal_units(first).any(|unit| unit.unit_type() == wanted);
    if !has(NalUnit::SPS) || !has(NalUnit::PPS) || !contents(first).is_idr {
        return Err("does not start with a keyframe (SPS, PPS and an IDR picture)");
    }
    Ok(units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::time::Duration;

    const SPS: &[u8] = &[0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1f];
    const PPS: &[u8] = &[0, 0, 0, 1, 0x68, 0xce, 0x3c, 0x80];
    const IDR: &[u8] = &[0, 0, 1, 0x65, 0x88, 0x80, 0x11];
    const P: &[u8] = &[0, 0, 0, 1, 0x41, 0x9a, 0x11];

    fn open(bytes: &[u8]) -> Result<Replay, VideoError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        Replay::open(file.path(), 1_000)
    }

    fn refusal(bytes: &[u8]) -> String {
        open(bytes).unwrap_err().to_string()
    }

    #[test]
    fn plays_the_pictures_in_order_and_starts_over() {
        let clip = [SPS, PPS, IDR, P].concat();
        let mut replay = open(&clip).unwrap();
        let deadline = clock::now() + Duration::from_secs(10);
        let mut played = Vec::new();
        while played.len() < 5 && clock::now() < deadline {
            played.extend(replay.next().unwrap().map(|unit| unit.data));
        }
        let key = Bytes::from([SPS, PPS, IDR].concat());
        assert_eq!(played, [&key, P, &key, P, &key]);
    }

    #[test]
    fn what_is_no_byte_stream_is_refused_with_the_remedy() {
        for bytes in [&b""[..], b"\0\0\0\x18ftypmp42", b"hello"] {
            let refusal = refusal(bytes);
            assert!(refusal.contains("no start code"), "{refusal}");
            assert!(refusal.contains("ffmpeg"), "{refusal}");
        }
    }

    #[test]
    fn a_file_that_starts_in_the_middle_is_refused() {
        for bytes in [[SPS, PPS, P].concat(), [SPS, IDR].concat(), P.to_vec()] {
            assert!(refusal(&bytes).contains("start with a keyframe"));
        }
        assert!(refusal(&[SPS, PPS].concat()).contains("no H.264 pictures"));
    }

    #[test]
    fn a_directory_and_a_missing_file_are_told_by_name() {
        let missing = Replay::open(Path::new("/nonexistent/x.h264"), 30).unwrap_err();
        let text = missing.to_string();
        assert!(
            text.starts_with("/nonexistent/x.h264: cannot be read"),
            "{text}"
        );
        let directory = Replay::open(Path::new("/"), 30).unwrap_err();
        assert_eq!(directory.to_string(), "/: is no regular file");
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read_whole() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_FILE_BYTES + 1).unwrap();
        let error = Replay::open(file.path(), 30).unwrap_err();
        assert!(
            error.to_string().ends_with("is larger than 256 MB"),
            "{error}"
        );
    }
}
