//! Decisions. Pure functions of their arguments: no clock, no socket, no shared memory.
#![forbid(unsafe_code)]

pub mod acl;
pub mod blacklist;
pub mod client_hello;
pub mod http;
pub mod limits;
pub mod proxy_header;
pub mod restart;
pub mod routes;
pub mod selection;
pub mod tracking;
