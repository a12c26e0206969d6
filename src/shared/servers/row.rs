//! One server's row: where it is, what the settings say of it, how it did.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{
    AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use super::{Definition, IDENTITIES};
use crate::model::address::{Drain, SocketAddress};
use crate::model::ids::{AclId, Target, WorkerId};
use crate::model::proxy::ProxySend;
use crate::model::time::{Moment, Seconds, WallTime};
use crate::policy::blacklist::{self, Record};
use crate::policy::selection::ServerView;

/// The longest path of a Unix socket.
const PATH: usize = 108;

/// The first cache line has all that a choice looks at, the others what a connect needs.
#[repr(C, align(64))]
#[derive(Debug)]
pub(in crate::shared) struct ServerRow {
    /// It has an address, and may be used.
    usable: AtomicU32,
    soft: AtomicU32,
    hard: AtomicU32,
    weight: AtomicU32,
    prio: AtomicI32,
    acl: AtomicU32,
    /// Which of its servers this is: 0 until an address moves in, then from 1 to [`IDENTITIES`].
    pub(super) identity: AtomicU32,
    /// Where in the list it stands: [`Target::row`] + 1; 0 = nowhere.
    position: AtomicU32,
    /// [`Record`]: microseconds, 0 = none.
    failed: AtomicU64,
    probing_until: AtomicU64,
    /// Seconds since 1970; 0 = none.
    failed_wall: AtomicU64,
    /// Whose probe it is: the worker's number + 1; means something only while `probing_until` does.
    prober: AtomicU32,
    /// [`Drain`]: [`DRAIN_NO`], [`DRAIN_NEW`], [`DRAIN_ALL`].
    drain: AtomicU32,

    /// The address that moved in last, though it may not be usable now: [`NOWHERE`], [`INET`], [`INET6`], [`UNIX`].
    kind: AtomicU32,
    port: AtomicU32,
    /// IPv4 is kept as an IPv4-mapped IPv6 address.
    ip: [AtomicU64; 2],
    flow: AtomicU32,
    scope: AtomicU32,
    path_length: AtomicU32,
    path: [AtomicU8; PATH],
    /// [`Definition::tls`].
    tls: AtomicU64,
    /// [`Definition::proxy`]: [`PROXY_OFF`], [`PROXY_V1`], [`PROXY_V2`], [`PROXY_V2_EVERY`].
    proxy: AtomicU32,
    _reserved: AtomicU32,
}
const _: () = assert!(size_of::<ServerRow>() == 256);

const NOWHERE: u32 = 0;
const INET: u32 = 1;
const INET6: u32 = 2;
const UNIX: u32 = 3;

const DRAIN_NO: u32 = 0;
const DRAIN_NEW: u32 = 1;
const DRAIN_ALL: u32 = 2;

const PROXY_OFF: u32 = 0;
const PROXY_V1: u32 = 1;
const PROXY_V2: u32 = 2;
const PROXY_V2_EVERY: u32 = 3;

/// An address as copied out of its row: turning it into a [`SocketAddress`] may allocate, which nobody does with the
/// lock in hand.
#[derive(Debug, Clone, Copy)]
pub(in crate::shared) enum RawAddress {
    Inet(SocketAddr),
    /// Its path is so long, and was copied to where the copier said.
    Unix(usize),
}

/// Room for the path of a Unix socket. Most addresses have none, and are not to be as large as if they had.
#[derive(Debug)]
pub(in crate::shared) struct PathRoom([u8; PATH]);

impl PathRoom {
    pub(in crate::shared) fn new() -> Self {
        PathRoom([0; PATH])
    }

    /// The address that was copied with this room last.
    pub(in crate::shared) fn complete(&self, raw: RawAddress) -> SocketAddress {
        match raw {
            RawAddress::Inet(address) => SocketAddress::Inet(address),
            RawAddress::Unix(length) => {
                let path = self.0.get(..length).unwrap_or(&self.0);
                SocketAddress::Unix(OsStr::from_bytes(path).into())
            }
        }
    }
}

impl ServerRow {
    /// Where in the list it stands.
    pub(super) fn position(&self) -> Option<Target> {
        Target::from_row(self.position.load(Relaxed).checked_sub(1)? as usize)
    }

