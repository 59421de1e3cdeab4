//! The task that owns the rooms, and its clients.
//!
//! A [`Guest`] is one client of [`Rooms`]: the other end of a WebSocket, or somebody who speaks another
//! protocol and for whom the server says the texts of `docs/signaling.md`. Guests come in by the
//! [`Entrance`], and have left once they are dropped.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::sleep_until;
use tracing::debug;

use super::rooms::{ClientId, Output, Rooms};
use crate::clock;

/// How many texts may wait for one client: what 64 viewers say to a device when they all join.
const MAX_QUEUED_TEXTS: usize = 1024;

/// How many bytes of text may wait for one client: 8 texts of the largest size.
const MAX_QUEUED_BYTES: usize = 1024 * 1024;

/// How much of both is kept free of what viewers say: for the room's news, which has to fit or
/// the device is closed. 128 viewers come and go in it.
const RESERVED_TEXTS: usize = 256;
const RESERVED_BYTES: usize = 64 * 1024;

/// How many reports of clients may wait for the rooms; then the clients wait.
const MAX_QUEUED_INPUTS: usize = 256;

/// How many texts of a page wait for its world, which may not take them for as long as a guesser waits.
const MAX_QUEUED_PAGE_INPUTS: usize = 4;

/// Where guests come in.
#[derive(Clone, Debug)]
pub struct Entrance {
    inputs: mpsc::Sender<Input>,
    /// Of its own, so that leaving never waits. Holds at most one for each guest.
    departures: mpsc::UnboundedSender<ClientId>,
}

/// What guests tell the rooms.
#[derive(Debug)]
pub struct Reports {
    inputs: mpsc::Receiver<Input>,
    departures: mpsc::UnboundedReceiver<ClientId>,
}

#[derive(Debug)]
enum Input {
    Opened {
        client: ClientId,
        address: IpAddr,
        outgoing: Outgoing,
    },
    Message {
        client: ClientId,
        bytes: Bytes,
    },
    TooLarge {
        client: ClientId,
    },
}

/// One client of the rooms, by whatever way it speaks. Dropped, it has left.
#[derive(Debug)]
pub struct Guest {
    client: ClientId,
    entrance: Entrance,
    queue: mpsc::Receiver<Queued>,
}

/// Whoever has one guest alone, instead of the rooms.
#[derive(Debug)]
pub struct Host {
    reports: Reports,
    guest: Outgoing,
}

/// Makes an entrance and what [`run_rooms`] reads of it.
#[must_use]
pub fn entrance() -> (Entrance, Reports) {
    entrance_of(MAX_QUEUED_INPUTS)
}

/// Makes a guest that has a host of its own instead of the rooms. `inside` becomes true once the host
/// says so. `None` if the system has no randomness.
#[must_use]
pub fn private_guest(inside: Arc<AtomicBool>) -> Option<(Guest, Host)> {
    let client = ClientId(getrandom::u64().ok()?);
    let (entrance, reports) = entrance_of(MAX_QUEUED_PAGE_INPUTS);
    let (outgoing, queue) = Outgoing::new(inside);
    let guest = Guest {
        client,
        entrance,
        queue,
    };
    let host = Host {
        reports,
        guest: outgoing,
    };
    Some((guest, host))
}

fn entrance_of(inputs: usize) -> (Entrance, Reports) {
    let (inputs, queue) = mpsc::channel(inputs);
    let (departures, departed) = mpsc::unbounded_channel();
    let entrance = Entrance { inputs, departures };
    let reports = Reports {
        inputs: queue,
        departures: departed,
    };
    (entrance, reports)
}

impl Entrance {
    /// Lets a client in, which has 5 seconds to join. `inside` becomes true once it is in a room. `None`
    /// if the server is shutting down.
    pub async fn enter(&self, address: IpAddr, inside: Arc<AtomicBool>) -> Option<Guest> {
        let client = ClientId(getrandom::u64().ok()?);
        self.enter_as(client, address, inside).await
    }

    async fn enter_as(
        &self,
        client: ClientId,
        address: IpAddr,
        inside: Arc<AtomicBool>,
    ) -> Option<Guest> {
        let (outgoing, queue) = Outgoing::new(inside);
        let opened = Input::Opened {
            client,
            address,
            outgoing,
        };
        self.inputs.send(opened).await.ok()?; // full: awaits
        Some(Guest {
            client,
            entrance: self.clone(),
            queue,
        })
    }
}

impl Guest {
    /// Returns its name, for logs.
    #[must_use]
    pub const fn client(&self) -> ClientId {
        self.client
    }

    /// Says a text of `docs/signaling.md`. Returns whether anybody listens: `false` while the server
    /// shuts down. May be cancelled: then nothing was said.
    pub async fn say(&self, text: impl Into<Bytes>) -> bool {
        let input = Input::Message {
            client: self.client,
            bytes: text.into(),
        };
        self.entrance.inputs.send(input).await.is_ok() // full: awaits
    }

