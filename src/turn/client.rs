//! One allocation on one TURN server (RFC 8656): asked for, kept alive, used, given back.
//!
//! The driver hands in messages, datagrams and time (`handle_*`, [`Client::send`]) and then drains
//! [`Client::poll_output`] until it returns `None`; it sleeps until [`Client::poll_timeout`].
//!
//! ```text
//!              401: signed now        success
//! Allocating ──────────────────▶ … ───────────▶ Allocated ──release──▶ Ended
//!      │ silent, refused                            │ silent, refused, forgotten   ▲
//!      └────────────────────────────────────────────┴──────────────────────────────┘
//! ```
//!
//! A permission is asked for when the first datagram goes to an address; what is sent until it is
//! granted waits, in bounds. A channel is bound once something else than STUN goes there: ICE checks
//! many addresses, media uses one. An allocation keeps the credentials it was made with, as RFC 8656
//! §5 demands; for new ones there is a new allocation.
//!
//! Pure: no sockets, no clock; transaction ids come from a seed.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::credentials::{Credentials, hmac_sha1};
use super::message::{
    Message, TransactionId, Writer, attribute, channel_data, class, is_stun, long_term_key, method,
    read_channel_data,
};

/// How long the first answer may take before a request is repeated; doubles each time. RFC 8489
/// §6.2.1 begins at 500 ms, but a viewer is waiting, and servers are near.
const FIRST_TIMEOUT: Duration = Duration::from_millis(250);

/// How often a request is sent before the server counts as silent: after 7.75 s.
const MAX_ATTEMPTS: u32 = 5;

/// How often a request is repeated with a new nonce or realm.
const MAX_CHALLENGES: u32 = 2;

/// How often the allocation is refreshed. It lasts for ten minutes, but a NAT forgets an idle mapping
/// after 30 s, and a server that was restarted is to be noticed while somebody watches.
const REFRESH_INTERVAL: Duration = Duration::from_secs(20);

/// The shortest interval, whatever lifetime a server grants.
const MIN_REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// How often a permission is renewed that is in use: it lasts for 5 minutes (RFC 8656 §9).
const PERMISSION_INTERVAL: Duration = Duration::from_secs(240);

/// How often a channel is renewed that is in use: it lasts for 10 minutes, and its permission for 5.
const CHANNEL_INTERVAL: Duration = Duration::from_secs(240);

/// How long the server keeps a channel that is not renewed, and keeps its number to itself (RFC 8656
/// §12: 10 minutes, and 5 more).
const CHANNEL_GONE_AFTER: Duration = Duration::from_secs(960);

/// How long an address is left alone that the server does not let us reach.
const DENIED_FOR: Duration = Duration::from_secs(60);

/// Most addresses we may have permissions for: 64 viewers with a few each.
const MAX_PERMISSIONS: usize = 256;

/// Most channels: one for each of 64 viewers, and those of the viewers before them.
const MAX_CHANNELS: usize = 256;

/// Most datagrams that wait for one permission: the checks of one round trip.
const MAX_WAITING: usize = 8;

/// The numbers of channels (RFC 8656 §12).
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x4fff;

/// A UDP allocation (RFC 8656 §18.8).
const REQUESTED_UDP: [u8; 4] = [17, 0, 0, 0];

/// Why an allocation ended, or never came to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Ended {
    /// No answer, or nothing there.
    #[error("does not answer")]
    Silent,
    /// The user or the password is wrong, or expired.
    #[error("refused the credentials ({code})")]
    WrongCredentials {
        /// 401, 403 or 441.
        code: u16,
    },
    /// The user, or the server, has as many allocations as it may.
    #[error("has no room for another relay ({code})")]
    Quota {
        /// 486 or 508.
        code: u16,
    },
    /// It does not know our allocation: it was restarted.
    #[error("forgot our relay (437)")]
    Forgotten,
    /// Anything else.
    #[error("refused with error {code}")]
    Refused {
        /// RFC 8489 §14.8, RFC 8656 §19.
        code: u16,
    },
    /// What it said makes no sense.
    #[error("is no TURN server that lends IPv4 addresses")]
    Nonsense,
}

/// Something the driver must do, in the order given.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Output {
    /// Send this message to the server.
    Send(Vec<u8>),
    /// The address is ours from now on.
    Allocated(SocketAddr),
    /// It is over. Nothing more will come.
    Ended(Ended),
}

