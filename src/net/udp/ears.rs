//! The sockets that clients' datagrams come to.
//!
//! They are reported as long as there is something in them, and read once a turn, a batch at most: so flows, connections
//! and the other ears have theirs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use slotmap::{Key as _, SlotMap};

use crate::model::address::SocketAddress;
use crate::model::record::Ended;
use crate::shared::workers::Lost;
use crate::sys::datagram::{Arrival, BATCH, Inbox};
use crate::sys::poller::Poller;
use crate::sys::socket;

use super::super::event_loop::{Worker, token};
use super::flow::{FlowKey, Origin};
use super::groups::Groups;
use super::trains::Message;
use super::waiting::Refusal;

slotmap::new_key_type! {
    /// Names an ear for as long as it is open.
    pub(in crate::net) struct EarKey;
}

/// One of them.
#[derive(Debug)]
pub(super) struct Ear {
    pub(super) socket: OwnedFd,
    /// Where it listens.
    address: SocketAddr,
    /// The poller tells of it. Else it is there for the replies of its flows alone.
    listening: bool,
}

impl Ear {
    /// Begins to listen.
    pub(super) fn open(ears: &mut SlotMap<EarKey, Ear>, socket: OwnedFd, poller: &Poller) -> io::Result<()> {
        let address = match socket::local_address(socket.as_fd())? {
            SocketAddress::Inet(address) => address,
            SocketAddress::Unix(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        };
        let key = ears.insert(Ear { socket, address, listening: true });
        match ears.get(key) {
            Some(ear) => poller.add_source(ear.socket.as_fd(), key.data().as_ffi() | token::EAR),
            None => Ok(()),
        }
    }

    /// It hears what is sent to any of this machine's addresses.
    pub(super) fn is_wildcard(&self) -> bool {
        self.address.ip().is_unspecified()
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// What a client has sent to that asked this address.
    pub(super) fn asked_at(&self, asked: Option<IpAddr>) -> SocketAddr {
        SocketAddr::new(asked.unwrap_or(self.address.ip()), self.address.port())
    }
}

impl Worker<'_> {
    /// Datagrams of clients wait.
    pub(in crate::net) fn ear_ready(&mut self, key: EarKey) {
        let Some(mut inbox) = self.udp.inbox.take() else {
            return;
        };
        let taken = match self.udp.ears.get(key) {
            // An error is nobody's: the socket is not connected. It is gone when it has been read.
            Some(ear) => inbox.receive(ear.socket.as_fd(), BATCH).unwrap_or(0),
            None => 0,
        };
        match self.settings.proxy_accept {
            None => self.take_batch(key, &inbox, taken),
            Some(list) => self.take_announced(key, &inbox, taken, list),
        }
        self.udp.inbox = Some(inbox);
        self.count_sent_up();
    }

    /// Clients' datagrams go to their flows; those of one together.
    fn take_batch(&mut self, ear: EarKey, inbox: &Inbox, taken: usize) {
        let mut groups = std::mem::take(&mut self.udp.groups);
        let mut messages = [Message::NONE; BATCH];
        let mut last: Option<(Origin, FlowKey)> = None;
        for index in 0..taken.min(BATCH) {
            let arrival = inbox.get(index);
            messages[index] = arrival.into();
            if arrival.truncated {
                self.region.workers().lost(self.id, Lost::TooLong, 1);
                continue;
            }
            let Arrival { from: peer, to: asked, .. } = arrival;
            let origin = Origin { ear, peer, asked, named: None };
            let known = match last {
                Some((same, key)) if same == origin => Some(key),
                _ => self.udp.flow_of(&origin),
            };
            let key = match known {
                Some(key) => key,
                None if self.udp.waiting.has(&origin) => {
                    self.refuse(Refusal::Slots, origin, None, &[Message::from(arrival)]);
                    continue;
                }
                None => {
                    // What has come before goes first: the new flow may take the place of one of those.
                    self.forward_groups(&mut groups, &messages);
                    match self.begin_flow(origin, None) {
                        Ok(key) => key,
                        Err(refusal) => {
                            self.refuse(refusal, origin, None, &[Message::from(arrival)]);
                            last = None;
                            continue;
                        }
                    }
                }
            };
            last = Some((origin, key));
            groups.add(key, index as u8);
        }
        self.forward_groups(&mut groups, &messages);
        self.udp.groups = groups;
    }

    fn forward_groups(&mut self, groups: &mut Groups<FlowKey>, batch: &[Message<'_>; BATCH]) {
        for group in 0..groups.len() {
            let Some((key, first)) = groups.get(group) else {
                break;
            };
            match groups.run(group).and_then(|run| batch.get(run)) {
                Some(run) => self.forward(key, run),
                None => {
                    let members = std::iter::successors(Some(first), |&index| groups.after(index));
                    let messages: Vec<Message<'_>> =
                        members.filter_map(|index| batch.get(usize::from(index))).copied().collect();
                    self.forward(key, &messages);
                }
            }
        }
        groups.clear();
    }

    /// Goes over to these sockets. Those of them that it has already stay as they are; flows of others end.
    pub(in crate::net) fn replace_ears(&mut self, sockets: Vec<OwnedFd>) {
        self.send_replies();
        let wanted: Vec<Option<u64>> = sockets.iter().map(|it| socket::inode(it.as_fd())).collect();
        let mut present = Vec::new();
        let mut left = Vec::new();
        for (key, ear) in &self.udp.ears {
            match socket::inode(ear.socket.as_fd()) {
                Some(inode) if wanted.contains(&Some(inode)) => present.push(Some(inode)),
                Some(_) | None => left.push(key),
            }
        }
        let flows = self.udp.flows.iter().filter(|(_, flow)| left.contains(&flow.caller.origin.ear));
        for key in flows.map(|(key, _)| key).collect::<Vec<FlowKey>>() {
            self.end_flow(key, Ended::ListenerClosed);
        }
        self.lose_datagrams_of(|origin| left.contains(&origin.ear));
        for key in left {
            if let Some(ear) = self.udp.ears.remove(key) {
                // Others have the same socket, and the poller goes by that.
                self.poller.remove(ear.socket.as_fd());
            }
        }
        for (socket, inode) in sockets.into_iter().zip(wanted) {
            if inode.is_some() && present.contains(&inode) {
                continue;
            }
            if let Err(error) = Ear::open(&mut self.udp.ears, socket, &self.poller) {
                let error = crate::sys::reason::words(&error);
                self.messages.error(format_args!("worker {}: cannot wait for datagrams: {error}", self.id));
            }
        }
    }

    /// Without flows there is no use in sockets that are not read: as long as one is open its address is taken.
    pub(in crate::net) fn close_left_ears(&mut self) {
        if self.udp.len() == 0 {
            self.udp.ears.retain(|_, ear| ear.listening);
        }
    }

    /// Reads what clients send no more: somebody else does. Flows get their replies until they end.
    pub(in crate::net) fn leave_ears(&mut self) {
        for ear in self.udp.ears.values_mut() {
            if std::mem::replace(&mut ear.listening, false) {
                self.poller.remove(ear.socket.as_fd());
            }
        }
    }
}
