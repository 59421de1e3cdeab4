//! What can be set of the test picture, as of a camera's: three controls that show. Pure.

use super::convert::I420;
use crate::control::camera::{Control, ControlId, ControlKind, MenuItem};

/// Added to luma, at most.
const BRIGHTEST: i32 = 64;

const NAMES: [&str; 3] = ["None", "Black & White", "Negative"];
const BLACK_AND_WHITE: i32 = 1;
const NEGATIVE: i32 = 2;

/// The settings, and the picture as they make it.
#[derive(Debug, Default)]
pub(super) struct Effects {
    brightness: i32,
    vertical_flip: bool,
    colors: i32,
    planes: Vec<u8>,
}

impl Effects {
    pub(super) fn controls(&self) -> Vec<Control> {
        let control = |id, name: &str, kind, range: (i32, i32), value| Control {
            id,
            name: name.to_owned(),
            kind,
            minimum: range.0,
            maximum: range.1,
            step: 1,
            default: 0,
            value,
            menu: Vec::new(),
            inactive: false,
            read_only: false,
        };
        let items = (0..).zip(NAMES).map(|(value, name)| MenuItem {
            value,
            name: name.to_owned(),
        });
        vec![
            control(
                ControlId::Brightness,
                "Brightness",
                ControlKind::Integer,
                (-BRIGHTEST, BRIGHTEST),
                self.brightness,
            ),
            control(
                ControlId::VerticalFlip,
                "Vertical Flip",
                ControlKind::Boolean,
                (0, 1),
                self.vertical_flip.into(),
            ),
            Control {
                menu: items.collect(),
                ..control(
                    ControlId::ColorEffects,
                    "Color Effects",
                    ControlKind::Menu,
                    (0, NEGATIVE),
                    self.colors,
                )
            },
        ]
    }

    /// Sets a control; returns whether there is such a one.
    pub(super) fn set(&mut self, id: ControlId, value: i32) -> bool {
        match id {
            ControlId::Brightness => self.brightness = value,
            ControlId::VerticalFlip => self.vertical_flip = value != 0,
            ControlId::ColorEffects => self.colors = value,
            _ => return false,
        }
        true
    }

    /// Returns the picture as it was set to look. One without effects is not touched.
    pub(super) fn apply<'a>(&'a mut self, picture: I420<'a>) -> I420<'a> {
        if self.brightness == 0 && !self.vertical_flip && self.colors == 0 {
            return picture;
        }
        let (width, height) = (picture.width(), picture.height());
        let (brightness, colors) = (self.brightness, self.colors);
        self.planes.clear();
        let [y, u, v] = picture.planes();
        for (plane, columns, rows) in [
            (y, width, height),
            (u, width / 2, height / 2),
            (v, width / 2, height / 2),
        ] {
            let is_luma = columns == width;
            let shown = |sample: &u8| match (is_luma, colors) {
                (true, NEGATIVE) => brighter(251 - sample.clamp(&16, &235), brightness),
                (true, _) => brighter(*sample, brightness),
                (false, BLACK_AND_WHITE) => 128,
                (false, NEGATIVE) => 255 - sample,
                (false, _) => *sample,
            };
            for row in 0..rows {
                let row = if self.vertical_flip {
                    rows - 1 - row
                } else {
                    row
                };
                let start = row * plane.stride();
                let samples = plane.bytes().get(start..start + columns);
                self.planes
                    .extend(samples.unwrap_or_default().iter().map(shown));
            }
        }
        I420::in_one_block(width, height, &self.planes, width).unwrap_or(picture)
    }
}

/// Returns a luma sample of limited range, brighter by so much.
fn brighter(luma: u8, by: i32) -> u8 {
    u8::try_from((i32::from(luma) + by).clamp(16, 235)).unwrap_or(luma)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2x2 pixels, then u and v.
    const PICTURE: [u8; 6] = [20, 40, 60, 230, 100, 160];

    fn shown(effects: &mut Effects) -> Vec<u8> {
        let picture = I420::in_one_block(2, 2, &PICTURE, 2).unwrap();
        let shown = effects.apply(picture);
        let planes = shown.planes().map(|plane| plane.bytes().to_vec());
        planes.concat()
    }

    #[test]
    fn each_control_does_what_it_says() {
        assert_eq!(shown(&mut Effects::default()), PICTURE);
        for (id, value, expected) in [
            (ControlId::Brightness, 10, [30, 50, 70, 235, 100, 160]),
            (ControlId::Brightness, -64, [16, 16, 16, 166, 100, 160]),
            (ControlId::VerticalFlip, 1, [60, 230, 20, 40, 100, 160]),
            (ControlId::ColorEffects, 1, [20, 40, 60, 230, 128, 128]),
            (ControlId::ColorEffects, 2, [231, 211, 191, 21, 155, 95]),
        ] {
            let mut effects = Effects::default();
            assert!(effects.set(id, value));
            assert_eq!(shown(&mut effects), expected, "{id} {value}");
            let told = effects.controls().into_iter().find(|c| c.id == id);
            let told = told.unwrap();
            assert_eq!(told.check(value.into()), Ok(value));
            assert_eq!(told.value, value);
        }
        assert!(!Effects::default().set(ControlId::Gain, 1));
    }
}
