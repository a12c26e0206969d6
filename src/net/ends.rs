//! What the log is told of connections, flows and requests that are over: `log_format json`.
//!
//! A connection is told of by whoever takes it out of the table, a flow by whoever parts with its client, and what is left
//! when a worker ends by that: each once. What a dead worker has left is told by the master, from the slots.

use crate::model::address::{ClientAddress, SocketAddress};
use crate::model::ids::{ConnId, Target, WorkerId};
use crate::model::listen::Protocol;
use crate::model::record::{Chosen, ChosenServer, ConnectionRecord, Ended, RequestRecord, TlsFacts};
use crate::model::time::Moment;
use crate::policy::http::journal::Told;
use crate::report::log::RequestLog;
use crate::shared::visits::Reservation;
use crate::sys::clock;

use super::connection::{Connection, Phase};
use super::endpoint::Endpoint;
use super::event_loop::Worker;
use super::pair::Pair;

/// What is told of a connection that has no server any more.
#[derive(Debug)]
pub(super) struct Past {
    target: Target,
    address: SocketAddress,
    chosen: Chosen,
    up: u64,
    down: u64,
}

impl Past {
    pub(super) fn of(pair: &Pair) -> Self {
        let Pair { up, down, reservation, .. } = pair;
        let Reservation { target, chosen, .. } = *reservation;
        let address = reservation.address.clone();
        Past { target, address, chosen, up: up.passed(), down: down.passed() }
    }
}

impl Reservation {
    /// The server, as the log tells of it.
    pub(super) fn server(&self) -> ChosenServer<'_> {
        ChosenServer { target: self.target, address: &self.address, chosen: self.chosen }
    }
}

impl Connection {
    /// Its server, if it has or had one, and what has gone there and back.
    fn server(&self) -> Option<(ChosenServer<'_>, u64, u64)> {
        match &self.phase {
            Phase::Paired { pair: Pair { reservation, up, down, .. }, .. } => {
                Some((reservation.server(), up.passed(), down.passed()))
            }
            Phase::Lingering { past, .. } => {
                let Past { target, address, chosen, up, down } = past.as_deref()?;
                Some((ChosenServer { target: *target, address, chosen: *chosen }, *up, *down))
            }
            Phase::Announcing { .. }
            | Phase::Peeking { .. }
            | Phase::Waiting { .. }
            | Phase::Shaking { .. }
            | Phase::Answering { .. }
            | Phase::Between => None,
        }
    }

    /// The side towards the client, if that has begun to speak for itself.
    fn client_side(&self) -> Option<&Endpoint> {
        match &self.phase {
            Phase::Peeking { client }
            | Phase::Waiting { client }
            | Phase::Shaking { client }
            | Phase::Paired { pair: Pair { client, .. }, .. }
            | Phase::Answering { client }
            | Phase::Lingering { client, .. } => Some(client),
            Phase::Announcing { .. } | Phase::Between => None,
        }
    }

    /// Why it is over: what had ended it already, if it only lingers.
    fn reason(&self, why: Ended) -> Ended {
        match self.phase {
            Phase::Lingering { why, .. } => why,
            _ => why,
        }
    }
}

/// What is known of a client's TLS. `asked`: the name in a ClientHello that was passed through.
pub(super) fn tls_facts<'a>(client: Option<&'a Endpoint>, asked: Option<&'a str>) -> Option<TlsFacts<'a>> {
    match client.and_then(Endpoint::secured) {
        Some(secured) => {
            let version = secured.is_established().then(|| secured.version());
            let name = secured.server_name();
            (version.is_some() || name.is_some()).then_some(TlsFacts { version, name })
        }
        None => asked.map(|name| TlsFacts { version: None, name: Some(name) }),
    }
}

/// Whose requests are told of.
pub(super) struct Asker<'a> {
    pub(super) worker: WorkerId,
    pub(super) conn: ConnId,
    pub(super) client: ClientAddress,
    pub(super) server: Option<ChosenServer<'a>>,
    pub(super) tls: Option<TlsFacts<'a>>,
}

