//! What a configuration has of ports, room servers, STUN and TURN → the checks of them.

use std::collections::VecDeque;
use std::io;

use super::finding::{self, Finding};
use super::network::{self, Answer, Port};
use super::{Check, NETWORK, QUICK, sockets};
use crate::config::{Config, Dialect, Turn, WebRtc};
use crate::daemon::DaemonError;
use crate::engine::turn;
use crate::server::ServerError;
use crate::signaling::server_url::{parse_server_url, server_name};
use crate::signaling::websocket::{self, Authorities, LinkOptions};
use crate::turn::url::stun_host;
use crate::{block_on, daemon, keys};

/// Most STUN and TURN servers that are asked.
const MAX_SERVERS: usize = 8;

/// Returns whether certificates or TURN passwords are used, which are good for a while.
pub(super) fn needs_time(config: &Config) -> bool {
    let is_tls = |scheme| config.room.server.starts_with(scheme);
    !config.webrtc.turn.secret.is_empty() || is_tls("wss") || is_tls("https")
}

/// Where the daemon listens.
pub(super) fn ports(config: &Config, service_runs: bool) -> Vec<Check> {
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
pub(super) fn servers(config: &Config) -> Vec<Check> {
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
