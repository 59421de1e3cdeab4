//! A connection to a TURN server: datagrams, a stream, or a stream under TLS, which believes the
//! certificates that room servers are believed with.
//!
//! Messages in, messages out; nothing is read of them but where they end.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::queue::Outgoing;
use crate::signaling::websocket::Authorities;
use crate::turn::framing::{Deframer, NotTurn};
use crate::turn::reach::Reach;
use crate::turn::relays::LineId;
use crate::turn::url::{Transport, TurnUrl};

/// Largest datagram that is read, in bytes. WebRTC's are at most 1 500.
const MAX_DATAGRAM_BYTES: usize = 2_048;

/// How much of a stream is read at once, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// How much the kernel holds of a stream that it has not sent yet, in bytes: a keyframe or two. By itself
/// it holds megabytes, which are seconds on a slow path, and nothing in it can be dropped.
const MAX_UNSENT_BYTES: u32 = 128 * 1024;

/// How long a stream may take nothing at all. Whoever waits for answers gives up before.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection reports.
#[derive(Debug)]
pub(super) enum WireEvent {
    /// It is up.
    Opened,
    /// It could not be made. Nothing more will come.
    Failed(String),
    /// A message came.
    Message(Vec<u8>),
    /// The network says that there is nobody, or the stream ended.
    Unreachable,
    /// Something else listens there.
    NotTurn,
}

/// Where a connection reports to.
#[derive(Clone, Debug)]
pub(super) struct Reports {
    pub(super) line: LineId,
    pub(super) events: mpsc::Sender<(LineId, WireEvent)>,
}

impl Reports {
    /// Returns whether somebody listens.
    async fn send(&self, event: WireEvent) -> bool {
        // full: awaits; what comes meanwhile is the kernel's to drop
        self.events.send((self.line, event)).await.is_ok()
    }
}

/// Connects, and moves messages until `outgoing` is closed and everything in it is sent.
pub(super) async fn run(
    url: TurnUrl,
    reach: Reach,
    authorities: Authorities,
    reports: Reports,
    mut outgoing: Outgoing,
) {
    let connected = async {
        let addresses = resolve(&url, reach).await?;
        connect(&url, &addresses, &authorities).await
    };
    let connected: io::Result<Connection> = tokio::select! {
        connected = connected => connected,
        // Nothing is to be sent before it is up: it was given up.
        None = outgoing.next() => return,
    };
    match connected {
        Err(error) => {
            reports.send(WireEvent::Failed(error.to_string())).await;
        }
        Ok(connection) => {
            if !reports.send(WireEvent::Opened).await {
                return;
            }
            match connection {
                Connection::Udp(socket) => move_datagrams(&socket, &reports, &mut outgoing).await,
                Connection::Stream(stream) => move_stream(stream, &reports, &mut outgoing).await,
            }
        }
    }
}