/// Our dealings with one TURN server.
#[derive(Debug)]
pub struct Client {
    credentials: Credentials,
    /// Whether messages travel on a stream: nothing is lost, and everything is padded.
    is_stream: bool,
    seed: [u8; 16],
    count: u64,
    state: State,
    challenge: Option<Challenge>,
    transactions: Vec<Transaction>,
    refresh_at: Option<Instant>,
    permissions: HashMap<IpAddr, Permission>,
    channels: HashMap<SocketAddr, Channel>,
    next_channel: u16,
    last_sent: Option<Instant>,
    outputs: VecDeque<Output>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Allocating,
    Allocated(SocketAddr),
    Ended,
}

/// How the server wants requests to be signed.
struct Challenge {
    realm: Vec<u8>,
    nonce: Vec<u8>,
    /// As good as the password.
    key: [u8; 16],
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Request {
    Allocate,
    Refresh,
    Permit(IpAddr),
    Bind(SocketAddr, u16),
}

#[derive(Debug)]
struct Transaction {
    id: TransactionId,
    request: Request,
    message: Vec<u8>,
    attempts: u32,
    challenges: u32,
    due: Instant,
}

#[derive(Debug)]
struct Permission {
    standing: Standing,
    /// When it was asked for first.
    since: Instant,
    /// When it is renewed, or forgotten.
    due: Option<Instant>,
    used: bool,
    /// Whether more than STUN went there.
    has_media: bool,
}

#[derive(Debug)]
enum Standing {
    Asked(VecDeque<(SocketAddr, Vec<u8>)>),
    Granted,
    Denied,
}

#[derive(Debug)]
struct Channel {
    number: u16,
    is_bound: bool,
    /// When it was bound last, or asked for.
    since: Instant,
    due: Option<Instant>,
    used: bool,
}

impl Client {
    /// Asks for an allocation. `seed` is random.
    #[must_use]
    pub fn new(credentials: Credentials, is_stream: bool, seed: [u8; 16], now: Instant) -> Self {
        let mut client = Self {
            credentials,
            is_stream,
            seed,
            count: 0,
            state: State::Allocating,
            challenge: None,
            transactions: Vec::new(),
            refresh_at: None,
            permissions: HashMap::new(),
            channels: HashMap::new(),
            next_channel: *CHANNELS.start(),
            last_sent: None,
            outputs: VecDeque::new(),
        };
        client.request(Request::Allocate, 0, now);
        client
    }

    /// Returns the address that is lent to us.
    #[must_use]
    pub const fn relayed(&self) -> Option<SocketAddr> {
        match self.state {
            State::Allocated(address) => Some(address),
            State::Allocating | State::Ended => None,
        }
    }

    /// Returns when a datagram was last sent through the relay that was no STUN.
    #[must_use]
    pub const fn last_sent(&self) -> Option<Instant> {
        self.last_sent
    }

    /// Sends a datagram to `peer` from the lent address. Lost where the server does not allow it.
    pub fn send(&mut self, peer: SocketAddr, datagram: &[u8], now: Instant) {
        let State::Allocated(relayed) = self.state else {
            return;
        };
        if relayed.is_ipv4() != peer.is_ipv4() {
            return;
        }
        let is_media = !is_stun(datagram);
        if is_media {
            self.last_sent = Some(now);
        }
        // full: lost; unused permissions make room within minutes
        if !self.permissions.contains_key(&peer.ip()) && !self.make_room() {
            return;
        }
        match self.permissions.get_mut(&peer.ip()) {
            Some(permission) => {
                permission.used = true;
                permission.has_media |= is_media;
                match &mut permission.standing {
                    Standing::Granted => self.send_permitted(peer, datagram, now),
                    Standing::Asked(waiting) => {
                        // full: oldest lost; checks are repeated
                        if waiting.len() >= MAX_WAITING {
                            waiting.pop_front();
                        }
                        waiting.push_back((peer, datagram.to_vec()));
                    }
                    Standing::Denied => {}
                }
            }
            None => {
                let permission = Permission {
                    standing: Standing::Asked(VecDeque::from([(peer, datagram.to_vec())])),
                    since: now,
                    due: None,
                    used: true,
                    has_media: is_media,
                };
                self.permissions.insert(peer.ip(), permission);
                self.request(Request::Permit(peer.ip()), 0, now);
            }
        }
    }