    pub(super) fn set_position(&self, position: Option<Target>) {
        self.position.store(position.map_or(0, |position| position.row() as u32 + 1), Relaxed);
    }

    /// What the settings say of the server that is here, which has an address now or not.
    pub(super) fn define(&self, definition: &Definition, usable: bool) {
        self.usable.store(u32::from(usable), Relaxed);
        self.soft.store(definition.soft, Relaxed);
        self.hard.store(definition.hard, Relaxed);
        self.weight.store(definition.weight, Relaxed);
        self.prio.store(definition.prio, Relaxed);
        self.acl.store(definition.acl.index() as u32, Relaxed);
        let drain = match definition.drain {
            Drain::No => DRAIN_NO,
            Drain::New => DRAIN_NEW,
            Drain::All => DRAIN_ALL,
        };
        self.drain.store(drain, Relaxed);
        self.tls.store(definition.tls, Relaxed);
        let proxy = match definition.proxy {
            ProxySend::Off => PROXY_OFF,
            ProxySend::V1 => PROXY_V1,
            ProxySend::V2 => PROXY_V2,
            ProxySend::V2Every => PROXY_V2_EVERY,
        };
        self.proxy.store(proxy, Relaxed);
    }

    pub(super) fn definition(&self) -> Definition {
        Definition {
            address: self.address().filter(|_| self.usable.load(Relaxed) != 0),
            soft: self.soft.load(Relaxed),
            hard: self.hard.load(Relaxed),
            weight: self.weight.load(Relaxed),
            prio: self.prio.load(Relaxed),
            acl: self.acl(),
            drain: self.drain(),
            tls: self.tls(),
            proxy: self.proxy(),
        }
    }

    /// How it is spoken to: [`Definition::tls`].
    pub(in crate::shared) fn tls(&self) -> u64 {
        self.tls.load(Relaxed)
    }

    /// Which header of the PROXY protocol it gets.
    pub(in crate::shared) fn proxy(&self) -> ProxySend {
        match self.proxy.load(Relaxed) {
            PROXY_V1 => ProxySend::V1,
            PROXY_V2 => ProxySend::V2,
            PROXY_V2_EVERY => ProxySend::V2Every,
            _ => ProxySend::Off,
        }
    }

    pub(in crate::shared) fn identity(&self) -> u32 {
        self.identity.load(Relaxed)
    }

    fn acl(&self) -> AclId {
        AclId::new(self.acl.load(Relaxed)).unwrap_or_default()
    }

    fn drain(&self) -> Drain {
        match self.drain.load(Relaxed) {
            DRAIN_NEW => Drain::New,
            DRAIN_ALL => Drain::All,
            _ => Drain::No,
        }
    }

    pub(in crate::shared) fn record(&self) -> Record {
        let moment = |field: &AtomicU64| match field.load(Relaxed) {
            0 => None,
            micros => Some(Moment(micros)),
        };
        Record { failed: moment(&self.failed), probing_until: moment(&self.probing_until) }
    }

    pub(in crate::shared) fn view(&self, blacklist: Seconds, now: Moment) -> ServerView {
        ServerView {
            usable: self.usable.load(Relaxed) != 0,
            standing: blacklist::standing(self.record(), blacklist, now),
            drain: self.drain(),
            soft: self.soft.load(Relaxed),
            hard: self.hard.load(Relaxed),
            weight: self.weight.load(Relaxed),
            prio: self.prio.load(Relaxed),
            acl: self.acl(),
        }
    }

    /// Where to connect to, if that is possible now.
    #[inline]
    pub(in crate::shared) fn usable_address(&self, room: &mut PathRoom) -> Option<RawAddress> {
        self.raw_address(room).filter(|_| self.usable.load(Relaxed) != 0)
    }

    /// `server N blacklist T`. Without the lock.
    pub(super) fn order(&self, failed: Option<Moment>, wall: WallTime) {
        match failed {
            Some(failed) => {
                self.failed_wall.store(wall.0, Relaxed);
                self.failed.store(raw(Some(failed)), Relaxed);
                self.probing_until.store(0, Relaxed);
            }
            None => self.forget_failures(),
        }
    }

