//! A page's room server of its own, with the device in it.
//!
//! ```text
//!   page ◀─ its dialect ─▶ RoomServer ◀─ its dialect ─▶ Adapter ◀─ docs/signaling.md ─▶ our rooms
//!                          (two members)            (virtual device)   (a viewer)
//! ```
//!
//! The page's wish for a room is looked at first, as a viewer's key is: the room's name is all that these
//! protocols have. If it is right, a viewer enters our rooms; if the device is there, the virtual device
//! enters the page's world; then the page's wish is granted. So it always comes second, as on other
//! people's servers, where the device sits for months. If the name is wrong, it is granted, too: the page
//! is alone, and does not learn whether there is such a room.
//!
//! ```text
//! Idle ──wish──▶ Held ──wait of a guesser is over──▶ Asking ──viewer is in──▶ Idle
//!                (no wait: at once; wrong name: back to Idle)
//! ```
//!
//! Pure: the driver hands texts and the time in, and takes all outputs after each.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tracing::{debug, warn};

use super::{Member, Opening, RoomServer, socketio};
use crate::config::{CallEvents, Dialect, Secret};
use crate::server::guesses::{Guesser, Guesses};
use crate::server::rooms::{MAX_MESSAGES_PER_SECOND, MAX_VIEWER_BYTES_PER_SECOND};
use crate::signaling::dialect::{self, Adapter, Join};
use crate::signaling::{CandidateInit, RoomEvent, RoomMessage, ViewerId};

const PAGE: Member = Member(1);
const DEVICE: Member = Member(2);

/// After how long a page that was refused is met again. It knows nothing of refusals, so it would wait for
/// ever; a place is free once somebody else's media ended.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long lies between two entries of one page's viewer, so that a page which leaves and joins in a loop
/// does not fill the log. A page that shows its video anew does both at once, and is not kept from it.
const ENTRY_INTERVAL: Duration = Duration::from_secs(1);

/// What pages may speak, and where they find the device.
#[derive(Clone, Debug, Default)]
pub struct Tutorials {
    /// Which dialects are spoken; none by default.
    pub dialects: Vec<Dialect>,
    /// The rooms that there are. Their names are what pages must know.
    pub rooms: Vec<Secret>,
    /// Event names of `socketio-calls`.
    pub events: CallEvents,
}

/// Where a page connects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// A plain WebSocket.
    WebSocket,
    /// Socket.IO.
    SocketIo,
}

impl Tutorials {
    /// Returns the dialects that are spoken at `endpoint`.
    #[must_use]
    pub fn at(&self, endpoint: Endpoint) -> Vec<Dialect> {
        let is_there = |dialect: &Dialect| match dialect {
            Dialect::WsRooms | Dialect::WsBroadcast => endpoint == Endpoint::WebSocket,
            Dialect::SocketioRooms | Dialect::SocketioCalls => endpoint == Endpoint::SocketIo,
            Dialect::Roomcam | Dialect::Ayame => false,
        };
        self.dialects.iter().copied().filter(is_there).collect()
    }
}

/// Something the driver must do, in the order given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Send the page a text.
    ToPage(String),
    /// Close the page's connection.
    ClosePage,
    /// Enter our rooms as a viewer, in place of the one before. Report its texts with
    /// [`Pairing::handle_room`].
    Enter {
        /// Which room.
        room: String,
    },
    /// Say a text of `docs/signaling.md` as that viewer.
    ToRoom(String),
    /// That viewer leaves.
    Leave,
}