    /// Takes a message of the server. Returns a viewer's datagram, and where it came from, if it
    /// holds one.
    pub fn handle_message<'a>(
        &mut self,
        message: &'a [u8],
        now: Instant,
    ) -> Option<(SocketAddr, &'a [u8])> {
        if let Some((number, datagram)) = read_channel_data(message) {
            let mut channels = self.channels.iter_mut();
            let (peer, channel) = channels.find(|(_, channel)| channel.number == number)?;
            channel.used = true;
            return Some((*peer, datagram));
        }
        let message = Message::read(message)?;
        if message.kind == method::DATA | class::INDICATION {
            self.relayed()?;
            let peer = message.address(attribute::XOR_PEER_ADDRESS)?;
            return Some((peer, message.attribute(attribute::DATA)?));
        }
        let at = self
            .transactions
            .iter()
            .position(|t| t.id == message.transaction)?;
        let request = self.transactions.get(at)?.request;
        if message.kind == request.method() | class::SUCCESS {
            let is_genuine = self
                .challenge
                .as_ref()
                .is_none_or(|challenge| message.is_signed_with(&challenge.key));
            if is_genuine {
                self.transactions.swap_remove(at);
                self.handle_success(request, &message, now);
            }
        } else if message.kind == request.method() | class::ERROR {
            let transaction = self.transactions.swap_remove(at);
            self.handle_error(&transaction, &message, now);
        }
        None
    }

    /// Takes note that the network says there is nobody at the server's address, or that the stream to
    /// it ended.
    pub fn handle_unreachable(&mut self, now: Instant) {
        let pending = self.transactions.iter().map(|t| (t.request, t.attempts));
        let refreshing = pending.clone().find(|(r, _)| *r == Request::Refresh);
        match (self.state, refreshing) {
            (State::Ended, _) => {}
            (State::Allocated(_), None) if !self.is_stream => {
                self.request(Request::Refresh, 0, now);
            }
            // It was asked twice and is not there: an answer on its way would have come.
            (State::Allocated(_), Some((_, attempts))) if attempts < 2 && !self.is_stream => {}
            _ => self.end(Ended::Silent),
        }
    }

