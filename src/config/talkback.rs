//! `[talkback]`: whether viewers may speak, through what, and who.
//!
//! Pure.

use serde::Deserialize;

use super::{ConfigError, Secret};

/// Shortest key that may be asked of those who speak: a viewer may try one in each second.
const MIN_KEY_BYTES: usize = 8;

/// `[talkback]`
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Talkback {
    /// `none`, `auto`, an ALSA PCM name or the id of a sound card.
    pub sink: String,
    /// Whether the microphone stays open while somebody speaks.
    pub duplex: Duplex,
    /// The key that those must know who may speak; empty: all who may watch.
    pub key: Secret,
}

/// What becomes of the microphone while somebody speaks.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Duplex {
    /// Silent: nobody hears themselves back, and nothing howls.
    #[default]
    Half,
    /// Open: for a microphone that does not hear the loudspeaker.
    Full,
}

impl Default for Talkback {
    fn default() -> Self {
        Self {
            sink: "none".to_owned(),
            duplex: Duplex::Half,
            key: Secret::default(),
        }
    }
}

impl Talkback {
    /// Returns whether viewers can speak at all.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.sink != "none"
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, value: &str, legal| {
            Err(ConfigError::Range {
                key,
                value: value.to_owned(),
                legal,
            })
        };
        if self.sink.is_empty() {
            let legal = "\"none\", \"auto\", or the name of an ALSA PCM or sound card";
            return wrong("talkback.sink", "\"\"", legal);
        }
        if !self.key.is_empty() && self.key.expose().len() < MIN_KEY_BYTES {
            return wrong("talkback.key", "…", "8 characters or more");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn check(talkback: &str) -> Result<(), String> {
        let config = Config::parse(&format!("[talkback]\n{talkback}"))?;
        config.check().map_err(|error| error.to_string())
    }

    #[test]
    fn nobody_speaks_unless_it_is_configured() {
        assert!(!Config::default().talkback.is_there());
        assert_eq!(check("sink = \"auto\"\nduplex = \"full\""), Ok(()));
    }

    #[test]
    fn a_key_that_can_be_guessed_is_refused_and_not_shown() {
        assert_eq!(check("sink = \"auto\"\nkey = \"long enough\""), Ok(()));
        let error = check("sink = \"auto\"\nkey = \"short\"").unwrap_err();
        assert!(error.contains("talkback.key") && !error.contains("short"));
        assert!(check("sink = \"\"").unwrap_err().contains("\"auto\""));
        assert!(check("duplex = \"both\"").unwrap_err().contains("half"));
    }
}
