//! Engine.IO for tutorial pages whose Socket.IO begins without a WebSocket: HTTP requests that wait, and
//! going over to a WebSocket (protocol versions 3 and 4).
//!
//! What is said is `pairing/`'s; here is how it travels. Left out: JSONP, binary bodies.
//!
//! ```text
//! GET without sid ─▶ polling ── WebSocket: 2probe ▶ 3probe ──▶ changing ── 5 ──▶ upgraded
//!                    GET waits for texts               GETs are answered 6
//!                    POST brings texts
//! ```

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::ws::{Message, WebSocket};
use axum::http::header;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tracing::debug;

use super::clients::{Guest, Voice, private_guest};
use super::pages::Pages;
use super::pairing::private::Endpoint;
use super::pairing::{EngineIo, Opening, payload};
use super::places::{Carried, Places, Ticket};
use super::websocket::serve_guest;
use crate::signaling::MAX_MESSAGE_BYTES;

/// How long a request's body, or a step of going over to a WebSocket, may take.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// How much text goes into one response, unless the first is longer.
const MAX_RESPONSE_BYTES: usize = MAX_MESSAGE_BYTES;

/// How many new sessions wait for the server to run them.
pub const MAX_NEW_SESSIONS: usize = 16;

/// What Engine.IO says: nothing, good-bye, is the WebSocket any good, and now use it.
const NOOP: &str = "6";
const CLOSE: &str = "1";
const PROBE: &str = "2probe";
const PROBED: &str = "3probe";
const UPGRADE: &str = "5";

/// All sessions of one server that began without a WebSocket.
#[derive(Clone, Debug)]
pub struct Sessions(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pages: Pages,
    /// Requests come and go; a session keeps a place of its own.
    places: Mutex<Places>,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    tasks: mpsc::Sender<BoxFuture<'static, ()>>,
}

/// One of them.
#[derive(Debug)]
pub struct Session {
    sid: String,
    version: EngineIo,
    voice: Voice,
    /// Held by the request that waits; empty once there is a WebSocket.
    guest: tokio::sync::Mutex<Option<Guest>>,
    inside: Arc<AtomicBool>,
    /// A WebSocket is about to take over.
    is_changing: watch::Sender<bool>,
}

/// A request for `/socket.io/`.
#[derive(Debug)]
pub struct Query {
    version: EngineIo,
    /// Whether a WebSocket is wanted; otherwise it polls.
    pub is_websocket: bool,
    sid: Option<String>,
}

impl Query {
    /// Reads a request's query.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(uri: &Uri) -> Result<Self, Refusal> {
        let mut version = None;
        let mut transport = None;
        let mut sid = None;
        for (name, value) in url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes())
        {
            match name.as_ref() {
                "EIO" => version = Some(value),
                "transport" => transport = Some(value),
                "sid" => sid = Some(value.into_owned()),
                "j" => return Err(Refusal::BadRequest),
                _ => {}
            }
        }
        let version = match version.as_deref() {
            Some("4") => EngineIo::V4,
            Some("3") => EngineIo::V3,
            _ => return Err(Refusal::UnknownVersion),
        };
        let is_websocket = match transport.as_deref() {
            Some("polling") => false,
            Some("websocket") => true,
            _ => return Err(Refusal::UnknownTransport),
        };
        Ok(Self {
            version,
            is_websocket,
            sid,
        })
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Refusal {
    /// Neither polling nor a WebSocket.
    UnknownTransport,
    /// A session that is over, or never was.
    UnknownSession,
    /// Not a method of this protocol.
    BadMethod,
    /// Not as the protocol has it, or not now.
    BadRequest,
    /// Neither of the versions that are spoken.
    UnknownVersion,
    /// There are too many.
    Unavailable,
}

/// What a WebSocket at `/socket.io/` is.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// A connection of its own.
    Begin(Opening),
    /// The continuation of this session.
    Continue(Arc<Session>),
}

impl Sessions {
    /// Creates the sessions of a server that runs what it gets by `tasks`.
    #[must_use]
    pub fn new(pages: Pages, tasks: mpsc::Sender<BoxFuture<'static, ()>>) -> Self {
        Self(Arc::new(Inner {
            pages,
            places: Mutex::default(),
            sessions: Mutex::default(),
            tasks,
        }))
    }

