//! Draws the test picture: capture clock, colour bars, a grey ramp, a ball on its way, the time.
//!
//! ```text
//! ┌──────────────────────────────┐
//! │ capture clock for programs   │ 32/720, see `timecode`
//! │ seven colour bars, 75 %      │ in BT.601, limited range
//! │ grey ramp                    │
//! │        ● moves to and fro    │ once in four seconds
//! │ roomcam   1280x720       UTC │
//! │ 12:34:56.789                 │ the same moment for people
//! └──────────────────────────────┘
//! ```
//!
//! What stands still is drawn once; each picture redraws the rows of what moves. Pure: the time is
//! passed in.

use std::time::Duration;

use super::canvas::{Canvas, Colour, Text};
use super::convert::I420;
use super::{font, timecode};

/// White, yellow, cyan, green, magenta, red, blue at 75 % (ITU-R BT.471).
const BARS: [Colour; 7] = [
    Colour::grey(180),
    Colour::new(162, 44, 142),
    Colour::new(131, 156, 44),
    Colour::new(112, 72, 58),
    Colour::new(84, 184, 198),
    Colour::new(65, 100, 212),
    Colour::new(35, 212, 114),
];

const LANE: Colour = Colour::new(38, 138, 122);
const PANEL: Colour = Colour::new(26, 138, 122);
const BALL: Colour = Colour::new(112, 112, 200);
const DIGITS: u8 = 235;
const LABELS: u8 = 150;

/// How long the ball takes there and back.
const PERIOD_MS: u64 = 4_000;

/// The test picture of one size.
#[derive(Debug)]
pub struct TestCard {
    width: usize,
    height: usize,
    lane: std::ops::Range<usize>,
    digits: Text,
    ball: Ball,
    /// Everything that stands still.
    background: Vec<u8>,
    picture: Vec<u8>,
}

impl TestCard {
    /// Draws what stands still of a picture of `width` x `height` pixels, both even.
    #[must_use]
    pub fn new(width: usize, height: usize) -> Self {
        let row = |percent: usize| (height * percent / 100) & !1;
        let mut background = vec![PANEL.y; width * height * 3 / 2];
        let mut canvas = Canvas::new(&mut background, width, height);
        canvas.fill(0..width, 0..height, PANEL);
        let first = timecode::rows(height).next_multiple_of(2);
        canvas.fill(0..width, 0..first, Colour::grey(16));
        for (i, colour) in BARS.into_iter().enumerate() {
            let columns = width * i / BARS.len()..width * (i + 1) / BARS.len();
            canvas.fill(columns, first..row(46), colour);
        }
        for x in 0..width {
            let luma = u8::try_from(16 + x * 220 / width).unwrap_or(235);
            canvas.fill(x..x + 1, row(46)..row(52), Colour::grey(luma));
        }
        let lane = row(52)..row(70);
        canvas.fill(0..width, lane.clone(), LANE);

        let time_dots = TIME.len() * (font::COLUMNS + 1) - 1;
        let pitch = (width / (time_dots + 5)).min(height * 28 / 100 / 12).max(1);
        let digits = Text {
            left: width.saturating_sub(time_dots * pitch) / 2,
            top: height.saturating_sub(pitch * (font::ROWS + 2)) & !1,
            pitch,
        };
        let small = Text {
            left: digits.left,
            top: digits.top.saturating_sub(digits.pitch * 3),
            pitch: (pitch / 4).max(1),
        };
        let size = format!("{width}x{height}");
        let span = |text: &str| text.len() * (font::COLUMNS + 1) * small.pitch;
        let middle = width.saturating_sub(span(&size)) / 2;
        let right = (digits.left + time_dots * pitch).saturating_sub(span("UTC"));
        canvas.write(small, b"roomcam", LABELS);
        canvas.write(
            Text {
                left: middle,
                ..small
            },
            size.as_bytes(),
            LABELS,
        );
        canvas.write(
            Text {
                left: right,
                ..small
            },
            b"UTC",
            LABELS,
        );
        Self {
            width,
            height,
            ball: Ball::new(lane.len() * 2 / 5),
            lane,
            digits,
            picture: background.clone(),
            background,
        }
    }

