//! The server table: one row a server, and one each for the emergency and the abuse server.
//!
//! The master alone writes definitions. Workers read them under the lock, everybody else through [`Servers::definition`],
//! which reads again if the master has written meanwhile. Failures are noted by workers.
//!
//! A row's *identity* goes up when another address moves in, and whoever remembers a server remembers its identity
//! with it: so nothing that was known of the old server is held for or against the new one.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{
    AtomicI32, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use crate::model::address::SocketAddress;
use crate::model::ids::{AclId, MAX_SERVERS, ServerId, Target};
use crate::model::time::{Moment, Seconds, WallTime};
use crate::policy::blacklist::{self, Record};
use crate::policy::selection::ServerView;
use crate::shared::lock::Busy;
use crate::shared::region::{Region, SERVERS};
use crate::sys::clock;

/// What the settings say of a server, with its resolved address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// None: not resolved (yet), or an empty slot. Port 0 counts as none.
    pub address: Option<SocketAddress>,
    /// Most connections for new clients; 0 = no limit.
    pub soft: u32,
    /// Most connections for clients that it knows; matters only above `soft`.
    pub hard: u32,
    /// Share under `-W`.
    pub weight: u32,
    /// Rank under `prio`.
    pub prio: i32,
    /// The access list for its clients.
    pub acl: AclId,
}

/// The longest path of a Unix socket.
const PATH: usize = 108;

/// The first cache line has all that a choice looks at, the others what a connect needs.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct ServerRow {
    /// It has an address, and may be used.
    usable: AtomicU32,
    soft: AtomicU32,
    hard: AtomicU32,
    weight: AtomicU32,
    prio: AtomicI32,
    acl: AtomicU32,
    /// 0 until an address moves in, then from 1 to [`IDENTITIES`].
    identity: AtomicU32,
    _reserved: AtomicU32,
    /// [`Record`]: microseconds, 0 = none.
    failed: AtomicU64,
    probing_until: AtomicU64,
    /// Seconds since 1970; 0 = none.
    failed_wall: AtomicU64,
    _reserved_too: AtomicU64,

    /// The address that moved in last, though it may not be usable now: [`NOWHERE`], [`INET`], [`INET6`], [`UNIX`].
    kind: AtomicU32,
    port: AtomicU32,
    /// IPv4 is kept as an IPv4-mapped IPv6 address.
    ip: [AtomicU64; 2],
    flow: AtomicU32,
    scope: AtomicU32,
    path_length: AtomicU32,
    path: [AtomicU8; PATH],
}
const _: () = assert!(size_of::<ServerRow>() == 256);

const NOWHERE: u32 = 0;
const INET: u32 = 1;
const INET6: u32 = 2;
const UNIX: u32 = 3;

/// The server table's part of the header.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Board {
    count: AtomicU32,
    /// The most there ever were.
    high: AtomicU32,
    /// Where round robin stopped.
    cursor: AtomicU32,
    /// Odd while definitions are being written.
    edition: AtomicU32,
}

const ROW_BITS: u32 = 12;
const IDENTITIES: u32 = (1 << 19) - 1;
const UNCONFIRMED: u32 = 1 << 31;
const _: () = assert!(1 << ROW_BITS == MAX_SERVERS && IDENTITIES << ROW_BITS < UNCONFIRMED);

/// A regular server in one word: its row, the row's identity, and whether it has yet to answer. The default is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ServerKey(pub(super) u32);

impl ServerKey {
    pub(super) const NONE: ServerKey = ServerKey(0);

    fn new(server: ServerId, identity: u32) -> Self {
        ServerKey((identity & IDENTITIES) << ROW_BITS | server.0 & (MAX_SERVERS - 1))
    }

    pub(super) fn unconfirmed(self) -> Self {
        ServerKey(self.0 | UNCONFIRMED)
    }

    pub(super) fn confirmed(self) -> Self {
        ServerKey(self.0 & !UNCONFIRMED)
    }
}

/// An address as copied out of its row: turning it into a [`SocketAddress`] may allocate, which nobody does with the
/// lock in hand.
#[derive(Debug, Clone, Copy)]
pub(super) enum RawAddress {
    Inet(SocketAddr),
    Unix([u8; PATH], usize),
}

impl From<RawAddress> for SocketAddress {
    fn from(raw: RawAddress) -> Self {
        match raw {
            RawAddress::Inet(address) => SocketAddress::Inet(address),
            RawAddress::Unix(path, length) => {
                let path = path.get(..length).unwrap_or(&path);
                SocketAddress::Unix(OsStr::from_bytes(path).into())
            }
        }
    }
}