/// One page and its virtual device.
#[derive(Debug)]
pub struct Pairing {
    tutorials: Arc<Tutorials>,
    /// Those of its endpoint.
    dialects: Vec<Dialect>,
    /// What is spoken, once it is known.
    dialect: Option<Dialect>,
    opening: Opening,
    guesser: Guesser,
    /// `None` while nobody knows which one to be.
    server: Option<RoomServer>,
    /// The page is a member.
    is_open: bool,
    stage: Stage,
    partner: Option<Partner>,
    /// How many times a virtual device has entered.
    entries: u64,
    /// When a viewer last entered our rooms.
    entered_at: Option<Instant>,
    second: Second,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum Stage {
    /// What the page says is taken as it comes.
    Idle,
    /// It wants a room, and somebody of its network has tried wrong names.
    Held {
        until: Instant,
        room: String,
        text: String,
    },
    /// Our rooms were asked for the device; what the page said waits.
    Asking { text: Option<String> },
}

/// The device, as this page meets it.
#[derive(Debug)]
struct Partner {
    room: String,
    adapter: Adapter,
    /// It is in the page's world.
    is_inside: bool,
    /// Whom the adapter spoke of last: the viewer in our rooms.
    viewer: Option<ViewerId>,
    /// The device's process, while it is in our rooms.
    present: Option<String>,
    /// The one that is, or was, in the page's world.
    instance: Option<String>,
    /// The page sees the device.
    is_connected: bool,
    /// It came back as the same process, and has not said since what became of the media.
    came_back: bool,
    /// Our viewer was let into its room.
    is_member: bool,
    /// When a page that was refused is met again.
    retry_at: Option<Instant>,
    /// When our viewer enters its room, unless it has.
    enter_at: Option<Instant>,
    /// What it says then. It waits for a second at most, so a page's limits bound it.
    unsaid: Vec<String>,
}

/// The second in which the page's texts are counted.
#[derive(Debug)]
struct Second {
    since: Instant,
    messages: usize,
    bytes: usize,
}

impl Pairing {
    /// Creates the world of a page that has just connected.
    #[must_use]
    pub fn new(
        tutorials: Arc<Tutorials>,
        endpoint: Endpoint,
        opening: Opening,
        guesser: Guesser,
        now: Instant,
    ) -> Self {
        let dialects = tutorials.at(endpoint);
        let events = tutorials.events.clone();
        let dialect = match dialects.as_slice() {
            [only] => Some(*only),
            _ => None,
        };
        let server = match (dialect, endpoint) {
            (Some(dialect), _) => RoomServer::new(dialect, events),
            (None, Endpoint::SocketIo) => Some(RoomServer::SocketIo(Box::new(
                socketio::Server::new(events),
            ))),
            (None, Endpoint::WebSocket) => None,
        };
        let mut pairing = Self {
            tutorials,
            dialects,
            dialect,
            opening,
            guesser,
            server,
            is_open: false,
            stage: Stage::Idle,
            partner: None,
            entries: 0,
            entered_at: None,
            second: Second {
                since: now,
                messages: 0,
                bytes: 0,
            },
            outputs: VecDeque::new(),
        };
        match dialect {
            Some(Dialect::WsBroadcast) => pairing.ask_broadcast(None, now),
            _ if endpoint == Endpoint::SocketIo => pairing.open(now),
            _ => {}
        }
        pairing.settle(now);
        pairing
    }

    /// Takes a text of the page; not while [`Self::may_read`] says no.
    pub fn handle_page(&mut self, text: &str, guesses: &mut Guesses, now: Instant) {
        if !self.second.allows(text, now) {
            debug!("a page sends too much, closed");
            self.outputs.push_back(Output::ClosePage);
            return;
        }
        self.tell_dialect(text);
        if self.dialect == Some(Dialect::WsBroadcast) && !self.is_open {
            return self.ask_broadcast(Some(text.to_owned()), now);
        }
        let wanted = self.server.as_ref().and_then(|s| s.room_wanted(text));
        match wanted {
            Some(room) if self.partner.as_ref().is_none_or(|p| p.room != room) => {
                let hold = guesses.hold(self.guesser, now);
                let text = text.to_owned();
                if hold.is_zero() {
                    self.judge(room, text, guesses, now);
                } else {
                    let until = now + hold;
                    self.stage = Stage::Held { until, room, text };
                }
            }
            _ => self.pass(Some(text), now),
        }
    }

    /// Returns whether the page's next text may be taken.
    #[must_use]
    pub const fn may_read(&self) -> bool {
        matches!(self.stage, Stage::Idle)
    }

