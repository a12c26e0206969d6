//! Everything that is told: messages, the request log, statistics.
#![forbid(unsafe_code)]

pub mod dump;
pub mod explain;
pub mod log;
pub mod messages;
pub mod replies;
pub mod status;
