//! Raw pictures → H.264 in software, with Cisco's OpenH264.
//!
//! Constrained baseline, one slice per picture, no bidirectional pictures, one thread, keyframes on
//! demand only. The target bitrate can be changed while it runs, without a keyframe. Scaling is left
//! out. Of decoding there is what a snapshot takes: one keyframe.

use std::ffi::{c_int, c_void};
use std::fmt;
use std::time::Instant;

use bytes::Bytes;
use openh264::decoder::Decoder;
use openh264::encoder::{
    BitRate, ColorPrimaries, Complexity, Encoder, EncoderConfig, FrameRate, IntraFramePeriod,
    MatrixCoefficients, Profile, RateControlMode, TransferCharacteristics, UsageType, VuiConfig,
};
use openh264::formats::YUVSource;
use openh264::{OpenH264API, Timestamp};
use openh264_sys2::{
    ENCODER_OPTION, ENCODER_OPTION_BITRATE, ENCODER_OPTION_MAX_BITRATE, ENCODER_OPTION_TRACE_LEVEL,
    SBitrateInfo, SPATIAL_LAYER_0, WELS_LOG_QUIET,
};

use super::VideoError;
use super::convert::{I420, Plane};
use super::still::Planes;
use crate::h264::annexb::{NalUnit, nal_units};
use crate::h264::sps;

/// Lowest and highest target in bit/s. Below, the rate control gives up; above is no level of H.264
/// that a browser takes.
const BITRATE_RANGE_BPS: std::ops::RangeInclusive<u32> = 30_000..=60_000_000;

/// An encoder of pictures of one size.
pub struct OpenH264 {
    /// Made with the first picture; before it, OpenH264 takes no options.
    encoder: Option<Box<Encoder>>,
    fps: u32,
    bitrate_bps: u32,
    keyframe_wanted: bool,
    first_at: Option<Instant>,
}

impl fmt::Debug for OpenH264 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenH264")
            .field("fps", &self.fps)
            .field("bitrate_bps", &self.bitrate_bps)
            .finish_non_exhaustive()
    }
}

impl OpenH264 {
    /// Creates an encoder for `fps` pictures per second and about `bitrate_bps` of output.
    #[must_use]
    pub fn new(fps: u32, bitrate_bps: u32) -> Self {
        Self {
            encoder: None,
            fps: fps.max(1),
            bitrate_bps: clamp_bitrate(bitrate_bps),
            keyframe_wanted: false,
            first_at: None,
        }
    }

    /// Encodes one picture. The first is a keyframe; so is one of another size than the last.
    ///
    /// Returns one access unit as an Annex B byte stream, or `None` where the encoder chose to skip
    /// the picture.
    ///
    /// # Errors
    ///
    /// [`VideoError::Encoder`]; the encoder is unusable afterwards.
    pub fn encode(
        &mut self,
        picture: &I420<'_>,
        captured_at: Instant,
    ) -> Result<Option<Bytes>, VideoError> {
        let encoder = match &mut self.encoder {
            Some(encoder) => encoder,
            none => {
                let api = OpenH264API::from_source();
                let settings = settings(self.fps, self.bitrate_bps);
                let mut encoder = Encoder::with_api_config(api, settings).map_err(failed)?;
                silence(&mut encoder);
                none.insert(Box::new(encoder))
            }
        };
        let is_first = self.first_at.is_none();
        let first_at = *self.first_at.get_or_insert(captured_at);
        let age = captured_at.saturating_duration_since(first_at);
        let age_ms = u64::try_from(age.as_millis()).unwrap_or_default();
        if std::mem::take(&mut self.keyframe_wanted) && !is_first {
            encoder.force_intra_frame();
        }
        let coded = encoder
            .encode_at(&Borrowed(picture), Timestamp::from_millis(age_ms))
            .map_err(failed)?;
        let size = usize::try_from(coded.raw_info().iFrameSizeInBytes).unwrap_or_default();
        let mut unit = Vec::with_capacity(size);
        coded.write_vec(&mut unit);
        Ok((!unit.is_empty()).then(|| unit.into()))
    }

