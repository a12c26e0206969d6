//! The server table: one row a server, and a list that says which of them are in use, at which position.
//!
//! The master alone writes both. Workers read them under the lock, everybody else through [`Servers::definition`],
//! which reads again if the master has written meanwhile. Failures are noted by workers.
//!
//! A server is its address: when the list changes, a server that is in it still keeps its row, at whatever position,
//! and so its connections count for it and for nobody else. A row's *identity* goes up when another address moves in,
//! and whoever remembers a server remembers its identity with it: so nothing that was known of the old server is held
//! for or against the new one.
#![forbid(unsafe_code)]

mod assignment;
mod row;

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use assignment::{RowState, assign};

use crate::model::address::{Drain, SocketAddress};
use crate::model::ids::{AclId, MAX_SERVERS, ServerId, Target, WorkerId};
use crate::model::proxy::ProxySend;
use crate::model::time::{Moment, Seconds, WallTime};
use crate::policy::blacklist::{self, Record};
use crate::policy::routes::ServerSet;
use crate::shared::lock::Busy;
use crate::shared::region::{CURSORS, Region, SERVER_LIST, SERVERS};
use crate::sys::clock;

pub(super) use row::{PathRoom, RawAddress, ServerRow};

/// How many rows there are: for two whole lists, so that servers that are not listed any more keep theirs while
/// clients are connected to them.
pub(super) const ROWS: usize = 2 * Target::ROWS;

/// A row of the table, which is a server's own, wherever in the list that stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RowId(pub(super) u32);

/// One position in the list: row + 1; 0 = none.
#[repr(C)]
#[derive(Debug)]
pub(super) struct ListEntry(AtomicU32);
const _: () = assert!(size_of::<ListEntry>() == 4);

/// How many sets of servers have a round robin of their own. Any more share them, which makes it uneven.
pub(super) const CURSOR_ROWS: usize = 1024;

/// Where the round robin of a set of servers stopped.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Cursor(AtomicU32);

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
    /// Whom it does not take any more.
    pub drain: Drain,
    /// How it is spoken to: the fingerprint of its [`crate::model::tls::ServerIdentity`]; 0 = in plain text.
    pub tls: u64,
    /// Which header of the PROXY protocol it gets.
    pub proxy: ProxySend,
}

/// The server table's part of the header.
#[repr(C)]
#[derive(Debug)]
pub(super) struct ServerListHeader {
    count: AtomicU32,
    /// Rows from here on have never been used.
    frontier: AtomicU32,
    /// Where round robin stopped.
    cursor: AtomicU32,
    /// Odd while definitions are being written.
    edition: AtomicU32,
    /// Of the settings that the list is from.
    generation: AtomicU64,
}

const ROW_BITS: u32 = 14;
const IDENTITIES: u32 = (1 << 17) - 1;
const UNCONFIRMED: u32 = 1 << 31;
const _: () = assert!(1 << ROW_BITS >= ROWS && (IDENTITIES as u64 + 1) << ROW_BITS == UNCONFIRMED as u64);

/// A server in one word: its row, the row's identity, and whether it has yet to answer. The default is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ServerKey(pub(super) u32);

impl ServerKey {
    pub(super) const NONE: ServerKey = ServerKey(0);

    fn new(row: RowId, identity: u32) -> Self {
        ServerKey((identity & IDENTITIES) << ROW_BITS | row.0 & ((1 << ROW_BITS) - 1))
    }

    pub(super) fn row(self) -> RowId {
        RowId(self.0 & ((1 << ROW_BITS) - 1))
    }

    fn identity(self) -> u32 {
        self.0 >> ROW_BITS & IDENTITIES
    }

    pub(super) fn unconfirmed(self) -> Self {
        ServerKey(self.0 | UNCONFIRMED)
    }

    pub(super) fn confirmed(self) -> Self {
        ServerKey(self.0 & !UNCONFIRMED)
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

    pub(super) fn row(&self, row: RowId) -> Option<&'a ServerRow> {
        self.region.row(&SERVERS, row.0 as usize)
    }