/// Tells of requests that are over.
pub(super) fn log_requests(log: &mut RequestLog, asker: &Asker<'_>, over: &[Told], now: Moment) {
    let wall = clock::wall_micros();
    for told in over {
        log.request(&RequestRecord {
            worker: asker.worker,
            conn: asker.conn,
            client: asker.client,
            server: asker.server,
            request: &told.text,
            status: told.status,
            began: wall.before(now.micros_since(told.began)),
            duration: told.ended_at.micros_since(told.began),
            up: told.up,
            down: told.down,
            ended: told.ended,
            tls: asker.tls,
        });
    }
}

/// The requests of a connection that are not over are so with it, or when it loses its server.
pub(super) fn log_last_requests(
    log: &mut RequestLog,
    worker: WorkerId,
    connection: &mut Connection,
    why: Ended,
    now: Moment,
) {
    let Some(mut http) = connection.http.take() else {
        return;
    };
    http.keep_journal(now);
    http.end(why);
    let over = http.take_over();
    if !over.is_empty() {
        let asker = Asker {
            worker,
            conn: connection.conn,
            client: connection.client,
            server: connection.server().map(|(server, _, _)| server),
            tls: tls_facts(connection.client_side(), None),
        };
        log_requests(log, &asker, &over, now);
    }
}

impl Worker<'_> {
    /// The log is to be told of a connection that has just been taken out of the table, or of one that goes with its
    /// worker.
    pub(super) fn log_end(&mut self, connection: &mut Connection, why: Ended) {
        if !self.log.wants_records() {
            return;
        }
        let why = connection.reason(why);
        log_last_requests(&mut self.log, self.id, connection, why, self.now);
        let (server, up, down) = match connection.server() {
            Some((server, up, down)) => (Some(server), up, down),
            None => (None, 0, 0),
        };
        let down = down + u64::from(connection.own_bytes);
        let tls = tls_facts(connection.client_side(), connection.asked.as_deref());
        let record = self.record_of(connection, why);
        self.log.connection(&ConnectionRecord { server, up, down, tls, ..record });
    }

    /// The same of one that nobody takes: its phase is `Between`.
    pub(super) fn log_turned_away(&mut self, connection: &Connection, client: Option<&Endpoint>, why: Ended) {
        if self.log.wants_records() {
            let tls = tls_facts(client, connection.asked.as_deref());
            let record = self.record_of(connection, why);
            self.log.connection(&ConnectionRecord { tls, ..record });
        }
    }

    /// Without what its phase says.
    fn record_of(&self, connection: &Connection, ended: Ended) -> ConnectionRecord<'static> {
        let &Connection { conn, client, attempts, connected, .. } = connection;
        let record = self.record(Protocol::Tcp, conn, client, ended);
        ConnectionRecord { attempts: attempts.into(), connected_after: self.after(conn, connected), ..record }
    }

    /// Of a connection or a flow that is over now.
    pub(super) fn record(
        &self,
        protocol: Protocol,
        conn: ConnId,
        client: ClientAddress,
        ended: Ended,
    ) -> ConnectionRecord<'static> {
        let duration = self.now.micros_since(self.region.slots().started(conn));
        ConnectionRecord {
            protocol,
            worker: self.id,
            conn,
            client: Some(client),
            server: None,
            attempts: 0,
            began: clock::wall_micros().before(duration),
            connected_after: None,
            duration,
            up: 0,
            down: 0,
            datagrams: None,
            ended,
            tls: None,
        }
    }

    /// How long after its beginning that was, if it was.
    pub(super) fn after(&self, conn: ConnId, moment: Option<Moment>) -> Option<u64> {
        moment.map(|moment| moment.micros_since(self.region.slots().started(conn)))
    }

    /// This worker ends, and with it whatever is not over. Their slots are the master's to free.
    pub(super) fn log_the_rest(&mut self) {
        if !self.log.wants_records() {
            return;
        }
        let mut told = Vec::new();
        let mut connections = std::mem::take(&mut self.connections);
        for connection in connections.values_mut() {
            self.log_end(connection, Ended::Shutdown);
            told.push(connection.conn);
        }
        // Still open: whatever the system makes of that when the process ends is as it would be without a log.
        self.connections = connections;
        told.extend(self.log_all_flows(Ended::Shutdown));
        self.write_log();
        for conn in told {
            self.region.slots().set_logged(conn);
        }
    }
}