    /// Returns whether the page is no stranger: it knew a room; on a bus, which asks nothing, it sees the
    /// device.
    #[must_use]
    pub fn is_inside(&self) -> bool {
        let asks_nothing = self.dialect == Some(Dialect::WsBroadcast);
        let partner = self.partner.as_ref();
        partner.is_some_and(|p| p.is_connected || !asks_nothing)
    }

    /// Takes a text for our viewer.
    pub fn handle_room(&mut self, text: &str, now: Instant) {
        let Ok(message) = serde_json::from_str::<Value>(text) else {
            return;
        };
        let field = |name: &str| message.get(name).unwrap_or(&Value::Null);
        match field("type").as_str().unwrap_or_default() {
            "joined" => {
                if let Some(partner) = &mut self.partner {
                    partner.is_member = true;
                }
                self.handle_presence(field("device").as_str(), now);
                self.granted(now);
            }
            "device-joined" => self.handle_presence(field("instance").as_str(), now),
            "device-left" => self.handle_presence(None, now),
            "error" => {
                debug!(code = %field("code"), "a page's viewer was refused");
                let is_full = field("code") == dialect::ROOM_FULL;
                if is_full && self.partner.as_ref().is_some_and(|p| !p.is_connected) {
                    self.retry(now);
                }
            }
            kind => {
                if let Some(partner) = &mut self.partner
                    && let Some(viewer) = partner.viewer.clone()
                    && let Some(message) = device_says(kind, &message, viewer)
                {
                    match message {
                        RoomMessage::Connected { .. } => {
                            partner.is_connected = true;
                            partner.came_back = false;
                        }
                        RoomMessage::Ended { .. } => {
                            partner.is_connected = false;
                            if partner.came_back {
                                self.part(now);
                                return self.enter(now);
                            }
                        }
                        _ => {}
                    }
                    partner.adapter.handle_message(&message, now);
                }
            }
        }
        self.settle(now);
    }

    /// Takes note that our viewer was thrown out, or was not let in.
    pub fn handle_room_closed(&mut self, now: Instant) {
        if self.partner.as_ref().is_some_and(|p| !p.is_member) {
            self.retry(now);
        } else {
            self.exit();
            self.partner = None;
            if self.may_read() {
                self.outputs.push_back(Output::ClosePage);
            }
        }
        self.granted(now);
        self.settle(now);
    }

    /// Tells the machine what time it is. Calling it early or twice does nothing.
    pub fn handle_timeout(&mut self, guesses: &mut Guesses, now: Instant) {
        if let Stage::Held { until, .. } = self.stage
            && until <= now
            && let Stage::Held { room, text, .. } = std::mem::replace(&mut self.stage, Stage::Idle)
        {
            self.judge(room, text, guesses, now);
        }
        if let Some(server) = &mut self.server {
            server.handle_timeout(now);
        }
        if let Some(partner) = self.partner.as_mut().filter(|p| p.is_inside) {
            partner.adapter.handle_timeout(now);
        }
        let enter_at = self.partner.as_ref().and_then(|p| p.enter_at);
        if enter_at.is_some_and(|at| at <= now) {
            self.enter_room(now);
        }
        let retry_at = self.partner.as_ref().and_then(|p| p.retry_at);
        if retry_at.is_some_and(|at| at <= now) {
            self.meet_again(now);
        }
        self.settle(now);
    }

