//! The test picture as a source: drawn at the frame rate, encoded like a camera's.
//!
//! For `roomcam demo`, and for tests and benches, which read the capture clock in the picture (see
//! `timecode`). The clock shows the moment of drawing, which is `captured_at` too.

use super::effects::Effects;
use super::metronome::Metronome;
use super::openh264::OpenH264;
use super::still::{Keeper, Planes, Still};
use super::test_card::TestCard;
use super::{AccessUnit, VideoError, VideoSource};
use crate::clock;
use crate::config;
use crate::control::camera::{Control, ControlId};

/// A source of test pictures.
#[derive(Debug)]
pub struct Pattern {
    card: TestCard,
    effects: Effects,
    kept: Keeper,
    encoder: OpenH264,
    metronome: Metronome,
    description: String,
}

impl Pattern {
    /// Creates a source of pictures of the configured size and rate. The first is due at once.
    #[must_use]
    pub fn new(config: &config::Video) -> Self {
        let pixels = |n| usize::try_from(n).unwrap_or_default();
        let config::Video {
            width, height, fps, ..
        } = *config;
        Self {
            card: TestCard::new(pixels(width), pixels(height)),
            effects: Effects::default(),
            kept: Keeper::default(),
            encoder: OpenH264::new(fps, config.bitrate_kbps.saturating_mul(1_000)),
            metronome: Metronome::new(fps, clock::now()),
            description: format!("test picture {width}x{height} at {fps} fps, encoded by OpenH264"),
        }
    }
}

impl VideoSource for Pattern {
    fn next(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        if !self.metronome.wait() {
            return Ok(None);
        }
        let (captured_at, unix_time) = (clock::now(), clock::unix_time());
        let Some(picture) = self.card.draw(unix_time) else {
            return Ok(None);
        };
        let picture = self.effects.apply(picture);
        self.kept
            .offer(|| Still::Picture(Planes::copy_of(&picture)));
        let coded = self.encoder.encode(&picture, captured_at)?;
        Ok(coded.map(|data| AccessUnit { data, captured_at }))
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn keyframes_on_demand(&self) -> bool {
        true
    }

    fn request_keyframe(&mut self) {
        self.encoder.request_keyframe();
    }

    fn set_bitrate(&mut self, bits_per_second: u32) {
        self.encoder.set_bitrate(bits_per_second);
    }

    fn controls(&self) -> Vec<Control> {
        self.effects.controls()
    }

    fn set_control(&mut self, id: ControlId, value: i32) -> Result<(), String> {
        let is_set = self.effects.set(id, value);
        is_set
            .then_some(())
            .ok_or_else(|| format!("it has no {id}"))
    }

    fn keep_next_picture(&mut self) -> bool {
        self.kept.ask();
        true
    }

    fn take_picture(&mut self) -> Option<Still> {
        self.kept.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocations;
    use crate::h264::access_unit::contents;
    use crate::video::timecode;
    use openh264::formats::YUVSource as _;

    fn small() -> config::Video {
        config::Video {
            width: 320,
            height: 180,
            fps: 100,
            ..config::Video::default()
        }
    }

    fn wait(pattern: &mut Pattern) -> AccessUnit {
        let deadline = clock::now() + std::time::Duration::from_secs(10);
        loop {
            assert!(clock::now() < deadline, "no picture");
            if let Some(unit) = pattern.next().unwrap() {
                return unit;
            }
        }
    }

    #[test]
    fn the_clock_is_read_back_from_the_coded_picture() {
        let mut pattern = Pattern::new(&small());
        let mut decoder = openh264::decoder::Decoder::new().unwrap();
        let start = timecode::reading(clock::unix_time());
        let mut last = start;
        for _ in 0..5 {
            let unit = wait(&mut pattern);
            let picture = decoder.decode(&unit.data).unwrap().unwrap();
            let (stride, ..) = picture.strides();
            let row = &picture.y()[4 * stride..][..320];
            let read = timecode::read(row).expect("a clock that reads");
            assert!(read >= last, "time goes on");
            last = read;
        }
        let now = timecode::reading(clock::unix_time());
        assert!(last.wrapping_sub(start) <= now.wrapping_sub(start));
    }

    #[test]
    fn a_keyframe_comes_first_and_when_asked() {
        let mut pattern = Pattern::new(&small());
        let is_keyframe = |unit: &AccessUnit| contents(&unit.data).is_idr;
        assert!(is_keyframe(&wait(&mut pattern)));
        assert!(!is_keyframe(&wait(&mut pattern)));
        pattern.request_keyframe();
        assert!(is_keyframe(&wait(&mut pattern)));
    }

    #[test]
    fn once_warm_a_picture_takes_one_allocation_its_access_unit() {
        let mut pattern = Pattern::new(&small());
        wait(&mut pattern);
        let before = allocations::of_this_thread();
        for _ in 0..10 {
            wait(&mut pattern);
        }
        assert_eq!(allocations::of_this_thread() - before, 10);
    }
}