    /// Reports a text that was over the limit and was not read; the rooms say so and close. Returns
    /// what [`Self::say`] returns.
    pub async fn said_too_much(&self) -> bool {
        let client = self.client;
        let input = Input::TooLarge { client };
        self.entrance.inputs.send(input).await.is_ok() // full: awaits
    }

    /// Returns the next text for it, or `None` once the rooms have closed it. May be cancelled.
    pub async fn hear(&mut self) -> Option<String> {
        self.queue.recv().await.map(|queued| queued.text)
    }
}

/// Says what a guest does, while somebody else hears what it hears.
#[derive(Clone, Debug)]
pub struct Voice {
    client: ClientId,
    inputs: mpsc::Sender<Input>,
}

impl Guest {
    /// Returns its voice. It is of no use once the guest is dropped.
    #[must_use]
    pub fn voice(&self) -> Voice {
        Voice {
            client: self.client,
            inputs: self.entrance.inputs.clone(),
        }
    }

    /// Returns the next text for it, if one is there already.
    pub fn hear_now(&mut self) -> Option<String> {
        let queued = self.queue.try_recv().ok()?;
        Some(queued.text)
    }
}

impl Voice {
    /// Says a text. Returns whether anybody listens.
    pub async fn say(&self, text: impl Into<Bytes>) -> bool {
        let input = Input::Message {
            client: self.client,
            bytes: text.into(),
        };
        self.inputs.send(input).await.is_ok() // full: awaits
    }
}

impl Host {
    /// Returns what the guest says next; `None` once it has left, or said more than is read. May be
    /// cancelled.
    pub async fn hear(&mut self) -> Option<Bytes> {
        tokio::select! {
            // What it said before it left counts.
            biased;
            input = self.reports.inputs.recv() => match input? {
                Input::Message { bytes, .. } => Some(bytes),
                Input::TooLarge { .. } | Input::Opened { .. } => None,
            },
            _ = self.reports.departures.recv() => None,
        }
    }

    /// Tells the guest a text. Returns whether it fits into what waits for it.
    #[must_use]
    pub fn tell(&self, text: String) -> bool {
        self.guest.send(text) // full: ends the guest
    }

    /// Notes whether the guest is in a room.
    pub fn set_inside(&self, inside: bool) {
        self.guest.inside.store(inside, Ordering::Relaxed);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.entrance.departures.send(self.client).is_err() {
            debug!(client = ?self.client, "outlived the rooms");
        }
    }
}

/// Texts on their way to one client. Dropping it closes the client once they are heard.
#[derive(Debug)]
struct Outgoing {
    texts: mpsc::Sender<Queued>,
    budget: Arc<Semaphore>,
    /// Whether the client is in a room.
    inside: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Queued {
    text: String,
    _budget: OwnedSemaphorePermit,
}

impl Outgoing {
    fn new(inside: Arc<AtomicBool>) -> (Self, mpsc::Receiver<Queued>) {
        let (texts, queue) = mpsc::channel(MAX_QUEUED_TEXTS);
        let outgoing = Self {
            texts,
            budget: Arc::new(Semaphore::new(MAX_QUEUED_BYTES)),
            inside,
        };
        (outgoing, queue)
    }

    /// Returns whether `text`, which a viewer says, could be queued. Leaves the reserve alone.
    fn relay(&self, text: String) -> bool {
        self.texts.capacity() > RESERVED_TEXTS
            && self.budget.available_permits() >= text.len() + RESERVED_BYTES
            && self.send(text) // full: ends the viewer
    }

