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
mod left_behind;
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

/// The name by which the balancer and its processes are known.
pub const PEN: &str = "pen";

/// Writes `pen: LINE` to stderr. If stderr is closed or full nobody can be told, and that is no reason to end.
pub fn complain(line: impl Display) {
    complain_as(PEN, line);
}

/// The same for another program.
pub fn complain_as(program: &str, line: impl Display) {
    let _ = std::io::stderr().write_all(format!("{program}: {line}\n").as_bytes());
}
