//! The H.264 bitstream (ITU-T H.264): read and rewritten, never decoded. Pure.
//!
//! | file             | what                                                             |
//! |------------------|------------------------------------------------------------------|
//! | `annexb.rs`      | byte stream → NAL units                                          |
//! | `access_unit.rs` | NAL units → access units; what kind of picture one holds         |
//! | `sps.rs`         | sequence parameter set: size, profile; VUI without reordering    |
//! | `bits.rs`        | Exp-Golomb codes, emulation prevention                           |

pub mod access_unit;
pub mod annexb;
pub mod bits;
pub mod sps;
