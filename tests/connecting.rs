//! How the device connects to room servers, with real parts: TLS of a test CA, HTTP servers that will
//! not have it, and what people read then.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    date_time_ymd,
};
use roomcam::config::{CallEvents, Dialect, Headers, Secret};
use roomcam::signaling::server_url::parse_server_url;
use roomcam::signaling::websocket::{Authorities, LinkOptions, run_link};
use roomcam::signaling::{RoomEvent, RoomIndex};
use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig, SupportedProtocolVersion};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};

use crate::support::log::Log;

/// How long anything that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A room server of the device's own protocol, which lets everybody in and notes who came.
struct Server {
    address: SocketAddr,
    requests: mpsc::UnboundedReceiver<Request>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start(tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let (noted, requests) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                match &acceptor {
                    // A client that does not believe the certificate hangs up.
                    Some(acceptor) => match acceptor.accept(stream).await {
                        Ok(stream) => let_in(stream, &noted).await,
                        Err(_) => continue,
                    },
                    None => let_in(stream, &noted).await,
                }
            }
        });
        Self {
            address,
            requests,
            _tasks: tasks,
        }
    }

    fn url(&self, scheme: &str, host: &str) -> String {
        format!("{scheme}://{host}:{}", self.address.port())
    }

    async fn request(&mut self) -> Request {
        soon(self.requests.recv()).await.unwrap()
    }
}

async fn let_in<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    noted: &mpsc::UnboundedSender<Request>,
) {
    #[expect(
        clippy::result_large_err,
        reason = "the signature that tungstenite asks for"
    )]
    let note = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        noted.send(request.clone()).unwrap();
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(stream, note).await else {
        return; // It was no WebSocket: a device that expects TLS, for one.
    };
    let joined = json!({"type": "joined", "protocol": 1, "viewers": []});
    if let Some(Ok(Message::Text(_))) = socket.next().await {
        socket
            .send(Message::text(joined.to_string()))
            .await
            .unwrap();
    }
    while let Some(Ok(_)) = socket.next().await {}
}

/// Accepts connections and says `answer` to whatever comes.
async fn start_stubborn(answer: &'static [u8]) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_ok() && stream.write_all(answer).await.is_ok() {
                drop(stream.shutdown().await);
            }
        }
    });
    (address, tasks)
}

/// A certification authority of our own, and a server's certificate that it signed.
struct Certificates {
    ca_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Certificates {
    fn new(names: &[&str]) -> Self {
        Self::with(names, |_| {})
    }

    fn with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut params = server_params(names);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &ca).unwrap();
        Self {
            ca_pem: ca.pem(),
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    /// What `openssl req -x509` makes: signed by itself, and said to be a CA.
    fn of_openssl(names: &[&str]) -> Self {
        let mut params = server_params(names);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self {
            ca_pem: certificate.pem(),
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        }
    }

    fn server_config(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .unwrap()
    }

    async fn serve(&self) -> Server {
        Server::start(Some(self.server_config(rustls::ALL_VERSIONS))).await
    }

    fn authorities(&self) -> Authorities {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("ca.pem");
        std::fs::write(&file, &self.ca_pem).unwrap();
        Authorities::load(&file).unwrap()
    }
}

fn server_params(names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params
}

fn options(url: &str) -> LinkOptions {
    LinkOptions {
        server: parse_server_url(url, Dialect::Roomcam).unwrap(),
        dialect: Dialect::Roomcam,
        room: "cam".to_owned(),
        room_is_secret: false,
        key: Secret::new("k".to_owned()),
        instance: "i".to_owned(),
        headers: Headers::default(),
        authorities: Authorities::default(),
        auth: Secret::default(),
        events: CallEvents::default(),
    }
}

/// Runs the link until it has joined, or a person was told why not; returns what was logged.
async fn attempt(options: LinkOptions) -> Result<String, String> {
    let (log, _capturing) = Log::capture(tracing::Level::TRACE);
    let (event_sender, mut events) = mpsc::channel(16);
    let (messages, message_receiver) = mpsc::channel(1);
    let link = tokio::spawn(run_link(
        options,
        RoomIndex(0),
        event_sender,
        message_receiver,
    ));
    let told = async {
        while !log.text().contains("no connection to the room server") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let joined = soon(async {
        tokio::select! {
            event = events.recv() => {
                assert!(matches!(event, Some((_, RoomEvent::Joined { .. }))), "{event:?}");
                true
            }
            () = told => false,
        }
    })
    .await;
    drop(messages);
    soon(link).await.unwrap();
    let text = log.text();
    if joined { Ok(text) } else { Err(text) }
}

/// Returns what a person is told of a server that cannot be joined.
async fn refusal(options: LinkOptions) -> String {
    attempt(options).await.expect_err("no way in")
}

async fn soon<F: Future>(future: F) -> F::Output {
    timeout(PATIENCE, future).await.unwrap()
}

fn assert_names(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "{word} in: {text}");
    }
}

