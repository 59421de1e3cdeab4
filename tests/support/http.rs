//! HTTP/1.1 requests as they are written, one for each connection.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: String,
}

impl Answer {
    /// Returns the value of a header field; an empty one where it is not there.
    pub(crate) fn field(&self, name: &str) -> &str {
        let mut fields = self.fields.iter();
        fields.find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }
}

/// Sends a request with these header fields (`Name: value`) and reads the answer.
pub(crate) async fn request(
    address: SocketAddr,
    what: &str,
    fields: &[&str],
    content: &str,
) -> Answer {
    let mut head = format!("{what} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for field in fields {
        head.push_str(field);
        head.push_str("\r\n");
    }
    if !content.is_empty() {
        head.push_str(&format!("Content-Length: {}\r\n", content.len()));
    }
    let request = format!("{head}\r\n{content}");
    let answer = tokio::time::timeout(PATIENCE, async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // A server that has read enough may answer and close before it has all.
        stream.write_all(request.as_bytes()).await.ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8(answer).unwrap()
    });
    parse(&answer.await.expect("the server answers"))
}

fn parse(text: &str) -> Answer {
    let (head, content) = text.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let field = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_ascii_lowercase(), value.to_owned()))
    };
    Answer {
        status: status.and_then(|s| s.parse().ok()).expect("a status"),
        fields: lines.filter_map(field).collect(),
        content: content.to_owned(),
    }
}
