//! The sequence parameter set (ITU-T H.264 §7.3.2.1.1, VUI: Annex E).
//!
//! Decoders hold pictures back unless the VUI promises that none is reordered: for a live picture
//! that is a delay of a quarter of a second for nothing. [`without_reordering`] makes the promise;
//! every bit outside the VUI's `bitstream_restriction` stays as the camera wrote it. Pure.

use super::bits::{BitReader, BitWriter, escape, unescape};

/// What a viewer's decoder needs to know in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpsInfo {
    /// `profile_idc`: 66 Baseline, 77 Main, 100 High.
    pub profile_idc: u8,
    /// The constraint flags, as in `profile-level-id` (RFC 6184 §8.1).
    pub constraints: u8,
    /// `level_idc`: ten times the level.
    pub level_idc: u8,
    /// Pixels, after cropping.
    pub width: u32,
    /// Pixels, after cropping.
    pub height: u32,
    /// How many pictures a decoder keeps for reference.
    pub max_num_ref_frames: u32,
}

impl SpsInfo {
    /// Returns whether a decoder that was promised Constrained Baseline can show this.
    #[must_use]
    pub const fn is_constrained_baseline(&self) -> bool {
        self.profile_idc == 66 && self.constraints & 0x40 != 0
    }
}

/// Reads a sequence parameter set; `None` where it is damaged.
#[must_use]
pub fn parse(nal_unit: &[u8]) -> Option<SpsInfo> {
    let rbsp = unescape(nal_unit);
    Some(Head::read(&rbsp)?.info)
}

/// Returns `nal_unit` with a VUI that says: no picture is reordered, and a decoder buffers no more
/// than it needs for reference. `None` where it is damaged; send the original then.
#[must_use]
pub fn without_reordering(nal_unit: &[u8]) -> Option<Vec<u8>> {
    let rbsp = unescape(nal_unit);
    let head = Head::read(&rbsp)?;
    let mut reader = BitReader::new(&rbsp);
    let mut writer = BitWriter::new();
    let keep = |reader: &mut BitReader<'_>, writer: &mut BitWriter, until: usize| {
        while reader.position() < until {
            writer.flag(reader.flag()?);
        }
        Some(())
    };
    keep(&mut reader, &mut writer, head.vui_flag_at)?;
    let has_vui = reader.flag()?;
    writer.flag(true);
    if has_vui {
        let restriction_at = {
            let mut probe = reader.clone();
            skip_vui_before_restriction(&mut probe)?;
            probe.position()
        };
        keep(&mut reader, &mut writer, restriction_at)?;
    } else {
        // aspect ratio, overscan, video signal, chroma location, timing, NAL HRD, VCL HRD,
        // pic_struct: all absent.
        for _ in 0..8 {
            writer.flag(false);
        }
    }
    let restriction = if has_vui && reader.flag()? {
        Restriction::read(&mut reader)?
    } else {
        Restriction::UNRESTRICTED
    };
    restriction.write(&mut writer, head.info.max_num_ref_frames);
    Some(escape(&writer.finish()))
}

/// Everything in front of the VUI.
struct Head {
    info: SpsInfo,
    /// Position of `vui_parameters_present_flag`, in bits.
    vui_flag_at: usize,
}

