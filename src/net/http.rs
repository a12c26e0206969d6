//! `-H`: requests get their headers on the way, and those that are none are answered here.

use std::io;

use crate::model::address::ClientAddress;
use crate::model::http::HttpSettings;
use crate::model::ids::{ConnId, WorkerId};
use crate::policy::http::exchange::Turn;
use crate::policy::http::head::HeadRules;
use crate::policy::http::{Exchange, Outgoing, Refusal};
use crate::report::messages::Messages;
use crate::shared::region::Region;
use crate::shared::workers;

use super::connection::{Ending, Key, Phase};
use super::event_loop::Worker;
use super::pair::{Pair, Stage};
use super::relay::Filter;
use super::turn::Observer;

/// From the client to the server.
pub(super) struct Requests<'a, 'b> {
    pub(super) exchange: &'a mut Exchange,
    /// The next bytes of what is not HTTP begin a turn.
    pub(super) turn: &'a mut bool,
    pub(super) observer: &'a mut Observer<'b>,
}

impl Filter for Requests<'_, '_> {
    fn is_open(&self) -> bool {
        self.exchange.is_open()
    }

    fn unseen(&self) -> u64 {
        let begins = *self.turn && self.exchange.is_foreign();
        let wanted = self.observer.dumping || begins && self.observer.is_logging();
        if wanted { 0 } else { self.exchange.requests_unseen() }
    }

    fn skip(&mut self, bytes: u64) {
        self.exchange.skip_requests(bytes);
    }

    fn pass(&mut self, chunk: &[u8], out: &mut Outgoing) -> bool {
        self.observer.show(chunk);
        let begins = std::mem::take(self.turn);
        if self.exchange.is_foreign() {
            if begins {
                self.observer.record(chunk);
            }
            return true;
        }
        self.exchange.request_bytes(chunk, out, &mut |begin| self.observer.record(begin));
        false
    }

    fn resume(&mut self, out: &mut Outgoing) -> bool {
        self.exchange.resume(out, &mut |begin| self.observer.record(begin))
    }

    fn end(&mut self, out: &mut Outgoing) {
        self.exchange.end_of_requests(out, &mut |begin| self.observer.record(begin));
    }
}

/// From the server to the client.
pub(super) struct Responses<'a, 'b> {
    pub(super) exchange: &'a mut Exchange,
    pub(super) observer: &'a Observer<'b>,
    /// The server was reset: the end of what it has sent is no end of a response.
    pub(super) reset: bool,
}

impl Filter for Responses<'_, '_> {
    fn is_open(&self) -> bool {
        true
    }

    fn unseen(&self) -> u64 {
        if self.observer.dumping { 0 } else { self.exchange.responses_unseen() }
    }

    fn skip(&mut self, bytes: u64) {
        self.exchange.skip_responses(bytes);
    }

    fn pass(&mut self, chunk: &[u8], _: &mut Outgoing) -> bool {
        self.observer.show(chunk);
        self.exchange.response_bytes(chunk);
        true
    }

    fn resume(&mut self, _: &mut Outgoing) -> bool {
        false
    }

    fn end(&mut self, _: &mut Outgoing) {
        if !self.reset {
            self.exchange.end_of_responses();
        }
    }
}

impl Refusal {
    /// What the client gets.
    fn response(self) -> &'static [u8] {
        match self {
            Refusal::Bad(_) => {
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 16\r\nConnection: close\r\n\r\n\
                  400 Bad Request\n"
            }
            Refusal::Slow => {
                b"HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain\r\nContent-Length: 20\r\nConnection: close\
                  \r\n\r\n408 Request Timeout\n"
            }
        }
    }

    fn status(self) -> u16 {
        match self {
            Refusal::Bad(_) => 400,
            Refusal::Slow => 408,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Refusal::Bad(reason) => reason,
            Refusal::Slow => "the head took too long",
        }
    }
}

/// What a client's bytes are taken for under these settings; none: just bytes. `secured`: it has come by TLS.
pub(super) fn exchange(
    settings: &HttpSettings,
    client: &ClientAddress,
    secured: bool,
) -> Option<Box<Exchange>> {
    let rules = || HeadRules::new(settings, client, secured);
    settings.headers.then(|| Box::new(Exchange::new(rules(), settings.head_max)))
}

impl Worker<'_> {
    /// A head that has begun has its own time from here on; none that has ended, and none while it is not the client that
    /// keeps it waiting: its rest may be there already, and is not read before the server has taken what came before.
    pub(super) fn watch_head(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let (Phase::Paired { stage: Stage::Relaying, pair }, Some(http)) =
            (&connection.phase, &mut connection.http)
        else {
            return;
        };
        let Pair { server, up, .. } = pair;
        let another = http.head_has_gone();
        let pending = http.has_head_pending() && http.is_open() && up.backlog() + server.held() == 0;
        let was_pending = std::mem::replace(&mut connection.heading, pending);
        if pending && was_pending && another {
            return self.heading.touch(&mut self.connections, key, self.now);
        }
        if pending == was_pending {
            return;
        }
        let (from, to) = match pending {
            true => (&mut self.relaying, &mut self.heading),
            false => (&mut self.heading, &mut self.relaying),
        };
        from.leave(&mut self.connections, key);
        to.join(&mut self.connections, key, self.now);
    }

    /// The client's head has taken too long.
    pub(super) fn head_overdue(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(key)
            && let Some(http) = &mut connection.http
        {
            http.keep_journal_if(self.log.wants_records(), self.now);
            http.refuse(Refusal::Slow);
            let who = (connection.conn, connection.client);
            Self::tell_refused(self.region, self.id, &self.messages, who, Refusal::Slow);
        }
        self.watch_head(key);
        self.relay(key, None);
    }

    /// A request has just been refused: it is counted, and told.
    pub(super) fn tell_refused(
        region: &Region,
        id: WorkerId,
        messages: &Messages,
        connection: (ConnId, ClientAddress),
        refusal: Refusal,
    ) {
        let why = match refusal {
            Refusal::Bad(_) => workers::Refusal::Bad,
            Refusal::Slow => workers::Refusal::Slow,
        };
        region.workers().refused(id, why);
        let ((conn, client), reason) = (connection, refusal.reason());
        messages.debug(1, format_args!("connection {conn}: client {client}: request refused: {reason}"));
    }

    /// Answers a request that was refused, as soon as its turn has come: true if the connection is over by that.
    pub(super) fn answer_refused(&mut self, key: Key) -> bool {
        let Some(connection) = self.connections.get_mut(key) else {
            return true;
        };
        let (Phase::Paired { stage: Stage::Relaying, pair }, Some(http)) =
            (&mut connection.phase, &mut connection.http)
        else {
            return false;
        };
        let Pair { client, down, .. } = pair;
        let Some(why) = http.refusal().map(Refusal::ended) else {
            return false;
        };
        if down.backlog() + client.held() > 0 {
            return false;
        }
        let sent: io::Result<bool> = match http.turn() {
            Turn::NotYet => return false,
            Turn::Close => Ok(true),
            Turn::Answer(refusal) => {
                let response = refusal.response();
                let sent = client.send(response);
                connection.own_bytes = *sent.as_ref().unwrap_or(&0) as u32;
                http.answered_here(refusal.status(), connection.own_bytes.into());
                sent.map(|sent| sent == response.len())
            }
        };
        self.linger(key, if matches!(sent, Ok(true)) { Ending::Closed } else { Ending::Reset }, why);
        true
    }
}
