//! A client and the server that it has or may get, and what goes there and back.

use crate::shared::visits::Reservation;

use super::buffers::RelayBuffers;
use super::connection::state;
use super::endpoint::Endpoint;
use super::relay::{Broken, Direction, DirectionState};

/// Which socket of a connection an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// How far a connection has come with its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// connect(2) is under way. The client's bytes wait in the kernel.
    Connecting,
    /// The server's handshake of TLS, in the queue of those that connect. The client's bytes wait as before.
    Securing,
    /// Bytes flow; each direction ends on its own.
    Relaying,
}

/// Both sides, both directions, and the place on the server.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) client: Endpoint,
    pub(super) server: Endpoint,
    /// From the client to the server.
    pub(super) up: Direction,
    /// From the server to the client.
    pub(super) down: Direction,
    pub(super) reservation: Reservation,
}

impl Pair {
    /// Nothing has gone there or back.
    pub(super) fn new(client: Endpoint, server: Endpoint, reservation: Reservation) -> Self {
        Pair { client, server, up: Direction::default(), down: Direction::default(), reservation }
    }

    /// What an event of that side is about.
    pub(super) fn side(&mut self, side: Side) -> &mut Endpoint {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Passes on what has come from that side, as [`Direction::pass_on`] does.
    ///
    /// # Errors
    /// One of the sides is broken.
    #[inline(always)]
    pub(super) fn pass_on<const ENDED: bool>(
        &mut self,
        from: Side,
        buffers: &mut RelayBuffers,
    ) -> Result<Option<u64>, Broken> {
        match from {
            Side::Client => self.up.pass_on::<ENDED>(&mut self.client, &mut self.server, buffers),
            Side::Server => self.down.pass_on::<ENDED>(&mut self.server, &mut self.client, buffers),
        }
    }

    /// The client's stream has come to its end, and all of it is on its way.
    pub(super) fn client_ended(&self) -> bool {
        self.up.state() == DirectionState::Ended
    }

    /// The same of the server's.
    pub(super) fn server_ended(&self) -> bool {
        self.down.state() == DirectionState::Ended
    }

    /// The state of a connection whose bytes flow.
    pub(super) fn state(&self) -> u32 {
        state::CONNECTED
            | if self.server_ended() { state::SERVER_ENDED } else { 0 }
            | if self.client_ended() { state::CLIENT_ENDED } else { 0 }
    }
}