    /// Returns what to do with a WebSocket.
    ///
    /// # Errors
    ///
    /// Why the request cannot become one.
    pub fn purpose(&self, query: Query) -> Result<Purpose, Refusal> {
        match query.sid {
            Some(sid) => match self.find(&sid) {
                Some(session) if !*session.is_changing.borrow() => Ok(Purpose::Continue(session)),
                Some(_) => Err(Refusal::BadRequest),
                None => Err(Refusal::UnknownSession),
            },
            None => Ok(Purpose::Begin(opening(query.version, false)?)),
        }
    }

    /// Answers a request that polls, from `address`, on a connection that `carries` it.
    pub async fn poll(
        &self,
        query: Query,
        method: &Method,
        body: Body,
        address: IpAddr,
        carries: Carried,
    ) -> Response {
        let session = match &query.sid {
            Some(sid) => self.find(sid),
            None if *method == Method::GET => match self.begin(query.version, address) {
                Ok(session) => Some(session),
                Err(refusal) => return refusal.into_response(),
            },
            None => return Refusal::BadMethod.into_response(),
        };
        let Some(session) = session else {
            return Refusal::UnknownSession.into_response();
        };
        carries.set(Arc::clone(&session.inside));
        match *method {
            Method::GET => session.tell().await,
            Method::POST => {
                let response = session.hear(body).await;
                if !response.status().is_success() {
                    self.end(&session.sid);
                }
                response
            }
            _ => Refusal::BadMethod.into_response(),
        }
    }

    /// Lets a WebSocket take a session over, and serves it.
    pub async fn change(
        &self,
        session: Arc<Session>,
        mut socket: WebSocket,
        ticket: Ticket,
        shutdown: watch::Receiver<bool>,
    ) {
        ticket.carries().set(Arc::clone(&session.inside));
        let guest = match timeout(STEP_TIMEOUT, session.prepare(&mut socket)).await {
            Ok(Some(guest)) => guest,
            Ok(None) | Err(_) => {
                debug!("a page stays without a WebSocket");
                return;
            }
        };
        serve_guest(socket, guest, ticket, shutdown).await;
        self.end(&session.sid);
    }

    fn begin(&self, version: EngineIo, address: IpAddr) -> Result<Arc<Session>, Refusal> {
        let opening = opening(version, true)?;
        let places = &self.0.places;
        let ticket = places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(address);
        let mut ticket = ticket.ok_or(Refusal::Unavailable)?;
        let (guest, host) = private_guest(ticket.inside()).ok_or(Refusal::Unavailable)?;
        let sid = opening.sid.clone();
        let session = Arc::new(Session {
            sid: sid.clone(),
            version,
            voice: guest.voice(),
            guest: tokio::sync::Mutex::new(Some(guest)),
            inside: ticket.inside(),
            is_changing: watch::Sender::new(false),
        });
        let sessions = self.clone();
        let pages = self.0.pages.clone();
        self.all().insert(sid.clone(), Arc::clone(&session));
        let task = Box::pin(async move {
            tokio::select! {
                () = pages.serve(Endpoint::SocketIo, opening, address, host) => {}
                () = ticket.is_withdrawn() => debug!("had not joined, closed for a newcomer"),
            }
            sessions.end(&sid);
        });
        if self.0.tasks.try_send(task).is_err() {
            // full: refused; it tries again
            self.end(&session.sid);
            return Err(Refusal::Unavailable);
        }
        Ok(session)
    }

    fn find(&self, sid: &str) -> Option<Arc<Session>> {
        self.all().get(sid).cloned()
    }

    fn end(&self, sid: &str) {
        self.all().remove(sid);
    }

