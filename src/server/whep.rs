//! WHEP over HTTP (draft-ietf-wish-whep; `docs/whep.md` is the contract): players that are no page of ours
//! watch by POST, PATCH and DELETE.
//!
//! A session is a viewer in the rooms like any other, for whom `whep/session.rs` speaks. It outlives the
//! HTTP connections of its player, and ends with its media. Not offered: a counter-offer of ours where an
//! offer cannot be answered.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Extension, Path, Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Router, body};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::clients::{Entrance, Guest};
use super::guard::Guard;
use super::http::{Carrier, host};
use crate::clock;
use crate::config::is_room_name;
use crate::signaling::IceServer;
use crate::viewer::offer::{self, OfferError};
use crate::watch::protocol::{FromRoom, ToRoom};

mod attend;
pub mod headers;
pub mod sdpfrag;
pub mod session;

use attend::{Attendance, Sessions, Wish, Wishes};
use headers::{IfMatch, is_media_type, links};
use sdpfrag::{FragmentError, MAX_FRAGMENT_BYTES};
use session::{ANSWER_TIMEOUT, Patched, Problem, Session, offer_text};

const SDP: &str = "application/sdp";
const SDPFRAG: &str = "application/trickle-ice-sdpfrag";
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
const ACCEPT_PATCH: HeaderName = HeaderName::from_static("accept-patch");

/// What a page of another origin may send and see.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PATCH, DELETE, OPTIONS");
const SENT: HeaderValue = HeaderValue::from_static("Authorization, Content-Type, If-Match");
const EXPOSED: HeaderValue =
    HeaderValue::from_static("Location, ETag, Link, Accept-Post, Accept-Patch, Retry-After");

/// For how many seconds a browser need not ask again.
const PREFLIGHT_LASTS_S: HeaderValue = HeaderValue::from_static("600");

/// After how many seconds a player may try again: a device that starts is there in that time.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("5");

/// How many new sessions may wait to be taken in; then their connections wait.
const MAX_QUEUED_SESSIONS: usize = 16;

/// How long joining may take: whoever shares an address with a guesser of keys waits for 3 seconds.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What requests share.
#[derive(Clone, Debug)]
pub struct Whep {
    guard: Arc<Guard>,
    entrance: Entrance,
    sessions: Arc<Sessions>,
    begun: mpsc::Sender<Attendance>,
}

/// Sessions that have just begun, for [`run_sessions`].
#[derive(Debug)]
pub struct Begun(mpsc::Receiver<Attendance>);

/// Owns all sessions until it is dropped; their media goes on without them.
pub async fn run_sessions(Begun(begun): Begun) {
    attend::run_sessions(begun).await;
}

/// Makes what requests share, and what [`run_sessions`] reads of them.
#[must_use]
pub fn whep(guard: Arc<Guard>, entrance: Entrance) -> (Whep, Begun) {
    let (begun, queue) = mpsc::channel(MAX_QUEUED_SESSIONS);
    let whep = Whep {
        guard,
        entrance,
        sessions: Arc::default(),
        begun,
    };
    (whep, Begun(queue))
}

impl Whep {
    /// Returns the paths of WHEP.
    pub fn routes<S>(self) -> Router<S> {
        Router::new()
            .route("/whep/{room}", any(endpoint))
            .route("/whep/{room}/{session}", any(resource))
            .with_state(self)
    }

