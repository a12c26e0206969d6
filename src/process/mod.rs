//! Processes: how pen starts, what the master does, what a worker does.
#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io::Write;

pub mod background;
mod changes;
pub mod check;
mod children;
mod control;
mod descriptors;
pub mod listeners;
pub mod listening;
mod lookups;
pub mod master;
pub mod names;
pub mod owned_path;
pub mod pidfile;
pub mod resolver;
mod signals;
pub mod startup;
pub mod supervisor;
pub mod tls;
pub mod worker;

/// Exit status of a worker that could not start and must not be restarted.
pub const CANNOT_START: i32 = 71;

/// Writes `pen: LINE` to stderr. If stderr is closed or full nobody can be told, and that is no reason to end.
pub fn complain(line: impl Display) {
    let _ = std::io::stderr().write_all(format!("pen: {line}\n").as_bytes());
}
