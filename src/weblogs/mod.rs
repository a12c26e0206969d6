//! The logs of web servers, joined with what pen knows of their clients: pure, no sockets, files or clocks in here.
//! Not here: what pen itself logs ([`crate::report::log`]), the programs' command lines ([`crate::tools`]).
#![forbid(unsafe_code)]

pub mod consolidation;
pub mod datagram;
pub mod gaps;
pub mod merging;
pub mod output;
mod pieces;
mod prefixes;
pub mod request;
pub mod visits;
mod waiting;
