//! Datagrams on their way from clients to servers.

use std::borrow::Cow;
use std::io;
use std::os::fd::AsFd;

use crate::model::proxy::ProxySend;
use crate::shared::visits;
use crate::shared::workers::Lost;
use crate::sys::datagram;

use super::super::event_loop::Worker;
use super::super::turn::Observer;
use super::flow::{Flow, FlowKey, Phase};
use super::trains::{self, Message, Way, count, loss};
use super::waiting::Refusal;

impl Worker<'_> {
    /// A client's datagrams go to its server. If that turns out not to be there, they go to another.
    pub(super) fn forward(&mut self, mut key: FlowKey, messages: &[Message<'_>]) {
        let mut rest = Cow::Borrowed(messages);
        let mut begun_anew = false;
        while let Some((error, unsent)) = self.transmit(key, &rest, false) {
            let Some(flow) = self.udp.flows.get(key) else {
                return;
            };
            let (origin, destination) = (flow.caller.origin, flow.caller.destination);
            let next = if flow.phase == Phase::Connecting {
                self.fail_over(key, error).map_err(Refusal::Lost)
            } else {
                self.lose_server(key, &error);
                match std::mem::replace(&mut begun_anew, true) {
                    false => self.begin_flow(origin, destination),
                    true => Err(Lost::Unreachable.into()),
                }
            };
            match next {
                Ok(next) => key = next,
                Err(refusal) => return self.refuse(refusal, origin, destination, &unsent),
            }
            rest = Cow::Owned(unsent);
        }
    }

    /// Sends datagrams to a flow's server. Some: what says that it is not there, and those that were not sent for that.
    /// What was lost otherwise is lost. `again`: they were sent to another server before.
    pub(super) fn transmit<'a>(
        &mut self,
        key: FlowKey,
        messages: &[Message<'a>],
        again: bool,
    ) -> Option<(io::Error, Vec<Message<'a>>)> {
        let Some(flow) = self.udp.flows.get_mut(key) else {
            self.region.workers().lost(self.id, Lost::Unreachable, count(messages));
            return None;
        };
        let Flow { caller, socket, reservation, header, trains_up, phase, .. } = flow;
        let joined = &mut self.udp.joined;
        let mut observer = Observer {
            log: &mut self.log,
            messages: &self.messages,
            dumping: self.settings.debug >= 3,
            ascii: self.settings.ascii,
            client: &caller.arrival.address,
            server: &reservation.address,
        };
        let observed = !again && (observer.is_logging() || observer.dumping);
        let keeps = !again && *phase == Phase::Connecting;
        let (mut datagrams, mut bytes) = (0, 0);
        let mut failure = None;
        let mut ends: Option<(&[u8], &[u8])> = None;
        let mut unsent = Vec::new();
        let mut told = |sent: &[Message<'a>], result: io::Result<()>| match result {
            Ok(()) => {
                datagrams += count(sent);
                bytes += trains::bytes(sent) as u64;
                if keeps
                    && let [first, ..] = sent
                    && let [.., last] = sent
                {
                    ends = Some((ends.map_or(first.split_first().0, |(first, _)| first), last.last()));
                }
                if observed {
                    for datagram in sent.iter().flat_map(Message::datagrams) {
                        observer.record(datagram);
                        observer.show(datagram);
                    }
                }
            }
            Err(error) if datagram::is_servers_fault(&error) => {
                unsent.extend_from_slice(sent);
                failure = Some(error);
            }
            Err(error) => self.region.workers().lost(self.id, loss(&error), count(sent)),
        };
        let way = Way { socket: socket.as_fd(), to: None, from: None, header: &[] };
        match header.as_deref().filter(|_| reservation.proxy == ProxySend::V2Every) {
            Some(header) => trains::send(Way { header, ..way }, messages, trains_up, joined, &mut told),
            None => {
                let (mut next, mut others) = (None, messages);
                // Only the first datagram has it, and is no train with those after it. One that cannot be sent is not it.
                while let Some(first_header) = header.as_deref() {
                    let message = match (next, others.split_first()) {
                        (Some(remainder), _) => remainder,
                        (None, Some((&message, after))) => {
                            others = after;
                            message
                        }
                        (None, None) => break,
                    };
                    let (datagram, remainder) = message.split_first();
                    next = remainder;
                    let way_of_first = Way { header: first_header, ..way };
                    let mut gone = false;
                    trains::send(
                        way_of_first,
                        &[Message::alone(datagram)],
                        trains_up,
                        joined,
                        |sent, result| {
                            gone |= result.is_ok();
                            told(sent, result);
                        },
                    );
                    if gone {
                        *header = None;
                    }
                }
                if let Some(remainder) = next {
                    trains::send(way, &[remainder], trains_up, joined, &mut told);
                }
                trains::send(way, others, trains_up, joined, &mut told);
            }
        }

        visits::count(self.region, self.id, reservation, bytes, 0);
        visits::count_datagrams(self.region, self.id, reservation, datagrams, 0);
        if !again {
            caller.tally.up += datagrams;
            caller.tally.bytes_up += bytes;
            self.udp.sent_up += datagrams;
        }
        let tally = caller.tally;
        self.region.slots().progress(caller.conn, tally.bytes_up, tally.bytes_down, 0, 0);
        self.touch_flow(key, true);
        if let Some((first, last)) = ends {
            self.keep(key, first, last);
        }
        failure.map(|error| (error, unsent))
    }
}
