//! One client's connection, from accept to close.
//!
//! | phase      | client has something  | client is gone     | server is ready       | server is gone         |
//! |------------|-----------------------|--------------------|-----------------------|------------------------|
//! | Announcing | looked at: as accepted | closed            | –                     | –                      |
//! | Peeking    | looked at: Connecting | closed             | –                     | –                      |
//! | Waiting    | noted, read later     | closed             | –                     | –                      |
//! | Shaking    | handshake; Connecting | closed             | –                     | –                      |
//! | Connecting | noted, read later     | server is reset    | Relaying, Securing    | next server, or closed |
//! | Securing   | noted, read later     | server is reset    | handshake; Relaying   | next server, or closed |
//! | Relaying   | moved to the server   | server is reset    | moved to the client   | Lingering, or reset    |
//! | Answering  | answered: Lingering   | closed             | –                     | –                      |
//! | Lingering  | ignored               | closed             | –                     | –                      |
//!
//! A client that speaks TLS is nobody before its handshake is done: nothing is noted of it, no server chosen. With TLS a
//! stream has come to its end only when the peer has said so; if it just stops, both sides are reset.
//!
//! Every way out leads through `Worker::close`, which gives back the slot, the place on the server and the
//! descriptors exactly once.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use crate::model::address::ClientAddress;
use crate::model::ids::ConnId;
use crate::model::listen::Protocol;
use crate::model::record::Ended;
use crate::model::settings::FastClose;
use crate::model::time::Moment;
use crate::policy::acl::Verdicts;
use crate::policy::http::Exchange;
use crate::policy::routes::ServerSet;
use crate::shared::clients::ClientRef;
use crate::shared::region::Region;
use crate::shared::slots::About;
use crate::shared::visits::{self, Reservation};
use crate::sys::poller::Readiness;
use crate::sys::reason::words;
use crate::sys::socket;

use super::deadlines::Link;
use super::endpoint::Endpoint;
use super::ends::{Asker, Past, log_last_requests, log_requests, tls_facts};
use super::event_loop::Worker;
use super::pair::{Pair, Side, Stage};
use super::proxy::Announced;
use super::relay::{Broken, Direction, DirectionState, Progress, ROUNDS};
use super::turn::{Observer, Turn};

slotmap::new_key_type! {
    /// Names a connection for as long as it exists; never another one after that.
    pub struct Key;
}

/// The classic's bits for the state column of reports.
pub mod state {
    /// A connect is under way.
    pub const CONNECTING: u32 = 1;
    /// Bytes flow.
    pub const CONNECTED: u32 = 2;
    /// The server has ended its stream.
    pub const SERVER_ENDED: u32 = 4;
    /// The client has ended its stream.
    pub const CLIENT_ENDED: u32 = 8;
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    pub(super) phase: Phase,
    /// Its slot in the connection table.
    pub(super) conn: ConnId,
    /// Who it is for. Kept here, because the slot of the client table may get another owner meanwhile.
    pub(super) client: ClientAddress,
    /// Its record in the client table, from its visit on.
    pub(super) visitor: Option<ClientRef>,
    pub(super) verdicts: Verdicts,
    /// What its header of the PROXY protocol has said, beside its client.
    pub(super) announced: Option<Box<Announced>>,
    /// The servers that it is for; none: all of them.
    pub(super) among: Option<Rc<ServerSet>>,
    /// Its place in the queue of its phase.
    pub(super) link: Link,
    /// With `-H`: what its bytes are taken for.
    pub(super) http: Option<Box<Exchange>>,
    /// How many servers were tried for it.
    pub(super) attempts: u16,
    /// When bytes could flow, if the log is to be told.
    pub(super) connected: Option<Moment>,
    /// The name in its ClientHello, if that is passed through and the log is to be told.
    pub(super) asked: Option<Box<str>>,
    /// Bytes that its client was sent from here, and not by a server.
    pub(super) own_bytes: u32,
    /// Its server's stream has come to its end, and its client's had not.
    pub(super) server_first: bool,
    /// It is in the queue of those whose client has begun a head.
    pub(super) heading: bool,
    /// The next bytes from the client begin a request, as far as the log is concerned.
    pub(super) turn: bool,
    /// It is on the list of those with more to do.
    pub(super) queued: bool,
}

