//! TURN: a relay server lends us an address that viewers reach who cannot reach ours (RFC 8656).
//!
//! | file             | what                                                             |
//! |------------------|------------------------------------------------------------------|
//! | `url.rs`         | `turn:` and `turns:` URLs                                        |
//! | `credentials.rs` | user names and passwords, minted from a shared secret            |
//! | `message.rs`     | the texts of STUN and TURN, and their signatures                 |
//! | `framing.rs`     | where a message ends on a stream                                 |
//! | `client.rs`      | one allocation: asked for, kept, used and given back             |
//! | `reach.rs`       | which addresses a room server may send us to                     |
//! | `relays.rs`      | which server is asked, and when                                  |
//!
//! Pure; `engine/turn.rs` has the sockets. Left out: relayed TCP (RFC 6062), IPv6 relays,
//! alternate servers (300), SHA-256 passwords (every server takes the older ones as well).

pub mod client;
pub mod credentials;
pub mod framing;
pub mod message;
pub mod reach;
pub mod relays;
pub mod url;