    /// Returns when [`Self::handle_timeout`] next has work, or `None` while nothing is pending.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let held = match self.stage {
            Stage::Held { until, .. } => Some(until),
            Stage::Idle | Stage::Asking { .. } => None,
        };
        let partner = self.partner.as_ref();
        let inside = partner.filter(|p| p.is_inside);
        [
            held,
            self.server.as_ref().and_then(RoomServer::poll_timeout),
            inside.and_then(|p| p.adapter.poll_timeout()),
            partner.and_then(|p| p.retry_at),
            partner.and_then(|p| p.enter_at),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Returns the next thing to do, or `None` once everything so far is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Where several dialects share an endpoint, the page's first words tell which it speaks.
    fn tell_dialect(&mut self, text: &str) {
        if self.dialect.is_some() {
            return;
        }
        let told = match &self.server {
            Some(RoomServer::SocketIo(server)) => server.dialect_of(text),
            _ => dialect_of(text),
        };
        let Some(dialect) = told.filter(|told| self.dialects.contains(told)) else {
            return;
        };
        self.dialect = Some(dialect);
        match &mut self.server {
            Some(RoomServer::SocketIo(server)) => server.decide(dialect),
            server => *server = RoomServer::new(dialect, self.tutorials.events.clone()),
        }
    }

    /// A bus has no rooms: the device is the one of the first room.
    fn ask_broadcast(&mut self, text: Option<String>, now: Instant) {
        if let Some(room) = self.tutorials.rooms.first() {
            let room = room.expose().to_owned();
            self.ask(room, text, now);
        }
    }

    fn judge(&mut self, room: String, text: String, guesses: &mut Guesses, now: Instant) {
        // All are looked at, so that the time tells nothing.
        let matching = self.tutorials.rooms.iter().filter(|r| r.matches(&room));
        if matching.count() > 0 {
            guesses.right_key(self.guesser);
            self.ask(room, Some(text), now);
        } else {
            let in_a_row = guesses.wrong_key(self.guesser, now);
            if in_a_row.is_power_of_two() {
                let network = self.guesser.network;
                warn!(%network, in_a_row, "a page asked for a room that is not there");
            }
            self.pass(Some(&text), now);
        }
    }

    fn ask(&mut self, room: String, text: Option<String>, now: Instant) {
        let Some(dialect) = self.dialect else {
            return;
        };
        let join = Join {
            room: room.clone(),
            events: self.tutorials.events.clone(),
            ..Join::default()
        };
        self.exit();
        if self.partner.is_some() {
            self.outputs.push_back(Output::Leave);
        }
        self.partner = Some(Partner {
            room,
            adapter: Adapter::new(dialect, join),
            is_inside: false,
            viewer: None,
            present: None,
            instance: None,
            is_connected: false,
            came_back: false,
            is_member: false,
            retry_at: None,
            enter_at: None,
            unsaid: Vec::new(),
        });
        self.stage = Stage::Asking { text };
        self.enter_room(now);
    }

    /// Our viewer enters its room, or will once it may.
    fn enter_room(&mut self, now: Instant) {
        let earliest = self.entered_at.map_or(now, |at| at + ENTRY_INTERVAL);
        let Some(partner) = &mut self.partner else {
            return;
        };
        partner.is_member = false;
        if earliest > now {
            partner.enter_at = Some(earliest);
            return;
        }
        partner.enter_at = None;
        self.entered_at = Some(now);
        let room = partner.room.clone();
        self.outputs.push_back(Output::Enter { room });
        let unsaid = partner.unsaid.drain(..).map(Output::ToRoom);
        self.outputs.extend(unsaid);
    }

    /// The page's wish need not wait any longer.
    fn granted(&mut self, now: Instant) {
        if let Stage::Asking { .. } = self.stage
            && let Stage::Asking { text } = std::mem::replace(&mut self.stage, Stage::Idle)
        {
            self.pass(text.as_deref(), now);
        }
    }

    fn pass(&mut self, text: Option<&str>, now: Instant) {
        self.open(now);
        if let (Some(server), Some(text)) = (&mut self.server, text) {
            server.handle_text(PAGE, text, now);
        }
        self.settle(now);
    }

    fn open(&mut self, now: Instant) {
        if let Some(server) = self.server.as_mut().filter(|_| !self.is_open) {
            self.is_open = true;
            server.handle_opened(PAGE, &self.opening, now);
        }
    }

    /// The device is there, as the process `instance`, or is not.
    ///
    /// Its leaving alone changes nothing: the page may go on seeing it. A process that comes back, and
    /// that the page does not see, enters the page's world anew: it knows nothing of what was said. Whether
    /// the page sees it is what the process says first; it could not while it was away.
    fn handle_presence(&mut self, instance: Option<&str>, now: Instant) {
        let Some(partner) = &mut self.partner else {
            return;
        };
        let instance = instance.map(str::to_owned);
        if partner.present == instance {
            return;
        }
        partner.present.clone_from(&instance);
        if instance.is_none() {
            return;
        }
        if partner.instance == instance && partner.is_connected {
            partner.came_back = true;
            return;
        }
        partner.instance = instance;
        // What ran ended with the process before, which had no time to say so.
        self.part(now);
        self.enter(now);
    }

    /// What ran is over; the virtual device leaves the page's world, as far as the dialect has a word for it.
    fn part(&mut self, now: Instant) {
        let Some(partner) = &mut self.partner else {
            return;
        };
        partner.is_connected = false;
        partner.came_back = false;
        if let Some(viewer) = partner.viewer.clone() {
            let ended = RoomMessage::Ended { viewer };
            partner.adapter.handle_message(&ended, now);
        }
        if partner.is_inside {
            // What it would try next, it does once it is back.
            while partner.adapter.poll_output().is_some() {}
            partner.adapter.handle_leave();
            self.settle(now);
        }
        self.exit();
    }

    /// There was no place: the virtual device parts from the page for a while.
    fn retry(&mut self, now: Instant) {
        self.part(now);
        if let Some(partner) = &mut self.partner {
            partner.retry_at = Some(now + RETRY_AFTER);
            if !partner.is_member {
                partner.present = None;
            }
        }
    }

    fn meet_again(&mut self, now: Instant) {
        let Some(partner) = &mut self.partner else {
            return;
        };
        partner.retry_at = None;
        if !partner.is_member {
            self.enter_room(now);
        } else if partner.present.is_some() {
            self.enter(now);
        }
    }

    fn enter(&mut self, now: Instant) {
        self.entries += 1;
        let opening = Opening::websocket(format!("device-{}", self.entries));
        if let (Some(server), Some(partner)) = (&mut self.server, &mut self.partner) {
            partner.is_inside = true;
            partner.retry_at = None;
            server.handle_opened(DEVICE, &opening, now);
            partner.adapter.handle_connected(now);
        }
        self.settle(now);
    }

    /// The virtual device's connection ends.
    fn exit(&mut self) {
        if let (Some(server), Some(partner)) = (&mut self.server, &mut self.partner)
            && std::mem::take(&mut partner.is_inside)
        {
            server.handle_closed(DEVICE);
            partner.adapter.handle_closed();
            // What it still wanted to say is of the past.
            while partner.adapter.poll_output().is_some() {}
        }
    }

    /// Moves texts between the members until nobody has anything to say.
    fn settle(&mut self, now: Instant) {
        while self.settle_one(now) {}
    }

    fn settle_one(&mut self, now: Instant) -> bool {
        let Some(server) = &mut self.server else {
            return false;
        };
        let partner = self.partner.as_mut().filter(|p| p.is_inside);
        if let Some(output) = server.poll_output() {
            match (output, partner) {
                (super::Output::Send { to: PAGE, text }, _) => {
                    self.outputs.push_back(Output::ToPage(text));
                }
                (super::Output::Send { text, .. }, Some(partner)) => {
                    partner.adapter.handle_text(&text, now);
                }
                (super::Output::Close { member: PAGE }, _) => {
                    self.outputs.push_back(Output::ClosePage);
                }
                _ => {}
            }
            return true;
        }
        match partner.and_then(|p| p.adapter.poll_output()) {
            Some(dialect::Output::Send(text)) => server.handle_text(DEVICE, &text, now),
            Some(dialect::Output::Event(event)) => self.handle_event(event, now),
            Some(dialect::Output::Rejoin | dialect::Output::Lost { .. }) => {
                self.exit();
                self.enter(now);
            }
            Some(dialect::Output::Refused { code, .. }) => {
                debug!(code, "the virtual device was refused");
                self.exit();
            }
            Some(dialect::Output::Joined { .. } | dialect::Output::Complaint(_)) => {}
            None => return false,
        }
        true
    }

    /// What the virtual device heard of the page is what our viewer says.
    fn handle_event(&mut self, event: RoomEvent, now: Instant) {
        let Some(partner) = &mut self.partner else {
            return;
        };
        let (viewer, text) = match event {
            RoomEvent::Call { is_present, .. } if !is_present && !self.is_open => return,
            RoomEvent::Call { viewer, .. } => (viewer, json!({"type": "call"})),
            RoomEvent::Offer { viewer, sdp } => {
                let offer = json!({"type": "offer", "sdp": sdp});
                (viewer, json!({"type": "offer", "offer": offer}))
            }
            RoomEvent::Answer { viewer, sdp } => {
                let answer = json!({"type": "answer", "sdp": sdp});
                (viewer, json!({"type": "answer", "answer": answer}))
            }
            RoomEvent::Candidate { viewer, candidate } => {
                (viewer, json!({"type": "candidate", "candidate": candidate}))
            }
            RoomEvent::ViewerLeft { viewer, .. } => {
                if partner.viewer.as_ref() == Some(&viewer) {
                    partner.viewer = None;
                    partner.is_connected = false;
                    partner.came_back = false;
                    partner.unsaid.clear();
                    if partner.enter_at.is_none() {
                        let bye = json!({"type": "bye"}).to_string();
                        self.outputs.push_back(Output::ToRoom(bye));
                        self.outputs.push_back(Output::Leave);
                    }
                    self.enter_room(now);
                }
                return;
            }
            RoomEvent::Joined { .. }
            | RoomEvent::Disconnected
            | RoomEvent::IceServers(_)
            | RoomEvent::ViewerJoined(_)
            | RoomEvent::StillThere(_) => {
                return;
            }
        };
        partner.viewer = Some(viewer);
        let text = text.to_string();
        if partner.enter_at.is_some() {
            partner.unsaid.push(text);
        } else {
            self.outputs.push_back(Output::ToRoom(text));
        }
    }
}

impl Second {
    fn allows(&mut self, text: &str, now: Instant) -> bool {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self {
                since: now,
                messages: 0,
                bytes: 0,
            };
        }
        self.messages += 1;
        self.bytes += text.len();
        self.messages <= MAX_MESSAGES_PER_SECOND && self.bytes <= MAX_VIEWER_BYTES_PER_SECOND
    }
}

