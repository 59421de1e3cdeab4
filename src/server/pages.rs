//! Tutorial pages: the task of each, between its connection and the rooms.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tokio::time::sleep_until;
use tracing::debug;

use super::clients::{Entrance, Guest, Host};
use super::guesses::{Guesser, Guesses, network_of};
use super::pairing::Opening;
use super::pairing::private::{Endpoint, Output, Pairing, Tutorials};
use super::protocol::PROTOCOL;
use crate::clock;
use crate::config::Secret;

/// Where the viewers of pages come from, as the rooms see it: from here. Nobody else has this address, so
/// nobody's wrong keys make them wait.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What all pages share.
#[derive(Clone, Debug)]
pub struct Pages {
    tutorials: Arc<Tutorials>,
    rooms: Entrance,
    viewer_key: Secret,
    guesses: Arc<Mutex<Guesses>>,
}

impl Pages {
    /// Creates the pages' half of a server whose rooms are entered by `rooms`.
    #[must_use]
    pub fn new(tutorials: Arc<Tutorials>, rooms: Entrance, viewer_key: Secret) -> Self {
        Self {
            tutorials,
            rooms,
            viewer_key,
            guesses: Arc::default(),
        }
    }

    /// Returns whether pages may connect there.
    #[must_use]
    pub fn are_served_at(&self, endpoint: Endpoint) -> bool {
        !self.tutorials.at(endpoint).is_empty()
    }

    /// Gives a page its world, until either side ends it.
    pub async fn serve(
        self,
        endpoint: Endpoint,
        opening: Opening,
        address: IpAddr,
        mut host: Host,
    ) {
        let guesser = Guesser {
            network: network_of(address),
            device: false,
        };
        let tutorials = Arc::clone(&self.tutorials);
        let mut pairing = Pairing::new(tutorials, endpoint, opening, guesser, clock::now());
        let mut viewer = None;
        while self.perform(&mut pairing, &host, &mut viewer).await {
            let deadline = pairing.poll_timeout();
            tokio::select! {
                said = host.hear(), if pairing.may_read() => {
                    let Some(said) = said else {
                        break;
                    };
                    if let Ok(text) = std::str::from_utf8(&said) {
                        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
                        pairing.handle_page(text, &mut guesses, clock::now());
                    }
                }
                told = hear(&mut viewer), if viewer.is_some() => match told {
                    Some(text) => pairing.handle_room(&text, clock::now()),
                    None => {
                        viewer = None;
                        pairing.handle_room_closed(clock::now());
                    }
                },
                () = sleep_until(deadline.unwrap_or_else(clock::now).into()), if deadline.is_some() => {
                    let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
                    pairing.handle_timeout(&mut guesses, clock::now());
                }
            }
        }
        host.set_inside(false);
    }

    /// Does what the machine wants. Returns whether the page stays.
    async fn perform(
        &self,
        pairing: &mut Pairing,
        host: &Host,
        viewer: &mut Option<Guest>,
    ) -> bool {
        host.set_inside(pairing.is_inside());
        while let Some(output) = pairing.poll_output() {
            match output {
                Output::ToPage(text) => {
                    if !host.tell(text) {
                        debug!("a page does not read, closed");
                        return false;
                    }
                }
                Output::ClosePage => return false,
                Output::Enter { room } => {
                    *viewer = self.rooms.enter(HERE, Arc::default()).await;
                    if viewer.is_none() {
                        return false; // The server is shutting down.
                    }
                    let join = json!({
                        "type": "join",
                        "protocol": PROTOCOL,
                        "role": "viewer",
                        "room": room,
                        "key": self.viewer_key.expose(),
                    });
                    say(viewer, join.to_string()).await;
                }
                Output::ToRoom(text) => say(viewer, text).await,
                Output::Leave => *viewer = None,
            }
        }
        true
    }
}

async fn say(viewer: &Option<Guest>, text: String) {
    if let Some(viewer) = viewer
        && !viewer.say(text).await
    {
        debug!("a page outlived the rooms");
    }
}

async fn hear(viewer: &mut Option<Guest>) -> Option<String> {
    viewer.as_mut()?.hear().await
}
