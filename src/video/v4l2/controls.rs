//! The controls of a camera's picture ("User Control Reference", "Camera Control Reference").
//!
//! Only those in the table are asked for: nothing of a driver's own, nothing of codecs. All of them
//! are 32-bit numbers, which the plain requests carry whatever their class is.
#![expect(unsafe_code, reason = "unions of C")]

use std::io;

use v4l::v4l_sys as sys;

use super::request::{G_CTRL, QUERYCTRL, QUERYMENU, S_CTRL, zeroed};
use super::{Device, text};
use crate::control::camera::{Control, ControlId, ControlKind, MAX_MENU_ITEMS, MenuItem};

const CONTROLS: [(ControlId, u32); 33] = [
    (ControlId::Brightness, sys::V4L2_CID_BRIGHTNESS),
    (ControlId::Contrast, sys::V4L2_CID_CONTRAST),
    (ControlId::Saturation, sys::V4L2_CID_SATURATION),
    (ControlId::HueAutomatic, sys::V4L2_CID_HUE_AUTO),
    (ControlId::Hue, sys::V4L2_CID_HUE),
    (ControlId::Sharpness, sys::V4L2_CID_SHARPNESS),
    (ControlId::Gamma, sys::V4L2_CID_GAMMA),
    (
        ControlId::BacklightCompensation,
        sys::V4L2_CID_BACKLIGHT_COMPENSATION,
    ),
    (ControlId::GainAutomatic, sys::V4L2_CID_AUTOGAIN),
    (ControlId::Gain, sys::V4L2_CID_GAIN),
    (ControlId::AutoExposure, sys::V4L2_CID_EXPOSURE_AUTO),
    (
        ControlId::ExposureDynamicFramerate,
        sys::V4L2_CID_EXPOSURE_AUTO_PRIORITY,
    ),
    (
        ControlId::ExposureTimeAbsolute,
        sys::V4L2_CID_EXPOSURE_ABSOLUTE,
    ),
    (ControlId::Exposure, sys::V4L2_CID_EXPOSURE),
    (
        ControlId::AutoExposureBias,
        sys::V4L2_CID_AUTO_EXPOSURE_BIAS,
    ),
    (
        ControlId::WhiteBalanceAutomatic,
        sys::V4L2_CID_AUTO_WHITE_BALANCE,
    ),
    (
        ControlId::WhiteBalanceAutoPreset,
        sys::V4L2_CID_AUTO_N_PRESET_WHITE_BALANCE,
    ),
    (ControlId::DoWhiteBalance, sys::V4L2_CID_DO_WHITE_BALANCE),
    (
        ControlId::WhiteBalanceTemperature,
        sys::V4L2_CID_WHITE_BALANCE_TEMPERATURE,
    ),
    (ControlId::RedBalance, sys::V4L2_CID_RED_BALANCE),
    (ControlId::BlueBalance, sys::V4L2_CID_BLUE_BALANCE),
    (
        ControlId::FocusAutomaticContinuous,
        sys::V4L2_CID_FOCUS_AUTO,
    ),
    (ControlId::FocusAbsolute, sys::V4L2_CID_FOCUS_ABSOLUTE),
    (ControlId::ZoomAbsolute, sys::V4L2_CID_ZOOM_ABSOLUTE),
    (ControlId::PanReset, sys::V4L2_CID_PAN_RESET),
    (ControlId::PanAbsolute, sys::V4L2_CID_PAN_ABSOLUTE),
    (ControlId::TiltReset, sys::V4L2_CID_TILT_RESET),
    (ControlId::TiltAbsolute, sys::V4L2_CID_TILT_ABSOLUTE),
    (
        ControlId::PowerLineFrequency,
        sys::V4L2_CID_POWER_LINE_FREQUENCY,
    ),
    (ControlId::HorizontalFlip, sys::V4L2_CID_HFLIP),
    (ControlId::VerticalFlip, sys::V4L2_CID_VFLIP),
    (ControlId::Rotate, sys::V4L2_CID_ROTATE),
    (ControlId::ColorEffects, sys::V4L2_CID_COLORFX),
];

impl Device {
    /// Returns the controls that the device has, as they are now.
    pub(in crate::video) fn picture_controls(&self) -> Vec<Control> {
        let known = CONTROLS.into_iter();
        known
            .filter_map(|(id, code)| self.picture_control(id, code))
            .collect()
    }

