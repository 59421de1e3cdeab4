//! `roomcam doctor`: would the daemon work? Looks at everything it needs, and names what mends what is wrong.
//!
//! | file                                  | what                                                |
//! |---------------------------------------|-----------------------------------------------------|
//! | `finding.rs`                          | what is found, and how it is said                   |
//! | `machine.rs` ← `kernel.rs`            | model, temperature, power, memory, disk, clock      |
//! | `access.rs` ← `passwd.rs`             | who may open the devices                            |
//! | `service.rs` ← `systemctl.rs`         | the service                                         |
//! | `media.rs` ← `camera.rs`, `microphone.rs` | a frame of each source, a second of sound, whether the loudspeaker opens |
//! | `network.rs` ← `sockets.rs`           | ports, room server, STUN, TURN                      |
//! | `devices.rs`, `reach.rs`              | which of these a configuration asks for             |
//!
//! On the left facts become findings, without I/O; on the right the facts are gathered. Each check has a
//! thread and a limit of its own, so that one that hangs holds up no other. Nothing here says a key, a
//! password, or the name of a room.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::block_on;
use crate::config::Config;
use crate::daemon::{self, DaemonError};
use crate::share::{self, Place};
use crate::signaling::server_url::parse_server_url;

mod access;
mod camera;
mod devices;
mod finding;
mod kernel;
mod machine;
mod media;
mod microphone;
mod network;
mod passwd;
mod reach;
mod service;
mod sockets;
mod systemctl;

use finding::{Finding, Level, Report};
use service::Service;

/// `EX_CONFIG` of sysexits.h, as the daemon ends with a wrong configuration.
const WRONG_CONFIGURATION: u8 = 78;

/// How long a check may take that asks this machine alone.
const QUICK: Duration = Duration::from_secs(5);

/// The same where a device is opened, which drivers take their time for.
const DEVICE: Duration = Duration::from_secs(15);

/// The same where somebody on the network is asked.
const NETWORK: Duration = Duration::from_secs(12);