/// Access to the server table.
#[derive(Debug, Clone, Copy)]
pub struct Servers<'a> {
    region: &'a Region,
}

impl<'a> Servers<'a> {
    pub(super) fn new(region: &'a Region) -> Self {
        Servers { region }
    }

    pub(super) fn row(&self, target: Target) -> Option<&'a ServerRow> {
        // Not `target.row()` alone: a number that is out of range must not lead to the emergency server's row.
        match target {
            Target::Server(server) if server.0 >= MAX_SERVERS => None,
            _ => self.region.row(&SERVERS, target.row()),
        }
    }

    fn board(&self) -> &'a Board {
        &self.region.header().board
    }

    /// How many regular servers there are.
    #[inline]
    pub fn count(&self) -> u32 {
        self.board().count.load(Relaxed).min(MAX_SERVERS)
    }

    /// Master only: writes all definitions at once, under the lock. A row whose address stays the same (or comes
    /// back) keeps its identity, blacklist state and totals; one whose address changes gets a new identity, so that
    /// clients that remember the old server there are new to it. Resets round robin's cursor only if it is out of
    /// range. Servers beyond [`MAX_SERVERS`] are left out.
    ///
    /// # Errors
    /// [`Busy`] if the lock was not to be had within [`Region::PATIENCE`]: nothing is changed, try again.
    pub fn publish(
        &self,
        servers: &[Definition],
        emergency: Option<&Definition>,
        abuse: Option<&Definition>,
    ) -> Result<(), Busy> {
        let board = self.board();
        let _guard = self.region.lock_within(Region::PATIENCE)?;
        let edition = board.edition.load(Relaxed);
        board.edition.store(edition | 1, Relaxed);
        fence(Release);

        let regular = servers.iter().take(MAX_SERVERS as usize);
        let count = regular.len() as u32;
        // First, as starting totals anew needs the sums over all rows that may be in use.
        board.high.fetch_max(count, Relaxed);
        for (number, definition) in (0..).zip(regular) {
            self.write(Target::Server(ServerId(number)), Some(definition));
        }
        for number in count..board.high.load(Relaxed).min(MAX_SERVERS) {
            self.write(Target::Server(ServerId(number)), None);
        }
        self.write(Target::Emergency, emergency);
        self.write(Target::Abuse, abuse);
        board.count.store(count, Relaxed);
        if board.cursor.load(Relaxed) >= count {
            board.cursor.store(0, Relaxed);
        }

        board.edition.store((edition | 1).wrapping_add(1), Release);
        Ok(())
    }

    fn write(&self, target: Target, definition: Option<&Definition>) {
        let Some(row) = self.row(target) else {
            return;
        };
        let Some(definition) = definition else {
            row.usable.store(0, Relaxed);
            return;
        };
        let address = definition.address.as_ref().filter(|address| has_port(address));
        if let Some(address) = address
            && row.address().map(SocketAddress::from).as_ref() != Some(address)
        {
            row.move_in(address);
            self.region.ledger().start_anew(target);
        }
        row.usable.store(u32::from(address.is_some()), Relaxed);
        row.soft.store(definition.soft, Relaxed);
        row.hard.store(definition.hard, Relaxed);
        row.weight.store(definition.weight, Relaxed);
        row.prio.store(definition.prio, Relaxed);
        row.acl.store(definition.acl.index() as u32, Relaxed);
    }

    /// What is in a row, never a mixture of old and new. None: there is no such server, or the master died while it
    /// wrote.
    pub fn definition(&self, target: Target) -> Option<Definition> {
        let board = self.board();
        for _ in 0..10_000 {
            let before = board.edition.load(Acquire);
            let definition = self.read(target);
            fence(Acquire);
            if before & 1 == 0 && board.edition.load(Relaxed) == before {
                return definition;
            }
            std::hint::spin_loop();
        }
        None
    }

    fn read(&self, target: Target) -> Option<Definition> {
        let row = self.row(target)?;
        let usable = row.usable.load(Relaxed) != 0;
        let listed = match target {
            Target::Server(server) => server.0 < self.count(),
            Target::Emergency | Target::Abuse => usable,
        };
        listed.then(|| Definition {
            address: row.address().filter(|_| usable).map(Into::into),
            soft: row.soft.load(Relaxed),
            hard: row.hard.load(Relaxed),
            weight: row.weight.load(Relaxed),
            prio: row.prio.load(Relaxed),
            acl: row.acl(),
        })
    }

    /// Its blacklist record.
    pub fn record(&self, target: Target) -> Record {
        self.row(target).map_or(Record::default(), ServerRow::record)
    }

    /// Wall time of the last failure, for reports; none if it has served since.
    pub fn failed_at(&self, target: Target) -> Option<WallTime> {
        let at = self.row(target)?.failed_wall.load(Relaxed);
        (at != 0).then_some(WallTime(at))
    }

    /// `server N blacklist T`: out of use for `length` from `now`; 0 forgives. No lock.
    pub fn shun_for(&self, target: Target, length: Seconds, blacklist: Seconds, now: Moment) {
        let Some(row) = self.row(target) else {
            return;
        };
        match blacklist::failed_for(length, blacklist, now) {
            Some(failed) => {
                row.failed_wall.store(clock::wall().0, Relaxed);
                row.failed.store(raw(Some(failed)), Relaxed);
                row.probing_until.store(0, Relaxed);
            }
            None => row.forget_failures(),
        }
    }

    /// Where round robin stopped.
    pub fn cursor(&self) -> ServerId {
        let cursor = self.board().cursor.load(Relaxed);
        ServerId(if cursor < self.count() { cursor } else { 0 })
    }

    pub(super) fn set_cursor(&self, cursor: ServerId) {
        self.board().cursor.store(cursor.0, Relaxed);
    }

    /// All targets that ever were in the table.
    pub(super) fn targets_ever(&self) -> impl Iterator<Item = Target> + use<> {
        let high = self.board().high.load(Relaxed).min(MAX_SERVERS);
        (0..high).map(|server| Target::Server(ServerId(server))).chain([Target::Emergency, Target::Abuse])
    }

    /// The word by which to remember this target, as it is now. None for those that are not remembered.
    pub(super) fn key(&self, target: Target, identity: u32) -> ServerKey {
        match target {
            Target::Server(server) => ServerKey::new(server, identity),
            Target::Emergency | Target::Abuse => ServerKey::NONE,
        }
    }

    /// The server that was remembered by this word, if it is there still.
    pub(super) fn resolve(&self, key: ServerKey) -> Option<ServerId> {
        let server = ServerId(key.0 & (MAX_SERVERS - 1));
        let identity = key.0 >> ROW_BITS & IDENTITIES;
        if identity == 0 || server.0 >= self.count() {
            return None;
        }
        (self.row(Target::Server(server))?.identity.load(Relaxed) == identity).then_some(server)
    }
}

