//! Whether an encoder works, found out by encoding.

use std::time::Duration;

use super::super::VideoError;
use super::super::convert::I420;
use super::super::format::{FourCc, Size};
use super::{Lender, V4l2Encoder};
use crate::clock;
use crate::h264::annexb::{NalUnit, nal_units};

/// How long the first picture may take, with all that the firmware loads for it, and each behind it.
const PROVEN_WITHIN: Duration = Duration::from_secs(2);

impl V4l2Encoder {
    /// Encodes a grey picture and checks what comes out.
    pub(super) fn prove(mut self) -> Result<(), VideoError> {
        let pixels = |n: u32| usize::try_from(n).unwrap_or_default();
        let Size { width, height } = self.settings.size;
        let (width, height) = (pixels(width), pixels(height));
        let grey = vec![128; width * height * 3 / 2];
        let picture = I420::in_one_block(width, height, &grey, width);
        let picture = picture.ok_or_else(|| self.failure("takes even sizes alone"))?;
        let now = clock::now();
        self.submit(&picture, now)?;
        self.check_what_comes_out(1)
    }

    /// Encodes what is in each of the camera's buffers, and checks what comes out.
    pub(super) fn prove_sharing(mut self, lender: &Lender) -> Result<(), VideoError> {
        let now = clock::now();
        let mut pictures = 0;
        for index in 0..u32::try_from(lender.buffers.len()).unwrap_or(u32::MAX) {
            self.submit_shared(index, now)?;
            pictures += 1;
        }
        self.check_what_comes_out(pictures)
    }

    fn check_what_comes_out(&mut self, pictures: usize) -> Result<(), VideoError> {
        let mut first = true;
        for _ in 0..pictures {
            let since = clock::now();
            while self.ready.is_empty() {
                if self.under_way.is_empty() {
                    return Err(self.failure("lost a picture"));
                }
                if clock::now() > since + PROVEN_WITHIN {
                    return Err(self.failure("did not encode a picture"));
                }
                self.collect(PROVEN_WITHIN)?;
            }
            let unit = self.ready.pop_front().map(|unit| unit.data);
            let must_be_keyframe =
                self.settings.coded == FourCc::H264 && std::mem::take(&mut first);
            if must_be_keyframe && !unit.is_some_and(|unit| is_keyframe(&unit)) {
                return Err(self.failure("did not begin with a keyframe"));
            }
        }
        Ok(())
    }
}

fn is_keyframe(unit: &[u8]) -> bool {
    let has = |wanted| nal_units(unit).any(|unit| unit.unit_type() == wanted);
    has(NalUnit::SPS) && has(NalUnit::PPS) && has(NalUnit::IDR_SLICE)
}
