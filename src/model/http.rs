//! What `-H` tells the servers of a client, in the heads of its HTTP requests.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::time::Seconds;
use super::tls::{NoSuchWord, shown_as};

/// How HTTP requests are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpSettings {
    /// `-H`, `http`: every request gets headers that tell whom it is from.
    pub headers: bool,
    /// `http append|replace|keep`: what becomes of such headers that are there already.
    pub existing: Existing,
    /// `http forwarded`: RFC 7239's header too.
    pub forwarded: bool,
    /// `http_head_max`: the most bytes that the head of a request can have.
    pub head_max: u32,
    /// `http_head_timeout`: how long a head that has begun may take.
    pub head_timeout: Seconds,
}

/// What `http_head_max` can be.
pub const HEAD_MAX: std::ops::RangeInclusive<u32> = 1024..=1_048_576;

impl Default for HttpSettings {
    fn default() -> Self {
        HttpSettings {
            headers: false,
            existing: Existing::Append,
            forwarded: false,
            head_max: 32_768,
            head_timeout: Seconds(10),
        }
    }
}

/// What becomes of a header with clients' addresses that a request brings with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Existing {
    /// Ours is added to its list.
    #[default]
    Append,
    /// It is taken out.
    Replace,
    /// It is left alone, and none is added: clients can forge it.
    Keep,
}

/// As the command `http` takes it.
impl fmt::Display for Existing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Existing::Append => "append",
            Existing::Replace => "replace",
            Existing::Keep => "keep",
        })
    }
}

impl FromStr for Existing {
    type Err = NoSuchWord;

    fn from_str(text: &str) -> Result<Self, NoSuchWord> {
        shown_as(text, &[Existing::Append, Existing::Replace, Existing::Keep], "append, replace or keep")
    }
}
