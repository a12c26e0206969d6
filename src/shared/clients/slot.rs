//! One client's slot: whose it is, and what is known of that client.
#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Relaxed, Release},
    fence,
};

use crate::model::address::ClientAddress;
use crate::shared::servers::ServerKey;

/// One client, one cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub(in crate::shared) struct ClientSlot {
    /// The IPv6 address, IPv4 as IPv4-mapped; zero for all clients of a Unix socket.
    pub(super) key: [AtomicU64; 2],
    /// Use count << 2 | kind.
    pub(super) tag: AtomicU32,
    pub(super) server: AtomicU32,
    /// Microseconds; no two slots have the same.
    pub(super) last: AtomicU64,
    pub(super) up: AtomicU64,
    pub(super) down: AtomicU64,
    pub(super) connects: AtomicU32,
    pub(super) newer: AtomicU32,
    pub(super) older: AtomicU32,
    /// The next in the index's chain, or in the list of free slots.
    pub(super) chain: AtomicU32,
}
const _: () = assert!(size_of::<ClientSlot>() == 64);

/// The part of a tag that says what kind of client has the slot.
pub(super) const KIND: u32 = 3;
pub(super) const FREE: u32 = 0;
const INET: u32 = 1;
const UNIX: u32 = 2;

/// What an IPv4 address is the end of as an IPv4-mapped one (RFC 4291): the lower half of that.
const MAPPED: u64 = 0xffff << 32;

/// Who a client is, as slots have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) kind: u32,
    pub(super) halves: [u64; 2],
}

impl From<ClientAddress> for Key {
    fn from(address: ClientAddress) -> Self {
        match address {
            ClientAddress::Unix => Key { kind: UNIX, halves: [0; 2] },
            ClientAddress::Inet(IpAddr::V4(ip), _) => {
                Key { kind: INET, halves: [0, MAPPED | u64::from(ip.to_bits())] }
            }
            ClientAddress::Inet(IpAddr::V6(ip), _) => {
                Key { kind: INET, halves: [(ip.to_bits() >> 64) as u64, ip.to_bits() as u64] }
            }
        }
    }
}

impl Key {
    pub(super) fn address(self) -> ClientAddress {
        if self.kind == UNIX {
            return ClientAddress::Unix;
        }
        let ip = Ipv6Addr::from_bits(u128::from(self.halves[0]) << 64 | u128::from(self.halves[1]));
        ClientAddress::Inet(ip.to_canonical(), 0)
    }
}

impl ClientSlot {
    /// Whose slot it is, if that makes sense.
    pub(super) fn key(&self, tag: u32) -> Option<Key> {
        let key = Key { kind: tag & KIND, halves: [self.key[0].load(Relaxed), self.key[1].load(Relaxed)] };
        matches!(key, Key { kind: INET, .. } | Key { kind: UNIX, halves: [0, 0] }).then_some(key)
    }

    pub(super) fn is(&self, key: Key) -> bool {
        self.key(self.tag.load(Relaxed)) == Some(key)
    }

    /// Nobody's, from here on, whatever happens to this process next.
    pub(super) fn vacate(&self) {
        let uses = (self.tag.load(Relaxed) >> 2).wrapping_add(1);
        self.tag.store(uses << 2 | FREE, Relaxed);
        fence(Release);
    }

    /// Takes a vacated slot: somebody's once it is complete.
    pub(super) fn fill(&self, key: Key, last: u64) {
        self.key[0].store(key.halves[0], Relaxed);
        self.key[1].store(key.halves[1], Relaxed);
        self.server.store(ServerKey::NONE.0, Relaxed);
        self.last.store(last, Relaxed);
        self.up.store(0, Relaxed);
        self.down.store(0, Relaxed);
        self.connects.store(0, Relaxed);
        self.tag.store(self.tag.load(Relaxed) & !KIND | key.kind, Release);
    }

    /// Nobody has it.
    pub(super) fn is_free(&self) -> bool {
        self.tag.load(Relaxed) & KIND == FREE
    }
}
