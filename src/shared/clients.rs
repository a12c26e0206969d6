//! The client table: fixed slots, a hash index with a secret key, exact LRU; everything O(1).
//!
//! A slot says all there is to know of a client. Everything else here, the index, the LRU list, the list of free
//! slots, the counts, only makes finding slots quick and can be rebuilt from them: `repair` does, when somebody has
//! died with the lock, and when a link is found to lead nowhere. For that a slot's `last` is different in every slot
//! and gives the LRU order, and a slot that is being refilled counts as free until it is complete.
#![forbid(unsafe_code)]

mod index;
mod slot;

use std::sync::atomic::{
    Ordering::{Acquire, Relaxed},
    fence,
};

use index::{Corrupt, Index};
use slot::{FREE, KIND, Key};

use crate::model::address::ClientAddress;
use crate::model::ids::{ClientId, ServerId, Target};
use crate::model::time::{Moment, Seconds};
use crate::shared::lock::Guard;
use crate::shared::region::{CLIENTS, Region};
use crate::shared::servers::ServerKey;

pub(super) use index::{Bucket, ClientTableHeader, grow, repair};
pub(super) use slot::ClientSlot;

/// A client's slot and which use of the slot is meant: slots are reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientRef {
    /// The slot.
    pub id: ClientId,
    /// Changes whenever the slot goes to another client, or a client's old record is forgotten.
    pub tag: u32,
}

/// What a short tag can be.
pub const SHORT_TAG: u16 = 0x3ff;

impl ClientRef {
    /// Its tag where there is little room: one in a thousand of other uses of the slot has the same.
    pub fn short_tag(self) -> u16 {
        short(self.tag)
    }
}

fn short(tag: u32) -> u16 {
    (tag >> KIND.count_ones()) as u16 & SHORT_TAG
}

/// What is noted of a client that has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted {
    /// Its slot.
    pub client: ClientRef,
    /// The server that it had last, if that is listed still.
    pub server: Option<ServerId>,
    /// The same, listed or not.
    pub(super) key: ServerKey,
}

/// A client as reports show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientView {
    /// Its slot.
    pub id: ClientId,
    /// Which use of that slot this is, as [`ClientRef::short_tag`].
    pub short_tag: u16,
    /// Port 0.
    pub address: ClientAddress,
    /// Its last visit; some microseconds later than it was if many came in one microsecond.
    pub last_used: Moment,
    /// Its last server, if that is still the same server.
    pub server: Option<ServerId>,
    /// How often it came, with those visits that were denied.
    pub connects: u32,
    /// Bytes from the client.
    pub up: u64,
    /// Bytes to the client.
    pub down: u64,
}

/// What [`Clients::audit`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client table is inconsistent: {0}")]
pub struct Inconsistent(&'static str);

/// Access to the client table.
#[derive(Debug, Clone, Copy)]
pub struct Clients<'a> {
    region: &'a Region,
}

impl<'a> Clients<'a> {
    pub(super) fn new(region: &'a Region) -> Self {
        Clients { region }
    }

