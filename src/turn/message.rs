//! The messages of STUN and TURN: header, attributes, signature (RFC 8489 §5, §14; RFC 8656 §12, §18).
//!
//! A message is never longer than what carried it, and is read where it lies. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;

use super::credentials::{Credentials, hmac_sha1};

/// What each STUN message has behind its length (RFC 8489 §5).
pub(super) const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// Bytes in front of the attributes.
pub const HEADER_BYTES: usize = 20;

/// A transaction id (RFC 8489 §5).
pub type TransactionId = [u8; 12];

/// What a message asks for.
pub mod method {
    /// RFC 8489 §3.
    pub const BINDING: u16 = 0x001;
    /// RFC 8656 §7.
    pub const ALLOCATE: u16 = 0x003;
    /// RFC 8656 §8.
    pub const REFRESH: u16 = 0x004;
    /// RFC 8656 §11.1.
    pub const SEND: u16 = 0x006;
    /// RFC 8656 §11.4.
    pub const DATA: u16 = 0x007;
    /// RFC 8656 §10.
    pub const CREATE_PERMISSION: u16 = 0x008;
    /// RFC 8656 §12.
    pub const CHANNEL_BIND: u16 = 0x009;
}

/// What kind of message it is; added to the method.
pub mod class {
    /// Wants a response.
    pub const REQUEST: u16 = 0x000;
    /// Wants none.
    pub const INDICATION: u16 = 0x010;
    /// The request was granted.
    pub const SUCCESS: u16 = 0x100;
    /// It was not.
    pub const ERROR: u16 = 0x110;
}

/// Attribute types.
pub mod attribute {
    #![expect(missing_docs, reason = "the names are those of the specifications")]
    pub const USERNAME: u16 = 0x0006;
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub const ERROR_CODE: u16 = 0x0009;
    pub const CHANNEL_NUMBER: u16 = 0x000c;
    pub const LIFETIME: u16 = 0x000d;
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub const DATA: u16 = 0x0013;
    pub const REALM: u16 = 0x0014;
    pub const NONCE: u16 = 0x0015;
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
}

/// Returns whether a datagram of a viewer's connection is STUN (RFC 7983 §7).
#[must_use]
pub fn is_stun(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|byte| *byte < 4)
}

/// A message that is being written.
#[derive(Clone, Debug)]
pub struct Writer {
    bytes: Vec<u8>,
    transaction: TransactionId,
}

impl Writer {
    /// Begins a message. `kind` is a method and a class.
    #[must_use]
    pub fn new(kind: u16, transaction: TransactionId) -> Self {
        let mut bytes = kind.to_be_bytes().to_vec();
        bytes.extend([0, 0]);
        bytes.extend(MAGIC_COOKIE);
        bytes.extend(transaction);
        Self { bytes, transaction }
    }

    /// Adds an attribute. What does not fit is left out, which no attribute of ours is.
    #[must_use]
    pub fn with(mut self, kind: u16, value: &[u8]) -> Self {
        let padded = value.len().next_multiple_of(4);
        let (Ok(length), Ok(total)) = (
            u16::try_from(value.len()),
            u16::try_from(self.bytes.len() - HEADER_BYTES + 4 + padded),
        ) else {
            return self;
        };
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend(value);
        self.bytes.resize(usize::from(total) + HEADER_BYTES, 0);
        self.set_length(total);
        self
    }

    /// Adds an address.
    #[must_use]
    pub fn with_address(self, kind: u16, address: SocketAddr) -> Self {
        let [m0, m1, ..] = MAGIC_COOKIE;
        let [p0, p1] = address.port().to_be_bytes();
        let (family, ip) = match masked(address.ip(), self.transaction) {
            IpAddr::V4(v4) => (1, v4.octets().to_vec()),
            IpAddr::V6(v6) => (2, v6.octets().to_vec()),
        };
        let value = [vec![0, family, p0 ^ m0, p1 ^ m1], ip].concat();
        self.with(kind, &value)
    }

    /// Signs what there is so far, and ends the message.
    #[must_use]
    pub fn signed(mut self, key: &[u8]) -> Vec<u8> {
        // The signature is over a header that counts the signature (RFC 8489 §14.5).
        let unsigned = u16::try_from(self.bytes.len() - HEADER_BYTES).unwrap_or(u16::MAX);
        self.set_length(unsigned.saturating_add(24));
        let signature = hmac_sha1(key, &self.bytes);
        self.set_length(unsigned);
        self.with(attribute::MESSAGE_INTEGRITY, &signature).bytes
    }

    /// Ends the message without a signature.
    #[must_use]
    pub fn unsigned(self) -> Vec<u8> {
        self.bytes
    }

