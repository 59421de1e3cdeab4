//! One connection to a room server: name → address → TCP → TLS → WebSocket; and what went wrong, in
//! words that name the remedy.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64;
use percent_encoding::percent_decode_str;
use rustls::{CertificateError, InvalidMessage};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, LOCATION, USER_AGENT};
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};
use tokio_tungstenite::{Connector, MaybeTlsStream, WebSocketStream, client_async_tls_with_config};
use url::Url;

use super::tls::Authorities;
use crate::config::Headers;
use crate::signaling::MAX_MESSAGE_BYTES;

/// Buffer for reading, in bytes: a description fits.
const BUFFER_BYTES: usize = 16 * 1024;

/// Longest message that is read, in bytes, to be ignored from [`MAX_MESSAGE_BYTES`] on: servers pass on what
/// others in a room say, and nobody there should be able to end our connection.
const MAX_READ_BYTES: usize = 8 * MAX_MESSAGE_BYTES;

/// How long all addresses of a name may take, if there are several. A home whose IPv6 leads nowhere is
/// still reached by IPv4 within the time that connecting may take in all, which is 10 s.
const ADDRESSES_TIMEOUT: Duration = Duration::from_secs(8);

/// How many addresses of a name are tried.
const MAX_ADDRESSES: usize = 8;

/// How much of what a server says is repeated, in characters.
const MAX_QUOTE_CHARS: usize = 100;

pub(super) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A room server, and what it wants to see.
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    /// `ws` or `wss`, with path and query.
    server: Url,
    headers: Headers,
    authorities: Authorities,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error(
        "the name {host} was not found: check room.server and this machine's network ({source})"
    )]
    Name { host: String, source: io::Error },
    #[error("nothing listens at {address}: check room.server, and that the room server runs")]
    Refused { address: SocketAddr },
    #[error("no answer from {address}: check room.server, and the firewalls in between")]
    NoAnswer { address: SocketAddr },
    #[error("no way to {address}: check this machine's network ({source})")]
    NoWay {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("this machine has no CA certificates: install ca-certificates, or set room.ca_file")]
    NoAuthorities,
    #[error("{0}")]
    Certificate(String),
    #[error("it does not speak TLS there: write \"ws://\" instead of \"wss://\", or another port")]
    NotTls,
    #[error("no TLS with it: {0}")]
    Tls(rustls::Error),
    #[error("it lets nobody in without credentials ({status}): set room.headers")]
    Credentials { status: String },
    #[error(
        "there is no room server at {path} ({status}): add its path to room.server, or set room.dialect"
    )]
    NotThere { path: String, status: String },
    #[error("it has moved to {location:?}: write that into room.server")]
    Moved { location: String },
    #[error("it opens no WebSocket at {path} ({status}): check room.server and room.dialect")]
    NoWebSocket { path: String, status: String },
    #[error("it is out of order ({status})")]
    OutOfOrder { status: String },
    #[error("it speaks no WebSocket: check the port and \"ws://\" or \"wss://\" of room.server")]
    NotHttp,
    #[error("it broke off: {0}")]
    BrokeOff(io::Error),
    #[error(transparent)]
    Other(tungstenite::Error),
}

impl Endpoint {
    pub(super) const fn new(server: Url, headers: Headers, authorities: Authorities) -> Self {
        Self {
            server,
            headers,
            authorities,
        }
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// [`ConnectError`]; all of them may heal by themselves.
    pub(super) async fn connect(self) -> Result<Socket, ConnectError> {
        let request = self.request().map_err(ConnectError::Other)?;
        let stream = self.reach().await?;
        let connector = if self.server.scheme() == "wss" {
            let authorities = self.authorities.clone();
            let reading = tokio::task::spawn_blocking(move || authorities.client_config());
            let config = reading
                .await
                .map_err(|e| ConnectError::BrokeOff(e.into()))?;
            let config = config.map_err(|_| ConnectError::NoAuthorities)?;
            Connector::Rustls(Arc::new(config))
        } else {
            Connector::Plain
        };
        let config = WebSocketConfig::default()
            .read_buffer_size(BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MAX_READ_BYTES))
            .max_frame_size(Some(MAX_READ_BYTES));
        client_async_tls_with_config(request, stream, Some(config), Some(connector))
            .await
            .map(|(socket, _response)| socket)
            .map_err(|error| self.explain(error))
    }

