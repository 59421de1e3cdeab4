//! Who is where, and what is passed on to whom (`docs/signaling.md`).
//!
//! The driver reports what its clients do (`handle_*`) and then drains [`Rooms::poll_output`] until
//! it returns `None`; it sleeps until [`Rooms::poll_timeout`] or the next input.
//!
//! ```text
//!            join              the wait of a guesser is over
//! Arriving ───────▶ Held ─────────────────────────────────▶ Viewer, Device
//!     │      (no wait: at once)                                   │
//!     └── refused, too slow ──▶ Leaving ◀── bye, refused, replaced ┘
//! ```
//!
//! Pure: no sockets, no clock. Clients are named by numbers the driver draws at random.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::guesses::{Guesser, Guesses, network_of};
use super::protocol::{
    ClientMessage, Content, Inside, Join, PROTOCOL, Refusal, Role, ServerMessage, parse,
};
use crate::config::Secret;
use crate::signaling::MAX_MESSAGE_BYTES;
use crate::turn::credentials::IceServers;

/// How long a client may take to join.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How many viewers one room takes. The daemon's own limit is far lower.
pub const MAX_ROOM_VIEWERS: usize = 64;

/// How many messages a viewer may send within a second; a device, for each of its viewers. A page
/// sends about 20 when it joins.
pub const MAX_MESSAGES_PER_SECOND: usize = 50;

/// How many bytes of messages a viewer may send within a second, so that no viewer alone fills
/// what waits for the device. An offer has up to 100 kB, a candidate 200 bytes.
pub const MAX_VIEWER_BYTES_PER_SECOND: usize = 256 * 1024;

/// How many candidates a viewer may send for one offer. Chromium has about 10 on a laptop.
pub const MAX_CANDIDATES_PER_OFFER: usize = 200;

/// One connection. Random, so that a room server that was restarted names nobody as it named
/// another before: viewers' media outlives it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ClientId(pub u64);

/// Something the driver must do, in the order given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Send a text.
    Send {
        /// To whom.
        client: ClientId,
        /// What.
        text: String,
        /// The viewer that says it to the device. If it does not fit, [`Rooms::handle_overflow`]
        /// ends this one: a device must not be closed for what viewers say.
        viewer: Option<ClientId>,
    },
    /// Close the connection once everything so far is sent.
    Close {
        /// Whose.
        client: ClientId,
    },
}

/// All rooms of one server.
#[derive(Debug)]
pub struct Rooms {
    viewer_key: Secret,
    device_key: Secret,
    ice_servers: IceServers,
    /// When the credentials of those inside are replaced by new ones.
    renew_at: Option<Instant>,
    clients: HashMap<ClientId, Client>,
    rooms: HashMap<String, Room>,
    guesses: Guesses,
    names_are_secret: bool,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
struct Client {
    address: IpAddr,
    state: State,
    second: Second,
}

/// The second in which messages are counted, and what came in it.
#[derive(Debug)]
struct Second {
    since: Instant,
    messages: usize,
    bytes: usize,
}

impl Second {
    const fn new(since: Instant) -> Self {
        Self {
            since,
            messages: 0,
            bytes: 0,
        }
    }
}

#[derive(Debug)]
enum State {
    /// Has said nothing yet.
    Arriving { deadline: Instant },
    /// Asked to join; somebody from its network tried wrong keys.
    Held { until: Instant, join: Join },
    /// Watches.
    Viewer { room: String, candidates: usize },
    /// Is watched.
    Device { room: String },
    /// Is being closed; whatever it still says is ignored.
    Leaving,
}

#[derive(Debug, Default)]
struct Room {
    device: Option<Device>,
    viewers: BTreeSet<ClientId>,
}

#[derive(Debug)]
struct Device {
    client: ClientId,
    instance: String,
}

impl Rooms {
    /// Creates a server without rooms: they come and go with their people.
    #[must_use]
    pub fn new(viewer_key: Secret, device_key: Secret, ice_servers: impl Into<IceServers>) -> Self {
        Self {
            viewer_key,
            device_key,
            ice_servers: ice_servers.into(),
            renew_at: None,
            clients: HashMap::new(),
            rooms: HashMap::new(),
            guesses: Guesses::default(),
            names_are_secret: false,
            outputs: VecDeque::new(),
        }
    }

