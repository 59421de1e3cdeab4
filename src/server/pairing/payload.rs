//! Engine.IO's texts as the body of one HTTP request or response.
//!
//! Engine.IO 4 puts a record separator between them; 3 puts each one's length before it, in UTF-16
//! units as browsers count. Left out: the binary form of 3, which clients use for binary events alone.
//!
//! Pure.

use super::EngineIo;

/// What Engine.IO 4 puts between two texts.
const SEPARATOR: char = '\u{1e}';

/// Most texts of one body that are read. A page that joins sends about 20.
pub const MAX_TEXTS: usize = 64;

/// Returns the texts of a body, or `None` if it is none, or has more than [`MAX_TEXTS`].
#[must_use]
pub fn decode(version: EngineIo, body: &str) -> Option<Vec<&str>> {
    let texts = match version {
        EngineIo::V4 => body.split(SEPARATOR).take(MAX_TEXTS + 1).collect(),
        EngineIo::V3 => decode_lengths(body)?,
    };
    (texts.len() <= MAX_TEXTS).then_some(texts)
}

/// Returns the body that carries `texts`.
#[must_use]
pub fn encode(version: EngineIo, texts: &[String]) -> String {
    match version {
        EngineIo::V4 => texts.join(&SEPARATOR.to_string()),
        EngineIo::V3 => {
            let with_length = |text: &String| format!("{}:{text}", text.encode_utf16().count());
            texts.iter().map(with_length).collect()
        }
    }
}

fn decode_lengths(mut body: &str) -> Option<Vec<&str>> {
    let mut texts = Vec::new();
    while !body.is_empty() && texts.len() <= MAX_TEXTS {
        let (length, rest) = body.split_once(':')?;
        let length: usize = length.parse().ok()?;
        let (mut units, mut bytes) = (0, 0);
        for c in rest.chars() {
            if units >= length {
                break;
            }
            units += c.len_utf16();
            bytes += c.len_utf8();
        }
        if units != length {
            return None;
        }
        let (text, more) = rest.split_at_checked(bytes)?;
        texts.push(text);
        body = more;
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_read_again() {
        let texts = ["40", "42[\"a\",\"€ 😀\"]", "2"].map(str::to_owned);
        for version in [EngineIo::V3, EngineIo::V4] {
            let body = encode(version, &texts);
            assert_eq!(decode(version, &body).unwrap(), texts);
        }
        assert_eq!(encode(EngineIo::V3, &texts), "2:4014:42[\"a\",\"€ 😀\"]1:2");
        assert_eq!(
            encode(EngineIo::V4, &texts),
            "40\u{1e}42[\"a\",\"€ 😀\"]\u{1e}2"
        );
    }

    #[test]
    fn what_is_no_body_is_refused() {
        for junk in ["x", "5:abc", "-1:a", "99999999999999999999:a", "1:😀9", ":"] {
            assert_eq!(decode(EngineIo::V3, junk), None, "{junk}");
        }
        assert_eq!(decode(EngineIo::V3, "").unwrap(), Vec::<&str>::new());
        let many = "2\u{1e}".repeat(1_000_000);
        assert_eq!(decode(EngineIo::V4, &many), None);
        assert_eq!(decode(EngineIo::V3, &"1:2".repeat(1_000_000)), None);
    }
}
