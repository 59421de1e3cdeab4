//! Takes the Opus packets out of an Ogg file (RFC 3533, RFC 7845), as `opusenc`, `ffmpeg` and phones make
//! them.
//!
//! One stream, as such a file has: chapters behind each other and other streams beside it are refused.
//! Checksums are not looked at, and gains and times not applied. Pure.

use bytes::Bytes;

/// Most bytes of a file: two minutes, which is as long as anybody may speak, at 500 kbit/s.
pub const MAX_FILE_BYTES: usize = 8 << 20;

/// Bytes of a page in front of its table of segments (RFC 3533 §6).
const PAGE_HEADER: usize = 27;

/// A page with this flag begins in the middle of a packet.
const CONTINUED: u8 = 1;

/// A segment of this length is followed by more of its packet.
const MORE: u8 = 255;

/// Why a file cannot be played.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OggError {
    /// Other bytes than those of a page.
    #[error("is no Ogg file, or a damaged one")]
    Damaged,
    /// Vorbis, FLAC, or a picture.
    #[error("holds no Opus: `ffmpeg -i FILE -ac 1 -c:a libopus FILE.ogg` makes some")]
    NotOpus,
    /// More than one.
    #[error("holds several streams")]
    Several,
    /// More than [`MAX_FILE_BYTES`].
    #[error("is longer than 8 MiB")]
    TooLong,
}

/// Returns the packets of sound, one after the other.
///
/// # Errors
///
/// [`OggError`], as soon as something is not as it should be: nothing is played of a damaged file.
pub fn packets(file: &[u8]) -> Result<Vec<Bytes>, OggError> {
    if file.len() > MAX_FILE_BYTES {
        return Err(OggError::TooLong);
    }
    let mut packets = Vec::new();
    let mut unfinished: Option<Vec<u8>> = None;
    let mut serial = None;
    let mut rest = file;
    while !rest.is_empty() {
        let page = Page::read(rest).ok_or(OggError::Damaged)?;
        if *serial.get_or_insert(page.serial) != page.serial {
            return Err(OggError::Several);
        }
        if page.is_continued != unfinished.is_some() {
            return Err(OggError::Damaged);
        }
        let mut body = page.body;
        for &length in page.lengths {
            let (segment, after) = body
                .split_at_checked(length.into())
                .ok_or(OggError::Damaged)?;
            body = after;
            let mut packet = unfinished.take().unwrap_or_default();
            packet.extend_from_slice(segment);
            if length == MORE {
                unfinished = Some(packet);
            } else {
                packets.push(Bytes::from(packet));
            }
        }
        rest = page.rest;
    }
    // The first two say what it is, and by whom (RFC 7845 §3).
    let mut packets = packets.into_iter();
    let head = packets.next().ok_or(OggError::Damaged)?;
    if !head.starts_with(b"OpusHead") {
        return Err(OggError::NotOpus);
    }
    let tags = packets.next().ok_or(OggError::Damaged)?;
    if !tags.starts_with(b"OpusTags") {
        return Err(OggError::Damaged);
    }
    Ok(packets.collect())
}

struct Page<'a> {
    is_continued: bool,
    serial: [u8; 4],
    lengths: &'a [u8],
    body: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Page<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(PAGE_HEADER)?;
        if !header.starts_with(b"OggS\0") {
            return None;
        }
        let (lengths, rest) = rest.split_at_checked((*header.get(26)?).into())?;
        let size = lengths.iter().map(|&length| usize::from(length)).sum();
        let (body, rest) = rest.split_at_checked(size)?;
        Some(Self {
            is_continued: header.get(5)? & CONTINUED != 0,
            serial: header.get(14..18)?.try_into().ok()?,
            lengths,
            body,
            rest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(flags: u8, serial: u8, lengths: &[u8], body: &[u8]) -> Vec<u8> {
        let mut page = b"OggS\0".to_vec();
        page.push(flags);
        page.extend([0; 8]);
        page.extend([serial, 0, 0, 0]);
        page.extend([0; 8]);
        page.push(u8::try_from(lengths.len()).unwrap());
        page.extend(lengths);
        page.extend(body);
        page
    }

    fn head() -> Vec<u8> {
        let mut file = page(2, 7, &[10], b"OpusHead\x01\x01");
        file.extend(page(0, 7, &[8], b"OpusTags"));
        file
    }

    #[test]
    fn packets_are_put_together_across_segments_and_pages() {
        let mut file = head();
        file.extend(page(
            0,
            7,
            &[3, 255, 2, 255],
            &[[1; 3].as_slice(), &[2; 257], &[3; 255]].concat(),
        ));
        file.extend(page(1, 7, &[0, 1], &[4]));
        let lengths: Vec<_> = packets(&file).unwrap().iter().map(Bytes::len).collect();
        assert_eq!(lengths, [3, 257, 255, 1]);
    }

    #[test]
    fn what_is_no_such_file_is_said_to_be_none() {
        assert_eq!(packets(b"RIFF"), Err(OggError::Damaged));
        assert_eq!(packets(b""), Err(OggError::Damaged));
        let vorbis = page(2, 7, &[7], b"\x01vorbis");
        assert_eq!(packets(&vorbis), Err(OggError::NotOpus));
        let mut two = head();
        two.extend(page(0, 8, &[1], &[1]));
        assert_eq!(packets(&two), Err(OggError::Several));
        let mut middle = head();
        middle.extend(page(1, 7, &[1], &[1]));
        assert_eq!(packets(&middle), Err(OggError::Damaged));
    }

    #[test]
    fn a_file_that_ends_anywhere_is_no_panic() {
        let mut file = head();
        file.extend(page(0, 7, &[255, 3], &[1; 258]));
        for end in 0..file.len() {
            assert!(packets(&file[..end]).is_err() || end == head().len());
            let mut junk = file.clone();
            junk[end] ^= 0xff;
            drop(packets(&junk));
        }
    }
}
