//! `roomcam serve`: the room server alone, for devices and viewers elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::SocketAddr;

use tokio::sync::watch;

use super::DaemonError;
use super::rooms::tutorials;
use super::signals::{Signals, Told};
use crate::config::{Config, Secret};
use crate::page::Page;
use crate::server::{Server, ServerOptions};
use crate::systemd::Notifier;
use crate::turn::credentials::IceServers;
use crate::{clock, keys};

/// Runs the room server alone until it is told to stop.
///
/// # Errors
///
/// [`DaemonError`] where it cannot start.
pub async fn serve(config: Config) -> Result<(), DaemonError> {
    let mut signals = Signals::new()?;
    let state = keys::state_directory();
    let kept = |configured: &Secret, name| {
        if configured.is_empty() {
            keys::load_or_create(&state, name)
        } else {
            Ok(configured.clone())
        }
    };
    let viewer_key = kept(&config.room.key, keys::VIEWER_KEY_FILE)?;
    let device_key = kept(&config.server.device_key, keys::DEVICE_KEY_FILE)?;
    let server = Server::bind(ServerOptions {
        listen: config.server.listen,
        viewer_key: viewer_key.clone(),
        device_key: device_key.clone(),
        allowed_origins: config.server.allowed_origins.clone(),
        ice_servers: IceServers::new(&config.webrtc, clock::unix_time),
        tutorials: tutorials(&config),
    })
    .await?;
    announce_server(
        server.local_addr(),
        &config.room.name,
        &viewer_key,
        &device_key,
    )?;
    let (shutdown, shut) = watch::channel(false);
    let notifier = Notifier::from_env();
    notifier.ready();
    let running = server.run(shut);
    tokio::pin!(running);
    loop {
        tokio::select! {
            told = signals.recv() => match told {
                Told::Stop => break,
                Told::Reload => tracing::warn!("changes take effect when roomcam is restarted"),
            },
            () = &mut running => return Ok(()),
        }
    }
    notifier.stopping();
    shutdown.send_replace(true);
    running.await;
    Ok(())
}

/// Says where viewers and devices find the room server. Keys are for a person's eyes: standard output
/// may be a log.
fn announce_server(
    address: SocketAddr,
    room: &str,
    viewer_key: &Secret,
    device_key: &Secret,
) -> io::Result<()> {
    let page = Page::at(address, room, viewer_key);
    let origin = page.origin();
    let mut out = io::stdout().lock();
    let (url, key) = if out.is_terminal() {
        (page.url.as_str(), device_key.expose())
    } else {
        (page.public_url.as_str(), "DEVICE_KEY")
    };
    writeln!(out, "Viewers open  {url}")?;
    writeln!(
        out,
        "Devices run   roomcam run --server {origin} --room {room} --key {key}"
    )?;
    if !out.is_terminal() {
        writeln!(
            out,
            "The keys are those of the configuration, or in {}",
            keys::state_directory().display()
        )?;
    }
    out.flush()
}