    async fn create(
        &self,
        room: String,
        carrier: &Carrier,
        request: Request,
    ) -> Result<Response, Failure> {
        if !is_room_name(&room) {
            return Err(Failure::new(StatusCode::NOT_FOUND, "this is no room name"));
        }
        let key = key(request.headers())?;
        require_media_type(request.headers(), SDP, ACCEPT_POST)?;
        let sdp = content(request, offer::MAX_OFFER_BYTES).await?;
        offer::read(&sdp)?;
        let text = offer_text(sdp.clone())?;

        let full = || Problem::Full("no more sessions are served at this time".to_owned());
        let place = Sessions::open(&self.sessions, &room, carrier.address).ok_or_else(full)?;
        // Who knows the key keeps the connection until it is answered.
        let inside = Arc::default();
        carrier.carries.set(Arc::clone(&inside));
        let enter = self.entrance.enter(carrier.address, inside);
        let mut guest = enter.await.ok_or_else(closing)?;
        let joining = join(&mut guest, &room, key);
        let joined = timeout(JOIN_TIMEOUT, joining).await;
        let (instance, ice_servers) = joined.map_err(|_| Problem::Silent)??;
        let answering = ask(&mut guest, text);
        let answer = timeout(ANSWER_TIMEOUT, answering).await;
        let answer = answer.map_err(|_| Problem::Silent)??;

        let tag = new_tag().ok_or_else(closing)?;
        let mut response = (StatusCode::CREATED, answer).into_response();
        let headers = response.headers_mut();
        let location = format!("/whep/{room}/{}", place.0.name);
        for (name, value) in [
            (header::CONTENT_TYPE, SDP),
            (header::LOCATION, &location),
            (header::ETAG, &tag),
            (ACCEPT_PATCH, SDPFRAG),
        ] {
            set(headers, name, value);
        }
        for link in links(&ice_servers) {
            if let Ok(link) = HeaderValue::try_from(link) {
                headers.append(header::LINK, link);
            }
        }
        let attendance = Attendance {
            session: Session::new(instance, sdp, tag, clock::now()),
            guest,
            place,
        };
        self.begun.send(attendance).await.map_err(|_| closing())?; // full: awaits
        Ok(response)
    }

    async fn patch(&self, wishes: Wishes, request: Request) -> Result<Response, Failure> {
        require_media_type(request.headers(), SDPFRAG, ACCEPT_PATCH)?;
        let condition = request.headers().get(header::IF_MATCH);
        let condition = condition.map(|c| IfMatch::parse(c.to_str().unwrap_or_default()));
        let text = content(request, MAX_FRAGMENT_BYTES).await?;
        let fragment = sdpfrag::read(&text);
        let fragment = match (fragment, &condition) {
            // What is missing is said before what is wrong.
            (Err(error), Some(_)) => return Err(error.into()),
            (fragment, _) => fragment.unwrap_or_default(),
        };
        let (reply, outcome) = oneshot::channel();
        let wish = Wish::Patch {
            condition,
            fragment,
            tag: new_tag().ok_or_else(closing)?,
            reply,
        };
        wishes.send(wish).await.map_err(|_| Failure::gone())?; // full: awaits
        match outcome.await.map_err(|_| Failure::gone())?? {
            Patched::Trickled => Ok(StatusCode::NO_CONTENT.into_response()),
            Patched::Restarted { fragment, tag } => {
                let mut response = fragment.into_response();
                set(response.headers_mut(), header::CONTENT_TYPE, SDPFRAG);
                set(response.headers_mut(), header::ETAG, &tag);
                Ok(response)
            }
        }
    }

    async fn delete(&self, wishes: Wishes) -> Result<Response, Failure> {
        let (reply, done) = oneshot::channel();
        let wish = Wish::Delete { reply };
        wishes.send(wish).await.map_err(|_| Failure::gone())?; // full: awaits
        done.await.map_err(|_| Failure::gone())?;
        Ok(StatusCode::OK.into_response())
    }

    /// Returns the origin that is to be told that its page may read the answer.
    fn admitted_origin(&self, request: &Request) -> Result<Option<HeaderValue>, Failure> {
        let host = host(request.headers(), request.uri());
        let admits = |origin: &HeaderValue| {
            let origin = origin.to_str().unwrap_or_default();
            self.guard.admits_origin(origin, host)
        };
        let origins = request.headers().get_all(header::ORIGIN);
        if !origins.iter().all(admits) {
            let message = "this page may not watch: its origin is not in server.allowed_origins";
            return Err(Failure::new(StatusCode::FORBIDDEN, message));
        }
        Ok(origins.iter().next().cloned())
    }

