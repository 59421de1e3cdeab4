//! Tries to listen where the daemon does, and asks STUN servers; `/proc/net` says who has a port.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::time::Duration;

use super::network::Port;
use crate::engine::gather;
use crate::page;
use crate::video::holder;

/// How long what listens may take to say that it is roomcam.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How long an answer of a STUN server is waited for before it is asked again (RFC 8489 §6.2.1).
const STUN_WAITS: [Duration; 3] = [
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// Says who has a TCP port that could not be had.
pub(super) fn tcp_holder(address: SocketAddr) -> Port {
    if is_roomcam(address).unwrap_or(false) {
        return Port::Answers;
    }
    Port::Held(holder_of(
        address.port(),
        &["/proc/net/tcp", "/proc/net/tcp6"],
    ))
}

/// Tries to take a UDP port, and gives it back.
pub(super) fn udp(port: u16) -> Port {
    match UdpSocket::bind(SocketAddr::from(([0, 0, 0, 0], port))) {
        Ok(_) => Port::Free,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            Port::Held(holder_of(port, &["/proc/net/udp", "/proc/net/udp6"]))
        }
        Err(error) => Port::Unavailable(format!("UDP {port}: {error}")),
    }
}

/// Asks the STUN server `host:port` how it sees us.
pub(super) fn ask_stun(server: &str) -> Result<SocketAddr, String> {
    let addresses = server.to_socket_addrs();
    let addresses = addresses.map_err(|error| format!("is not found: {error}"))?;
    let mut addresses = addresses.filter(SocketAddr::is_ipv4);
    let address = addresses.next().ok_or("has no IPv4 address")?;
    let failed = |error: io::Error| format!("cannot be asked: {error}");
    let socket = UdpSocket::bind(("0.0.0.0", 0)).map_err(failed)?;
    socket.connect(address).map_err(failed)?;
    let mut transaction = [0; 12];
    getrandom::fill(&mut transaction).map_err(|error| format!("cannot be asked: {error}"))?;
    let mut answer = [0; 512];
    for wait in STUN_WAITS {
        socket.set_read_timeout(Some(wait)).map_err(failed)?;
        socket
            .send(&gather::binding_request(transaction))
            .map_err(failed)?;
        // Nobody there, or nobody yet: asked again.
        let length = socket.recv(&mut answer).unwrap_or_default();
        let answer = answer.get(..length).unwrap_or_default();
        if let Some(mapped) = gather::mapped_address(answer, transaction) {
            return Ok(mapped);
        }
    }
    Err("does not answer".to_owned())
}

/// Asks who listens at `address` whether it is a roomcam.
fn is_roomcam(address: SocketAddr) -> io::Result<bool> {
    let local = SocketAddr::new(page::from_here(address.ip()), address.port());
    let mut stream = TcpStream::connect_timeout(&local, ANSWERS_WITHIN)?;
    stream.set_read_timeout(Some(ANSWERS_WITHIN))?;
    write!(stream, "GET /healthz HTTP/1.0\r\nHost: {local}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(4_096).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.contains(" 200 ") && answer.ends_with("\r\n\r\nok"))
}

fn holder_of(port: u16, tables: &[&str]) -> Option<String> {
    let tables = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok());
    tables
        .flat_map(|table| inodes(&table, port))
        .find_map(holder::of_socket)
}

/// Returns the sockets of a table of `/proc/net` that listen at a port.
fn inodes(table: &str, port: u16) -> Vec<u64> {
    // A TCP socket that listens, and a UDP socket that is not connected.
    const LISTENS: [&str; 2] = ["0A", "07"];
    let of_line = |line: &str| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?;
        let state = fields.nth(1)?;
        let (_, number) = local.rsplit_once(':')?;
        let is_it = u16::from_str_radix(number, 16) == Ok(port) && LISTENS.contains(&state);
        is_it.then(|| fields.nth(5)?.parse().ok())?
    };
    table.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn who_listens_is_found_by_its_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
           0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 31337 1 0 100 0\n\
           1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 31338 1 0 100 0\n";
        assert_eq!(inodes(table, 8080), [31337]);
        assert!(inodes(table, 8081).is_empty());
        assert!(inodes("nonsense", 8080).is_empty());
    }

    #[test]
    fn a_port_that_is_taken_is_not_free() {
        let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        // Who it is stays open: it is this very process, which does not count.
        assert_eq!(udp(port), Port::Held(None));
        drop(taken);
        assert_eq!(udp(port), Port::Free);
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let server = std::thread::spawn(move || drop(taken.accept()));
        assert_eq!(tcp_holder(address), Port::Held(None));
        server.join().unwrap();
    }

    #[test]
    fn a_stun_server_tells_our_address_and_a_silent_one_is_given_up() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let name = server.local_addr().unwrap().to_string();
        let answering = std::thread::spawn(move || {
            let mut request = [0; 64];
            let (length, from) = server.recv_from(&mut request).unwrap();
            let mut answer = request[..length].to_vec();
            (answer[0], answer[1], answer[3]) = (1, 1, 12);
            answer.extend([0, 0x20, 0, 8, 0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
            server.send_to(&answer, from).unwrap();
        });
        let ours = SocketAddr::from(([192, 0, 2, 1], 32853));
        assert_eq!(ask_stun(&name), Ok(ours));
        answering.join().unwrap();
        assert!(
            ask_stun("name.invalid:3478")
                .unwrap_err()
                .starts_with("is not found")
        );
    }
}
