//! The log: one line per event that a person cares about, on standard error.
//!
//! A terminal gets times and colours. Under systemd the journal adds the time, and each line starts
//! with its priority (`sd-daemon(3)`), so that `journalctl -p warning` works.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Takes a filter instead of `--verbose`, e.g. `roomcam=debug,rtc=info`.
const FILTER_VARIABLE: &str = "ROOMCAM_LOG";

/// How often a line is written again that is said over and over.
const SAY_AGAIN_AFTER: Duration = Duration::from_secs(3_600);

/// A line about something that is tried again each second, for months: news once, and each hour.
#[derive(Debug, Default)]
pub(crate) struct Refrain(Mutex<Option<(String, Instant)>>);

impl Refrain {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Returns whether `line` is to be written: it is another than last time, or that was long ago.
    pub(crate) fn is_news(&self, line: &str, now: Instant) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = last.as_ref().is_some_and(|(known, at)| {
            known == line && now.saturating_duration_since(*at) < SAY_AGAIN_AFTER
        });
        if !is_known {
            *last = Some((line.to_owned(), now));
        }
        !is_known
    }
}

/// Starts logging. `verbose`: 0 what changes, 1 also decisions, 2 also every frame.
pub fn init(verbose: u8) {
    let own = match verbose {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    // The WebRTC crates log what peers send; it is of no use to anyone but their authors.
    let default = Targets::new()
        .with_default(Level::ERROR)
        .with_target("roomcam", own);
    let (filter, refused) = match std::env::var(FILTER_VARIABLE) {
        Ok(text) => match text.parse() {
            Ok(filter) => (filter, None),
            Err(error) => (default, Some(error)),
        },
        Err(_) => (default, None),
    };
    let to_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(!to_journal && io::stderr().is_terminal())
        .with_writer(io::stderr);
    let lines = if to_journal {
        lines.event_format(Journal::new()).boxed()
    } else {
        lines.boxed()
    };
    let started = tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .try_init();
    if let Some(error) = refused {
        tracing::warn!(%error, "{FILTER_VARIABLE} is no filter and was ignored");
    }
    if let Err(error) = started {
        tracing::debug!(%error, "logging was started before");
    }
}

/// Lines for the journal: `<6>roomcam::engine::viewers: viewer connected viewer=1`.
struct Journal(Format<Full, ()>);

impl Journal {
    fn new() -> Self {
        let plain: Format<Full, SystemTime> = Format::default();
        Self(plain.without_time().with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        self.0.format_event(context, writer, event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .event_format(Journal::new())
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_journal_gets_priorities() {
        let text = logged(|| tracing::warn!(viewer = 3, "fell behind"));
        assert!(text.starts_with("<4>"), "{text}");
        assert!(text.ends_with("fell behind viewer=3\n"), "{text}");
    }

    #[test]
    fn a_refrain_is_news_once_and_each_hour() {
        let refrain = Refrain::new();
        let t0 = crate::clock::now();
        assert!(refrain.is_news("opened a", t0));
        assert!(!refrain.is_news("opened a", t0 + SAY_AGAIN_AFTER / 2));
        assert!(refrain.is_news("opened a", t0 + SAY_AGAIN_AFTER));
        assert!(refrain.is_news("opened b", t0 + SAY_AGAIN_AFTER));
        assert!(refrain.is_news("opened a", t0 + SAY_AGAIN_AFTER));
    }

    #[test]
    fn what_a_peer_sends_cannot_forge_a_line_or_reach_the_terminal() {
        let name = "cam\n<3>forged \x1b[2J";
        let text = logged(|| tracing::info!(room = name, "device joined"));
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(!text.contains('\x1b'), "{text}");
    }
}
