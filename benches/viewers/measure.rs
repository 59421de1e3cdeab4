//! The measurements.

use std::time::Duration;

use roomcam::clock;
use roomcam::watch::depacketize::AccessUnit;
use roomcam::watch::seen::Seen;
use roomcam::watch::viewer::Viewer;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::sender::{Sender, Usage};

/// How long anything may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// From the last join on, until keyframes and estimates have settled.
const SETTLING: Duration = Duration::from_secs(2);

/// Between two joins: keyframes are made at most twice a second, and each join is to get its own.
const BETWEEN_JOINS: Duration = Duration::from_secs(1);

/// How much longer each of them waits than the one before, so that they meet every moment between
/// two frames.
const DRIFT: Duration = Duration::from_millis(7);

/// Ticks of a video timestamp in a millisecond.
const TICKS_PER_MS: f64 = 90.0;

/// What a sender has used while its viewers counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    seconds: f64,
    cpu_seconds: f64,
    audio_seconds: f64,
    viewers_cpu_seconds: f64,
    packets: u64,
    pub(crate) lost: u64,
    pub(crate) rss_mb: f64,
    pub(crate) threads: f64,
}

impl Cost {
    pub(crate) fn us_per_packet(&self) -> f64 {
        self.cpu_seconds * 1e6 / self.packets as f64
    }

    /// The same without the encoding of the sound.
    pub(crate) fn us_per_packet_sent(&self) -> f64 {
        (self.cpu_seconds - self.audio_seconds) * 1e6 / self.packets as f64
    }

    pub(crate) fn core_percent(&self) -> f64 {
        self.cpu_seconds * 100.0 / self.seconds
    }

    pub(crate) fn viewers_core_percent(&self) -> f64 {
        self.viewers_cpu_seconds * 100.0 / self.seconds
    }

    pub(crate) fn packets_per_second(&self) -> f64 {
        self.packets as f64 / self.seconds
    }
}

/// How much later than the fastest frame of its stream each frame was there, in milliseconds,
/// sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Delay(Vec<f64>);

impl Delay {
    /// A frame's timestamp is the time of its capture, on a clock that starts anywhere: only
    /// differences between frames mean something.
    fn of(frames: &[AccessUnit]) -> Self {
        let Some(first) = frames.first() else {
            return Self::default();
        };
        let mut delays: Vec<f64> = frames
            .iter()
            .map(|frame| {
                let captured = f64::from(frame.timestamp.wrapping_sub(first.timestamp));
                let came = frame.arrived - first.arrived;
                came.as_secs_f64() * 1e3 - captured / TICKS_PER_MS
            })
            .collect();
        delays.sort_by(f64::total_cmp);
        let fastest = delays.first().copied().unwrap_or_default();
        Self(delays.into_iter().map(|delay| delay - fastest).collect())
    }

    pub(crate) fn all(delays: Vec<Self>) -> Self {
        let mut all: Vec<f64> = delays.into_iter().flat_map(|delay| delay.0).collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        percentile(&self.0, percent)
    }
}

/// Returns the value that `percent` of the sorted `values` do not exceed.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// Lets `viewers` watch `sender`, and measures for `window` what it uses and how evenly frames
/// come.
pub(crate) async fn cost(sender: &Sender, viewers: usize, window: Duration) -> (Cost, Delay) {
    let mut watching = Vec::new();
    for _ in 0..viewers {
        // A frame every 33 ms: more than will come.
        let (frames, received) = mpsc::channel(8_192);
        let mut viewer = join(sender, Some(frames)).await;
        until(&mut viewer, |seen| seen.counts.frames > 0).await;
        watching.push((viewer, received));
    }
    sleep(SETTLING).await;
    for (_, received) in &mut watching {
        while received.try_recv().is_ok() {}
    }
    let reading = || {
        let sum =
            |value: fn(&Seen) -> u64| watching.iter().map(|(v, _)| value(&v.seen())).sum::<u64>();
        let packets = sum(|seen| seen.counts.video_packets + seen.counts.audio_packets);
        let lost = sum(|seen| seen.counts.video.lost);
        (
            clock::now(),
            packets,
            lost,
            sender.usage(),
            Usage::of("self"),
        )
    };
    let before = reading();
    sleep(window).await;
    let after = reading();

    let cost = Cost {
        seconds: (after.0 - before.0).as_secs_f64(),
        packets: after.1 - before.1,
        lost: after.2 - before.2,
        cpu_seconds: after.3.cpu_seconds - before.3.cpu_seconds,
        audio_seconds: after.3.audio_seconds - before.3.audio_seconds,
        viewers_cpu_seconds: after.4.cpu_seconds - before.4.cpu_seconds,
        rss_mb: after.3.rss_mb,
        threads: after.3.threads,
    };
    let mut delays = Vec::new();
    for (viewer, mut received) in watching {
        let mut frames = Vec::new();
        while let Ok(frame) = received.try_recv() {
            frames.push(frame);
        }
        delays.push(Delay::of(&frames));
        viewer.leave().await;
    }
    (cost, Delay::all(delays))
}

/// How soon a viewer had what, in milliseconds after its offer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Join {
    pub(crate) answer_ms: f64,
    pub(crate) connected_ms: f64,
    pub(crate) first_packet_ms: f64,
    pub(crate) first_keyframe_ms: f64,
}

/// Joins and leaves `count` times while another viewer keeps the camera awake.
pub(crate) async fn joins(sender: &Sender, count: usize) -> Vec<Join> {
    let mut stays = join(sender, None).await;
    until(&mut stays, |seen| seen.counts.frames > 0).await;
    let mut joins = Vec::new();
    for n in 0..count {
        sleep(BETWEEN_JOINS + DRIFT * u32::try_from(n).unwrap()).await;
        let mut viewer = join(sender, None).await;
        let seen = until(&mut viewer, |seen| seen.counts.keyframes > 0).await;
        let offered = seen.offered.unwrap();
        let ms = |at: Option<std::time::Instant>| (at.unwrap() - offered).as_secs_f64() * 1e3;
        joins.push(Join {
            answer_ms: ms(seen.answered),
            connected_ms: ms(seen.connected),
            first_packet_ms: ms(seen.counts.first_packet),
            first_keyframe_ms: ms(seen.counts.first_keyframe),
        });
        viewer.leave().await;
    }
    stays.leave().await;
    joins
}

/// What the sender holds after so many joins and leaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    pub(crate) joins: usize,
    pub(crate) rss_mb: f64,
    pub(crate) descriptors: usize,
    pub(crate) threads: f64,
}

/// Joins, sees a frame and leaves `count` times.
pub(crate) async fn growth(sender: &Sender, count: usize) -> Vec<Growth> {
    const READINGS: usize = 5;
    let mut growth = Vec::new();
    for n in 1..=count {
        let mut viewer = join(sender, None).await;
        until(&mut viewer, |seen| seen.counts.frames > 0).await;
        viewer.leave().await;
        if n % (count / READINGS) == 0 {
            sleep(SETTLING).await;
            let usage = sender.usage();
            growth.push(Growth {
                joins: n,
                rss_mb: usage.rss_mb,
                descriptors: sender.descriptors(),
                threads: usage.threads,
            });
        }
    }
    growth
}

async fn join(sender: &Sender, frames: Option<mpsc::Sender<AccessUnit>>) -> Viewer {
    Viewer::join(sender.invitation(), frames).await.unwrap()
}

async fn until(viewer: &mut Viewer, condition: impl FnMut(&Seen) -> bool) -> Seen {
    viewer.until(PATIENCE, condition).await.unwrap()
}