enum Connection {
    Udp(UdpSocket),
    Stream(Box<dyn Stream>),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// IPv4 first, as viewers' addresses mostly are.
async fn resolve(url: &TurnUrl, reach: Reach) -> io::Result<Vec<SocketAddr>> {
    let addresses = tokio::net::lookup_host((url.host.as_str(), url.port)).await?;
    let mut addresses: Vec<_> = addresses.collect();
    let first = addresses.first().copied();
    addresses.retain(|address| reach.includes(address.ip()));
    if let (Some(first), true) = (first, addresses.is_empty()) {
        return Err(io::Error::other(format!(
            "a room server may not send us to {}; if it is meant to, name it in webrtc.turn",
            first.ip()
        )));
    }
    addresses.sort_by_key(SocketAddr::is_ipv6);
    Ok(addresses)
}

/// Connects to the first of `addresses` that can be reached: a network may have IPv6 alone.
async fn connect(
    url: &TurnUrl,
    addresses: &[SocketAddr],
    authorities: &Authorities,
) -> io::Result<Connection> {
    let mut last = io::Error::other("the name has no address");
    for &address in addresses {
        let connected = match url.transport {
            Transport::Udp => datagrams(address).await.map(Connection::Udp),
            Transport::Tcp => stream(address)
                .await
                .map(|stream| Connection::Stream(Box::new(stream))),
            Transport::Tls => match stream(address).await {
                Ok(stream) => encrypted(&url.host, authorities.clone(), stream)
                    .await
                    .map(|stream| Connection::Stream(Box::new(stream))),
                Err(error) => Err(error),
            },
        };
        match connected {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A socket of its own: a server knows allocations by our port, and may still hold an old one.
async fn datagrams(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    Ok(socket)
}

async fn stream(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_notsent_lowat(MAX_UNSENT_BYTES)?;
    Ok(stream)
}

async fn encrypted(
    host: &str,
    authorities: Authorities,
    stream: TcpStream,
) -> io::Result<impl Stream + use<>> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    // Reading the system's certificates takes a while, which media has not.
    let reading = tokio::task::spawn_blocking(move || authorities.client_config());
    let config = reading.await?.map_err(|_| {
        let remedy = "no CA certificates: install ca-certificates, or set room.ca_file";
        io::Error::other(remedy)
    })?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await
}

async fn move_datagrams(socket: &UdpSocket, reports: &Reports, outgoing: &mut Outgoing) {
    let mut buffer = vec![0; MAX_DATAGRAM_BYTES];
    loop {
        let event = tokio::select! {
            message = outgoing.next() => match message {
                Some(message) => match socket.send(&message).await {
                    Ok(_) => continue,
                    Err(error) if is_nobody(&error) => failure(&error),
                    Err(error) => {
                        tracing::debug!(%error, "a datagram to the TURN server was lost");
                        continue;
                    }
                },
                None => return,
            },
            received = socket.recv(&mut buffer) => match received {
                Ok(length) => {
                    WireEvent::Message(buffer.get(..length).unwrap_or_default().to_vec())
                }
                Err(error) if is_nobody(&error) => failure(&error),
                Err(error) => {
                    tracing::debug!(%error, "the network had something to say of the TURN server");
                    continue;
                }
            },
        };
        if !reports.send(event).await {
            return;
        }
    }
}

/// Returns whether a host says that nobody listens there. All else is said of the way to it, which may
/// be back in a moment, or of this machine.
fn is_nobody(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}

fn failure(error: &io::Error) -> WireEvent {
    tracing::debug!(%error, "TURN server unreachable");
    if error.get_ref().is_some_and(|cause| cause.is::<NotTurn>()) {
        return WireEvent::NotTurn;
    }
    WireEvent::Unreachable
}

async fn move_stream(stream: Box<dyn Stream>, reports: &Reports, outgoing: &mut Outgoing) {
    let (mut from_server, mut to_server) = tokio::io::split(stream);
    let reading = async {
        let mut deframer = Deframer::default();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let length = from_server.read(&mut buffer).await?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            deframer.push(buffer.get(..length).unwrap_or_default());
            while let Some(message) = deframer.pop().map_err(io::Error::other)? {
                if !reports.send(WireEvent::Message(message)).await {
                    return Ok(());
                }
            }
        }
    };
    let writing = async {
        while let Some(message) = outgoing.next().await {
            timeout(WRITE_TIMEOUT, to_server.write_all(&message)).await??;
            if outgoing.is_empty() {
                timeout(WRITE_TIMEOUT, to_server.flush()).await??;
            }
        }
        timeout(WRITE_TIMEOUT, to_server.shutdown()).await?
    };
    let ended: io::Result<()> = tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    };
    if let Err(error) = ended {
        reports.send(failure(&error)).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::super::queue::queue;
    use super::*;
    use crate::config::WebRtc;
    use crate::turn::relays::{Output, Relays};

    /// A line to `url`, and what it reports.
    fn line(url: &str) -> (TurnUrl, Reports, mpsc::Receiver<(LineId, WireEvent)>) {
        let mut webrtc = WebRtc::default();
        webrtc.turn.urls = vec![url.to_owned()];
        let mut relays = Relays::new(&webrtc);
        relays.want(crate::clock::now());
        let Some(Output::Open { line, url, .. }) = relays.poll_output() else {
            panic!("a line is opened first");
        };
        let (events, reported) = mpsc::channel(4);
        (url, Reports { line, events }, reported)
    }

    #[test]
    fn a_network_that_is_away_for_a_moment_takes_no_relay_with_it() {
        let is_nobody = |code| is_nobody(&io::Error::from_raw_os_error(code));
        assert!(is_nobody(libc::ECONNREFUSED));
        let others = [
            libc::ENETUNREACH,
            libc::EHOSTUNREACH,
            libc::ENETDOWN,
            libc::EPERM,
            libc::ENOBUFS,
            libc::EMSGSIZE,
        ];
        assert!(!others.into_iter().any(is_nobody));
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_server_that_says_nothing() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let (url, reports, _reported) = line(&format!("turns:{address}"));
        let (sender, outgoing) = queue();
        let running = tokio::spawn(run(
            url,
            Reach::Anywhere,
            Authorities::default(),
            reports,
            outgoing,
        ));
        let (_stream, _) = server.accept().await.unwrap();
        drop(sender);
        let ended = timeout(WRITE_TIMEOUT / 2, running).await;
        ended.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_room_server_sends_us_to_nothing_on_this_machine() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0"] {
            let (url, reports, mut reported) = line(&format!("turn:{host}:{port}?transport=tcp"));
            let (_sender, outgoing) = queue();
            let authorities = Authorities::default();
            run(url, Reach::Elsewhere, authorities, reports, outgoing).await;
            let (_, told) = reported.recv().await.unwrap();
            let is_refused =
                matches!(&told, WireEvent::Failed(why) if why.contains("a room server may not"));
            assert!(is_refused, "{host}: {told:?}");
        }
    }

    #[tokio::test]
    async fn a_web_server_is_told_from_a_server_that_is_silent() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let (url, reports, mut reported) = line(&format!("turn:{address}?transport=tcp"));
        let (_sender, outgoing) = queue();
        let running = tokio::spawn(run(
            url,
            Reach::Anywhere,
            Authorities::default(),
            reports,
            outgoing,
        ));
        let (mut stream, _) = server.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad\r\n").await.unwrap();
        let (_, opened) = reported.recv().await.unwrap();
        let (_, last) = reported.recv().await.unwrap();
        assert!(matches!(opened, WireEvent::Opened), "{opened:?}");
        assert!(matches!(last, WireEvent::NotTurn), "{last:?}");
        running.await.unwrap();
    }

