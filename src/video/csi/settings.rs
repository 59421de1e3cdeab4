//! What viewers may set of a CSI camera: options of the camera program, which it takes when it starts.
//!
//! What the configuration says is where they begin, and their default. Options that the table cannot
//! express stay as they are configured, and are not to be set. Written for rpicam-apps 1.0 to 1.9. Pure.

use crate::control::camera::{Control, ControlId, ControlKind, MenuItem};

/// How an option is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A decimal number: hundredths, or tenths, of the value.
    Hundredths,
    Tenths,
    /// The option alone, or none.
    Flag,
    /// One of the table's words.
    Word(&'static [(i32, &'static str, &'static str)]),
}

#[derive(Debug)]
struct Known {
    id: ControlId,
    name: &'static str,
    option: &'static str,
    form: Form,
    range: (i32, i32),
    /// What the program does unasked.
    unasked: i32,
    /// Only for sensors behind a lens that moves.
    needs_lens: bool,
}

/// Numbers as V4L2 gives them to the same words ("Camera Control Reference"); the last two it has not.
const WHITE_BALANCES: Form = Form::Word(&[
    (1, "auto", "Auto"),
    (2, "incandescent", "Incandescent"),
    (3, "fluorescent", "Fluorescent"),
    (6, "daylight", "Daylight"),
    (8, "cloudy", "Cloudy"),
    (20, "tungsten", "Tungsten"),
    (21, "indoor", "Indoor"),
]);

const FOCUS_MODES: Form = Form::Word(&[(0, "manual", "Manual"), (1, "continuous", "Continuous")]);

const KNOWN: [Known; 10] = [
    known(
        ControlId::Brightness,
        "Brightness",
        "--brightness",
        (-100, 100),
        0,
    ),
    known(ControlId::Contrast, "Contrast", "--contrast", (0, 300), 100),
    known(
        ControlId::Saturation,
        "Saturation",
        "--saturation",
        (0, 300),
        100,
    ),
    known(
        ControlId::Sharpness,
        "Sharpness",
        "--sharpness",
        (0, 400),
        100,
    ),
    Known {
        form: Form::Tenths,
        ..known(
            ControlId::AutoExposureBias,
            "Exposure Compensation in 1/10 EV",
            "--ev",
            (-40, 40),
            0,
        )
    },
    Known {
        form: WHITE_BALANCES,
        ..known(
            ControlId::WhiteBalanceAutoPreset,
            "White Balance",
            "--awb",
            (1, 21),
            1,
        )
    },
    Known {
        form: FOCUS_MODES,
        needs_lens: true,
        ..known(
            ControlId::FocusAutomaticContinuous,
            "Focus, Automatic Continuous",
            "--autofocus-mode",
            (0, 1),
            1,
        )
    },
    Known {
        form: Form::Tenths,
        needs_lens: true,
        ..known(
            ControlId::FocusAbsolute,
            "Focus in 1/10 dioptre",
            "--lens-position",
            (0, 150),
            10,
        )
    },
    Known {
        form: Form::Flag,
        ..known(
            ControlId::HorizontalFlip,
            "Horizontal Flip",
            "--hflip",
            (0, 1),
            0,
        )
    },
    Known {
        form: Form::Flag,
        ..known(
            ControlId::VerticalFlip,
            "Vertical Flip",
            "--vflip",
            (0, 1),
            0,
        )
    },
];

const fn known(
    id: ControlId,
    name: &'static str,
    option: &'static str,
    range: (i32, i32),
    unasked: i32,
) -> Known {
    Known {
        id,
        name,
        option,
        form: Form::Hundredths,
        range,
        unasked,
        needs_lens: false,
    }
}

/// Sensors whose lens the program can move.
const WITH_LENS: [&str; 4] = ["imx708", "imx519", "ov64a40", "arducam_64mp"];

/// The settings of one camera.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::video) struct Settings {
    /// Options of the configuration that are none of ours.
    rest: Vec<String>,
    /// As in [`KNOWN`]: configured, and as it is; `None` where the configuration says what is not in
    /// the table.
    values: [Option<(i32, i32)>; KNOWN.len()],
}

