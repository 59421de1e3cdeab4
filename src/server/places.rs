//! Who may be connected to the room server at the same time.
//!
//! Behind a proxy everybody comes from one address, the embedded device's own link included. So
//! whoever has joined knew a key and keeps its place, and among the others a newcomer takes the
//! place of who has been there longest: joining takes an instant, and who idles gives way.
//!
//! Logic alone, but for the flags that connections and places share.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::guesses::network_of;

/// How many connections there may be in all.
const MAX_CONNECTIONS: usize = 256;

/// How many of them may be outside of the rooms, so that they cannot take the places of those
/// who know a key.
const MAX_OUTSIDE: usize = 128;

/// How many of them from one network. Not for loopback, where a proxy brings everybody.
const MAX_CONNECTIONS_PER_NETWORK: usize = 32;

/// The places of one server, in the order in which they were taken.
#[derive(Debug, Default)]
pub struct Places {
    taken: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    network: IpAddr,
    inside: Arc<AtomicBool>,
    carries: Carried,
    /// Dropping it tells the ticket.
    ticket: oneshot::Sender<Infallible>,
}

/// What a connection carries besides itself: whether that is in a room. It keeps the connection's place,
/// too.
#[derive(Clone, Debug, Default)]
pub struct Carried(Arc<Mutex<Option<Arc<AtomicBool>>>>);

impl Carried {
    /// Notes what is carried from now on.
    pub fn set(&self, inside: Arc<AtomicBool>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(inside);
    }

    fn is_inside(&self) -> bool {
        let carried = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        carried.as_ref().is_some_and(|c| c.load(Ordering::Relaxed))
    }
}

/// A connection's right to its place, which is free again once this is dropped.
#[derive(Debug)]
pub struct Ticket {
    inside: Arc<AtomicBool>,
    carries: Carried,
    withdrawn: oneshot::Receiver<Infallible>,
}

impl Ticket {
    /// Returns where to say whether the connection is in a room.
    pub fn inside(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.inside)
    }

    /// Returns where to say what the connection carries.
    pub fn carries(&self) -> Carried {
        self.carries.clone()
    }

    /// Waits until the place is given to a newcomer. Not to be asked again afterwards.
    pub async fn is_withdrawn(&mut self) {
        let Err(_) = (&mut self.withdrawn).await;
    }
}

impl Places {
    /// Takes a place for a connection from `address`, perhaps another's; `None` if there is none.
    pub fn take(&mut self, address: IpAddr) -> Option<Ticket> {
        self.taken.retain(|place| !place.ticket.is_closed());
        let network = network_of(address);
        let same = self.taken.iter().filter(|p| p.network == network).count();
        if !address.is_loopback() && same >= MAX_CONNECTIONS_PER_NETWORK {
            return None;
        }
        let is_outside =
            |place: &Place| !place.inside.load(Ordering::Relaxed) && !place.carries.is_inside();
        let outside = self.taken.iter().filter(|p| is_outside(p)).count();
        if outside >= MAX_OUTSIDE || self.taken.len() >= MAX_CONNECTIONS {
            let oldest = self.taken.iter().position(is_outside)?;
            self.taken.remove(oldest);
        }
        let inside = Arc::new(AtomicBool::new(false));
        let carries = Carried::default();
        let (ticket, withdrawn) = oneshot::channel();
        self.taken.push(Place {
            network,
            inside: Arc::clone(&inside),
            carries: carries.clone(),
            ticket,
        });
        Some(Ticket {
            inside,
            carries,
            withdrawn,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROXY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    impl Ticket {
        fn is_valid(&mut self) -> bool {
            self.withdrawn.try_recv() == Err(oneshot::error::TryRecvError::Empty)
        }

        fn join(&self) {
            self.inside.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_peer_that_opens_256_connections_through_a_proxy_does_not_shut_out_the_device() {
        let mut places = Places::default();
        let device = places.take(PROXY).unwrap();
        device.join();
        let mut idle: Vec<Ticket> = (0..256).map(|_| places.take(PROXY).unwrap()).collect();
        let mut newcomer = places.take(PROXY).unwrap();
        let mut tickets = [device, places.take(PROXY).unwrap()];
        assert!(newcomer.is_valid() && tickets.iter_mut().all(Ticket::is_valid));
        let valid: Vec<bool> = idle.iter_mut().map(Ticket::is_valid).collect();
        let (gone, kept) = valid.split_at(256 - 126);
        assert!(!gone.contains(&true), "the oldest gave way");
        assert!(!kept.contains(&false));
    }

    #[test]
    fn who_joined_keeps_its_place_and_256_of_them_fill_the_server() {
        let mut places = Places::default();
        let mut inside = Vec::new();
        for _ in 0..256 {
            let ticket = places.take(PROXY).unwrap();
            ticket.join();
            inside.push(ticket);
        }
        assert!(places.take(PROXY).is_none());
        assert!(inside.iter_mut().all(Ticket::is_valid));
        inside.pop();
        assert!(places.take(PROXY).is_some(), "a free place is taken again");
    }

    #[test]
    fn a_connection_that_carries_somebody_inside_keeps_its_place_for_as_long() {
        let mut places = Places::default();
        let carried = Arc::new(AtomicBool::new(true));
        let mut carrier = places.take(PROXY).unwrap();
        carrier.carries().set(Arc::clone(&carried));
        let idle: Vec<Ticket> = (0..256).filter_map(|_| places.take(PROXY)).collect();
        assert!(carrier.is_valid());
        carried.store(false, Ordering::Relaxed);
        places.take(PROXY).unwrap();
        assert!(!carrier.is_valid());
        drop(idle);
    }

    #[test]
    fn one_network_has_32_places_and_takes_no_others() {
        let mut places = Places::default();
        let one = IpAddr::from([192, 0, 2, 1]);
        let mut tickets: Vec<Ticket> = (0..32).map(|_| places.take(one).unwrap()).collect();
        assert!(places.take(one).is_none());
        assert!(tickets.iter_mut().all(Ticket::is_valid));
        assert!(places.take(IpAddr::from([192, 0, 2, 2])).is_some());
        tickets.pop();
        assert!(places.take(one).is_some());
    }
}
