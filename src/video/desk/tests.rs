use super::*;
use crate::clock;
use crate::control::camera::MenuItem;
use crate::video::VideoError;
use crate::video::openh264::OpenH264;
use crate::video::still::Planes;
use crate::video::test_card::TestCard;
use bytes::Bytes;
use std::sync::Arc;
use tokio::runtime::Runtime;

/// A camera with a gain, which an automatic one may govern, and raw pictures or none.
#[derive(Default)]
struct Camera {
    name: &'static str,
    automatic: bool,
    gain: i32,
    is_stubborn: bool,
    has_pictures: bool,
    kept: bool,
    keyframes_asked: usize,
}

impl VideoSource for Camera {
    fn next(&mut self) -> Result<Option<AccessUnit>, VideoError> {
        Ok(None)
    }

    fn description(&self) -> String {
        self.name.to_owned()
    }

    fn keyframes_on_demand(&self) -> bool {
        true
    }

    fn request_keyframe(&mut self) {
        self.keyframes_asked += 1;
    }

    fn controls(&self) -> Vec<Control> {
        let automatic = Control {
            id: ControlId::GainAutomatic,
            name: "Gain, Automatic".to_owned(),
            kind: ControlKind::Boolean,
            minimum: 0,
            maximum: 1,
            step: 1,
            default: 0,
            value: self.automatic.into(),
            menu: Vec::<MenuItem>::new(),
            inactive: false,
            read_only: false,
        };
        let gain = Control {
            id: ControlId::Gain,
            kind: ControlKind::Integer,
            maximum: 255,
            value: self.gain,
            inactive: self.automatic,
            ..automatic.clone()
        };
        vec![automatic, gain]
    }

    fn set_control(&mut self, id: ControlId, value: i32) -> Result<(), String> {
        if self.is_stubborn {
            return Err("Input/output error".to_owned());
        }
        match id {
            ControlId::GainAutomatic => self.automatic = value != 0,
            // As drivers do that know steps.
            _ => self.gain = value & !1,
        }
        Ok(())
    }

    fn keep_next_picture(&mut self) -> bool {
        self.kept = self.has_pictures;
        self.has_pictures
    }

    fn take_picture(&mut self) -> Option<Still> {
        let picture = || card();
        std::mem::take(&mut self.kept).then(|| Still::Picture(picture()))
    }
}

fn card() -> Planes {
    let mut card = TestCard::new(64, 64);
    Planes::copy_of(&card.draw(Duration::from_secs(1)).unwrap())
}

struct Bench {
    desk: Desk,
    client: Client,
    runtime: Runtime,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let (desk, client) = desk();
        let runtime = tokio::runtime::Builder::new_current_thread();
        Self {
            desk,
            client,
            runtime: { runtime }.enable_time().build().unwrap(),
            now: clock::now(),
        }
    }

    fn ask(&self, id: u32, task: Task) {
        let ask = Ask {
            session: 1,
            id,
            task,
        };
        self.client.asks.try_send(ask).unwrap();
    }

    fn serve(&mut self, camera: &mut Camera) {
        self.desk.serve(camera, self.runtime.handle(), self.now);
    }

    fn answer(&mut self) -> Answer {
        let answer = self.client.answers.recv();
        let limit = Duration::from_secs(20);
        let timed = async { tokio::time::timeout(limit, answer).await };
        self.runtime.block_on(timed).expect("in time").unwrap()
    }

    fn set(&mut self, camera: &mut Camera, control: ControlId, value: i64) -> Result<i32, String> {
        self.ask(5, Task::Set { control, value });
        self.serve(camera);
        match self.answer().outcome {
            Ok(Outcome::Set(value)) => Ok(value),
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(format!("{}: {}", refusal.code, refusal.message)),
        }
    }

    fn told(&mut self) -> Vec<i32> {
        let controls = self.client.controls.borrow_and_update();
        controls.iter().map(|c| c.value).collect()
    }
}

#[test]
fn a_value_is_told_as_the_driver_settled_on_it() {
    let mut bench = Bench::new();
    let mut camera = Camera::default();
    bench.desk.publish(&camera);
    assert_eq!(bench.told(), [0, 0]);
    assert_eq!(bench.set(&mut camera, ControlId::Gain, 101), Ok(100));
    assert_eq!(bench.told(), [0, 100]);
}

#[test]
fn what_is_not_legal_never_reaches_the_driver() {
    let mut bench = Bench::new();
    let mut camera = Camera::default();
    bench.desk.publish(&camera);
    let refused = bench.set(&mut camera, ControlId::Gain, 256).unwrap_err();
    assert_eq!(refused, "out-of-range: gain takes 0 to 255, not 256");
    let refused = bench.set(&mut camera, ControlId::Brightness, 1);
    assert!(refused.unwrap_err().starts_with("no-control: "));
    assert_eq!(camera.gain, 0);
    camera.is_stubborn = true;
    let refused = bench.set(&mut camera, ControlId::Gain, 2).unwrap_err();
    assert_eq!(
        refused,
        "failed: the camera refused gain: Input/output error"
    );
}