impl Settings {
    /// Takes those that are in the table out of the options of the configuration.
    pub(in crate::video) fn new(options: &[String]) -> Self {
        let mut settings = Self {
            rest: Vec::new(),
            values: KNOWN.map(|known| Some((known.unasked, known.unasked))),
        };
        let mut focus_is_configured = [false; 2];
        let mut words = options.iter().peekable();
        while let Some(word) = words.next() {
            let (option, attached) = match word.split_once('=') {
                Some((option, value)) => (option, Some(value.to_owned())),
                None => (word.as_str(), None),
            };
            let all = KNOWN.iter().zip(&mut settings.values);
            let found = all.into_iter().find(|(known, _)| known.option == option);
            let Some((known, place)) = found else {
                settings.rest.push(word.clone());
                continue;
            };
            let focus = [
                ControlId::FocusAutomaticContinuous,
                ControlId::FocusAbsolute,
            ];
            for (id, seen) in focus.into_iter().zip(&mut focus_is_configured) {
                *seen |= known.id == id;
            }
            let is_value = |next: &&String| is_value(next);
            let value = attached.or_else(|| words.next_if(is_value).cloned());
            *place = known.read(value.as_deref()).map(|value| (value, value));
            if place.is_none() {
                settings.rest.push(word.clone());
                settings.rest.extend(value.filter(|_| !word.contains('=')));
            }
        }
        if focus_is_configured == [false, true] {
            // A lens that is put somewhere stays there.
            settings.begin_with(ControlId::FocusAutomaticContinuous, 0);
        }
        settings
    }

    fn begin_with(&mut self, id: ControlId, value: i32) {
        let mut all = KNOWN.iter().zip(&mut self.values);
        if let Some((_, place)) = all.find(|(known, _)| known.id == id) {
            *place = Some((value, value));
        }
    }

    /// Returns the options that make it so.
    pub(in crate::video) fn options(&self) -> Vec<String> {
        let mut options = self.rest.clone();
        let focuses_by_itself = self.value(ControlId::FocusAutomaticContinuous) == Some(1);
        for (known, value) in KNOWN.iter().zip(&self.values) {
            let Some((_, value)) = *value else { continue };
            let governed = known.id == ControlId::FocusAbsolute && focuses_by_itself;
            // A lens that is not moved by itself needs a place.
            let is_needed = known.id == ControlId::FocusAbsolute
                && self.value(ControlId::FocusAutomaticContinuous) == Some(0);
            if !governed && (value != known.unasked || is_needed) {
                options.extend(known.written(value));
            }
        }
        options
    }

    /// Returns what can be set of a camera whose lens can be moved, or not.
    pub(in crate::video) fn controls(&self, has_lens: bool) -> Vec<Control> {
        let all = KNOWN.iter().zip(&self.values);
        all.filter(|(known, _)| has_lens || !known.needs_lens)
            .filter_map(|(known, value)| Some(self.control(known, (*value)?)))
            .collect()
    }

    fn control(&self, known: &Known, (configured, value): (i32, i32)) -> Control {
        let governor = self.value(ControlId::FocusAutomaticContinuous);
        let is_focus = known.id == ControlId::FocusAbsolute;
        let (kind, menu) = match known.form {
            Form::Word(words) if !known.needs_lens => (ControlKind::Menu, menu(words)),
            Form::Word(_) | Form::Flag => (ControlKind::Boolean, Vec::new()),
            Form::Hundredths | Form::Tenths => (ControlKind::Integer, Vec::new()),
        };
        Control {
            id: known.id,
            name: known.name.to_owned(),
            kind,
            minimum: known.range.0,
            maximum: known.range.1,
            step: 1,
            default: configured,
            value,
            menu,
            inactive: is_focus && governor == Some(1),
            read_only: false,
        }
    }

    /// Sets one, to a value that is known to be legal; returns whether that changes something, or `None`
    /// where there is no such one.
    pub(in crate::video) fn set(&mut self, id: ControlId, value: i32) -> Option<bool> {
        let mut all = KNOWN.iter().zip(&mut self.values);
        let (_, place) = all.find(|(known, _)| known.id == id)?;
        let (_, current) = place.as_mut()?;
        let is_new = *current != value;
        *current = value;
        Some(is_new)
    }

    /// Makes all as the configuration says; returns whether that changes something.
    pub(in crate::video) fn reset(&mut self) -> bool {
        let before = self.clone();
        for (configured, value) in self.values.iter_mut().flatten() {
            *value = *configured;
        }
        *self != before
    }

