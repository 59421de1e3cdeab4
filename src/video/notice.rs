//! Why there is no picture of the camera → a picture that says so, and since when.
//!
//! In UTC, which it says: a device knows no time zone that would mean something to all its viewers.
//! Pure.

use std::time::Duration;

use super::VideoError;
use super::canvas::{Canvas, Colour, Text};
use super::convert::I420;
use super::font;

/// Most lines of each part; what is longer is cut off.
const HEADLINE_LINES: usize = 2;
const DETAIL_LINES: usize = 4;

/// Least height of the smallest letters in relation to the picture: about as small as is readable on a
/// phone.
const SMALLEST_LETTERS: usize = 48;

const BACKGROUND: Colour = Colour::new(26, 138, 122);
const HEADLINE: u8 = 235;
const SINCE: u8 = 200;
const DETAIL: u8 = 150;

const DAY_S: u64 = 86_400;

/// What is said in place of a picture.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Notice {
    /// In a few words.
    pub(super) headline: String,
    /// The rest, which may be long.
    pub(super) detail: String,
    /// Unix time at which it began.
    pub(super) since: Duration,
}

impl Notice {
    /// Draws it, as a picture of `width` x `height` pixels, both even.
    pub(super) fn draw(&self, width: usize, height: usize, unix_time: Duration) -> Drawn {
        let mut planes = vec![128; width * height * 3 / 2];
        let mut canvas = Canvas::new(&mut planes, width, height);
        canvas.fill(0..width, 0..height, BACKGROUND);

        let largest = (height / 60).max(1);
        let smallest = (height / SMALLEST_LETTERS / font::ROWS).max(1);
        let fits = |pitch: &usize| {
            let columns = columns(width, *pitch);
            let longest = self.headline.split_whitespace().map(str::len).max();
            longest.unwrap_or_default() <= columns
                && wrap(&self.headline, columns, usize::MAX).len() <= HEADLINE_LINES
        };
        let large = (smallest..=largest).rev().find(fits).unwrap_or(smallest);
        let medium = (large * 2 / 3).max(smallest);
        let small = (large / 2).max(smallest);
        let since = format!("since {}", moment(self.since, unix_time));
        let parts = [
            (self.headline.as_str(), large, HEADLINE_LINES, HEADLINE),
            (&since, medium, 1, SINCE),
            (&self.detail, small, DETAIL_LINES, DETAIL),
        ];
        let lines: Vec<_> = parts
            .into_iter()
            .flat_map(|(text, pitch, most, luma)| {
                let lines = wrap(text, columns(width, pitch), most);
                lines.into_iter().map(move |line| (line, pitch, luma))
            })
            .collect();
        let spacing = |pitch: usize| pitch * (font::ROWS + 4);
        let all: usize = lines.iter().map(|(_, pitch, _)| spacing(*pitch)).sum();
        let mut top = height.saturating_sub(all) / 2;
        for (line, pitch, luma) in lines {
            let span = line.len() * (font::COLUMNS + 1) * pitch;
            let left = width.saturating_sub(span) / 2;
            canvas.write(Text { left, top, pitch }, &line, luma);
            top += spacing(pitch);
        }
        Drawn {
            width,
            height,
            planes,
        }
    }
}

/// A picture that was drawn.
#[derive(Debug)]
pub(super) struct Drawn {
    width: usize,
    height: usize,
    planes: Vec<u8>,
}

impl Drawn {
    pub(super) fn picture(&self) -> Option<I420<'_>> {
        I420::in_one_block(self.width, self.height, &self.planes, self.width)
    }
}

/// Returns what an error means for whoever wants to see something; `was_live` tells a camera that was
/// taken away from one that never was there.
pub(super) const fn headline(error: &VideoError, was_live: bool) -> &'static str {
    match error {
        VideoError::Missing { .. } | VideoError::NoCamera { .. } if was_live => "Camera unplugged",
        VideoError::Missing { .. } | VideoError::NoCamera { .. } => "No camera",
        VideoError::Busy { .. } => "Camera in use by another program",
        VideoError::Permission { .. } => "Camera may not be opened",
        VideoError::Stalled { .. } => SILENT,
        VideoError::NoSignal { .. } | VideoError::SignalChanged { .. } => "No signal",
        VideoError::Format { .. } | VideoError::File { .. } | VideoError::NoKeyframe { .. } => {
            "Camera cannot be used"
        }
        VideoError::Driver { .. }
        | VideoError::Program { .. }
        | VideoError::Encoder(_)
        | VideoError::HardwareEncoder { .. } => "Camera failed",
    }
}

/// The headline of a camera that is open and delivers nothing.
pub(super) const SILENT: &str = "Camera sends no pictures";

/// The headline of a camera that was switched off.
pub(super) const OFF: &str = "Camera is off";

