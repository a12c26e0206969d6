//! One worker's loop: wait, act, and do what is due.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use slotmap::{Key as _, KeyData, SlotMap};

use crate::model::ids::{ConnId, WorkerId};
use crate::model::listen::Protocol;
use crate::model::record::Ended;
use crate::model::settings::Settings;
use crate::model::time::{Moment, Seconds};
use crate::model::tls::ServerIdentity;
use crate::policy::acl::AccessLists;
use crate::policy::routes::Routes;
use crate::report::log::{RequestLog, Sink};
use crate::report::messages::Messages;
use crate::shared::region::{Phase as Orders, Region};
use crate::shared::slots::SlotFinder;
use crate::shared::visits::Terms;
use crate::sys::clock;
use crate::sys::geoip;
use crate::sys::poller::{Events, Poller};
use crate::sys::privileges;
use crate::sys::reason::words;
use crate::sys::signal::Signals;
use crate::sys::socket;
use crate::sys::tls::{Contexts, Material, Outbox, Scope, TicketKeys};

use super::buffers::RelayBuffers;
use super::channel::{Change, Errand, Listening, NewSettings, Order, Report, WorkerEnd};
use super::connection::{Connection, Ending, Key, Phase};
use super::deadlines::Queue;
use super::listener::Acceptor;
use super::pair::{Pair, Side, Stage};
use super::udp::{EarKey, FlowKey, Udp};

/// What the poller's tokens mean. A connection's is its key, which is never this small.
pub(super) mod token {
    use crate::model::listen::MAX_LISTENERS;

    /// The first of the listeners for connections; the others follow in their order.
    pub(in crate::net) const LISTENER: u64 = 0x100;
    /// The last that there can be.
    pub(in crate::net) const LAST_LISTENER: u64 = LISTENER + MAX_LISTENERS as u64 - 1;
    pub(in crate::net) const CHANNEL: u64 = 2;
    pub(in crate::net) const SIGNALS: u64 = 3;
    pub(in crate::net) const BELL: u64 = 4;

    /// In a connection's token: the event is the server's. Keys have an index below 2^29 in their low half.
    pub(in crate::net) const SERVER: u64 = 1 << 31;
    /// With the key of a flow.
    pub(in crate::net) const FLOW: u64 = 1 << 30;
    /// With the key of a socket that datagrams come to.
    pub(in crate::net) const EAR: u64 = 1 << 29;
    const _: () = assert!((crate::model::ids::MAX_CONNECTIONS as u64) < EAR);

    /// It is a connection's: a key has its version, which is never 0, in its high half.
    pub(in crate::net) fn is_connection(token: u64) -> bool {
        token >> 32 != 0 && token & (FLOW | EAR) == 0
    }

    /// The listener at this position.
    pub(in crate::net) fn listener(number: usize) -> u64 {
        LISTENER + number as u64
    }
}

/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// The longest sleep: the heartbeat must be seen to beat.
const TICK: Duration = Duration::from_secs(1);

/// Between two messages about something that this worker lacks, in seconds.
pub(super) const TOLD_AGAIN: u64 = 60;

/// How long a client whose server is gone may take what was sent to it.
const LINGER: Seconds = Seconds(2);

/// Descriptors that stay free for what is opened now and then: a message from the master with settings, log, database of
/// countries and what was read for TLS, and such a database that was not there before. Beside them there is one for each
/// socket that clients come to, which the message may bring again.
pub const SPARE: u64 = 5;

/// All that a worker is born with.
#[derive(Debug)]
pub struct Inheritance<'a> {
    /// Its place.
    pub id: WorkerId,
    /// The shared region.
    pub region: &'a Region,
    /// The settings at its birth.
    pub settings: Settings,
    /// The sockets that clients come to.
    pub listeners: Vec<Listening>,
    /// The line to the master.
    pub channel: WorkerEnd,
    /// The bell that all workers share: rung when a slot or a place becomes free and somebody waits.
    pub room: OwnedFd,
    /// The request log.
    pub log: Option<Sink>,
    /// Where messages go.
    pub messages: Messages,
    /// The database of `geoip`.
    pub countries: Option<geoip::Database>,
    /// TLS under those settings.
    pub tls: Contexts,
    /// The keys for session tickets, for contexts that come later.
    pub tickets: Rc<TicketKeys>,
}