impl Head {
    fn read(rbsp: &[u8]) -> Option<Self> {
        let &[header, profile_idc, constraints, level_idc, ..] = rbsp else {
            return None;
        };
        if header & 0x1f != 7 {
            return None;
        }
        let mut r = BitReader::new(rbsp);
        r.bits(32)?;
        r.ue()?; // seq_parameter_set_id
        let mut chroma_format_idc = 1;
        if HIGH_PROFILES.contains(&profile_idc) {
            chroma_format_idc = r.ue()?;
            if chroma_format_idc == 3 {
                r.flag()?; // separate_colour_plane_flag
            }
            r.ue()?; // bit_depth_luma_minus8
            r.ue()?; // bit_depth_chroma_minus8
            r.flag()?; // qpprime_y_zero_transform_bypass_flag
            if r.flag()? {
                let lists = if chroma_format_idc == 3 { 12 } else { 8 };
                for list in 0..lists {
                    if r.flag()? {
                        skip_scaling_list(&mut r, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        r.ue()?; // log2_max_frame_num_minus4
        match r.ue()? {
            0 => {
                r.ue()?; // log2_max_pic_order_cnt_lsb_minus4
            }
            1 => {
                r.flag()?;
                r.se()?;
                r.se()?;
                let cycle = r.ue()?;
                if cycle > 255 {
                    return None;
                }
                for _ in 0..cycle {
                    r.se()?;
                }
            }
            2 => {}
            _ => return None,
        }
        let max_num_ref_frames = r.ue()?;
        if max_num_ref_frames > 16 {
            return None;
        }
        r.flag()?; // gaps_in_frame_num_value_allowed_flag
        let width_mbs = r.ue()?.checked_add(1)?;
        let height_units = r.ue()?.checked_add(1)?;
        let frame_mbs_only = r.flag()?;
        if !frame_mbs_only {
            r.flag()?; // mb_adaptive_frame_field_flag
        }
        r.flag()?; // direct_8x8_inference_flag
        let mut crop = [0_u32; 4];
        if r.flag()? {
            for side in &mut crop {
                *side = r.ue()?;
            }
        }
        let fields = if frame_mbs_only { 1 } else { 2 };
        let (unit_x, unit_y) = match chroma_format_idc {
            1 => (2, 2 * fields),
            2 => (2, fields),
            _ => (1, fields),
        };
        let [left, right, top, bottom] = crop;
        let cropped = |blocks: u32, unit: u32, a: u32, b: u32| {
            let cut = a.checked_add(b)?.checked_mul(unit)?;
            blocks.checked_mul(16)?.checked_sub(cut)
        };
        Some(Self {
            info: SpsInfo {
                profile_idc,
                constraints,
                level_idc,
                width: cropped(width_mbs, unit_x, left, right)?,
                height: cropped(height_units.checked_mul(fields)?, unit_y, top, bottom)?,
                max_num_ref_frames,
            },
            vui_flag_at: r.position(),
        })
    }
}

/// Profiles whose SPS carries chroma format and scaling lists (§7.3.2.1.1).
const HIGH_PROFILES: [u8; 12] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134];

fn skip_scaling_list(r: &mut BitReader<'_>, size: u32) -> Option<()> {
    let (mut last, mut next) = (8_i64, 8_i64);
    for _ in 0..size {
        if next != 0 {
            next = (last + r.se()? + 256) % 256;
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

/// Reads the VUI up to `bitstream_restriction_flag` (§E.1.1).
fn skip_vui_before_restriction(r: &mut BitReader<'_>) -> Option<()> {
    const EXTENDED_SAR: u32 = 255;
    if r.flag()? && r.bits(8)? == EXTENDED_SAR {
        r.bits(32)?;
    }
    if r.flag()? {
        r.flag()?; // overscan_appropriate_flag
    }
    if r.flag()? {
        r.bits(4)?; // video_format, video_full_range_flag
        if r.flag()? {
            r.bits(24)?; // colour description
        }
    }
    if r.flag()? {
        r.ue()?;
        r.ue()?;
    }
    if r.flag()? {
        r.bits(32)?;
        r.bits(32)?;
        r.flag()?;
    }
    let nal_hrd = r.flag()?;
    if nal_hrd {
        skip_hrd(r)?;
    }
    let vcl_hrd = r.flag()?;
    if vcl_hrd {
        skip_hrd(r)?;
    }
    if nal_hrd || vcl_hrd {
        r.flag()?; // low_delay_hrd_flag
    }
    r.flag()?; // pic_struct_present_flag
    Some(())
}

fn skip_hrd(r: &mut BitReader<'_>) -> Option<()> {
    let count = r.ue()?.checked_add(1)?;
    if count > 32 {
        return None;
    }
    r.bits(8)?;
    for _ in 0..count {
        r.ue()?;
        r.ue()?;
        r.flag()?;
    }
    r.bits(20)?;
    Some(())
}

/// `bitstream_restriction` but for the two fields that are rewritten.
struct Restriction {
    motion_vectors_over_pic_boundaries: bool,
    max_bytes_per_pic_denom: u32,
    max_bits_per_mb_denom: u32,
    log2_max_mv_length_horizontal: u32,
    log2_max_mv_length_vertical: u32,
}

impl Restriction {
    /// What holds when the restriction is absent (§E.2.1).
    const UNRESTRICTED: Self = Self {
        motion_vectors_over_pic_boundaries: true,
        max_bytes_per_pic_denom: 2,
        max_bits_per_mb_denom: 1,
        log2_max_mv_length_horizontal: 15,
        log2_max_mv_length_vertical: 15,
    };

    fn read(r: &mut BitReader<'_>) -> Option<Self> {
        Some(Self {
            motion_vectors_over_pic_boundaries: r.flag()?,
            max_bytes_per_pic_denom: r.ue()?,
            max_bits_per_mb_denom: r.ue()?,
            log2_max_mv_length_horizontal: r.ue()?,
            log2_max_mv_length_vertical: r.ue()?,
        })
    }

    fn write(&self, w: &mut BitWriter, max_num_ref_frames: u32) {
        w.flag(true);
        w.flag(self.motion_vectors_over_pic_boundaries);
        w.ue(self.max_bytes_per_pic_denom);
        w.ue(self.max_bits_per_mb_denom);
        w.ue(self.log2_max_mv_length_horizontal);
        w.ue(self.log2_max_mv_length_vertical);
        w.ue(0); // max_num_reorder_frames
        w.ue(max_num_ref_frames); // max_dec_frame_buffering
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// OpenH264, 1280x720, Constrained Baseline, with a VUI that has no restriction.
    const CAMERA: &[u8] = &[
        0x67, 0x42, 0xc0, 0x1f, 0x8c, 0x8d, 0x40, 0x28, 0x02, 0xdd, 0x00, 0xf0, 0x88, 0x45, 0x38,
    ];
    /// x264, 1280x720 Baseline with timing and restriction.
    const X264: &[u8] = &[
        0x67, 0x42, 0xc0, 0x1f, 0xd9, 0x00, 0x50, 0x05, 0xbb, 0x01, 0x10, 0x00, 0x00, 0x03, 0x00,
        0x10, 0x00, 0x00, 0x03, 0x03, 0xc0, 0xf1, 0x83, 0x24, 0x80,
    ];

    fn restriction(nal_unit: &[u8]) -> (u32, u32) {
        let rbsp = unescape(nal_unit);
        let head = Head::read(&rbsp).unwrap();
        let mut r = BitReader::new(&rbsp);
        for _ in 0..head.vui_flag_at {
            r.flag().unwrap();
        }
        assert!(r.flag().unwrap(), "VUI present");
        skip_vui_before_restriction(&mut r).unwrap();
        assert!(r.flag().unwrap(), "restriction present");
        Restriction::read(&mut r).unwrap();
        (r.ue().unwrap(), r.ue().unwrap())
    }

    #[test]
    fn reads_size_and_profile() {
        let info = parse(X264).unwrap();
        assert_eq!((info.width, info.height), (1280, 720));
        assert!(info.is_constrained_baseline());
        assert_eq!(info.level_idc, 31);
    }

    #[test]
    fn promises_that_nothing_is_reordered() {
        for sps in [CAMERA, X264] {
            let before = parse(sps).unwrap();
            let rewritten = without_reordering(sps).unwrap();
            assert_eq!(parse(&rewritten), Some(before), "the rest stays");
            assert_eq!(restriction(&rewritten), (0, before.max_num_ref_frames));
            assert_eq!(without_reordering(&rewritten).unwrap(), rewritten);
        }
    }

    #[test]
    fn an_sps_without_a_vui_gets_one() {
        let mut w = BitWriter::new();
        for byte in [0x67_u8, 66, 0xc0, 30] {
            for bit in (0..8).rev() {
                w.flag(byte >> bit & 1 == 1);
            }
        }
        for value in [0, 0, 2, 1] {
            w.ue(value); // id, frame_num, poc type 2, 1 reference frame
        }
        w.flag(false);
        w.ue(39);
        w.ue(29); // 640x480
        for bit in [true, true, false, false] {
            w.flag(bit); // frame_mbs_only, direct_8x8, no cropping, no VUI
        }
        let sps = escape(&w.finish());
        let info = parse(&sps).unwrap();
        assert_eq!((info.width, info.height), (640, 480));
        assert_eq!(restriction(&without_reordering(&sps).unwrap()), (0, 1));
    }

    #[test]
    fn a_damaged_sps_is_refused_and_never_a_panic() {
        for sps in [CAMERA, X264] {
            for end in 0..8 {
                assert_eq!(parse(&sps[..end]), None);
                assert_eq!(without_reordering(&sps[..end]), None);
            }
            for at in 0..sps.len() {
                for bit in 0..8 {
                    let mut damaged = sps.to_vec();
                    damaged[at] ^= 1 << bit;
                    // Any answer will do, as long as there is one.
                    drop(without_reordering(&damaged));
                }
            }
        }
    }
}