    /// Draws the picture of the moment `unix_time`, in UTC.
    pub fn draw(&mut self, unix_time: Duration) -> Option<I420<'_>> {
        let (width, height) = (self.width, self.height);
        let digit_rows = self.digits.top..self.digits.top + self.digits.pitch * font::ROWS;
        for rows in [self.lane.clone(), digit_rows] {
            restore(&mut self.picture, &self.background, width, height, rows);
        }
        let clock_rows = timecode::rows(height) * width;
        if let Some(rows) = self.picture.get_mut(..clock_rows)
            && let Some((first, _)) = rows.split_at_mut_checked(width)
        {
            timecode::write(first, timecode::reading(unix_time));
            for row in 1..clock_rows / width.max(1) {
                rows.copy_within(0..width, row * width);
            }
        }
        let mut canvas = Canvas::new(&mut self.picture, width, height);
        canvas.write(self.digits, &time_of_day(unix_time), DIGITS);
        let span = width.saturating_sub(self.ball.size());
        let left = swing(unix_time, span);
        let top = self.lane.start + self.lane.len().saturating_sub(self.ball.size()) / 2;
        blend(&mut canvas, &self.ball, left & !1, top & !1);
        I420::in_one_block(width, height, &self.picture, width)
    }
}

const TIME: &str = "HH:MM:SS.mmm";

/// Returns the time of day in UTC, as `HH:MM:SS.mmm`.
fn time_of_day(unix_time: Duration) -> [u8; TIME.len()] {
    let seconds = unix_time.as_secs() % 86_400;
    let digit = |n: u64| b'0' + u8::try_from(n % 10).unwrap_or_default();
    let (h, m, s) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let ms = u64::from(unix_time.subsec_millis());
    [
        digit(h / 10),
        digit(h),
        b':',
        digit(m / 10),
        digit(m),
        b':',
        digit(s / 10),
        digit(s),
        b'.',
        digit(ms / 100),
        digit(ms / 10),
        digit(ms),
    ]
}

/// Returns where the ball is, from 0 to `span`: slow at the turning points (smoothstep).
fn swing(unix_time: Duration, span: usize) -> usize {
    let half = PERIOD_MS / 2;
    let phase = u64::try_from(unix_time.as_millis() % u128::from(PERIOD_MS)).unwrap_or_default();
    let t = if phase < half {
        phase
    } else {
        PERIOD_MS - phase
    };
    let eased = t * t * (3 * half - 2 * t);
    let span_wide = u64::try_from(span).unwrap_or_default();
    let position = u128::from(eased) * u128::from(span_wide) / u128::from(half * half * half);
    usize::try_from(position).unwrap_or(span)
}

/// A disc with smooth edges.
#[derive(Debug)]
struct Ball {
    radius: usize,
    /// Coverage of each luma pixel, 0 to 16.
    coverage: Vec<u8>,
}

impl Ball {
    fn new(radius: usize) -> Self {
        let size = 2 * radius;
        // In quarters of a pixel; samples sit at odd eighths, so the centre is on no sample.
        let inside = |x: usize, y: usize| {
            let distance = |n: usize| (2 * n + 1).abs_diff(size * 4);
            distance(x).pow(2) + distance(y).pow(2) <= (size * 4).pow(2)
        };
        let coverage = (0..size * size)
            .map(|i| (i % size.max(1), i / size.max(1)))
            .map(|(x, y)| {
                let samples = (0..16).filter(|s| inside(x * 4 + s % 4, y * 4 + s / 4));
                u8::try_from(samples.count()).unwrap_or(16)
            })
            .collect();
        Self { radius, coverage }
    }

    const fn size(&self) -> usize {
        2 * self.radius
    }
}

