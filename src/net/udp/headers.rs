//! The PROXY protocol with datagrams: the headers that clients' begin with, and those that servers get.
//!
//! Whoever is believed begins each of his flows with a header, in front of the first datagram's bytes. One peer may have
//! many flows, for as many clients: a header that names another client begins another, and datagrams without one belong
//! to the one that was named last.

use crate::model::address::ClientAddress;
use crate::model::ids::AclId;
use crate::model::listen::Protocol;
use crate::model::proxy::ProxySend;
use crate::policy::proxy_header::{self, Outgoing, Route};
use crate::shared::visits::Reservation;
use crate::shared::workers::Lost;
use crate::sys::datagram::{Arrival, Inbox};

use super::super::event_loop::Worker;
use super::ears::EarKey;
use super::flow::{Caller, Origin};
use super::trains::Message;
use super::waiting::Refusal;

impl Worker<'_> {
    /// The header that a flow's server is to get.
    pub(super) fn header_for(&self, caller: &Caller, reservation: &Reservation) -> Option<Box<[u8]>> {
        match reservation.proxy {
            // There is no version 1 for datagrams, and nobody has such a server.
            ProxySend::Off | ProxySend::V1 => return None,
            ProxySend::V2 | ProxySend::V2Every => {}
        }
        let asked = || Some(self.udp.ears.get(caller.origin.ear)?.asked_at(caller.origin.asked));
        let header = Outgoing {
            protocol: Protocol::Udp,
            source: caller.arrival.address,
            destination: caller.destination.or_else(asked),
            tls: None,
        };
        Some(header.header(reservation.proxy).into())
    }

    /// Datagrams come where they begin with headers, or are nobody's.
    pub(super) fn take_announced(&mut self, ear: EarKey, inbox: &Inbox, taken: usize, list: AclId) {
        for index in 0..taken {
            let arrival = inbox.get(index);
            if arrival.truncated {
                self.region.workers().lost(self.id, Lost::TooLong, 1);
                continue;
            }
            let believed = self.verdicts_on(&arrival.from.into()).permits(list);
            for datagram in Message::from(arrival).datagrams() {
                let taken = match believed {
                    true => self.take_datagram(ear, arrival, datagram),
                    false => Err(Lost::Proxy),
                };
                if let Err(lost) = taken {
                    self.region.workers().lost(self.id, lost, 1);
                }
            }
        }
    }

    fn take_datagram(&mut self, ear: EarKey, arrival: Arrival<'_>, datagram: &[u8]) -> Result<(), Lost> {
        let Arrival { from: peer, to: asked, .. } = arrival;
        let unnamed = Origin { ear, peer, asked, named: None };
        let (origin, destination, bytes) = match proxy_header::parse_datagram(datagram) {
            Ok(Some(header)) => {
                let (client, destination) = match header.route {
                    // It speaks for itself.
                    Route::Own => (ClientAddress::from(peer), None),
                    Route::Inet { source, destination } => (ClientAddress::from(source), Some(destination)),
                    Route::Unix => (ClientAddress::Unix, None),
                };
                let origin = Origin { named: Some(client), ..unnamed };
                if let Some(key) = self.udp.flow_of(&origin) {
                    // What comes without a header from now on is this client's.
                    self.udp.know(origin, key);
                }
                (origin, destination, datagram.get(header.length..).unwrap_or_default())
            }
            Ok(None) => (self.udp.waiting.last_of_peer(&unnamed).unwrap_or(unnamed), None, datagram),
            Err(flaw) => {
                self.messages.debug(1, format_args!("datagram of {peer}: PROXY protocol: {flaw}"));
                return Err(Lost::Proxy);
            }
        };
        let message = [Message::alone(bytes)];
        let begun = match self.udp.flow_of(&origin) {
            Some(key) => Ok(key),
            None if origin.named.is_none() => Err(Refusal::Lost(Lost::Proxy)),
            None if self.udp.waiting.has(&origin) => Err(Refusal::Slots),
            None => self.begin_flow(origin, destination),
        };
        match begun {
            Ok(key) => self.forward(key, &message),
            Err(refusal) => self.refuse(refusal, origin, destination, &message),
        }
        Ok(())
    }
}
