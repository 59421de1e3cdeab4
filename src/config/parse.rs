//! Reads the file; what is wrong with it is told with its line, and without its secrets.

use std::path::Path;

use super::{Config, ConfigError};

impl Config {
    /// Reads and checks `path`.
    ///
    /// # Errors
    ///
    /// Any [`ConfigError`]; none heals by itself.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_with(path, |_| Ok(()))
    }

    /// As [`Self::load`]; `complete` adds what is kept elsewhere before all is checked.
    ///
    /// # Errors
    ///
    /// Any [`ConfigError`], also of `complete`.
    pub fn load_with(
        path: &Path,
        complete: impl FnOnce(&mut Self) -> Result<(), ConfigError>,
    ) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
        let mut config = Self::parse(&text).map_err(|message| ConfigError::Parse {
            path: path.to_owned(),
            message,
        })?;
        complete(&mut config)?;
        config.check()?;
        Ok(config)
    }

    /// Parses the text of a configuration file; the error names line and column.
    ///
    /// # Errors
    ///
    /// A message for people, over several lines.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| {
            // Without the line itself, which may hold a key.
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = before.map_or(1, |before| before.matches('\n').count() + 1);
            format!(
                "line {line}: {}",
                quote_no_secret(text, line, error.message())
            )
        })
    }
}

/// Returns `message`, unless it may quote the value of a key or password in line `line`.
fn quote_no_secret<'a>(text: &str, line: usize, message: &'a str) -> &'a str {
    if message.starts_with("unknown field") {
        return message;
    }
    let mut backwards = text
        .lines()
        .take(line)
        .collect::<Vec<_>>()
        .into_iter()
        .rev();
    let at = backwards.clone().next().unwrap_or_default();
    let section = backwards.find(|line| line.trim_start().starts_with('['));
    let names = |line: &str, secrets: &[&str]| secrets.iter().any(|name| line.contains(name));
    let tables = &["headers", "auth"];
    if names(at, tables) || section.is_some_and(|section| names(section, tables)) {
        "not a table like { NAME = \"VALUE\" } (the line is not shown: it may hold a key)"
    } else if names(at, &["key", "credential", "password", "secret"]) {
        "not a text in quotes (the line is not shown: it holds a key)"
    } else {
        message
    }
}