fn has_port(address: &SocketAddress) -> bool {
    match address {
        SocketAddress::Inet(address) => address.port() != 0,
        SocketAddress::Unix(_) => true,
    }
}

impl ServerRow {
    pub(super) fn identity(&self) -> u32 {
        self.identity.load(Relaxed)
    }

    fn acl(&self) -> AclId {
        AclId::new(self.acl.load(Relaxed)).unwrap_or_default()
    }

    pub(super) fn record(&self) -> Record {
        let moment = |field: &AtomicU64| match field.load(Relaxed) {
            0 => None,
            micros => Some(Moment(micros)),
        };
        Record { failed: moment(&self.failed), probing_until: moment(&self.probing_until) }
    }

    pub(super) fn view(&self, blacklist: Seconds, now: Moment) -> ServerView {
        ServerView {
            usable: self.usable.load(Relaxed) != 0,
            standing: blacklist::standing(self.record(), blacklist, now),
            soft: self.soft.load(Relaxed),
            hard: self.hard.load(Relaxed),
            weight: self.weight.load(Relaxed),
            prio: self.prio.load(Relaxed),
            acl: self.acl(),
        }
    }

    /// Where to connect to, if that is possible now.
    pub(super) fn usable_address(&self) -> Option<RawAddress> {
        self.address().filter(|_| self.usable.load(Relaxed) != 0)
    }

    /// A connect has failed; `wall` is the time for reports. With the lock, though the master may order to shun the
    /// server meanwhile without it: an order stays.
    pub(super) fn shun(&self, now: Moment, wall: WallTime) {
        let before = self.record();
        let after = blacklist::after_failure(before, now);
        if self.failed.compare_exchange(raw(before.failed), raw(after.failed), Relaxed, Relaxed).is_ok() {
            self.failed_wall.store(wall.0, Relaxed);
            self.probing_until.store(raw(after.probing_until), Relaxed);
        }
    }

    /// Would [`ServerRow::forgive`] change anything?
    pub(super) fn is_forgivable(&self, now: Moment) -> bool {
        blacklist::after_success(self.record(), now) != self.record()
    }

