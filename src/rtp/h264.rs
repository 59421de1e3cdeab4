//! Access units to RTP payloads (RFC 6184).
