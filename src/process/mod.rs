//! Processes: how pen starts, what the master does, what a worker does.
#![forbid(unsafe_code)]

pub mod background;
pub mod check;
mod children;
pub mod listening;
pub mod master;
pub mod names;
pub mod owned_path;
pub mod pidfile;
pub mod reload;
pub mod resolver;
mod signals;
pub mod startup;
pub mod supervisor;
pub mod worker;

/// Exit status of a worker that could not start and must not be restarted.
pub const CANNOT_START: i32 = 71;