    /// Returns one of them.
    pub(in crate::video) fn one_picture_control(&self, control: ControlId) -> Option<Control> {
        let (id, code) = CONTROLS.into_iter().find(|(id, _)| *id == control)?;
        self.picture_control(id, code)
    }

    /// Sets one; it must be known to be legal.
    pub(in crate::video) fn set_picture_control(
        &self,
        control: ControlId,
        value: i32,
    ) -> io::Result<()> {
        let code = CONTROLS.iter().find(|(id, _)| *id == control);
        let &(_, id) = code.ok_or(io::ErrorKind::NotFound)?;
        self.ioctl(&S_CTRL, &mut sys::v4l2_control { id, value })
    }

    fn picture_control(&self, id: ControlId, code: u32) -> Option<Control> {
        let mut raw: sys::v4l2_queryctrl = zeroed();
        raw.id = code;
        self.ioctl(&QUERYCTRL, &mut raw).ok()?;
        let has = |flag| raw.flags & flag != 0;
        let kind = kind(raw.type_)?;
        if has(sys::V4L2_CTRL_FLAG_DISABLED) {
            return None;
        }
        let has_value = kind != ControlKind::Button && !has(sys::V4L2_CTRL_FLAG_WRITE_ONLY);
        let value = if has_value {
            let mut control = sys::v4l2_control { id: code, value: 0 };
            self.ioctl(&G_CTRL, &mut control).ok()?;
            control.value
        } else {
            raw.default_value
        };
        let menu = if kind == ControlKind::Menu {
            self.menu(&raw)
        } else {
            Vec::new()
        };
        Some(Control {
            id,
            name: text(&raw.name),
            kind,
            minimum: raw.minimum,
            maximum: raw.maximum,
            step: raw.step.max(1),
            default: raw.default_value,
            value,
            menu,
            inactive: has(sys::V4L2_CTRL_FLAG_INACTIVE),
            read_only: has(sys::V4L2_CTRL_FLAG_READ_ONLY | sys::V4L2_CTRL_FLAG_GRABBED),
        })
    }

    /// Returns the entries of a menu. Drivers leave some out.
    fn menu(&self, about: &sys::v4l2_queryctrl) -> Vec<MenuItem> {
        let item = |value: i32| {
            let mut raw: sys::v4l2_querymenu = zeroed();
            raw.id = about.id;
            raw.index = u32::try_from(value).ok()?;
            self.ioctl(&QUERYMENU, &mut raw).ok()?;
            let entry = raw.__bindgen_anon_1;
            // SAFETY: both members are plain bytes of the same size or less, of a struct that was zeroed.
            let name = unsafe {
                if about.type_ == sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER_MENU {
                    entry.value.to_string()
                } else {
                    text(&entry.name)
                }
            };
            Some(MenuItem { value, name })
        };
        let values = about.minimum..=about.maximum;
        // Bounded twice: a menu may be mostly gaps.
        let looked_at = values.take(MAX_MENU_ITEMS * 4);
        looked_at.filter_map(item).take(MAX_MENU_ITEMS).collect()
    }
}

/// Returns the kind of a control; `None` for those that are no number.
const fn kind(code: u32) -> Option<ControlKind> {
    match code {
        sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER => Some(ControlKind::Integer),
        sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_BOOLEAN => Some(ControlKind::Boolean),
        sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_MENU
        | sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_INTEGER_MENU => Some(ControlKind::Menu),
        sys::v4l2_ctrl_type_V4L2_CTRL_TYPE_BUTTON => Some(ControlKind::Button),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn all_are_of_the_classes_for_users_and_cameras_and_none_is_a_drivers_own() {
        const USER: u32 = 0x0098_0000;
        const CAMERA: u32 = 0x009a_0000;
        const DRIVERS_OWN: u32 = 0x1000;
        for (id, code) in CONTROLS {
            assert!([USER, CAMERA].contains(&(code & 0x0fff_0000)), "{id}");
            assert!(code & 0xffff < DRIVERS_OWN, "{id}");
        }
        assert!(
            CONTROLS.is_sorted_by_key(|(id, _)| *id),
            "as they are shown"
        );
    }

    #[test]
    fn what_is_no_camera_has_no_controls() {
        let device = Device::open(Path::new("/dev/null")).unwrap();
        assert_eq!(device.picture_controls(), []);
        let set = device.set_picture_control(ControlId::Brightness, 1);
        assert!(set.is_err());
    }
}
