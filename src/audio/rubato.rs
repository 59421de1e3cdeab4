//! Sound of any sample rate → frames at 48 kHz, at a ratio that may change a little all the time.
//!
//! Windowed sinc interpolation (crate `rubato`). The same for a card of 48 kHz, whose clock is never
//! quite ours. Its memory is taken when it is made.

use std::num::NonZeroU32;
use std::time::Duration;

use rubato::audioadapter_buffers::direct::SequentialSlice;
use rubato::{
    Adjustable as _, Async, FixedAsync, Resampler as _, SincInterpolationParameters,
    SincInterpolationType, WindowFunction,
};

use super::{AudioError, FRAME_SAMPLES, SAMPLE_RATE_HZ};

/// Samples of the card's that each of ours is made of. It delays by half of them, 0.7 ms at 48 kHz
/// and 4 ms at 8 kHz, and weakens the uppermost eighth of the frequencies.
const SINC_SAMPLES: usize = 64;

/// Steps between two samples, for which the sinc is computed in advance (64 kB). With linear
/// interpolation between these, what is wrong with a tone is 100 dB below it, less than 16 bits
/// show; cubic interpolation is no better there and costs twice as much.
const SINC_STEPS: usize = 256;

/// How far a correction may go from 1. More than anyone asks for.
const MAX_CORRECTION: f64 = 1.01;

/// A resampler of one channel.
pub(super) struct Resampler {
    inner: Async<f32>,
    input_hz: f64,
}

impl Resampler {
    /// Makes one for sound of this many samples per second.
    pub(super) fn new(input_hz: NonZeroU32) -> Result<Self, AudioError> {
        let input_hz = f64::from(input_hz.get());
        let parameters = SincInterpolationParameters::new(SINC_SAMPLES, WindowFunction::Hann2)
            .oversampling_factor(SINC_STEPS)
            .interpolation(SincInterpolationType::Linear);
        let inner = Async::new_sinc(
            f64::from(SAMPLE_RATE_HZ) / input_hz,
            MAX_CORRECTION,
            &parameters,
            FRAME_SAMPLES,
            1,
            FixedAsync::Output,
        )
        .map_err(failed)?;
        Ok(Self { inner, input_hz })
    }

    /// Returns how much earlier than the first sample that was put in the first one that comes out
    /// is.
    pub(super) fn delay(&self) -> Duration {
        // The first comes one step behind the middle of an empty sinc.
        let before = SINC_SAMPLES as f64 / 2.0 / self.input_hz;
        Duration::from_secs_f64(before - 1.0 / f64::from(SAMPLE_RATE_HZ))
    }

    /// Returns how many samples the next frame takes, if the ratio glides to `correction` times the
    /// nominal one while it is made.
    pub(super) fn needed(&mut self, correction: f64) -> Result<usize, AudioError> {
        self.inner
            .set_resample_ratio_relative(correction, true)
            .map_err(failed)?;
        Ok(self.inner.input_frames_next())
    }

    /// Makes a frame of as many samples as [`Self::needed`] said.
    pub(super) fn process(
        &mut self,
        input: &[f32],
        frame: &mut [f32; FRAME_SAMPLES],
    ) -> Result<(), AudioError> {
        let input = SequentialSlice::new(input, 1, input.len()).map_err(failed)?;
        let mut output = SequentialSlice::new_mut(frame, 1, FRAME_SAMPLES).map_err(failed)?;
        self.inner
            .process_into_buffer(&input, &mut output, None)
            .map_err(failed)?;
        Ok(())
    }

    /// Forgets what was put in.
    pub(super) fn reset(&mut self) {
        self.inner.reset();
    }
}

impl std::fmt::Debug for Resampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resampler")
            .field("input_hz", &self.input_hz)
            .finish_non_exhaustive()
    }
}

fn failed(error: impl std::fmt::Display) -> AudioError {
    AudioError::Resampler(error.to_string())
}
