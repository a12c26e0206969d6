//! The numbers that name things, each a type of its own.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many regular servers there can be. Every table that is indexed by server has room for these
/// and for the emergency and the abuse server.
pub const MAX_SERVERS: u32 = 4096;

/// How many worker processes there can be.
pub const MAX_WORKERS: u32 = 256;

/// How many slots the client table can have.
pub const MAX_CLIENTS: u32 = 1 << 24;

/// How many slots the connection table can have.
pub const MAX_CONNECTIONS: u32 = 1 << 22;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A regular server: its place in the list, from 0. Always below [`MAX_SERVERS`].
    ServerId
}
id! {
    /// A slot of the client table, from 0.
    ClientId
}
id! {
    /// A slot of the connection table, from 0; what `connection N` and the status page show.
    ConnId
}
id! {
    /// A worker process's place, from 0. A worker that is started anew for a dead one takes its place.
    WorkerId
}

/// Number of an access list, 0 to 9.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct AclId(u8);

impl AclId {
    /// How many access lists there are.
    pub const COUNT: usize = 10;

    /// The list of that number, if there is one.
    pub fn new(number: u32) -> Option<Self> {
        u8::try_from(number).ok().filter(|n| usize::from(*n) < Self::COUNT).map(Self)
    }

    /// The list's number as an index below [`AclId::COUNT`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for AclId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Somewhere a connection can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// One of the regular servers.
    Server(ServerId),
    /// The server of pen(1) `-e`, used when no regular server takes the client.
    Emergency,
    /// The server of pen(1) `-B`, for clients that `client_acl` refuses.
    Abuse,
}

impl Target {
    /// How many rows a table needs that has one for every possible target.
    pub const ROWS: usize = MAX_SERVERS as usize + 2;

    /// This target's row in such a table; below [`Target::ROWS`] for every `ServerId` below [`MAX_SERVERS`].
    pub fn row(self) -> usize {
        match self {
            Target::Server(server) => server.0 as usize,
            Target::Emergency => MAX_SERVERS as usize,
            Target::Abuse => MAX_SERVERS as usize + 1,
        }
    }

    /// The target whose row that is, if there is one.
    pub fn from_row(row: usize) -> Option<Self> {
        const EMERGENCY: usize = MAX_SERVERS as usize;
        const ABUSE: usize = MAX_SERVERS as usize + 1;
        match row {
            EMERGENCY => Some(Target::Emergency),
            ABUSE => Some(Target::Abuse),
            row if row < EMERGENCY => Some(Target::Server(ServerId(row as u32))),
            _ => None,
        }
    }
}

/// The number that reports show: a regular server's own, -1 for the emergency and -2 for the abuse server.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Server(server) => server.fmt(f),
            Target::Emergency => f.write_str("-1"),
            Target::Abuse => f.write_str("-2"),
        }
    }
}