    /// Wraps what every request has in common: origins, and failures that become answers.
    async fn serve(
        &self,
        request: Request,
        allow: &'static str,
        handle: impl AsyncFnOnce(Method, Request) -> Result<Option<Response>, Failure>,
    ) -> Response {
        let method = request.method().clone();
        let origin = self.admitted_origin(&request);
        let outcome = match (&origin, &method) {
            // A preflight is answered in any case; without our leave in it, the browser goes no further.
            (_, &Method::OPTIONS) => Ok(Some(StatusCode::OK.into_response())),
            (Err(failure), _) => Err(failure.clone()),
            (Ok(_), _) => handle(method.clone(), request).await,
        };
        let mut response = match outcome {
            Ok(Some(response)) => response,
            Ok(None) => {
                let message = format!("only {allow} have a meaning here");
                Failure::new(StatusCode::METHOD_NOT_ALLOWED, message).into_response()
            }
            Err(failure) => failure.into_response(),
        };
        let is_refused = response.status() == StatusCode::METHOD_NOT_ALLOWED;
        let headers = response.headers_mut();
        if method == Method::OPTIONS || is_refused {
            set(headers, header::ALLOW, allow);
            if allow.contains("POST") {
                set(headers, ACCEPT_POST, SDP);
            }
            set(headers, ACCEPT_PATCH, SDPFRAG);
        }
        headers.insert(header::VARY, HeaderValue::from_static("Origin"));
        if let Ok(Some(origin)) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
            if method == Method::OPTIONS {
                headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
                headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, SENT);
                headers.insert(header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_LASTS_S);
            }
        }
        response
    }
}

/// `/whep/ROOM`
async fn endpoint(
    State(whep): State<Whep>,
    Extension(carrier): Extension<Carrier>,
    Path(room): Path<String>,
    request: Request,
) -> Response {
    let allow = "GET, HEAD, POST, OPTIONS";
    let handle = async |method: Method, request| match method {
        Method::POST => whep.create(room, &carrier, request).await.map(Some),
        // Nothing to see, but a player may ask whether this is WHEP.
        Method::GET | Method::HEAD => Ok(Some([(header::CONTENT_TYPE, SDP)].into_response())),
        _ => Ok(None),
    };
    whep.serve(request, allow, handle).await
}

/// `/whep/ROOM/SESSION`: who knows it may change it.
async fn resource(
    State(whep): State<Whep>,
    Path((room, session)): Path<(String, String)>,
    request: Request,
) -> Response {
    let allow = "GET, HEAD, PATCH, DELETE, OPTIONS";
    let handle = async |method: Method, request| {
        let wishes = whep.sessions.find(&room, &session);
        let wishes = wishes.ok_or_else(Failure::gone)?;
        match method {
            Method::PATCH => whep.patch(wishes, request).await.map(Some),
            Method::DELETE => whep.delete(wishes).await.map(Some),
            Method::GET | Method::HEAD => Ok(Some(StatusCode::NO_CONTENT.into_response())),
            _ => Ok(None),
        }
    };
    whep.serve(request, allow, handle).await
}

/// Enters a room as a viewer. Returns the device's instance, and what helps to reach it.
async fn join(
    guest: &mut Guest,
    room: &str,
    key: String,
) -> Result<(String, Vec<IceServer>), Problem> {
    let wish = ToRoom::join(room.to_owned(), key);
    if !guest.say(wish.text()).await {
        return Err(Problem::NoDevice);
    }
    while let Some(text) = guest.hear().await {
        match serde_json::from_str(&text) {
            Ok(FromRoom::Joined {
                ice_servers,
                device,
            }) => return Ok((device.ok_or(Problem::NoDevice)?, ice_servers)),
            Ok(FromRoom::Error(refusal)) => return Err(refusal.into()),
            _ => {}
        }
    }
    Err(Problem::NoDevice)
}

/// Offers, and returns the device's answer.
async fn ask(guest: &mut Guest, offer: String) -> Result<String, Problem> {
    if !guest.say(offer).await {
        return Err(Problem::NoDevice);
    }
    while let Some(text) = guest.hear().await {
        match serde_json::from_str(&text) {
            Ok(FromRoom::Answer { answer }) => return Ok(answer.sdp),
            Ok(FromRoom::Error(refusal)) => return Err(refusal.into()),
            // Whoever is there now has not heard the offer.
            Ok(FromRoom::DeviceLeft | FromRoom::DeviceJoined { .. }) => break,
            _ => {}
        }
    }
    Err(Problem::NoDevice)
}

