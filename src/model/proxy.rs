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
    /// Version 2, binary.
    V2,
}

/// As the commands `proxy_send` and `server` take it.
impl fmt::Display for ProxySend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ProxySend::Off => "off",
            ProxySend::V1 => "1",
            ProxySend::V2 => "2",
        })
    }
}

impl FromStr for ProxySend {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        shown_as(text, &[ProxySend::V1, ProxySend::V2, ProxySend::Off], "1, 2 or off")
    }
}
