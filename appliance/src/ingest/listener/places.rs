//! Places: the waiting room of connections that have not yet shown who they are, and the places of
//! associations, of which each peer may have a limit of its own.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

/// Connections that have not yet shown who they are (TLS handshake, A-ASSOCIATE-RQ): in all, and from
/// one address. Strangers can only fill this waiting room, never the places of associations; each is
/// out of it after the handshake's and ARTIM's time.
const WAITING_MAX: u32 = 512;
const WAITING_PER_ADDRESS_MAX: u32 = 128;
/// Places of the box's own self-test, beside all others: it must learn that the box works when all are taken.
const SELF_TEST_MAX: u32 = 4;

/// The waiting room.
#[derive(Debug, Default)]
pub struct WaitingRoom(Mutex<HashMap<IpAddr, u32>>);

/// A place in the waiting room, given back when dropped.
#[derive(Debug)]
pub struct Waiting<'a> {
    room: &'a WaitingRoom,
    address: IpAddr,
}

impl WaitingRoom {
    /// A place, if there is one.
    pub fn enter(&self, address: IpAddr) -> Option<Waiting<'_>> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u32 = waiting.values().sum();
        let count = waiting.get(&address).copied().unwrap_or_default();
        let full = all >= WAITING_MAX && !address.is_loopback();
        if full || count >= WAITING_PER_ADDRESS_MAX {
            return None;
        }
        waiting.insert(address, count + 1);
        Some(Waiting { room: self, address })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.room.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.address);
            }
        }
    }
}

/// The places of accepted associations.
#[derive(Debug)]
pub struct Places {
    max: u32,
    open: Mutex<BTreeMap<String, u32>>,
}

/// The place of one association, given back when dropped.
#[derive(Debug)]
pub struct Place<'a> {
    places: &'a Places,
    peer: String,
}

/// There is no place for one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The peer has as many as it may, this many.
    Peer(u32),
    /// All peers together have as many as there are, this many.
    All(u32),
}

impl Places {
    /// As many places as this, in all.
    pub fn new(max: u32) -> Self {
        Places { max, open: Mutex::default() }
    }

    /// A place for one more association of a peer that may have `peer_max`.
    pub fn take(&self, peer: &str, peer_max: Option<u32>) -> Result<Place<'_>, Full> {
        self.take_of(peer, peer_max, Some(self.max))
    }

    /// A place for the box's own self-test, however many others there are.
    pub fn take_for_self_test(&self, peer: &str) -> Result<Place<'_>, Full> {
        self.take_of(peer, Some(SELF_TEST_MAX), None)
    }

    fn take_of(&self, peer: &str, peer_max: Option<u32>, all_max: Option<u32>) -> Result<Place<'_>, Full> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let all: u32 = open.values().sum();
        let count = open.get(peer).copied().unwrap_or_default();
        if let Some(max) = peer_max.filter(|max| count >= *max) {
            return Err(Full::Peer(max));
        }
        if let Some(max) = all_max.filter(|max| all >= *max) {
            return Err(Full::All(max));
        }
        open.insert(peer.to_owned(), count + 1);
        show(peer, all + 1, count + 1);
        Ok(Place { places: self, peer: peer.to_owned() })
    }

    /// How many associations each peer has open; peers without one are not named.
    pub fn open(&self) -> BTreeMap<String, u32> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut open = self.places.open.lock().unwrap_or_else(PoisonError::into_inner);
        let left = open.get(&self.peer).copied().unwrap_or_default().saturating_sub(1);
        if left == 0 {
            open.remove(&self.peer);
        } else {
            open.insert(self.peer.clone(), left);
        }
        show(&self.peer, open.values().sum(), left);
    }
}

fn show(peer: &str, all: u32, of_peer: u32) {
    metrics::gauge!("lightbox_associations_open").set(f64::from(all));
    metrics::gauge!("lightbox_peer_associations_open", "peer" => peer.to_owned()).set(f64::from(of_peer));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_by_peer_and_in_all_and_given_back() {
        let places = Places::new(3);
        let first = places.take("a", Some(1)).expect("a place");
        assert_eq!(places.take("a", Some(1)).expect_err("full"), Full::Peer(1));
        let _second = places.take("b", None).expect("a place");
        let _third = places.take("b", None).expect("a place");
        assert_eq!(places.take("b", None).expect_err("full"), Full::All(3));
        let _own = places.take_for_self_test("self-test").expect("a place beside the others");
        drop(first);
        assert_eq!(places.take("a", Some(1)).expect_err("the self-test's place counts too"), Full::All(3));
        drop(_own);
        assert_eq!(places.open(), [("b".to_owned(), 2)].into());
        drop(places.take("a", Some(1)).expect("given back"));
    }

    #[test]
    fn strangers_fill_the_waiting_room_by_address_only_so_far() {
        let room = WaitingRoom::default();
        let address = |last| IpAddr::from([192, 0, 2, last]);
        let held: Vec<_> = (0..WAITING_PER_ADDRESS_MAX).filter_map(|_| room.enter(address(1))).collect();
        assert_eq!(held.len(), WAITING_PER_ADDRESS_MAX as usize);
        assert!(room.enter(address(1)).is_none());
        assert!(room.enter(address(2)).is_some());
        drop(held);
        assert!(room.0.lock().expect("whole").is_empty(), "nothing is remembered of who has left");
    }
}