    fn position(&self, target: Target) -> Option<&'a AtomicU32> {
        // Not `target.row()` alone: a number that is out of range must not lead to the emergency server's position.
        match target {
            Target::Server(server) if server.0 >= MAX_SERVERS => None,
            _ => self.region.row(&SERVER_LIST, target.row()).map(|position| &position.0),
        }
    }

    /// The row of the server at this position in the list.
    pub(super) fn at(&self, target: Target) -> Option<RowId> {
        self.position(target)?.load(Relaxed).checked_sub(1).map(RowId)
    }

    fn row_at(&self, target: Target) -> Option<&'a ServerRow> {
        self.row(self.at(target)?)
    }

    fn header(&self) -> &'a ServerListHeader {
        &self.region.header().server_list
    }

    /// How many regular servers there are.
    #[inline]
    pub fn count(&self) -> u32 {
        self.header().count.load(Relaxed).min(MAX_SERVERS)
    }

    /// The generation of the settings that the list is from. Who holds older ones knows servers by other numbers.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.header().generation.load(Relaxed)
    }

    /// [`Servers::publish_for`] the same settings as before, whose names mean other addresses now.
    ///
    /// # Errors
    /// The same.
    pub fn publish(
        &self,
        servers: &[Definition],
        emergency: Option<&Definition>,
        abuse: Option<&Definition>,
    ) -> Result<(), Busy> {
        self.publish_for(self.generation(), servers, emergency, abuse)
    }

    /// Master only: writes the whole list at once, under the lock. A server whose address is in it still (or again)
    /// keeps what is known of it: connections, totals, blacklist state, the clients that remember it. An address that
    /// is new is a new server. Resets round robin's cursor only if it is out of range. Servers beyond [`MAX_SERVERS`]
    /// are left out. `generation`: of the settings that it is from.
    ///
    /// # Errors
    /// [`Busy`] if the lock was not to be had within [`Region::LOCK_TIMEOUT`]: nothing is changed, try again.
    pub fn publish_for(
        &self,
        generation: u64,
        servers: &[Definition],
        emergency: Option<&Definition>,
        abuse: Option<&Definition>,
    ) -> Result<(), Busy> {
        let list = self.list(servers, emergency, abuse);
        let (mut keeps_row, mut keeps_position) = (vec![false; ROWS], vec![false; Target::ROWS]);
        for Assignment { row, target, .. } in &list {
            keeps_row[row.0 as usize] = true;
            keeps_position[target.row()] = true;
        }
        let count = servers.len().min(MAX_SERVERS as usize) as u32;
        let header = self.header();
        let _guard = self.region.lock_within(Region::LOCK_TIMEOUT)?;
        let edition = header.edition.load(Relaxed);
        header.edition.store(edition | 1, Relaxed);
        fence(Release);

        // Those that leave; the others are written over, so that a reader without the lock never misses one.
        for row in self.rows_ever().filter(|row| !keeps_row[row.0 as usize]) {
            if let Some(server) = self.row(row) {
                server.set_position(None);
            }
        }
        let before = (0..self.count()).map(|number| Target::Server(ServerId(number)));
        for target in before.chain([Target::Emergency, Target::Abuse]) {
            if let Some(position) = self.position(target).filter(|_| !keeps_position[target.row()]) {
                position.store(0, Relaxed);
            }
        }
        for Assignment { target, definition, row, address, is_new } in &list {
            header.frontier.fetch_max(row.0 + 1, Relaxed);
            let (Some(position), Some(server)) = (self.position(*target), self.row(*row)) else {
                continue;
            };
            if let Some(address) = address.as_ref().filter(|_| *is_new) {
                server.move_in(address);
                self.region.ledger().reset_totals(*row);
            }
            server.define(definition, address.is_some());
            server.set_position(Some(*target));
            position.store(row.0 + 1, Relaxed);
        }
        header.count.store(count, Relaxed);
        header.generation.store(generation, Relaxed);
        if header.cursor.load(Relaxed) >= count {
            header.cursor.store(0, Relaxed);
        }

        header.edition.store((edition | 1).wrapping_add(1), Release);
        Ok(())
    }

    /// The list to be, each server with its row.
    fn list<'d>(
        &self,
        servers: &'d [Definition],
        emergency: Option<&'d Definition>,
        abuse: Option<&'d Definition>,
    ) -> Vec<Assignment<'d>> {
        // Connections to rows that are not listed only become fewer, and the master alone changes all else that is
        // read here: it is still true when the lock is taken.
        let state = |row: RowId| {
            let server = self.row(row)?;
            let (address, position) = (server.address(), server.position().map(Target::row));
            Some(RowState { address, position, load: self.region.ledger().row_load(row) })
        };
        let rows: Vec<RowState> = self.rows_ever().filter_map(state).collect();
        let regular = (0..MAX_SERVERS).map(|number| Target::Server(ServerId(number))).zip(servers);
        let special = [emergency.map(|it| (Target::Emergency, it)), abuse.map(|it| (Target::Abuse, it))];
        let defined: Vec<(Target, &Definition)> = regular.chain(special.into_iter().flatten()).collect();
        let positions: Vec<(usize, Option<SocketAddress>)> =
            defined.iter().map(|(target, definition)| (target.row(), definition.reachable_at())).collect();
        let assigned = assign(&positions, &rows, ROWS);
        let mut list = Vec::with_capacity(defined.len());
        for (((target, definition), (_, address)), row) in defined.into_iter().zip(positions).zip(assigned) {
            let Some(row) = row else { continue };
            let before = rows.get(row.0 as usize).and_then(|row| row.address.as_ref());
            let is_new = before != address.as_ref();
            list.push(Assignment { target, definition, row, address, is_new });
        }
        list
    }

    /// What is at a position, never a mixture of old and new. None: there is no such server, or the master died while
    /// it wrote.
    pub fn definition(&self, target: Target) -> Option<Definition> {
        let header = self.header();
        for _ in 0..10_000 {
            let before = header.edition.load(Acquire);
            let definition = self.row_at(target).map(ServerRow::definition);
            fence(Acquire);
            if before & 1 == 0 && header.edition.load(Relaxed) == before {
                // There is no such thing as an emergency or abuse server that is listed but cannot be reached.
                return definition.filter(|it| it.address.is_some() || matches!(target, Target::Server(_)));
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Its blacklist record.
    pub fn record(&self, target: Target) -> Record {
        self.row_at(target).map_or(Record::default(), ServerRow::record)
    }

    /// Wall time of the last failure, for reports; none if it has served since.
    pub fn failed_at(&self, target: Target) -> Option<WallTime> {
        self.row_at(target)?.failed_at()
    }

    /// `server N blacklist T`: out of use for `length` from `now`; 0 forgives. No lock.
    pub fn shun_for(&self, target: Target, length: Seconds, blacklist: Seconds, now: Moment) {
        if let Some(row) = self.row_at(target) {
            row.order(blacklist::failed_for(length, blacklist, now), clock::wall());
        }
    }

    /// The worker is dead: others may probe the servers that it was probing.
    pub(super) fn end_probes(&self, worker: WorkerId) {
        self.rows_ever().filter_map(|row| self.row(row)).for_each(|row| row.prober_died(worker));
    }

    /// Where round robin stopped: among all servers, or among those of a set.
    #[inline]
    pub fn cursor(&self, among: Option<&ServerSet>) -> ServerId {
        let cursor = self.cursor_of(among).load(Relaxed);
        ServerId(if cursor < self.count() { cursor } else { 0 })
    }

    #[inline]
    pub(super) fn set_cursor(&self, among: Option<&ServerSet>, cursor: ServerId) {
        self.cursor_of(among).store(cursor.0, Relaxed);
    }

    fn cursor_of(&self, among: Option<&ServerSet>) -> &'a AtomicU32 {
        let own = among.and_then(|set| self.region.row(&CURSORS, set.rota() as usize % CURSOR_ROWS));
        own.map_or(&self.header().cursor, |cursor| &cursor.0)
    }

    /// All rows that were ever used.
    pub(super) fn rows_ever(&self) -> impl Iterator<Item = RowId> + use<> {
        (0..self.header().frontier.load(Relaxed).min(ROWS as u32)).map(RowId)
    }

    /// The word by which to remember the server at this position.
    pub(super) fn key(&self, target: Target) -> ServerKey {
        self.row_and_key(target).map_or(ServerKey::NONE, |(_, key)| key)
    }

    /// The row of the server at this position, and the word by which to remember that server.
    #[inline]
    pub(super) fn row_and_key(&self, target: Target) -> Option<(&'a ServerRow, ServerKey)> {
        let id = self.at(target)?;
        let row = self.row(id)?;
        Some((row, ServerKey::new(id, row.identity())))
    }

    /// The row of the server that was remembered by this word, if that is still the same server's.
    pub(super) fn row_of(&self, key: ServerKey) -> Option<&'a ServerRow> {
        let identity = key.identity();
        self.row(key.row()).filter(|row| identity != 0 && row.identity() == identity)
    }

    /// Where in the list the server stands that was remembered by this word.
    pub(super) fn resolve(&self, key: ServerKey) -> Option<Target> {
        self.row_of(key)?.position()
    }
}

