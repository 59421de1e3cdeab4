//! What viewers may set of a camera, and what they may ask of the one that is open.
//!
//! Only settings that are listed here are ever read or written: those of a camera's picture, never a
//! driver's own. Wire format: `docs/control.md`. Pure.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Most entries of a menu that are told. Cameras list up to five, except for colour effects.
pub const MAX_MENU_ITEMS: usize = 24;

/// A setting, by the name that `v4l2-ctl --list-ctrls` gives it.
///
/// In the order in which they are shown, and restored: what is automatic comes before what it governs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the names are the documentation")]
pub enum ControlId {
    Brightness,
    Contrast,
    Saturation,
    HueAutomatic,
    Hue,
    Sharpness,
    Gamma,
    BacklightCompensation,
    GainAutomatic,
    Gain,
    AutoExposure,
    ExposureDynamicFramerate,
    ExposureTimeAbsolute,
    Exposure,
    AutoExposureBias,
    WhiteBalanceAutomatic,
    WhiteBalanceAutoPreset,
    DoWhiteBalance,
    WhiteBalanceTemperature,
    RedBalance,
    BlueBalance,
    FocusAutomaticContinuous,
    FocusAbsolute,
    ZoomAbsolute,
    PanReset,
    PanAbsolute,
    TiltReset,
    TiltAbsolute,
    PowerLineFrequency,
    HorizontalFlip,
    VerticalFlip,
    Rotate,
    ColorEffects,
}

impl fmt::Display for ControlId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What kind of values a control takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlKind {
    /// A number in a range.
    Integer,
    /// 0 or 1.
    Boolean,
    /// One of the entries of [`Control::menu`].
    Menu,
    /// No value: setting it does something, whatever it is set to.
    Button,
}

/// One entry of a menu.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct MenuItem {
    /// What the control is set to.
    pub value: i32,
    /// For people.
    pub name: String,
}

/// One control of the open camera.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Control {
    /// Which.
    pub id: ControlId,
    /// As the driver calls it, for people.
    pub name: String,
    /// What kind of values it takes.
    #[serde(rename = "type")]
    pub kind: ControlKind,
    /// Lowest value.
    pub minimum: i32,
    /// Highest value.
    pub maximum: i32,
    /// Between legal values; what lies between two is rounded by the driver.
    pub step: i32,
    /// The driver's default.
    pub default: i32,
    /// As it is.
    pub value: i32,
    /// The legal values of a menu; empty for other kinds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub menu: Vec<MenuItem>,
    /// It has no effect as another control is set: an automatic one governs it.
    pub inactive: bool,
    /// It cannot be set.
    pub read_only: bool,
}

impl Control {
    /// Returns `value` as the driver takes it.
    ///
    /// # Errors
    ///
    /// [`Refusal`], which names the legal values.
    pub fn check(&self, value: i64) -> Result<i32, Refusal> {
        let id = self.id;
        if self.read_only {
            return Err(Refusal::new("read-only", format!("{id} cannot be set")));
        }
        if self.inactive {
            let message =
                format!("{id} has no effect now: the camera governs it, switch the automatic off");
            return Err(Refusal::new("inactive", message));
        }
        let legal = i32::try_from(value).ok().filter(|value| match self.kind {
            ControlKind::Menu => self.menu.iter().any(|item| item.value == *value),
            ControlKind::Button => true,
            ControlKind::Integer | ControlKind::Boolean => {
                (self.minimum..=self.maximum).contains(value)
            }
        });
        legal.ok_or_else(|| {
            Refusal::new(
                "out-of-range",
                format!("{id} takes {}, not {value}", self.range()),
            )
        })
    }

    /// Returns whether its default can be restored.
    #[must_use]
    pub fn can_be_reset(&self) -> bool {
        self.kind != ControlKind::Button && !self.read_only && !self.inactive
    }

    /// Returns the legal values, in words.
    fn range(&self) -> String {
        match self.kind {
            ControlKind::Menu => {
                let item = |item: &MenuItem| format!("{} ({})", item.value, item.name);
                let items: Vec<_> = self.menu.iter().map(item).collect();
                items.join(", ")
            }
            _ if self.step > 1 => {
                let (minimum, maximum, step) = (self.minimum, self.maximum, self.step);
                format!("{minimum} to {maximum} in steps of {step}")
            }
            _ => format!("{} to {}", self.minimum, self.maximum),
        }
    }
}

