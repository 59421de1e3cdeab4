//! One frame of an MJPEG camera → its parts, or the same picture as a file that every program opens.
//!
//! Frames of cameras are baseline JPEG (ITU-T T.81) with habits: no Huffman tables, bytes behind the
//! end, frames cut short by the USB bus. The tables of the standard stand in for missing ones; what is not
//! whole is damage. `decoder` makes a picture of the parts, with what lies beside it. Progressive, lossless
//! and arithmetic coding, several scans and four components are left out. Pure.

use std::fmt;

mod bits;
pub(super) mod decoder;
mod huffman;
mod planes;
mod tables;
mod transform;

/// Why a frame is no picture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// It does not start as a JPEG picture, or its segments are not as long as they say.
    Malformed,
    /// It ends before its end marker.
    CutShort,
    /// It is of another kind than cameras send: progressive, in CMYK, …
    Unusual,
    /// It is not of the size that the camera was set to.
    Size {
        /// Pixels.
        width: usize,
        /// Pixels.
        height: usize,
    },
    /// Its coded blocks are not those of a whole picture.
    Coded(&'static str),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("no JPEG picture"),
            Self::CutShort => f.write_str("cut short"),
            Self::Unusual => f.write_str("not a baseline JPEG picture in grey or YCbCr"),
            Self::Size { width, height } => write!(f, "unexpectedly {width}x{height}"),
            Self::Coded(reason) => f.write_str(reason),
        }
    }
}

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Pixels, up to 65535.
    pub width: usize,
    /// Pixels, up to 65535.
    pub height: usize,
    /// There is no chroma.
    pub is_grey: bool,
}

const START: u8 = 0xd8;
const END: u8 = 0xd9;
const SCAN: u8 = 0xda;
const HUFFMAN_TABLES: u8 = 0xc4;
const QUANTIZATION_TABLES: u8 = 0xdb;
const RESTART_INTERVAL: u8 = 0xdd;
/// Start of frame: baseline, and sequential with more tables, which any decoder takes as well.
const BASELINE: u8 = 0xc0;
const SEQUENTIAL: u8 = 0xc1;

/// What a frame consists of.
#[derive(Clone, Copy, Debug)]
struct Parts<'a> {
    header: Header,
    /// Of each component: number, sampling, quantization table.
    components: &'a [u8],
    /// The header of the scan, with its marker.
    scan: &'a [u8],
    /// Of each component: number, Huffman tables.
    selectors: &'a [u8],
    /// What is behind: the coded picture, its end marker, and whatever the camera adds.
    coded: &'a [u8],
}

/// Takes a frame apart. `table` gets each segment in front of the scan, with its marker and length, but for
/// application data and comments.
///
/// # Errors
///
/// [`Damage`], of the segments or of `table`.
fn read<'a>(
    frame: &'a [u8],
    mut table: impl FnMut(u8, &'a [u8]) -> Result<(), Damage>,
) -> Result<Parts<'a>, Damage> {
    let mut rest = frame
        .strip_prefix(&[0xff, START])
        .ok_or(Damage::Malformed)?;
    let mut header = None;
    loop {
        let (marker, segment, behind) = next_segment(rest)?;
        rest = behind;
        match marker {
            BASELINE | SEQUENTIAL if header.is_none() => {
                header = Some(parse_header(segment)?);
                table(marker, segment)?;
            }
            HUFFMAN_TABLES | QUANTIZATION_TABLES | RESTART_INTERVAL => table(marker, segment)?,
            SCAN => {
                let (header, components) = header.ok_or(Damage::Malformed)?;
                let parts = if header.is_grey { 1 } else { 3 };
                let selectors = match segment {
                    [_, _, _, _, count, selectors @ ..] if *count == parts => selectors,
                    _ => return Err(Damage::Unusual),
                };
                // Behind them, which coefficients: all of them, whatever it says.
                let selectors = selectors.get(..2 * usize::from(parts));
                return Ok(Parts {
                    header,
                    components,
                    scan: segment,
                    selectors: selectors.ok_or(Damage::Malformed)?,
                    coded: behind,
                });
            }
            // Application data and comments. 0xc8 is reserved, 0xcc for arithmetic coding.
            0xe0..=0xef | 0xfe => {}
            0xc0..=0xcf => return Err(Damage::Unusual),
            _ => return Err(Damage::Malformed),
        }
    }
}

/// Returns the picture in `frame` as a file that every program opens. It is no longer than the frame and
/// the standard tables together.
///
/// # Errors
///
/// [`Damage`], where the picture is not whole.
pub fn file(frame: &[u8]) -> Result<(Header, Vec<u8>), Damage> {
    let mut file = vec![0xff, START];
    let mut has_tables = false;
    let parts = read(frame, |marker, segment| {
        has_tables |= marker == HUFFMAN_TABLES;
        file.extend(segment);
        Ok(())
    })?;
    if !has_tables {
        file.extend(STANDARD_TABLES);
    }
    file.extend(parts.scan);
    file.extend(scan(parts.coded)?);
    file.extend([0xff, END]);
    Ok((parts.header, file))
}

