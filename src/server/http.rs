//! HTTP/1.1 of the room server: the page and its parts, `/healthz`, the WebSocket at `/ws`, WHEP below
//! `/whep/`, and what tutorial pages speak.
//!
//! Pages are in the binary, so they work offline and always fit it.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get};
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::clients::{Entrance, entrance, private_guest, run_rooms};
use super::engineio::{MAX_NEW_SESSIONS, Purpose, Query, Session, Sessions};
use super::guard::{Guard, first_from_elsewhere, plain_host};
use super::pages::Pages;
use super::pairing::Opening;
use super::pairing::private::{Endpoint, Tutorials};
use super::places::{Carried, Places, Ticket};
use super::rooms::Rooms;
use super::websocket::{serve_client, serve_guest, stopped};
use super::whep::{Whep, run_sessions, whep};
use super::{MIN_ROOM_NAME_BYTES, ServerError, ServerOptions};
use crate::config::{Dialect, Secret};
use crate::signaling::MAX_MESSAGE_BYTES;

/// How long a request's head may take, and how long a connection may idle before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may do anything but be a WebSocket; a browser simply makes another.
const HTTP_LIFETIME: Duration = Duration::from_secs(60);

/// Largest head of a request, in bytes; also hyper's buffer of a connection.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Buffer of a WebSocket, in bytes: messages are small, and there are many connections.
const WEBSOCKET_BUFFER_BYTES: usize = 4 * 1024;

/// How long a request may then still take: a page that polls waits for 25 seconds.
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The answer to tutorial pages that are not expected.
const NOT_SERVED: (StatusCode, &str) = (
    StatusCode::NOT_FOUND,
    "This server does not speak that: server.tutorial_dialects has what it speaks.\n",
);

/// How long closing everything may take.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(450);

/// How long to wait when the system has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The page and its parts: path, media type, content.
const PAGES: [(&str, &str, &[u8]); 5] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_bytes!("../../web/index.html"),
    ),
    (
        "/app.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../../web/app.js"),
    ),
    (
        "/camera.js",
        "text/javascript; charset=utf-8",
        include_bytes!("../../web/camera.js"),
    ),
    (
        "/style.css",
        "text/css; charset=utf-8",
        include_bytes!("../../web/style.css"),
    ),
    (
        "/icon.svg",
        "image/svg+xml",
        include_bytes!("../../web/icon.svg"),
    ),
];

/// A room server that listens. Connections wait in the backlog until [`Self::run`].
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    guard: Arc<Guard>,
    rooms: Rooms,
    tutorials: Tutorials,
    viewer_key: Secret,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    ///
    /// Any [`ServerError`]; its message says what to change.
    pub async fn bind(options: ServerOptions) -> Result<Self, ServerError> {
        for (key, whose) in [
            (&options.viewer_key, "viewers"),
            (&options.device_key, "devices"),
        ] {
            if key.is_empty() {
                return Err(ServerError::EmptyKey { whose });
            }
        }
        if options.viewer_key.matches(options.device_key.expose()) {
            return Err(ServerError::SameKey);
        }
        let loopback = options.listen.ip().to_canonical().is_loopback();
        let guard = Guard::new(loopback, &options.allowed_origins)
            .map_err(|origin| ServerError::BadOrigin { origin })?;
        check_tutorials(&options, loopback)?;
        let refused = |source: std::io::Error| ServerError::Listen {
            address: options.listen,
            remedy: remedy(source.kind()),
            source,
        };
        let listener = TcpListener::bind(options.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let viewer_key = options.viewer_key.clone();
        let mut rooms = Rooms::new(options.viewer_key, options.device_key, options.ice_servers);
        if !options.tutorials.dialects.is_empty() {
            rooms.hide_names();
        }
        Ok(Self {
            listener,
            address,
            guard: Arc::new(guard),
            rooms,
            tutorials: options.tutorials,
            viewer_key,
        })
    }

    /// Returns where it listens, with the port that was taken.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `shutdown` becomes true or its sender is gone; then closes everything, which
    /// takes at most half a second.
    pub async fn run(self, mut shutdown: watch::Receiver<bool>) {
        info!(address = %self.address, "room server started");
        let (entrance, reports) = entrance();
        let pages = Pages::new(Arc::new(self.tutorials), entrance.clone(), self.viewer_key);
        let (session_tasks, mut new_sessions) = mpsc::channel(MAX_NEW_SESSIONS);
        let sessions = Sessions::new(pages.clone(), session_tasks);
        let (whep, begun) = whep(Arc::clone(&self.guard), entrance.clone());
        let router = router(
            Arc::clone(&self.guard),
            pages.clone(),
            sessions.clone(),
            whep,
        );
        let mut pollers = JoinSet::new();
        let mut rooms = JoinSet::new();
        rooms.spawn(run_sessions(begun));
        rooms.spawn(run_rooms(self.rooms, reports));
        let mut places = Places::default();
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        let address = peer.ip().to_canonical();
                        if let Some(ticket) = places.take(address) {
                            let connection = Connection {
                                address,
                                router: router.clone(),
                                entrance: entrance.clone(),
                                pages: pages.clone(),
                                sessions: sessions.clone(),
                                ticket,
                                shutdown: shutdown.clone(),
                            };
                            connections.spawn(connection.serve(stream));
                        } else {
                            debug!(%address, "too many connections, closed one");
                        }
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept connections");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = connections.join_next() => if let Err(error) = ended {
                    warn!(%error, "a connection ended by a bug of ours");
                },
                Some(session) = new_sessions.recv() => {
                    pollers.spawn(session);
                }
                Some(ended) = pollers.join_next() => if let Err(error) = ended {
                    warn!(%error, "a session ended by a bug of ours");
                },
                () = stopped(&mut shutdown) => break,
            }
        }
        drop((self.listener, entrance));
        let all = async { while connections.join_next().await.is_some() {} };
        if timeout(SHUTDOWN_TIMEOUT, all).await.is_err() {
            debug!(
                left = connections.len(),
                "cut connections that did not close"
            );
        }
        info!("room server stopped");
    }
}

