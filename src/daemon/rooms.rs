//! The rooms that the device is in: the embedded server, unless there is one elsewhere, and a link to
//! each. They can be left and joined again while media goes on: it does not pass through here.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{DaemonError, Mode};
use crate::config::{CallEvents, Config, Dialect, Headers, Secret};
use crate::page::{self, Page};
use crate::server::pairing::private::Tutorials;
use crate::server::{Server, ServerOptions};
use crate::signaling::server_url::parse_server_url;
use crate::signaling::websocket::{Authorities, LinkOptions, run_link};
use crate::signaling::{RoomEvent, RoomIndex, RoomMessage};
use crate::turn::credentials::IceServers;
use crate::{clock, keys};

/// Signals between link and engine.
const SIGNAL_QUEUE: usize = 256;

/// The links and the embedded server, as tasks.
pub(super) struct Rooms {
    mode: Mode,
    /// The key of a demonstration's room.
    demonstration_key: Secret,
    /// The device calls itself so in every room for as long as this process lives: viewers whose media
    /// runs then know that it is the same one.
    instance: String,
    /// Never used twice, so that nobody is taken for a viewer of a room that was left.
    next: RoomIndex,
    events: mpsc::Sender<(RoomIndex, RoomEvent)>,
    links: JoinSet<()>,
    servers: JoinSet<()>,
    /// True ends the embedded server.
    shutdown: watch::Sender<bool>,
}

/// What others must know of rooms that were opened.
pub(super) struct Opened {
    /// What we say in each; the room is left when this is dropped.
    pub(super) messages: BTreeMap<RoomIndex, mpsc::Sender<RoomMessage>>,
    /// Whether the room server is on this machine.
    pub(super) is_local: bool,
    /// Whether nobody in them has our own page.
    pub(super) one_stream: bool,
    /// Whose TLS certificates are believed.
    pub(super) authorities: Authorities,
    /// The page, where it is ours.
    pub(super) page: Option<Page>,
}

impl Rooms {
    /// Prepares to open rooms; returns also what will happen in them.
    pub(super) fn new(
        mode: Mode,
    ) -> Result<(Self, mpsc::Receiver<(RoomIndex, RoomEvent)>), DaemonError> {
        let (events, happening) = mpsc::channel(SIGNAL_QUEUE);
        let rooms = Self {
            mode,
            demonstration_key: keys::generate()?,
            instance: keys::generate()?.expose().to_owned(),
            next: RoomIndex(0),
            events,
            links: JoinSet::new(),
            servers: JoinSet::new(),
            shutdown: watch::Sender::new(false),
        };
        Ok((rooms, happening))
    }

    /// Starts the embedded server, unless one elsewhere is configured, and joins the rooms.
    pub(super) async fn open(&mut self, config: &Config) -> Result<Opened, DaemonError> {
        let authorities = Authorities::load(&config.room.ca_file)?;
        let (link, page) = if config.room.server.is_empty() {
            self.serve(config).await?
        } else {
            (self.elsewhere(config, authorities.clone())?, None)
        };
        let is_local = match link.server.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        // The embedded server is asked at an address of this machine, wherever it listens.
        let is_local = is_local && (page.is_none() || config.server.listen.ip().is_loopback());
        let one_stream = link.dialect != Dialect::Roomcam;
        let mut messages = BTreeMap::new();
        for room in config.room.names() {
            let link = LinkOptions {
                room: room.clone(),
                ..link.clone()
            };
            let (sender, queue) = mpsc::channel(SIGNAL_QUEUE);
            messages.insert(self.next, sender);
            let events = self.events.clone();
            self.links.spawn(run_link(link, self.next, events, queue));
            self.next.0 += 1;
        }
        Ok(Opened {
            messages,
            is_local,
            one_stream,
            authorities,
            page,
        })
    }

    /// Waits for what never should be: a link or the embedded server ends by itself. Cancel safe.
    pub(super) async fn ended(&mut self) {
        let ended = tokio::select! {
            Some(ended) = self.links.join_next() => ended,
            Some(ended) = self.servers.join_next() => ended,
            else => std::future::pending().await,
        };
        if let Err(error) = ended {
            tracing::error!(%error, "bug: the room server or a link to one ended by itself");
        }
    }