/// Why a loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// TERM.
    Stopped,
    /// QUIT, and the last connection is over.
    Drained,
    /// The master is gone.
    Orphaned,
}

/// A worker at work.
#[derive(Debug)]
pub struct Worker<'a> {
    pub(super) id: WorkerId,
    pub(super) region: &'a Region,
    pub(super) settings: Settings,
    pub(super) terms: Terms,
    pub(super) lists: AccessLists,
    /// Which servers a client is for; none: all of them.
    pub(super) routes: Option<Routes>,
    pub(super) countries: Option<geoip::Database>,
    pub(super) tls: Contexts,
    /// The servers that are spoken to with TLS, by their fingerprints.
    pub(super) identities: HashMap<u64, ServerIdentity>,
    pub(super) outbox: Outbox,
    pub(super) messages: Messages,
    pub(super) log: RequestLog,
    pub(super) poller: Poller,
    pub(super) acceptor: Acceptor,
    /// Datagrams.
    pub(super) udp: Udp,
    pub(super) room: OwnedFd,
    pub(super) finder: SlotFinder,
    pub(super) connections: SlotMap<Key, Connection>,
    pub(super) peeking: Queue,
    pub(super) shaking: Queue,
    pub(super) connecting: Queue,
    pub(super) relaying: Queue,
    /// Those of them whose client has begun the head of a request.
    pub(super) heading: Queue,
    pub(super) answering: Queue,
    pub(super) lingering: Queue,
    /// Connections that have more to do than one turn allowed.
    pub(super) unfinished: VecDeque<Key>,
    pub(super) buffers: RelayBuffers,
    /// The page of `dummy`.
    pub(super) page: Vec<u8>,
    /// The time of this loop turn.
    pub(super) now: Moment,
    /// Counts loop turns.
    pub(super) turn: u64,
    /// Descriptors were freed while accepting was paused for want of them.
    pub(super) freed: bool,
    /// Nobody's time is up before that.
    due: Moment,
    descriptors: Descriptors,
    tickets: Rc<TicketKeys>,
    channel: WorkerEnd,
    signals: Signals,
    /// Nobody new is served.
    pub(super) draining: bool,
    /// When it was told last that the log takes no more.
    log_told: Option<Moment>,
}

/// How many descriptors this worker may have, and how many it has, or may need, without connections and pipes.
#[derive(Debug)]
struct Descriptors {
    limit: u64,
    own: u64,
    /// How many of them are for sockets that clients come to.
    listeners: u64,
}

impl Descriptors {
    /// Clients come to so many sockets from now on.
    fn listen(&mut self, sockets: usize) {
        // The next message from the master may bring them once more.
        let listeners = 2 * sockets as u64;
        self.own = self.own - self.listeners + listeners;
        self.listeners = listeners;
    }
}