    /// A connect has succeeded. With the lock; an order stays, as above.
    pub(super) fn forgive(&self, now: Moment) {
        let before = self.record();
        let after = blacklist::after_success(before, now);
        if after != before
            && self.failed.compare_exchange(raw(before.failed), raw(after.failed), Relaxed, Relaxed).is_ok()
        {
            self.failed_wall.store(0, Relaxed);
            self.probing_until.store(raw(after.probing_until), Relaxed);
        }
    }

    fn forget_failures(&self) {
        self.failed.store(0, Relaxed);
        self.failed_wall.store(0, Relaxed);
        self.probing_until.store(0, Relaxed);
    }

    pub(super) fn probe(&self, until: Moment) {
        self.probing_until.store(until.0, Relaxed);
    }

    /// The probe that was begun with this `until` has ended without a verdict.
    pub(super) fn probe_ended(&self, until: Moment) {
        let _ = self.probing_until.compare_exchange(until.0, 0, Relaxed, Relaxed);
    }

    fn address(&self) -> Option<RawAddress> {
        let port = self.port.load(Relaxed) as u16;
        let [high, low] = [&self.ip[0], &self.ip[1]].map(|half| half.load(Relaxed));
        let ip = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
        match self.kind.load(Relaxed) {
            INET => Some(RawAddress::Inet((ip.to_canonical(), port).into())),
            INET6 => {
                let (flow, scope) = (self.flow.load(Relaxed), self.scope.load(Relaxed));
                Some(RawAddress::Inet(SocketAddrV6::new(ip, port, flow, scope).into()))
            }
            UNIX => {
                let path = std::array::from_fn(|i| self.path[i].load(Relaxed));
                Some(RawAddress::Unix(path, (self.path_length.load(Relaxed) as usize).min(PATH)))
            }
            _ => None,
        }
    }

    /// Another address: another server, of which nothing is known.
    fn move_in(&self, address: &SocketAddress) {
        self.kind.store(NOWHERE, Relaxed);
        match address {
            SocketAddress::Inet(address) => {
                let (ip, kind) = match address.ip() {
                    IpAddr::V4(ip) => (ip.to_ipv6_mapped(), INET),
                    IpAddr::V6(ip) => (ip, INET6),
                };
                self.ip[0].store((ip.to_bits() >> 64) as u64, Relaxed);
                self.ip[1].store(ip.to_bits() as u64, Relaxed);
                self.port.store(address.port().into(), Relaxed);
                if let SocketAddr::V6(address) = address {
                    self.flow.store(address.flowinfo(), Relaxed);
                    self.scope.store(address.scope_id(), Relaxed);
                }
                self.kind.store(kind, Relaxed);
            }
            SocketAddress::Unix(path) => {
                // A path that is too long cannot be connected to; cut, connect(2) says so.
                let bytes = path.as_os_str().as_bytes();
                for (to, from) in self.path.iter().zip(bytes) {
                    to.store(*from, Relaxed);
                }
                self.path_length.store(bytes.len().min(PATH) as u32, Relaxed);
                self.kind.store(UNIX, Relaxed);
            }
        }
        let identity = self.identity.load(Relaxed);
        self.identity.store(if identity >= IDENTITIES { 1 } else { identity + 1 }, Relaxed);
        self.forget_failures();
    }
}

