//! Datagrams on their way from servers to clients.
//!
//! What is read from flows is gathered, over a turn of the loop, and leaves with one call for each ear; several datagrams
//! of a flow as trains. Long batches of a flow leave at once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use crate::model::record::Ended;
use crate::report::dump::dump;
use crate::shared::visits;
use crate::shared::workers::Lost;
use crate::sys::datagram::{self, BATCH, Departure, Inbox};
use crate::sys::poller::Readiness;

use super::super::event_loop::Worker;
use super::Udp;
use super::ears::EarKey;
use super::flow::{FlowKey, Phase};
use super::trains::{self, JOINED, Message, Way, loss};

/// Most bytes that are gathered before they are sent.
const GATHERED: usize = 64 * 1024;

/// Turns of the loop in a row in which a socket may have an error that nobody can take from it.
const STUCK: u8 = 16;

/// Replies of a turn of the loop that are not sent yet.
#[derive(Debug, Default)]
pub(super) struct Replies {
    bytes: Vec<u8>,
    /// At most [`BATCH`].
    waiting: Vec<Reply>,
}

/// A datagram, or a train of them.
#[derive(Debug, Clone, Copy)]
struct Reply {
    flow: FlowKey,
    ear: EarKey,
    to: SocketAddr,
    from: Option<IpAddr>,
    /// Its place among the bytes.
    start: usize,
    end: usize,
    /// It is a train of datagrams of this length (the last may be shorter).
    segment: Option<u16>,
}

impl Replies {
    fn has_room(&self, length: usize) -> bool {
        self.waiting.len() < BATCH && self.bytes.len() + length <= GATHERED
    }

    fn departure<'a>(reply: &Reply, pieces: &'a [io::IoSlice<'a>]) -> Departure<'a> {
        Departure { to: Some(reply.to), from: reply.from, pieces, segment: reply.segment }
    }

    fn message(&self, reply: &Reply) -> Message<'_> {
        let bytes = self.bytes.get(reply.start..reply.end).unwrap_or_default();
        Message { bytes, segment: reply.segment.map_or(bytes.len(), usize::from) }
    }

    fn piece(&self, reply: &Reply) -> io::IoSlice<'_> {
        io::IoSlice::new(self.message(reply).bytes)
    }
}