/// Returns the marker of the next segment, the whole of it and what is behind it.
fn next_segment(bytes: &[u8]) -> Result<(u8, &[u8], &[u8]), Damage> {
    let [0xff, after_first @ ..] = bytes else {
        return Err(if bytes.is_empty() {
            Damage::CutShort
        } else {
            Damage::Malformed
        });
    };
    // A marker may be preceded by any number of fill bytes.
    let fill = after_first.iter().take_while(|&&b| b == 0xff).count();
    let bytes = bytes.get(fill..).unwrap_or_default();
    let [_, marker, high, low, ..] = *bytes else {
        return Err(Damage::CutShort);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < 2 {
        return Err(Damage::Malformed);
    }
    let (segment, behind) = bytes.split_at_checked(2 + length).ok_or(Damage::CutShort)?;
    Ok((marker, segment, behind))
}

/// Returns what the start of a frame says, with the bytes of its components.
fn parse_header(segment: &[u8]) -> Result<(Header, &[u8]), Damage> {
    let [_, _, _, _, depth, h1, h0, w1, w0, parts, components @ ..] = segment else {
        return Err(Damage::Malformed);
    };
    let header = Header {
        width: usize::from(u16::from_be_bytes([*w1, *w0])),
        height: usize::from(u16::from_be_bytes([*h1, *h0])),
        is_grey: *parts == 1,
    };
    if *depth != 8 || !matches!(parts, 1 | 3) {
        return Err(Damage::Unusual);
    }
    if components.len() != 3 * usize::from(*parts) || header.width == 0 || header.height == 0 {
        return Err(Damage::Malformed);
    }
    Ok((header, components))
}

/// Returns the coded picture at the start of `bytes`, up to its end marker.
fn scan(bytes: &[u8]) -> Result<&[u8], Damage> {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        at += rest
            .iter()
            .position(|&b| b == 0xff)
            .ok_or(Damage::CutShort)?;
        match bytes.get(at + 1) {
            None => return Err(Damage::CutShort),
            // A stuffed 0xff, a restart marker.
            Some(0x00 | 0xd0..=0xd7) => at += 2,
            Some(0xff) => at += 1,
            Some(&END) => return Ok(bytes.get(..at).unwrap_or_default()),
            // A further scan, or the next frame where this one's end was lost.
            Some(&START) => return Err(Damage::CutShort),
            Some(_) => return Err(Damage::Unusual),
        }
    }
}

/// The typical Huffman tables (ITU-T T.81, K.3.3) as one DHT segment, which the frames of many USB
/// cameras leave out.
#[rustfmt::skip]
const STANDARD_TABLES: [u8; 420] = [
    // Marker and length.
    255, 196, 1, 162,
    // DC, luma: class and number, how many codes of each length, their values.
    0, 0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0,
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
    // AC, luma: class and number, how many codes of each length, their values.
    16, 0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125,
    1, 2, 3, 0, 4, 17, 5, 18, 33, 49, 65, 6, 19, 81, 97, 7, 34, 113, 20, 50, 129, 145, 161, 8, 35,
    66, 177, 193, 21, 82, 209, 240, 36, 51, 98, 114, 130, 9, 10, 22, 23, 24, 25, 26, 37, 38, 39,
    40, 41, 42, 52, 53, 54, 55, 56, 57, 58, 67, 68, 69, 70, 71, 72, 73, 74, 83, 84, 85, 86, 87, 88,
    89, 90, 99, 100, 101, 102, 103, 104, 105, 106, 115, 116, 117, 118, 119, 120, 121, 122, 131,
    132, 133, 134, 135, 136, 137, 138, 146, 147, 148, 149, 150, 151, 152, 153, 154, 162, 163, 164,
    165, 166, 167, 168, 169, 170, 178, 179, 180, 181, 182, 183, 184, 185, 186, 194, 195, 196, 197,
    198, 199, 200, 201, 202, 210, 211, 212, 213, 214, 215, 216, 217, 218, 225, 226, 227, 228, 229,
    230, 231, 232, 233, 234, 241, 242, 243, 244, 245, 246, 247, 248, 249, 250,
    // DC, chroma: class and number, how many codes of each length, their values.
    1, 0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0,
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
    // AC, chroma: class and number, how many codes of each length, their values.
    17, 0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119,
    0, 1, 2, 3, 17, 4, 5, 33, 49, 6, 18, 65, 81, 7, 97, 113, 19, 34, 50, 129, 8, 20, 66, 145, 161,
    177, 193, 9, 35, 51, 82, 240, 21, 98, 114, 209, 10, 22, 36, 52, 225, 37, 241, 23, 24, 25, 26,
    38, 39, 40, 41, 42, 53, 54, 55, 56, 57, 58, 67, 68, 69, 70, 71, 72, 73, 74, 83, 84, 85, 86, 87,
    88, 89, 90, 99, 100, 101, 102, 103, 104, 105, 106, 115, 116, 117, 118, 119, 120, 121, 122, 130,
    131, 132, 133, 134, 135, 136, 137, 138, 146, 147, 148, 149, 150, 151, 152, 153, 154, 162, 163,
    164, 165, 166, 167, 168, 169, 170, 178, 179, 180, 181, 182, 183, 184, 185, 186, 194, 195, 196,
    197, 198, 199, 200, 201, 202, 210, 211, 212, 213, 214, 215, 216, 217, 218, 226, 227, 228, 229,
    230, 231, 232, 233, 234, 242, 243, 244, 245, 246, 247, 248, 249, 250,
];

