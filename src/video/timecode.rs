//! The capture clock inside the test picture, which programs read back from pixels.
//!
//! In the top 32/720 of the height lie 40 equal cells across the width, one bit each (luma 16 is 0,
//! 235 is 1), most significant first: 32 bits of Unix time in units of 100 µs modulo 2³², then 8
//! bits CRC-8 (polynomial 0x07, initial 0) over those four bytes. Whoever films or decodes the
//! picture compares it with their own clock and knows the latency. Pure.

use std::time::Duration;

/// Cells across the width.
const CELLS: u32 = 40;

/// Luma of a 0 and of a 1.
const BLACK: u8 = 16;
const WHITE: u8 = 235;

/// Returns the rows that the clock takes in a picture of `height` rows.
#[must_use]
pub const fn rows(height: usize) -> usize {
    height * 32 / 720
}

/// Returns the reading at `unix_time`: units of 100 µs modulo 2³².
#[must_use]
pub fn reading(unix_time: Duration) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "modulo 2^32 by design")]
    {
        (unix_time.as_micros() / 100) as u32
    }
}

/// Writes `reading` over one row of luma.
pub fn write(row: &mut [u8], reading: u32) {
    let word = u64::from(reading) << 8 | u64::from(crc8(reading));
    let width = row.len();
    for cell in 0..CELLS {
        let luma = if word >> (CELLS - 1 - cell) & 1 == 1 {
            WHITE
        } else {
            BLACK
        };
        if let Some(pixels) = row.get_mut(edge(cell, width)..edge(cell + 1, width)) {
            pixels.fill(luma);
        }
    }
}

/// Reads one row of luma, best the middle one of [`rows`]. `None` where the check fails: a row that
/// is not a clock, or one damaged beyond reading.
#[must_use]
pub fn read(row: &[u8]) -> Option<u32> {
    let mut word = 0_u64;
    for cell in 0..CELLS {
        // The middle half of a cell: its edges are blurred by coding and scaling.
        let (start, end) = (edge(cell, row.len()), edge(cell + 1, row.len()));
        let margin = (end - start) / 4;
        let pixels = row.get(start + margin..end - margin)?;
        let sum: usize = pixels.iter().map(|&p| usize::from(p)).sum();
        let mean = sum.checked_div(pixels.len())?;
        word = word << 1 | u64::from(mean >= 126);
    }
    let reading = u32::try_from(word >> 8).ok()?;
    (u64::from(crc8(reading)) == word & 0xff).then_some(reading)
}

fn edge(cell: u32, width: usize) -> usize {
    // 40 cells: no overflow for any width of a picture.
    usize::try_from(cell).unwrap_or_default() * width / 40
}

fn crc8(reading: u32) -> u8 {
    reading.to_be_bytes().iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc, _| {
            crc << 1 ^ if crc & 0x80 == 0 { 0 } else { 0x07 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_is_crc_8_with_polynomial_07() {
        // The catalogue's CRC-8/SMBUS; "1234" gives 0xC2.
        assert_eq!(crc8(u32::from_be_bytes(*b"1234")), 0xc2);
    }

    #[test]
    fn counts_in_units_of_100_us_and_wraps() {
        assert_eq!(reading(Duration::from_millis(1)), 10);
        assert_eq!(reading(Duration::from_micros(429_496_729_600)), 0);
    }

    #[test]
    fn what_was_written_is_read_at_every_width() {
        for width in [40, 64, 322, 640, 1278, 1280, 1920, 3840] {
            for reading in [0, 1, 0x8000_0000, 0xdead_beef, u32::MAX] {
                let mut row = vec![0x55; width];
                write(&mut row, reading);
                assert!(row.iter().all(|&p| p == BLACK || p == WHITE));
                assert_eq!(read(&row), Some(reading), "{width} pixels");
            }
        }
    }

    #[test]
    fn the_most_significant_bit_comes_first() {
        let mut row = vec![0; 40];
        write(&mut row, 0x8000_0001);
        assert_eq!((row[0], row[1], row[30], row[31]), (235, 16, 16, 235));
    }

    #[test]
    fn a_picture_without_a_clock_is_no_reading() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[16; 39]), None);
        assert_eq!(read(&[200; 1280]), None);
        let mut damaged = vec![0; 640];
        write(&mut damaged, 0x1234_5678);
        damaged[0..16].fill(235);
        assert_eq!(read(&damaged), None);
    }
}