    /// Makes the next picture a keyframe.
    pub const fn request_keyframe(&mut self) {
        self.keyframe_wanted = true;
    }

    /// Changes the target, from the next picture on and without a keyframe.
    pub fn set_bitrate(&mut self, bits_per_second: u32) {
        let bitrate_bps = clamp_bitrate(bits_per_second);
        let raised = bitrate_bps > self.bitrate_bps;
        self.bitrate_bps = bitrate_bps;
        let (Some(encoder), Some(_)) = (&mut self.encoder, self.first_at) else {
            return;
        };
        // The encoder refuses a target above its maximum, so their order matters.
        let options = if raised {
            [ENCODER_OPTION_MAX_BITRATE, ENCODER_OPTION_BITRATE]
        } else {
            [ENCODER_OPTION_BITRATE, ENCODER_OPTION_MAX_BITRATE]
        };
        for option in options {
            set_bitrate_option(encoder, option, bitrate_bps);
        }
    }
}

/// Largest keyframe that is decoded, in pixels each way. Memory for it is taken before it is known to
/// be whole.
const LARGEST_DECODED: u32 = 4_096;

/// Returns the picture of a keyframe, `unit`, with its parameter sets in front.
///
/// # Errors
///
/// [`VideoError::Encoder`], where it is damaged, too large, or of a kind that OpenH264 lacks.
pub fn decode(unit: &[u8]) -> Result<Planes, VideoError> {
    let no_picture = |reason: &str| VideoError::Encoder(reason.to_owned());
    let mut sets = nal_units(unit).filter(|nal| nal.unit_type() == NalUnit::SPS);
    let info = sets.next().and_then(|set| sps::parse(set.bytes()));
    let fits = |n| (2..=LARGEST_DECODED).contains(&n);
    if !info.is_some_and(|info| fits(info.width) && fits(info.height)) {
        return Err(no_picture("not a picture of a usual size"));
    }
    let mut decoder = Decoder::new().map_err(failed)?;
    let at_once = decoder.decode(unit).map_err(failed)?;
    if let Some(planes) = at_once.and_then(|picture| copied(&picture)) {
        return Ok(planes);
    }
    // Where pictures may come in another order than they are shown in, the decoder keeps the first.
    let held_back = decoder.flush_remaining().map_err(failed)?;
    let planes = held_back.first().and_then(copied);
    planes.ok_or_else(|| no_picture("the keyframe is no whole picture"))
}

fn copied(picture: &impl YUVSource) -> Option<Planes> {
    let (width, height) = picture.dimensions();
    let (y, u, v) = picture.strides();
    let planes = [
        Plane::new(picture.y(), y),
        Plane::new(picture.u(), u),
        Plane::new(picture.v(), v),
    ];
    let picture = I420::new(width & !1, height & !1, planes)?;
    Some(Planes::copy_of(&picture))
}

/// Returns whether OpenH264 was built with its assembly and this processor runs it. Without, it takes twice
/// the CPU, and says nothing.
#[must_use]
pub fn has_assembly() -> bool {
    #[expect(unsafe_code, reason = "OpenH264 tells in C alone")]
    unsafe extern "C" {
        /// The instruction sets there is assembly for, as bits; none where it was left out
        /// (`codec/common/src/cpu.cpp`).
        fn WelsCPUFeatureDetect(processors: *mut i32) -> u32;
    }
    let mut processors = 0;
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: it writes one number to where the pointer points, which lives until it returns.
    let features = unsafe { WelsCPUFeatureDetect(&raw mut processors) };
    features != 0
}

