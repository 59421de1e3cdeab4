//! `roomcam doctor`: would the daemon work? Looks at everything it needs, and names what mends what is wrong.
//!
//! | file                                  | what                                                |
//! |---------------------------------------|-----------------------------------------------------|
//! | `finding.rs`                          | what is found, and how it is said                   |
//! | `machine.rs` ← `kernel.rs`            | model, temperature, power, memory, disk, clock      |
//! | `access.rs` ← `passwd.rs`             | who may open the devices                            |
//! | `service.rs` ← `systemctl.rs`         | the service                                         |
//! | `media.rs` ← `camera.rs`, `microphone.rs` | a frame of each source, a second of sound       |
//! | `network.rs` ← `sockets.rs`           | ports, room server, STUN, TURN                      |
//!
//! On the left facts become findings, without I/O; on the right the facts are gathered. Each check has a
//! thread and a limit of its own, so that one that hangs holds up no other. Nothing here says a key, a
//! password, or the name of a room.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::config::{self, Config, ConfigError, Dialect, Turn, WebRtc};
use crate::daemon::DaemonError;
use crate::engine::turn;
use crate::server::ServerError;
use crate::share::Place;
use crate::signaling::server_url::{parse_server_url, server_name};
use crate::signaling::websocket::{self, Authorities, LinkOptions};
use crate::turn::url::stun_host;
use crate::video::inventory;
use crate::{audio, block_on, cli, daemon, keys, video};

mod access;
mod camera;
mod finding;
mod kernel;
mod machine;
mod media;
mod microphone;
mod network;
mod passwd;
mod service;
mod sockets;
mod systemctl;

use access::Kind;
use finding::{Finding, Report};
use network::{Answer, Port};
use service::Service;

/// `EX_CONFIG` of sysexits.h, as the daemon ends with a wrong configuration.
const WRONG_CONFIGURATION: u8 = 78;

/// How long a check may take that asks this machine alone.
const QUICK: Duration = Duration::from_secs(5);

/// The same where a device is opened, which drivers take their time for.
const DEVICE: Duration = Duration::from_secs(15);

/// The same where somebody on the network is asked.
const NETWORK: Duration = Duration::from_secs(12);

/// Most cameras beside the configured one that are tried.
const MAX_OTHER_CAMERAS: u32 = 4;

/// Most STUN and TURN servers that are asked.
const MAX_SERVERS: usize = 8;

