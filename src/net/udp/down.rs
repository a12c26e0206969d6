//! Datagrams on their way from servers to clients.
//!
//! What is read from flows one by one is gathered, over a turn of the loop, and leaves with one call for each ear. What
//! is read from a flow in a batch leaves at once, as trains.

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
use super::ears::EarKey;
use super::flow::{FlowKey, Phase};
use super::trains::{self, Message, Way, loss};

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

/// One datagram.
#[derive(Debug, Clone, Copy)]
struct Reply {
    ear: EarKey,
    to: SocketAddr,
    from: Option<IpAddr>,
    /// Its place among the bytes.
    start: usize,
    end: usize,
}

impl Replies {
    fn has_room(&self, length: usize) -> bool {
        self.waiting.len() < BATCH && self.bytes.len() + length <= GATHERED
    }

    fn departure<'a>(reply: &Reply, pieces: &'a [io::IoSlice<'a>]) -> Departure<'a> {
        Departure { to: Some(reply.to), from: reply.from, pieces, segment: None }
    }

    fn piece(&self, reply: &Reply) -> io::IoSlice<'_> {
        io::IoSlice::new(self.bytes.get(reply.start..reply.end).unwrap_or_default())
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
            false => inbox.receive(socket, most),
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
        let alone = match taken {
            1 => Some(inbox.get(0)).filter(|arrival| Message::from(*arrival).count() == 1),
            _ => None,
        };
        let passed = match alone {
            Some(arrival) if !arrival.truncated => self.gather(key, arrival.bytes),
            _ => self.pass_back_batch(key, inbox, taken),
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

    /// A datagram waits until the end of the turn: how many that are, and their bytes.
    fn gather(&mut self, key: FlowKey, bytes: &[u8]) -> (u64, u64) {
        if !self.udp.replies.has_room(bytes.len()) {
            self.send_replies();
        }
        let Some(flow) = self.udp.flows.get(key) else {
            return (0, 0);
        };
        self.show(bytes);
        let origin = &flow.caller.origin;
        let Replies { bytes: gathered, waiting } = &mut self.udp.replies;
        let start = gathered.len();
        gathered.extend_from_slice(bytes);
        let (ear, to, from) = (origin.ear, origin.peer, origin.asked);
        waiting.push(Reply { ear, to, from, start, end: gathered.len() });
        (1, bytes.len() as u64)
    }

    /// Several datagrams leave at once: how many that are, and their bytes.
    fn pass_back_batch(&mut self, key: FlowKey, inbox: &Inbox, taken: usize) -> (u64, u64) {
        let arrivals = (0..taken).map(|index| inbox.get(index));
        let (cut, whole): (Vec<_>, Vec<_>) = arrivals.partition(|arrival| arrival.truncated);
        let messages: Vec<Message<'_>> = whole.into_iter().map(Message::from).collect();
        self.region.workers().lost(self.id, Lost::TooLong, cut.len() as u64);
        messages.iter().flat_map(Message::datagrams).for_each(|datagram| self.show(datagram));
        let Some(flow) = self.udp.flows.get_mut(key) else {
            return (0, 0);
        };
        let origin = flow.caller.origin;
        let Some(ear) = self.udp.ears.get(origin.ear) else {
            return (0, 0);
        };
        let way = Way { socket: ear.socket.as_fd(), to: Some(origin.peer), from: origin.asked, header: &[] };
        let workers = self.region.workers();
        let mut sent_on = 0;
        trains::send(way, &messages, &mut flow.trains_down, |sent, result| match result {
            Ok(()) => sent_on += trains::count(sent),
            Err(error) => workers.lost(self.id, loss(&error), trains::count(sent)),
        });
        workers.sent_on(self.id, 0, sent_on);
        let bytes = messages.iter().map(|message| message.bytes.len() as u64).sum();
        (trains::count(&messages), bytes)
    }

    /// Sends what has been gathered.
    pub(in crate::net) fn send_replies(&mut self) {
        let replies = &mut self.udp.replies;
        if replies.waiting.is_empty() {
            return;
        }
        let workers = self.region.workers();
        let mut sent_on = 0;
        let mut told = |result: io::Result<()>| match result {
            Ok(()) => sent_on += 1,
            Err(error) => workers.lost(self.id, loss(&error), 1),
        };
        if replies.waiting.len() > 1 {
            // Mostly they are all for one. In their order for each.
            replies.waiting.sort_by_key(|reply| reply.ear);
        }
        for group in replies.waiting.chunk_by(|one, other| one.ear == other.ear) {
            let ear = group.first().and_then(|reply| self.udp.ears.get(reply.ear));
            let Some(ear) = ear else { continue };
            match group {
                [reply] => {
                    let pieces = [replies.piece(reply)];
                    let departure = Replies::departure(reply, &pieces);
                    datagram::send_all(ear.socket.as_fd(), &[departure], |_, result| told(result));
                }
                group => {
                    let pieces: Vec<[io::IoSlice<'_>; 1]> =
                        group.iter().map(|reply| [replies.piece(reply)]).collect();
                    let departures: Vec<Departure<'_>> = group
                        .iter()
                        .zip(&pieces)
                        .map(|(reply, pieces)| Replies::departure(reply, pieces))
                        .collect();
                    datagram::send_all(ear.socket.as_fd(), &departures, |_, result| told(result));
                }
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
