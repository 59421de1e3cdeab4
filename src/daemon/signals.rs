//! What the process is told by signals.

use std::io::{self, IsTerminal as _};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal tells the daemon.
pub(super) enum Told {
    /// SIGTERM, SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
}

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// `None` in a terminal, where the signal means that it is closed: that ends the process.
    hang_up: Option<Signal>,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let in_terminal = io::stdin().is_terminal();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: (!in_terminal)
                .then(|| signal(SignalKind::hangup()))
                .transpose()?,
        })
    }

    pub(super) async fn recv(&mut self) -> Told {
        let hang_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = hang_up => Told::Reload,
        }
    }
}
