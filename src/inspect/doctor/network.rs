//! Page, room server, STUN and TURN: what answered, and what did not. Pure.

use std::net::SocketAddr;

use super::finding::Finding;

/// What became of an attempt to listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Port {
    /// Nobody has it.
    Free,
    /// Somebody has it: who, where that can be known.
    Held(Option<String>),
    /// A roomcam answers there.
    Answers,
    /// It cannot be had, for a reason that says what to do.
    Unavailable(String),
}

/// Judges the port of the page and the embedded room server.
pub(super) fn page(address: SocketAddr, port: &Port, service_runs: bool) -> Finding {
    const CHECK: &str = "page";
    let reach = if address.ip().is_loopback() {
        " Only this machine can open it: server.listen."
    } else {
        ""
    };
    match port {
        Port::Free => Finding::ok(CHECK, format!("{address} is free for it.{reach}")),
        Port::Answers => Finding::ok(CHECK, format!("served at {address} by roomcam.{reach}")),
        Port::Held(Some(holder)) if holder.starts_with("roomcam (pid ") => {
            Finding::ok(CHECK, format!("{address} is in use by {holder}.{reach}"))
        }
        Port::Held(None) if service_runs => {
            let text = format!("{address} is in use, by the running service it seems.{reach}");
            Finding::ok(CHECK, text)
        }
        Port::Held(holder) => {
            let holder = holder.as_deref().unwrap_or("another program");
            let port = address.port();
            Finding::error(CHECK, format!("{address} is in use by {holder}."))
                .mended_by(format!("sudo ss -ltnp sport = :{port}"))
        }
        Port::Unavailable(reason) => {
            Finding::error(CHECK, format!("{reason}.")).mended_by("write another server.listen")
        }
    }
}

/// Judges the port of the media.
pub(super) fn media(number: u16, port: &Port, service_runs: bool) -> Finding {
    const CHECK: &str = "media port";
    match port {
        Port::Free | Port::Answers => Finding::ok(CHECK, format!("UDP {number} is free.")),
        Port::Held(Some(holder)) if holder.starts_with("roomcam (pid ") => {
            Finding::ok(CHECK, format!("UDP {number} is in use by {holder}."))
        }
        Port::Held(None) if service_runs => {
            let text = format!("UDP {number} is in use, by the running service it seems.");
            Finding::ok(CHECK, text)
        }
        Port::Held(holder) => {
            let holder = holder.as_deref().unwrap_or("another program");
            Finding::error(CHECK, format!("UDP {number} is in use by {holder}."))
                .mended_by(format!("sudo ss -lunp sport = :{number}"))
        }
        Port::Unavailable(reason) => {
            Finding::error(CHECK, format!("{reason}.")).mended_by("write another webrtc.udp_port")
        }
    }
}

/// What a room server elsewhere said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// It opened a WebSocket; more was not asked.
    Connected,
    /// It let us into the room.
    Joined,
    /// It knows us, and has a device in the room.
    HasDevice,
    /// It said no, or nothing.
    No(String),
}

/// Judges the room server.
pub(super) fn room_server(name: &str, answer: &Answer) -> Finding {
    const CHECK: &str = "room server";
    match answer {
        Answer::Connected => Finding::ok(CHECK, format!("{name} answers.")),
        Answer::Joined => Finding::ok(CHECK, format!("{name} let us into the room with our key.")),
        Answer::HasDevice => {
            let text = format!("{name} takes our key; a device is in the room, so the service is.");
            Finding::ok(CHECK, text)
        }
        Answer::No(reason) => Finding::error(CHECK, format!("{name}: {reason}."))
            .mended_by("mend [room] of the configuration, or the room server"),
    }
}

/// Judges a STUN server; `Ok` is our address as it sees us.
pub(super) fn stun(server: &str, answer: &Result<SocketAddr, String>) -> Finding {
    match answer {
        Ok(address) => Finding::ok("stun", format!("{server} sees us at {}.", address.ip())),
        Err(reason) => Finding::warning("stun", format!("{server} {reason}."))
            .mended_by("check webrtc.ice_servers, the network, and a firewall in between"),
    }
}

/// Judges a TURN server; `Ok` is the address that it lends us, `Err` what is wrong and what helps.
pub(super) fn turn(server: &str, answer: &Result<SocketAddr, (String, String)>) -> Finding {
    match answer {
        Ok(address) => Finding::ok("turn", format!("{server} lends us {address}.")),
        Err((reason, remedy)) => {
            Finding::warning("turn", format!("{server} {reason}.")).mended_by(remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_port_that_roomcam_has_is_well_and_another_program_is_named() {
        let level = |port: &Port, runs| page(at("0.0.0.0:8080"), port, runs).level;
        assert_eq!(level(&Port::Free, false), Level::Ok);
        assert_eq!(level(&Port::Answers, false), Level::Ok);
        assert_eq!(
            level(&Port::Held(Some("roomcam (pid 7)".to_owned())), false),
            Level::Ok
        );
        assert_eq!(level(&Port::Held(None), true), Level::Ok);
        let finding = page(
            at("0.0.0.0:8080"),
            &Port::Held(Some("nginx (pid 8)".to_owned())),
            true,
        );
        assert_eq!(finding.level, Level::Error);
        assert_eq!(finding.text, "0.0.0.0:8080 is in use by nginx (pid 8).");
        assert_eq!(finding.remedy.unwrap(), "sudo ss -ltnp sport = :8080");
        let media = media(5_000, &Port::Held(None), false);
        assert_eq!(media.level, Level::Error);
        assert!(media.remedy.unwrap().contains(":5000"));
    }

    #[test]
    fn a_page_on_loopback_says_that_it_is_this_machines_alone() {
        let text = |address| page(at(address), &Port::Free, false).text;
        assert!(text("127.0.0.1:8080").contains("Only this machine"));
        assert!(!text("0.0.0.0:8080").contains("Only this machine"));
    }

    #[test]
    fn a_room_server_that_refuses_is_an_error_and_relays_that_fail_are_warnings() {
        let no = Answer::No("nothing listens at 192.0.2.1:443".to_owned());
        let finding = room_server("wss://rooms.example", &no);
        assert_eq!(finding.level, Level::Error);
        assert_eq!(
            finding.text,
            "wss://rooms.example: nothing listens at 192.0.2.1:443."
        );
        assert_eq!(room_server("x", &Answer::HasDevice).level, Level::Ok);
        let stun = stun("stun.example:3478", &Err("does not answer".to_owned()));
        assert_eq!(
            (stun.level, stun.text.as_str()),
            (Level::Warning, "stun.example:3478 does not answer.")
        );
        let turn = turn("turn:example", &Err(("no".to_owned(), "check".to_owned())));
        assert_eq!(
            (turn.level, turn.remedy.as_deref()),
            (Level::Warning, Some("check"))
        );
        let works = super::turn("turn:example", &Ok(at("192.0.2.7:50000")));
        assert_eq!(works.text, "turn:example lends us 192.0.2.7:50000.");
    }
}