    /// Tells the machine what time it is. Calling it early or twice does nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.repeat_requests(now);
        if self.relayed().is_none() {
            return;
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = None;
            self.request(Request::Refresh, 0, now);
        }
        let mut renew = Vec::new();
        self.permissions.retain(|&ip, permission| {
            if permission.due.is_none_or(|due| due > now) {
                return true;
            }
            permission.due = None;
            let is_kept = permission.used && matches!(permission.standing, Standing::Granted);
            if is_kept {
                permission.used = false;
                renew.push(Request::Permit(ip));
            }
            is_kept
        });
        self.channels.retain(|&peer, channel| {
            if channel.due.is_some_and(|due| due <= now) {
                channel.due = None;
                if std::mem::take(&mut channel.used) {
                    renew.push(Request::Bind(peer, channel.number));
                } else {
                    // Its number must rest; a datagram that comes meanwhile is still understood.
                    channel.is_bound = false;
                    channel.due = Some(channel.since + CHANNEL_GONE_AFTER);
                }
            }
            now < channel.since + CHANNEL_GONE_AFTER
        });
        for request in renew {
            self.request(request, 0, now);
        }
    }

    /// Returns when [`Self::handle_timeout`] next has work.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let transactions = self.transactions.iter().map(|t| t.due);
        let permissions = self.permissions.values().filter_map(|p| p.due);
        let channels = self.channels.values().filter_map(|c| c.due);
        transactions
            .chain(permissions)
            .chain(channels)
            .chain(self.refresh_at)
            .min()
    }

    /// Returns the next thing to do, or `None` once everything so far is done.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Gives the allocation back. Whether the server hears of it does not matter: it forgets by itself.
    pub fn release(&mut self) {
        if self.relayed().is_some() {
            let id = self.next_id();
            let message = Writer::new(method::REFRESH | class::REQUEST, id)
                .with(attribute::LIFETIME, &0_u32.to_be_bytes());
            let message = self.authenticated(message);
            self.outputs.push_back(Output::Send(message));
        }
        self.forget();
    }

    /// Returns whether there is room for another permission. The oldest makes it that was for checks
    /// alone: a viewer may have any number of addresses, and others are to be served as well.
    fn make_room(&mut self) -> bool {
        if self.permissions.len() < MAX_PERMISSIONS {
            return true;
        }
        let checked = self.permissions.iter().filter(|(_, p)| !p.has_media);
        let Some((&oldest, _)) = checked.min_by_key(|(_, p)| p.since) else {
            return false;
        };
        self.permissions.remove(&oldest);
        self.transactions
            .retain(|transaction| transaction.request != Request::Permit(oldest));
        true
    }

    fn send_permitted(&mut self, peer: SocketAddr, datagram: &[u8], now: Instant) {
        let channel = self.channels.get_mut(&peer);
        if let Some(channel) = channel {
            channel.used = true;
            if channel.is_bound {
                let message = channel_data(channel.number, datagram, self.is_stream);
                self.outputs.push_back(Output::Send(message));
                return;
            }
        } else if !is_stun(datagram) {
            self.bind(peer, now);
        }
        let message = Writer::new(method::SEND | class::INDICATION, self.next_id())
            .with_address(attribute::XOR_PEER_ADDRESS, peer)
            .with(attribute::DATA, datagram)
            .unsigned();
        self.outputs.push_back(Output::Send(message));
    }

    fn bind(&mut self, peer: SocketAddr, now: Instant) {
        let number = self.next_channel;
        let is_free = self.channels.values().all(|c| c.number != number);
        // full: goes without a channel, at the price of 32 bytes more for each datagram
        if self.channels.len() >= MAX_CHANNELS || !is_free {
            return;
        }
        self.next_channel = match number {
            last if last == *CHANNELS.end() => *CHANNELS.start(),
            number => number + 1,
        };
        let channel = Channel {
            number,
            is_bound: false,
            since: now,
            due: None,
            used: true,
        };
        self.channels.insert(peer, channel);
        self.request(Request::Bind(peer, number), 0, now);
    }

    fn handle_success(&mut self, request: Request, message: &Message<'_>, now: Instant) {
        match request {
            Request::Allocate => match message.address(attribute::XOR_RELAYED_ADDRESS) {
                Some(relayed) if relayed.is_ipv4() && relayed.port() != 0 => {
                    self.state = State::Allocated(relayed);
                    self.outputs.push_back(Output::Allocated(relayed));
                    self.schedule_refresh(message, now);
                }
                _ => self.end(Ended::Nonsense),
            },
            Request::Refresh => self.schedule_refresh(message, now),
            Request::Permit(ip) => {
                let Some(permission) = self.permissions.get_mut(&ip) else {
                    return;
                };
                permission.due = Some(now + PERMISSION_INTERVAL);
                let before = std::mem::replace(&mut permission.standing, Standing::Granted);
                if let Standing::Asked(waiting) = before {
                    for (peer, datagram) in waiting {
                        self.send_permitted(peer, &datagram, now);
                    }
                }
            }
            Request::Bind(peer, _) => {
                if let Some(channel) = self.channels.get_mut(&peer) {
                    channel.is_bound = true;
                    channel.since = now;
                    channel.due = Some(now + CHANNEL_INTERVAL);
                }
            }
        }
    }

    fn schedule_refresh(&mut self, message: &Message<'_>, now: Instant) {
        let lifetime = message.number(attribute::LIFETIME).unwrap_or(600);
        let lifetime = Duration::from_secs(lifetime.into());
        let interval = (lifetime / 2).clamp(MIN_REFRESH_INTERVAL, REFRESH_INTERVAL);
        self.refresh_at = Some(now + interval);
    }

    fn handle_error(&mut self, transaction: &Transaction, message: &Message<'_>, now: Instant) {
        let request = transaction.request;
        let code = message.error_code().unwrap_or_default();
        // 401: sign it; also the answer of a server that was restarted. 438: the nonce is too old.
        if matches!(code, 401 | 438) && transaction.challenges < MAX_CHALLENGES {
            // The challenge that was answered already means that our answer to it is wrong.
            if self.accept_challenge(message) && !transaction.answers_challenge_of(message) {
                self.request(request, transaction.challenges + 1, now);
                return;
            }
        }
        match (request, code) {
            (Request::Allocate | Request::Refresh, code) => self.end(match code {
                401 | 403 | 438 | 441 => Ended::WrongCredentials { code },
                437 => Ended::Forgotten,
                486 | 508 => Ended::Quota { code },
                code => Ended::Refused { code },
            }),
            (_, 437) => self.end(Ended::Forgotten),
            (Request::Permit(ip), _) => self.deny(ip, now),
            (Request::Bind(peer, _), _) => self.rest(peer, now),
        }
    }

    /// Returns whether there is one in it.
    fn accept_challenge(&mut self, message: &Message<'_>) -> bool {
        let Some(nonce) = message.attribute(attribute::NONCE) else {
            return false;
        };
        let known = self.challenge.as_ref();
        let realm = message
            .attribute(attribute::REALM)
            .or_else(|| known.map(|challenge| challenge.realm.as_slice()))
            .unwrap_or_default()
            .to_vec();
        self.challenge = Some(Challenge {
            nonce: nonce.to_vec(),
            key: long_term_key(&self.credentials, &realm),
            realm,
        });
        true
    }

    fn repeat_requests(&mut self, now: Instant) {
        let (due, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.transactions)
            .into_iter()
            .partition(|t| t.due <= now);
        self.transactions = waiting;
        for mut transaction in due {
            if transaction.attempts < MAX_ATTEMPTS {
                if !self.is_stream {
                    let message = transaction.message.clone();
                    self.outputs.push_back(Output::Send(message));
                }
                transaction.due = now + FIRST_TIMEOUT * (1 << transaction.attempts);
                transaction.attempts += 1;
                self.transactions.push(transaction);
                continue;
            }
            match transaction.request {
                Request::Allocate | Request::Refresh => return self.end(Ended::Silent),
                Request::Permit(ip) => self.deny(ip, now),
                Request::Bind(peer, _) => self.rest(peer, now),
            }
        }
    }

    fn deny(&mut self, ip: IpAddr, now: Instant) {
        if let Some(permission) = self.permissions.get_mut(&ip) {
            permission.standing = Standing::Denied;
            permission.due = Some(now + DENIED_FOR);
        }
    }

    /// The channel is of no use; its number is left alone.
    fn rest(&mut self, peer: SocketAddr, now: Instant) {
        if let Some(channel) = self.channels.get_mut(&peer) {
            channel.is_bound = false;
            channel.due = Some(channel.since.max(now) + CHANNEL_GONE_AFTER);
        }
    }

    fn request(&mut self, request: Request, challenges: u32, now: Instant) {
        let id = self.next_id();
        let message = Writer::new(request.method() | class::REQUEST, id);
        let message = match request {
            Request::Allocate => message.with(attribute::REQUESTED_TRANSPORT, &REQUESTED_UDP),
            Request::Refresh => message,
            Request::Permit(ip) => {
                message.with_address(attribute::XOR_PEER_ADDRESS, SocketAddr::new(ip, 0))
            }
            Request::Bind(peer, number) => {
                let [n0, n1] = number.to_be_bytes();
                message
                    .with(attribute::CHANNEL_NUMBER, &[n0, n1, 0, 0])
                    .with_address(attribute::XOR_PEER_ADDRESS, peer)
            }
        };
        let message = self.authenticated(message);
        self.outputs.push_back(Output::Send(message.clone()));
        self.transactions.push(Transaction {
            id,
            request,
            message,
            attempts: 1,
            challenges,
            due: now + FIRST_TIMEOUT,
        });
    }

    fn authenticated(&self, message: Writer) -> Vec<u8> {
        match &self.challenge {
            Some(challenge) => message
                .with(attribute::USERNAME, self.credentials.username.as_bytes())
                .with(attribute::REALM, &challenge.realm)
                .with(attribute::NONCE, &challenge.nonce)
                .signed(&challenge.key),
            None => message.unsigned(),
        }
    }

    fn next_id(&mut self) -> TransactionId {
        self.count += 1;
        let mut id = TransactionId::default();
        let random = hmac_sha1(&self.seed, &self.count.to_be_bytes());
        for (byte, random) in id.iter_mut().zip(random) {
            *byte = random;
        }
        id
    }

    fn end(&mut self, ended: Ended) {
        self.forget();
        self.outputs.push_back(Output::Ended(ended));
    }

    fn forget(&mut self) {
        self.state = State::Ended;
        self.refresh_at = None;
        self.transactions.clear();
        self.permissions.clear();
        self.channels.clear();
    }
}

impl Transaction {
    /// Returns whether it was signed for the challenge in `message`. Requests that are under way at once
    /// are all challenged when the nonce changes.
    fn answers_challenge_of(&self, message: &Message<'_>) -> bool {
        let Some(request) = Message::read(&self.message) else {
            return false;
        };
        let is_same = |kind| request.attribute(kind) == message.attribute(kind);
        let is_same_realm =
            message.attribute(attribute::REALM).is_none() || is_same(attribute::REALM);
        is_same(attribute::NONCE) && is_same_realm
    }
}

impl Request {
    const fn method(self) -> u16 {
        match self {
            Self::Allocate => method::ALLOCATE,
            Self::Refresh => method::REFRESH,
            Self::Permit(_) => method::CREATE_PERMISSION,
            Self::Bind(..) => method::CHANNEL_BIND,
        }
    }
}

#[cfg(test)]
mod tests;