    /// Keeps the rooms' names out of logs: for some clients they are the key.
    pub const fn hide_names(&mut self) {
        self.names_are_secret = true;
    }

    /// Takes a new connection.
    pub fn handle_opened(&mut self, client: ClientId, address: IpAddr, now: Instant) {
        let deadline = now + JOIN_TIMEOUT;
        let state = State::Arriving { deadline };
        let newcomer = Client {
            address,
            state,
            second: Second::new(now),
        };
        self.clients.insert(client, newcomer);
    }

    /// Takes a message, be it a text or a binary one.
    pub fn handle_message(&mut self, client: ClientId, message: &[u8], now: Instant) {
        let allowed = self.allowed_per_second(client);
        let Some(entry) = self.clients.get_mut(&client) else {
            return;
        };
        if matches!(entry.state, State::Leaving) {
            return;
        }
        let second = &mut entry.second;
        if now.duration_since(second.since) >= Duration::from_secs(1) {
            *second = Second::new(now);
        }
        second.messages += 1;
        second.bytes += message.len();
        let is_device = matches!(entry.state, State::Device { .. });
        let excess = if second.messages > allowed {
            Some(format!("more than {allowed} messages in a second"))
        } else if !is_device && second.bytes > MAX_VIEWER_BYTES_PER_SECOND {
            let limit = MAX_VIEWER_BYTES_PER_SECOND;
            Some(format!("more than {limit} bytes in a second"))
        } else {
            None
        };
        if let Some(excess) = excess {
            self.refuse(client, &Refusal::new("too-fast", excess));
            return;
        }
        let message = match parse(message) {
            Ok(message) => message,
            Err(refusal) => {
                let arriving = matches!(entry.state, State::Arriving { .. } | State::Held { .. });
                if arriving {
                    self.refuse(client, &refusal);
                } else {
                    self.complain(client, &refusal);
                }
                return;
            }
        };
        match (message, &entry.state) {
            (ClientMessage::Bye, _) => self.leave(client, "bye"),
            (ClientMessage::Join(join), State::Arriving { .. }) => {
                self.handle_join(client, join, now);
            }
            (ClientMessage::Join(_), _) => {
                let refusal = Refusal::new("bad-message", "join: joined already");
                self.complain(client, &refusal);
            }
            (ClientMessage::Relay { .. }, State::Arriving { .. }) => {
                let refusal = Refusal::new("bad-message", "the first message is a `join`");
                self.refuse(client, &refusal);
            }
            (ClientMessage::Relay { content, .. }, State::Viewer { room, .. }) => {
                let room = room.clone();
                self.relay_to_device(client, &room, &content);
            }
            (ClientMessage::Relay { to, content }, State::Device { room }) => {
                let room = room.clone();
                self.relay_to_viewer(client, &room, to.as_deref(), &content);
            }
            (ClientMessage::Relay { .. }, State::Held { .. } | State::Leaving) => {}
        }
    }

    /// Takes note that a client's message was over the limit and was not read, or cannot be passed on.
    pub fn handle_too_large(&mut self, client: ClientId) {
        let message = format!("over {MAX_MESSAGE_BYTES} bytes");
        self.refuse(client, &Refusal::new("too-large", message));
    }

    /// Takes note that what a viewer said did not fit into what waits for the device.
    pub fn handle_overflow(&mut self, viewer: ClientId) {
        let message = "the device does not keep up with what its viewers say";
        self.refuse(viewer, &Refusal::new("too-fast", message));
    }

    /// Takes note that a connection ended, by whichever side.
    pub fn handle_closed(&mut self, client: ClientId) {
        self.leave_room(client, "lost");
        self.clients.remove(&client);
    }

