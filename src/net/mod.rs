//! Sockets at work: what a worker does with connections, and how the master and the workers talk.
#![forbid(unsafe_code)]

pub mod buffers;
pub mod channel;
mod connect;
pub mod connection;
pub mod control;
pub mod deadlines;
pub mod endpoint;
mod ends;
pub mod event_loop;
mod handshake;
mod http;
mod listener;
mod pair;
mod peeking;
mod proxy;
pub mod relay;
mod turn;
mod udp;
