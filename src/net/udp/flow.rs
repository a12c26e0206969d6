//! A flow's life, from a client's first datagram to its end.
//!
//! | phase      | the client sends    | the server answers | ICMP: the server is gone | time is up                   |
//! |------------|---------------------|--------------------|--------------------------|------------------------------|
//! | Connecting | sent on             | Young              | next server, or over     | Young: silence is no failure |
//! | Young      | sent on; Proven, if it had a reply | passed back | shunned, over   | over                         |
//! | Proven     | sent on             | passed back        | shunned, over            | over                         |
//!
//! A young flow's client may be nobody at all: its address can be made up. One that goes on after a reply has had it, so
//! it is where it says.
//!
//! A flow that goes to its next server is taken out of the table and put back under another key: nothing that the poller
//! has to say of the old socket reaches it any more. Every way out leads through [`Worker::end_flow`] or, where there is
//! no server any more, [`Worker::part_with`]: the place on the server, the socket and the slot are given back once.

use std::hash::{Hash, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use slotmap::Key as _;

use crate::model::address::{ClientAddress, SocketAddress};
use crate::model::ids::ConnId;
use crate::model::listen::Protocol;
use crate::model::record::{ConnectionRecord, Ended};
use crate::model::time::Moment;
use crate::shared::slots::About;
use crate::shared::visits::{self, Reservation};
use crate::shared::workers::Lost;
use crate::sys::datagram;

use super::super::connect::Arrival;
use super::super::connection::state;
use super::super::deadlines::{Link, Waiting};
use super::super::event_loop::{Worker, token};
use super::ears::EarKey;
use super::pace::Pace;
use super::room::lack;
use super::trains::Message;
use super::waiting::Refusal;

slotmap::new_key_type! {
    /// Names a flow for as long as it has one server; never another one after that.
    pub(in crate::net) struct FlowKey;
}

/// Most bytes of datagrams that a worker keeps, in case that they have to go to another server and until there is a slot.
pub(super) const KEPT: usize = 4 * 1024 * 1024;

/// What makes datagrams one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    /// Where they came in.
    pub(super) ear: EarKey,
    /// Who sent them, to whom replies go.
    pub(super) peer: SocketAddr,
    /// Which of this machine's addresses they were sent to, where there are several: replies come from there.
    pub(super) asked: Option<IpAddr>,
    /// The client that a header of the PROXY protocol has named. Without, the peer's current one.
    pub(super) named: Option<ClientAddress>,
}

impl Hash for Origin {
    /// All at once: piece by piece it would take longer than all else that is done for a datagram here.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let mut bytes = [0; 8 + 3 * 24];
        let mut used = 8;
        let mut put = |ip: IpAddr, port: u16| match ip {
            IpAddr::V4(ip) => {
                let place = &mut bytes[used..used + 8];
                place[..4].copy_from_slice(&ip.octets());
                place[4..6].copy_from_slice(&port.to_ne_bytes());
                used += 8;
            }
            IpAddr::V6(ip) => {
                let place = &mut bytes[used..used + 24];
                place[..16].copy_from_slice(&ip.octets());
                place[16..18].copy_from_slice(&port.to_ne_bytes());
                used += 24;
            }
        };
        put(self.peer.ip(), self.peer.port());
        if let Some(asked) = self.asked {
            put(asked, 0);
        }
        match self.named {
            Some(ClientAddress::Inet(ip, port)) => put(ip, port),
            Some(ClientAddress::Unix) | None => {}
        }
        bytes[..8].copy_from_slice(&self.ear.data().as_ffi().to_ne_bytes());
        state.write(&bytes[..used]);
    }
}

/// Whose flow it is: what stays whichever server it has.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) origin: Origin,
    pub(super) arrival: Arrival,
    /// Its slot in the connection table.
    pub(super) conn: ConnId,
    /// What the client has sent to, for headers to servers.
    pub(super) destination: Option<SocketAddr>,
    /// Until it is known that its server is there.
    pub(super) kept: Kept,
    pub(super) tally: Tally,
    /// When the first reply came, if the log is to be told.
    pub(super) answered: Option<Moment>,
}

/// What a client gets sent again to the next server, if the one that it went to is not there. The first datagram may be
/// what all others build on; the last is the one that the client waits for an answer to, or that has shown that there will
/// be none.
#[derive(Debug, Default)]
pub(super) struct Kept {
    first: Option<Box<[u8]>>,
    /// If it is not the first.
    last: Option<Vec<u8>>,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.first.as_ref().map_or(0, |first| first.len()) + self.last.as_ref().map_or(0, Vec::len)
    }

    fn messages(&self) -> Vec<Message<'_>> {
        let (first, last) = (self.first.as_deref(), self.last.as_deref());
        first.into_iter().chain(last).map(Message::alone).collect()
    }
}