#[test]
fn a_switch_makes_what_it_governs_inactive() {
    let mut bench = Bench::new();
    let mut camera = Camera::default();
    bench.desk.publish(&camera);
    bench.set(&mut camera, ControlId::GainAutomatic, 1).unwrap();
    let is_inactive: Vec<bool> = {
        let controls = bench.client.controls.borrow();
        controls.iter().map(|c| c.inactive).collect()
    };
    assert_eq!(is_inactive, [false, true]);
    let refused = bench.set(&mut camera, ControlId::Gain, 2).unwrap_err();
    assert!(refused.starts_with("inactive: "), "{refused}");
}

#[test]
fn what_was_set_is_set_again_for_the_same_camera_alone() {
    let mut bench = Bench::new();
    let mut camera = Camera {
        name: "one",
        ..Camera::default()
    };
    bench.desk.publish(&camera);
    bench.set(&mut camera, ControlId::Gain, 100).unwrap();
    bench.desk.close();
    assert_eq!(bench.told(), [0; 0]);

    let replugged = |name| Camera {
        name,
        ..Camera::default()
    };
    let (mut same, mut other) = (replugged("one"), replugged("other"));
    bench.desk.restore(&mut same);
    bench.desk.restore(&mut other);
    assert_eq!((same.gain, other.gain), (100, 0));

    bench.desk.publish(&same);
    bench.ask(6, Task::Reset);
    bench.serve(&mut same);
    assert!(matches!(bench.answer().outcome, Ok(Outcome::Reset)));
    assert_eq!((same.gain, bench.told()), (0, vec![0, 0]));
    let mut again = replugged("one");
    bench.desk.restore(&mut again);
    assert_eq!(again.gain, 0, "a reset is remembered, too");
}

#[test]
fn a_snapshot_is_made_of_the_next_raw_picture() {
    let mut bench = Bench::new();
    let mut camera = Camera {
        has_pictures: true,
        ..Camera::default()
    };
    bench.ask(7, Task::Snapshot);
    bench.ask(8, Task::Snapshot);
    bench.serve(&mut camera);
    let (one, two) = (bench.answer(), bench.answer());
    let refused = if one.to.id == 8 { &one } else { &two };
    assert_eq!(refused.outcome.as_ref().unwrap_err().code, "busy");
    let made = if one.to.id == 8 { &two } else { &one };
    let Ok(Outcome::Snapshot(snapshot)) = &made.outcome else {
        panic!("{made:?}");
    };
    assert_eq!((snapshot.width, snapshot.height), (64, 64));
}

#[test]
fn a_snapshot_of_a_camera_that_encodes_is_made_of_its_next_keyframe() {
    let mut bench = Bench::new();
    let mut camera = Camera::default();
    bench.ask(7, Task::Snapshot);
    bench.serve(&mut camera);
    assert_eq!(camera.keyframes_asked, 1);

    let planes = card();
    let picture = crate::video::convert::I420::in_one_block(64, 64, &planes.bytes, 64).unwrap();
    let mut encoder = OpenH264::new(30, 1_000_000);
    let mut packetizer = Packetizer::new(true);
    for number in 0..3 {
        if number == 2 {
            encoder.request_keyframe();
        }
        let data: Bytes = encoder.encode(&picture, bench.now).unwrap().unwrap();
        let unit = AccessUnit {
            data,
            captured_at: bench.now,
        };
        let frame = Arc::new(packetizer.packetize(&unit).unwrap());
        let runtime = bench.runtime.handle().clone();
        if number > 0 {
            bench
                .desk
                .handle_frame(&frame, &unit, &packetizer, &runtime);
        }
    }
    let answer = bench.answer();
    assert!(matches!(answer.outcome, Ok(Outcome::Snapshot(_))));
}

#[test]
fn a_camera_that_encodes_without_keyframes_is_said_to() {
    let mut bench = Bench::new();
    let mut camera = Camera::default();
    bench.ask(7, Task::Snapshot);
    bench.serve(&mut camera);
    bench.now += KEYFRAME_WITHIN;
    bench.serve(&mut camera);
    assert_eq!(bench.answer().outcome.unwrap_err().code, "unsupported");
}

#[test]
fn nobody_is_kept_waiting_by_a_camera_that_went_away() {
    let mut bench = Bench::new();
    let mut camera = Camera::default();
    bench.ask(7, Task::Snapshot);
    bench.serve(&mut camera);
    bench.ask(8, Task::Reset);
    bench.ask(9, Task::List);
    bench.desk.close();
    for id in [7, 8] {
        let answer = bench.answer();
        assert_eq!(answer.to.id, id);
        assert_eq!(answer.outcome.unwrap_err().code, "no-camera");
    }
    let listed = bench.answer().outcome;
    assert!(matches!(listed, Ok(Outcome::Controls(controls)) if controls.is_empty()));
}