    #[tokio::test]
    async fn where_the_first_address_of_a_name_leads_nowhere_the_next_is_tried() {
        let server = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
        let no_network = SocketAddr::from(([255, 255, 255, 255], address.port()));
        let authorities = Authorities::default();
        for transport in ["tcp", "udp"] {
            let url = format!("turn:turn.example?transport={transport}");
            let url = url.parse().unwrap();
            connect(&url, &[no_network, nobody, address], &authorities)
                .await
                .unwrap();
        }
        let url = "turn:turn.example".parse().unwrap();
        assert!(connect(&url, &[], &authorities).await.is_err());
    }

    #[tokio::test]
    async fn nothing_is_left_of_a_server_that_reads_nothing() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let (url, reports, mut reported) = line(&format!("turn:{address}?transport=tcp"));
        let (sender, outgoing) = queue();
        let running = tokio::spawn(run(
            url,
            Reach::Anywhere,
            Authorities::default(),
            reports,
            outgoing,
        ));
        let (_stream, _) = server.accept().await.unwrap();
        assert!(matches!(
            reported.recv().await,
            Some((_, WireEvent::Opened))
        ));
        // More than the kernel keeps for both ends.
        for _ in 0..64 {
            assert!(sender.post(vec![0; 1 << 20], crate::clock::now()));
        }
        let ended = timeout(WRITE_TIMEOUT * 2, running).await;
        ended.unwrap().unwrap();
        drop(sender);
        let (_, last) = reported.recv().await.unwrap();
        assert!(matches!(last, WireEvent::Unreachable), "{last:?}");
    }
}