impl<'a> Worker<'a> {
    /// Sets a worker up. It accepts as soon as it runs. `signals` make it look at its orders, `limit` is its
    /// RLIMIT_NOFILE.
    ///
    /// # Errors
    /// No descriptors, no memory; with the line to the master, to say so.
    pub fn new(
        inheritance: Inheritance<'a>,
        signals: Signals,
        limit: u64,
    ) -> Result<Self, (WorkerEnd, io::Error)> {
        let poller = match poller(&inheritance, &signals) {
            Ok(poller) => poller,
            Err(error) => return Err((inheritance.channel, error)),
        };
        let Inheritance { id, region, settings, .. } = inheritance;
        let sockets = inheritance.listeners.len();
        let (streams, ears) = by_protocol(inheritance.listeners);
        let udp = match Udp::new(ears, &poller) {
            Ok(udp) => udp,
            Err(error) => return Err((inheritance.channel, error)),
        };
        let own = socket::count_descriptors() + SPARE;
        let mut descriptors = Descriptors { limit, own, listeners: sockets as u64 };
        descriptors.listen(sockets);
        let own = descriptors.own;
        let acceptor = Acceptor::new(streams);
        let page = page(&acceptor);
        let mut log = RequestLog::new(inheritance.log);
        log.set_format(settings.log_format);
        let spare = limit.saturating_sub(own + 2 * u64::from(settings.conn_max));
        Ok(Worker {
            id,
            region,
            terms: Terms::from(&settings),
            lists: AccessLists::compile(&settings.acls),
            routes: Routes::of(&settings),
            countries: inheritance.countries,
            tls: inheritance.tls,
            identities: identities(&settings),
            outbox: Outbox::default(),
            settings,
            messages: inheritance.messages,
            log,
            poller,
            acceptor,
            udp,
            room: inheritance.room,
            finder: SlotFinder::default(),
            connections: SlotMap::with_key(),
            peeking: Queue::default(),
            shaking: Queue::default(),
            connecting: Queue::default(),
            relaying: Queue::with_slack(),
            heading: Queue::default(),
            answering: Queue::default(),
            lingering: Queue::default(),
            unfinished: VecDeque::new(),
            // Connections come first: a pipe may only have what -x connections leave.
            buffers: RelayBuffers::new(usize::try_from(spare / 2).unwrap_or(usize::MAX)),
            page,
            now: clock::now(),
            turn: 0,
            freed: false,
            due: Moment::default(),
            descriptors,
            tickets: inheritance.tickets,
            channel: inheritance.channel,
            signals,
            draining: false,
            log_told: None,
        })
    }

    /// Where its messages go.
    pub fn messages(&self) -> &Messages {
        &self.messages
    }

    /// The line to the master.
    pub fn channel(&self) -> &WorkerEnd {
        &self.channel
    }

    /// Serves until told to end, or the master is gone.
    ///
    /// # Errors
    /// The poller's, which would be a defect.
    pub fn run(&mut self) -> io::Result<End> {
        let end = self.serve();
        self.log_the_rest();
        self.write_log();
        end
    }

    fn serve(&mut self) -> io::Result<End> {
        let mut events = Events::with_capacity(EVENTS);
        self.region.workers().set_settings(self.id, self.settings.generation);
        self.region.workers().beat(self.id, self.now);
        loop {
            self.poller.wait(&mut events, self.patience())?;
            self.now = clock::now();
            self.turn += 1;
            self.region.workers().beat(self.id, self.now);
            let mut news = false;
            for (token, readiness) in events.iter() {
                match token {
                    connection if token::is_connection(connection) => {
                        let which = if connection & token::SERVER == 0 { Side::Client } else { Side::Server };
                        let key = Key::from(KeyData::from_ffi(connection & !token::SERVER));
                        self.advance(key, which, readiness);
                    }
                    token::LISTENER..=token::LAST_LISTENER => {
                        self.acceptor.note_ready((token - token::LISTENER) as usize);
                    }
                    token::BELL => self.bell_rang(),
                    token::SIGNALS => drop(self.signals.take()),
                    token::CHANNEL => news = true,
                    ear if ear & token::EAR != 0 => {
                        self.ear_ready(EarKey::from(KeyData::from_ffi(ear & !token::EAR)));
                    }
                    flow => {
                        self.flow_ready(FlowKey::from(KeyData::from_ffi(flow & !token::FLOW)), readiness);
                    }
                }
            }
            self.accept_ready();
            self.send_replies();
            self.go_on_with_unfinished();
            if self.now >= self.due {
                self.end_overdue();
                self.due = self.next_due();
            }
            self.lose_overdue_datagrams();
            if self.freed || self.acceptor.patience().is_some() {
                self.retry_accept();
            }
            self.ask_again();
            self.write_log();
            if news && !self.take_orders() {
                return Ok(End::Orphaned);
            }
            if let Some(end) = self.end() {
                return Ok(end);
            }
        }
    }