// Nearly all connections are in the largest phase nearly all the time.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub(super) enum Phase {
    /// `proxy_accept`: waits for a whole header, which stays in the kernel until then. Its client is who sends that.
    Announcing { client: OwnedFd },
    /// `ssl_passthrough sni`: waits for the client's first bytes, which stay in the kernel.
    Peeking { client: Endpoint },
    /// The servers have changed, and its worker has not been told yet how: it is nobody's until then.
    Waiting { client: Endpoint },
    /// The client's handshake of TLS. It has no server yet.
    Shaking { client: Endpoint },
    /// There is a server for it: Connecting, Securing, Relaying.
    Paired { stage: Stage, pair: Pair },
    /// `dummy`: waits for a request.
    Answering { client: Endpoint },
    /// There is no server any more. The client still takes what was sent to it; what it sends is ignored.
    Lingering { client: Endpoint, ending: Ending, why: Ended, past: Option<Box<Past>> },
    /// Taken apart, for as long as it takes to put the next phase together.
    Between,
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// Both streams came to their end, or time is up.
    Closed,
    /// One side is broken: the other gets a reset, so that it does not take this for an end.
    Reset,
}

impl Connection {
    /// Of a client that has just been accepted.
    pub(super) fn new(conn: ConnId, client: ClientAddress, verdicts: Verdicts) -> Self {
        Connection {
            phase: Phase::Between,
            conn,
            client,
            visitor: None,
            verdicts,
            announced: None,
            among: None,
            link: Link::default(),
            http: None,
            attempts: 0,
            connected: None,
            asked: None,
            own_bytes: 0,
            server_first: false,
            heading: false,
            turn: true,
            queued: false,
        }
    }

    /// Shows it in its slot: the descriptors of the client and the server, -1 for none, the place on a server, the state.
    #[inline]
    pub(super) fn show(&self, region: &Region, fds: (i32, i32), place: Option<&Reservation>, state: u32) {
        let Connection { conn, visitor, attempts, .. } = *self;
        let target = place.map(|place| place.target);
        region.slots().describe(conn, visitor.map(|visitor| visitor.id), target, state, fds.0, fds.1);
        let client_tag = visitor.map_or(0, ClientRef::short_tag);
        let chosen = place.map(|place| place.chosen);
        region.slots().note(conn, About { protocol: Protocol::Tcp, chosen, attempts, client_tag });
    }
}

