//! Datagrams: flows between clients and servers.
//!
//! ```text
//! ear ── a batch ──> by flow ──> the flow's socket ──> server
//! ear <── a batch ── gathered over a turn <── the flow's socket <── server
//! ```
//!
//! A flow is what one address and port of a client sends to one of pen's addresses. It has a socket of its own that is
//! connected to its server: so the kernel says whose replies are whose, and what ICMP has to say of a server. A flow has
//! a slot, a client and a place on a server as a connection has. A datagram of a flow that exists costs a share of two
//! calls for a batch, a receive and a send; no lock, and no memory.
//!
//! All sockets are reported as long as there is something in them. Not here: who gets which ear (`process::listening`).

mod down;
mod ears;
mod flow;
mod groups;
mod headers;
mod pace;
mod room;
mod trains;
mod up;
mod waiting;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use slotmap::SlotMap;

use crate::model::ids::ConnId;
use crate::model::record::Ended;
use crate::model::time::{Moment, Seconds};
use crate::sys::datagram::Inbox;
use crate::sys::poller::Poller;

pub(super) use ears::EarKey;
pub(super) use flow::FlowKey;

use super::deadlines::Queue;
use super::event_loop::Worker;
use down::Replies;
use ears::Ear;
use flow::{Flow, Origin};
use groups::Groups;
use waiting::WaitingRoom;

/// What a worker has of datagrams.
#[derive(Debug)]
pub(super) struct Udp {
    ears: SlotMap<EarKey, Ear>,
    flows: SlotMap<FlowKey, Flow>,
    /// Each flow by its origin, and if that has a name also by the same without, if it is the last of its peer.
    origins: HashMap<Origin, FlowKey>,
    connecting: Queue<FlowKey>,
    young: Queue<FlowKey>,
    proven: Queue<FlowKey>,
    /// None while what is in it is being looked at.
    inbox: Option<Inbox>,
    /// Where small datagrams are put together to trains.
    joined: Vec<u8>,
    groups: Groups<FlowKey>,
    replies: Replies,
    /// Bytes of datagrams that are kept, for flows whose servers may not be there and for those that have no slot yet.
    kept: usize,
    waiting: WaitingRoom,
    /// Datagrams sent to servers that are not counted yet.
    sent_up: u64,
    /// When a lack was told last.
    told: Option<Moment>,
}

impl Udp {
    /// With these sockets, which are registered.
    pub(super) fn new(sockets: Vec<OwnedFd>, poller: &Poller) -> io::Result<Self> {
        let mut ears = SlotMap::with_key();
        sockets.into_iter().try_for_each(|socket| Ear::open(&mut ears, socket, poller))?;
        Ok(Udp {
            ears,
            flows: SlotMap::with_key(),
            origins: HashMap::new(),
            connecting: Queue::default(),
            young: Queue::with_slack(),
            proven: Queue::with_slack(),
            inbox: Some(Inbox::new()),
            joined: Vec::new(),
            groups: Groups::default(),
            replies: Replies::default(),
            kept: 0,
            waiting: WaitingRoom::default(),
            sent_up: 0,
            told: None,
        })
    }

    /// How many flows there are.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// A slot is wanted that only another worker can give.
    pub(super) fn awaits_slot(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn flow_of(&self, origin: &Origin) -> Option<FlowKey> {
        self.origins.get(origin).copied()
    }

    /// From now on what comes from there is this flow's.
    fn know(&mut self, origin: Origin, key: FlowKey) {
        self.origins.insert(origin, key);
        if origin.named.is_some() {
            self.origins.insert(Origin { named: None, ..origin }, key);
        }
    }

    fn forget(&mut self, origin: &Origin, key: FlowKey) {
        for origin in [*origin, Origin { named: None, ..*origin }] {
            if self.origins.get(&origin) == Some(&key) {
                self.origins.remove(&origin);
            }
        }
    }
}

impl Worker<'_> {
    /// When the first flow's time may be up.
    pub(super) fn flows_due(&self) -> Option<Moment> {
        let flows = &self.udp.flows;
        let idle = Some(self.flow_idle());
        let deadlines = [
            self.udp.connecting.next_deadline(flows, Some(self.silence())),
            self.udp.young.next_deadline(flows, idle),
            self.udp.proven.next_deadline(flows, idle),
        ];
        deadlines.into_iter().flatten().min()
    }

    /// When the first datagram has waited for a slot for long enough.
    pub(super) fn waiting_datagrams_due(&self) -> Option<Moment> {
        self.udp.waiting.deadline()
    }

    /// Ends flows through which nothing has gone for long enough.
    pub(super) fn end_overdue_flows(&mut self) {
        let (idle, silence) = (self.flow_idle(), self.silence());
        while let Some(key) = self.udp.connecting.overdue(&self.udp.flows, Some(silence), self.now) {
            self.establish_flow(key);
            let active = self.udp.flows.get(key).map(|flow| flow.active);
            if active.is_some_and(|active| active.plus(idle) <= self.now) {
                self.end_flow(key, Ended::IdleTimeout);
            }
        }
        while let Some(key) = self.udp.young.overdue(&self.udp.flows, Some(idle), self.now) {
            self.end_flow(key, Ended::IdleTimeout);
        }
        while let Some(key) = self.udp.proven.overdue(&self.udp.flows, Some(idle), self.now) {
            self.end_flow(key, Ended::IdleTimeout);
        }
    }

    /// Counts what has been sent to servers.
    fn count_sent_up(&mut self) {
        let sent_on = std::mem::take(&mut self.udp.sent_up);
        self.region.workers().sent_on(self.id, sent_on, 0);
    }

    /// The flow that has this slot.
    pub(super) fn flow_in(&self, conn: ConnId) -> Option<FlowKey> {
        self.udp.flows.iter().find(|(_, flow)| flow.caller.conn == conn).map(|(key, _)| key)
    }

    /// After how long without a datagram a flow is over.
    fn flow_idle(&self) -> Seconds {
        let own = self.settings.udp_timeout.idle;
        self.idle_timeout().map_or(own, |idle| idle.min(own))
    }

    /// For how long a server may be silent before it is taken to be there.
    fn silence(&self) -> Seconds {
        self.settings.timeout.min(self.flow_idle())
    }
}