    /// Wall time of the last failure.
    pub(super) fn failed_at(&self) -> Option<WallTime> {
        let at = self.failed_wall.load(Relaxed);
        (at != 0).then_some(WallTime(at))
    }

    /// A connect has failed; `wall` is the time for reports. With the lock, though the master may order to shun the
    /// server meanwhile without it: an order stays.
    pub(in crate::shared) fn shun(&self, now: Moment, wall: WallTime) {
        let before = self.record();
        let after = blacklist::after_failure(before, now);
        if self.failed.compare_exchange(raw(before.failed), raw(after.failed), Relaxed, Relaxed).is_ok() {
            self.failed_wall.store(wall.0, Relaxed);
            self.probing_until.store(raw(after.probing_until), Relaxed);
        }
    }

    /// Would [`ServerRow::forgive`] change anything?
    pub(in crate::shared) fn is_forgivable(&self, now: Moment) -> bool {
        let record = self.record();
        record != Record::default() && blacklist::after_success(record, now) != record
    }

    /// A connect has succeeded. With the lock; an order stays, as above.
    pub(in crate::shared) fn forgive(&self, now: Moment) {
        let before = self.record();
        let after = blacklist::after_success(before, now);
        if after != before
            && self.failed.compare_exchange(raw(before.failed), raw(after.failed), Relaxed, Relaxed).is_ok()
        {
            self.failed_wall.store(0, Relaxed);
            self.probing_until.store(raw(after.probing_until), Relaxed);
        }
    }

    pub(super) fn forget_failures(&self) {
        self.failed.store(0, Relaxed);
        self.failed_wall.store(0, Relaxed);
        self.probing_until.store(0, Relaxed);
    }

    pub(in crate::shared) fn probe(&self, worker: WorkerId, until: Moment) {
        self.prober.store(worker.0.saturating_add(1), Relaxed);
        self.probing_until.store(until.0, Release);
    }

    /// The worker is dead: its probe has ended without a verdict.
    pub(super) fn prober_died(&self, worker: WorkerId) {
        let until = self.probing_until.load(Acquire);
        if until != 0 && self.prober.load(Relaxed) == worker.0.saturating_add(1) {
            self.probe_ended(Moment(until));
        }
    }

    /// The probe that was begun with this `until` has ended without a verdict.
    pub(in crate::shared) fn probe_ended(&self, until: Moment) {
        let _ = self.probing_until.compare_exchange(until.0, 0, Relaxed, Relaxed);
    }

    /// The address that moved in last.
    pub(super) fn address(&self) -> Option<SocketAddress> {
        let mut room = PathRoom::new();
        self.raw_address(&mut room).map(|raw| room.complete(raw))
    }

    #[inline]
    fn raw_address(&self, room: &mut PathRoom) -> Option<RawAddress> {
        let port = self.port.load(Relaxed) as u16;
        let [high, low] = [&self.ip[0], &self.ip[1]].map(|half| half.load(Relaxed));
        match self.kind.load(Relaxed) {
            INET => Some(RawAddress::Inet((Ipv4Addr::from_bits(low as u32), port).into())),
            INET6 => {
                let ip = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
                let (flow, scope) = (self.flow.load(Relaxed), self.scope.load(Relaxed));
                Some(RawAddress::Inet(SocketAddrV6::new(ip, port, flow, scope).into()))
            }
            UNIX => {
                room.0.iter_mut().zip(&self.path).for_each(|(to, from)| *to = from.load(Relaxed));
                Some(RawAddress::Unix((self.path_length.load(Relaxed) as usize).min(PATH)))
            }
            _ => None,
        }
    }

    /// Another address: another server, of which nothing is known.
    pub(super) fn move_in(&self, address: &SocketAddress) {
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

/// The address as a row has it: too long a path is cut, which connect(2) finds out.
pub(super) fn storable(address: &SocketAddress) -> SocketAddress {
    match address {
        SocketAddress::Inet(_) => address.clone(),
        SocketAddress::Unix(path) => {
            let bytes = path.as_os_str().as_bytes();
            SocketAddress::Unix(OsStr::from_bytes(&bytes[..bytes.len().min(PATH)]).into())
        }
    }
}