impl Worker<'_> {
    /// The poller has news of one of a connection's sockets.
    pub(super) fn advance(&mut self, key: Key, side: Side, readiness: Readiness) {
        if readiness.only_readable() && self.pass_on::<false>(key, side) {
            return;
        }
        if readiness.ended() && self.pass_on_to_the_end(key, side) {
            return;
        }
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match (&mut connection.phase, side) {
            (Phase::Announcing { .. }, Side::Client) => self.header_came(key, readiness),
            (Phase::Peeking { client }, Side::Client) => {
                client.note(readiness);
                match readiness.failed() {
                    true => self.close(key, Ending::Closed, Ended::ClientGone),
                    false => self.peek(key, readiness.ending()),
                }
            }
            (Phase::Waiting { client }, Side::Client) => {
                client.note(readiness);
                if readiness.failed() || client.flush().is_err() {
                    self.close(key, Ending::Closed, Ended::ClientGone);
                }
            }
            (Phase::Shaking { client }, Side::Client) => {
                client.note(readiness);
                self.shake_hands(key);
            }
            (Phase::Paired { stage: Stage::Relaying, pair }, side) => {
                pair.side(side).note(readiness);
                self.relay(key, None);
            }
            (Phase::Paired { pair, .. }, Side::Client) => {
                pair.client.note(readiness);
                if readiness.failed() || pair.client.flush().is_err() {
                    self.close(key, Ending::Reset, Ended::ClientGone);
                }
            }
            (Phase::Paired { stage: Stage::Connecting, .. }, Side::Server) => {
                self.connect_answered(key, readiness);
            }
            (Phase::Paired { stage: Stage::Securing, pair }, Side::Server) => {
                pair.server.note(readiness);
                self.secure(key);
            }
            (Phase::Answering { client }, Side::Client) => {
                client.note(readiness);
                self.answer(key);
            }
            (Phase::Lingering { client, .. }, Side::Client) => {
                client.note(readiness);
                self.linger_on(key);
            }
            (
                Phase::Announcing { .. }
                | Phase::Peeking { .. }
                | Phase::Waiting { .. }
                | Phase::Shaking { .. }
                | Phase::Answering { .. }
                | Phase::Lingering { .. },
                Side::Server,
            )
            | (Phase::Between, _) => {}
        }
    }

    /// There are bytes to read on that side, or the end of its stream, and no more is known: mostly all of them go on at
    /// once, and that was it. `ENDED`: the end has come as well, in order. False: nothing was done, this turn needs all that
    /// a turn can be.
    // Inlined with all that it calls, this is half of what a request costs in user space, and 40 instructions less.
    #[inline(always)]
    pub(super) fn pass_on<const ENDED: bool>(&mut self, key: Key, side: Side) -> bool {
        let Some(connection) = self.connections.get_mut(key) else {
            return true;
        };
        let Phase::Paired { stage: Stage::Relaying, pair } = &mut connection.phase else {
            return false;
        };
        let dumping = self.settings.debug >= 3;
        if connection.http.is_some() || dumping || self.log.wants_lines() {
            return false;
        }
        if ENDED && self.settings.tcp_fastclose != FastClose::Off {
            return false;
        }
        let moved = match pair.pass_on::<ENDED>(side, &mut self.buffers) {
            Ok(Some(moved)) => moved,
            Ok(None) => return false,
            Err(broken) => {
                self.relay(key, Some((side, broken)));
                return true;
            }
        };
        let (from, direction) = match side {
            Side::Client => (&pair.client, &pair.up),
            Side::Server => (&pair.server, &pair.down),
        };
        let has_ended = ENDED && direction.state() == DirectionState::Ended;
        let done = has_ended || moved > 0 && direction.is_clear() && !from.readable();
        if moved > 0 {
            let rest = direction.backlog() as u32;
            let (bytes_up, bytes_down, rest_up, rest_down) = match side {
                Side::Client => (moved, 0, rest, 0),
                Side::Server => (0, moved, 0, rest),
            };
            let Pair { up, down, reservation, .. } = pair;
            visits::count(self.region, self.id, reservation, bytes_up, bytes_down);
            connection.turn = side == Side::Server;
            self.region.slots().progress(connection.conn, up.bytes(), down.bytes(), rest_up, rest_down);
            if self.relaying.is_to_note(&connection.link, self.now) {
                self.relaying.touch(&mut self.connections, key, self.now);
            }
        }
        if has_ended {
            self.pass_end_on(key, side);
        } else if !done {
            self.relay(key, None);
        }
        true
    }

    #[inline(never)]
    fn pass_on_to_the_end(&mut self, key: Key, side: Side) -> bool {
        self.pass_on::<true>(key, side)
    }

    /// The stream of that side has ended, and all of it was passed on, without TLS: the other side is told, unless this was
    /// the second of the two.
    fn pass_end_on(&mut self, key: Key, side: Side) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Phase::Paired { pair, .. } = &mut connection.phase else {
            return;
        };
        if pair.client_ended() && pair.server_ended() {
            let why = who_closed(connection.server_first);
            return self.close(key, Ending::Closed, why);
        }
        match side {
            Side::Client => pair.server.finish(),
            Side::Server => pair.client.finish(),
        }
        connection.server_first = side == Side::Server;
        self.region.slots().set_state(connection.conn, pair.state());
    }

    /// Moves bytes both ways, as far as they go now. `broken`: what has turned out already of the direction that the side's
    /// bytes take.
    pub(super) fn relay(&mut self, key: Key, broken: Option<(Side, Broken)>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Phase::Paired { stage: Stage::Relaying, pair } = &mut connection.phase else {
            return;
        };
        let Pair { client, server, up, down, reservation } = pair;
        let wants_records = self.log.wants_records();
        if let Some(http) = connection.http.as_deref_mut() {
            http.keep_journal_if(wants_records, self.now);
        }
        let before = (up.bytes(), down.bytes());
        let was_refused = connection.http.as_ref().is_some_and(|http| http.refusal().is_some());
        let mut turn = Turn {
            client,
            server,
            up,
            down,
            http: connection.http.as_deref_mut(),
            turn: &mut connection.turn,
            buffers: &mut self.buffers,
            observer: Observer {
                log: &mut self.log,
                messages: &self.messages,
                dumping: self.settings.debug >= 3,
                ascii: self.settings.ascii,
                client: &connection.client,
                server: &reservation.address,
            },
        };
        let (moved_up, moved_down) = turn.run(broken);
        let http = connection.http.as_ref();
        let held_up = http.is_some_and(|http| !http.is_open());
        let refusal = http.and_then(|http| http.refusal());
        let (bytes_up, bytes_down) = (up.bytes() - before.0, down.bytes() - before.1);
        if bytes_up + bytes_down > 0 {
            visits::count(self.region, self.id, reservation, bytes_up, bytes_down);
        }
        connection.turn |= bytes_down > 0;
        if let Some(refusal) = refusal.filter(|_| !was_refused) {
            let who = (connection.conn, connection.client);
            Self::tell_refused(self.region, self.id, &self.messages, who, refusal);
        }
        if let Some(http) = connection.http.as_deref_mut().filter(|_| wants_records) {
            let over = http.take_over();
            if !over.is_empty() {
                let asker = Asker {
                    worker: self.id,
                    conn: connection.conn,
                    client: connection.client,
                    server: Some(reservation.server()),
                    tls: tls_facts(Some(client), None),
                };
                log_requests(&mut self.log, &asker, &over, self.now);
            }
        }
        let (up_progress, down_progress) = match (moved_up, moved_down) {
            (Err(Broken::Source(error)), _) | (_, Err(Broken::Sink(error))) => {
                let why = if is_reset(&error) { Ended::ClientReset } else { Ended::ClientTlsBroken };
                self.tell_broken(key, "client", &error);
                return self.close(key, Ending::Reset, why);
            }
            (_, Err(Broken::Source(error))) => {
                let why = if is_reset(&error) { Ended::ServerReset } else { Ended::ServerTlsBroken };
                self.tell_broken(key, "server", &error);
                return self.linger(key, Ending::Reset, why);
            }
            (Err(Broken::Sink(_)), Ok(down)) => (Progress::default(), down),
            (Ok(up), Ok(down)) => (up, down),
        };
        if up_progress.active || down_progress.active {
            let backlog_up = (up.backlog() + server.held()) as u32;
            let backlog_down = (down.backlog() + client.held()) as u32;
            self.region.slots().progress(connection.conn, up.bytes(), down.bytes(), backlog_up, backlog_down);
        }
        let ended = |direction: &Direction| direction.state() == DirectionState::Ended;
        if ended(down) && up.was_reset() {
            // Not an end: what was read there is all that was left.
            return self.linger(key, Ending::Reset, Ended::ServerReset);
        }
        let fast = self.settings.tcp_fastclose;
        // Only a response would open it again.
        let stuck = held_up && ended(down);
        let over = stuck
            || (ended(up) && ended(down))
            || (ended(up) && matches!(fast, FastClose::Down | FastClose::Both))
            || (ended(down) && matches!(fast, FastClose::Up | FastClose::Both));
        if over {
            // What tells an end with TLS may have to wait for room, as the bytes before it had to.
            let both = ended(up) && ended(down);
            let server_told = !ended(up) || server.declare_end(both);
            let client_told = !ended(down) || client.declare_end(both);
            if server_told && client_told {
                // A client with TLS answers when it is told, and an answer to a closed socket is a reset for it. So is
                // closing on what was not read.
                let answers = client.is_secured() && !ended(up);
                if !both {
                    // Closing on what was not read would lose what waits for the end to go with it.
                    server.release();
                    client.release();
                }
                let end = if answers || stuck { Self::linger } else { Self::close };
                let why = match (ended(up), ended(down)) {
                    (true, true) => who_closed(connection.server_first),
                    _ if stuck => Ended::ServerClosed,
                    _ => Ended::FastClose,
                };
                return end(self, key, Ending::Closed, why);
            }
        }
        if up_progress.ended || down_progress.ended {
            connection.server_first = ended(down) && (!ended(up) || connection.server_first);
            if up_progress.ended {
                server.finish();
            }
            if down_progress.ended {
                client.finish();
            }
            self.region.slots().set_state(connection.conn, pair.state());
        }
        let Pair { client, server, up, down, .. } = pair;
        // A side that is broken shows it when it is read, unless its direction has ended or is held up.
        let unread = held_up || up.state() != DirectionState::Flowing || up.backlog() + server.held() > 0;
        if client.failed() && unread {
            return self.close(key, Ending::Reset, Ended::ClientReset);
        }
        if ended(down) && (server.failed() || up.state() == DirectionState::Abandoned) {
            return self.linger(key, Ending::Closed, Ended::ServerClosed);
        }
        let untuned =
            client.is_hushed() != up.is_stopped(server) || server.is_hushed() != down.is_stopped(client);
        let active = up_progress.active || down_progress.active;
        if connection.http.is_some() {
            self.watch_head(key);
            if refusal.is_some() && self.answer_refused(key) {
                return;
            }
        }
        if untuned && self.tune(key).is_err() {
            return self.close(key, Ending::Reset, Ended::NoResources);
        }
        if active && !self.connections.get(key).is_some_and(|it| it.heading) {
            self.relaying.touch(&mut self.connections, key, self.now);
        }
        if up_progress.again || down_progress.again {
            self.queue_unfinished(key);
        }
    }

    fn tell_broken(&self, key: Key, side: &str, error: &std::io::Error) {
        if let Some(connection) = self.connections.get(key) {
            self.messages.debug(1, format_args!("connection {}: {side}: {}", connection.conn, words(error)));
        }
    }

    /// A connection that had more to do than its turn allowed has its next.
    pub(super) fn go_on(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.queued = false;
        match connection.phase {
            Phase::Paired { stage: Stage::Relaying, .. } => self.relay(key, None),
            Phase::Lingering { .. } => self.linger_on(key),
            Phase::Answering { .. } => self.answer(key),
            Phase::Announcing { .. }
            | Phase::Peeking { .. }
            | Phase::Waiting { .. }
            | Phase::Shaking { .. }
            | Phase::Paired { .. }
            | Phase::Between => {}
        }
    }

    /// The connection has more to do than its turn allowed.
    fn queue_unfinished(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && !std::mem::replace(&mut connection.queued, true)
        {
            self.unfinished.push_back(key);
        }
    }

    /// `dummy`: any request gets the same page, then the connection ends.
    pub(super) fn answer(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Phase::Answering { client } = &mut connection.phase else {
            return;
        };
        // An error here is found again by reading.
        let _ = client.flush();
        match client.receive(&mut self.buffers.scratch) {
            Ok(None) if client.has_paused() => self.queue_unfinished(key),
            Ok(None) => {}
            Ok(Some(count)) if count > 0 => {
                // A page of a few hundred bytes always fits into an empty socket.
                let sent = client.send(&self.page).unwrap_or(0);
                connection.own_bytes = sent as u32;
                self.linger(
                    key,
                    if sent == self.page.len() { Ending::Closed } else { Ending::Reset },
                    Ended::Dummy,
                );
            }
            Ok(Some(_)) | Err(_) => self.close(key, Ending::Closed, Ended::ClientGone),
        }
    }

    /// The server is gone (or was never there) and the client has been sent everything. Closing at once could
    /// take that away from it: a reset overtakes what is on its way, and closing on unread bytes is a reset. `why`: what the
    /// log is told when that is over, too.
    pub(super) fn linger(&mut self, key: Key, ending: Ending, why: Ended) {
        let mut past = None;
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if self.log.wants_records() {
            log_last_requests(&mut self.log, self.id, connection, why, self.now);
            if let Phase::Paired { stage: Stage::Relaying, pair } = &connection.phase {
                past = Some(Box::new(Past::of(pair)));
            }
        }
        let mut client = match std::mem::replace(&mut connection.phase, Phase::Between) {
            Phase::Paired { stage: Stage::Relaying, pair } => {
                let visitor = connection.visitor;
                let queue = if connection.heading { &mut self.heading } else { &mut self.relaying };
                queue.leave(&mut self.connections, key);
                // Without TLS, a stream that did not come to its end is one that was reset already.
                let to_server = if pair.server.is_secured() { ending } else { Ending::Closed };
                self.leave_server(visitor, pair, to_server)
            }
            Phase::Answering { client } => {
                self.answering.leave(&mut self.connections, key);
                client
            }
            other => {
                connection.phase = other;
                return;
            }
        };
        match ending {
            Ending::Closed => client.finish(),
            Ending::Reset => client.release(),
        }
        if let Some(connection) = self.connections.get_mut(key) {
            connection.phase = Phase::Lingering { client, ending, why, past };
        }
        self.lingering.join(&mut self.connections, key, self.now);
        self.describe(key);
        if self.tune(key).is_err() {
            return self.close(key, Ending::Reset, why);
        }
        self.linger_on(key);
    }

    /// Reads and ignores what the client sends; closes when it has closed, or is to be reset and has everything.
    fn linger_on(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let Phase::Lingering { client, ending, why, .. } = &mut connection.phase else {
            return;
        };
        let (ending, why) = (*ending, *why);
        let held = client.held() > 0;
        match client.flush() {
            Ok(true) if held => client.suspect(),
            Ok(_) => {}
            Err(_) => return self.close(key, ending, why),
        }
        for _ in 0..ROUNDS {
            let delivered = || client.held() == 0 && socket::unacknowledged(client.socket().as_fd()) == 0;
            if ending == Ending::Reset && delivered() {
                return self.close(key, ending, why);
            }
            if !client.readable() {
                return;
            }
            match client.receive(&mut self.buffers.scratch) {
                Ok(None) => {}
                Ok(Some(count)) if count > 0 => {}
                // Looked for again as soon as the client has everything.
                Ok(Some(_)) if client.held() > 0 => {}
                Ok(Some(_)) | Err(_) => return self.close(key, ending, why),
            }
            if client.has_paused() {
                break;
            }
        }
        self.queue_unfinished(key);
    }

    /// Time is up for a client whose server is gone.
    pub(super) fn stop_lingering(&mut self, key: Key) {
        if let Some(&Phase::Lingering { ending, why, .. }) = self.connections.get(key).map(|it| &it.phase) {
            self.close(key, ending, why);
        }
    }

    /// Ends a connection, whatever its phase: everything that it holds is given back, once, and the log is told why.
    pub(super) fn close(&mut self, key: Key, ending: Ending, why: Ended) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let queue = match connection.phase {
            Phase::Between => return,
            Phase::Announcing { .. } | Phase::Peeking { .. } | Phase::Waiting { .. } => &mut self.peeking,
            Phase::Shaking { .. } => &mut self.shaking,
            Phase::Paired { stage: Stage::Connecting | Stage::Securing, .. } => &mut self.connecting,
            Phase::Paired { stage: Stage::Relaying, .. } if connection.heading => &mut self.heading,
            Phase::Paired { stage: Stage::Relaying, .. } => &mut self.relaying,
            Phase::Answering { .. } => &mut self.answering,
            Phase::Lingering { .. } => &mut self.lingering,
        };
        queue.leave(&mut self.connections, key);
        let mut removed = self.connections.remove(key);
        if let Some(connection) = &mut removed {
            self.log_end(connection, why);
        }
        let Some(Connection { phase, visitor, conn, .. }) = removed else {
            return;
        };
        let client = match phase {
            Phase::Announcing { client } => Endpoint::client(client, false),
            Phase::Peeking { client }
            | Phase::Waiting { client }
            | Phase::Shaking { client }
            | Phase::Answering { client }
            | Phase::Lingering { client, .. } => client,
            Phase::Paired { stage: Stage::Relaying, pair } => self.leave_server(visitor, pair, ending),
            Phase::Paired { stage: Stage::Connecting | Stage::Securing, pair } => {
                let Pair { client, server, reservation, .. } = pair;
                match ending {
                    Ending::Closed => drop(server),
                    // It may have been connected to meanwhile.
                    Ending::Reset => server.cut(),
                }
                visits::give_back(self.region, self.id, reservation);
                self.region.workers().connecting(self.id, false);
                client
            }
            Phase::Between => return,
        };
        match ending {
            Ending::Closed => client.part(),
            Ending::Reset => client.cut(),
        }
        self.release_slot(conn);
    }

    /// Closes the server's side and accounts for what has passed; what has not is lost. The client's side is left.
    #[inline(always)]
    fn leave_server(&mut self, visitor: Option<ClientRef>, pair: Pair, ending: Ending) -> Endpoint {
        let Pair { client, server, mut up, mut down, reservation } = pair;
        up.discard(&mut self.buffers);
        down.discard(&mut self.buffers);
        if let Some(visitor) = visitor {
            self.region.clients().count(visitor, up.bytes(), down.bytes());
        }
        // Closed before its place is given back, so that the server never sees one connection too many.
        match ending {
            Ending::Closed => server.part(),
            Ending::Reset => server.cut(),
        }
        visits::give_back(self.region, self.id, reservation);
        client
    }

    /// The slot of a connection that is over (or never began) is free for another.
    pub(super) fn release_slot(&mut self, conn: ConnId) {
        self.region.slots().release(&mut self.finder, conn);
        self.region.workers().closed(self.id);
        self.ring_if_awaited();
    }

    /// Shows the connection's sockets and its server in its slot.
    pub(super) fn describe(&self, key: Key) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let (client, server, place, bits) = match &connection.phase {
            Phase::Announcing { client } => (client, -1, None, state::CONNECTING),
            Phase::Peeking { client } | Phase::Waiting { client } | Phase::Shaking { client } => {
                (client.socket(), -1, None, state::CONNECTING)
            }
            Phase::Paired { stage, pair: Pair { client, server, reservation, .. } } => {
                let bits = if *stage == Stage::Relaying { state::CONNECTED } else { state::CONNECTING };
                (client.socket(), server.socket().as_raw_fd(), Some(reservation), bits)
            }
            Phase::Answering { client } | Phase::Lingering { client, .. } => {
                (client.socket(), -1, None, state::CONNECTED)
            }
            Phase::Between => return,
        };
        connection.show(self.region, (client.as_raw_fd(), server), place, bits);
    }
}

/// Both streams have come to their end.
fn who_closed(server_first: bool) -> Ended {
    if server_first { Ended::ServerClosed } else { Ended::ClientClosed }
}

/// Is this an error of the connection itself, and not of what is spoken on it?
fn is_reset(error: &std::io::Error) -> bool {
    !matches!(error.kind(), std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::Other)
}

#[cfg(test)]
impl Connection {
    pub(super) fn for_tests(phase: Phase) -> Self {
        Connection { phase, ..Connection::new(ConnId(0), ClientAddress::Unix, Verdicts::ALL) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_takes_less_than_half_a_kilobyte() {
        assert!(size_of::<Connection>() < 512, "{} bytes", size_of::<Connection>());
    }
}
