//! Where clients come in, and by which protocol.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::address::ListenSpec;
use super::tls::{NoSuchWord, shown_as};

/// Most listeners that there can be.
pub const MAX_LISTENERS: usize = 16;

/// How bytes get from client to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// As the command `listen` takes it.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

impl FromStr for Protocol {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        shown_as(text, &[Protocol::Tcp, Protocol::Udp], "tcp or udp")
    }
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// By which protocol clients come.
    pub protocol: Protocol,
    /// Where.
    pub spec: ListenSpec,
}

/// As `listen` takes it: `udp 53`.
impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.spec)
    }
}

impl Listen {
    /// Is it the same listener, however its address is written? (`53` is `0.0.0.0:53`.)
    pub fn is(&self, other: &Listen) -> bool {
        self.protocol == other.protocol && self.spec.is(&other.spec)
    }
}

#[cfg(test)]
impl Listen {
    /// A listener for connections, alone.
    pub(crate) fn tcp(text: &str) -> Vec<Self> {
        let spec = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        vec![Listen { protocol: Protocol::Tcp, spec }]
    }
}
