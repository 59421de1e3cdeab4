//! The TURN servers' sockets: from [`Relays`], which decides, to the network and back.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::sync::mpsc;

use crate::clock;
use crate::config::WebRtc;
use crate::signaling::websocket::Authorities;
use crate::turn::reach::Reach;
use crate::turn::relays::{LineId, Output, Relays, Report, Status};

mod queue;
mod wire;

use wire::{Reports, WireEvent};

/// How many reports may wait for the engine; then the connections wait.
const MAX_QUEUED_EVENTS: usize = 256;

/// Borrows an address of the TURN server in `webrtc`, of which there is one, and gives it back.
///
/// # Errors
///
/// What is wrong, and what helps.
pub async fn try_server(
    webrtc: &WebRtc,
    authorities: Authorities,
) -> Result<SocketAddr, (String, String)> {
    let mut turn = Turn::new(webrtc, authorities, Reach::Anywhere);
    turn.relays.want(clock::now());
    loop {
        if let Some(address) = turn.settle(clock::now()) {
            turn.relays.release();
            turn.settle(clock::now());
            // What gives it back is sent by a task of its own; the server forgets it otherwise.
            tokio::task::yield_now().await;
            return Ok(address);
        }
        match turn.relays.status() {
            Status::Failed { reason, remedy, .. } => return Err((reason, remedy.to_owned())),
            Status::NotConfigured => {
                let remedy = "give it a username and password, or the secret, in webrtc.turn";
                return Err((
                    "is no TURN server, or has no credentials".to_owned(),
                    remedy.to_owned(),
                ));
            }
            Status::HandedFailed | Status::Lent | Status::None => {}
        }
        let due = turn.relays.poll_timeout().unwrap_or_else(clock::now);
        tokio::select! {
            incoming = turn.next() => turn.handle(incoming, clock::now(), |_, _, _| {}),
            () = tokio::time::sleep_until(due.into()) => turn.relays.handle_timeout(clock::now()),
        }
    }
}

/// Our relays, and what they are connected with.
#[derive(Debug)]
pub(super) struct Turn {
    /// Drain it with [`Turn::settle`] after each input.
    pub(super) relays: Relays,
    authorities: Authorities,
    /// Where room servers' servers may be.
    reach: Reach,
    lines: HashMap<LineId, queue::Sender>,
    events: mpsc::Receiver<(LineId, WireEvent)>,
    reports: mpsc::Sender<(LineId, WireEvent)>,
    dropped: u64,
}

/// What the connections reported; handed to [`Turn::handle`].
#[derive(Debug)]
pub(super) struct Incoming(LineId, WireEvent);

impl Turn {
    /// `reach` is where room servers may send us.
    pub(super) fn new(webrtc: &WebRtc, authorities: Authorities, reach: Reach) -> Self {
        let (reports, events) = mpsc::channel(MAX_QUEUED_EVENTS);
        Self {
            relays: Relays::new(webrtc),
            authorities,
            reach,
            lines: HashMap::new(),
            events,
            reports,
            dropped: 0,
        }
    }

    /// Takes other servers, for whoever comes; what is lent to us stays.
    pub(super) fn configure(&mut self, webrtc: &WebRtc, authorities: Authorities, reach: Reach) {
        self.relays.handle_configuration(webrtc);
        self.authorities = authorities;
        self.reach = reach;
    }

    /// Waits for something that a connection reports. Cancel safe.
    pub(super) async fn next(&mut self) -> Incoming {
        match self.events.recv().await {
            Some((line, event)) => Incoming(line, event),
            // Not while we hold a sender ourselves.
            None => std::future::pending().await,
        }
    }

    /// Takes what was reported, and what else was by now. Hands viewers' datagrams to `each`: our
    /// address, theirs, the content.
    pub(super) fn handle(
        &mut self,
        first: Incoming,
        now: Instant,
        mut each: impl FnMut(SocketAddr, SocketAddr, &[u8]),
    ) {
        let mut next = Some(first);
        for _ in 0..MAX_QUEUED_EVENTS {
            let Some(Incoming(line, event)) = next else {
                break;
            };
            match event {
                WireEvent::Opened => {
                    let mut seed = [0; 16];
                    match getrandom::fill(&mut seed) {
                        Ok(()) => {
                            let unix_time = clock::unix_time();
                            self.relays.handle_opened(line, seed, unix_time, now);
                        }
                        Err(error) => self.relays.handle_failed(line, &error.to_string(), now),
                    }
                }
                WireEvent::Failed(reason) => {
                    let reason = format!("cannot be reached: {reason}");
                    self.relays.handle_failed(line, &reason, now);
                }
                WireEvent::Unreachable => self.relays.handle_unreachable(line, now),
                WireEvent::NotTurn => self.relays.handle_not_turn(line, now),
                WireEvent::Message(message) => {
                    if let Some((local, peer, datagram)) =
                        self.relays.handle_message(line, &message, now)
                    {
                        each(local, peer, datagram);
                    }
                }
            }
            next = self.events.try_recv().ok().map(|(l, e)| Incoming(l, e));
        }
    }

    /// Does what the relays ask for. Returns the address that was lent just now, to be told to viewers.
    ///
    /// Call it inside a runtime.
    pub(super) fn settle(&mut self, now: Instant) -> Option<SocketAddr> {
        let mut news = None;
        while let Some(output) = self.relays.poll_output() {
            match output {
                Output::Open {
                    line,
                    url,
                    is_handed,
                } => {
                    let reach = if is_handed {
                        self.reach
                    } else {
                        Reach::Anywhere
                    };
                    let (sender, outgoing) = queue::queue();
                    self.lines.insert(line, sender);
                    let events = self.reports.clone();
                    let reports = Reports { line, events };
                    let authorities = self.authorities.clone();
                    tokio::spawn(wire::run(url, reach, authorities, reports, outgoing));
                }
                Output::Write { line, message } => {
                    let sender = self.lines.get(&line);
                    if sender.is_some_and(|sender| !sender.post(message, now)) {
                        self.dropped += 1;
                        tracing::debug!(dropped = self.dropped, "the TURN server takes no more");
                    }
                }
                Output::Close(line) => drop(self.lines.remove(&line)),
                Output::Lent(address) => news = Some(address),
                Output::Report(Report::Works { server }) => {
                    tracing::info!(server, "TURN server lends us an address");
                }
                Output::Report(Report::Failed {
                    server,
                    reason,
                    remedy,
                }) => tracing::warn!(server, reason, remedy, "TURN server lends us no address"),
            }
        }
        news
    }
}
