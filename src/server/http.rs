//! HTTP/1.1 of the room server: the page and its parts, `/healthz`, the WebSocket at `/ws`, and WHEP
//! below `/whep/`.
//!
//! Pages are in the binary, so they work offline and always fit it.

use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::extract::{Request, State};
use axum::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use super::clients::{Entrance, entrance, run_rooms};
use super::guard::{Guard, plain_host};
use super::places::{Places, Ticket};
use super::rooms::Rooms;
use super::websocket::{serve_client, stopped};
use super::whep::{Whep, run_sessions, whep};
use super::{ServerError, ServerOptions};
use crate::signaling::MAX_MESSAGE_BYTES;

/// How long a request's head may take, and how long a connection may idle before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may do anything but be a WebSocket; a browser simply makes another.
const HTTP_LIFETIME: Duration = Duration::from_secs(60);

/// Largest head of a request, in bytes; also hyper's buffer of a connection.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Buffer of a WebSocket, in bytes: messages are small, and there are many connections.
const WEBSOCKET_BUFFER_BYTES: usize = 4 * 1024;

/// How long closing everything may take.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(450);

/// How long to wait when the system has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The page and its parts: path, media type, content.
const PAGES: [(&str, &str, &[u8]); 4] = [
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
        let refused = |source: std::io::Error| ServerError::Listen {
            address: options.listen,
            remedy: remedy(source.kind()),
            source,
        };
        let listener = TcpListener::bind(options.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let rooms = Rooms::new(options.viewer_key, options.device_key, options.ice_servers);
        Ok(Self {
            listener,
            address,
            guard: Arc::new(guard),
            rooms,
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
        let (whep, begun) = whep(Arc::clone(&self.guard), entrance.clone());
        let router = router(Arc::clone(&self.guard), whep);
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
    ticket: Ticket,
    shutdown: watch::Receiver<bool>,
}

/// Where a request's handler leaves the WebSocket that the connection became.
#[derive(Clone)]
struct Upgraded(mpsc::Sender<WebSocket>);

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller(pub(super) IpAddr);

impl Connection {
    async fn serve(mut self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "cannot set TCP_NODELAY");
        }
        let (upgraded, mut sockets) = mpsc::channel(1);
        let router = TowerToHyperService::new(self.router.clone());
        let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(Upgraded(upgraded.clone()));
            request.extensions_mut().insert(Caller(self.address));
            router.call(request)
        });
        let http = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::select! {
            ended = timeout(HTTP_LIFETIME, http) => {
                if let Ok(Err(error)) = ended {
                    debug!(address = %self.address, %error, "bad HTTP");
                }
            }
            () = self.ticket.is_withdrawn() => {
                debug!(address = %self.address, "had not joined, closed for a newcomer");
                return;
            }
            () = stopped(&mut self.shutdown) => {}
        }
        if let Some(socket) = sockets.recv().await {
            let Self {
                address,
                entrance,
                ticket,
                shutdown,
                ..
            } = self;
            serve_client(socket, address, entrance, ticket, shutdown).await;
        }
    }
}

fn router(guard: Arc<Guard>, whep: Whep) -> Router {
    let mut router = Router::new();
    for (path, kind, content) in PAGES {
        let page = move || async move { ([(header::CONTENT_TYPE, kind)], content) };
        router = router.route(path, get(page));
    }
    router
        .route("/healthz", get(|| async { "ok" }))
        .route("/ws", get(upgrade))
        .merge(whep.routes())
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
            "camera=(), microphone=(), geolocation=()",
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

/// Turns a connection into a WebSocket, if its page may have one.
async fn upgrade(
    State(guard): State<Arc<Guard>>,
    Extension(Upgraded(upgraded)): Extension<Upgraded>,
    headers: HeaderMap,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Infallible> {
    let host = host(&headers, &uri);
    let admits = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        guard.admits_origin(origin, host)
    };
    if !headers.get_all(header::ORIGIN).iter().all(admits) {
        let message = "This page may not connect: its origin is not in server.allowed_origins.\n";
        return Ok((StatusCode::FORBIDDEN, message).into_response());
    }
    Ok(match upgrade {
        Ok(upgrade) => upgrade
            .read_buffer_size(WEBSOCKET_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(MAX_MESSAGE_BYTES)
            .max_frame_size(MAX_MESSAGE_BYTES)
            .on_upgrade(|socket| async move {
                if upgraded.send(socket).await.is_err() {
                    debug!("a connection ended while it became a WebSocket");
                }
            }),
        Err(rejection) => rejection.into_response(),
    })
}
