//! What a browser's offer holds, read before anything is done with it (RFC 8866, RFC 9429).
//!
//! Only the few lines that decide whether and how it can be answered; everything else is `rtc`'s
//! business. Pure.

/// Largest offer that is read, in bytes. Chromium's with every codec is about 8 kB.
pub const MAX_OFFER_BYTES: usize = 100 * 1024;

/// Most m-lines an offer may have. A page that watches has three.
pub const MAX_MEDIA: usize = 16;

/// Most candidates of one viewer, in its offer or behind it. Browsers send about ten; each is
/// checked from every address of ours.
pub const MAX_CANDIDATES: usize = 64;

/// Longest session id, in bytes: it is a number of 64 bits.
const MAX_SESSION_BYTES: usize = 32;

/// Most lines an offer may have: a full one of Chromium's has about 250.
const MAX_LINES: usize = 4_000;

/// An offer, in brief.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Session id of the `o=` line: it names the viewer's peer connection.
    pub session: String,
    /// ICE user name fragment of the first m-line that has one.
    pub ufrag: String,
}

/// Why an offer cannot be answered. The messages are shown to viewers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Over [`MAX_OFFER_BYTES`].
    #[error("the offer is over 100 kB")]
    TooLarge,
    /// Over [`MAX_MEDIA`] m-lines, [`MAX_CANDIDATES`] candidates or far too many lines.
    #[error("the offer has too many m-lines, candidates or lines")]
    TooMany,
    /// Not SDP.
    #[error("the offer is no session description (RFC 8866)")]
    Malformed,
    /// No m-lines.
    #[error("the offer has no media: ask for audio and video, receive only")]
    NoMedia,
    /// No ICE credentials or no DTLS fingerprint.
    #[error("the offer lacks ICE credentials or a DTLS fingerprint")]
    NoTransport,
    /// Nothing that the device could send is wanted: it is another camera, or asks for data alone.
    #[error("nothing is asked for: audio and video must be received, not only sent")]
    NothingWanted,
    /// A video m-line without H.264 in packetization mode 1.
    #[error("the browser offered no H.264 (Firefox: enable its OpenH264 plugin)")]
    NoH264,
}

/// Reads an offer.
///
/// # Errors
///
/// [`OfferError`], to be told to the viewer.
pub fn read(sdp: &str) -> Result<Offer, OfferError> {
    if sdp.len() > MAX_OFFER_BYTES {
        return Err(OfferError::TooLarge);
    }
    if sdp.lines().count() > MAX_LINES {
        return Err(OfferError::TooMany);
    }
    let mut lines = sdp.lines();
    if lines.next() != Some("v=0") {
        return Err(OfferError::Malformed);
    }
    let session = session(sdp).ok_or(OfferError::Malformed)?.to_owned();
    let media = sdp.lines().filter(|line| line.starts_with("m=")).count();
    if media == 0 {
        return Err(OfferError::NoMedia);
    }
    let is_candidate = |line: &&str| line.starts_with("a=candidate:");
    if media > MAX_MEDIA || sdp.lines().filter(is_candidate).count() > MAX_CANDIDATES {
        return Err(OfferError::TooMany);
    }
    let attribute = |name: &str| {
        sdp.lines().find_map(|line| {
            line.strip_prefix("a=")?
                .strip_prefix(name)?
                .strip_prefix(':')
        })
    };
    let ufrag = attribute("ice-ufrag").filter(|ufrag| ufrag.len() <= 256);
    let (Some(ufrag), Some(_), Some(_)) = (ufrag, attribute("ice-pwd"), attribute("fingerprint"))
    else {
        return Err(OfferError::NoTransport);
    };
    if !wants_media(sdp) {
        return Err(OfferError::NothingWanted);
    }
    let wants_video = sdp
        .lines()
        .any(|line| line.starts_with("m=video ") && !line.starts_with("m=video 0 "));
    if wants_video && !offers_h264(sdp) {
        return Err(OfferError::NoH264);
    }
    Ok(Offer {
        session,
        ufrag: ufrag.to_owned(),
    })
}

/// Whether some line for picture or sound is open, and receives.
fn wants_media(sdp: &str) -> bool {
    let mut is_open = false;
    let mut receives = true;
    for line in sdp.lines() {
        if let Some(media) = line.strip_prefix("m=") {
            if is_open && receives {
                return true;
            }
            let is_media = media.starts_with("audio ") || media.starts_with("video ");
            is_open = is_media && media.split(' ').nth(1) != Some("0");
            receives = true;
        }
        match line {
            "a=sendonly" | "a=inactive" => receives = false,
            _ => {}
        }
    }
    is_open && receives
}

/// Whether some payload type is H.264 in packetization mode 1, Constrained Baseline or Baseline.
fn offers_h264(sdp: &str) -> bool {
    let formats = sdp.lines().filter_map(|line| {
        let (payload_type, codec) = line.strip_prefix("a=rtpmap:")?.split_once(' ')?;
        codec
            .get(..5)
            .is_some_and(|name| name.eq_ignore_ascii_case("h264/"))
            .then_some(payload_type)
    });
    formats.into_iter().any(|payload_type| {
        sdp.lines().any(|line| {
            line.strip_prefix("a=fmtp:")
                .and_then(|rest| rest.strip_prefix(payload_type))
                .is_some_and(|parameters| {
                    parameters.starts_with(' ') && parameters.contains("packetization-mode=1")
                })
        })
    })
}

/// Returns the session id of the `o=` line, which names the peer connection.
#[must_use]
pub fn session(sdp: &str) -> Option<&str> {
    let origin = sdp.lines().find_map(|line| line.strip_prefix("o="))?;
    let session = origin.split(' ').nth(1)?;
    (1..=MAX_SESSION_BYTES)
        .contains(&session.len())
        .then_some(session)
}

