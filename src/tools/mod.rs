//! One file per program: command lines, and nothing else.
#![forbid(unsafe_code)]

pub mod cli;
pub mod mergelogs;
pub mod options;
pub mod pen;
pub mod penctl;
pub mod penlog;
pub mod penlogd;
