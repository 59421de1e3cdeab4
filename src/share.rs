//! `roomcam url`: the link to the page, for people, phones (a QR code) and programs.
//!
//! The link holds the key, so whoever may read the key may ask: on an installed machine, root.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use crate::config::{Config, ConfigError, Secret, Talkback};
use crate::keys::{self, KeyError};
use crate::page::Page;

/// Where the package installs the configuration of its service; beside it, that of further cameras.
pub const INSTALLED: &str = "/etc/roomcam";

/// Where the installed services keep their state.
const INSTALLED_STATE: &str = "/var/lib/roomcam";

/// Of the 256 colours, which no theme changes.
const BLACK_ON_WHITE: &str = "\x1b[38;5;16;48;5;231m";
const RESET: &str = "\x1b[0m";

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The key is made when the daemon first starts.
    #[error("there is no key in {} yet: start roomcam once, or set room.key", .0.display())]
    NoKeyYet(PathBuf),
    /// Root's files.
    #[error("only root may read the key of the installed service: sudo roomcam url")]
    NotRoot,
    /// The page is not this machine's.
    #[error("the room is at {0}: viewers open the page of that server")]
    Elsewhere(String),
    /// Nobody can speak.
    #[error("nobody can speak here: talkback.sink names no loudspeaker")]
    NoTalkback,
    /// The port is known to the running daemon alone.
    #[error("server.listen has port 0, any free one: the daemon prints its link when it starts")]
    AnyPort,
    /// Standard output is closed.
    #[error("cannot print the link")]
    Print(#[from] io::Error),
}

/// Prints the link; to a terminal, also as a QR code. With `talk`, whoever has it may speak as well.
///
/// # Errors
///
/// [`ShareError`], which says what to do.
pub fn url(config: Option<PathBuf>, talk: bool) -> Result<(), ShareError> {
    let place = Place::of(config);
    let config = match place.load() {
        Err(error) if is_denied(&error) => return Err(ShareError::NotRoot),
        loaded => loaded?,
    };
    let page = page(&config, &place)?;
    let page = if talk {
        speaking(page, &config.talkback)?
    } else {
        page
    };
    let mut out = io::stdout().lock();
    if !out.is_terminal() {
        // For programs: `roomcam watch "$(roomcam url)"`.
        writeln!(out, "{}", page.url)?;
        return Ok(out.flush()?);
    }
    if let Some(code) = qr_code(&page.url) {
        writeln!(out, "{code}")?;
    }
    writeln!(out, "{}", page.url)?;
    if config.server.listen.ip().is_loopback() {
        writeln!(
            out,
            "From this machine only: server.listen = \"0.0.0.0:{}\" opens it to your network.",
            config.server.listen.port()
        )?;
    }
    let may = if talk || (config.talkback.is_there() && config.talkback.key.is_empty()) {
        "watch and speak"
    } else {
        "watch"
    };
    writeln!(out, "Whoever has this link can {may}.")?;
    Ok(out.flush()?)
}

/// Which configuration is meant, and where its key is.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Place {
    pub(crate) config: Option<PathBuf>,
    pub(crate) state: PathBuf,
    /// The key that the service is handed by systemd (`LoadCredential=`), where it is installed.
    pub(crate) credential: Option<PathBuf>,
}

impl Place {
    /// Returns the unit that runs with this configuration, where it is installed.
    pub(crate) fn unit(&self) -> Option<String> {
        let name = self.credential.as_ref()?.file_stem()?.to_str()?;
        Some(match name {
            "roomcam" => "roomcam.service".to_owned(),
            other => format!("roomcam@{other}.service"),
        })
    }

    /// Returns the file in which the administrator keeps the secret that the unit hands over as `name`.
    fn handed(&self, name: &str) -> Option<PathBuf> {
        let key = self.credential.as_ref()?;
        Some(match name {
            "room.key" => key.clone(),
            other => key.with_extension(other),
        })
    }