/// What has gone by.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tally {
    pub(super) up: u64,
    pub(super) down: u64,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
}

/// How far a flow has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The server has said nothing yet, and might not be there.
    Connecting,
    /// The client has sent nothing yet that shows that it hears replies.
    Young,
    /// It has.
    Proven,
}

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) caller: Caller,
    /// Connected to the server.
    pub(super) socket: OwnedFd,
    pub(super) reservation: Reservation,
    pub(super) phase: Phase,
    /// Its place in the queue of its phase.
    pub(super) link: Link<FlowKey>,
    /// When a datagram went by last, either way.
    pub(super) active: Moment,
    pub(super) pace: Pace,
    /// The kernel puts replies together.
    pub(super) gathers: bool,
    /// Trains get to the server; to the client.
    pub(super) trains_up: bool,
    pub(super) trains_down: bool,
    /// The header of the PROXY protocol for the next datagram to the server.
    pub(super) header: Option<Box<[u8]>>,
    /// Turns of the loop in a row in which its socket had an error that could not be taken from it; the last of them.
    pub(super) stuck: (u8, u64),
}

impl Waiting for Flow {
    type Key = FlowKey;

    fn link(&self) -> &Link<FlowKey> {
        &self.link
    }

    fn link_mut(&mut self) -> &mut Link<FlowKey> {
        &mut self.link
    }
}