    /// Waits until the rooms are left, whose messages nobody holds any more, and ends the embedded
    /// server: the device says goodbye in its own room, too.
    pub(super) async fn close(&mut self) {
        while let Some(ended) = self.links.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "bug: a link ended by itself");
            }
        }
        self.shutdown.send_replace(true);
        while self.servers.join_next().await.is_some() {}
        self.shutdown = watch::Sender::new(false);
    }

    fn elsewhere(
        &self,
        config: &Config,
        authorities: Authorities,
    ) -> Result<LinkOptions, DaemonError> {
        Ok(LinkOptions {
            server: parse_server_url(&config.room.server, config.room.dialect)?,
            dialect: config.room.dialect,
            room: String::new(),
            room_is_secret: config.room_is_secret(),
            key: config.room.key.clone(),
            instance: self.instance.clone(),
            headers: config.room.headers.clone(),
            authorities,
            auth: config.room.auth.to_json(),
            events: config.room.events.clone(),
        })
    }

    async fn serve(&mut self, config: &Config) -> Result<(LinkOptions, Option<Page>), DaemonError> {
        let viewer_key = match self.mode {
            _ if !config.room.key.is_empty() => config.room.key.clone(),
            Mode::Demonstration => self.demonstration_key.clone(),
            Mode::Service => keys::load_or_create(&keys::state_directory(), keys::VIEWER_KEY_FILE)?,
        };
        let device_key = keys::generate()?;
        let server = Server::bind(ServerOptions {
            listen: config.server.listen,
            viewer_key: viewer_key.clone(),
            device_key: device_key.clone(),
            allowed_origins: config.server.allowed_origins.clone(),
            ice_servers: IceServers::new(&config.webrtc, clock::unix_time),
            tutorials: tutorials(config),
        })
        .await?;
        let address = server.local_addr();
        self.servers.spawn(server.run(self.shutdown.subscribe()));
        let local = SocketAddr::new(page::from_here(address.ip()), address.port());
        let link = LinkOptions {
            server: parse_server_url(&format!("ws://{local}"), Dialect::Roomcam)?,
            dialect: Dialect::Roomcam,
            room: String::new(),
            room_is_secret: config.room_is_secret(),
            key: device_key,
            instance: self.instance.clone(),
            headers: Headers::default(),
            authorities: Authorities::default(),
            auth: Secret::default(),
            events: CallEvents::default(),
        };
        let page = Page::at(address, config.room.first_name(), &viewer_key);
        Ok((link, Some(page)))
    }
}

/// Opens the embedded server as the daemon would, and closes it at once.
///
/// # Errors
///
/// As the daemon's start.
pub async fn try_server(config: &Config) -> Result<(), DaemonError> {
    let server = Server::bind(ServerOptions {
        listen: config.server.listen,
        viewer_key: keys::generate()?,
        device_key: keys::generate()?,
        allowed_origins: config.server.allowed_origins.clone(),
        ice_servers: IceServers::new(&config.webrtc, clock::unix_time),
        tutorials: tutorials(config),
    });
    drop(server.await?);
    Ok(())
}

/// Returns what pages of tutorials may speak, and in which rooms they find the device.
pub(super) fn tutorials(config: &Config) -> Tutorials {
    let dialects = config.server.tutorial_dialects.iter();
    Tutorials {
        dialects: dialects.map(|&dialect| dialect.into()).collect(),
        rooms: config.room.names().cloned().map(Secret::new).collect(),
        events: config.room.events.clone(),
    }
}

/// Says where to watch: on standard output, for people and programs.
pub(super) fn announce(page: &Page, mode: Mode, room_is_secret: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if mode == Mode::Demonstration || out.is_terminal() {
        writeln!(out, "Open {}", page.url)?;
    } else {
        // Standard output may be a log, and a log is no place for a key; a room's name may be one.
        let key = keys::state_directory().join(keys::VIEWER_KEY_FILE);
        writeln!(
            out,
            "Open {} with the key of room.key or of {}: `roomcam url` prints the whole link",
            if room_is_secret {
                page.origin()
            } else {
                &page.public_url
            },
            key.display()
        )?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn the_end_of_a_link_or_of_the_embedded_server_is_noticed() {
        let (mut rooms, _events) = Rooms::new(Mode::Demonstration).unwrap();
        let ended = async |rooms: &mut Rooms| {
            let soon = Duration::from_secs(20);
            tokio::time::timeout(soon, rooms.ended()).await.is_ok()
        };
        rooms.servers.spawn(std::future::pending());
        rooms.links.spawn(async {});
        assert!(ended(&mut rooms).await);
        rooms.servers.spawn(async {});
        assert!(ended(&mut rooms).await);
    }
}