/// Looks at everything and prints what it finds. Without a `path` it is the installed service's
/// configuration, or else the defaults. The exit code is 0 where the daemon would work, 1 where it would
/// not, and 78 where its configuration is wrong.
///
/// # Errors
///
/// Where standard output is closed.
pub fn doctor(path: Option<PathBuf>, as_json: bool) -> io::Result<ExitCode> {
    let place = Place::of(path);
    let (config, is_wrong, finding) = configuration(&place);
    let mut findings = vec![finding];
    let service = service(&place);
    findings.extend(service.iter().map(Service::finding));
    findings.extend(run(groups(&place, &config, service, is_wrong)));
    let report = Report::new(findings);
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        write!(out, "{}", report.for_people())?;
    }
    Ok(if is_wrong {
        ExitCode::from(WRONG_CONFIGURATION)
    } else if report.works() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Reads the configuration; where it is wrong, the defaults take its place for what does not depend on it.
fn configuration(place: &Place) -> (Config, bool, Finding) {
    const CHECK: &str = "configuration";
    let Some(path) = &place.config else {
        let text = "no file: the defaults.";
        return (Config::default(), false, Finding::ok(CHECK, text));
    };
    let shown = path.display();
    let error: Box<dyn std::error::Error> = match cli::load(Some(path)) {
        Err(error) => error.into(),
        Ok(mut config) => match check_rooms(&config) {
            Err(error) => error.into(),
            Ok(()) => {
                if config.room.key.is_empty()
                    && let Some(handed) = &place.credential
                    && let Ok(Some(key)) = keys::read(handed)
                {
                    config.room.key = key;
                }
                return (
                    config,
                    false,
                    Finding::ok(CHECK, format!("{shown} is valid.")),
                );
            }
        },
    };
    let denied = matches!(error.downcast_ref(), Some(ConfigError::Read { source, .. })
        if source.kind() == io::ErrorKind::PermissionDenied);
    let remedy = if denied {
        "sudo roomcam doctor".to_owned()
    } else {
        format!("sudoedit {shown}")
    };
    let finding = Finding::error(CHECK, finding::sentence(&*error)).mended_by(remedy);
    (Config::default(), true, finding)
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

fn groups(
    place: &Place,
    config: &Config,
    service: Option<Service>,
    is_wrong: bool,
) -> Vec<Vec<Check>> {
    let service_runs = service.as_ref().is_some_and(Service::is_active);
    let mut groups = vec![vec![machine(place, config), access(config, service)]];
    if is_wrong {
        return groups;
    }
    groups.push(cameras(config, service_runs));
    groups.push(microphones(config, service_runs));
    groups.push(ports(config, service_runs));
    groups.extend(servers(config).into_iter().map(|check| vec![check]));
    groups
}

fn machine(place: &Place, config: &Config) -> Check {
    let state = place.state.clone();
    let has_turn = !config.webrtc.turn.secret.is_empty();
    let has_tls = ["wss", "https"].map(|scheme| config.room.server.starts_with(scheme));
    let needs_time = has_turn || has_tls.contains(&true);
    Check::new("system", QUICK, move || {
        machine::findings(&kernel::machine(&state), needs_time)
    })
}

fn access(config: &Config, service: Option<Service>) -> Check {
    let made_up =
        |source: &str| matches!(source, "none" | "pattern" | "tone") || source.starts_with("file:");
    let wanted = [
        (Kind::Video, !made_up(&config.video.source)),
        (Kind::Audio, !made_up(&config.audio.source)),
    ];
    Check::new("access", QUICK, move || {
        let user = passwd::user(service.as_ref());
        let of_kind =
            |(kind, is_wanted)| access::findings(kind, &user, &passwd::nodes(kind), is_wanted);
        wanted.into_iter().flat_map(of_kind).collect()
    })
}

/// The configured camera, the others, and the encoders, one after the other: two cameras on one bus may
/// not deliver at once, and some encoders are open once only.
fn cameras(config: &Config, service_runs: bool) -> Vec<Check> {
    let video = &config.video;
    if !video.is_there() {
        let none = || vec![Finding::ok("camera", "none is configured.")];
        return vec![Check::new("camera", QUICK, none)];
    }
    let (configured, with_others, encoded) = (video.clone(), video.clone(), video.clone());
    vec![
        Check::new("camera", DEVICE, move || {
            let tried = camera::try_source(&configured);
            vec![media::camera(
                &configured.source,
                true,
                service_runs,
                &tried,
            )]
        }),
        Check::new(
            "other camera",
            DEVICE * (MAX_OTHER_CAMERAS + 1),
            move || other_cameras(&with_others, service_runs),
        ),
        Check::new("encoder", DEVICE, move || encoders(&encoded, service_runs)),
    ]
}

/// Tries the cameras that could be used beside the configured one.
fn other_cameras(config: &config::Video, service_runs: bool) -> Vec<Finding> {
    const CHECK: &str = "other camera";
    let configured = inventory::chosen(config).map(|(source, _)| source);
    let configured = configured.unwrap_or_default();
    let node = Path::new(&configured).canonicalize().ok();
    let usable = video::cameras().into_iter().filter(|c| c.is_usable());
    let paths = usable.map(|camera| camera.path);
    let others = paths.filter(|path| Some(path) != node.as_ref());
    let csi = (configured != "csi" && inventory::has_csi_camera(&config.csi)).then_some("csi");
    let others = others.map(|path| path.display().to_string());
    others
        .chain(csi.map(str::to_owned))
        .take(usize::try_from(MAX_OTHER_CAMERAS).unwrap_or_default())
        .map(|source| {
            let other = config::Video {
                source: source.clone(),
                ..config.clone()
            };
            let tried = within(DEVICE, move || camera::try_source(&other));
            tried.map_or_else(
                || Finding::warning(CHECK, format!("{source}: {}", unanswered(DEVICE))),
                |tried| media::camera(&source, false, service_runs, &tried),
            )
        })
        .collect()
}

fn encoders(config: &config::Video, service_runs: bool) -> Vec<Finding> {
    let hardware: Vec<PathBuf> = inventory::encoders()
        .into_iter()
        .filter(inventory::Encoder::makes_h264)
        .filter_map(|encoder| encoder.path)
        .collect();
    let is_needed = hardware.is_empty() || config.encoder == "software";
    let mut findings: Vec<Finding> = hardware
        .iter()
        .map(|path| {
            let shown = path.display().to_string();
            let tried = camera::try_hardware(path, config);
            let is_configured = config.encoder == shown;
            media::hardware_encoder(&shown, is_configured, service_runs, &tried)
        })
        .collect();
    let tried = camera::try_openh264(config);
    let has_assembly = video::openh264::has_assembly();
    findings.push(media::software_encoder(has_assembly, is_needed, &tried));
    findings
}

fn microphones(config: &Config, service_runs: bool) -> Vec<Check> {
    let audio = config.audio.clone();
    if !audio.is_there() {
        let none = || vec![Finding::ok("microphone", "none is configured.")];
        return vec![Check::new("microphone", QUICK, none)];
    }
    vec![Check::new("microphone", DEVICE, move || {
        let tried = microphone::try_source(&audio);
        let holder = match &tried {
            Err(audio::AudioError::Busy { .. }) => microphone::holder(&audio.source),
            _ => None,
        };
        let holder = holder.as_deref();
        vec![media::microphone(service_runs, holder, &tried)]
    })]
}

/// Where the daemon listens.
fn ports(config: &Config, service_runs: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    if config.room.server.is_empty() {
        let config = config.clone();
        checks.push(Check::new("page", NETWORK, move || {
            vec![page(&config, service_runs)]
        }));
    }
    let port = config.webrtc.udp_port;
    if port != 0 {
        checks.push(Check::new("media port", QUICK, move || {
            vec![network::media(port, &sockets::udp(port), service_runs)]
        }));
    }
    checks
}

/// Opens the embedded server as the daemon does, and closes it at once.
fn page(config: &Config, service_runs: bool) -> Finding {
    let address = config.server.listen;
    let opened = match block_on(daemon::try_server(config)) {
        Ok(opened) => opened,
        Err(error) => return Finding::error("page", format!("{error}.")),
    };
    let port = match opened {
        Ok(()) => Port::Free,
        Err(DaemonError::Server(ServerError::Listen { source, .. }))
            if source.kind() == io::ErrorKind::AddrInUse =>
        {
            sockets::tcp_holder(address)
        }
        Err(error) => Port::Unavailable(error.to_string()),
    };
    network::page(address, &port, service_runs)
}

/// Whoever else is asked: the room server, and those for STUN and TURN.
fn servers(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    if !config.room.server.is_empty() {
        let config = config.clone();
        checks.push(Check::new("room server", NETWORK, move || {
            vec![room_server(&config)]
        }));
    }
    let ice_servers = &config.webrtc.ice_servers;
    let urls = ice_servers.iter().flat_map(|server| &server.urls);
    for name in urls.filter_map(|url| stun_host(url)).take(MAX_SERVERS) {
        checks.push(Check::new("stun", NETWORK, move || {
            vec![network::stun(&name, &sockets::ask_stun(&name))]
        }));
    }
    let ca_file = config.room.ca_file.clone();
    for (url, webrtc) in turn_servers(&config.webrtc).into_iter().take(MAX_SERVERS) {
        let ca_file = ca_file.clone();
        checks.push(Check::new("turn", NETWORK, move || {
            let authorities = Authorities::load(&ca_file).unwrap_or_default();
            let lent = block_on(turn::try_server(&webrtc, authorities));
            let lent = lent.unwrap_or_else(|error| Err((error.to_string(), String::new())));
            vec![network::turn(&url, &lent)]
        }));
    }
    checks
}

/// Returns each TURN server with a configuration that has it alone.
fn turn_servers(webrtc: &WebRtc) -> VecDeque<(String, WebRtc)> {
    let own = webrtc.turn.urls.iter().map(|url| {
        let turn = Turn {
            urls: vec![url.clone()],
            ..webrtc.turn.clone()
        };
        (turn, Vec::new(), url)
    });
    let listed = webrtc.ice_servers.iter().flat_map(|server| {
        let with_user = server.username.is_some() && server.credential.is_some();
        let urls = server
            .urls
            .iter()
            .filter(move |url| with_user && url.starts_with("turn"));
        urls.map(|url| {
            let mut alone = server.clone();
            alone.urls = vec![url.clone()];
            (Turn::default(), vec![alone], url)
        })
    });
    let all = own.chain(listed).map(|(turn, ice_servers, url)| {
        let webrtc = WebRtc {
            turn,
            ice_servers,
            ..webrtc.clone()
        };
        (url.clone(), webrtc)
    });
    all.collect()
}

/// Connects to the room server. Where the protocol tells devices apart, goes into the room, too: elsewhere
/// viewers would take this for the camera.
fn room_server(config: &Config) -> Finding {
    let room = &config.room;
    let server = match parse_server_url(&room.server, room.dialect) {
        Ok(server) => server,
        Err(error) => return Finding::error("room server", format!("{error}.")),
    };
    let authorities = match Authorities::load(&room.ca_file) {
        Ok(authorities) => authorities,
        Err(error) => {
            return Finding::error("room server", finding::sentence(&error))
                .mended_by("write another room.ca_file");
        }
    };
    let name = server_name(&server);
    let options = LinkOptions {
        server,
        dialect: room.dialect,
        room: room.first_name().to_owned(),
        room_is_secret: config.room_is_secret(),
        key: room.key.clone(),
        instance: keys::generate()
            .map(|key| key.expose().to_owned())
            .unwrap_or_default(),
        headers: room.headers.clone(),
        authorities,
        auth: room.auth.to_json(),
        events: room.events.clone(),
    };
    let enters = room.dialect == Dialect::Roomcam;
    let answer = match block_on(websocket::try_once(options, enters)) {
        Ok(Ok(())) if enters => Answer::Joined,
        Ok(Ok(())) => Answer::Connected,
        Ok(Err(refused)) if refused.code == "room-has-device" => Answer::HasDevice,
        Ok(Err(refused)) => Answer::No(refused.reason),
        Err(error) => Answer::No(error.to_string()),
    };
    network::room_server(&name, &answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

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

    #[test]
    fn each_turn_server_is_asked_alone_with_its_own_credentials() {
        let mut webrtc = WebRtc::default();
        webrtc.turn.urls = vec!["turn:a".to_owned(), "turns:b".to_owned()];
        webrtc.turn.secret = Secret::new("hunter2".to_owned());
        let listed = crate::signaling::IceServer {
            urls: vec!["stun:c".to_owned(), "turn:d".to_owned()],
            username: Some("u".to_owned()),
            credential: Some("p".to_owned()),
        };
        webrtc.ice_servers = vec![listed];
        let servers = turn_servers(&webrtc);
        let urls: Vec<&str> = servers.iter().map(|(url, _)| url.as_str()).collect();
        assert_eq!(urls, ["turn:a", "turns:b", "turn:d"]);
        assert!(servers[0].1.turn.secret.matches("hunter2"));
        assert_eq!(servers[1].1.turn.urls, ["turns:b"]);
        assert_eq!(servers[2].1.ice_servers[0].urls, ["turn:d"]);
        assert!(servers[2].1.turn.urls.is_empty());
    }
}