    /// Returns whether `text` could be queued.
    fn send(&self, text: String) -> bool {
        let Ok(size) = u32::try_from(text.len()) else {
            return false;
        };
        let Ok(permit) = Arc::clone(&self.budget).try_acquire_many_owned(size) else {
            return false;
        };
        let queued = Queued {
            text,
            _budget: permit,
        };
        self.texts.try_send(queued).is_ok() // full: ends the client
    }
}

/// Owns the rooms until the entrance is closed and the last guest has left.
pub async fn run_rooms(mut rooms: Rooms, mut reports: Reports) {
    let mut clients: HashMap<ClientId, Outgoing> = HashMap::new();
    loop {
        while let Some(output) = rooms.poll_output() {
            match output {
                Output::Send {
                    client,
                    text,
                    viewer,
                } => {
                    let Some(outgoing) = clients.get(&client) else {
                        continue;
                    };
                    let inside = rooms.is_inside(client);
                    outgoing.inside.store(inside, Ordering::Relaxed);
                    let fits = match viewer {
                        Some(_) => outgoing.relay(text),
                        None => outgoing.send(text),
                    };
                    match viewer {
                        _ if fits => {}
                        Some(viewer) => {
                            debug!(?client, ?viewer, "does not keep up, closed the viewer");
                            rooms.handle_overflow(viewer);
                        }
                        None => {
                            debug!(?client, "does not read, closed");
                            clients.remove(&client);
                            rooms.handle_closed(client);
                        }
                    }
                }
                Output::Close { client } => {
                    clients.remove(&client);
                }
            }
        }
        let deadline = rooms.poll_timeout();
        tokio::select! {
            // What somebody said before it left counts.
            biased;
            () = sleep_until(deadline.unwrap_or_else(clock::now).into()), if deadline.is_some() => {
                rooms.handle_timeout(clock::now());
            }
            input = reports.inputs.recv() => match input {
                Some(Input::Opened { client, address, outgoing }) => {
                    clients.insert(client, outgoing);
                    rooms.handle_opened(client, address, clock::now());
                }
                Some(Input::Message { client, bytes }) => {
                    rooms.handle_message(client, &bytes, clock::now());
                }
                Some(Input::TooLarge { client }) => rooms.handle_too_large(client),
                None => return,
            },
            Some(client) = reports.departures.recv() => {
                clients.remove(&client);
                rooms.handle_closed(client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const BYE: &str = r#"{"type":"bye"}"#;

    async fn enter(entrance: &Entrance, number: u64) -> Guest {
        let address = IpAddr::from([127, 0, 0, 1]);
        let guest = entrance.enter_as(ClientId(number), address, Arc::default());
        guest.await.unwrap()
    }

    /// Everything that waits for a guest, once the rooms let go of it.
    async fn texts(guest: &mut Guest) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(text) = guest.hear().await {
            texts.push(text);
        }
        texts
    }

    #[tokio::test]
    async fn viewers_that_fill_the_devices_queue_are_closed_and_the_device_stays() {
        let key = |text: &str| Secret::new(text.to_owned());
        let rooms = Rooms::new(key("see"), key("be seen"), Vec::new());
        let (entrance, reports) = entrance();
        tokio::spawn(run_rooms(rooms, reports));
        let join = r#"{"type":"join","protocol":1,"role":"viewer","room":"cam","key":"see"}"#;
        let device_join = join
            .replace("viewer", "device")
            .replace("see", r#"be seen","instance":"i"#);
        let mut device = enter(&entrance, 0).await;
        assert!(device.say(device_join).await);
        let offer = format!(
            r#"{{"type":"offer","offer":{{"type":"offer","sdp":"{}"}}}}"#,
            "v".repeat(100_000)
        );
        let mut viewers = Vec::new();
        for number in 1..=20 {
            let viewer = enter(&entrance, number).await;
            assert!(viewer.say(join).await && viewer.say(offer.clone()).await);
            viewers.push(viewer);
        }
        assert!(device.say(BYE).await);
        for viewer in &viewers {
            assert!(viewer.say(BYE).await);
        }

        let told = texts(&mut device).await;
        let refused = |texts: &Vec<String>| texts.iter().any(|t| t.contains("too-fast"));
        let mut refusals = 0;
        for viewer in &mut viewers {
            refusals += usize::from(refused(&texts(viewer).await));
        }
        let count = |what: &str| told.iter().filter(|t| t.contains(what)).count();
        assert_eq!(count("viewer-joined"), 20, "the device heard of everybody");
        assert_eq!(
            count(r#""type":"offer","from""#),
            9,
            "1 MiB less the reserve"
        );
        assert_eq!((count("viewer-left"), refusals), (11, 11));
    }

    #[tokio::test]
    async fn a_guest_that_is_dropped_has_left_after_all_that_it_said() {
        let key = |text: &str| Secret::new(text.to_owned());
        let rooms = Rooms::new(key("see"), key("be seen"), Vec::new());
        let (entrance, reports) = entrance();
        tokio::spawn(run_rooms(rooms, reports));
        let mut device = enter(&entrance, 0).await;
        let join = r#"{"type":"join","protocol":1,"role":"device","room":"cam","key":"be seen","instance":"i"}"#;
        assert!(device.say(join).await);
        let mut heard = vec![device.hear().await.unwrap()];
        let mut viewer = enter(&entrance, 1).await;
        let join = r#"{"type":"join","protocol":1,"role":"viewer","room":"cam","key":"see"}"#;
        assert!(viewer.say(join).await && viewer.hear().await.is_some());
        assert!(viewer.say(r#"{"type":"call"}"#).await);
        drop(viewer);
        for _ in 0..3 {
            heard.push(device.hear().await.unwrap());
        }
        assert_eq!(
            heard[1..],
            [
                r#"{"type":"viewer-joined","id":"v-0000000000000001"}"#,
                r#"{"type":"call","from":"v-0000000000000001"}"#,
                r#"{"type":"viewer-left","id":"v-0000000000000001","reason":"lost"}"#,
            ]
        );
    }
}