/// Why a player does not get what it wants.
#[derive(Clone, Debug)]
struct Failure {
    status: StatusCode,
    message: String,
    field: Option<(HeaderName, HeaderValue)>,
}

impl Failure {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            field: None,
        }
    }

    fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.field = Some((name, value));
        self
    }

    fn unauthorized(challenge: &'static str, message: &'static str) -> Self {
        let challenge = HeaderValue::from_static(challenge);
        Self::new(StatusCode::UNAUTHORIZED, message).with(header::WWW_AUTHENTICATE, challenge)
    }

    fn gone() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "there is no such session, or it is over",
        )
    }

    fn later(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, message).with(header::RETRY_AFTER, RETRY_AFTER_S)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, format!("{}\n", self.message)).into_response();
        if let Some((name, value)) = self.field {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::WrongKey => Self::unauthorized(
                "Bearer error=\"invalid_token\"",
                "no such room for this key",
            ),
            Problem::NoDevice => Self::later(
                StatusCode::CONFLICT,
                "no device is in this room at this time",
            ),
            Problem::Full(message) => Self::later(StatusCode::SERVICE_UNAVAILABLE, message),
            Problem::BadOffer(message) => Self::new(StatusCode::NOT_ACCEPTABLE, message),
            Problem::TooLarge => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "the description is too large",
            ),
            Problem::Silent => Self::later(
                StatusCode::GATEWAY_TIMEOUT,
                "the device did not answer in time",
            ),
            Problem::NoPrecondition => Self::new(
                StatusCode::PRECONDITION_REQUIRED,
                "If-Match is missing: the ETag of this session, or * to restart ICE",
            ),
            Problem::OtherGeneration => Self::new(
                StatusCode::PRECONDITION_FAILED,
                "ICE was restarted since: this is not the session's ETag",
            ),
            Problem::Busy => Self::later(StatusCode::CONFLICT, "ICE is being restarted already"),
            Problem::Refused(message) => Self::new(StatusCode::BAD_GATEWAY, message),
        }
    }
}

impl From<OfferError> for Failure {
    fn from(error: OfferError) -> Self {
        let status = match error {
            OfferError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            OfferError::NothingWanted | OfferError::NoH264 => StatusCode::NOT_ACCEPTABLE,
            OfferError::TooMany
            | OfferError::Malformed
            | OfferError::NoMedia
            | OfferError::NoTransport => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<FragmentError> for Failure {
    fn from(error: FragmentError) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())
    }
}

/// The server stops, or has no randomness.
fn closing() -> Failure {
    Failure::later(
        StatusCode::SERVICE_UNAVAILABLE,
        "the server is shutting down",
    )
}

/// Returns the viewer's key.
fn key(headers: &HeaderMap) -> Result<String, Failure> {
    let field = headers.get(header::AUTHORIZATION);
    let key = field.and_then(|field| headers::key(field.to_str().ok()?));
    let message = "the viewer's key is missing: Authorization: Bearer KEY";
    key.ok_or_else(|| Failure::unauthorized("Bearer", message))
}

fn require_media_type(
    headers: &HeaderMap,
    media_type: &'static str,
    accept: HeaderName,
) -> Result<(), Failure> {
    let field = headers.get(header::CONTENT_TYPE);
    if field.is_some_and(|f| is_media_type(f.to_str().unwrap_or_default(), media_type)) {
        return Ok(());
    }
    let message = format!("the content is to be {media_type}");
    let failure = Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
    Err(failure.with(accept, HeaderValue::from_static(media_type)))
}

/// Reads a request's content.
async fn content(request: Request, max_bytes: usize) -> Result<String, Failure> {
    let bytes = body::to_bytes(request.into_body(), max_bytes).await;
    let bytes = bytes.map_err(|_| {
        let message = format!("the content has over {max_bytes} bytes");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    })?;
    let text = String::from_utf8(bytes.into());
    text.map_err(|_| Failure::new(StatusCode::BAD_REQUEST, "the content is no text"))
}

/// Returns an entity tag that no other ICE generation has.
fn new_tag() -> Option<String> {
    let random = getrandom::u64().ok()?;
    Some(format!("\"{random:016x}\""))
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}
