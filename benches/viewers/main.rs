//! What viewers cost the sender, and how soon they see something: prints Markdown.
//!
//! `benches/run` makes the clip, builds the pion sender to compare with, and starts this. The
//! senders are processes of their own; all viewers are in this one, on the crate `webrtc`, so
//! that they answer with the RTCP that browsers send.
#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a measurement that fails may panic, and its figures are rounded anyway"
)]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use roomcam::watch::WatchOptions;
use tempfile::TempDir;

mod measure;
mod sender;

use measure::{Cost, Delay, Growth, Join};
use sender::Sender;

/// As many as the figures of other senders are known for.
const VIEWERS: usize = 16;

/// How long the cost of a sender is measured; twice, in turns, so that a moment in which the
/// machine is busy with something else meets both senders.
const WINDOW: Duration = Duration::from_secs(20);
const ROUNDS: usize = 2;

const JOINS: usize = 20;
const JOINS_AND_LEAVES: usize = 200;

/// Arguments of `cargo bench --bench viewers --`.
#[derive(Debug, Parser)]
struct Arguments {
    /// Annex B file, 720p30 at 2 Mbit/s; without it, the test picture is recorded.
    #[arg(long)]
    clip: Option<PathBuf>,
    /// The program of benches/pion.
    #[arg(long, requires = "tone")]
    pion: Option<PathBuf>,
    /// Opus in Ogg, for pion.
    #[arg(long)]
    tone: Option<PathBuf>,
    /// Added by `cargo bench`; `cargo test --all-targets` only wants to know that this builds.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments = Arguments::parse();
    if !arguments.bench {
        return;
    }
    let directory = TempDir::new().unwrap();
    let clip = match &arguments.clip {
        Some(clip) => clip.clone(),
        None => record(directory.path()).await,
    };
    let replay = format!("file:{}", clip.display());

    let mut ours = Vec::new();
    let mut delays = Vec::new();
    let mut theirs = Vec::new();
    for _ in 0..ROUNDS {
        let sender = Sender::roomcam(&replay);
        let (cost, delay) = measure::cost(&sender, VIEWERS, WINDOW).await;
        ours.push(cost);
        delays.push(delay);
        if let (Some(pion), Some(tone)) = (&arguments.pion, &arguments.tone) {
            let sender = Sender::pion(pion, &clip, tone).await;
            theirs.push(measure::cost(&sender, VIEWERS, WINDOW).await.0);
        }
    }
    let (_, alone) = measure::cost(&Sender::roomcam(&replay), 1, WINDOW).await;
    let joins = measure::joins(&Sender::roomcam("pattern"), JOINS).await;
    let joins_of_replay = measure::joins(&Sender::roomcam(&replay), JOINS).await;
    let growth = measure::growth(&Sender::roomcam(&replay), JOINS_AND_LEAVES).await;

    print(&cost_table(&ours, &theirs));
    print(&delay_table(&alone, &Delay::all(delays)));
    print(&join_table(&joins, &joins_of_replay));
    print(&growth_table(&growth));
}

/// Records the test picture, where there is no other clip.
async fn record(directory: &Path) -> PathBuf {
    let sender = Sender::roomcam("pattern");
    let clip = directory.join("clip.h264");
    let options = WatchOptions {
        invitation: sender.invitation().clone(),
        frames: None,
        seconds: Some(20),
        save: Some(clip.clone()),
        speak: None,
    };
    roomcam::watch::watch(options).await.unwrap();
    clip
}

fn cost_table(ours: &[Cost], theirs: &[Cost]) -> String {
    let mut table = format!(
        "| {VIEWERS} viewers, replay and Opus | µs per packet | of these, without encoding sound \
         | % of a core | RSS MB | threads | packets/s | lost | viewers' % of a core |\n\
         |---|---|---|---|---|---|---|---|---|\n"
    );
    for (name, costs) in [("roomcam", ours), ("pion", theirs)] {
        if costs.is_empty() {
            continue;
        }
        table += &format!(
            "| {name} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |\n",
            mean(costs, Cost::us_per_packet),
            mean(costs, Cost::us_per_packet_sent),
            mean(costs, Cost::core_percent),
            mean(costs, |cost| cost.rss_mb),
            mean(costs, |cost| cost.threads),
            mean(costs, Cost::packets_per_second),
            mean(costs, |cost| cost.lost as f64),
            mean(costs, Cost::viewers_core_percent),
        );
    }
    if !theirs.is_empty() {
        let pion = mean(theirs, Cost::us_per_packet);
        table += &format!(
            "\nroomcam costs {:.2} × pion per packet; {:.2} × without encoding its sound, which \
             pion reads from a file.\n",
            mean(ours, Cost::us_per_packet) / pion,
            mean(ours, Cost::us_per_packet_sent) / pion
        );
    }
    table
}

fn mean(costs: &[Cost], value: impl Fn(&Cost) -> f64) -> f64 {
    costs.iter().map(value).sum::<f64>() / costs.len() as f64
}

fn delay_table(alone: &Delay, together: &Delay) -> String {
    let row = |name: &str, delay: &Delay| {
        format!(
            "| {name} | {:.2} | {:.2} | {:.2} |\n",
            delay.percentile_ms(50),
            delay.percentile_ms(99),
            delay.percentile_ms(100)
        )
    };
    format!(
        "| capture → last packet of the frame has come, beyond the fastest frame | p50 ms | p99 ms \
         | max ms |\n|---|---|---|---|\n{}{}",
        row("1 viewer", alone),
        row(&format!("{VIEWERS} viewers"), together)
    )
}

fn join_table(encoder: &[Join], replay: &[Join]) -> String {
    let mut table =
        format!("| {JOINS} joins, from the offer on | p50 ms | max ms |\n|---|---|---|\n");
    for (source, joins) in [("test picture", encoder), ("replay", replay)] {
        let mut row = |step: &str, value: fn(&Join) -> f64| {
            let mut values: Vec<f64> = joins.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            table += &format!(
                "| {step}, {source} | {:.1} | {:.1} |\n",
                measure::percentile(&values, 50),
                measure::percentile(&values, 100)
            );
        };
        row("answer", |join| join.answer_ms);
        row("connected", |join| join.connected_ms);
        row("first packet", |join| join.first_packet_ms);
        row("first keyframe", |join| join.first_keyframe_ms);
    }
    table
}

fn growth_table(growth: &[Growth]) -> String {
    let mut table =
        "| joins and leaves | RSS MB | descriptors | threads |\n|---|---|---|---|\n".to_owned();
    for at in growth {
        table += &format!(
            "| {} | {:.1} | {} | {:.0} |\n",
            at.joins, at.rss_mb, at.descriptors, at.threads
        );
    }
    table
}

fn print(table: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{table}").unwrap();
    out.flush().unwrap();
}
