//! HTTP/1 as far as a relay that adds headers to requests has to know it.
//!
//! ```text
//!                 ┌────────────── Exchange ──────────────┐
//!  client ──────▶ │ Requests: head → rewritten, body as is │ ──────▶ server
//!         ◀────── │ Responses: looked at, never changed    │ ◀──────
//!                 └───────────────────────────────────────┘
//! ```
//!
//! Responses are followed because only they say whether an Upgrade or a CONNECT was granted, and when a request that is
//! refused here can be answered. Sources: RFC 9110, 9112, 7239, 6455.
//!
//! Everything that a lenient server could take for a request is taken for one here, and what two servers could take for
//! two different ones is refused: nobody gets a head past us that was not looked at.

pub mod body;
pub mod exchange;
pub mod head;
pub mod journal;
pub mod outgoing;
pub mod responses;

pub use exchange::{Exchange, Refusal};
pub use outgoing::Outgoing;