#[tokio::test]
async fn a_certificate_of_the_configured_ca_is_believed() {
    let certificates = Certificates::new(&["localhost", "127.0.0.1"]);
    for versions in [
        &[&rustls::version::TLS12][..],
        &[&rustls::version::TLS13][..],
    ] {
        let server = Server::start(Some(certificates.server_config(versions))).await;
        for host in ["localhost", "127.0.0.1"] {
            for scheme in ["wss", "https"] {
                let mut options = options(&server.url(scheme, host));
                options.authorities = certificates.authorities();
                attempt(options).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_certificate_is_refused_with_the_remedy() {
    let certificates = Certificates::new(&["localhost"]);
    let server = certificates.serve().await;
    let mut options = options(&server.url("wss", "localhost"));
    let told = refusal(options.clone()).await;
    assert_names(&told, &["signed by no CA", "set room.ca_file"]);
    options.authorities = Certificates::new(&["localhost"]).authorities();
    let told = refusal(options).await;
    assert_names(&told, &["signed by no CA", "nor of room.ca_file"]);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_whoever_signed_it() {
    for certificates in [
        Certificates::new(&["cam.example", "10.1.2.3"]),
        Certificates::of_openssl(&["cam.example", "10.1.2.3"]),
    ] {
        let server = certificates.serve().await;
        for host in ["localhost", "127.0.0.1"] {
            let mut options = options(&server.url("wss", host));
            options.authorities = certificates.authorities();
            let told = refusal(options).await;
            let not_for = format!("is not for {host}");
            assert_names(&told, &[&not_for, "room.server", "cam.example", "10.1.2.3"]);
        }
    }
}

#[tokio::test]
async fn a_server_that_signed_for_itself_is_believed_where_that_certificate_is_configured() {
    let certificates = Certificates::of_openssl(&["localhost"]);
    let server = certificates.serve().await;
    let mut options = options(&server.url("wss", "localhost"));
    let told = refusal(options.clone()).await;
    assert_names(&told, &["set room.ca_file"]);
    options.authorities = certificates.authorities();
    attempt(options.clone()).await.unwrap();
    options.authorities = Certificates::of_openssl(&["localhost"]).authorities();
    let told = refusal(options).await;
    assert_names(&told, &["its TLS certificate"]);
}

#[tokio::test]
async fn a_certificate_out_of_its_time_is_refused() {
    for (from, to, words) in [
        (2001, 2002, "has expired, or this machine's clock is wrong"),
        (
            2998,
            2999,
            "not valid yet, or this machine's clock is wrong",
        ),
    ] {
        let certificates = Certificates::with(&["localhost"], |params| {
            params.not_before = date_time_ymd(from, 1, 1);
            params.not_after = date_time_ymd(to, 1, 1);
        });
        let server = certificates.serve().await;
        let mut options = options(&server.url("wss", "localhost"));
        options.authorities = certificates.authorities();
        assert_names(&refusal(options).await, &[words]);
    }
}

#[tokio::test]
async fn headers_path_and_query_arrive_as_configured() {
    let mut server = Server::start(None).await;
    let url = server.url("http", "localhost") + "/some/rooms?token=a%20b&x";
    let mut options = options(&url);
    options.headers = Headers::from_iter([
        ("Authorization", "Bearer t"),
        ("origin", "https://example.org"),
        ("User-Agent", "mine"),
    ]);
    attempt(options).await.unwrap();
    let request = server.request().await;
    assert_eq!(request.uri().to_string(), "/some/rooms?token=a%20b&x");
    let host = format!("localhost:{}", server.address.port());
    for (name, value) in [
        ("authorization", "Bearer t"),
        ("origin", "https://example.org"),
        ("user-agent", "mine"),
        ("host", &host),
    ] {
        let values: Vec<_> = request.headers().get_all(name).iter().collect();
        assert_eq!(values, [value], "{name}");
    }
}

#[tokio::test]
async fn a_password_in_the_address_is_sent_as_browsers_do() {
    let mut server = Server::start(None).await;
    let url = server.url("ws", "me:p%40ss+@localhost");
    attempt(options(&url)).await.unwrap();
    let request = server.request().await;
    let headers = request.headers();
    assert_eq!(headers["authorization"], "Basic bWU6cEBzcys=");
    let host = format!("localhost:{}", server.address.port());
    assert_eq!(headers["host"], host);
    let agent = headers["user-agent"].to_str().unwrap();
    assert!(agent.starts_with("roomcam/"), "{agent}");
}

#[tokio::test]
async fn nothing_secret_is_logged() {
    let server = Server::start(None).await;
    let (forbidden, _tasks) = start_stubborn(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").await;
    for address in [server.address, forbidden] {
        let url = format!("ws://me:hunter2@{address}/ws?token=hunter2");
        let mut options = options(&url);
        options.key = Secret::new("hunter2".to_owned());
        options.headers = Headers::from_iter([("Cookie", "hunter2")]);
        options.auth = Secret::new(r#"{"token":"hunter2"}"#.to_owned());
        let configured = format!("{:?} {:?}", options.headers, options.auth);
        let logged = attempt(options).await.unwrap_or_else(|told| told);
        assert!(logged.contains(&address.to_string()), "{logged}");
        for text in [logged, configured] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
}

#[tokio::test]
async fn a_web_server_that_opens_no_websocket_is_explained() {
    for (answer, words) in [
        (
            "401 Unauthorized",
            &["credentials", "401", "room.headers"][..],
        ),
        ("403 Forbidden", &["credentials", "403", "room.headers"]),
        (
            "404 Not Found",
            &[
                "no room server at /ws",
                "404",
                "room.server",
                "room.dialect",
            ],
        ),
        (
            "200 OK",
            &[
                "no WebSocket at /ws",
                "200 OK",
                "room.server",
                "room.dialect",
            ],
        ),
        ("400 Bad Request", &["no WebSocket", "400", "room.dialect"]),
        ("502 Bad Gateway", &["out of order", "502 Bad Gateway"]),
        (
            "301 Moved Permanently\r\nLocation: https://new.example/ws?token=hunter2",
            &["moved to", "https://new.example/ws", "room.server"],
        ),
    ] {
        let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
        let (address, _tasks) = start_stubborn(answer.leak().as_bytes()).await;
        let told = refusal(options(&format!("ws://{address}"))).await;
        assert_names(&told, words);
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[tokio::test]
async fn what_is_no_web_server_is_explained() {
    for (scheme, answer, words) in [
        (
            "ws",
            &b"SSH-2.0-OpenSSH_9.9\r\n"[..],
            "it speaks no WebSocket",
        ),
        ("ws", b"", "it broke off"),
        ("wss", b"", "it broke off"),
        (
            "wss",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            "does not speak TLS",
        ),
        ("wss", b"SSH-2.0-OpenSSH_9.9\r\n", "does not speak TLS"),
    ] {
        let (address, _tasks) = start_stubborn(answer).await;
        let mut options = options(&format!("{scheme}://{address}"));
        options.authorities = Certificates::new(&["x"]).authorities();
        assert_names(&refusal(options).await, &[words]);
    }
    let tls = Certificates::new(&["localhost"]).serve().await;
    let told = refusal(options(&tls.url("ws", "localhost"))).await;
    assert_names(&told, &["it speaks no WebSocket", "wss://"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_explained() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let told = refusal(options(&format!("ws://{address}"))).await;
    let listens = format!("nothing listens at {address}");
    assert_names(&told, &[&listens, "room.server"]);
    // No name server is asked for a label that is too long.
    let host = "x".repeat(64);
    let told = refusal(options(&format!("ws://{host}"))).await;
    assert_names(&told, &["was not found", "room.server"]);
}

#[test]
fn authorities_are_read_from_a_file_of_several() {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("ca.pem");
    let pems: Vec<String> = (0..3)
        .map(|n| format!("# Number {n}\n{}\n", Certificates::new(&["x"]).ca_pem))
        .collect();
    std::fs::write(&file, pems.concat()).unwrap();
    Authorities::load(&file).unwrap();
    let (start, _) = pems[2].rsplit_once("-----END").unwrap();
    std::fs::write(&file, [&pems[0], &pems[1], start].concat()).unwrap();
    let told = Authorities::load(&file).unwrap_err().to_string();
    assert_names(&told, &["certificate 3 in", "room.ca_file"]);
    let told = Authorities::load(Path::new("/nowhere/ca.pem")).unwrap_err();
    assert_names(&told.to_string(), &["/nowhere/ca.pem", "room.ca_file"]);
}