/// Makes sure that nobody watches from elsewhere without having been told something.
fn check_tutorials(options: &ServerOptions, loopback: bool) -> Result<(), ServerError> {
    let listen = options.listen;
    let origin = first_from_elsewhere(&options.allowed_origins).map(str::to_owned);
    let Tutorials {
        dialects, rooms, ..
    } = &options.tutorials;
    if dialects.is_empty() || (loopback && origin.is_none()) {
        return Ok(());
    }
    // An address off this machine says more than an origin does.
    let origin = origin.filter(|_| loopback);
    if dialects.contains(&Dialect::WsBroadcast) {
        return Err(match origin {
            Some(origin) => ServerError::OpenBroadcastForOrigin { origin },
            None => ServerError::OpenBroadcast { listen },
        });
    }
    let is_short = |room: &Secret| room.expose().len() < MIN_ROOM_NAME_BYTES;
    if rooms.iter().any(is_short) {
        return Err(match origin {
            Some(origin) => ServerError::ShortRoomNameForOrigin { origin },
            None => ServerError::ShortRoomName { listen },
        });
    }
    Ok(())
}

fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::AddrInUse => "the port is in use, choose another with --listen",
        ErrorKind::AddrNotAvailable => {
            "this machine has no such address, choose another with --listen"
        }
        ErrorKind::PermissionDenied => {
            "only root may take this port, choose one above 1023 with --listen"
        }
        _ => "choose another with --listen",
    }
}

/// One TCP connection: some requests, and perhaps a WebSocket after them.
struct Connection {
    address: IpAddr,
    router: Router,
    entrance: Entrance,
    pages: Pages,
    sessions: Sessions,
    ticket: Ticket,
    shutdown: watch::Receiver<bool>,
}

/// Serves requests until the connection is old; one that waits then may wait a little longer.
async fn until_old<I, S>(http: UpgradeableConnection<I, S>) -> hyper::Result<()>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    S: hyper::service::HttpService<Incoming, ResBody = Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut http = pin!(http);
    if let Ok(ended) = timeout(HTTP_LIFETIME, &mut http).await {
        return ended;
    }
    http.as_mut().graceful_shutdown();
    timeout(LAST_REQUEST_TIMEOUT, &mut http)
        .await
        .unwrap_or(Ok(()))
}

/// What a request's handler knows of its connection.
#[derive(Clone)]
pub(super) struct Carrier {
    pub(super) address: IpAddr,
    pub(super) carries: Carried,
    /// Where to leave the WebSocket that the connection became.
    upgraded: mpsc::Sender<(WebSocket, Destination)>,
}

