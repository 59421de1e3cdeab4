//! Which TURN server is asked, and when: an address is borrowed when the first viewer comes, kept while
//! somebody may need it, and given back afterwards.
//!
//! The driver hands in what happens (`handle_*`) and then drains [`Relays::poll_output`] until it
//! returns `None`; it sleeps until [`Relays::poll_timeout`].
//!
//! ```text
//!          a viewer comes              lent
//!   Idle ────────────────▶ Trying ───────────▶ Resting ──lost, or to be renewed──▶ Trying
//!    ▲                      ▲   │ all refused or silent
//!    │                      └── Waiting ◀──┘
//!    └── nobody wanted it for LINGER, from any state
//! ```
//!
//! Servers are tried one after the other: UDP before TCP before TLS, but the one that worked last
//! comes first. Where credentials expire, or a room server hands out others, a second address is
//! borrowed with the new ones in time; the old one stays while media goes through it. Pure.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::client::{Client, Ended, Output as ClientOutput};
use super::credentials::{Credentials, Source};
use super::url::{Transport, TurnUrl};
use crate::config::{Secret, WebRtc};
use crate::signaling::IceServer;

/// Most servers that are tried, those of the configuration first.
const MAX_SERVERS: usize = 16;

/// How long an address is kept that nobody wants: viewers reload, and come back.
const LINGER: Duration = Duration::from_secs(30);

/// How long a viewer waits for the relayed address, so that it is in the description: some
/// viewers read no candidate that comes later.
const GATHER_TIMEOUT: Duration = Duration::from_millis(500);

/// How long after all servers failed they are tried again; doubles up to the second.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const MAX_RETRY: Duration = Duration::from_secs(60);

/// How long an old address is kept that no media goes through.
const RETIRES_AFTER: Duration = Duration::from_secs(30);

/// Most addresses at once: one in use, one from before its credentials were renewed, one being asked
/// for.
const MAX_LINES: usize = 3;

/// The name in minted user names.
const DEVICE: &str = "device";

/// Names one connection to a server.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct LineId(u64);

/// A server, and how to log in.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Server {
    url: TurnUrl,
    source: Source,
    is_handed: bool,
}

/// Something the driver must do, in the order given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Connect; report with [`Relays::handle_opened`] or [`Relays::handle_failed`].
    Open {
        /// What to call it.
        line: LineId,
        /// Where to.
        url: TurnUrl,
        /// Whether a room server names it, which must not make us connect anywhere it likes.
        is_handed: bool,
    },
    /// Send a message to the server.
    Write {
        /// On which connection.
        line: LineId,
        /// The message.
        message: Vec<u8>,
    },
    /// Close the connection once everything so far is sent. Nothing is to be reported.
    Close(LineId),
    /// This address is ours: tell viewers.
    Lent(SocketAddr),
    /// Tell people.
    Report(Report),
}