    fn header(&self) -> &'a ClientTableHeader {
        &self.region.header().client_table
    }

    fn slot(&self, id: ClientId) -> Option<&'a ClientSlot> {
        self.region.row(&CLIENTS, id.0 as usize)
    }

    /// Slots in all.
    pub fn capacity(&self) -> u32 {
        self.region.geometry().clients
    }

    /// Slots in use.
    pub fn used(&self) -> u32 {
        self.header().used.load(Relaxed).min(self.capacity())
    }

    /// How many clients were thrown out to make room, though their tracking time was not up.
    pub fn evictions(&self) -> u64 {
        self.header().evictions.load(Relaxed)
    }

    /// One slot, if in use.
    pub fn view(&self, id: ClientId) -> Option<ClientView> {
        if id.0 >= self.frontier() {
            return None;
        }
        let slot = self.slot(id)?;
        // Others may refill the slot meanwhile: then look again, now and then in vain.
        for _ in 0..16 {
            let tag = slot.tag.load(Acquire);
            let key = slot.key(tag)?;
            let view = ClientView {
                id,
                short_tag: short(tag),
                address: key.address(),
                last_used: Moment(slot.last.load(Relaxed)),
                server: self.resolve(ServerKey(slot.server.load(Relaxed))),
                connects: slot.connects.load(Relaxed),
                up: slot.up.load(Relaxed),
                down: slot.down.load(Relaxed),
            };
            fence(Acquire);
            if slot.tag.load(Relaxed) == tag {
                return Some(view);
            }
        }
        None
    }

    /// Slots in use, by number.
    pub fn iter(&self) -> impl Iterator<Item = ClientView> + use<'a> {
        let clients = *self;
        (0..self.frontier()).filter_map(move |number| clients.view(ClientId(number)))
    }

    /// Adds the bytes of a finished connection, unless the slot belongs to another client by now. No lock.
    pub fn count(&self, client: ClientRef, up: u64, down: u64) {
        if let Some(slot) = self.slot_of(client) {
            slot.up.fetch_add(up, Relaxed);
            slot.down.fetch_add(down, Relaxed);
        }
    }

    /// A client came: finds its slot, or takes one for it, the least recently used if all are taken. A client not
    /// seen for longer than `tracking` is a new one.
    pub fn visit(&self, guard: &Guard<'_>, address: ClientAddress, tracking: Seconds, now: Moment) -> Noted {
        let index = Index::new(guard);
        let key = Key::from(address);
        let found = index.visit(key, tracking, now).or_else(|Corrupt| {
            repair(guard.region());
            index.visit(key, tracking, now)
        });
        // A second failure takes somebody who writes nonsense without the lock: this visit goes without a slot.
        match found {
            Ok((link, slot)) => {
                let client = ClientRef { id: ClientId(link - 1), tag: slot.tag.load(Relaxed) };
                let noted = ServerKey(slot.server.load(Relaxed));
                Noted { client, server: self.resolve(noted), key: noted.confirmed() }
            }
            Err(Corrupt) => {
                let client = ClientRef { id: ClientId(0), tag: FREE };
                Noted { client, server: None, key: ServerKey::NONE }
            }
        }
    }

    /// What is known of a client, without noting that anybody asked; nothing if the index leads nowhere. Its tracking
    /// time may be up.
    pub(super) fn peek(&self, guard: &Guard<'_>, address: ClientAddress) -> Option<ClientView> {
        let (link, _) = Index::new(guard).find(Key::from(address)).ok()??;
        self.view(ClientId(link - 1))
    }

    fn resolve(&self, noted: ServerKey) -> Option<ServerId> {
        match self.region.servers().resolve(noted)? {
            Target::Server(server) => Some(server),
            Target::Emergency | Target::Abuse => None,
        }
    }

    /// The server that the client's record names.
    pub(super) fn server(&self, client: ClientRef) -> Option<ServerKey> {
        Some(ServerKey(self.slot_of(client)?.server.load(Relaxed)))
    }

    /// Notes the client's server.
    pub(super) fn remember(&self, _guard: &Guard<'_>, client: ClientRef, server: ServerKey) {
        if let Some(slot) = self.slot_of(client) {
            slot.server.store(server.0, Relaxed);
        }
    }

    /// Notes the client's server if `from` is what is noted now. No lock: of the slot's next client the same could
    /// be noted, but then it is true of that one as well, or soon found out not to be.
    pub(super) fn revise(&self, client: ClientRef, from: ServerKey, to: ServerKey) {
        if let Some(slot) = self.slot_of(client) {
            let _ = slot.server.compare_exchange(from.0, to.0, Relaxed, Relaxed);
        }
    }

    /// Its slot, if it is still its own.
    fn slot_of(&self, client: ClientRef) -> Option<&'a ClientSlot> {
        let slot = self.slot(client.id)?;
        (client.tag & KIND != FREE && slot.tag.load(Relaxed) == client.tag).then_some(slot)
    }

    fn frontier(&self) -> u32 {
        self.header().frontier.load(Relaxed).min(self.capacity())
    }

    /// Do index, LRU list, list of free slots and counts say what the slots say? For tests and diagnosis: O(slots).
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn audit(&self, guard: &Guard<'_>) -> Result<(), Inconsistent> {
        Index::new(guard).audit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::WorkerId;
    use crate::shared::region::{BUCKETS, Geometry};
    use crate::shared::servers::Definition;
    use proptest::prelude::*;

    const WORKER: WorkerId = WorkerId(0);
    const FOREVER: Seconds = Seconds(0);

    fn region(clients: u32) -> Region {
        let region = Region::create(Geometry { clients, connections: 1 }).unwrap();
        publish(&region, 1000);
        region
    }

    /// Three servers, on ports from `port`.
    fn publish(region: &Region, port: u16) {
        let definitions: Vec<Definition> = (port..port + 3).map(Definition::local).collect();
        region.servers().publish(&definitions, None, None).unwrap();
    }

    fn key_of(region: &Region, server: u32) -> ServerKey {
        region.servers().key(Target::Server(ServerId(server)))
    }

    fn client(number: u8) -> ClientAddress {
        match number {
            0 => ClientAddress::Unix,
            n if n % 2 == 0 => ClientAddress::Inet([10, 0, 0, n].into(), u16::from(n)),
            n => ClientAddress::Inet([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)].into(), 7),
        }
    }

    fn visit(region: &Region, number: u8, tracking: Seconds, now: Moment) -> (ClientRef, Option<ServerId>) {
        let noted = region.clients().visit(&region.lock(WORKER), client(number), tracking, now);
        (noted.client, noted.server)
    }

    fn audit(region: &Region) -> Result<(), Inconsistent> {
        region.clients().audit(&region.lock(WORKER))
    }

    #[test]
    fn a_client_is_the_same_whatever_its_port() {
        let region = region(4);
        let guard = region.lock(WORKER);
        let visit = |address: &str| {
            let address = ClientAddress::from(address.parse::<std::net::SocketAddr>().unwrap());
            region.clients().visit(&guard, address, FOREVER, Moment(5)).client
        };
        let first = visit("127.0.0.1:1000");
        assert_eq!(visit("127.0.0.1:2000"), first);
        assert_eq!(visit("[::ffff:127.0.0.1]:2000"), first);
        assert_ne!(visit("[2000::1]:1").id, visit("[2000::2]:1").id, "IPv6 addresses count whole");
        let view = region.clients().view(first.id).unwrap();
        assert_eq!(view.address, ClientAddress::Inet([127, 0, 0, 1].into(), 0));
        assert_eq!(view.connects, 3);
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let region = region(2);
        let now = Moment(1);
        let second = visit(&region, 2, FOREVER, now).0;
        let third = visit(&region, 3, FOREVER, now).0;
        visit(&region, 2, FOREVER, now);
        let fourth = visit(&region, 4, FOREVER, now).0;
        assert_eq!(fourth.id, third.id, "the slot of 3");
        assert_ne!(fourth.tag, third.tag);
        assert_eq!(visit(&region, 2, FOREVER, now).0, second);
        assert_eq!((region.clients().used(), region.clients().evictions()), (2, 1));
        audit(&region).unwrap();
    }

    #[test]
    fn bytes_are_not_counted_for_the_next_client_of_a_slot() {
        let region = region(1);
        let old = visit(&region, 2, FOREVER, Moment(1)).0;
        region.clients().count(old, 5, 6);
        assert_eq!(region.clients().view(old.id).map(|view| (view.up, view.down)), Some((5, 6)));
        let new = visit(&region, 4, FOREVER, Moment(1)).0;
        region.clients().count(old, 5, 6);
        assert_eq!(region.clients().view(new.id).map(|view| (view.up, view.down)), Some((0, 0)));
        region.clients().count(ClientRef { id: ClientId(u32::MAX), tag: 1 }, 1, 1);
    }

    #[test]
    fn a_client_expires_when_older_than_the_tracking_time() {
        let tracking = Seconds(10);
        for (age, remembered) in [(10_000_000, true), (10_000_001, false)] {
            let region = region(4);
            let first = visit(&region, 2, tracking, Moment(1)).0;
            region.clients().remember(&region.lock(WORKER), first, key_of(&region, 1));
            let (again, server) = visit(&region, 2, tracking, Moment(1 + age));
            assert_eq!(again == first, remembered);
            assert_eq!(server, remembered.then_some(ServerId(1)));
            assert_eq!(region.clients().view(again.id).unwrap().connects, 1 + u32::from(remembered));
        }
    }

    #[test]
    fn expired_clients_leave_as_others_come() {
        let region = region(100);
        for number in 1..=60 {
            visit(&region, number, Seconds(1), Moment(1));
        }
        for _ in 0..30 {
            visit(&region, 61, Seconds(1), Moment(10_000_000));
        }
        assert_eq!(region.clients().used(), 1);
        assert_eq!(region.clients().evictions(), 0);
        audit(&region).unwrap();
    }

    #[test]
    fn a_server_whose_address_changed_is_not_the_one_remembered() {
        let region = region(4);
        let (record, none) = visit(&region, 2, FOREVER, Moment(1));
        assert_eq!(none, None);
        region.clients().remember(&region.lock(WORKER), record, key_of(&region, 2));
        assert_eq!(visit(&region, 2, FOREVER, Moment(2)).1, Some(ServerId(2)));
        publish(&region, 2000);
        assert_eq!(visit(&region, 2, FOREVER, Moment(3)).1, None);
        assert_eq!(region.clients().view(record.id).unwrap().server, None);
    }

    #[test]
    fn of_two_slots_with_one_key_repair_keeps_the_newer() {
        let region = region(4);
        visit(&region, 2, FOREVER, Moment(1));
        let newer = visit(&region, 4, FOREVER, Moment(2)).0;
        let slot = |id| region.row(&CLIENTS, id).unwrap();
        slot(0).key[1].store(slot(1).key[1].load(Relaxed), Relaxed);
        assert!(audit(&region).is_err());
        let guard = region.lock(WORKER);
        repair(&region);
        region.clients().audit(&guard).unwrap();
        drop(guard);
        assert_eq!(region.clients().iter().map(|view| view.id).collect::<Vec<_>>(), [newer.id]);
        assert_eq!(region.repairs(), 1);
    }

    #[test]
    fn a_time_that_cannot_be_is_repaired_like_a_bad_link() {
        let region = region(4);
        visit(&region, 2, Seconds(10), Moment(5));
        region.clients().header().last.store(u64::MAX, Relaxed);
        let (client, _) = visit(&region, 4, Seconds(10), Moment(6));
        assert_eq!(region.clients().view(client.id).unwrap().last_used, Moment(6));
        assert_eq!(region.repairs(), 1);
        audit(&region).unwrap();
    }

    /// The table, slow and obvious: clients from the oldest to the newest.
    #[derive(Default)]
    struct Model {
        clients: Vec<(u8, ClientView)>,
        last: u64,
        evictions: u64,
    }

    impl Model {
        fn visit(&mut self, number: u8, capacity: usize, tracking: Seconds, now: Moment) {
            let expired = |view: &ClientView| {
                tracking.0 != 0 && now.0.saturating_sub(view.last_used.0) > tracking.micros()
            };
            for _ in 0..2 {
                if self.clients.first().is_some_and(|(_, oldest)| expired(oldest)) {
                    self.clients.remove(0);
                }
            }
            let known = self.clients.iter().position(|(other, _)| *other == number);
            let old = known.map(|at| self.clients.remove(at).1).filter(|view| !expired(view));
            if self.clients.len() == capacity {
                self.clients.remove(0);
                self.evictions += 1;
            }
            self.last = now.0.max(self.last + 1);
            let ClientAddress::Inet(ip, _) = client(number) else {
                let view = self.touched(old, ClientAddress::Unix);
                return self.clients.push((number, view));
            };
            let view = self.touched(old, ClientAddress::Inet(ip, 0));
            self.clients.push((number, view));
        }

        fn touched(&self, old: Option<ClientView>, address: ClientAddress) -> ClientView {
            let new = ClientView {
                id: ClientId(0),
                short_tag: 0,
                address,
                last_used: Moment(0),
                server: None,
                connects: 0,
                up: 0,
                down: 0,
            };
            let view = old.unwrap_or(new);
            ClientView { last_used: Moment(self.last), connects: view.connects + 1, ..view }
        }

        fn find(&mut self, number: u8) -> Option<&mut ClientView> {
            self.clients.iter_mut().find(|(other, _)| *other == number).map(|(_, view)| view)
        }
    }

    #[derive(Debug, Clone)]
    enum Op {
        Visit { number: u8, later: u64 },
        Remember { number: u8, server: u32 },
        Count { number: u8, bytes: u16 },
        Grow { by: u32 },
        Repair,
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            20 => (0..30_u8, prop_oneof![3 => Just(0), 2 => 0..400_000_u64, 1 => 0..3_000_000_u64])
                .prop_map(|(number, later)| Op::Visit { number, later }),
            4 => (0..30_u8, 0..3_u32).prop_map(|(number, server)| Op::Remember { number, server }),
            4 => (0..30_u8, any::<u16>()).prop_map(|(number, bytes)| Op::Count { number, bytes }),
            1 => (1..9_u32).prop_map(|by| Op::Grow { by }),
            1 => Just(Op::Repair),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn the_table_does_what_a_slow_and_obvious_one_does(
            capacity in 1..12_u32,
            tracking in prop_oneof![Just(FOREVER), (1..4_u32).prop_map(Seconds)],
            ops in prop::collection::vec(op(), 1..120),
        ) {
            let region = region(capacity);
            let clients = region.clients();
            let mut model = Model::default();
            let mut refs = std::collections::HashMap::new();
            let mut now = Moment(1_000_000);
            for op in ops {
                match op {
                    Op::Visit { number, later } => {
                        now.0 += later;
                        model.visit(number, clients.capacity() as usize, tracking, now);
                        let (record, server) = visit(&region, number, tracking, now);
                        prop_assert_eq!(server, model.find(number).unwrap().server);
                        refs.insert(number, record);
                    }
                    Op::Remember { number, server } => if let Some(record) = refs.get(&number) {
                        clients.remember(&region.lock(WORKER), *record, key_of(&region, server));
                        if let Some(view) = model.find(number) {
                            view.server = Some(ServerId(server));
                        }
                    },
                    Op::Count { number, bytes } => if let Some(record) = refs.get(&number) {
                        clients.count(*record, bytes.into(), 1);
                        if let Some(view) = model.find(number) {
                            view.up += u64::from(bytes);
                            view.down += 1;
                        }
                    },
                    Op::Grow { by } => {
                        region.grow(Geometry { clients: clients.capacity() + by, connections: 1 }).unwrap();
                    }
                    Op::Repair => {
                        let _guard = region.lock(WORKER);
                        repair(&region);
                    }
                }
                let mut seen: Vec<ClientView> = clients.iter().collect();
                seen.sort_by_key(|view| view.last_used);
                seen.iter_mut().for_each(|view| (view.id, view.short_tag) = (ClientId(0), 0));
                let expected: Vec<ClientView> = model.clients.iter().map(|(_, view)| *view).collect();
                prop_assert_eq!(seen, expected);
                prop_assert_eq!(clients.used() as usize, model.clients.len());
                prop_assert_eq!(clients.evictions(), model.evictions);
                prop_assert_eq!(audit(&region), Ok(()));
            }
        }

        #[test]
        fn nonsense_in_the_table_costs_entries_but_never_a_panic_or_a_loop(
            scribbles in prop::collection::vec((0..21_usize, 0..12_usize, nonsense()), 1..20),
        ) {
            let region = region(16);
            for number in 0..20 {
                visit(&region, number, Seconds(5), Moment(u64::from(number) * 1000 + 1));
            }
            let header = &region.header().client_table;
            for (at, field, value) in scribbles {
                match at {
                    0..16 => {
                        let slot = region.row(&CLIENTS, at).unwrap();
                        let small = [&slot.tag, &slot.server, &slot.connects, &slot.newer, &slot.older, &slot.chain];
                        let large = [&slot.key[0], &slot.key[1], &slot.last, &slot.up];
                        small.get(field).iter().for_each(|field| field.store(value as u32, Relaxed));
                        large.get(field.wrapping_sub(6)).iter().for_each(|field| field.store(value, Relaxed));
                    }
                    16..18 => region.row(&BUCKETS, field).unwrap().0.store(value as u32, Relaxed),
                    _ => {
                        let small = [&header.newest, &header.oldest, &header.free, &header.frontier, &header.used];
                        small.get(field % 6).iter().for_each(|field| field.store(value as u32, Relaxed));
                        if field % 6 == 5 {
                            header.last.store(value, Relaxed);
                        }
                    }
                }
            }
            let _ = audit(&region);
            for number in 0..40 {
                visit(&region, number, Seconds(5), Moment(1_000_000));
                prop_assert!(region.clients().iter().count() <= 16);
            }
            let guard = region.lock(WORKER);
            repair(&region);
            prop_assert_eq!(region.clients().audit(&guard), Ok(()));
        }
    }

    fn nonsense() -> impl Strategy<Value = u64> {
        prop_oneof![0..20_u64, any::<u64>(), Just(u64::MAX), Just(u64::from(u32::MAX))]
    }

    #[test]
    fn the_tables_of_the_largest_pen_work() {
        let region = region(Region::MAX_CLIENTS);
        for number in 0..100 {
            visit(&region, number, FOREVER, Moment(1));
        }
        assert_eq!(region.clients().used(), 100);
        assert!(region.footprint().unwrap() < 1 << 20);
    }
}