    /// Tells the machine what time it is. Calling it early or twice does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.renew_at.is_some_and(|at| at <= now) {
            self.renew_credentials(now);
        }
        let mut due: Vec<ClientId> = self
            .clients
            .iter()
            .filter(|(_, c)| c.state.timeout().is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        due.sort_unstable();
        for client in due {
            match self.clients.get(&client).map(|c| &c.state) {
                Some(State::Arriving { .. }) => {
                    let refusal = Refusal::new("join-timeout", "no `join` within 5 seconds");
                    self.refuse(client, &refusal);
                }
                Some(State::Held { join, .. }) => {
                    let join = join.clone();
                    self.admit(client, join, now);
                }
                _ => {}
            }
        }
    }

    /// Returns when [`Self::handle_timeout`] next has work, or `None` while nothing is pending.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.clients
            .values()
            .filter_map(|c| c.state.timeout())
            .chain(self.renew_at)
            .min()
    }

    /// Returns the next thing to do, or `None` once everything so far is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Returns whether `client` is in a room: it knew a key.
    #[must_use]
    pub fn is_inside(&self, client: ClientId) -> bool {
        let state = self.clients.get(&client).map(|c| &c.state);
        matches!(state, Some(State::Viewer { .. } | State::Device { .. }))
    }

    fn allowed_per_second(&self, client: ClientId) -> usize {
        let viewers = match self.clients.get(&client).map(|c| &c.state) {
            Some(State::Device { room }) => self.rooms.get(room).map_or(1, |r| r.viewers.len()),
            _ => 1,
        };
        MAX_MESSAGES_PER_SECOND * viewers.max(1)
    }

    fn handle_join(&mut self, client: ClientId, join: Join, now: Instant) {
        let Some(entry) = self.clients.get_mut(&client) else {
            return;
        };
        let hold = self.guesses.hold(guesser(entry.address, &join), now);
        if hold.is_zero() {
            self.admit(client, join, now);
        } else {
            let until = now + hold;
            entry.state = State::Held { until, join };
        }
    }

    fn admit(&mut self, client: ClientId, join: Join, now: Instant) {
        let Some(address) = self.clients.get(&client).map(|c| c.address) else {
            return;
        };
        let guesser = guesser(address, &join);
        let key = match join.role {
            Role::Viewer => &self.viewer_key,
            Role::Device { .. } => &self.device_key,
        };
        if !key.matches(&join.key) {
            let in_a_row = self.guesses.wrong_key(guesser, now);
            if in_a_row.is_power_of_two() {
                let device = guesser.device;
                warn!(%address, room = shown(self.names_are_secret, &join.room), device, in_a_row, "refused a wrong key");
            }
            let refusal = Refusal::new("wrong-key", "no such room for this key");
            self.refuse(client, &refusal);
            return;
        }
        self.guesses.right_key(guesser);
        if self.renew_at.is_none() {
            self.renew_at = self.ice_servers.renew_after().map(|after| now + after);
        }
        match join.role {
            Role::Viewer => self.admit_viewer(client, join.room),
            Role::Device { instance } => self.admit_device(client, join.room, instance),
        }
    }

    /// Those inside stay for months; what they were handed does not last that long.
    fn renew_credentials(&mut self, now: Instant) {
        let mut inside: Vec<(ClientId, String)> = Vec::new();
        for (&client, Client { state, .. }) in &self.clients {
            match state {
                State::Viewer { .. } => inside.push((client, viewer_id(client))),
                State::Device { .. } => inside.push((client, device_id(client))),
                _ => {}
            }
        }
        inside.sort_unstable();
        let renew_after = self.ice_servers.renew_after();
        self.renew_at = renew_after
            .filter(|_| !inside.is_empty())
            .map(|after| now + after);
        for (client, id) in inside {
            let ice_servers = &self.ice_servers.for_client(&id);
            send(
                &mut self.outputs,
                client,
                &ServerMessage::IceServers { ice_servers },
            );
        }
    }

    fn admit_viewer(&mut self, client: ClientId, name: String) {
        let room = self.rooms.entry(name.clone()).or_default();
        if room.viewers.len() >= MAX_ROOM_VIEWERS {
            let refusal = Refusal::new("room-full", "the room is full");
            self.refuse(client, &refusal);
            return;
        }
        room.viewers.insert(client);
        let id = viewer_id(client);
        info!(
            room = shown(self.names_are_secret, &name),
            id, "viewer joined"
        );
        let joined = ServerMessage::Joined {
            protocol: PROTOCOL,
            room: &name,
            id: &id,
            ice_servers: &self.ice_servers.for_client(&id),
            inside: Inside::Device(room.device.as_ref().map(|d| d.instance.as_str())),
        };
        send(&mut self.outputs, client, &joined);
        if let Some(device) = &room.device {
            let news = ServerMessage::ViewerJoined { id: &id };
            send(&mut self.outputs, device.client, &news);
        }
        let candidates = 0;
        self.set_state(
            client,
            State::Viewer {
                room: name,
                candidates,
            },
        );
    }

    fn admit_device(&mut self, client: ClientId, name: String, instance: String) {
        let room = self.rooms.entry(name.clone()).or_default();
        let replaced = match &room.device {
            Some(present) if present.instance != instance => {
                let refusal = Refusal::new("room-has-device", "there is a device in this room");
                self.refuse(client, &refusal);
                return;
            }
            Some(present) => Some(present.client),
            None => None,
        };
        info!(room = shown(self.names_are_secret, &name), "device joined");
        let id = device_id(client);
        let joined = ServerMessage::Joined {
            protocol: PROTOCOL,
            room: &name,
            id: &id,
            ice_servers: &self.ice_servers.for_client(&id),
            inside: Inside::Viewers(room.viewers.iter().map(|v| viewer_id(*v)).collect()),
        };
        send(&mut self.outputs, client, &joined);
        let news = ServerMessage::DeviceJoined {
            instance: &instance,
        };
        for viewer in &room.viewers {
            send(&mut self.outputs, *viewer, &news);
        }
        room.device = Some(Device { client, instance });
        self.set_state(client, State::Device { room: name });
        if let Some(replaced) = replaced {
            self.leave(replaced, "lost");
        }
    }

    fn relay_to_device(&mut self, client: ClientId, room: &str, content: &Content) {
        if let Some(Client {
            state: State::Viewer { candidates, .. },
            ..
        }) = self.clients.get_mut(&client)
        {
            match content {
                Content::Candidate(_) => *candidates += 1,
                _ => *candidates = 0,
            }
            if *candidates > MAX_CANDIDATES_PER_OFFER {
                let message = "more than 200 candidates for one offer";
                self.refuse(client, &Refusal::new("too-fast", message));
                return;
            }
        }
        let from = viewer_id(client);
        let relayed = match content {
            Content::Offer(offer) => ServerMessage::Offer { from: &from, offer },
            Content::Candidate(candidate) => ServerMessage::Candidate {
                from: &from,
                candidate: candidate.as_ref(),
            },
            Content::Call => ServerMessage::Call { from: &from },
            Content::Answer(answer) => ServerMessage::Answer {
                from: &from,
                answer,
            },
            Content::Error { .. } | Content::Connected | Content::Ended => {
                let refusal = Refusal::new("bad-message", "only a device says this");
                self.complain(client, &refusal);
                return;
            }
        };
        let text = relayed.to_text();
        if text.len() > MAX_MESSAGE_BYTES {
            // With its sender's name in it, it would end the device's connection.
            return self.handle_too_large(client);
        }
        match self.rooms.get(room).and_then(|r| r.device.as_ref()) {
            Some(device) => self.outputs.push_back(Output::Send {
                client: device.client,
                text,
                viewer: Some(client),
            }),
            None if matches!(content, Content::Offer(_) | Content::Call) => {
                let refusal = Refusal::new("no-device", "no device is in this room");
                self.complain(client, &refusal);
            }
            None => {}
        }
    }

    fn relay_to_viewer(
        &mut self,
        client: ClientId,
        room: &str,
        to: Option<&str>,
        content: &Content,
    ) {
        let from = "device";
        let relayed = match content {
            Content::Answer(answer) => ServerMessage::Answer { from, answer },
            Content::Candidate(candidate) => ServerMessage::Candidate {
                from,
                candidate: candidate.as_ref(),
            },
            Content::Error { code, message } => ServerMessage::Error {
                code,
                message,
                from: Some(from),
            },
            Content::Offer(offer) => ServerMessage::Offer { from, offer },
            Content::Connected => ServerMessage::Connected { from },
            Content::Ended => ServerMessage::Ended { from },
            Content::Call => {
                let refusal = Refusal::new("bad-message", "only a viewer calls");
                self.complain(client, &refusal);
                return;
            }
        };
        let Some(to) = to else {
            let refusal = Refusal::new("bad-message", "`to` is missing");
            self.complain(client, &refusal);
            return;
        };
        let viewers = self.rooms.get(room).map(|r| &r.viewers);
        let viewer = viewers.and_then(|v| v.iter().find(|v| viewer_id(**v) == to));
        if let Some(viewer) = viewer {
            send(&mut self.outputs, *viewer, &relayed);
        }
    }

    /// Tells `client` what was wrong; it stays.
    fn complain(&mut self, client: ClientId, refusal: &Refusal) {
        debug!(?client, code = refusal.code, "bad message");
        let error = ServerMessage::Error {
            code: refusal.code,
            message: &refusal.message,
            from: None,
        };
        send(&mut self.outputs, client, &error);
    }

    /// Tells `client` what was wrong, and closes.
    fn refuse(&mut self, client: ClientId, refusal: &Refusal) {
        self.complain(client, refusal);
        self.leave(client, "lost");
    }

    fn leave(&mut self, client: ClientId, reason: &'static str) {
        self.leave_room(client, reason);
        if self.clients.contains_key(&client) {
            self.outputs.push_back(Output::Close { client });
        }
    }

    /// Takes `client` out of its room, if it is in one, and tells the others.
    fn leave_room(&mut self, client: ClientId, reason: &'static str) {
        let Some(entry) = self.clients.get_mut(&client) else {
            return;
        };
        let state = std::mem::replace(&mut entry.state, State::Leaving);
        let (State::Viewer { room: name, .. } | State::Device { room: name }) = state else {
            return;
        };
        let Some(room) = self.rooms.get_mut(&name) else {
            return;
        };
        if room.viewers.remove(&client) {
            let id = viewer_id(client);
            info!(
                room = shown(self.names_are_secret, &name),
                id, reason, "viewer left"
            );
            if let Some(device) = &room.device {
                let news = ServerMessage::ViewerLeft { id: &id, reason };
                send(&mut self.outputs, device.client, &news);
            }
        } else if room.device.as_ref().is_some_and(|d| d.client == client) {
            info!(room = shown(self.names_are_secret, &name), "device left");
            room.device = None;
            for viewer in &room.viewers {
                send(&mut self.outputs, *viewer, &ServerMessage::DeviceLeft);
            }
        }
        if room.device.is_none() && room.viewers.is_empty() {
            self.rooms.remove(&name);
        }
    }

    fn set_state(&mut self, client: ClientId, state: State) {
        if let Some(entry) = self.clients.get_mut(&client) {
            entry.state = state;
        }
    }
}

impl State {
    const fn timeout(&self) -> Option<Instant> {
        match self {
            Self::Arriving { deadline: at } | Self::Held { until: at, .. } => Some(*at),
            Self::Viewer { .. } | Self::Device { .. } | Self::Leaving => None,
        }
    }
}

/// Returns what a log may call a room.
const fn shown(is_secret: bool, name: &str) -> &str {
    if is_secret { "…" } else { name }
}

fn guesser(address: IpAddr, join: &Join) -> Guesser {
    Guesser {
        network: network_of(address),
        device: join.role != Role::Viewer,
    }
}

fn device_id(client: ClientId) -> String {
    format!("d-{:016x}", client.0)
}

fn viewer_id(client: ClientId) -> String {
    format!("v-{:016x}", client.0)
}

fn send(outputs: &mut VecDeque<Output>, client: ClientId, message: &ServerMessage<'_>) {
    outputs.push_back(Output::Send {
        client,
        text: message.to_text(),
        viewer: None,
    });
}

#[cfg(test)]
mod tests;
