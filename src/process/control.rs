//! The control port, as the master serves it: who asked what, and when he is answered.
//!
//! Questions are answered at once. What changes settings goes to [`super::changes`], and is answered when every worker
//! uses the new ones. What is said to the sessions' sockets, and for how long, is [`crate::net::control`]'s business.

use std::fs;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::model::address::{ClientAddress, SocketAddress};
use crate::model::command::{Command, Operation};
use crate::model::ids::{ConnId, WorkerId};
use crate::model::render;
use crate::model::reply;
use crate::model::settings::LogDestination;
use crate::model::time::Moment;
use crate::net::control::{Asked, Peer, Request, SessionId};
use crate::process::changes::{Asker, ONLY_LOCAL, Purpose, Text, Wish};
use crate::process::master::{Master, Stage};
use crate::report::{explain, replies, status};
use crate::sys::reason::words;
use crate::sys::wait::Interest;
use crate::sys::{clock, fork, textfile};

/// An answer that waits for the workers.
#[derive(Debug)]
pub(super) struct Confirmation {
    session: SessionId,
    reply: String,
    /// None: all of them.
    worker: Option<WorkerId>,
    order: u64,
}

impl Master<'_> {
    /// Where the control port is.
    pub(super) fn control_address(&self) -> Option<&SocketAddress> {
        self.control.as_ref().map(|control| control.listener().address())
    }

    /// What the control port waits for.
    pub(super) fn control_descriptors(&self) -> Vec<(BorrowedFd<'_>, Interest)> {
        match (&self.control, self.stage) {
            // Whoever comes before pen serves waits.
            (None, _) | (_, Stage::Starting { .. }) => Vec::new(),
            (Some(control), _) => control.descriptors(),
        }
    }

    /// Goes on with all sessions.
    pub(super) fn serve_control(&mut self, now: Moment) {
        if matches!(self.stage, Stage::Starting { .. }) {
            return;
        }
        let Some(control) = &mut self.control else { return };
        let state = &self.state;
        let admits = |peer: &Peer| {
            let verdicts = state.lists.verdicts(&peer.address, |ip| state.country(ip));
            verdicts.permits(state.settings.control_acl)
        };
        let asked = control.advance(now, admits);
        if let Some(error) = control.take_trouble() {
            let reason = words(&error);
            state.messages.error(format_args!("control port: cannot accept: {reason}; trying again"));
        }
        for Asked { session, peer, request } in asked {
            self.on_request(session, &peer, request, now);
        }
    }

    fn on_request(&mut self, session: SessionId, peer: &Peer, request: Request, now: Moment) {
        let local = peer.is_local();
        let text = match request {
            Request::Command(line) => {
                match Command::parse(&line).map(|parsed| parsed.map(|parsed| parsed.command)) {
                    Ok(None) => return self.reply(session, String::new(), now),
                    Ok(Some(Command::Operation(operation))) => {
                        return self.operate(session, local, operation, now);
                    }
                    Ok(Some(command)) if command.is_question() => {
                        let reply = self.answer_question(command);
                        return self.reply(session, reply, now);
                    }
                    Ok(Some(_)) | Err(_) => Text::Command(line),
                }
            }
            Request::Batch(lines) => Text::Batch(lines),
        };
        self.wish_for(session, local, text, Purpose::Change, now);
    }

    /// Nothing is changed any more when pen is about to end.
    fn wish_for(&mut self, session: SessionId, local: bool, text: Text, purpose: Purpose, now: Moment) {
        match self.stage {
            Stage::Serving => {
                self.wish(Wish { asker: Asker::Session { id: session, local }, text, purpose });
            }
            Stage::Starting { .. } | Stage::Draining | Stage::Stopping { .. } => {
                self.reply(session, reply::error("pen is about to end"), now);
            }
        }
    }

    pub(super) fn reply(&mut self, session: SessionId, text: String, now: Moment) {
        if let Some(control) = &mut self.control {
            control.reply(session, text, now);
        }
    }

    /// Answers when this worker (none: every worker) has carried out the order.
    pub(super) fn reply_after(
        &mut self,
        session: SessionId,
        reply: String,
        worker: Option<WorkerId>,
        order: u64,
    ) {
        self.confirmations.push(Confirmation { session, reply, worker, order });
    }

    /// Answers those for whom the workers have done their part.
    pub(super) fn confirm(&mut self, now: Moment) {
        let supervisor = &self.supervisor;
        let done = |it: &mut Confirmation| match it.worker {
            None => supervisor.all_did(it.order),
            Some(worker) => supervisor.did(worker, it.order),
        };
        let confirmed: Vec<_> = self.confirmations.extract_if(.., done).collect();
        for Confirmation { session, reply, .. } in confirmed {
            self.reply(session, reply, now);
        }
    }

    fn operate(&mut self, session: SessionId, local: bool, operation: Operation, now: Moment) {
        let region = self.state.region;
        let reply = match operation {
            Operation::Check(_) | Operation::Diff(_) if !local => reply::error(ONLY_LOCAL),
            Operation::Check(file) => return self.look_at(session, file, Purpose::Check, now),
            Operation::Diff(file) => return self.look_at(session, file, Purpose::Diff, now),
            Operation::Reload => return self.reload_for(session, local, now),
            Operation::Close(conn) => return self.close_connection(session, conn, now),
            Operation::Exit => match self.state.launch.exit_enabled {
                true => {
                    self.reply(session, String::new(), now);
                    return self.stop(now);
                }
                false => reply::EXIT_NOT_ENABLED.to_string(),
            },
            Operation::Connection(conn) => replies::connection(region, conn),
            Operation::Control => {
                self.state.launch.control.as_ref().map(|spec| format!("{spec}\n")).unwrap_or_default()
            }
            Operation::Explain(client) => self.explain(client, now),
            Operation::Limits => self.limits(),
            Operation::Pid => format!("{}\n", fork::own_pid()),
            Operation::Recent(within) => replies::recent(region, now, within),
            Operation::Servers => replies::servers(region, &self.state.settings),
            Operation::Socket(fd) => replies::socket(region, fd),
            Operation::Status => self.status(now),
            Operation::Write(_) if !local => reply::error(format_args!("write: {ONLY_LOCAL}")),
            Operation::Write(file) => self.write_settings(file),
        };
        self.reply(session, reply, now);
    }

    /// What a reload of this file (none: the usual one) would do. For somebody on this machine.
    fn look_at(&mut self, session: SessionId, file: Option<PathBuf>, purpose: Purpose, now: Moment) {
        match file.or_else(|| self.state.launch.config.clone()) {
            Some(path) => self.wish_for(session, true, Text::File(path), purpose, now),
            None => self.reply(session, reply::error(NO_FILE), now),
        }
    }

    /// Does what HUP does: the log is opened again whatever is in the file.
    fn reload_for(&mut self, session: SessionId, local: bool, now: Moment) {
        let reopened = self.reopen_log();
        let is_logging = matches!(self.state.settings.log, Some(LogDestination::File(_)));
        match (self.what_to_reload(), reopened) {
            // If the file still names a log that cannot be opened, that is a mistake in it.
            (Some(text), _) => self.wish_for(session, local, text, Purpose::Change, now),
            (None, Ok(())) if is_logging => {
                let reply = format!("ok\nwarning: {NO_FILE}; the log is opened again, that is all\n");
                self.reply_after(session, reply, None, self.settings_order);
            }
            (None, Ok(())) => self.reply(session, reply::error(NO_FILE), now),
            (None, Err(error)) => {
                self.reply(session, reply::error(format_args!("{error}; the old one is kept")), now);
            }
        }
    }

    fn close_connection(&mut self, session: SessionId, conn: ConnId, now: Moment) {
        let slots = self.state.region.slots();
        if conn.0 >= slots.capacity() {
            return self.reply(session, reply::out_of_range(conn), now);
        }
        let done = format!("Forcibly closing connection {conn}\n");
        let Some((worker, uses)) = slots.holder(conn) else {
            return self.reply(session, done, now);
        };
        match self.supervisor.send_close(worker, conn, uses) {
            Some(order) => self.reply_after(session, done, Some(worker), order),
            None => {
                let problem = format!("worker {worker} does not take orders at the moment; try again");
                self.reply(session, reply::error(problem), now);
            }
        }
    }

    fn explain(&self, client: ClientAddress, now: Moment) -> String {
        let state = &self.state;
        let country = match client {
            ClientAddress::Inet(ip, _) => state.country(ip),
            ClientAddress::Unix => None,
        };
        let verdicts = state.lists.verdicts(&client, |_| country);
        explain::explain(state.region, &state.settings, verdicts, country, client, now)
            .unwrap_or_else(|_| reply::error("the shared tables are busy; try again"))
    }

    fn limits(&self) -> String {
        let descriptors = replies::Descriptors {
            needed: self.state.descriptors.needed(self.state.settings.conn_max),
            granted: self.state.descriptors.limit(),
        };
        replies::limits(self.state.region, &self.state.settings, descriptors)
    }

    /// The page; also written to its file if there is one.
    fn status(&self, now: Moment) -> String {
        let state = &self.state;
        let page = status::html(state.region, &state.settings, now, clock::wall());
        if let Some(path) = &state.settings.web_stats {
            self.write_page(path, &page);
        }
        page
    }

    fn write_settings(&self, file: Option<PathBuf>) -> String {
        let state = &self.state;
        let Some(path) = file.or_else(|| state.launch.config.clone()) else {
            return reply::error(NO_FILE);
        };
        let text = render::file(&state.settings, &state.launch, &clock::local(clock::wall()));
        // What a link leads to is written, not the link.
        let target = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        match write_file(&target, &text) {
            Ok(()) => String::new(),
            Err(error) => {
                let place = if state.launch.jail.is_some() { " in the jail" } else { "" };
                reply::error(format_args!("cannot write {}{place}: {}", path.display(), words(&error)))
            }
        }
    }

    pub(super) fn write_page(&self, path: &Path, page: &str) {
        if let Err(error) = status::write_page(path, page) {
            let problem = words(&error);
            self.state
                .messages
                .error(format_args!("cannot write the status page {}: {problem}", path.display()));
        }
    }
}

/// There is nothing to read again, or to write to.
const NO_FILE: &str = "pen runs without a configuration file; start it with -F, or name a file";

/// As a whole or not at all, if the directory permits it; else in its place.
fn write_file(path: &Path, text: &str) -> io::Result<()> {
    let mode = match fs::symlink_metadata(path) {
        Ok(found) if !found.is_file() => return Err(io::Error::other("it is not a regular file")),
        Ok(found) => Some(found.permissions().mode() & 0o7777),
        Err(_) => None,
    };
    match textfile::replace(path, text, mode) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && mode.is_some() => {
            textfile::overwrite(path, text)
        }
        outcome => outcome,
    }
}