impl Worker<'_> {
    /// Does what is sent back to this client come to the ear again? Only somebody who makes up addresses sends such a
    /// datagram, and it would go round for ever.
    fn is_own(&self, origin: &Origin) -> bool {
        let Some(ear) = self.udp.ears.get(origin.ear) else {
            return false;
        };
        origin.peer == ear.asked_at(origin.asked)
            || (ear.is_wildcard() && origin.peer.port() == ear.port() && origin.peer.ip().is_loopback())
    }

    /// A client's first datagram: it is noted, a server chosen, a place and a slot taken.
    pub(super) fn begin_flow(
        &mut self,
        origin: Origin,
        destination: Option<SocketAddr>,
    ) -> Result<FlowKey, Refusal> {
        if self.draining || self.is_own(&origin) {
            return Err(Lost::NoServer.into());
        }
        if self.slots_are_all_others() {
            return Err(Refusal::Slots);
        }
        let address = origin.named.unwrap_or_else(|| origin.peer.into());
        let verdicts = self.verdicts_on(&address);
        let visit = visits::begin(self.region, self.id, &self.terms, address, verdicts, None, self.now);
        // The slot comes last: nobody's flow ends for one that gets no server.
        let Some(reservation) = visit.reservation else {
            self.messages.debug(1, format_args!("no server for client {address}"));
            return Err(Lost::NoServer.into());
        };
        let conn = match self.claim_for_flow() {
            Ok(conn) => conn,
            Err(refusal) => {
                visits::give_back(self.region, self.id, reservation);
                return Err(refusal);
            }
        };
        self.region.workers().opened(self.id);
        self.region.workers().flow_began(self.id);
        let arrival = Arrival { address, visitor: visit.client, verdicts, among: None, attempts: 0 };
        let caller = Caller {
            origin,
            arrival,
            conn,
            destination,
            kept: Kept::default(),
            tally: Tally::default(),
            answered: None,
        };
        Ok(self.open_flow(caller, Some(reservation))?)
    }

    /// Gives a client a server, this one or the next that can be had. Else it is parted with.
    fn open_flow(&mut self, mut caller: Caller, place: Option<Reservation>) -> Result<FlowKey, Lost> {
        let (socket, reservation) = match self.connect_any_datagrams(&mut caller.arrival, place) {
            Ok(connected) => connected,
            Err(lost) => {
                let why = match lost {
                    Lost::NoRoom => Ended::NoResources,
                    Lost::NoServer | Lost::TooLong | Lost::Unreachable | Lost::Proxy => {
                        self.unserved(&caller.arrival)
                    }
                };
                self.log_flow(&caller, None, why);
                self.part_with(caller);
                return Err(lost);
            }
        };
        let header = self.header_for(&caller, &reservation);
        let origin = caller.origin;
        let key = self.udp.flows.insert(Flow {
            caller,
            socket,
            reservation,
            phase: Phase::Connecting,
            link: Link::default(),
            active: self.now,
            pace: Pace::default(),
            gathers: false,
            trains_up: true,
            trains_down: true,
            header,
            stuck: (0, 0),
        });
        self.udp.connecting.join(&mut self.udp.flows, key, self.now);
        self.udp.know(origin, key);
        self.describe_flow(key);
        let name = key.data().as_ffi() | token::FLOW;
        let watched = match self.udp.flows.get(key) {
            Some(flow) => self.poller.add_source(flow.socket.as_fd(), name),
            None => Ok(()),
        };
        if watched.is_err() {
            self.end_flow(key, Ended::NoResources);
            return Err(Lost::NoRoom);
        }
        Ok(key)
    }

    /// Tries one server after the other until one can be sent to.
    fn connect_any_datagrams(
        &mut self,
        arrival: &mut Arrival,
        mut next: Option<Reservation>,
    ) -> Result<(OwnedFd, Reservation), Lost> {
        while let Some(reservation) = next {
            let server = match reservation.address {
                SocketAddress::Inet(server) if reservation.tls == 0 => server,
                SocketAddress::Inet(_) | SocketAddress::Unix(_) => {
                    next = self.pass_over(arrival, reservation, "it does not take datagrams");
                    continue;
                }
            };
            arrival.attempts = arrival.attempts.saturating_add(1);
            match self.open_socket(arrival, &reservation, server) {
                Ok(socket) => return Ok((socket, reservation)),
                Err(error) if datagram::is_lack(&error) => {
                    visits::give_back(self.region, self.id, reservation);
                    self.tell_lack(&lack(&error));
                    return Err(Lost::NoRoom);
                }
                Err(error) => next = self.server_failed(arrival, reservation, &error),
            }
        }
        self.messages.debug(1, format_args!("no server for client {}", arrival.address));
        Err(Lost::NoServer)
    }

    /// Its server is there, or has been silent for long enough.
    pub(super) fn establish_flow(&mut self, key: FlowKey) {
        let Some(flow) = self.udp.flows.get_mut(key).filter(|flow| flow.phase == Phase::Connecting) else {
            return;
        };
        let Caller { arrival, conn, kept, .. } = &mut flow.caller;
        flow.phase = Phase::Young;
        visits::established(self.region, self.id, &self.terms, arrival.visitor, &flow.reservation, self.now);
        self.region.slots().set_state(*conn, state::CONNECTED);
        self.udp.kept -= std::mem::take(kept).bytes();
        self.udp.connecting.leave(&mut self.udp.flows, key);
        self.udp.young.join(&mut self.udp.flows, key, self.now);
    }

    /// Something has gone by: its time begins anew. `from_client`: it was that who sent it.
    pub(super) fn touch_flow(&mut self, key: FlowKey, from_client: bool) {
        let now = self.now;
        let Some(flow) = self.udp.flows.get_mut(key) else {
            return;
        };
        flow.active = now;
        match flow.phase {
            Phase::Connecting => {}
            Phase::Young if from_client && flow.caller.tally.down > 0 => {
                flow.phase = Phase::Proven;
                self.udp.young.leave(&mut self.udp.flows, key);
                self.udp.proven.join(&mut self.udp.flows, key, now);
            }
            Phase::Young => self.udp.young.touch(&mut self.udp.flows, key, now),
            Phase::Proven => self.udp.proven.touch(&mut self.udp.flows, key, now),
        }
    }

    /// Keeps a client's first datagram and its last, as far as there is room, in case its server is not there. These are
    /// the first and the last of those that were just sent to it.
    pub(super) fn keep(&mut self, key: FlowKey, first: &[u8], last: &[u8]) {
        let Some(flow) = self.udp.flows.get_mut(key).filter(|flow| flow.phase == Phase::Connecting) else {
            return;
        };
        let Caller { kept, tally, .. } = &mut flow.caller;
        let others = self.udp.kept - kept.bytes();
        if kept.first.is_none() {
            // Where there was no room for the first one of all, this is as good as any.
            kept.first = Some(first).filter(|first| others + first.len() <= KEPT).map(Into::into);
        }
        let length = kept.first.as_ref().map_or(0, |first| first.len());
        if tally.up > 1 && others + length + last.len() <= KEPT {
            let room = kept.last.get_or_insert_default();
            room.clear();
            room.extend_from_slice(last);
        }
        self.udp.kept = others + kept.bytes();
    }

    /// The server is gone, as far as is known, and had said nothing: the client gets the next, and that its first datagram
    /// and its last.
    pub(super) fn fail_over(&mut self, mut key: FlowKey, mut error: io::Error) -> Result<FlowKey, Lost> {
        loop {
            let Some(flow) = self.take_out(key) else {
                return Err(Lost::Unreachable);
            };
            // Closed before its place is given back.
            drop(flow.socket);
            let next = self.server_failed(&flow.caller.arrival, flow.reservation, &error);
            let datagrams = flow.caller.kept.messages().len() as u64;
            key = self.open_flow(flow.caller, next).inspect_err(|&lost| {
                self.region.workers().lost(self.id, lost, datagrams);
            })?;
            let kept = self.udp.flows.get_mut(key).map(|flow| std::mem::take(&mut flow.caller.kept));
            let kept = kept.unwrap_or_default();
            let failed = self.transmit(key, &kept.messages(), true).map(|(again, _)| again);
            match self.udp.flows.get_mut(key) {
                Some(flow) => flow.caller.kept = kept,
                None => self.udp.kept -= kept.bytes(),
            }
            match failed {
                None => return Ok(key),
                Some(again) => error = again,
            }
        }
    }

    /// ICMP, or a call, says that a flow's server is not there (any more). It may get another.
    pub(super) fn flow_failed(&mut self, key: FlowKey, error: io::Error) {
        match self.udp.flows.get(key).map(|flow| flow.phase) {
            Some(Phase::Connecting) => drop(self.fail_over(key, error)),
            Some(Phase::Young | Phase::Proven) => self.lose_server(key, &error),
            None => {}
        }
    }

    /// A server that had been there is gone: it is shunned, and the flow is over. The client's next datagram makes a new one.
    pub(super) fn lose_server(&mut self, key: FlowKey, error: &io::Error) {
        let Some(Flow { reservation, .. }) = self.udp.flows.get(key) else {
            return;
        };
        let is_news = visits::shun(self.region, self.id, &self.terms, reservation, self.now);
        self.tell_failure(reservation.target, &reservation.address, error, is_news);
        self.end_flow(key, Ended::ServerLost);
    }

    /// Ends a flow, whatever its phase: everything that it holds is given back, once, and the log is told why. Replies that
    /// wait to be sent are sent all the same.
    pub(in crate::net) fn end_flow(&mut self, key: FlowKey, why: Ended) {
        let Some(flow) = self.take_out(key) else {
            return;
        };
        self.log_flow(&flow.caller, Some(&flow.reservation), why);
        // Closed before its place is given back.
        drop(flow.socket);
        visits::give_back(self.region, self.id, flow.reservation);
        self.part_with(flow.caller);
    }

    /// Takes a flow out of the table and its queue: it gets no more datagrams.
    fn take_out(&mut self, key: FlowKey) -> Option<Flow> {
        let queue = match self.udp.flows.get(key)?.phase {
            Phase::Connecting => &mut self.udp.connecting,
            Phase::Young => &mut self.udp.young,
            Phase::Proven => &mut self.udp.proven,
        };
        queue.leave(&mut self.udp.flows, key);
        let flow = self.udp.flows.remove(key)?;
        self.udp.forget(&flow.caller.origin, key);
        Some(flow)
    }

    /// A client that has no server is served no more.
    fn part_with(&mut self, caller: Caller) {
        let Caller { arrival, conn, kept, tally, .. } = caller;
        self.udp.kept -= kept.bytes();
        self.region.clients().count(arrival.visitor, tally.bytes_up, tally.bytes_down);
        self.release_slot(conn);
    }

    /// The log is to be told of a flow that is over, or that goes with its worker.
    fn log_flow(&mut self, caller: &Caller, reservation: Option<&Reservation>, why: Ended) {
        if !self.log.wants_records() {
            return;
        }
        let Caller { arrival, conn, tally, answered, .. } = caller;
        let record = self.record(Protocol::Udp, *conn, arrival.address, why);
        self.log.connection(&ConnectionRecord {
            server: reservation.map(Reservation::server),
            attempts: arrival.attempts.into(),
            connected_after: self.after(*conn, *answered),
            up: tally.bytes_up,
            down: tally.bytes_down,
            datagrams: Some((tally.up, tally.down)),
            ..record
        });
    }

    /// The same of all that there are. Their slots.
    pub(in crate::net) fn log_all_flows(&mut self, why: Ended) -> Vec<ConnId> {
        let flows = std::mem::take(&mut self.udp.flows);
        for flow in flows.values() {
            self.log_flow(&flow.caller, Some(&flow.reservation), why);
        }
        self.udp.flows = flows;
        self.udp.flows.values().map(|flow| flow.caller.conn).collect()
    }

    /// Shows the flow's sockets and its server in its slot.
    fn describe_flow(&self, key: FlowKey) {
        let Some(Flow { caller, socket, reservation, .. }) = self.udp.flows.get(key) else {
            return;
        };
        let ear = self.udp.ears.get(caller.origin.ear).map_or(-1, |ear| ear.socket.as_raw_fd());
        let (visitor, server) = (Some(caller.arrival.visitor.id), Some(reservation.target));
        let slots = self.region.slots();
        slots.describe(caller.conn, visitor, server, state::CONNECTING, ear, socket.as_raw_fd());
        let (chosen, attempts) = (Some(reservation.chosen), caller.arrival.attempts);
        let client_tag = caller.arrival.visitor.short_tag();
        slots.note(caller.conn, About { protocol: Protocol::Udp, chosen, attempts, client_tag });
    }
}