impl Worker<'_> {
    /// A flow's server has sent something, or the kernel knows something of it.
    pub(in crate::net) fn flow_ready(&mut self, key: FlowKey, readiness: Readiness) {
        let Some(mut inbox) = self.udp.inbox.take() else {
            return;
        };
        self.read_flow(key, readiness, &mut inbox);
        self.udp.inbox = Some(inbox);
    }

    fn read_flow(&mut self, key: FlowKey, readiness: Readiness, inbox: &mut Inbox) {
        let turn = self.turn;
        let Some(flow) = self.udp.flows.get_mut(key) else {
            return;
        };
        let error = if readiness.failed() { datagram::take_error(flow.socket.as_fd()) } else { None };
        let batch = flow.pace.wants_batch(turn);
        if batch && !flow.gathers {
            // Where the kernel cannot, it is one datagram a message.
            flow.gathers = datagram::gather_trains(flow.socket.as_fd()).is_ok();
        }
        // What the server has sent before it was gone is passed on.
        let most = if batch || error.is_some() { BATCH } else { 1 };
        let socket = flow.socket.as_fd();
        let received = match most == 1 && !flow.gathers {
            true => inbox.receive_alone(socket).map(|()| 1),
            false => inbox.receive_nameless(socket, most),
        };
        let mut stuck = readiness.failed();
        let (taken, error) = match received {
            Ok(taken) => (taken, error),
            Err(failure) if failure.kind() == io::ErrorKind::WouldBlock => (0, error),
            Err(failure) => {
                stuck = true;
                (0, error.or(Some(failure).filter(datagram::is_servers_fault)))
            }
        };
        if taken > 0 {
            flow.stuck.0 = 0;
            self.pass_back(key, inbox, taken, batch);
        } else if stuck && error.is_none() {
            // Such as that a datagram was too long for its way. But nothing may be told for ever.
            let (times, last) = flow.stuck;
            flow.stuck = (if last + 1 == turn { times.saturating_add(1) } else { 1 }, turn);
            if flow.stuck.0 > STUCK {
                return self.end_flow(key, Ended::ServerLost);
            }
        }
        match error {
            Some(error) => self.flow_failed(key, error),
            None => self.end_if_answered(key),
        }
    }

    /// Has every datagram of the client had as many replies as it is to have?
    fn end_if_answered(&mut self, key: FlowKey) {
        let (Some(replies), Some(flow)) = (self.settings.udp_timeout.replies, self.udp.flows.get(key)) else {
            return;
        };
        let tally = flow.caller.tally;
        if tally.down > 0 && tally.down >= tally.up.saturating_mul(replies.into()) {
            self.end_flow(key, Ended::Replied);
        }
    }

    /// A server's datagrams, so many messages of them, go to its client.
    fn pass_back(&mut self, key: FlowKey, inbox: &Inbox, taken: usize, batch: bool) {
        let Some(flow) = self.udp.flows.get_mut(key) else {
            return;
        };
        if flow.phase == Phase::Connecting {
            self.establish_flow(key);
        }
        let passed = match taken {
            1 if !inbox.get(0).truncated => self.pass_messages_back(key, &[inbox.get(0).into()]),
            _ => {
                let mut messages = Vec::with_capacity(taken);
                for arrival in (0..taken).map(|index| inbox.get(index)) {
                    match arrival.truncated {
                        true => self.region.workers().lost(self.id, Lost::TooLong, 1),
                        false => messages.push(arrival.into()),
                    }
                }
                self.pass_messages_back(key, &messages)
            }
        };
        let Some(flow) = self.udp.flows.get_mut(key) else {
            return;
        };
        if batch {
            flow.pace.took(usize::try_from(passed.0).unwrap_or(usize::MAX));
        }
        if flow.caller.tally.down == 0 && self.log.wants_records() {
            flow.caller.answered = Some(self.now);
        }
        let tally = &mut flow.caller.tally;
        tally.down += passed.0;
        tally.bytes_down += passed.1;
        visits::count(self.region, self.id, &flow.reservation, 0, passed.1);
        visits::count_datagrams(self.region, self.id, &flow.reservation, 0, passed.0);
        self.region.slots().progress(flow.caller.conn, tally.bytes_up, tally.bytes_down, 0, 0);
        self.touch_flow(key, false);
    }

    /// How many datagrams they were, and their bytes.
    fn pass_messages_back(&mut self, key: FlowKey, messages: &[Message<'_>]) -> (u64, u64) {
        if self.settings.debug >= 3 {
            messages.iter().flat_map(Message::datagrams).for_each(|datagram| self.show(datagram));
        }
        let bytes = trains::bytes(messages);
        let takes_trains = self.udp.flows.get(key).is_some_and(|flow| flow.trains_down);
        let is_one = matches!(messages, [message] if message.is_alone());
        match bytes <= JOINED && (takes_trains || is_one) {
            true => self.gather(key, messages),
            false => self.send_back(key, messages),
        }
        (trains::count(messages), bytes as u64)
    }

    /// These wait until the end of the turn.
    fn gather(&mut self, key: FlowKey, mut messages: &[Message<'_>]) {
        while !messages.is_empty() {
            let train = trains::first_train(messages);
            let (own, others) = messages.split_at(train.messages);
            messages = others;
            if !self.udp.replies.has_room(trains::bytes(own)) {
                self.send_replies();
            }
            let Some(flow) = self.udp.flows.get(key) else {
                return;
            };
            let origin = &flow.caller.origin;
            let Replies { bytes: gathered, waiting } = &mut self.udp.replies;
            let start = gathered.len();
            own.iter().for_each(|message| gathered.extend_from_slice(message.bytes));
            let (ear, to, from) = (origin.ear, origin.peer, origin.asked);
            let end = gathered.len();
            waiting.push(Reply { flow: key, ear, to, from, start, end, segment: train.segment });
        }
    }

    /// These leave at once. None of this flow wait: it is read once a turn.
    fn send_back(&mut self, key: FlowKey, messages: &[Message<'_>]) {
        let Some(flow) = self.udp.flows.get_mut(key) else {
            return;
        };
        let origin = flow.caller.origin;
        let Some(ear) = self.udp.ears.get(origin.ear) else {
            return;
        };
        let way = Way { socket: ear.socket.as_fd(), to: Some(origin.peer), from: origin.asked, header: &[] };
        let workers = self.region.workers();
        let mut sent_on = 0;
        trains::send(
            way,
            messages,
            &mut flow.trains_down,
            &mut self.udp.joined,
            |sent, result| match result {
                Ok(()) => sent_on += trains::count(sent),
                Err(error) => workers.lost(self.id, loss(&error), trains::count(sent)),
            },
        );
        workers.sent_on(self.id, 0, sent_on);
    }

    /// Sends what has been gathered.
    pub(in crate::net) fn send_replies(&mut self) {
        let Udp { replies, flows, ears, joined, .. } = &mut self.udp;
        if replies.waiting.is_empty() {
            return;
        }
        if replies.waiting.len() > 1 {
            // Mostly they are all for one. In their order for each.
            replies.waiting.sort_by_key(|reply| reply.ear);
        }
        let workers = self.region.workers();
        let mut sent_on = 0;
        let mut told = |messages: &[Message<'_>], result: io::Result<()>| match result {
            Ok(()) => sent_on += trains::count(messages),
            Err(error) => workers.lost(self.id, loss(&error), trains::count(messages)),
        };
        for group in replies.waiting.chunk_by(|one, other| one.ear == other.ear) {
            let ear = group.first().and_then(|reply| ears.get(reply.ear));
            let Some(ear) = ear else { continue };
            let mut refused = Vec::new();
            let told_of_group = |index: usize, result: io::Result<()>| {
                let Some(reply) = group.get(index) else { return };
                match result {
                    Err(error) if reply.segment.is_some() && datagram::refuses_trains(&error) => {
                        refused.push(reply);
                    }
                    result => told(&[replies.message(reply)], result),
                }
            };
            match group {
                [reply] => {
                    let pieces = [replies.piece(reply)];
                    let departure = Replies::departure(reply, &pieces);
                    datagram::send_all(ear.socket.as_fd(), &[departure], told_of_group);
                }
                group => {
                    let pieces: Vec<[io::IoSlice<'_>; 1]> =
                        group.iter().map(|reply| [replies.piece(reply)]).collect();
                    let departures: Vec<Departure<'_>> = group
                        .iter()
                        .zip(&pieces)
                        .map(|(reply, pieces)| Replies::departure(reply, pieces))
                        .collect();
                    datagram::send_all(ear.socket.as_fd(), &departures, told_of_group);
                }
            }
            for reply in refused {
                if let Some(flow) = flows.get_mut(reply.flow) {
                    flow.trains_down = false;
                }
                let way =
                    Way { socket: ear.socket.as_fd(), to: Some(reply.to), from: reply.from, header: &[] };
                trains::send(way, &[replies.message(reply)], &mut false, joined, &mut told);
            }
        }
        workers.sent_on(self.id, 0, sent_on);
        replies.waiting.clear();
        replies.bytes.clear();
    }

    /// `-d -d -d`: a server's datagram.
    fn show(&self, datagram: &[u8]) {
        if self.settings.debug >= 3 {
            self.messages.raw(&dump(datagram, self.settings.ascii));
        }
    }
}