    /// Reads the configuration as the service does, with the secrets that it is handed.
    pub(crate) fn load(&self) -> Result<Config, ConfigError> {
        let Some(path) = &self.config else {
            return Ok(Config::default());
        };
        Config::load_with(path, |config| {
            config.take_secrets(|name| self.handed(name).map_or(Ok(None), |path| keys::read(&path)))
        })
    }

    /// Without a file it is the installed service's, where there is one.
    pub(crate) fn of(config: Option<PathBuf>) -> Self {
        let installed = || Path::new(INSTALLED).join("roomcam.toml");
        let config = config.or_else(|| Some(installed()).filter(|path| path.exists()));
        let name = config
            .as_deref()
            .filter(|path| path.parent() == Some(Path::new(INSTALLED)))
            .and_then(Path::file_stem);
        let state = match name {
            None => keys::state_directory(),
            Some(name) if name == "roomcam" => PathBuf::from(INSTALLED_STATE),
            Some(name) => Path::new(INSTALLED_STATE).join(name),
        };
        let credential = name.map(|name| Path::new(INSTALLED).join(name).with_extension("key"));
        Self {
            config,
            state,
            credential,
        }
    }
}

/// Whether only others may read the configuration, or the secrets that belong to it.
pub(crate) fn is_denied(error: &ConfigError) -> bool {
    let (ConfigError::Read { source, .. } | ConfigError::Credential(KeyError::File { source, .. })) =
        error
    else {
        return false;
    };
    source.kind() == io::ErrorKind::PermissionDenied
}

fn page(config: &Config, place: &Place) -> Result<Page, ShareError> {
    if !config.room.server.is_empty() {
        return Err(ShareError::Elsewhere(config.room.server.clone()));
    }
    if config.server.listen.port() == 0 {
        return Err(ShareError::AnyPort);
    }
    let key = key(config, place)?;
    Ok(Page::at(
        config.server.listen,
        config.room.first_name(),
        &key,
    ))
}

/// Returns the link with the key of those who may speak, where that takes one.
fn speaking(mut page: Page, talkback: &Talkback) -> Result<Page, ShareError> {
    if !talkback.is_there() {
        return Err(ShareError::NoTalkback);
    }
    if !talkback.key.is_empty() {
        page.add_talk_key(&talkback.key);
    }
    Ok(page)
}