    /// How long the loop may sleep.
    fn patience(&self) -> Duration {
        if !self.unfinished.is_empty() {
            return Duration::ZERO;
        }
        let waiting = self.waiting_datagrams_due().map_or(self.due, |due| due.min(self.due));
        let patience = Duration::from_micros(waiting.micros_since(self.now));
        self.acceptor.patience().map_or(patience, |others| patience.min(others))
    }

    /// When somebody's time may be up: the first deadline of those who wait for something now, and no later than a tick
    /// from now, because whoever comes has a second at least. So turns that end nobody need not look at each queue.
    fn next_due(&self) -> Moment {
        let deadlines = [
            self.peeking.next_deadline(&self.connections, Some(self.settings.tls.handshake_timeout)),
            self.shaking.next_deadline(&self.connections, Some(self.settings.tls.handshake_timeout)),
            self.connecting.next_deadline(&self.connections, Some(self.settings.timeout)),
            self.relaying.next_deadline(&self.connections, self.idle_timeout()),
            self.heading.next_deadline(&self.connections, Some(self.settings.http.head_timeout)),
            self.answering.next_deadline(&self.connections, Some(self.answer_timeout())),
            self.lingering.next_deadline(&self.connections, Some(LINGER)),
            self.flows_due(),
        ];
        let tick = self.now.plus_micros(TICK.as_micros() as u64);
        deadlines.into_iter().flatten().fold(tick, Moment::min)
    }

    /// How long connections may be idle; None: for ever.
    pub(super) fn idle_timeout(&self) -> Option<Seconds> {
        Some(self.settings.idle_timeout).filter(|idle| idle.0 > 0)
    }

    /// How long a client of `dummy` may take for its request.
    fn answer_timeout(&self) -> Seconds {
        self.idle_timeout().map_or(self.settings.timeout, |idle| idle.min(self.settings.timeout))
    }

    /// Ends what has taken too long.
    fn end_overdue(&mut self) {
        let (connect, idle, answer) =
            (Some(self.settings.timeout), self.idle_timeout(), Some(self.answer_timeout()));
        self.end_overdue_peeking();
        let handshake = self.settings.tls.handshake_timeout;
        while let Some(key) = self.shaking.overdue(&self.connections, Some(handshake), self.now) {
            let reason = format!("not done within {handshake} s");
            self.handshake_failed(key, &reason, Ended::HandshakeTimeout);
        }
        while let Some(key) = self.connecting.overdue(&self.connections, connect, self.now) {
            self.connect_failed(key, &io::ErrorKind::TimedOut.into());
        }
        while let Some(key) = self.relaying.overdue(&self.connections, idle, self.now) {
            self.close(key, Ending::Closed, Ended::IdleTimeout);
        }
        let head = Some(self.settings.http.head_timeout);
        while let Some(key) = self.heading.overdue(&self.connections, head, self.now) {
            self.head_overdue(key);
        }
        while let Some(key) = self.answering.overdue(&self.connections, answer, self.now) {
            self.close(key, Ending::Closed, Ended::IdleTimeout);
        }
        while let Some(key) = self.lingering.overdue(&self.connections, Some(LINGER), self.now) {
            self.stop_lingering(key);
        }
        self.end_overdue_flows();
    }

    /// Gives those their next turn that had more to do; once each, so that the others get theirs.
    fn go_on_with_unfinished(&mut self) {
        for _ in 0..self.unfinished.len() {
            let Some(key) = self.unfinished.pop_front() else {
                return;
            };
            self.go_on(key);
        }
    }

    pub(super) fn write_log(&mut self) {
        let lost = self.log.flush();
        let told = self.log_told.is_some_and(|told| self.now.seconds_since(told) < TOLD_AGAIN);
        if lost > 0 && !told {
            self.log_told = Some(self.now);
            let all = self.log.lost();
            self.messages.note(format_args!(
                "the log takes no more: {all} lines lost since the start; told again after a minute"
            ));
        }
    }