    fn value(&self, id: ControlId) -> Option<i32> {
        let mut all = KNOWN.iter().zip(&self.values);
        let (_, value) = all.find(|(known, _)| known.id == id)?;
        value.map(|(_, value)| value)
    }
}

impl Known {
    /// Reads the option's value; `None` for what the table cannot express exactly.
    fn read(&self, text: Option<&str>) -> Option<i32> {
        let number = |factor: f64| {
            let scaled = text?.parse::<f64>().ok()? * factor;
            let (minimum, maximum) = self.range;
            (minimum..=maximum).find(|value| (f64::from(*value) - scaled).abs() < 1e-6)
        };
        match self.form {
            Form::Hundredths => number(100.0),
            Form::Tenths => number(10.0),
            Form::Flag => match text {
                None | Some("1" | "true" | "on" | "yes") => Some(1),
                Some("0" | "false" | "off" | "no") => Some(0),
                Some(_) => None,
            },
            Form::Word(words) => {
                let (value, _, _) = words.iter().find(|(_, word, _)| Some(*word) == text)?;
                Some(*value)
            }
        }
    }

    /// Returns the words that ask for `value`.
    fn written(&self, value: i32) -> Vec<String> {
        let number = |factor: f64| format!("{}", f64::from(value) / factor);
        let text = match self.form {
            Form::Hundredths => number(100.0),
            Form::Tenths => number(10.0),
            Form::Flag if value == 0 => return Vec::new(),
            Form::Flag => return vec![self.option.to_owned()],
            Form::Word(words) => {
                let found = words.iter().find(|(known, _, _)| *known == value);
                found
                    .map(|(_, word, _)| (*word).to_owned())
                    .unwrap_or_default()
            }
        };
        // As one word: a value may begin with a dash.
        vec![format!("{}={text}", self.option)]
    }
}

/// Whether a word belongs to the option before it. Numbers may begin with a dash.
fn is_value(word: &str) -> bool {
    !word.starts_with('-') || word.parse::<f64>().is_ok()
}

fn menu(words: &[(i32, &str, &str)]) -> Vec<MenuItem> {
    let item = |(value, _, name): &(i32, &str, &str)| MenuItem {
        value: *value,
        name: (*name).to_owned(),
    };
    words.iter().map(item).collect()
}

/// Returns whether the program can move the lens before this sensor.
pub(in crate::video) fn has_lens(sensor: &str) -> bool {
    WITH_LENS.contains(&sensor)
}