/// As the daemon finds it, but nothing is made here.
fn key(config: &Config, place: &Place) -> Result<Secret, ShareError> {
    if !config.room.key.is_empty() {
        return Ok(config.room.key.clone());
    }
    match keys::read(&place.state.join(keys::VIEWER_KEY_FILE)) {
        Ok(Some(key)) => Ok(key),
        Ok(None) => Err(ShareError::NoKeyYet(place.state.clone())),
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => {
            Err(ShareError::NotRoot)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the link for a phone's camera, in half blocks: two modules a character. Black on white
/// whatever the terminal's colours are, for few phones read light codes on dark. `None` where the link
/// is too long for any code.
fn qr_code(url: &str) -> Option<String> {
    let code = QrCode::new(url).ok()?;
    let drawn = code.render::<Dense1x2>().build();
    let lines: Vec<String> = drawn
        .lines()
        .map(|line| format!("{BLACK_ON_WHITE}{line}{RESET}"))
        .collect();
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn each_installed_camera_has_a_state_and_a_key_file_of_its_own() {
        let place = |name: &str| Place::of(Some(Path::new(INSTALLED).join(name)));
        assert_eq!(place("roomcam.toml").state, Path::new("/var/lib/roomcam"));
        assert_eq!(
            place("attic.toml").state,
            Path::new("/var/lib/roomcam/attic")
        );
        let key = place("attic.toml").credential;
        assert_eq!(key.as_deref(), Some(Path::new("/etc/roomcam/attic.key")));
        let unit = |name| place(name).unit().unwrap();
        assert_eq!(unit("roomcam.toml"), "roomcam.service");
        assert_eq!(unit("attic.toml"), "roomcam@attic.service");
        let mine = Place::of(Some("mine.toml".into()));
        assert_eq!((mine.unit(), mine.credential), (None, None));
    }

    #[test]
    fn the_keys_are_the_configured_ones_or_the_handed_ones_or_the_kept_one() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let place = Place {
            config: Some(directory.path().join("roomcam.toml")),
            state: directory.path().to_owned(),
            credential: Some(directory.path().join("roomcam.key")),
        };
        let url = || {
            let config = place.load().unwrap();
            let page = page(&config, &place)?;
            speaking(page, &config.talkback).map(|page| page.url)
        };

        write("roomcam.toml", "[talkback]\nsink = \"auto\"\n");
        let error = url().unwrap_err().to_string();
        assert!(error.contains("start roomcam once"), "{error}");
        write("key", "kept\n");
        assert!(url().unwrap().ends_with("&key=kept"));
        write("roomcam.key", "handed\n");
        write("roomcam.talkback.key", "open sesame\n");
        assert!(url().unwrap().ends_with("&key=handed&talk=open+sesame"));
        write(
            "roomcam.toml",
            "[room]\nkey = \"configured\"\n[talkback]\nsink = \"auto\"\n",
        );
        assert!(url().unwrap().ends_with("&key=configured&talk=open+sesame"));
    }

    #[test]
    fn who_may_speak_has_a_key_in_the_link_where_that_takes_one() {
        let place = Place::of(Some("mine.toml".into()));
        let mut config = Config::default();
        config.room.key = Secret::new("k".to_owned());
        let url = |config: &Config| {
            let page = page(config, &place).unwrap();
            speaking(page, &config.talkback).map(|page| page.url)
        };
        assert!(matches!(url(&config), Err(ShareError::NoTalkback)));
        config.talkback.sink = "auto".to_owned();
        assert!(url(&config).unwrap().ends_with("&key=k"));
        config.talkback.key = Secret::new("open sesame".to_owned());
        assert!(url(&config).unwrap().ends_with("&key=k&talk=open+sesame"));
    }

    #[test]
    fn a_page_that_is_not_here_or_nobody_knows_where_is_said() {
        let place = Place::of(Some("mine.toml".into()));
        let mut config = Config::default();
        config.server.listen.set_port(0);
        let error = page(&config, &place).unwrap_err().to_string();
        assert!(error.contains("port 0"), "{error}");
        config.room.server = "wss://rooms.example.org".to_owned();
        let error = page(&config, &place).unwrap_err().to_string();
        assert!(error.contains("rooms.example.org"), "{error}");
    }

    #[test]
    fn a_link_fits_a_terminal_as_a_qr_code_that_is_read_back() {
        let url =
            "http://192.168.178.123:8080/#room=living-room&key=0123456789abcdef0123456789abcdef";
        let code = qr_code(url).unwrap();
        let line = |line: &str| {
            let drawn = line.strip_prefix(BLACK_ON_WHITE);
            let drawn = drawn.and_then(|drawn| drawn.strip_suffix(RESET));
            drawn.unwrap().chars().collect()
        };
        let lines: Vec<Vec<char>> = code.lines().map(line).collect();
        assert!(lines[0].len() <= 60 && lines.len() <= 30, "{code}");
        assert_eq!(seen(&lines), url);
    }

    /// Returns what a phone reads where the characters are black on white.
    fn seen(lines: &[Vec<char>]) -> String {
        // Pixels of a module: what looks for codes needs more than one.
        const SCALE: usize = 4;
        let (width, height) = (lines[0].len() * SCALE, lines.len() * 2 * SCALE);
        let is_black = |x: usize, y: usize| {
            let (row, module) = (y / SCALE / 2, y / SCALE % 2);
            match lines[row][x / SCALE] {
                '█' => true,
                '▀' => module == 0,
                '▄' => module == 1,
                _ => false,
            }
        };
        let mut picture = rqrr::PreparedImage::prepare_from_bitmap(width, height, is_black);
        let grids = picture.detect_grids();
        assert_eq!(grids.len(), 1);
        grids[0].decode().unwrap().1
    }
}