    /// Reads what the master sent; false: it is gone, or this worker cannot follow it any more and is better replaced.
    fn take_orders(&mut self) -> bool {
        loop {
            match self.channel.receive() {
                Ok(Some(Order { number, what })) => {
                    match what {
                        Errand::Use(new) => {
                            if let Err(error) = self.take_over(*new) {
                                self.messages.error(format_args!(
                                    "worker {}: cannot use the new settings: {}",
                                    self.id,
                                    words(&error)
                                ));
                                return false;
                            }
                        }
                        Errand::Close(conn, uses) => self.close_by_order(conn, uses),
                        Errand::Retire => self.retire(),
                    }
                    // If this does not get through, a later one says so too.
                    let _ = self.channel.report(&Report::Done(number));
                }
                Ok(None) => return true,
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return false,
                Err(error) => {
                    self.messages.error(format_args!(
                        "worker {}: order not understood: {}",
                        self.id,
                        words(&error)
                    ));
                    return false;
                }
            }
        }
    }

    /// Is this worker to end? Begins to drain when told so.
    fn end(&mut self) -> Option<End> {
        match self.region.phase() {
            Orders::Serving if !self.draining => None,
            Orders::Stopping => Some(End::Stopped),
            Orders::Serving | Orders::Draining => {
                self.drain();
                self.close_left_ears();
                (self.connections.is_empty() && self.udp.len() == 0).then_some(End::Drained)
            }
        }
    }

    /// Accepts who waits already, then nobody any more. Flows that exist go on.
    fn drain(&mut self) {
        if !std::mem::replace(&mut self.draining, true) {
            self.region.workers().set_draining(self.id);
            self.stop_accepting();
            self.lose_waiting_datagrams();
        }
    }

    /// There are to be fewer workers: this one ends with its last connection. The others have the listeners.
    fn retire(&mut self) {
        self.region.workers().set_draining(self.id);
        if !std::mem::replace(&mut self.draining, true) {
            self.leave_listeners();
            self.leave_ears();
            self.lose_waiting_datagrams();
        }
    }

    /// The administrator wants this connection ended, unless it has been already and the slot is another's.
    fn close_by_order(&mut self, conn: ConnId, uses: u32) {
        if self.region.slots().holder(conn) != Some((self.id, uses)) {
            return;
        }
        let found = self.connections.iter().find(|(_, connection)| connection.conn == conn);
        if let Some((key, _)) = found {
            self.close(key, Ending::Closed, Ended::ClosedByCommand);
        } else if let Some(key) = self.flow_in(conn) {
            self.end_flow(key, Ended::ClosedByCommand);
        }
    }

    /// New settings apply from the next connection on, timeouts at once. An error if the database of countries cannot
    /// be mapped, without which access lists would let the wrong clients in, or if TLS cannot be as it is to be.
    fn take_over(&mut self, new: NewSettings) -> io::Result<()> {
        if let Change::Replace(countries) = new.countries {
            self.countries = countries.map(geoip::Database::from_fd).transpose()?;
        }
        match new.tls {
            Change::Keep => {}
            Change::Replace(None) => self.tls = Contexts::default(),
            Change::Replace(Some(packed)) => {
                let material = Material::unpack(packed.as_fd())?;
                let contexts = Contexts::build(&new.settings, &material, &self.tickets, Scope::AsNeeded);
                self.tls = contexts.map_err(io::Error::other)?;
            }
        }
        let lists = std::mem::replace(&mut self.settings, new.settings).acls;
        self.identities = identities(&self.settings);
        self.terms = Terms::from(&self.settings);
        self.routes = Routes::of(&self.settings);
        match new.lists {
            true => self.lists = AccessLists::compile(&self.settings.acls),
            false => self.settings.acls = lists,
        }
        // More connections: the master has raised the limit. This asks for it.
        if let Ok(limit) = privileges::raise_descriptor_limit(None, 0) {
            self.descriptors.limit = limit;
        }
        self.messages.set_debug(self.settings.debug);
        if let Change::Replace(sink) = new.log {
            self.log.replace(sink);
        }
        self.log.set_format(self.settings.log_format);
        if let Some(listeners) = new.listeners.filter(|_| !self.draining) {
            self.descriptors.listen(listeners.len());
            let (streams, ears) = by_protocol(listeners);
            self.replace_ears(ears);
            self.replace_listeners(streams);
            self.page = page(&self.acceptor);
        }
        self.region.workers().set_settings(self.id, self.settings.generation);
        // Timeouts may be others now.
        self.due = self.now;
        self.call_the_waiting();
        // What accepting was paused for may be there now.
        self.retry_accept();
        Ok(())
    }

