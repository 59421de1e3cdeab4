//! A stream of bytes → H.264 access units, each as soon as its writer pauses.
//!
//! That a picture has ended shows in the start of the next; to wait for it would delay each by the
//! time between two. So a pause counts as an end. Where it was none, what follows does not begin like
//! a NAL unit, and is damage. Pure.

use bytes::{Bytes, BytesMut};

use crate::h264::access_unit::access_units;

/// Most bytes without a pause: a keyframe of 1080p is 0.2 MB, one of pure noise 2 MB.
const MAX_BYTES: usize = 8 << 20;

/// Cuts the stream of one program.
#[derive(Debug, Default)]
pub(super) struct CodedStream {
    buffer: BytesMut,
    is_damaged: bool,
}

impl CodedStream {
    /// Takes the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.buffer.len() + bytes.len() > MAX_BYTES {
            self.buffer.clear();
            self.is_damaged = true;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns whether something waits for its end.
    pub(super) fn has_begun(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// Nothing came for a while: returns what is whole, and whether something before it is missing.
    pub(super) fn pause(&mut self) -> (Vec<Bytes>, bool) {
        let stream = self.buffer.split().freeze();
        let begins_well = [&[0, 0, 1][..], &[0, 0, 0, 1]]
            .iter()
            .any(|code| stream.starts_with(code));
        let is_damaged =
            std::mem::take(&mut self.is_damaged) || !(stream.is_empty() || begins_well);
        let units = access_units(&stream);
        if units.is_empty() && begins_well {
            // Parameter sets whose picture is still to come.
            self.buffer.extend_from_slice(&stream);
        }
        (units, is_damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYFRAME: &[u8] = &[
        0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1f, 0, 0, 0, 1, 0x68, 0xce, 0, 0, 0, 1, 0x65, 0x88, 0x80,
    ];
    const DELTA: &[u8] = &[0, 0, 0, 1, 0x41, 0x9a, 0x11];

    fn after(parts: &[&[u8]]) -> (Vec<Bytes>, bool) {
        let mut stream = CodedStream::default();
        parts.iter().for_each(|part| stream.push(part));
        stream.pause()
    }

    #[test]
    fn a_picture_is_whole_when_its_writer_pauses() {
        let (units, is_damaged) = after(&[&KEYFRAME[..9], &KEYFRAME[9..]]);
        assert_eq!(units, [KEYFRAME]);
        assert!(!is_damaged);
        assert_eq!(after(&[]), (vec![], false));
    }

    #[test]
    fn pictures_that_came_together_are_told_apart() {
        let (units, _) = after(&[KEYFRAME, DELTA, DELTA]);
        assert_eq!(units, [KEYFRAME, DELTA, DELTA]);
    }

    #[test]
    fn parameter_sets_wait_for_their_picture() {
        let mut stream = CodedStream::default();
        stream.push(&KEYFRAME[..14]);
        assert_eq!(stream.pause(), (vec![], false));
        stream.push(&KEYFRAME[14..]);
        assert_eq!(stream.pause().0, [KEYFRAME]);
        assert!(!stream.has_begun());
    }

    #[test]
    fn a_pause_within_a_picture_shows_as_damage() {
        let mut stream = CodedStream::default();
        stream.push(&[KEYFRAME, &[7; 50]].concat());
        stream.pause();
        stream.push(&[9; 50]);
        assert_eq!(stream.pause(), (vec![], true));
        stream.push(DELTA);
        assert_eq!(stream.pause().0, [DELTA]);
    }

    #[test]
    fn a_stream_without_pictures_is_not_kept() {
        let mut stream = CodedStream::default();
        for _ in 0..20 {
            stream.push(&vec![9; MAX_BYTES / 8]);
            assert!(stream.buffer.len() <= MAX_BYTES);
        }
        assert!(stream.pause().1);
    }
}