/// Returns whether a description has any m-lines.
#[must_use]
pub fn has_media(sdp: &str) -> bool {
    sdp.lines().any(|line| line.starts_with("m="))
}

/// Returns whether an offer is one of our own page's, as far as it tells: it has a data channel and
/// nothing to show, and of sound a line alone, on which nothing is sent yet.
#[must_use]
pub fn is_own_page(sdp: &str) -> bool {
    let sections = || sdp.split("\nm=").skip(1);
    let sends = |section: &str| {
        let mut lines = section.lines();
        lines.any(|line| matches!(line.trim_end(), "a=sendrecv" | "a=sendonly"))
    };
    // A line with a track of a stream names the stream (RFC 8830 §2); `-` stands for none.
    let has_stream = |section: &str| {
        let stream = |line: &str| line.starts_with("a=msid:") && !line.starts_with("a=msid:- ");
        section.lines().any(stream)
    };
    sections().any(|section| section.starts_with("application "))
        && !sections().any(|section| {
            sends(section) && (!section.starts_with("audio ") || has_stream(section))
        })
}

/// Returns whether a viewer that offers this may be let speak: it sends sound, and has a data channel to
/// say when.
#[must_use]
pub fn can_talk(sdp: &str) -> bool {
    let sections = || sdp.split("\nm=").skip(1);
    let is_both_ways = |section: &str| section.lines().any(|line| line.trim_end() == "a=sendrecv");
    sections().any(|section| section.starts_with("application "))
        && sections().any(|section| section.starts_with("audio ") && is_both_ways(section))
}

/// Returns the ICE user name fragments of a description, ours or theirs.
pub fn ufrags(sdp: &str) -> impl Iterator<Item = &str> {
    sdp.lines()
        .filter_map(|line| line.strip_prefix("a=ice-ufrag:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=- 46117 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
        a=group:BUNDLE 0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96 102\r\na=ice-ufrag:ZsaO\r\n\
        a=ice-pwd:0123456789012345678901\r\na=fingerprint:sha-256 00:11\r\n\
        a=rtpmap:96 VP8/90000\r\na=rtpmap:102 H264/90000\r\n\
        a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n";

    #[test]
    fn reads_what_names_the_peer_connection() {
        let offer = read(OFFER).unwrap();
        assert_eq!(
            (offer.session.as_str(), offer.ufrag.as_str()),
            ("46117", "ZsaO")
        );
        assert_eq!(ufrags(OFFER).collect::<Vec<_>>(), ["ZsaO"]);
    }

    #[test]
    fn says_what_is_wrong_with_an_offer() {
        let without = |cut: &str| read(&OFFER.replace(cut, "a=x:"));
        assert_eq!(read("hello"), Err(OfferError::Malformed));
        assert_eq!(read(""), Err(OfferError::Malformed));
        assert_eq!(without("a=fingerprint:"), Err(OfferError::NoTransport));
        assert_eq!(without("a=ice-ufrag:"), Err(OfferError::NoTransport));
        assert_eq!(without("m=video 9 "), Err(OfferError::NoMedia));
        assert_eq!(without("a=rtpmap:102 "), Err(OfferError::NoH264));
        let mode_0 = OFFER.replace("packetization-mode=1", "packetization-mode=0");
        assert_eq!(read(&mode_0), Err(OfferError::NoH264));
        let many = OFFER.to_owned() + &"m=audio 9 X 0\r\n".repeat(MAX_MEDIA);
        assert_eq!(read(&many), Err(OfferError::TooMany));
        let candidate = "a=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n";
        let candidates = OFFER.to_owned() + &candidate.repeat(MAX_CANDIDATES + 1);
        assert_eq!(read(&candidates), Err(OfferError::TooMany));
        let huge = OFFER.to_owned() + &"a".repeat(MAX_OFFER_BYTES);
        assert_eq!(read(&huge), Err(OfferError::TooLarge));
    }

    #[test]
    fn another_camera_is_no_viewer() {
        for direction in ["a=sendonly\r\n", "a=inactive\r\n"] {
            let offer = OFFER.to_owned() + direction;
            assert_eq!(read(&offer), Err(OfferError::NothingWanted));
            let both = offer + "m=audio 9 X 111\r\na=recvonly\r\n";
            assert!(read(&both).is_ok());
        }
        let rejected = OFFER.replace("m=video 9", "m=video 0");
        assert_eq!(read(&rejected), Err(OfferError::NothingWanted));
        let data = OFFER.replace("m=video", "m=application");
        assert_eq!(read(&data), Err(OfferError::NothingWanted));
    }

    #[test]
    fn our_own_page_has_a_line_to_speak_on_and_nothing_to_show() {
        let data = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\n";
        let audio = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=sendrecv\r\n";
        let video = OFFER.to_owned() + "a=recvonly\r\n";
        let page = format!("{video}{audio}a=msid:- 4f1c\r\n{data}");
        assert!(is_own_page(&page) && can_talk(&page));
        let silent = format!("{video}{data}");
        assert!(is_own_page(&silent) && !can_talk(&silent));
        let with_microphone = format!("{video}{audio}a=msid:5a 4f1c\r\n{data}");
        assert!(!is_own_page(&with_microphone) && can_talk(&with_microphone));
        let call = format!("{OFFER}a=sendrecv\r\n{data}");
        assert!(!is_own_page(&call) && !can_talk(&call));
        let no_channel = format!("{video}{audio}");
        assert!(!is_own_page(&no_channel) && !can_talk(&no_channel));
    }

    #[test]
    fn sound_alone_needs_no_h264() {
        let audio = OFFER.replace("m=video", "m=audio").replace("H264", "opus");
        assert!(read(&audio).is_ok());
    }
}