fn settings(fps: u32, bitrate_bps: u32) -> EncoderConfig {
    // What UVC cameras say they deliver by default, and what the test picture is drawn in.
    let colours = VuiConfig::bt601()
        .color_primaries(ColorPrimaries::Bt709)
        .transfer_characteristics(TransferCharacteristics::Bt709)
        .matrix_coefficients(MatrixCoefficients::Smpte170M);
    EncoderConfig::new()
        .usage_type(UsageType::CameraVideoRealTime)
        .profile(Profile::Baseline)
        .complexity(Complexity::Low)
        .num_threads(1)
        .max_frame_rate(FrameRate::from_hz(f32::from(
            u16::try_from(fps).unwrap_or(u16::MAX),
        )))
        .rate_control_mode(RateControlMode::Bitrate)
        .bitrate(BitRate::from_bps(bitrate_bps))
        // A skipped picture is a stutter on purpose; the pacer and the target deal with congestion.
        .skip_frames(false)
        // A keyframe on every scene change would cost most when the network is at its worst.
        .scene_change_detect(false)
        .intra_frame_period(IntraFramePeriod::from_num_frames(0))
        .vui(colours)
}

/// Keeps OpenH264 from writing to the standard error output, which it does until its first picture.
fn silence(encoder: &mut Encoder) {
    let mut level: c_int = WELS_LOG_QUIET;
    let _status = set_option(encoder, ENCODER_OPTION_TRACE_LEVEL, &mut level);
}

fn set_bitrate_option(encoder: &mut Encoder, option: ENCODER_OPTION, bitrate_bps: u32) {
    let mut info = SBitrateInfo {
        iLayer: SPATIAL_LAYER_0,
        iBitrate: i32::try_from(bitrate_bps).unwrap_or(i32::MAX),
    };
    let status = set_option(encoder, option, &mut info);
    if status != 0 {
        tracing::debug!(status, bitrate_bps, "OpenH264 kept its bitrate");
    }
}

/// Sets an option whose value is a `T`: a `c_int`, or the `SBitrateInfo` of the bitrate options.
fn set_option<T>(encoder: &mut Encoder, option: ENCODER_OPTION, value: &mut T) -> c_int {
    let value = std::ptr::from_mut(value).cast::<c_void>();
    #[expect(unsafe_code, reason = "the safe wrapper cannot change options")]
    // SAFETY: the two callers pass the type that OpenH264 reads for their option, and it is copied
    // before the call returns. Options it cannot take yet are refused with a status.
    unsafe {
        encoder.raw_api().set_option(option, value)
    }
}

