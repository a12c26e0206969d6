//! OpenSSL, made safe: the only home of the openssl crate.
//!
//! ```text
//! files ── Material::load ──> Material ── pack ──> sealed memory ── unpack ──> Material     master ──> workers
//!                                 │                                               │
//!                                 └──────────── Contexts::build <─────────────────┘
//!                                                     │ accept, connect
//!                                                  Secured        one connection's side
//! ```
//!
//! The master reads files; workers get what was in them, and open no path. Keys for session tickets ([`TicketKeys`])
//! are made by the master and shared. What differs between OpenSSL and AWS-LC is in `library`.

mod context;
mod library;
mod material;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tickets;

pub use context::{Contexts, Scope};
pub use library::name as library_name;
pub use material::{Material, Notes, TlsError};
pub use stream::{Outbox, Peer, Secured};
pub use tickets::TicketKeys;