/// Returns whether `new` are other controls than `old`, not only other values.
#[must_use]
pub fn are_others(old: &[Control], new: &[Control]) -> bool {
    let ids = |controls: &[Control]| controls.iter().map(|c| c.id).collect::<Vec<_>>();
    ids(old) != ids(new)
}

/// Returns the message that tells viewers what there is to set.
#[must_use]
pub fn controls(controls: &[Control]) -> String {
    json!({"type": "controls", "controls": controls}).to_string()
}

/// Returns the message that tells viewers which of `new` differ from `old`, if any do.
#[must_use]
pub fn changes(old: &[Control], new: &[Control]) -> Option<String> {
    let changed: Vec<_> = new.iter().filter(|c| !old.contains(c)).collect();
    let message = json!({"type": "controls_changed", "controls": changed});
    (!changed.is_empty()).then(|| message.to_string())
}

/// Returns the control of `id`.
///
/// # Errors
///
/// [`Refusal`], which names those that there are.
pub fn find(controls: &[Control], id: ControlId) -> Result<&Control, Refusal> {
    let found = controls.iter().find(|control| control.id == id);
    found.ok_or_else(|| {
        let ids: Vec<_> = controls.iter().map(|c| c.id.to_string()).collect();
        let there_are = if ids.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", ids.join(", "))
        };
        Refusal::new("no-control", format!("the camera has no {id}: {there_are}"))
    })
}

/// Why something was not done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// For programs, see `docs/control.md`.
    pub code: &'static str,
    /// For people.
    pub message: String,
}

impl Refusal {
    /// Returns the refusal with this code and these words.
    #[must_use]
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { code, message }
    }

    /// No camera is open, so there is nothing to ask.
    #[must_use]
    pub fn no_camera() -> Self {
        Self::new("no-camera", "the camera delivers no pictures now")
    }

    /// Too much is asked at once.
    #[must_use]
    pub fn busy() -> Self {
        Self::new("busy", "too much at once: ask again in a second")
    }

    /// Returns the reply to the command `id`.
    #[must_use]
    pub fn reply(&self, id: u32) -> String {
        json!({"id": id, "error": {"code": self.code, "message": self.message}}).to_string()
    }
}

/// What the open camera is asked to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Task {
    /// Tell the controls, as they are now.
    List,
    /// Set one.
    Set {
        /// Which.
        control: ControlId,
        /// To what; not checked yet.
        value: i64,
    },
    /// Set all to their defaults.
    Reset,
    /// Give the newest picture.
    Snapshot,
}

/// A task, and who is told of its outcome.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ask {
    /// The viewer's session.
    pub session: u64,
    /// The number of the viewer's command.
    pub id: u32,
    /// What to do.
    pub task: Task,
}

/// What became of a task.
#[derive(Clone, Debug)]
pub struct Answer {
    /// To what.
    pub to: Ask,
    /// How it went.
    pub outcome: Result<Outcome, Refusal>,
}

/// What a task brought.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// The controls.
    Controls(Vec<Control>),
    /// The control was set, to this value.
    Set(i32),
    /// All controls that can be were reset.
    Reset,
    /// A picture.
    Snapshot(Snapshot),
}

/// A picture as a JPEG file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// The file.
    pub jpeg: Bytes,
    /// Pixels.
    pub width: usize,
    /// Pixels.
    pub height: usize,
}