/// What people are told, once per change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Report {
    /// A server lends us an address, for the first time or after it failed.
    Works {
        /// Its URL.
        server: String,
    },
    /// A server does not.
    Failed {
        /// Its URL.
        server: String,
        /// Why, in words.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// What can be said of the relay to a viewer that found no path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Status {
    /// No server is known.
    NotConfigured,
    /// There is an address.
    Lent,
    /// Not yet, not any more, or not needed yet.
    None,
    /// Those of the room server do not lend one. Why is between us and them: the room server may listen.
    HandedFailed,
    /// The servers do not lend one.
    Failed {
        /// The URL of one of them.
        server: String,
        /// Why not.
        reason: String,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// All dealings with TURN servers.
#[derive(Debug)]
pub struct Relays {
    configured: Vec<Server>,
    /// From the room server.
    handed: Vec<Server>,
    phase: Phase,
    wanted_until: Option<Instant>,
    gather_until: Option<Instant>,
    retry: Duration,
    lines: Vec<Line>,
    next_line: u64,
    /// The server that worked last.
    favourite: Option<TurnUrl>,
    /// What people were told of each server last: why it fails, or that it works.
    told: HashMap<String, Option<(String, &'static str)>>,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum Phase {
    Idle,
    /// The servers that are tried next; the last line is being set up.
    Trying(VecDeque<Server>),
    Resting,
    Waiting(Instant),
}

#[derive(Debug)]
struct Line {
    id: LineId,
    server: Server,
    /// `None` while connecting.
    client: Option<Client>,
    /// When it is given up if there is no address by then.
    give_up_at: Option<Instant>,
    lent_at: Option<Instant>,
}

impl Line {
    fn relayed(&self) -> Option<SocketAddr> {
        self.client.as_ref().and_then(Client::relayed)
    }

    /// When media last went through it, or it was lent.
    fn last_used(&self) -> Option<Instant> {
        let used = self.client.as_ref().and_then(Client::last_sent);
        used.max(self.lent_at)
    }

    /// When another one is to take its place.
    fn renew_at(&self) -> Option<Instant> {
        Some(self.lent_at? + self.server.source.renew_after()?)
    }
}

impl Relays {
    /// Takes the servers of the configuration. Nothing is asked of them before [`Self::want`].
    #[must_use]
    pub fn new(webrtc: &WebRtc) -> Self {
        Self {
            configured: configured(webrtc),
            handed: Vec::new(),
            phase: Phase::Idle,
            wanted_until: None,
            gather_until: None,
            retry: FIRST_RETRY,
            lines: Vec::new(),
            next_line: 0,
            favourite: None,
            told: HashMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes other servers of the configuration. What is lent to us stays as long as it is wanted.
    pub fn handle_configuration(&mut self, webrtc: &WebRtc) {
        self.configured = configured(webrtc);
    }

    /// Takes the servers that a room server hands out, in the place of those it handed out before.
    pub fn handle_ice_servers(&mut self, ice_servers: &[IceServer], now: Instant) {
        let handed: Vec<_> = servers(ice_servers, true).collect();
        if handed == self.handed {
            return;
        }
        self.handed = handed;
        // New credentials are another chance, but not one at any pace.
        if let Phase::Waiting(until) = &mut self.phase {
            *until = (*until).min(now + FIRST_RETRY);
        }
    }

    /// Takes note that somebody needs a relay, or may need one soon.
    pub fn want(&mut self, now: Instant) {
        self.wanted_until = Some(now + LINGER);
        if matches!(self.phase, Phase::Idle) && !self.servers().is_empty() {
            let is_hopeless = |server: &Server| {
                let told = self.told.get(&server.url.to_string());
                told.is_some_and(Option::is_some)
            };
            let hope = !self.servers().iter().all(is_hopeless);
            self.gather_until = hope.then_some(now + GATHER_TIMEOUT);
            self.try_all(now);
        }
    }

    /// Returns until when a description should wait for an address that is being asked for.
    #[must_use]
    pub fn gathering_until(&self) -> Option<Instant> {
        self.gather_until
            .filter(|_| matches!(self.phase, Phase::Trying(_)))
    }

    /// Returns the address that is lent to us.
    #[must_use]
    pub fn current(&self) -> Option<SocketAddr> {
        self.lines.iter().rev().find_map(Line::relayed)
    }

    /// Returns whether `address` is, or was just now, lent to us.
    #[must_use]
    pub fn is_lent(&self, address: SocketAddr) -> bool {
        self.lines
            .iter()
            .any(|line| line.relayed() == Some(address))
    }

    /// Returns what can be said of the relay.
    #[must_use]
    pub fn status(&self) -> Status {
        if self.current().is_some() {
            return Status::Lent;
        }
        let servers = self.servers();
        if servers.is_empty() {
            return Status::NotConfigured;
        }
        let failed = |server: &Server| {
            let is_handed = server.is_handed;
            let server = server.url.to_string();
            let (reason, remedy) = self.told.get(&server)?.clone()?;
            Some(if is_handed {
                Status::HandedFailed
            } else {
                Status::Failed {
                    server,
                    reason,
                    remedy,
                }
            })
        };
        let (handed, own): (Vec<_>, Vec<_>) = servers.iter().partition(|s| s.is_handed);
        let mut own_first = own.into_iter().chain(handed);
        own_first.find_map(failed).unwrap_or(Status::None)
    }

    /// Takes note that a connection is up. `seed` is random, `unix_time` the wall clock.
    pub fn handle_opened(&mut self, id: LineId, seed: [u8; 16], unix_time: Duration, now: Instant) {
        if let Some(line) = self.lines.iter_mut().find(|line| line.id == id) {
            let credentials = line.server.source.credentials(DEVICE, unix_time);
            let is_stream = line.server.url.transport != Transport::Udp;
            line.client = Some(Client::new(credentials, is_stream, seed, now));
        }
        self.drain(now);
    }

    /// Takes note that a connection could not be made.
    pub fn handle_failed(&mut self, id: LineId, reason: &str, now: Instant) {
        self.lose(id, reason, UNREACHABLE_REMEDY, now);
    }

    /// Takes note that the network says that there is nobody, or that a stream ended.
    pub fn handle_unreachable(&mut self, id: LineId, now: Instant) {
        if let Some(client) = self.client(id) {
            client.handle_unreachable(now);
        }
        self.drain(now);
    }

    /// Takes note that something else than a TURN server answers.
    pub fn handle_not_turn(&mut self, id: LineId, now: Instant) {
        self.lose(
            id,
            "answers, but not as a TURN server",
            STRANGER_REMEDY,
            now,
        );
    }

    /// Takes a message of a server. Returns a viewer's datagram, if it holds one: our address, the
    /// viewer's, the content.
    pub fn handle_message<'a>(
        &mut self,
        id: LineId,
        message: &'a [u8],
        now: Instant,
    ) -> Option<(SocketAddr, SocketAddr, &'a [u8])> {
        let client = self.client(id)?;
        let datagram = client.handle_message(message, now);
        let relayed = client.relayed();
        if datagram.is_none() {
            self.drain(now);
        }
        datagram.and_then(|(peer, datagram)| Some((relayed?, peer, datagram)))
    }

    /// Sends datagrams of `segment` bytes from `local`, which is lent to us.
    pub fn send(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        segment: usize,
        contents: &[u8],
        now: Instant,
    ) {
        let mut lines = self.lines.iter_mut();
        if let Some(line) = lines.find(|line| line.relayed() == Some(local))
            && let Some(client) = &mut line.client
        {
            for datagram in contents.chunks(segment.max(1)) {
                client.send(peer, datagram, now);
            }
        }
        self.drain(now);
    }

    /// Tells the machine what time it is. Calling it early or twice does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.wanted_until.is_some_and(|until| until <= now) {
            return self.release();
        }
        if self.gather_until.is_some_and(|until| until <= now) {
            self.gather_until = None;
        }
        for line in &mut self.lines {
            if let Some(client) = &mut line.client {
                client.handle_timeout(now);
            }
        }
        self.drain(now);
        let late = |line: &&Line| line.give_up_at.is_some_and(|at| at <= now);
        while let Some(line) = self.lines.iter().find(late) {
            let (reason, remedy) = match line.client {
                Some(_) => ("does not answer", SILENT_REMEDY),
                // The name is still being looked up, or a stream being opened.
                None => ("cannot be reached in time", UNREACHABLE_REMEDY),
            };
            self.lose(line.id, reason, remedy, now);
        }
        self.retire(now);
        match self.phase {
            Phase::Waiting(until) if until <= now => self.try_all(now),
            Phase::Resting if self.renew_at().is_some_and(|at| at <= now) => self.try_all(now),
            _ => {}
        }
    }

    /// Returns when [`Self::handle_timeout`] next has work.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let waiting = match self.phase {
            Phase::Waiting(until) => Some(until),
            Phase::Resting => self.renew_at(),
            Phase::Idle | Phase::Trying(_) => None,
        };
        let clients = self.lines.iter().filter_map(|line| line.client.as_ref());
        let given_up = self.lines.iter().filter_map(|line| line.give_up_at);
        clients
            .filter_map(Client::poll_timeout)
            .chain(given_up)
            .chain(self.wanted_until)
            .chain(self.gather_until)
            .chain(waiting)
            .min()
    }

    /// Returns the next thing to do, or `None` once everything so far is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Gives back everything.
    pub fn release(&mut self) {
        for line in &mut self.lines {
            if let Some(client) = &mut line.client {
                client.release();
                while let Some(output) = client.poll_output() {
                    if let ClientOutput::Send(message) = output {
                        let line = line.id;
                        self.outputs.push_back(Output::Write { line, message });
                    }
                }
            }
            self.outputs.push_back(Output::Close(line.id));
        }
        self.lines.clear();
        self.phase = Phase::Idle;
        self.wanted_until = None;
        self.gather_until = None;
        self.retry = FIRST_RETRY;
    }

    /// In the order in which they are tried.
    fn servers(&self) -> Vec<Server> {
        let mut servers = self.configured.clone();
        for server in &self.handed {
            if servers.iter().all(|known| known.url != server.url) {
                servers.push(server.clone());
            }
        }
        servers.truncate(MAX_SERVERS);
        servers.sort_by_key(|server| {
            (
                Some(&server.url) != self.favourite.as_ref(),
                server.url.transport,
            )
        });
        servers
    }

    fn renew_at(&self) -> Option<Instant> {
        let current = self
            .lines
            .iter()
            .rev()
            .find(|line| line.relayed().is_some())?;
        if self.is_replaced(&current.server) {
            // The room server does not set the pace.
            return Some(current.lent_at? + FIRST_RETRY);
        }
        current.renew_at()
    }

    /// Returns whether a room server has handed out other credentials since.
    fn is_replaced(&self, server: &Server) -> bool {
        let mut handed = self.handed.iter();
        let newest = handed.find(|newest| newest.url == server.url);
        server.is_handed && newest.is_some_and(|newest| newest.source != server.source)
    }

    fn client(&mut self, id: LineId) -> Option<&mut Client> {
        let mut lines = self.lines.iter_mut();
        lines.find(|line| line.id == id)?.client.as_mut()
    }

    fn try_all(&mut self, now: Instant) {
        self.phase = Phase::Trying(self.servers().into());
        self.try_next(now);
    }

    fn try_next(&mut self, now: Instant) {
        let Phase::Trying(servers) = &mut self.phase else {
            return;
        };
        let Some(server) = servers.pop_front() else {
            self.phase = Phase::Waiting(now + self.retry);
            self.retry = (self.retry * 2).min(MAX_RETRY);
            return;
        };
        if self.lines.len() >= MAX_LINES {
            self.remove(self.longest_unused());
        }
        let patience = match server.url.transport {
            Transport::Udp => Duration::from_millis(1_500),
            Transport::Tcp => Duration::from_secs(3),
            Transport::Tls => Duration::from_secs(5),
        };
        let id = LineId(self.next_line);
        self.next_line += 1;
        self.outputs.push_back(Output::Open {
            line: id,
            url: server.url.clone(),
            is_handed: server.is_handed,
        });
        self.lines.push(Line {
            id,
            server,
            client: None,
            give_up_at: Some(now + patience),
            lent_at: None,
        });
    }

    /// Takes what the clients have to say.
    fn drain(&mut self, now: Instant) {
        let mut ended = Vec::new();
        for line in &mut self.lines {
            let Some(client) = &mut line.client else {
                continue;
            };
            while let Some(output) = client.poll_output() {
                let id = line.id;
                match output {
                    ClientOutput::Send(message) => {
                        self.outputs.push_back(Output::Write { line: id, message });
                    }
                    ClientOutput::Allocated(address) => {
                        line.give_up_at = None;
                        line.lent_at = Some(now);
                        self.phase = Phase::Resting;
                        self.gather_until = None;
                        self.favourite = Some(line.server.url.clone());
                        self.outputs.push_back(Output::Lent(address));
                        let server = line.server.url.to_string();
                        if self.told.insert(server.clone(), None) != Some(None) {
                            let report = Report::Works { server };
                            self.outputs.push_back(Output::Report(report));
                        }
                    }
                    ClientOutput::Ended(why) => ended.push((id, why)),
                }
            }
        }
        for (id, why) in ended {
            self.lose(id, &why.to_string(), remedy(why), now);
        }
    }

    fn lose(&mut self, id: LineId, reason: &str, remedy: &'static str, now: Instant) {
        let Some(at) = self.lines.iter().position(|line| line.id == id) else {
            return;
        };
        let was_newest = at + 1 == self.lines.len();
        let Some(line) = self.remove(at) else {
            return;
        };
        // An old one whose media is over is missed by nobody.
        if !was_newest {
            return;
        }
        let server = line.server.url.to_string();
        let told = Some((reason.to_owned(), remedy));
        if self.told.get(&server) != Some(&told) {
            self.outputs.push_back(Output::Report(Report::Failed {
                server: server.clone(),
                reason: reason.to_owned(),
                remedy,
            }));
        }
        // What a server is called is bounded by how many there are; room servers change theirs.
        if self.told.len() >= MAX_SERVERS * 4 {
            self.told.clear();
        }
        self.told.insert(server, told);
        match line.lent_at {
            Some(at) if at + FIRST_RETRY <= now => {
                self.retry = FIRST_RETRY;
                self.try_all(now);
            }
            // It lends and drops at once: the others have a try, once.
            Some(_) => {
                let mut servers = VecDeque::new();
                if self.retry == FIRST_RETRY {
                    servers.extend(self.servers());
                    servers.retain(|server| server.url != line.server.url);
                    self.retry *= 2;
                }
                self.phase = Phase::Trying(servers);
                self.try_next(now);
            }
            None => self.try_next(now),
        }
    }

    /// Gives back old addresses that no media goes through any more.
    fn retire(&mut self, now: Instant) {
        if !matches!(self.phase, Phase::Resting) {
            return;
        }
        let newest = self.lines.len().saturating_sub(1);
        let is_idle = |(at, line): &(usize, &Line)| {
            let since = line.last_used();
            *at < newest && since.is_none_or(|since| since + RETIRES_AFTER <= now)
        };
        if let Some((at, _)) = self.lines.iter().enumerate().find(is_idle) {
            self.remove(at);
        }
    }

    /// Which line is missed least: media stays where it is.
    fn longest_unused(&self) -> usize {
        let lines = self.lines.iter().enumerate();
        let longest = lines.min_by_key(|(_, line)| line.last_used());
        longest.map_or(0, |(at, _)| at)
    }

    fn remove(&mut self, at: usize) -> Option<Line> {
        if at >= self.lines.len() {
            return None;
        }
        let mut line = self.lines.remove(at);
        if let Some(client) = &mut line.client {
            client.release();
            while let Some(output) = client.poll_output() {
                if let ClientOutput::Send(message) = output {
                    let line = line.id;
                    self.outputs.push_back(Output::Write { line, message });
                }
            }
        }
        self.outputs.push_back(Output::Close(line.id));
        Some(line)
    }
}