/// A server of a list to be.
struct Assignment<'d> {
    target: Target,
    definition: &'d Definition,
    row: RowId,
    address: Option<SocketAddress>,
    /// The row had another address until now.
    is_new: bool,
}

impl Definition {
    /// A server of 127.0.0.1 with nothing out of the ordinary.
    #[cfg(test)]
    pub(crate) fn local(port: u16) -> Self {
        Definition {
            address: Some(SocketAddress::Inet(([127, 0, 0, 1], port).into())),
            soft: 0,
            hard: 0,
            weight: 0,
            prio: 0,
            acl: AclId::default(),
            drain: Drain::No,
            tls: 0,
            proxy: ProxySend::Off,
        }
    }

    /// The address as a row has it.
    fn reachable_at(&self) -> Option<SocketAddress> {
        self.address.as_ref().filter(|address| has_port(address)).map(row::storable)
    }
}

fn has_port(address: &SocketAddress) -> bool {
    match address {
        SocketAddress::Inet(address) => address.port() != 0,
        SocketAddress::Unix(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        Definition {
            address,
            soft: 1,
            hard: 2,
            weight: 3,
            prio: -4,
            acl: AclId::new(5).unwrap(),
            drain: Drain::No,
            tls: 0,
            proxy: ProxySend::Off,
        }
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
    fn draining_reaches_the_row_and_ends_there() {
        let region = region();
        let servers = region.servers();
        for drain in [Drain::New, Drain::All, Drain::No] {
            let definition = Definition { drain, ..at("127.0.0.1:80") };
            servers.publish(std::slice::from_ref(&definition), None, None).unwrap();
            assert_eq!(servers.definition(FIRST), Some(definition));
            assert_eq!(servers.row_at(FIRST).unwrap().view(Seconds(30), Moment(1)).drain, drain);
        }
    }

    #[test]
    fn a_server_stays_itself_when_it_is_spoken_to_in_another_way() {
        let region = region();
        let servers = region.servers();
        servers.publish(&[at("127.0.0.1:80")], None, None).unwrap();
        let key = servers.key(FIRST);
        for tls in [u64::MAX, 1, 0] {
            let definition = Definition { tls, ..at("127.0.0.1:80") };
            servers.publish(std::slice::from_ref(&definition), None, None).unwrap();
            assert_eq!(servers.definition(FIRST), Some(definition));
            assert_eq!(servers.resolve(key), Some(FIRST));
        }
    }

    #[test]
    fn port_0_counts_as_no_address() {
        let region = region();
        region.servers().publish(&[at("127.0.0.1:0")], None, None).unwrap();
        assert_eq!(region.servers().definition(FIRST).unwrap().address, None);
        assert!(!region.servers().row_at(FIRST).unwrap().view(Seconds(30), Moment(1)).usable);
    }

    #[test]
    fn another_address_is_another_server() {
        let region = region();
        let servers = region.servers();
        servers.publish(&[at("127.0.0.1:80")], None, None).unwrap();
        let old = servers.key(FIRST);
        servers.row_at(FIRST).unwrap().shun(Moment(7), WallTime(8));
        region.ledger().count(WorkerId(0), old.row(), 10, 20);
        region.workers().set_count(1);

        let mut same = at("127.0.0.1:80");
        same.weight = 99;
        servers.publish(&[same], None, None).unwrap();
        assert_eq!(servers.resolve(old), Some(FIRST));
        assert_eq!(servers.record(FIRST).failed, Some(Moment(7)));
        assert_eq!(servers.failed_at(FIRST), Some(WallTime(8)));
        assert_eq!(region.ledger().totals(FIRST).up, 10);

        servers.publish(&[at("127.0.0.1:81")], None, None).unwrap();
        assert_eq!(servers.resolve(old), None);
        assert_eq!(servers.record(FIRST), Record::default());
        assert_eq!(servers.failed_at(FIRST), None);
        assert_eq!(region.ledger().totals(FIRST), Default::default());
        region.ledger().count(WorkerId(0), servers.key(FIRST).row(), 1, 2);
        assert_eq!((region.ledger().totals(FIRST).up, region.ledger().totals(FIRST).down), (1, 2));
    }

    #[test]
    fn a_server_that_was_out_of_use_for_a_while_is_still_the_same() {
        let region = region();
        let servers = region.servers();
        servers.publish(&[at("127.0.0.1:80"), at("127.0.0.1:81")], None, None).unwrap();
        let second = Target::Server(ServerId(1));
        let key = servers.key(second);
        servers.publish(&[at("127.0.0.1:80")], None, None).unwrap();
        assert_eq!(servers.resolve(key), None, "not listed now");
        servers.publish(&[at("127.0.0.1:80"), at("127.0.0.1:81")], None, None).unwrap();
        assert_eq!(servers.resolve(key), Some(second));
        servers.publish(&[at("127.0.0.1:81"), at("127.0.0.1:80")], None, None).unwrap();
        assert_eq!(servers.resolve(key), Some(FIRST), "at another position");
        servers.publish(&[at("127.0.0.1:80"), at("")], None, None).unwrap();
        servers.publish(&[at("127.0.0.1:80"), at("127.0.0.1:81")], None, None).unwrap();
        assert_eq!(servers.resolve(key), Some(second), "its name meant nothing for a while");
    }

    #[test]
    fn lists_that_change_for_ever_never_run_out_of_rows() {
        let region = region();
        for list in 0..5u16 {
            let list: Vec<Definition> =
                (0..MAX_SERVERS).map(|port| at(&format!("127.0.0.{list}:{}", port + 1))).collect();
            region.servers().publish(&list, Some(&list[0]), Some(&list[1])).unwrap();
            for number in [0, 1, MAX_SERVERS - 1] {
                let seen = region.servers().definition(Target::Server(ServerId(number)));
                assert_eq!(seen.as_ref(), Some(&list[number as usize]));
            }
        }
    }

    #[test]
    fn the_cursor_is_reset_only_when_out_of_range() {
        let region = region();
        let servers = region.servers();
        let three = [at("127.0.0.1:80"), at("127.0.0.1:81"), at("127.0.0.1:82")];
        servers.publish(&three, None, None).unwrap();
        servers.set_cursor(None, ServerId(2));
        servers.publish(&three, None, None).unwrap();
        assert_eq!(servers.cursor(None), ServerId(2));
        servers.publish(&three[..2], None, None).unwrap();
        assert_eq!(servers.cursor(None), ServerId(0));
        servers.set_cursor(None, ServerId(u32::MAX));
        assert_eq!(servers.cursor(None), ServerId(0), "a mad worker's cursor");
    }

    #[test]
    fn identities_wrap_without_ever_being_none() {
        let region = region();
        let row = region.servers().row(RowId(0)).unwrap();
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
