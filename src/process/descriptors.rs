//! How many descriptors a worker may have, and how many connections that is enough for.

use std::io;

use crate::model::ids::MAX_WORKERS;
use crate::model::settings::{Launch, Settings};
use crate::net::buffers::MOST_PIPES;
use crate::net::control::MOST_SESSIONS;
use crate::net::event_loop::SPARE;
use crate::sys::privileges;

/// What a worker opens for itself: the shared region, its signals, the bell, its poller, its line to the master.
const WORKERS_OWN: u64 = 5;

/// What pipes for large flows may take beside all connections. They do without if it is not granted.
const FOR_PIPES: u64 = 2 * MOST_PIPES as u64;

/// What the master has: a line to each worker, the sessions of the control port, and a few of its own.
const FOR_THE_MASTER: u64 = MAX_WORKERS as u64 + MOST_SESSIONS as u64 + 32;

/// The limit of each process of pen, and what a worker needs of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    limit: u64,
    own: u64,
    /// How many of its own are for sockets that clients come to.
    listeners: u64,
}

impl Descriptors {
    /// Raises the limit of this process to what the settings need, as far as that is permitted. `open`: how many are
    /// open when all processes still are one, the `sockets` that clients come to with them.
    ///
    /// # Errors
    ///
    /// The limit cannot be learnt.
    pub fn provide(open: u64, sockets: usize, launch: &Launch, settings: &Settings) -> io::Result<Self> {
        let (log, syslog) = (settings.log.is_some(), !launch.foreground);
        let own = open + WORKERS_OWN + u64::from(log) + u64::from(syslog) + SPARE;
        let mut provided = Descriptors { limit: 0, own, listeners: sockets as u64 };
        provided.listen(sockets);
        provided.raise(settings.conn_max)?;
        Ok(provided)
    }

    /// Clients come to so many sockets from now on. The limit is not raised for that yet.
    pub fn listen(&mut self, sockets: usize) {
        // All of them may be one worker's, and the message that gives it some may bring others once more.
        let listeners = 2 * sockets as u64;
        self.own = self.own - self.listeners + listeners;
        self.listeners = listeners;
    }

    /// Raises the limit for that many connections. Says whether it was raised; then it is to be passed on to the
    /// processes that run.
    ///
    /// # Errors
    ///
    /// The limit cannot be learnt.
    pub fn raise(&mut self, conn_max: u32) -> io::Result<bool> {
        let wanted = (self.own + 2 * u64::from(conn_max) + FOR_PIPES).max(FOR_THE_MASTER + self.listeners);
        if wanted <= self.limit {
            return Ok(false);
        }
        let before = std::mem::replace(&mut self.limit, privileges::raise_descriptor_limit(None, wanted)?);
        Ok(self.limit > before)
    }

    /// The limit in force.
    pub fn limit(self) -> u64 {
        self.limit
    }

    /// How many a worker needs for that many connections, all of them its own.
    pub fn needed(self, conn_max: u32) -> u64 {
        self.own + 2 * u64::from(conn_max)
    }

    /// How many connections fit into one worker.
    fn room(self) -> u64 {
        self.limit.saturating_sub(self.own) / 2
    }

    /// Is there room for at least one connection?
    ///
    /// # Errors
    ///
    /// There is not: the line that tells so.
    pub fn suffice_for_one(self) -> Result<(), String> {
        if self.room() > 0 {
            return Ok(());
        }
        Err(format!(
            "a process may have {} descriptors, and a worker needs {} to serve a single connection; \
             raise the limit (ulimit -n, LimitNOFILE=)",
            self.limit,
            self.own + 2
        ))
    }

    /// The line that tells that one worker could not serve all connections; none if it could.
    pub fn shortage(self, conn_max: u32) -> Option<String> {
        let room = self.room();
        (room < u64::from(conn_max)).then(|| {
            format!(
                "each worker may have {} descriptors, enough for {room} connections ({} for itself, 2 for each), \
                 not for {conn_max}; raise the limit (ulimit -n, LimitNOFILE=) or lower the number with -x",
                self.limit, self.own
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_counts_its_own_and_two_a_connection() {
        let descriptors = Descriptors { limit: 12 + 2 * 100 + 1, own: 12, listeners: 2 };
        assert_eq!(descriptors.shortage(100), None, "pipes have what is left, connections come first");
        let line = descriptors.shortage(101).unwrap();
        assert!(line.contains("each worker may have 213 descriptors, enough for 100 connections"), "{line}");
        assert!(line.contains("(12 for itself, 2 for each), not for 101;"), "{line}");
    }

    #[test]
    fn without_room_for_one_connection_there_is_no_point_in_starting() {
        assert_eq!(Descriptors { limit: 14, own: 12, listeners: 2 }.suffice_for_one(), Ok(()));
        for limit in [0, 12, 13] {
            let line = Descriptors { limit, own: 12, listeners: 2 }.suffice_for_one().unwrap_err();
            assert!(
                line.contains(&format!("may have {limit} descriptors")) && line.contains("needs 14"),
                "{line}"
            );
        }
    }

    #[test]
    fn sockets_that_clients_come_to_count_twice() {
        let (launch, settings) = (Launch::default(), Settings::default());
        let mut descriptors = Descriptors::provide(8, 3, &launch, &settings).unwrap();
        let before = descriptors.needed(0);
        descriptors.listen(5);
        assert_eq!(descriptors.needed(0), before + 4);
        descriptors.listen(1);
        assert_eq!(descriptors.needed(0), before - 4);
    }

    #[test]
    fn a_daemon_and_a_log_take_one_each() {
        let own = |foreground, log: Option<&str>| {
            let launch = Launch { foreground, ..Launch::default() };
            let log = log.map(|path| crate::model::settings::LogDestination::File(path.into()));
            Descriptors::provide(4, 1, &launch, &Settings { log, ..Settings::default() }).unwrap().own
        };
        let least = 4 + 1 + WORKERS_OWN + SPARE;
        let all = [own(true, None), own(false, None), own(false, Some("log"))];
        assert_eq!(all, [least, least + 1, least + 2]);
    }
}
