//! Fragments of session descriptions (RFC 8840 §4.4, `application/trickle-ice-sdpfrag`): what a WHEP
//! player and its session say of ICE once the offer is answered.
//!
//! A device knows no fragments: a candidate of the player becomes one that is trickled, new ICE
//! credentials become the player's offer once more, with those in it. Everything of a BUNDLE group goes
//! over one transport, so there is one pair of credentials, wherever in the fragment it stands.
//!
//! Pure.

use crate::signaling::CandidateInit;
use crate::viewer::offer::MAX_CANDIDATES;

/// Largest fragment that is read, in bytes: all the candidates there may be, and a few lines.
pub const MAX_FRAGMENT_BYTES: usize = 32 * 1024;

/// Longest line, in bytes. A candidate has about 150.
const MAX_LINE_BYTES: usize = 512;

/// RFC 8839 §5.4 has 4 to 256 characters for a user name fragment, and 22 to 256 for a password.
const UFRAG_CHARS: std::ops::RangeInclusive<usize> = 4..=256;
const PWD_CHARS: std::ops::RangeInclusive<usize> = 22..=256;

/// What a fragment holds.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Fragment {
    /// The credentials of the ICE generation it is about; most name them.
    pub credentials: Option<Credentials>,
    /// Candidates, in order.
    pub candidates: Vec<CandidateInit>,
}

/// What names one ICE generation of one side. Not for logs.
#[derive(Clone, Eq, PartialEq)]
pub struct Credentials {
    /// User name fragment.
    pub ufrag: String,
    /// Password.
    pub pwd: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.ufrag)
    }
}

/// Why a fragment is refused. The messages are shown to the player.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FragmentError {
    /// Not lines of SDP.
    #[error("this is no fragment of a session description (RFC 8840)")]
    Malformed,
    /// Nothing that this end could act on.
    #[error("the fragment has neither candidates nor ICE credentials")]
    Empty,
    /// One of the two is missing, or there are several, or they are not what RFC 8839 allows.
    #[error("the ICE credentials are incomplete, malformed or of several kinds")]
    Credentials,
    /// Over [`MAX_CANDIDATES`].
    #[error("the fragment has too many candidates")]
    TooMany,
}

/// Reads a fragment.
///
/// # Errors
///
/// [`FragmentError`], to be told to the player.
pub fn read(text: &str) -> Result<Fragment, FragmentError> {
    let mut ufrag = None;
    let mut pwd = None;
    let mut candidates: Vec<CandidateInit> = Vec::new();
    let mut section: Option<u16> = None;
    let mut mid: Option<&str> = None;
    let mut has_ended = false;
    for line in text.lines() {
        if line.len() > MAX_LINE_BYTES || line.as_bytes().get(1) != Some(&b'=') {
            return Err(FragmentError::Malformed);
        }
        if line.starts_with("m=") {
            section = Some(section.map_or(0, |index| index.saturating_add(1)));
            mid = None;
        } else if let Some(value) = line.strip_prefix("a=mid:") {
            mid = Some(value);
        } else if let Some(value) = line.strip_prefix("a=ice-ufrag:") {
            set(&mut ufrag, value, UFRAG_CHARS)?;
        } else if let Some(value) = line.strip_prefix("a=ice-pwd:") {
            set(&mut pwd, value, PWD_CHARS)?;
        } else if line.starts_with("a=end-of-candidates") {
            has_ended = true;
        } else if let Some(candidate) = line.strip_prefix("a=")
            && candidate.starts_with("candidate:")
        {
            if candidates.len() >= MAX_CANDIDATES {
                return Err(FragmentError::TooMany);
            }
            candidates.push(CandidateInit {
                candidate: candidate.to_owned(),
                sdp_mid: mid.map(str::to_owned),
                sdp_mline_index: section.or(Some(0)).filter(|_| mid.is_none()),
                username_fragment: None,
            });
        }
    }
    let credentials = match (ufrag, pwd) {
        (Some(ufrag), Some(pwd)) => Some(Credentials {
            ufrag: ufrag.to_owned(),
            pwd: pwd.to_owned(),
        }),
        (None, None) => None,
        _ => return Err(FragmentError::Credentials),
    };
    if credentials.is_none() && candidates.is_empty() && !has_ended {
        return Err(FragmentError::Empty);
    }
    Ok(Fragment {
        credentials,
        candidates,
    })
}

/// Keeps a value that may be said several times, but always the same.
fn set<'a>(
    known: &mut Option<&'a str>,
    value: &'a str,
    chars: std::ops::RangeInclusive<usize>,
) -> Result<(), FragmentError> {
    let is_good = chars.contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic());
    if !is_good || known.is_some_and(|known| known != value) {
        return Err(FragmentError::Credentials);
    }
    *known = Some(value);
    Ok(())
}

