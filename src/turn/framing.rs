//! Where a message ends on a stream (RFC 8656 §12.5): STUN and ChannelData say how long they are.
//! Pure.

use super::message::{HEADER_BYTES, MAGIC_COOKIE};

/// Cuts a stream into messages. Holds less than one message, at most 64 KiB, and what was pushed.
#[derive(Debug, Default)]
pub struct Deframer {
    buffer: Vec<u8>,
    /// How much of it was taken already.
    taken: usize,
    /// Whether a STUN message came. A server's first words are an answer; "HTTP" would be read as
    /// ChannelData of 21 kB, for which one would wait in vain.
    has_answered: bool,
}

/// The stream carries something else; close it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the server sends what is no TURN")]
pub struct NotTurn;

impl Deframer {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next whole message, without padding.
    ///
    /// # Errors
    ///
    /// [`NotTurn`]; there is no way to find the next message.
    pub fn pop(&mut self) -> Result<Option<Vec<u8>>, NotTurn> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let [first, _, l0, l1, ..] = rest else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let mut cookie = rest.iter().skip(4).zip(MAGIC_COOKIE);
        let (length, padded) = match first & 0xc0 {
            0x00 if cookie.all(|(byte, magic)| *byte == magic) => {
                (HEADER_BYTES + length, HEADER_BYTES + length)
            }
            0x40 if self.has_answered => (4 + length, (4 + length).next_multiple_of(4)),
            _ => return Err(NotTurn),
        };
        if rest.len() < padded {
            return Ok(None);
        }
        let message = rest.get(..length).map(<[u8]>::to_vec);
        self.taken += padded;
        self.has_answered = true;
        Ok(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::message::{Writer, attribute, channel_data, class, method};

    #[test]
    fn messages_are_found_wherever_the_stream_is_cut() {
        let stun = Writer::new(method::REFRESH | class::SUCCESS, [1; 12])
            .with(attribute::LIFETIME, &[0, 0, 2, 88])
            .unsigned();
        let stream = [
            stun.clone(),
            channel_data(0x4000, b"hello", true),
            stun.clone(),
        ]
        .concat();
        let unpadded = channel_data(0x4000, b"hello", false);
        for size in 1..stream.len() {
            let mut deframer = Deframer::default();
            let mut found = Vec::new();
            for piece in stream.chunks(size) {
                deframer.push(piece);
                while let Some(message) = deframer.pop().unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, [stun.clone(), unpadded.clone(), stun.clone()]);
        }
    }

    #[test]
    fn a_server_that_speaks_something_else_is_noticed() {
        for (name, words) in [
            ("a web server", b"HTTP/1.1 400 Bad Request".as_slice()),
            ("TLS", &[0x15, 3, 3, 0, 2, 2, 70]),
            ("SSH", b"SSH-2.0-OpenSSH_9.2p1"),
            ("another", b"\xff\0\0\0"),
        ] {
            let mut deframer = Deframer::default();
            deframer.push(words);
            assert_eq!(deframer.pop(), Err(NotTurn), "{name}");
        }
    }
}
