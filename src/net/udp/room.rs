//! Room for flows: which one ends when there is none, and who is told.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::model::ids::ConnId;
use crate::model::record::Ended;
use crate::model::time::Moment;
use crate::shared::slots::Shortage;
use crate::shared::visits::Reservation;
use crate::shared::workers::Lost;
use crate::sys::datagram;
use crate::sys::reason::words;

use super::super::connect::{Arrival, source};
use super::super::event_loop::{TOLD_AGAIN, Worker};
use super::Udp;
use super::flow::FlowKey;
use super::waiting::Refusal;

/// How many flows may end for one socket. One gives all that is needed, unless it is taken by somebody else at once.
const TRIES: u32 = 3;

/// When there is no port or no memory for a socket, one of so many flows of this worker ends, as far as they may be made
/// up. For one port among thousands that are taken the kernel searches for milliseconds, whenever a flow begins; and a
/// flood is not to leave other programs without any.
const PORTION: usize = 8;

const NO_DESCRIPTORS: &str = "there are no more descriptors; raise the limit (ulimit -n)";

/// Which flow ends for another: of those whose clients have yet to show that they are there the least recently used, be
/// its server there or not; else of the others.
fn to_evict<K>(connecting: Option<(K, Moment)>, young: Option<(K, Moment)>, proven: Option<K>) -> Option<K> {
    let unproven = connecting.into_iter().chain(young).min_by_key(|&(_, since)| since);
    unproven.map(|(key, _)| key).or(proven)
}

/// What there is none of.
pub(super) fn lack(error: &io::Error) -> String {
    match error.kind() {
        // That is how the kernel says it.
        io::ErrorKind::WouldBlock | io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable => {
            "all local ports are in use; widen net.ipv4.ip_local_port_range".to_owned()
        }
        _ => words(error),
    }
}

impl Udp {
    fn to_evict(&self) -> Option<FlowKey> {
        let flows = &self.flows;
        let proven = self.proven.first(flows).map(|(key, _)| key);
        to_evict(self.connecting.first(flows), self.young.first(flows), proven)
    }

    /// The same, if it may be made up.
    fn unproven(&self) -> Option<FlowKey> {
        to_evict(self.connecting.first(&self.flows), self.young.first(&self.flows), None)
    }
}

impl Worker<'_> {
    /// Ends the flow that can be spared most; false: there is none.
    pub(in crate::net) fn evict_flow(&mut self) -> bool {
        let Some(key) = self.udp.to_evict() else {
            return false;
        };
        self.region.workers().flow_evicted(self.id);
        self.end_flow(key, Ended::Evicted);
        true
    }

    /// Another worker wants a slot, and there is none: a flow of this one ends for it, if there is one. Once for each time
    /// that the bell rings; whoever still wants one rings again.
    pub(in crate::net) fn make_room_for_others(&mut self) {
        let slots = self.region.slots();
        if self.udp.len() > 0 && slots.wanted_elsewhere(self.id) && slots.is_full() {
            self.evict_flow();
        }
    }

    /// All slots are in use, and none of them is a flow's of this worker.
    pub(super) fn slots_are_all_others(&self) -> bool {
        let lacking = self.udp.flows.is_empty() && self.region.slots().is_full();
        if lacking {
            self.tell_slots();
        }
        lacking
    }

    /// Ends a good many of the flows that may be made up, the least recently used.
    fn evict_portion(&mut self) {
        for _ in 0..self.udp.flows.len() / PORTION {
            let Some(key) = self.udp.unproven() else {
                return;
            };
            self.region.workers().flow_evicted(self.id);
            self.end_flow(key, Ended::Evicted);
        }
    }

    /// There are not the descriptors for a connection: the flow that can be spared most ends; false: there is none.
    pub(in crate::net) fn evict_for_connection(&mut self) -> bool {
        if self.udp.flows.is_empty() {
            return false;
        }
        self.tell_lack(NO_DESCRIPTORS);
        self.evict_flow()
    }

    /// A slot for a flow, and a descriptor: another flow's if need be.
    pub(super) fn claim_for_flow(&mut self) -> Result<ConnId, Refusal> {
        if !self.flow_descriptor_left() {
            self.tell_lack(NO_DESCRIPTORS);
            if !self.evict_flow() {
                return Err(Refusal::Lost(Lost::NoRoom));
            }
        }
        for _ in 0..TRIES {
            if let Some(conn) = self.region.slots().claim(&mut self.finder, self.id, self.now) {
                return Ok(conn);
            }
            self.tell_slots();
            if !self.evict_flow() {
                break;
            }
        }
        Err(Refusal::Slots)
    }

    /// All slots are in use: told once a minute.
    fn tell_slots(&self) {
        let slots = self.region.slots();
        if slots.tell_now(Shortage::Slots, self.now) {
            self.messages.note(format_args!(
                "all {} connections are in use, the least recently used flows of datagrams end early; raise the \
                 number with -x",
                slots.capacity()
            ));
        }
    }

    /// A socket to a server, with another flow's port or memory if need be.
    pub(super) fn open_socket(
        &mut self,
        arrival: &Arrival,
        reservation: &Reservation,
        server: SocketAddr,
    ) -> io::Result<OwnedFd> {
        let source = source(&self.settings, arrival.address, &reservation.address);
        let mut tries = 0;
        loop {
            match datagram::connect(server, source) {
                Ok(attempt) => {
                    if let Some(error) = attempt.unbound {
                        self.tell_unbound(arrival, source, &error);
                    }
                    return Ok(attempt.socket);
                }
                Err(error) if datagram::is_lack(&error) && tries < TRIES => {
                    self.tell_lack(&lack(&error));
                    if !self.evict_flow() {
                        return Err(error);
                    }
                    self.evict_portion();
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// There are no descriptors, ports or memory for another flow: told once a minute.
    pub(super) fn tell_lack(&mut self, reason: &str) {
        if self.udp.told.is_some_and(|told| self.now.seconds_since(told) < TOLD_AGAIN) {
            return;
        }
        self.udp.told = Some(self.now);
        self.messages.note(format_args!(
            "worker {} has no socket for one more flow of datagrams than {}, the least recently used end early: {reason}",
            self.id,
            self.udp.flows.len()
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_may_be_made_up_goes_first_and_of_those_the_oldest() {
        let at = |key, since| Some((key, Moment(since)));
        assert_eq!(to_evict::<u8>(None, None, None), None);
        assert_eq!(to_evict(None, None, Some(3)), Some(3));
        assert_eq!(to_evict(at(1, 500), None, Some(3)), Some(1), "however new it is");
        assert_eq!(to_evict(None, at(2, 500), Some(3)), Some(2));
        assert_eq!(to_evict(at(1, 500), at(2, 400), Some(3)), Some(2));
        assert_eq!(to_evict(at(1, 400), at(2, 500), Some(3)), Some(1));
    }
}