/// Whom a WebSocket is for.
#[derive(Clone, Debug)]
enum Destination {
    /// The rooms.
    Rooms,
    /// A tutorial page's world.
    World(Endpoint, Opening),
    /// One that it takes over.
    Session(Arc<Session>),
}

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot set TCP_NODELAY");
        }
        let (upgraded, mut sockets) = mpsc::channel(1);
        let router = TowerToHyperService::new(self.router.clone());
        let carrier = Carrier {
            address: self.address,
            carries: self.ticket.carries(),
            upgraded,
        };
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(carrier.clone());
            router.call(request)
        });
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::select! {
            ended = until_old(http) => {
                if let Err(error) = ended {
                    debug!(address = %self.address, %error, "bad HTTP");
                }
            }
            () = self.ticket.is_withdrawn() => {
                debug!(address = %self.address, "had not joined, closed for a newcomer");
                return;
            }
            () = stopped(&mut self.shutdown) => {}
        }
        if let Some((socket, destination)) = sockets.recv().await {
            self.serve_websocket(socket, destination).await;
        }
    }

    async fn serve_websocket(self, socket: WebSocket, destination: Destination) {
        let Self {
            address,
            entrance,
            pages,
            sessions,
            ticket,
            shutdown,
            ..
        } = self;
        match destination {
            Destination::Rooms => {
                serve_client(socket, address, entrance, ticket, shutdown).await;
            }
            Destination::World(endpoint, opening) => {
                if let Some((guest, host)) = private_guest(ticket.inside()) {
                    tokio::join!(
                        serve_guest(socket, guest, ticket, shutdown),
                        pages.serve(endpoint, opening, address, host),
                    );
                }
            }
            Destination::Session(session) => {
                sessions.change(session, socket, ticket, shutdown).await;
            }
        }
    }
}

fn router(guard: Arc<Guard>, pages: Pages, sessions: Sessions, whep: Whep) -> Router {
    let mut router = Router::new();
    for (path, kind, content) in PAGES {
        let page = move || async move { ([(header::CONTENT_TYPE, kind)], content) };
        let page = if path == "/" {
            get(page).layer(middleware::from_fn_with_state(Arc::clone(&guard), front))
        } else {
            get(page)
        };
        router = router.route(path, page);
    }
    router
        .route("/socket.io/", any(socketio))
        .route("/healthz", get(|| async { "ok" }))
        .route("/ws", get(upgrade))
        .merge(whep.routes())
        .layer(Extension(pages))
        .layer(Extension(sessions))
        .layer(middleware::from_fn_with_state(Arc::clone(&guard), protect))
        .with_state(guard)
}

