//! Join → first picture, and capture → presented, in a real Chromium: `cargo bench --bench latency`.
//!
//! Needs Debian's packages `chromium` and `chromium-driver`. Prints a Markdown table. The picture is
//! the test picture through the real encoder, with sound; its clock is read back from the pixels in
//! `requestVideoFrameCallback`.

#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/support/chromium.rs"]
mod chromium;
#[expect(dead_code, reason = "the tests use more of it")]
#[path = "../tests/support/demo.rs"]
mod demo;
#[path = "../tests/support/failures.rs"]
mod failures;
#[path = "../tests/support/program.rs"]
mod program;

use std::io::Write as _;
use std::time::Duration;

use chromium::{Chromium, Setup};
use demo::Demo;

/// Joins that are timed.
const JOINS: usize = 20;

/// Pictures whose clock is read, per mode.
const PICTURES: usize = 150;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        print("| what | p50 | p95 | max |\n|---|---|---|---|");
        let joins = joins().await;
        row("Join clicked → first picture", joins);
        for mode in ["balanced", "low", "smooth"] {
            let latencies = latencies(mode).await;
            row(
                &format!("capture → presented, latency = \"{mode}\""),
                latencies,
            );
        }
    });
}

/// The times from the click on Join to the first picture, by the page's own clock.
async fn joins() -> Vec<Duration> {
    let demo = Demo::start();
    let mut times = Vec::with_capacity(JOINS);
    let page = Chromium::start(Setup::default()).await;
    for _ in 0..JOINS {
        page.open("about:blank").await;
        page.join(demo.url()).await;
        page.wait_until("roomcam.timing.firstFrameAt > 0").await;
        let took = "roomcam.timing.firstFrameAt - roomcam.timing.pressedAt";
        times.push(Duration::from_secs_f64(page.number(took).await / 1_000.0));
    }
    page.close().await;
    times
}

async fn latencies(mode: &str) -> Vec<Duration> {
    let demo = Demo::configured(&[], &format!("[webrtc]\nlatency = \"{mode}\"\n"));
    let page = Chromium::start(Setup::default()).await;
    page.join(demo.url()).await;
    // The jitter buffers have settled by then.
    page.wait_for_frames(150).await;
    let mut times = Vec::with_capacity(PICTURES);
    for _ in 0..PICTURES {
        times.push(page.picture_clock().await.latency());
    }
    page.close().await;
    times
}

fn row(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| {
        let index = times.len().saturating_sub(1) * percent / 100;
        times.get(index).map_or(0.0, |time| time.as_secs_f64()) * 1_000.0
    };
    print(&format!(
        "| {what} | {:.0} ms | {:.0} ms | {:.0} ms |",
        at(50),
        at(95),
        at(100)
    ));
}

fn print(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("standard output is open");
}