    /// Returns the request that opens the WebSocket.
    fn request(&self) -> Result<Request, tungstenite::Error> {
        let mut url = self.server.clone();
        let basic = basic_authorization(&url);
        // These cannot fail: there is a host.
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return Err(tungstenite::error::UrlError::NoHostName.into());
        }
        let mut request = url.as_str().into_client_request()?;
        let headers = request.headers_mut();
        let agent = concat!("roomcam/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        if let Some(basic) = basic {
            headers.insert(AUTHORIZATION, secret_value(&basic)?);
        }
        for (name, value) in self.headers.iter() {
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(http_error)?;
            headers.insert(name, secret_value(value.expose())?);
        }
        Ok(request)
    }

    /// Connects to the first address of the name that answers.
    async fn reach(&self) -> Result<TcpStream, ConnectError> {
        let host = self.host();
        let port = self.server.port_or_known_default().unwrap_or_default();
        let name = |source| ConnectError::Name {
            host: host.to_owned(),
            source,
        };
        let addresses = tokio::net::lookup_host((host, port)).await.map_err(name)?;
        let addresses: Vec<SocketAddr> = addresses.take(MAX_ADDRESSES).collect();
        let mut last = name(io::ErrorKind::NotFound.into());
        for &address in &addresses {
            let connecting = TcpStream::connect(address);
            let connected = if addresses.len() > 1 {
                let late = |_| Err(io::ErrorKind::TimedOut.into());
                let share = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
                timeout(ADDRESSES_TIMEOUT / share, connecting)
                    .await
                    .unwrap_or_else(late)
            } else {
                connecting.await
            };
            // Signaling is a handful of small texts: waiting to fill a segment would only delay them.
            let ready = connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream));
            match ready {
                Ok(stream) => return Ok(stream),
                Err(source) => last = unreachable(address, source),
            }
        }
        Err(last)
    }

    /// Returns the host without the brackets of IPv6, as name lookups and certificates have it.
    fn host(&self) -> &str {
        let host = self.server.host_str().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    fn explain(&self, error: tungstenite::Error) -> ConnectError {
        match error {
            tungstenite::Error::Http(response) => self.explain_answer(&response),
            tungstenite::Error::Io(error) => match rustls_error(&error) {
                Some(error) => self.explain_tls(error),
                None => ConnectError::BrokeOff(error),
            },
            tungstenite::Error::Protocol(ProtocolError::HandshakeIncomplete) => {
                ConnectError::BrokeOff(io::ErrorKind::UnexpectedEof.into())
            }
            tungstenite::Error::Protocol(_) => ConnectError::NotHttp,
            other => ConnectError::Other(other),
        }
    }

    /// Explains an answer that is not "101 Switching Protocols".
    fn explain_answer<T>(&self, response: &tungstenite::http::Response<T>) -> ConnectError {
        let path = shortened(self.server.path());
        let status = response.status().to_string();
        if response.status().is_redirection()
            && let Some(location) = location(response)
        {
            return ConnectError::Moved { location };
        }
        match response.status().as_u16() {
            401 | 403 | 407 => ConnectError::Credentials { status },
            404 | 410 => ConnectError::NotThere { path, status },
            500..=599 => ConnectError::OutOfOrder { status },
            _ => ConnectError::NoWebSocket { path, status },
        }
    }

    fn explain_tls(&self, error: &rustls::Error) -> ConnectError {
        let host = self.host();
        let text = match error {
            rustls::Error::InvalidCertificate(certificate) => match certificate {
                CertificateError::UnknownIssuer if self.authorities.is_empty() => {
                    "its TLS certificate is signed by no CA that this machine knows: set room.ca_file \
                     to its CA's certificate"
                        .to_owned()
                }
                // The other: a CA of that name is known, but it is another.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    "its TLS certificate is signed by no CA of this machine's nor of room.ca_file"
                        .to_owned()
                }
                CertificateError::NotValidForNameContext { presented, .. } => {
                    let names = shortened(&presented.join(", "));
                    format!(
                        "its TLS certificate is not for {host}: write into room.server a name that it \
                         is for ({names})"
                    )
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its TLS certificate has expired, or this machine's clock is wrong".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "its TLS certificate is not valid yet, or this machine's clock is wrong".to_owned()
                }
                CertificateError::Other(_) => {
                    // What `openssl req -x509` makes says that it is a CA's, unless told otherwise.
                    "its TLS certificate is none for a server: set room.ca_file to that very \
                     certificate, or give it one that a CA has signed"
                        .to_owned()
                }
                other => format!("its TLS certificate cannot be used: {other}"),
            },
            rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
                return ConnectError::NotTls;
            }
            other => return ConnectError::Tls(other.clone()),
        };
        ConnectError::Certificate(text)
    }
}

fn unreachable(address: SocketAddr, source: io::Error) -> ConnectError {
    match source.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused { address },
        io::ErrorKind::TimedOut => ConnectError::NoAnswer { address },
        _ => ConnectError::NoWay { address, source },
    }
}

/// Returns what TLS found wrong, where it was TLS.
fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Returns where a server sends us, without a query.
fn location<T>(response: &tungstenite::http::Response<T>) -> Option<String> {
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    location.split(['?', '#']).next().map(shortened)
}

/// Returns the header of user and password in an address (RFC 7617), as browsers send it.
fn basic_authorization(url: &Url) -> Option<String> {
    if url.username().is_empty() && url.password().is_none() {
        return None;
    }
    let mut pair: Vec<u8> = percent_decode_str(url.username()).collect();
    pair.push(b':');
    pair.extend(percent_decode_str(url.password().unwrap_or_default()));
    Some(format!("Basic {}", BASE64.encode(&pair)))
}

fn secret_value(value: &str) -> Result<HeaderValue, tungstenite::Error> {
    let mut value = HeaderValue::from_str(value).map_err(http_error)?;
    value.set_sensitive(true);
    Ok(value)
}

fn http_error(error: impl Into<tungstenite::http::Error>) -> tungstenite::Error {
    tungstenite::Error::HttpFormat(error.into())
}

fn shortened(text: &str) -> String {
    text.chars().take(MAX_QUOTE_CHARS).collect()
}