impl Outcome {
    /// Returns the reply to the command `id`. Behind that of a snapshot come its bytes.
    #[must_use]
    pub fn reply(&self, id: u32) -> String {
        let mut reply = json!({"id": id, "ok": true});
        let (name, value) = match self {
            Self::Controls(controls) => ("controls", json!(controls)),
            Self::Set(value) => ("value", json!(value)),
            Self::Reset => return reply.to_string(),
            Self::Snapshot(snapshot) => (
                "snapshot",
                json!({
                    "type": "image/jpeg",
                    "bytes": snapshot.jpeg.len(),
                    "width": snapshot.width,
                    "height": snapshot.height,
                }),
            ),
        };
        if let Value::Object(fields) = &mut reply {
            fields.insert(name.to_owned(), value);
        }
        reply.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn brightness() -> Control {
        Control {
            id: ControlId::Brightness,
            name: "Brightness".to_owned(),
            kind: ControlKind::Integer,
            minimum: -10,
            maximum: 10,
            step: 1,
            default: 0,
            value: 3,
            menu: Vec::new(),
            inactive: false,
            read_only: false,
        }
    }

    fn exposure() -> Control {
        let item = |value, name: &str| MenuItem {
            value,
            name: name.to_owned(),
        };
        Control {
            id: ControlId::AutoExposure,
            kind: ControlKind::Menu,
            minimum: 0,
            maximum: 3,
            menu: vec![item(1, "Manual Mode"), item(3, "Aperture Priority Mode")],
            ..brightness()
        }
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_the_legal_ones() {
        assert_eq!(brightness().check(-10), Ok(-10));
        for value in [11, -11, i64::MAX] {
            let refusal = brightness().check(value).unwrap_err();
            assert_eq!(refusal.code, "out-of-range");
            let words = format!("brightness takes -10 to 10, not {value}");
            assert_eq!(refusal.message, words);
        }
        let coarse = Control {
            step: 5,
            ..brightness()
        };
        let words = coarse.check(99).unwrap_err().message;
        assert_eq!(words, "brightness takes -10 to 10 in steps of 5, not 99");
        assert_eq!(exposure().check(3), Ok(3));
        assert_eq!(
            exposure().check(2).unwrap_err().message,
            "auto_exposure takes 1 (Manual Mode), 3 (Aperture Priority Mode), not 2"
        );
    }

    #[test]
    fn what_cannot_be_set_is_refused_whatever_the_value() {
        let inactive = Control {
            inactive: true,
            ..brightness()
        };
        let fixed = Control {
            read_only: true,
            ..brightness()
        };
        assert_eq!(inactive.check(0).unwrap_err().code, "inactive");
        assert_eq!(fixed.check(0).unwrap_err().code, "read-only");
        assert!(!inactive.can_be_reset() && !fixed.can_be_reset());
        let all = [brightness(), exposure()];
        let missing = find(&all, ControlId::Gain).unwrap_err();
        assert_eq!(
            missing.message,
            "the camera has no gain: it has brightness, auto_exposure"
        );
    }

    #[test]
    fn viewers_are_told_what_changed_and_no_more() {
        let old = [brightness(), exposure()];
        let mut new = old.clone();
        assert_eq!(changes(&old, &new), None);
        new[0].value = 4;
        let told: Value = changes(&old, &new).unwrap().parse().unwrap();
        assert_eq!(told["type"], "controls_changed");
        assert_eq!(told["controls"].as_array().unwrap().len(), 1);
        assert_eq!(told["controls"][0]["value"], 4);
        assert!(!are_others(&old, &new));
        assert!(are_others(&old, &new[..1]));
    }

    #[test]
    fn a_control_is_told_as_documented() {
        let told: Value = controls(&[brightness(), exposure()]).parse().unwrap();
        let expected = json!({"type": "controls", "controls": [
            {"id": "brightness", "name": "Brightness", "type": "integer", "minimum": -10,
             "maximum": 10, "step": 1, "default": 0, "value": 3, "inactive": false,
             "read_only": false},
            {"id": "auto_exposure", "name": "Brightness", "type": "menu", "minimum": 0,
             "maximum": 3, "step": 1, "default": 0, "value": 3, "inactive": false,
             "read_only": false, "menu": [{"value": 1, "name": "Manual Mode"},
             {"value": 3, "name": "Aperture Priority Mode"}]}]});
        assert_eq!(told, expected);
    }

    #[test]
    fn replies_carry_what_was_asked_for() {
        let snapshot = Outcome::Snapshot(Snapshot {
            jpeg: Bytes::from_static(b"jpeg"),
            width: 640,
            height: 480,
        });
        let reply: Value = snapshot.reply(7).parse().unwrap();
        let expected = json!({"id": 7, "ok": true, "snapshot":
            {"type": "image/jpeg", "bytes": 4, "width": 640, "height": 480}});
        assert_eq!(reply, expected);
        let set: Value = Outcome::Set(4).reply(8).parse().unwrap();
        assert_eq!(set, json!({"id": 8, "ok": true, "value": 4}));
        let refused: Value = Refusal::no_camera().reply(9).parse().unwrap();
        assert_eq!(refused["error"]["code"], "no-camera");
    }
}