/// Draws the ball with its left upper corner at an even position.
fn blend(canvas: &mut Canvas<'_>, ball: &Ball, left: usize, top: usize) {
    let size = ball.size();
    for (row, coverage) in ball.coverage.chunks(size.max(1)).enumerate() {
        let start = (top + row) * canvas.width + left;
        let Some(luma) = canvas.y.get_mut(start..start + size) else {
            continue;
        };
        for (pixel, &part) in luma.iter_mut().zip(coverage) {
            *pixel = mix(*pixel, BALL.y, part);
        }
        if row % 2 == 0 {
            let start = (top + row) / 2 * (canvas.width / 2) + left / 2;
            for (plane, colour) in [(&mut *canvas.u, BALL.u), (&mut *canvas.v, BALL.v)] {
                let samples = plane.get_mut(start..start + size / 2).unwrap_or_default();
                for (sample, part) in samples.iter_mut().zip(coverage.iter().step_by(2)) {
                    *sample = mix(*sample, colour, *part);
                }
            }
        }
    }
}

/// Returns `over` on `under` where `part` of 16 is covered.
fn mix(under: u8, over: u8, part: u8) -> u8 {
    let part = u16::from(part);
    let sum = u16::from(over) * part + u16::from(under) * (16 - part);
    u8::try_from(sum / 16).unwrap_or(u8::MAX)
}

fn restore(
    picture: &mut [u8],
    background: &[u8],
    width: usize,
    height: usize,
    rows: std::ops::Range<usize>,
) {
    let (luma, chroma) = (width * height, width * height / 4);
    let half = rows.start / 2 * (width / 2)..rows.end.div_ceil(2) * (width / 2);
    for range in [
        rows.start * width..rows.end * width,
        luma + half.start..luma + half.end,
        luma + chroma + half.start..luma + chroma + half.end,
    ] {
        if let (Some(to), Some(from)) = (picture.get_mut(range.clone()), background.get(range)) {
            to.copy_from_slice(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Duration = Duration::from_millis(43_200_000 + 1_234);

    fn luma_row(card: &mut TestCard, at: Duration, row: usize) -> Vec<u8> {
        let picture = card.draw(at).unwrap();
        let [y, ..] = picture.planes();
        y.bytes()[row * y.stride()..][..picture.width()].to_vec()
    }

    #[test]
    fn carries_the_clock_in_all_rows_of_the_top_32_of_720() {
        for (width, height) in [(1280, 720), (640, 480), (320, 180), (1920, 1080)] {
            let mut card = TestCard::new(width, height);
            for row in [0, height * 16 / 720, height * 32 / 720 - 1] {
                let read = timecode::read(&luma_row(&mut card, NOON, row));
                assert_eq!(read, Some(timecode::reading(NOON)), "{width}x{height}");
            }
        }
    }

    #[test]
    fn a_redrawn_picture_equals_one_drawn_afresh() {
        let mut card = TestCard::new(640, 360);
        for ms in 0..50 {
            let at = NOON + Duration::from_millis(ms * 137);
            card.draw(at).unwrap();
            let mut fresh = TestCard::new(640, 360);
            fresh.draw(at).unwrap();
            assert!(card.picture == fresh.picture, "{ms}");
        }
    }

    #[test]
    fn something_moves_between_any_two_pictures() {
        let mut card = TestCard::new(640, 360);
        for ms in (0..4_000).step_by(100) {
            let lane = card.lane.start + card.lane.len() / 2;
            let at = |ms| NOON + Duration::from_millis(ms);
            let before = luma_row(&mut card, at(ms), lane);
            assert_ne!(before, luma_row(&mut card, at(ms + 150), lane), "{ms}");
        }
    }

    #[test]
    fn every_size_that_can_be_configured_is_drawn() {
        for (width, height) in [(64, 64), (64, 2160), (3840, 64), (66, 98), (3840, 2160)] {
            assert!(TestCard::new(width, height).draw(NOON).is_some());
        }
    }

    #[test]
    fn the_time_of_day_is_in_utc() {
        assert_eq!(&time_of_day(NOON), b"12:00:01.234");
        let last = Duration::from_millis(86_400_000 * 20_000 - 1);
        assert_eq!(&time_of_day(last), b"23:59:59.999");
    }

    #[test]
    fn the_ball_goes_from_edge_to_edge() {
        let at = |ms| swing(Duration::from_millis(ms), 1_000);
        assert_eq!(
            [at(0), at(1_000), at(2_000), at(3_000), at(4_000)],
            [0, 500, 1_000, 500, 0]
        );
    }
}