fn clamp_bitrate(bits_per_second: u32) -> u32 {
    bits_per_second.clamp(*BITRATE_RANGE_BPS.start(), *BITRATE_RANGE_BPS.end())
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn failed(error: openh264::Error) -> VideoError {
    VideoError::Encoder(error.to_string())
}

struct Borrowed<'a>(&'a I420<'a>);

impl YUVSource for Borrowed<'_> {
    fn dimensions(&self) -> (usize, usize) {
        (self.0.width(), self.0.height())
    }

    fn strides(&self) -> (usize, usize, usize) {
        let [y, u, v] = self.0.planes();
        (y.stride(), u.stride(), v.stride())
    }

    fn y(&self) -> &[u8] {
        let [y, ..] = self.0.planes();
        y.bytes()
    }

    fn u(&self) -> &[u8] {
        let [_, u, _] = self.0.planes();
        u.bytes()
    }

    fn v(&self) -> &[u8] {
        let [.., v] = self.0.planes();
        v.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocations;
    use crate::h264::annexb::{NalUnit, nal_units};
    use std::time::Duration;

    const WIDTH: usize = 320;
    const HEIGHT: usize = 176;
    const FPS: u32 = 30;

    /// If this fails: install nasm, run `cargo clean -p openh264-sys2 -p roomcam`, and build again.
    #[test]
    fn it_is_built_with_its_assembly() {
        assert!(has_assembly() || std::env::var_os("OPENH264_NO_ASM").is_some());
    }

    /// A noisy picture that moves: expensive, as a camera's at night.
    fn noise(number: u32) -> Vec<u8> {
        let mut state = number.wrapping_mul(2_654_435_761) | 1;
        let mut bytes = vec![128; WIDTH * HEIGHT * 3 / 2];
        for (at, luma) in bytes[..WIDTH * HEIGHT].iter_mut().enumerate() {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let ramp = u8::try_from((at + usize::try_from(number).unwrap() * 3) % 160).unwrap();
            *luma = 40 + ramp + state.to_le_bytes()[0] % 24;
        }
        bytes
    }

    struct Run {
        encoder: OpenH264,
        start: Instant,
        number: u32,
    }

    impl Run {
        fn at(bitrate_bps: u32) -> Self {
            Self {
                encoder: OpenH264::new(FPS, bitrate_bps),
                start: crate::clock::now(),
                number: 0,
            }
        }

        fn next(&mut self) -> Bytes {
            let bytes = noise(self.number);
            let picture = I420::in_one_block(WIDTH, HEIGHT, &bytes, WIDTH).unwrap();
            let at = self.start + Duration::from_secs(1) * self.number / FPS;
            self.number += 1;
            self.encoder.encode(&picture, at).unwrap().unwrap()
        }

        /// Bits per second over `seconds` of pictures.
        fn measure(&mut self, seconds: u32) -> usize {
            let bytes: usize = (0..seconds * FPS).map(|_| self.next().len()).sum();
            bytes * 8 / usize::try_from(seconds).unwrap()
        }
    }

    fn types(unit: &Bytes) -> Vec<u8> {
        nal_units(unit).map(NalUnit::unit_type).collect()
    }

    #[test]
    fn only_the_first_picture_and_a_requested_one_are_keyframes() {
        let mut run = Run::at(500_000);
        run.encoder.request_keyframe();
        for number in 0..60 {
            if number == 40 {
                run.encoder.request_keyframe();
            }
            let expected: &[u8] = if number == 0 || number == 40 {
                &[7, 8, 5]
            } else {
                &[1]
            };
            assert_eq!(types(&run.next()), expected, "picture {number}");
        }
    }

    #[test]
    fn the_stream_is_constrained_baseline() {
        let unit = Run::at(500_000).next();
        let sps = nal_units(&unit).next().unwrap();
        assert_eq!(sps.bytes()[1], 66, "profile_idc");
        assert_eq!(sps.bytes()[2] & 0x40, 0x40, "constraint_set1_flag");
    }

    #[test]
    fn a_new_bitrate_takes_effect_without_a_keyframe() {
        let mut run = Run::at(400_000);
        run.measure(2);
        for target in [1_200_000, 300_000] {
            run.encoder.set_bitrate(target);
            assert_eq!(types(&run.next()), [1]);
            run.measure(2);
            let measured = run.measure(2);
            let target = usize::try_from(target).unwrap();
            assert!(
                (target * 7 / 10..=target * 13 / 10).contains(&measured),
                "{measured} bit/s of {target}"
            );
        }
    }

    #[test]
    fn a_bitrate_out_of_all_reason_is_brought_into_range() {
        for bitrate in [0, 1, u32::MAX] {
            let mut run = Run::at(bitrate);
            run.next();
            run.encoder.set_bitrate(u32::MAX - bitrate);
            run.next();
        }
    }

    #[test]
    fn a_picture_of_another_size_starts_over_with_a_keyframe() {
        let mut run = Run::at(500_000);
        run.next();
        let bytes = vec![128; 64 * 64 * 3 / 2];
        let picture = I420::in_one_block(64, 64, &bytes, 64).unwrap();
        let unit = run.encoder.encode(&picture, run.start).unwrap().unwrap();
        assert_eq!(types(&unit), [7, 8, 5]);
    }

    #[test]
    fn a_picture_takes_one_allocation_its_access_unit() {
        let pictures: Vec<_> = (0..20).map(noise).collect();
        let mut run = Run::at(500_000);
        run.next();
        for (bytes, second) in pictures.iter().zip(1..) {
            let picture = I420::in_one_block(WIDTH, HEIGHT, bytes, WIDTH).unwrap();
            let at = run.start + Duration::from_secs(second);
            // It is handed on to viewers, who keep it for as long as they need it.
            let before = allocations::of_this_thread();
            assert!(run.encoder.encode(&picture, at).unwrap().is_some());
            assert_eq!(allocations::of_this_thread() - before, 1);
        }
    }
}