/// A moment as rows have it.
fn raw(moment: Option<Moment>) -> u64 {
    moment.map_or(0, |moment| moment.0.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::WorkerId;
    use crate::shared::region::Geometry;

    fn region() -> Region {
        Region::create(Geometry { clients: 16, connections: 16 }).unwrap()
    }

    fn at(address: &str) -> Definition {
        let address = match address {
            "" => None,
            path if path.starts_with('/') => Some(SocketAddress::Unix(path.into())),
            inet => Some(SocketAddress::Inet(inet.parse().unwrap())),
        };
        Definition { address, soft: 1, hard: 2, weight: 3, prio: -4, acl: AclId::new(5).unwrap() }
    }

    const FIRST: Target = Target::Server(ServerId(0));

    #[test]
    fn what_is_published_is_read_back() {
        let region = region();
        let servers = region.servers();
        let definitions =
            [at("127.0.0.1:80"), at("[::1]:81"), at("[::ffff:1.2.3.4]:82"), at("/run/x.sock"), at("")];
        servers.publish(&definitions, Some(&at("127.0.0.1:9")), None).unwrap();
        assert_eq!(servers.count(), 5);
        for (number, definition) in (0..).zip(&definitions) {
            assert_eq!(servers.definition(Target::Server(ServerId(number))).as_ref(), Some(definition));
        }
        assert_eq!(servers.definition(Target::Emergency), Some(at("127.0.0.1:9")));
        assert_eq!(servers.definition(Target::Abuse), None);
        for number in [5, MAX_SERVERS, u32::MAX] {
            assert_eq!(servers.definition(Target::Server(ServerId(number))), None);
        }
    }

    #[test]
    fn port_0_counts_as_no_address() {
        let region = region();
        region.servers().publish(&[at("127.0.0.1:0")], None, None).unwrap();
        assert_eq!(region.servers().definition(FIRST).unwrap().address, None);
        assert!(!region.servers().row(FIRST).unwrap().view(Seconds(30), Moment(1)).usable);
    }

    #[test]
    fn another_address_is_another_server() {
        let region = region();
        let servers = region.servers();
        servers.publish(&[at("127.0.0.1:80")], None, None).unwrap();
        let key = |identity| servers.key(FIRST, identity);
        let old = servers.row(FIRST).unwrap().identity();
        servers.row(FIRST).unwrap().shun(Moment(7), WallTime(8));
        region.ledger().count(WorkerId(0), FIRST, 10, 20);
        region.workers().set_count(1);

        let mut same = at("127.0.0.1:80");
        same.weight = 99;
        servers.publish(&[same], None, None).unwrap();
        assert_eq!(servers.resolve(key(old)), Some(ServerId(0)));
        assert_eq!(servers.record(FIRST).failed, Some(Moment(7)));
        assert_eq!(servers.failed_at(FIRST), Some(WallTime(8)));
        assert_eq!(region.ledger().totals(FIRST).up, 10);

        servers.publish(&[at("127.0.0.1:81")], None, None).unwrap();
        assert_eq!(servers.resolve(key(old)), None);
        assert_eq!(servers.record(FIRST), Record::default());
        assert_eq!(servers.failed_at(FIRST), None);
        assert_eq!(region.ledger().totals(FIRST), Default::default());
        region.ledger().count(WorkerId(0), FIRST, 1, 2);
        assert_eq!((region.ledger().totals(FIRST).up, region.ledger().totals(FIRST).down), (1, 2));
    }

    #[test]
    fn a_server_that_was_out_of_use_for_a_while_is_still_the_same() {
        let region = region();
        let servers = region.servers();
        servers.publish(&[at("127.0.0.1:80"), at("127.0.0.1:81")], None, None).unwrap();
        let second = Target::Server(ServerId(1));
        let key = servers.key(second, servers.row(second).unwrap().identity());
        servers.publish(&[at("127.0.0.1:80")], None, None).unwrap();
        assert_eq!(servers.resolve(key), None, "not listed now");
        servers.publish(&[at("127.0.0.1:80"), at("127.0.0.1:81")], None, None).unwrap();
        assert_eq!(servers.resolve(key), Some(ServerId(1)));
    }

    #[test]
    fn the_cursor_is_reset_only_when_out_of_range() {
        let region = region();
        let servers = region.servers();
        let three = [at("127.0.0.1:80"), at("127.0.0.1:81"), at("127.0.0.1:82")];
        servers.publish(&three, None, None).unwrap();
        servers.set_cursor(ServerId(2));
        servers.publish(&three, None, None).unwrap();
        assert_eq!(servers.cursor(), ServerId(2));
        servers.publish(&three[..2], None, None).unwrap();
        assert_eq!(servers.cursor(), ServerId(0));
        servers.set_cursor(ServerId(u32::MAX));
        assert_eq!(servers.cursor(), ServerId(0), "a mad worker's cursor");
    }

    #[test]
    fn identities_wrap_without_ever_being_none() {
        let region = region();
        let row = region.servers().row(FIRST).unwrap();
        row.identity.store(IDENTITIES, Relaxed);
        row.move_in(&SocketAddress::Inet("127.0.0.1:80".parse().unwrap()));
        assert_eq!(row.identity(), 1);
    }

    #[test]
    fn readers_never_see_a_mixture() {
        let region = region();
        let [a, b] = ["127.0.0.1:1111", "/run/another.sock"].map(|address| {
            let mut definition = at(address);
            definition.soft = address.len() as u32;
            definition
        });
        region.servers().publish(std::slice::from_ref(&a), None, None).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..2000 {
                    region.servers().publish(std::slice::from_ref(&b), None, None).unwrap();
                    region.servers().publish(std::slice::from_ref(&a), None, None).unwrap();
                }
            });
            while !writer.is_finished() {
                // Between two writes there may be no time to read: none is as good as an answer here.
                if let Some(seen) = region.servers().definition(FIRST) {
                    assert!(seen == a || seen == b, "{seen:?}");
                }
            }
        });
    }
}