/// Looks at everything and prints what it finds. Without a `path` it is the installed service's
/// configuration, or else the defaults. The exit code is 0 where the daemon would show its pictures to whoever
/// opens its page, 1 where it would not, and 78 where its configuration is wrong.
///
/// # Errors
///
/// Where standard output is closed.
pub fn doctor(path: Option<PathBuf>, as_json: bool) -> io::Result<ExitCode> {
    let place = Place::of(path);
    let service = service(&place);
    let service_runs = service.as_ref().is_some_and(Service::is_active);
    let (read, finding) = configuration(&place, service_runs);
    let mut findings = vec![finding];
    findings.extend(service.iter().map(Service::finding));
    findings.extend(run(groups(&place, &read, service)));
    let report = Report::new(findings);
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{}", report.for_people())?;
    }
    Ok(if matches!(read, Read::Wrong) {
        ExitCode::from(WRONG_CONFIGURATION)
    } else if report.works() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What is known of the configuration.
enum Read {
    Good(Box<Config>),
    /// Only others may read it, or the secrets that belong to it.
    Denied,
    Wrong,
}

/// Reads the configuration. What this user may not read need not be wrong: the service that runs with it is the
/// judge then.
fn configuration(place: &Place, service_runs: bool) -> (Read, Finding) {
    const CHECK: &str = "configuration";
    let Some(path) = &place.config else {
        let text = "no file: the defaults.";
        return (Read::Good(Box::default()), Finding::ok(CHECK, text));
    };
    let shown = path.display();
    let error: Box<dyn std::error::Error> = match place.load() {
        Err(error) if share::is_denied(&error) => {
            let text = format!(
                "{} Camera, sound and network were not tried.",
                finding::sentence(&error)
            );
            let level = if service_runs {
                Level::Warning
            } else {
                Level::Error
            };
            let finding = Finding::new(CHECK, level, text).mended_by("sudo roomcam doctor");
            return (Read::Denied, finding);
        }
        Err(error) => error.into(),
        Ok(config) => match check_rooms(&config) {
            Err(error) => error.into(),
            Ok(()) => {
                let finding = Finding::ok(CHECK, format!("{shown} is valid."));
                return (Read::Good(Box::new(config)), finding);
            }
        },
    };
    let finding = Finding::error(CHECK, finding::sentence(&*error));
    (Read::Wrong, finding.mended_by(format!("sudoedit {shown}")))
}

/// Finds what is wrong with `[room]` and `[server]` whatever else runs on this machine.
fn check_rooms(config: &Config) -> Result<(), DaemonError> {
    if !config.room.server.is_empty() {
        parse_server_url(&config.room.server, config.room.dialect)?;
        return Ok(());
    }
    let mut anywhere = config.clone();
    anywhere.server.listen.set_port(0);
    match block_on(daemon::try_server(&anywhere))? {
        Err(error) if error.is_wrong_configuration() => Err(error),
        _ => Ok(()),
    }
}

/// Asks systemd of the service that has this configuration, if one has.
fn service(place: &Place) -> Option<Service> {
    let unit = place.unit()?;
    within(QUICK, move || systemctl::service(&unit)).flatten()
}

/// Something to look at.
struct Check {
    name: &'static str,
    limit: Duration,
    work: Box<dyn FnOnce() -> Vec<Finding> + Send>,
}

impl Check {
    fn new(
        name: &'static str,
        limit: Duration,
        work: impl FnOnce() -> Vec<Finding> + Send + 'static,
    ) -> Self {
        Self {
            name,
            limit,
            work: Box::new(work),
        }
    }
}

/// Runs the groups beside each other, and the checks of each one after the other; returns what they found
/// in their order. What takes too long is left behind.
fn run(groups: Vec<Vec<Check>>) -> Vec<Finding> {
    let run_group = |checks: Vec<Check>| -> Vec<Finding> {
        let found = checks.into_iter().flat_map(|check| {
            let (name, limit) = (check.name, check.limit);
            within(limit, check.work).unwrap_or_else(|| {
                vec![Finding::error(name, unanswered(limit)).mended_by("sudo dmesg | tail")]
            })
        });
        found.collect()
    };
    thread::scope(|scope| {
        let groups: Vec<_> = groups
            .into_iter()
            .map(|checks| scope.spawn(|| run_group(checks)))
            .collect();
        groups
            .into_iter()
            .flat_map(|group| group.join().unwrap_or_default())
            .collect()
    })
}

fn unanswered(limit: Duration) -> String {
    format!("no answer within {} s.", limit.as_secs())
}

/// Returns what `work` does, or `None` where it takes too long, or fails in an unforeseen way.
fn within<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (done, result) = mpsc::sync_channel(1);
    thread::spawn(move || {
        // full: never; nobody waits any more where it is late
        drop(done.send(work()));
    });
    result.recv_timeout(limit).ok()
}

/// Returns what is to be looked at. Without a configuration that is what does not depend on one.
fn groups(place: &Place, read: &Read, service: Option<Service>) -> Vec<Vec<Check>> {
    let service_runs = service.as_ref().is_some_and(Service::is_active);
    let state = place.state.clone();
    let machine = |needs_time| {
        Check::new("system", QUICK, move || {
            machine::findings(&kernel::machine(&state), needs_time)
        })
    };
    let Read::Good(config) = read else {
        return vec![vec![machine(false), devices::access(None, service)]];
    };
    let access = devices::access(Some(config), service);
    let mut groups = vec![
        vec![machine(reach::needs_time(config)), access],
        devices::cameras(config, service_runs),
        devices::microphones(config, service_runs),
        devices::speakers(config, service_runs),
        reach::ports(config, service_runs),
    ];
    groups.extend(reach::servers(config).into_iter().map(|check| vec![check]));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_hangs_or_panics_holds_up_no_other() {
        let (hold, held) = mpsc::channel::<()>();
        let soon = Duration::from_millis(50);
        let fine = |name| Check::new(name, DEVICE, move || vec![Finding::ok(name, "there")]);
        let hangs = Check::new("camera", soon, move || {
            held.recv().unwrap_err();
            Vec::new()
        });
        let panics = Check::new("page", DEVICE, || panic!("a bug"));
        let findings = run(vec![
            vec![hangs, fine("encoder")],
            vec![panics, fine("stun")],
        ]);
        let seen: Vec<_> = findings
            .iter()
            .map(|f| (f.check, f.text.as_str()))
            .collect();
        let expected = [
            ("camera", "no answer within 0 s."),
            ("encoder", "there"),
            ("page", "no answer within 15 s."),
            ("stun", "there"),
        ];
        assert_eq!(seen, expected);
        drop(hold);
    }
}
