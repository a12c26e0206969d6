//! Decisions. Pure functions of their arguments: no clock, no socket, no shared memory.
#![forbid(unsafe_code)]

pub mod acl;
pub mod blacklist;
pub mod limits;
pub mod restart;
pub mod selection;
pub mod tracking;