    /// Registers a client's socket, before there is a server for it.
    pub(super) fn watch_client(&self, key: Key) -> io::Result<()> {
        let client = match self.connections.get(key).map(|it| &it.phase) {
            Some(Phase::Announcing { client }) => client,
            Some(
                Phase::Peeking { client }
                | Phase::Waiting { client }
                | Phase::Shaking { client }
                | Phase::Answering { client },
            ) => client.socket(),
            Some(Phase::Paired { .. } | Phase::Lingering { .. } | Phase::Between) | None => return Ok(()),
        };
        self.poller.add_stream(client.as_fd(), key.data().as_ffi())
    }

    /// What a connection's sockets have to be read is to be reported where it will be read.
    pub(super) fn tune(&mut self, key: Key) -> io::Result<()> {
        let name = key.data().as_ffi();
        match self.connections.get_mut(key).map(|it| &mut it.phase) {
            Some(Phase::Paired { stage: Stage::Relaying, pair }) => {
                let Pair { client, server, up, down, .. } = pair;
                let (up_stopped, down_stopped) = (up.is_stopped(server), down.is_stopped(client));
                client.hush(&self.poller, name, up_stopped)?;
                server.hush(&self.poller, name | token::SERVER, down_stopped)
            }
            Some(Phase::Lingering { client, .. }) => client.hush(&self.poller, name, false),
            Some(_) | None => Ok(()),
        }
    }

    /// Is there room for one more connection's two descriptors?
    pub(super) fn descriptors_left(&self) -> bool {
        self.descriptors_used() + 2 <= self.descriptors.limit
    }

    /// Is there room for one more flow's?
    pub(super) fn flow_descriptor_left(&self) -> bool {
        self.descriptors_used() < self.descriptors.limit
    }

    fn descriptors_used(&self) -> u64 {
        let in_pairs = self.connections.len() + self.buffers.pipes.open();
        self.descriptors.own + (2 * in_pairs + self.udp.len()) as u64
    }
}

/// The sockets for connections, and those for datagrams.
fn by_protocol(listeners: Vec<Listening>) -> (Vec<OwnedFd>, Vec<OwnedFd>) {
    let (streams, ears): (Vec<_>, Vec<_>) =
        listeners.into_iter().partition(|listening| listening.protocol == Protocol::Tcp);
    let sockets = |of: Vec<Listening>| of.into_iter().map(|listening| listening.socket).collect();
    (sockets(streams), sockets(ears))
}

/// The servers that are spoken to with TLS.
fn identities(settings: &Settings) -> HashMap<u64, ServerIdentity> {
    let identities = settings.servers.iter().filter_map(|spec| spec.identity());
    identities.map(|identity| (identity.fingerprint(), identity)).collect()
}

/// Everything registered that a worker waits for.
fn poller(inheritance: &Inheritance<'_>, signals: &Signals) -> io::Result<Poller> {
    let poller = Poller::new()?;
    poller.add_source(inheritance.channel.as_fd(), token::CHANNEL)?;
    poller.add_source(signals.as_fd(), token::SIGNALS)?;
    poller.add_bell(inheritance.room.as_fd(), token::BELL)?;
    let streams = inheritance.listeners.iter().filter(|it| it.protocol == Protocol::Tcp);
    for (number, listening) in streams.enumerate() {
        poller.add_listener(listening.socket.as_fd(), token::listener(number))?;
    }
    Ok(poller)
}

/// The page of `dummy`: says who answers, by the address of the first listener.
fn page(acceptor: &Acceptor) -> Vec<u8> {
    let address = acceptor.first().and_then(|listener| socket::local_address(listener).ok());
    let address = address.map_or_else(String::new, |address| address.to_string());
    let body = format!("pen dummy on {address}\n");
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