/// Returns the ICE credentials of a description, as far as it has any.
#[must_use]
pub fn credentials(sdp: &str) -> Option<Credentials> {
    let value = |name| sdp.lines().find_map(|line| line.strip_prefix(name));
    Some(Credentials {
        ufrag: value("a=ice-ufrag:")?.to_owned(),
        pwd: value("a=ice-pwd:")?.to_owned(),
    })
}

/// Returns `offer` as the same peer connection would offer again after an ICE restart: with new
/// credentials, these candidates instead of the old ones, and the next version in its `o=` line
/// (RFC 9429 §5.2.2).
#[must_use]
pub fn restart(offer: &str, credentials: &Credentials, candidates: &[CandidateInit]) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut candidates_at = None;
    let transport = transport_section(offer);
    let mut sections = 0;
    for line in offer.lines() {
        if line.starts_with("m=") {
            sections += 1;
            if sections == transport + 1 {
                candidates_at = Some(lines.len());
            }
        }
        if line.starts_with("a=ice-ufrag:") {
            lines.push(format!("a=ice-ufrag:{}", credentials.ufrag));
        } else if line.starts_with("a=ice-pwd:") {
            lines.push(format!("a=ice-pwd:{}", credentials.pwd));
        } else if let Some(origin) = line.strip_prefix("o=") {
            lines.push(format!("o={}", next_version(origin)));
        } else if !line.starts_with("a=candidate:") && !line.starts_with("a=end-of-candidates") {
            lines.push(line.to_owned());
        }
    }
    let candidates = candidates.iter().map(|c| format!("a={}", c.candidate));
    let at = candidates_at.unwrap_or(lines.len());
    lines.splice(at..at, candidates);
    lines.push(String::new());
    lines.join("\r\n")
}

/// Returns the value of an `o=` line with the version after its own.
fn next_version(origin: &str) -> String {
    let mut fields: Vec<String> = origin.split(' ').map(str::to_owned).collect();
    if let Some(version) = fields.get_mut(2) {
        let number: u64 = version.parse().unwrap_or_default();
        *version = number.wrapping_add(1).to_string();
    }
    fields.join(" ")
}

/// Returns what an answer says of our ICE, as a fragment: credentials, all candidates, and the
/// attributes that go with them (draft-ietf-wish-whep, "ICE Restarts").
#[must_use]
pub fn of_answer(answer: &str) -> String {
    let mut lines: Vec<&str> = Vec::new();
    let transport = transport_section(answer);
    let mut section = 0;
    for line in answer.lines() {
        if line.starts_with("m=") {
            section += 1;
        }
        let is_wanted = if section == 0 {
            line.starts_with("a=group:") || is_of_ice(line)
        } else if section == transport {
            line.starts_with("m=") || line.starts_with("a=mid:") || is_of_ice(line)
        } else {
            false
        };
        if is_wanted {
            lines.push(line);
        }
    }
    if !lines.contains(&"a=end-of-candidates") {
        lines.push("a=end-of-candidates");
    }
    lines.push("");
    lines.join("\r\n")
}

/// Returns which section, from 1, has the candidates of a BUNDLE group: the first with credentials. One
/// before it may have been refused, and then says nothing of ICE.
fn transport_section(sdp: &str) -> usize {
    let mut section = 0;
    for line in sdp.lines() {
        if line.starts_with("m=") {
            section += 1;
        } else if section > 0 && line.starts_with("a=ice-ufrag:") {
            return section;
        }
    }
    // They stand in front of all sections.
    1
}