    fn set_length(&mut self, length: u16) {
        if let Some(field) = self.bytes.get_mut(2..4) {
            field.copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// A message that was received.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Method and class.
    pub kind: u16,
    /// Which request it belongs to.
    pub transaction: TransactionId,
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// Reads the header; `None`: this is no STUN message.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let [k0, k1, l0, l1, rest @ ..] = bytes else {
            return None;
        };
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let is_stun = k0 & 0xc0 == 0
            && rest.get(..4)? == MAGIC_COOKIE
            && bytes.len() == HEADER_BYTES + length;
        is_stun.then_some(Self {
            kind: u16::from_be_bytes([*k0, *k1]),
            transaction: rest.get(4..16)?.try_into().ok()?,
            bytes,
        })
    }

    /// Returns the value of the first attribute of this type.
    #[must_use]
    pub fn attribute(&self, kind: u16) -> Option<&'a [u8]> {
        self.find(kind).map(|(_, value)| value)
    }

    /// Returns the address in an attribute of this type.
    #[must_use]
    pub fn address(&self, kind: u16) -> Option<SocketAddr> {
        let [_, family, p0, p1, address @ ..] = self.attribute(kind)? else {
            return None;
        };
        let [m0, m1, ..] = MAGIC_COOKIE;
        let port = u16::from_be_bytes([p0 ^ m0, p1 ^ m1]);
        let ip = match family {
            1 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
            2 => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
            _ => return None,
        };
        Some(SocketAddr::new(masked(ip, self.transaction), port))
    }

    /// Returns the number in an attribute of 32 bits.
    #[must_use]
    pub fn number(&self, kind: u16) -> Option<u32> {
        let value = self.attribute(kind)?.try_into().ok()?;
        Some(u32::from_be_bytes(value))
    }

    /// Returns the error code, 300 to 699 (RFC 8489 §14.8).
    #[must_use]
    pub fn error_code(&self) -> Option<u16> {
        let [_, _, class, number, ..] = self.attribute(attribute::ERROR_CODE)? else {
            return None;
        };
        Some(u16::from(class & 7) * 100 + u16::from(*number))
    }

    /// Returns whether the message carries a signature made with `key`.
    #[must_use]
    pub fn is_signed_with(&self, key: &[u8]) -> bool {
        let Some((at, signature)) = self.find(attribute::MESSAGE_INTEGRITY) else {
            return false;
        };
        // Attributes may follow that are not signed: the header counts to the signature alone.
        let Some(mut signed) = self.bytes.get(..at).map(<[u8]>::to_vec) else {
            return false;
        };
        let length = u16::try_from(at + 24 - HEADER_BYTES).unwrap_or(u16::MAX);
        if let Some(field) = signed.get_mut(2..4) {
            field.copy_from_slice(&length.to_be_bytes());
        }
        hmac_sha1(key, &signed).ct_eq(signature).into()
    }

    /// Where an attribute begins, and its value.
    fn find(&self, wanted: u16) -> Option<(usize, &'a [u8])> {
        let mut at = HEADER_BYTES;
        while let [k0, k1, l0, l1, rest @ ..] = self.bytes.get(at..)? {
            let length = usize::from(u16::from_be_bytes([*l0, *l1]));
            let value = rest.get(..length)?;
            if u16::from_be_bytes([*k0, *k1]) == wanted {
                return Some((at, value));
            }
            at += 4 + length.next_multiple_of(4);
        }
        None
    }
}

/// Masks an address, or unmasks it (RFC 8489 §14.2).
fn masked(ip: IpAddr, transaction: TransactionId) -> IpAddr {
    let cookie = u32::from_be_bytes(MAGIC_COOKIE);
    match ip {
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() ^ cookie).into(),
        IpAddr::V6(v6) => {
            let mut mask = [0; 16];
            let (head, id) = mask.split_at_mut(4);
            head.copy_from_slice(&MAGIC_COOKIE);
            id.copy_from_slice(&transaction);
            Ipv6Addr::from_bits(v6.to_bits() ^ u128::from_be_bytes(mask)).into()
        }
    }
}

/// The key of long-term credentials (RFC 8489 §9.2.2).
#[must_use]
pub fn long_term_key(credentials: &Credentials, realm: &[u8]) -> [u8; 16] {
    Md5::new()
        .chain_update(&credentials.username)
        .chain_update(b":")
        .chain_update(realm)
        .chain_update(b":")
        .chain_update(credentials.password.expose())
        .finalize()
        .into()
}