    fn all(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Session>>> {
        let sessions = &self.0.sessions;
        sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Waits for texts, and returns them.
    async fn tell(&self) -> Response {
        let mut is_changing = self.is_changing.subscribe();
        let Ok(mut guest) = self.guest.try_lock() else {
            return if *is_changing.borrow() {
                self.body(&[NOOP.to_owned()])
            } else {
                Refusal::BadRequest.into_response() // Another request waits.
            };
        };
        let Some(guest) = guest.as_mut() else {
            return Refusal::BadRequest.into_response(); // It has a WebSocket.
        };
        let first = tokio::select! {
            biased;
            first = guest.hear() => first,
            _ = is_changing.wait_for(|&is_changing| is_changing) => Some(NOOP.to_owned()),
        };
        let Some(first) = first else {
            return self.body(&[CLOSE.to_owned()]);
        };
        let mut bytes = first.len();
        let mut texts = vec![first];
        while bytes < MAX_RESPONSE_BYTES
            && let Some(text) = guest.hear_now()
        {
            bytes += text.len();
            texts.push(text);
        }
        self.body(&texts)
    }

    /// Takes the texts of a body.
    async fn hear(&self, body: Body) -> Response {
        let read = timeout(STEP_TIMEOUT, to_bytes(body, MAX_MESSAGE_BYTES));
        let body = match read.await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE.into_response(),
            Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
        };
        let texts = std::str::from_utf8(&body).ok();
        let Some(texts) = texts.and_then(|body| payload::decode(self.version, body)) else {
            return Refusal::BadRequest.into_response();
        };
        for text in texts {
            if !self.voice.say(text.to_owned()).await {
                return Refusal::UnknownSession.into_response();
            }
        }
        ([(header::CONTENT_TYPE, "text/html")], "ok").into_response()
    }

    /// Makes sure that a WebSocket works, and that no request waits any more.
    async fn prepare(&self, socket: &mut WebSocket) -> Option<Guest> {
        expect(socket, PROBE).await?;
        let mut change = Change::begin(&self.is_changing)?;
        socket.send(Message::Text(PROBED.into())).await.ok()?;
        expect(socket, UPGRADE).await?;
        let guest = self.guest.lock().await.take();
        change.is_done = guest.is_some();
        guest
    }

    fn body(&self, texts: &[String]) -> Response {
        let kind = [(header::CONTENT_TYPE, "text/plain; charset=UTF-8")];
        (kind, payload::encode(self.version, texts)).into_response()
    }
}

/// A session on its way to a WebSocket. Dropped before the end, it polls on.
struct Change<'s> {
    is_changing: &'s watch::Sender<bool>,
    is_done: bool,
}

impl<'s> Change<'s> {
    /// Begins, unless another one has.
    fn begin(is_changing: &'s watch::Sender<bool>) -> Option<Self> {
        let is_done = false;
        (!is_changing.send_replace(true)).then_some(Self {
            is_changing,
            is_done,
        })
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.is_changing.send_replace(false);
        }
    }
}

/// Waits for a text on a WebSocket that nobody else reads yet. `None` if something else comes.
async fn expect(socket: &mut WebSocket, expected: &str) -> Option<()> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) => return (text.as_str() == expected).then_some(()),
            Message::Ping(_) | Message::Pong(_) => {}
            Message::Binary(_) | Message::Close(_) => return None,
        }
    }
}

fn opening(version: EngineIo, may_upgrade: bool) -> Result<Opening, Refusal> {
    let mut sid = [0; 16];
    getrandom::fill(&mut sid).map_err(|_| Refusal::Unavailable)?;
    Ok(Opening {
        sid: format!("{:032x}", u128::from_ne_bytes(sid)),
        version,
        may_upgrade,
    })
}

impl IntoResponse for Refusal {
    /// Says it as the clients of Engine.IO expect it.
    fn into_response(self) -> Response {
        let (code, message) = match self {
            Self::UnknownTransport => (0, "Transport unknown"),
            Self::UnknownSession => (1, "Session ID unknown"),
            Self::BadMethod => (2, "Bad handshake method"),
            Self::BadRequest => (3, "Bad request"),
            Self::UnknownVersion => (5, "Unsupported protocol version"),
            Self::Unavailable => return StatusCode::SERVICE_UNAVAILABLE.into_response(),
        };
        let body = format!(r#"{{"code":{code},"message":"{message}"}}"#);
        let kind = [(header::CONTENT_TYPE, "application/json")];
        (StatusCode::BAD_REQUEST, kind, body).into_response()
    }
}