/// Refuses requests for other hosts, and tells browsers what the page may do.
async fn protect(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let host = host(request.headers(), request.uri()).map(str::to_owned);
    let mut response = if guard.admits_host(host.as_deref()) {
        next.run(request).await
    } else {
        let message = "This server answers to names of its own machine, such as localhost. \
            To reach it by another, add that to server.allowed_origins.\n";
        (StatusCode::FORBIDDEN, message).into_response()
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-cache"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("permissions-policy"),
            "camera=(), microphone=(self), geolocation=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::try_from(content_security_policy(host.as_deref())) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Returns what the page may load: itself. Safari before 15.4 does not take `'self'` for the
/// WebSocket of the same host, so that is spelled out.
fn content_security_policy(host: Option<&str>) -> String {
    let sockets = host
        .and_then(plain_host)
        .map(|host| format!(" ws://{host} wss://{host}"))
        .unwrap_or_default();
    format!(
        "default-src 'self'; connect-src 'self'{sockets}; img-src 'self' data:; \
         media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
}

/// Returns by which name a request asks for us.
pub(super) fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<&'a str> {
    match headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => uri.authority().map(|a| a.as_str()),
    }
}

type MaybeUpgrade = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;

/// Turns a connection into a WebSocket to the rooms, if its page may have one.
async fn upgrade(
    State(guard): State<Arc<Guard>>,
    Extension(carrier): Extension<Carrier>,
    headers: HeaderMap,
    uri: Uri,
    upgrade: MaybeUpgrade,
) -> Response {
    if let Err(refusal) = admit(&guard, &headers, &uri) {
        return refusal;
    }
    carrier.upgrade(upgrade, Destination::Rooms)
}

/// Turns a connection to the page's address into a WebSocket to a tutorial page's world, if that is asked
/// for.
async fn front(
    State(guard): State<Arc<Guard>>,
    Extension(carrier): Extension<Carrier>,
    Extension(pages): Extension<Pages>,
    upgrade: MaybeUpgrade,
    request: Request,
    next: Next,
) -> Response {
    if upgrade.is_err() {
        return next.run(request).await;
    }
    if !pages.are_served_at(Endpoint::WebSocket) {
        return NOT_SERVED.into_response();
    }
    if let Err(refusal) = admit(&guard, request.headers(), request.uri()) {
        return refusal;
    }
    let opening = Opening::websocket(String::new());
    carrier.upgrade(upgrade, Destination::World(Endpoint::WebSocket, opening))
}

/// Answers Socket.IO of tutorial pages.
async fn socketio(
    State(guard): State<Arc<Guard>>,
    Extension(carrier): Extension<Carrier>,
    Extension(pages): Extension<Pages>,
    Extension(sessions): Extension<Sessions>,
    upgrade: MaybeUpgrade,
    request: Request,
) -> Response {
    if !pages.are_served_at(Endpoint::SocketIo) {
        return NOT_SERVED.into_response();
    }
    if let Err(refusal) = admit(&guard, request.headers(), request.uri()) {
        return refusal;
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let mut response = match Query::parse(request.uri()) {
        Err(refusal) => refusal.into_response(),
        _ if *request.method() == Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        Ok(query) if query.is_websocket => match sessions.purpose(query) {
            Ok(Purpose::Begin(opening)) => {
                carrier.upgrade(upgrade, Destination::World(Endpoint::SocketIo, opening))
            }
            Ok(Purpose::Continue(session)) => {
                carrier.upgrade(upgrade, Destination::Session(session))
            }
            Err(refusal) => refusal.into_response(),
        },
        Ok(query) => {
            let (parts, body) = request.into_parts();
            let (address, carries) = (carrier.address, carrier.carries);
            sessions
                .poll(query, &parts.method, body, address, carries)
                .await
        }
    };
    if let Some(origin) = origin {
        let headers = response.headers_mut();
        for (name, value) in [
            (header::ACCESS_CONTROL_ALLOW_ORIGIN, origin),
            (header::VARY, HeaderValue::from_static("Origin")),
            // Old clients ask for it, though there are no cookies.
            (
                header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
                HeaderValue::from_static("true"),
            ),
            (
                header::ACCESS_CONTROL_ALLOW_METHODS,
                HeaderValue::from_static("GET, POST"),
            ),
            (
                header::ACCESS_CONTROL_ALLOW_HEADERS,
                HeaderValue::from_static("Content-Type"),
            ),
        ] {
            headers.insert(name, value);
        }
    }
    response
}

impl Carrier {
    fn upgrade(self, upgrade: MaybeUpgrade, destination: Destination) -> Response {
        match upgrade {
            Ok(upgrade) => upgrade
                .read_buffer_size(WEBSOCKET_BUFFER_BYTES)
                .write_buffer_size(0)
                .max_message_size(MAX_MESSAGE_BYTES)
                .max_frame_size(MAX_MESSAGE_BYTES)
                .on_upgrade(|socket| async move {
                    if self.upgraded.send((socket, destination)).await.is_err() {
                        debug!("a connection ended while it became a WebSocket");
                    }
                }),
            Err(rejection) => rejection.into_response(),
        }
    }
}

/// Returns the refusal of a page that may not connect.
#[expect(clippy::result_large_err, reason = "the response that is sent")]
fn admit(guard: &Guard, headers: &HeaderMap, uri: &Uri) -> Result<(), Response> {
    let host = host(headers, uri);
    let admits = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        guard.admits_origin(origin, host)
    };
    if headers.get_all(header::ORIGIN).iter().all(admits) {
        return Ok(());
    }
    let message = "This page may not connect: its origin is not in server.allowed_origins.\n";
    Err((StatusCode::FORBIDDEN, message).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(origin: &str, dialect: Dialect, room: &str) -> Option<String> {
        let options = ServerOptions {
            listen: ([127, 0, 0, 1], 0).into(),
            viewer_key: Secret::new("see".to_owned()),
            device_key: Secret::new("be seen".to_owned()),
            allowed_origins: vec![origin.to_owned()],
            ice_servers: Vec::new().into(),
            tutorials: Tutorials {
                dialects: vec![dialect],
                rooms: vec![Secret::new(room.to_owned())],
                ..Tutorials::default()
            },
        };
        let refusal = check_tutorials(&options, true);
        refusal.err().map(|error| error.to_string())
    }

    #[test]
    fn on_loopback_an_origin_from_elsewhere_asks_for_a_long_name_and_no_broadcast() {
        let here = "http://localhost:5173";
        assert_eq!(refusal(here, Dialect::WsRooms, "cam"), None);
        assert_eq!(refusal(here, Dialect::WsBroadcast, "cam"), None);
        for origin in ["null", "https://cam.example.org"] {
            let long = "a-room-that-nobody-guesses";
            assert_eq!(refusal(origin, Dialect::WsRooms, long), None);
            let short = refusal(origin, Dialect::WsRooms, "cam").unwrap();
            assert!(short.contains(origin) && short.contains("16 characters"));
            let open = refusal(origin, Dialect::WsBroadcast, long).unwrap();
            assert!(open.contains(origin) && open.contains("ws-broadcast"));
        }
    }
}
