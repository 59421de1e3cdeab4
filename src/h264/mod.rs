//! The bitstream: read and rewritten, never decoded.
pub mod annexb;