const UNREACHABLE_REMEDY: &str =
    "check its URL, the network and its name servers, a firewall, and the server's certificate";

const SILENT_REMEDY: &str =
    "check that it runs, and that a firewall lets this device reach its port";

const STRANGER_REMEDY: &str =
    "check host, port and transport of its URL: something else listens there";

const fn remedy(ended: Ended) -> &'static str {
    match ended {
        Ended::Silent => SILENT_REMEDY,
        Ended::WrongCredentials { .. } => {
            "check webrtc.turn.secret, or username and password, and this machine's clock"
        }
        Ended::Quota { .. } => "raise its user-quota and total-quota, or wait for others to leave",
        Ended::Forgotten => "it was restarted; another address is borrowed",
        Ended::Refused { .. } | Ended::Nonsense => "see its log",
    }
}

/// The TURN servers of the configuration, in its order.
fn configured(webrtc: &WebRtc) -> Vec<Server> {
    let own = webrtc.turn.urls.iter().filter_map(|url| {
        Some(Server {
            url: url.parse().ok()?,
            source: webrtc.turn.source(),
            is_handed: false,
        })
    });
    own.chain(servers(&webrtc.ice_servers, false)).collect()
}

/// The TURN servers of a list that come with a user.
fn servers(ice_servers: &[IceServer], is_handed: bool) -> impl Iterator<Item = Server> {
    let with_user = ice_servers.iter().filter_map(|server| {
        let credentials = Credentials {
            username: server.username.clone()?,
            password: Secret::new(server.credential.clone()?),
        };
        Some((server, credentials))
    });
    let each = with_user.flat_map(|(server, credentials)| {
        let urls = server.urls.iter().filter_map(|url| url.parse().ok());
        urls.map(move |url| Server {
            url,
            source: Source::Given(credentials.clone()),
            is_handed,
        })
        .collect::<Vec<_>>()
    });
    each.take(MAX_SERVERS).collect::<Vec<_>>().into_iter()
}

#[cfg(test)]
mod tests;
