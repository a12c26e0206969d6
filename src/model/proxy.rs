//! The PROXY protocol, with which servers are told a client's address before its first byte.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::tls::{NoSuchWord, shown_as};

/// Whether a server gets a header of the PROXY protocol, and which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ProxySend {
    /// None.
    #[default]
    Off,
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary; of datagrams, before the first of a flow.
    V2,
    /// Version 2, before every datagram. Of connections, no other than [`ProxySend::V2`].
    V2Every,
}

impl ProxySend {
    /// Is it version 2, with which more can be told than addresses?
    pub fn is_binary(self) -> bool {
        match self {
            ProxySend::V2 | ProxySend::V2Every => true,
            ProxySend::Off | ProxySend::V1 => false,
        }
    }
}

/// As the commands `proxy_send` and `server` take it.
impl fmt::Display for ProxySend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProxySend::Off => "off",
            ProxySend::V1 => "1",
            ProxySend::V2 => "2",
            ProxySend::V2Every => "every",
        })
    }
}

impl FromStr for ProxySend {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        let all = [ProxySend::V1, ProxySend::V2, ProxySend::V2Every, ProxySend::Off];
        shown_as(text, &all, "1, 2, every or off")
    }
}