/// Returns how many characters fit side by side.
const fn columns(width: usize, pitch: usize) -> usize {
    let columns = width * 9 / 10 / ((font::COLUMNS + 1) * pitch);
    if columns == 0 { 1 } else { columns }
}

/// Breaks `text` into at most `most` lines of up to `columns` characters, between words where it can.
fn wrap(text: &str, columns: usize, most: usize) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    for word in text.split_whitespace() {
        // One character, one byte: those that the font lacks are shown as what they are, unknown.
        let word = word.chars().map(|c| u8::try_from(c).unwrap_or(0x7f));
        let word: Vec<u8> = word.collect();
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= columns => {
                line.push(b' ');
                line.extend(word);
            }
            _ => lines.extend(word.chunks(columns).map(<[u8]>::to_vec)),
        }
    }
    if lines.len() > most {
        lines.truncate(most);
        if let Some(last) = lines.last_mut() {
            last.truncate(columns.saturating_sub(3));
            last.extend(b"...");
        }
    }
    lines
}

/// Returns a moment as people say it: with the day only where it was another one.
fn moment(at: Duration, now: Duration) -> String {
    let (day, second) = (at.as_secs() / DAY_S, at.as_secs() % DAY_S);
    let (hours, minutes) = (second / 3_600, second / 60 % 60);
    let time = format!("{hours:02}:{minutes:02} UTC");
    if day == now.as_secs() / DAY_S {
        return time;
    }
    let (year, month, day) = date(day);
    format!("{year}-{month:02}-{day:02} {time}")
}

/// Returns year, month and day of a day since 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that a leap day is the last of its year: then the months' lengths
/// follow a straight line of 153 days in five months.
const fn date(day: u64) -> (u64, u64, u64) {
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let since_0000_03_01 = day + 719_468;
    let era = since_0000_03_01 / DAYS_IN_400_YEARS;
    let of_era = since_0000_03_01 % DAYS_IN_400_YEARS;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-21 14:03:20 UTC.
    const SINCE: Duration = Duration::from_secs(1_795_269_800);

    fn text(lines: &[Vec<u8>]) -> Vec<&str> {
        let text = lines.iter().map(|line| std::str::from_utf8(line).unwrap());
        text.collect()
    }

    #[test]
    fn the_day_is_said_only_where_it_is_not_today() {
        let at = |seconds| SINCE + Duration::from_secs(seconds);
        assert_eq!(moment(SINCE, at(60)), "14:03 UTC");
        assert_eq!(moment(SINCE, at(10 * 3_600)), "2026-11-21 14:03 UTC");
        assert_eq!(moment(SINCE, Duration::ZERO), "2026-11-21 14:03 UTC");
    }

    #[test]
    fn days_have_their_dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(31 + 28), (1970, 3, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_820), (2027, 1, 2));
        assert_eq!(date(47_540), (2100, 2, 28));
        assert_eq!(date(47_541), (2100, 3, 1));
    }

    #[test]
    fn lines_break_between_words_and_what_is_too_long_is_cut() {
        let words = "camera /dev/video0 is not present";
        let lines = wrap(words, 14, 9);
        assert_eq!(text(&lines), ["camera", "/dev/video0 is", "not present"]);
        let lines = wrap(words, 14, 2);
        assert_eq!(text(&lines), ["camera", "/dev/video0..."]);
        assert_eq!(text(&wrap("abcdefg", 3, 9)), ["abc", "def", "g"]);
        assert!(wrap("", 3, 9).is_empty());
        assert_eq!(wrap("ä→", 9, 9), [[0xe4, 0x7f]]);
    }

    #[test]
    fn notices_are_drawn_at_every_size_and_differ_from_one_another() {
        let notice = |headline: &str| Notice {
            headline: headline.to_owned(),
            detail: "waiting for camera: /dev/video0 is not present".repeat(9),
            since: SINCE,
        };
        for (width, height) in [(64, 64), (320, 180), (1280, 720), (3840, 64), (1920, 1080)] {
            let one = notice("Camera unplugged").draw(width, height, SINCE);
            let other = notice("Camera is off").draw(width, height, SINCE);
            assert!(one.picture().is_some());
            assert_ne!(one.planes, other.planes, "{width}x{height}");
            let bright = one.planes[..width * height].iter().filter(|y| **y > 200);
            assert!(bright.count() > 20, "{width}x{height}: there are letters");
        }
    }

    #[test]
    fn a_camera_that_was_taken_away_is_told_from_one_that_never_was_there() {
        let missing = VideoError::Missing {
            name: "/dev/video0".to_owned(),
        };
        assert_eq!(headline(&missing, true), "Camera unplugged");
        assert_eq!(headline(&missing, false), "No camera");
    }
}