/// Returns the ChannelData message of a datagram (RFC 8656 §12.4), padded as streams need it.
#[must_use]
pub fn channel_data(channel: u16, datagram: &[u8], padded: bool) -> Vec<u8> {
    let length = u16::try_from(datagram.len()).unwrap_or(u16::MAX);
    let mut bytes = Vec::with_capacity(datagram.len() + 8);
    bytes.extend(channel.to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend(datagram.get(..length.into()).unwrap_or_default());
    if padded {
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    bytes
}

/// Returns channel and datagram of a ChannelData message; `None`: this is none.
#[must_use]
pub fn read_channel_data(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let [c0, c1, l0, l1, rest @ ..] = bytes else {
        return None;
    };
    let length = usize::from(u16::from_be_bytes([*l0, *l1]));
    let datagram = rest.get(..length).filter(|_| c0 & 0xc0 == 0x40)?;
    Some((u16::from_be_bytes([*c0, *c1]), datagram))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const ID: TransactionId = [7; 12];

    #[test]
    fn what_is_written_is_read_again() {
        let address: SocketAddr = "[2001:db8::7]:40000".parse().unwrap();
        let message = Writer::new(method::ALLOCATE | class::ERROR, ID)
            .with(attribute::ERROR_CODE, &[0, 0, 4, 1, b'n', b'o'])
            .with(attribute::LIFETIME, &600_u32.to_be_bytes())
            .with_address(attribute::XOR_PEER_ADDRESS, address)
            .signed(b"key");
        let read = Message::read(&message).unwrap();
        assert_eq!((read.kind, read.transaction), (0x113, ID));
        assert_eq!(read.error_code(), Some(401));
        assert_eq!(read.number(attribute::LIFETIME), Some(600));
        assert_eq!(read.address(attribute::XOR_PEER_ADDRESS), Some(address));
        assert!(read.is_signed_with(b"key") && !read.is_signed_with(b"other"));
        assert_eq!(read.attribute(attribute::NONCE), None);
    }

    /// RFC 5769 §2.4: the username is Japanese; its password has been prepared already.
    #[test]
    fn signs_as_the_test_vector_does() {
        let request = [
            0x00, 0x01, 0x00, 0x60, 0x21, 0x12, 0xa4, 0x42, 0x78, 0xad, 0x34, 0x33, 0xc6, 0xad,
            0x72, 0xc0, 0x29, 0xda, 0x41, 0x2e, 0x00, 0x06, 0x00, 0x12, 0xe3, 0x83, 0x9e, 0xe3,
            0x83, 0x88, 0xe3, 0x83, 0xaa, 0xe3, 0x83, 0x83, 0xe3, 0x82, 0xaf, 0xe3, 0x82, 0xb9,
            0x00, 0x00, 0x00, 0x15, 0x00, 0x1c, 0x66, 0x2f, 0x2f, 0x34, 0x39, 0x39, 0x6b, 0x39,
            0x35, 0x34, 0x64, 0x36, 0x4f, 0x4c, 0x33, 0x34, 0x6f, 0x4c, 0x39, 0x46, 0x53, 0x54,
            0x76, 0x79, 0x36, 0x34, 0x73, 0x41, 0x00, 0x14, 0x00, 0x0b, 0x65, 0x78, 0x61, 0x6d,
            0x70, 0x6c, 0x65, 0x2e, 0x6f, 0x72, 0x67, 0x00, 0x00, 0x08, 0x00, 0x14, 0xf6, 0x70,
            0x24, 0x65, 0x6d, 0xd6, 0x4a, 0x3e, 0x02, 0xb8, 0xe0, 0x71, 0x2e, 0x85, 0xc9, 0xa2,
            0x8c, 0xa8, 0x96, 0x66,
        ];
        let credentials = Credentials {
            username: "マトリックス".to_owned(),
            password: Secret::new("TheMatrIX".to_owned()),
        };
        let key = long_term_key(&credentials, b"example.org");
        let read = Message::read(&request).unwrap();
        assert!(read.is_signed_with(&key));
        let written = Writer::new(0x001, read.transaction)
            .with(attribute::USERNAME, credentials.username.as_bytes())
            .with(attribute::NONCE, read.attribute(attribute::NONCE).unwrap())
            .with(attribute::REALM, b"example.org")
            .signed(&key);
        assert_eq!(written, request);
    }

    #[test]
    fn damaged_messages_are_no_panic() {
        let whole = Writer::new(method::DATA | class::INDICATION, ID)
            .with_address(attribute::XOR_PEER_ADDRESS, ([192, 0, 2, 1], 9).into())
            .with(attribute::DATA, b"hello")
            .signed(b"key");
        for end in 0..whole.len() {
            let mut part = whole[..end].to_vec();
            assert!(Message::read(&part).is_none());
            // With a header that says so, it is whole in name.
            if let Some(length) = end.checked_sub(HEADER_BYTES) {
                part[2..4].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
                let read = Message::read(&part).unwrap();
                assert!(read.address(attribute::XOR_PEER_ADDRESS).is_none() || end >= 32);
                assert!(!read.is_signed_with(b"key"));
            }
            assert_eq!(read_channel_data(&part), None);
        }
    }

    #[test]
    fn a_datagram_on_a_channel_is_padded_for_streams_alone() {
        let bytes = channel_data(0x4001, b"hello", false);
        assert_eq!(bytes, [0x40, 1, 0, 5, b'h', b'e', b'l', b'l', b'o']);
        let padded = channel_data(0x4001, b"hello", true);
        assert_eq!(padded.len(), 12);
        for bytes in [bytes, padded] {
            assert_eq!(read_channel_data(&bytes), Some((0x4001, &b"hello"[..])));
        }
        assert_eq!(read_channel_data(&[0, 1, 0, 0]), None);
    }
}