#[cfg(test)]
mod tests {
    use super::*;
    use jpeg_encoder::{ColorType, Encoder};

    /// 16x8 pixels in colour, with the tables of the standard.
    fn frame() -> Vec<u8> {
        let mut jpeg = Vec::new();
        let pixels: Vec<u8> = (0..16 * 8 * 3)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        let encoder = Encoder::new(&mut jpeg, 80);
        encoder.encode(&pixels, 16, 8, ColorType::Ycbcr).unwrap();
        jpeg
    }

    /// The segments of `jpeg` up to its scan, without those of `marker`.
    fn without(marker: u8, jpeg: &[u8]) -> Vec<u8> {
        let mut out = jpeg[..2].to_vec();
        let mut rest = &jpeg[2..];
        loop {
            let (found, segment, behind) = next_segment(rest).unwrap();
            if found != marker {
                out.extend(segment);
            }
            rest = behind;
            if found == SCAN {
                out.extend(rest);
                return out;
            }
        }
    }

    fn made(frame: &[u8]) -> Result<Vec<u8>, Damage> {
        file(frame).map(|(_, file)| file)
    }

    #[test]
    fn application_data_and_bytes_behind_the_end_are_left_out() {
        let jpeg = frame();
        let plain = made(&jpeg).unwrap();
        assert_eq!(plain, without(0xe0, &jpeg), "JFIF is application data");
        let mut padded = jpeg.clone();
        padded.extend([0; 999]);
        padded.splice(2..2, [0xff, 0xff, 0xfe, 0, 4, b'h', b'i']);
        assert_eq!(made(&padded).unwrap(), plain);
    }

    #[test]
    fn missing_huffman_tables_are_those_of_the_standard() {
        let bare = without(HUFFMAN_TABLES, &frame());
        let whole = made(&bare).unwrap();
        let at = whole
            .windows(4)
            .position(|w| w == [0xff, HUFFMAN_TABLES, 1, 0xa2]);
        let at = at.expect("one segment of all tables");
        assert_eq!(whole[at..][..STANDARD_TABLES.len()], STANDARD_TABLES);
        let plain = without(0xe0, &bare).len();
        assert_eq!(whole.len(), plain + STANDARD_TABLES.len());
    }

    #[test]
    fn the_size_is_that_of_the_start_of_frame() {
        let header = Header {
            width: 16,
            height: 8,
            is_grey: false,
        };
        assert_eq!(file(&frame()).unwrap().0, header);
    }

    #[test]
    fn a_frame_cut_anywhere_is_damage() {
        let jpeg = frame();
        for length in 0..jpeg.len() {
            assert!(made(&jpeg[..length]).is_err(), "{length}");
        }
        // The end is lost, and the next frame follows.
        let mut two = jpeg[..jpeg.len() - 2].to_vec();
        two.extend(&jpeg);
        assert_eq!(made(&two), Err(Damage::CutShort));
    }

    #[test]
    fn what_cameras_do_not_send_is_refused() {
        let jpeg = frame();
        let header = jpeg.windows(2).position(|w| w == [0xff, BASELINE]).unwrap();
        let with = |at: usize, byte: u8| {
            let mut jpeg = jpeg.clone();
            jpeg[header + at] = byte;
            made(&jpeg)
        };
        assert_eq!(with(1, 0xc2), Err(Damage::Unusual), "progressive");
        assert_eq!(with(4, 12), Err(Damage::Unusual), "12 bits");
        assert_eq!(with(9, 4), Err(Damage::Unusual), "four components");
        assert_eq!(with(9, 1), Err(Damage::Malformed), "a wrong length");
        assert_eq!(made(b"RIFF"), Err(Damage::Malformed));
    }
}