/// Returns what the device says to our viewer, in the adapter's words.
fn device_says(kind: &str, message: &Value, viewer: ViewerId) -> Option<RoomMessage> {
    let sdp = |field: &str| {
        let sdp = message.get(field)?.get("sdp")?.as_str()?;
        Some(sdp.to_owned())
    };
    Some(match kind {
        "offer" => RoomMessage::Offer {
            viewer,
            sdp: sdp("offer")?,
        },
        "answer" => RoomMessage::Answer {
            viewer,
            sdp: sdp("answer")?,
        },
        "candidate" => {
            let candidate: Option<CandidateInit> =
                serde_json::from_value(message.get("candidate")?.clone()).ok()?;
            let candidate = candidate?;
            RoomMessage::Candidate { viewer, candidate }
        }
        "connected" => RoomMessage::Connected { viewer },
        "ended" => RoomMessage::Ended { viewer },
        _ => return None,
    })
}

/// Returns what a page speaks that says this over a plain WebSocket.
fn dialect_of(text: &str) -> Option<Dialect> {
    let message: Value = serde_json::from_str(text).ok()?;
    match message.get("type").and_then(Value::as_str) {
        Some("join") => Some(Dialect::WsRooms),
        Some(_) => None,
        None => {
            let broadcasts = message.get("sdp").or(message.get("candidate"));
            broadcasts.map(|_| Dialect::WsBroadcast)
        }
    }
}

#[cfg(test)]
mod tests;