/// Returns the sensor that a line of the program names as the one it uses:
/// `… INFO RPI vc4.cpp:630 Sensor: /base/soc/i2c0mux/i2c@1/imx708@1a - Selected sensor format: …`
pub(in crate::video) fn sensor(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("Sensor: /")?;
    let (path, _) = rest.split_once(" - Selected")?;
    let (name, _) = path.rsplit('/').next()?.split_once('@')?;
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(options: &str) -> Settings {
        let words: Vec<String> = options.split_whitespace().map(str::to_owned).collect();
        Settings::new(&words)
    }

    fn options(settings: &Settings) -> String {
        settings.options().join(" ")
    }

    fn find(settings: &Settings, id: ControlId) -> Option<Control> {
        let all = settings.controls(true);
        all.into_iter().find(|control| control.id == id)
    }

    #[test]
    fn nothing_is_asked_for_unless_it_is_set() {
        let mut settings = settings("");
        assert_eq!(options(&settings), "");
        assert_eq!(settings.set(ControlId::Brightness, -20), Some(true));
        assert_eq!(settings.set(ControlId::Brightness, -20), Some(false));
        settings.set(ControlId::Contrast, 115);
        settings.set(ControlId::AutoExposureBias, 5);
        settings.set(ControlId::WhiteBalanceAutoPreset, 6);
        settings.set(ControlId::VerticalFlip, 1);
        assert_eq!(
            options(&settings),
            "--brightness=-0.2 --contrast=1.15 --ev=0.5 --awb=daylight --vflip"
        );
        assert!(settings.reset());
        assert_eq!(options(&settings), "");
        assert!(!settings.reset());
    }

    #[test]
    fn what_is_configured_is_where_they_begin_and_their_default() {
        for configured in [
            "--hflip --awb indoor --brightness -0.2 --rotation 180",
            "--hflip=1 --awb=indoor --brightness=-0.2 --rotation 180",
            "--rotation 180 --brightness -.20 --awb indoor --hflip true",
        ] {
            let mut settings = settings(configured);
            let brightness = find(&settings, ControlId::Brightness).unwrap();
            assert_eq!(
                (brightness.value, brightness.default),
                (-20, -20),
                "{configured}"
            );
            assert_eq!(
                options(&settings),
                "--rotation 180 --brightness=-0.2 --awb=indoor --hflip"
            );
            settings.set(ControlId::HorizontalFlip, 0);
            settings.set(ControlId::Brightness, 0);
            assert_eq!(options(&settings), "--rotation 180 --awb=indoor");
        }
    }

    #[test]
    fn what_the_table_cannot_express_stays_as_it_is_configured() {
        for configured in [
            "--brightness 0.123",
            "--awb custom --awbgains 1.5,2.0",
            "--autofocus-mode auto",
            "--ev=9",
            "--contrast",
            "--hflip maybe --vflip=2",
            "--roi 0.25,0.25,0.5,0.5 --denoise cdn_off",
        ] {
            let settings = settings(configured);
            assert_eq!(options(&settings), configured);
        }
        let settings = settings("--brightness 0.123");
        assert_eq!(find(&settings, ControlId::Brightness), None);
        assert!(find(&settings, ControlId::Contrast).is_some());
    }

    #[test]
    fn every_value_is_read_as_it_is_written() {
        for known in KNOWN {
            let legal: Vec<i32> = match known.form {
                Form::Word(words) => words.iter().map(|(value, _, _)| *value).collect(),
                _ => (known.range.0..=known.range.1).collect(),
            };
            for value in legal {
                let written = known.written(value);
                let text = written.first().and_then(|word| word.split_once('='));
                let read = match (known.form, written.is_empty()) {
                    (Form::Flag, true) => Some(0),
                    _ => known.read(text.map(|(_, text)| text)),
                };
                assert_eq!(read, Some(value), "{written:?}");
            }
        }
    }

    #[test]
    fn focus_is_for_sensors_behind_a_lens_that_moves() {
        let mut settings = settings("");
        let has = |settings: &Settings, has_lens, id| {
            let all = settings.controls(has_lens);
            all.iter().any(|control| control.id == id)
        };
        let focus = ControlId::FocusAbsolute;
        assert!(has_lens("imx708") && !has_lens("imx219"));
        assert!(!has(&settings, false, focus));
        assert!(has(&settings, true, focus));
        assert!(find(&settings, focus).unwrap().inactive);

        settings.set(ControlId::FocusAutomaticContinuous, 0);
        assert!(!find(&settings, focus).unwrap().inactive);
        assert_eq!(
            options(&settings),
            "--autofocus-mode=manual --lens-position=1"
        );
        settings.set(focus, 25);
        assert_eq!(
            options(&settings),
            "--autofocus-mode=manual --lens-position=2.5"
        );
        settings.set(ControlId::FocusAutomaticContinuous, 1);
        assert_eq!(options(&settings), "", "it focuses by itself");

        let settings = self::settings("--lens-position 2");
        assert_eq!(
            options(&settings),
            "--autofocus-mode=manual --lens-position=2"
        );
    }

    #[test]
    fn they_are_in_the_order_in_which_they_are_shown_and_restored() {
        assert!(KNOWN.is_sorted_by_key(|known| known.id));
        for control in settings("").controls(true) {
            assert_eq!(
                control.check(control.default.into()).ok(),
                (!control.inactive).then_some(control.value)
            );
        }
    }

    #[test]
    fn the_sensor_is_read_from_what_the_program_says() {
        let line = "[0:01] [9] INFO RPI vc4.cpp:630 Sensor: /base/soc/i2c0mux/i2c@1/imx708@1a - \
                    Selected sensor format: 1536x864-SBGGR10_1X10";
        assert_eq!(sensor(line), Some("imx708"));
        let pi5 =
            "Sensor: /base/axi/pcie@120000/rp1/i2c@88000/imx219@10 - Selected sensor format: x";
        assert_eq!(sensor(pi5), Some("imx219"));
        for other in [
            "Registered camera /base/soc/i2c0mux/i2c@1/imx708@1a to Unicam device",
            "Sensor: / - Selected",
            "Sensor: /imx708 - Selected",
            "",
        ] {
            assert_eq!(sensor(other), None, "{other}");
        }
    }
}
