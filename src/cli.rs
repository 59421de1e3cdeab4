//! The command line: what was typed → what it means.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, ConfigError, Dialect, Secret};
use crate::keys;
use crate::watch::{WatchOptions, invitation::Invitation};

/// Watch this machine's camera and microphone from any browser, over WebRTC.
#[derive(Debug, Parser)]
#[command(name = "roomcam", version, about, max_term_width = 100)]
pub struct Cli {
    /// Say more: -v decisions, -vv every frame. ROOMCAM_LOG takes a filter, e.g. "roomcam=debug".
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show camera and microphone in a room.
    Run(Run),
    /// Show a test picture and a tone, with a page on this machine to watch them.
    Demo(Demo),
    /// Run the room server and the page alone, for devices elsewhere.
    Serve(Serve),
    /// Watch a device without a screen: count what comes, and say whether it did.
    Watch(Watch),
    /// List cameras, encoders, microphones and speakers.
    Devices(Devices),
    /// Say whether it would work here, and what mends what does not.
    ///
    /// Looks at the machine, the rights of the service's user, the configuration, a frame of each camera, the
    /// encoders, a second of sound, the ports, the room server, STUN and TURN. Exits with 0 where the daemon
    /// would work, with 1 where it would not, and with 78 where its configuration is wrong.
    #[command(visible_alias = "check")]
    Doctor(Doctor),
    /// Print the link to the page, with the key, and a QR code of it.
    Url(Url),
}

/// `roomcam run`
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Configuration file; without one, the defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the page and the embedded room server listen.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Sources, where they differ from the configuration.
    #[command(flatten)]
    pub sources: Sources,
    /// A room server elsewhere, e.g. wss://rooms.example.org/ws.
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// The wire protocol of that server.
    #[arg(long, value_name = "NAME", requires = "server")]
    pub dialect: Option<Dialect>,
    /// Name of the room; given several times, the device is in all of them.
    #[arg(long, value_name = "NAME")]
    pub room: Vec<String>,
    /// Key of the room. Others on this machine can read a command line: prefer the configuration.
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

/// `roomcam demo`
#[derive(Clone, Debug, Args)]
pub struct Demo {
    /// Where the page and the room server listen; port 0 is any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Sources; the test picture and a tone, unless said otherwise.
    #[command(flatten)]
    pub sources: Sources,
    /// Configuration file for everything else.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Where pictures and sound come from.
#[derive(Clone, Debug, Args)]
pub struct Sources {
    /// auto, a device path, a by-id name, a card name, pattern, file:PATH or none.
    #[arg(long, value_name = "SPEC")]
    pub video: Option<String>,
    /// auto, a card's id or a part of its name, an ALSA PCM name, tone or none.
    #[arg(long, value_name = "SPEC")]
    pub audio: Option<String>,
}

/// `roomcam serve`
#[derive(Debug, Args)]
pub struct Serve {
    /// Where to listen; the configuration's, unless said otherwise.
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Configuration file; without one, the defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `roomcam watch`
#[derive(Debug, Args)]
pub struct Watch {
    /// The page's URL with room and key: <http://HOST:PORT/#room=cam&key=KEY>.
    #[arg(value_name = "URL")]
    pub url: Invitation,
    /// Stop after this many frames; fail if they do not come.
    #[arg(long, value_name = "N")]
    pub frames: Option<u64>,
    /// Stop after this many seconds.
    #[arg(long, value_name = "S")]
    pub seconds: Option<u64>,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
    /// Write the video to a file (H.264 byte stream).
    #[arg(long, value_name = "FILE.h264")]
    pub save: Option<PathBuf>,
    /// Say something on the device's loudspeaker first: an Opus file, or a tone of three seconds.
    #[arg(long, value_name = "FILE.ogg|tone")]
    pub speak: Option<PathBuf>,
}

/// `roomcam devices`
#[derive(Debug, Args)]
pub struct Devices {
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `roomcam doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Configuration file; without one, that of the installed service, or else the defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print as JSON.
    #[arg(long)]
    pub json: bool,
}

/// `roomcam url`
#[derive(Debug, Args)]
pub struct Url {
    /// Configuration file; without one, that of the installed service, or else the defaults.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The link for those who may also speak, with talkback.key.
    #[arg(long)]
    pub talk: bool,
}

impl Sources {
    fn apply(self, config: &mut Config) {
        if let Some(video) = self.video {
            config.video.source = video;
        }
        if let Some(audio) = self.audio {
            config.audio.source = audio;
        }
    }
}

impl Run {
    /// Returns the configuration that file and flags amount to.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for the file, or for a flag's value.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let mut config = load_with_credentials(self.config.as_ref())?;
        self.sources.apply(&mut config);
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        if let Some(server) = self.server {
            config.room.server = server;
        }
        if let Some(dialect) = self.dialect {
            config.room.dialect = dialect;
        }
        if let Some(room) = self.room.first() {
            config.room.name.clone_from(room);
            config.room.rooms = self.room;
        }
        if let Some(key) = self.key {
            config.room.key = Secret::new(key);
        }
        config.check()?;
        Ok(config)
    }
}

impl Demo {
    /// Returns the configuration of the demonstration.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for the file.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let mut config = load(self.config.as_ref())?;
        config.video.source = "pattern".to_owned();
        config.audio.source = "tone".to_owned();
        self.sources.apply(&mut config);
        config.server.listen = self.listen;
        config.room.server = String::new();
        Ok(config)
    }
}

impl Serve {
    /// Returns the configuration of the room server.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] for the file.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let mut config = load_with_credentials(self.config.as_ref())?;
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        Ok(config)
    }
}

impl From<Watch> for WatchOptions {
    fn from(watch: Watch) -> Self {
        Self {
            invitation: watch.url,
            frames: watch.frames,
            seconds: watch.seconds,
            save: watch.save,
            speak: watch.speak,
        }
    }
}

/// Returns the configuration in `path`, or the defaults.
///
/// # Errors
///
/// [`ConfigError`] for the file.
pub fn load(path: Option<&PathBuf>) -> Result<Config, ConfigError> {
    path.map_or_else(|| Ok(Config::default()), |path| Config::load(path))
}

/// As [`load`]; secrets that it leaves empty are those that systemd hands over, if it does.
fn load_with_credentials(path: Option<&PathBuf>) -> Result<Config, ConfigError> {
    let take = |config: &mut Config| config.take_secrets(keys::credential);
    match path {
        Some(path) => Config::load_with(path, take),
        None => {
            let mut config = Config::default();
            take(&mut config)?;
            Ok(config)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn config(arguments: &[&str]) -> Config {
        let cli = Cli::try_parse_from(["roomcam"].iter().chain(arguments)).unwrap();
        match cli.command {
            Command::Run(run) => run.into_config().unwrap(),
            Command::Demo(demo) => demo.into_config().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_override_the_configuration() {
        let config = config(&[
            "run",
            "--video",
            "/dev/video2",
            "--room",
            "attic",
            "--key",
            "k",
        ]);
        assert_eq!(config.video.source, "/dev/video2");
        assert_eq!(config.room.name, "attic");
        assert!(config.room.key.matches("k"));
        assert_eq!(config.audio.source, "auto");
    }

    #[test]
    fn the_demonstration_needs_no_camera() {
        let config = config(&["demo", "--listen", "127.0.0.1:0", "--audio", "none"]);
        assert_eq!(config.video.source, "pattern");
        assert_eq!(config.audio.source, "none");
        assert_eq!(config.server.listen.port(), 0);
    }
}