fn is_of_ice(line: &str) -> bool {
    ["a=ice-", "a=candidate:", "a=end-of-candidates"]
        .iter()
        .any(|start| line.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAGMENT: &str = "a=group:BUNDLE 0 1\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n\
        a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
        a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\na=end-of-candidates\r\n";

    fn es_aw() -> Credentials {
        Credentials {
            ufrag: "EsAw".to_owned(),
            pwd: "P2uYro0UCOQ4zxjKXaWCBui1".to_owned(),
        }
    }

    fn candidate(mid: Option<&str>, index: Option<u16>) -> CandidateInit {
        CandidateInit {
            candidate: "candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host".to_owned(),
            sdp_mid: mid.map(str::to_owned),
            sdp_mline_index: index,
            username_fragment: None,
        }
    }

    #[test]
    fn a_fragment_has_credentials_and_candidates() {
        let expected = Fragment {
            credentials: Some(es_aw()),
            candidates: vec![candidate(Some("0"), None)],
        };
        assert_eq!(read(FRAGMENT), Ok(expected.clone()));
        assert_eq!(read(&FRAGMENT.replace("\r\n", "\n")), Ok(expected));
        let without_mid = FRAGMENT.replace("a=mid:0\r\n", "");
        assert_eq!(
            read(&without_mid).unwrap().candidates,
            [candidate(None, Some(0))]
        );
        let end = read("a=end-of-candidates\r\n");
        assert_eq!(end, Ok(Fragment::default()));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(read("hello"), Err(FragmentError::Malformed));
        assert_eq!(read("{\"a\": 1}"), Err(FragmentError::Malformed));
        assert_eq!(read(""), Err(FragmentError::Empty));
        assert_eq!(read("a=mid:0\r\n"), Err(FragmentError::Empty));
        let cut = |line: &str| read(&FRAGMENT.replace(line, ""));
        let wrong = Err(FragmentError::Credentials);
        assert_eq!(cut("a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n"), wrong);
        assert_eq!(cut("a=ice-ufrag:EsAw\r\n"), wrong);
        assert_eq!(cut("sAw"), wrong, "too short");
        assert_eq!(read(&FRAGMENT.replace("EsAw", "Es Aw")), wrong);
        let two = format!("{FRAGMENT}a=ice-ufrag:other\r\n");
        assert_eq!(read(&two), wrong);
        let many = "a=candidate:1\r\n".repeat(MAX_CANDIDATES + 1);
        assert_eq!(read(&many), Err(FragmentError::TooMany));
        let long = format!("a=candidate:{}", "1".repeat(MAX_LINE_BYTES));
        assert_eq!(read(&long), Err(FragmentError::Malformed));
    }

    #[test]
    fn an_ice_restart_is_the_same_offer_with_other_credentials_and_candidates() {
        let offer = "v=0\r\no=- 46117 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
            m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=ice-ufrag:old1\r\na=ice-pwd:old\r\n\
            a=candidate:9 1 udp 1 192.0.2.9 9 typ host\r\na=end-of-candidates\r\na=mid:0\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=ice-ufrag:old1\r\na=ice-pwd:old\r\na=mid:1\r\n";
        let expected = "v=0\r\no=- 46117 3 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
            m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=ice-ufrag:EsAw\r\n\
            a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=mid:0\r\n\
            a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=ice-ufrag:EsAw\r\n\
            a=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=mid:1\r\n";
        let candidates = [candidate(Some("0"), None)];
        assert_eq!(restart(offer, &es_aw(), &candidates), expected);
        assert_eq!(credentials(expected), Some(es_aw()));
        let alone = "v=0\r\nm=video 9 X 96\r\na=mid:1\r\n";
        let with = restart(alone, &es_aw(), &candidates);
        assert!(with.ends_with("61764 typ host\r\n"), "{with}");
    }

    #[test]
    fn our_side_of_a_restart_is_what_the_answer_says_of_ice() {
        let answer = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\na=group:BUNDLE 0 1\r\na=ice-options:trickle\r\n\
            m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\n\
            a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
            a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\na=ice-ufrag:EsAw\r\n";
        let fragment = of_answer(answer);
        let expected = FRAGMENT.replacen(
            "BUNDLE 0 1\r\n",
            "BUNDLE 0 1\r\na=ice-options:trickle\r\n",
            1,
        );
        assert_eq!(fragment, expected);
        assert_eq!(read(&fragment).unwrap().credentials, Some(es_aw()));
    }

    #[test]
    fn a_refused_first_section_has_no_ice_of_ours_and_the_next_one_does() {
        let answer = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\na=group:BUNDLE 1\r\n\
            m=audio 0 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=inactive\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\na=sendonly\r\n\
            a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
            a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\n";
        let expected = "a=group:BUNDLE 1\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\na=mid:1\r\n\
            a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
            a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\na=end-of-candidates\r\n";
        assert_eq!(of_answer(answer), expected);

        let offer = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\nm=audio 0 X 111\r\na=mid:0\r\n\
            m=video 9 X 96\r\na=ice-ufrag:old1\r\na=ice-pwd:old\r\n\
            m=application 0 X 0\r\na=mid:2\r\n";
        let expected = "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\nm=audio 0 X 111\r\na=mid:0\r\n\
            m=video 9 X 96\r\na=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
            a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\n\
            m=application 0 X 0\r\na=mid:2\r\n";
        let candidates = [candidate(Some("1"), None)];
        assert_eq!(restart(offer, &es_aw(), &candidates), expected);
    }
}
