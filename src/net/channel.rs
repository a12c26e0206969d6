//! The private line between the master and one worker: a SOCK_SEQPACKET pair.
//!
//! Settings travel as sealed memory, so no message is ever large and the master never blocks. Descriptors (a
//! reopened log, a new listener) travel with them, so a worker never opens a path.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::model::settings::Settings;
use crate::report::log::Sink;
use crate::sys::message;

/// The largest message; an order is far smaller, and a worker's reason is cut to fit.
const LARGEST: usize = 4096;

/// The master's end. Non-blocking.
#[derive(Debug)]
pub struct MasterEnd {
    fd: OwnedFd,
}

/// The worker's end. Non-blocking. End of file here means that the master is gone.
#[derive(Debug)]
pub struct WorkerEnd {
    fd: OwnedFd,
}

/// What happens to a worker's log with new settings.
#[derive(Debug, PartialEq, Eq)]
pub enum LogChange<S> {
    /// It stays.
    Keep,
    /// This from now on; `None`: no log.
    Replace(Option<S>),
}

/// From the master.
#[derive(Debug)]
pub struct Order {
    /// New settings.
    pub settings: Settings,
    /// The log under them.
    pub log: LogChange<Sink>,
    /// A new listening socket that replaces the present one.
    pub listener: Option<OwnedFd>,
}

/// From a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It accepts connections now.
    Ready,
    /// It cannot start, and why; it exits with [`crate::process::CANNOT_START`].
    Failed(String),
}

/// Which descriptors come with an order, after the settings.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    log: Option<LogKind>,
    listener: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum LogKind {
    None,
    File,
    Network,
}

/// A new pair, close-on-exec.
///
/// # Errors
/// No descriptors.
pub fn pair() -> io::Result<(MasterEnd, WorkerEnd)> {
    let (master, worker) = message::pair()?;
    Ok((MasterEnd { fd: master }, WorkerEnd { fd: worker }))
}

impl MasterEnd {
    /// Sends new settings.
    ///
    /// # Errors
    /// `WouldBlock` when the worker has left too many orders unread, `BrokenPipe` when it is gone.
    pub fn send(
        &self,
        settings: &Settings,
        log: LogChange<&Sink>,
        listener: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let memory = message::sealed(&serde_json::to_vec(settings)?)?;
        let mut descriptors = vec![memory.as_fd()];
        let kind = match &log {
            LogChange::Keep => None,
            LogChange::Replace(None) => Some(LogKind::None),
            LogChange::Replace(Some(Sink::File(fd))) => {
                descriptors.push(fd.as_fd());
                Some(LogKind::File)
            }
            LogChange::Replace(Some(Sink::Network(fd))) => {
                descriptors.push(fd.as_fd());
                Some(LogKind::Network)
            }
        };
        descriptors.extend(listener);
        let envelope = Envelope { log: kind, listener: listener.is_some() };
        message::send(self.fd.as_fd(), &serde_json::to_vec(&envelope)?, &descriptors)
    }

    /// The next report; `None`: nothing now.
    ///
    /// # Errors
    /// `UnexpectedEof`: the worker is gone. `InvalidData`: it sends nonsense.
    pub fn receive(&self) -> io::Result<Option<Report>> {
        match receive(self.fd.as_fd())? {
            Some((bytes, _)) => Ok(Some(serde_json::from_slice(&bytes)?)),
            None => Ok(None),
        }
    }
}

impl WorkerEnd {
    /// The next order; `None`: nothing now.
    ///
    /// # Errors
    /// `UnexpectedEof`: the master is gone.
    pub fn receive(&self) -> io::Result<Option<Order>> {
        let Some((bytes, descriptors)) = receive(self.fd.as_fd())? else {
            return Ok(None);
        };
        let envelope: Envelope = serde_json::from_slice(&bytes)?;
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(io::ErrorKind::InvalidData);
        let settings = serde_json::from_slice(&message::unseal(next()?)?)?;
        let log = match envelope.log {
            None => LogChange::Keep,
            Some(LogKind::None) => LogChange::Replace(None),
            Some(LogKind::File) => LogChange::Replace(Some(Sink::File(next()?))),
            Some(LogKind::Network) => LogChange::Replace(Some(Sink::Network(next()?))),
        };
        let listener = if envelope.listener { Some(next()?) } else { None };
        Ok(Some(Order { settings, log, listener }))
    }

    /// Tells the master.
    ///
    /// # Errors
    /// `BrokenPipe` when the master is gone.
    pub fn report(&self, report: &Report) -> io::Result<()> {
        let short = match report {
            Report::Ready => Report::Ready,
            // A character of the reason takes at most six bytes as JSON.
            Report::Failed(reason) => Report::Failed(reason.chars().take(LARGEST / 6 - 8).collect()),
        };
        message::send(self.fd.as_fd(), &serde_json::to_vec(&short)?, &[])
    }
}

fn receive(from: BorrowedFd<'_>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut room = vec![0; LARGEST];
    match message::receive(from, &mut room) {
        Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok((length, descriptors)) => {
            room.truncate(length);
            Ok(Some((room, descriptors)))
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
        Err(error) => Err(error),
    }
}

impl AsFd for MasterEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for WorkerEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_and_descriptors_arrive_as_they_were_sent() {
        let (master, worker) = pair().unwrap();
        let mut settings = Settings { generation: 7, stubborn: true, ..Settings::default() };
        // Far larger than a message may be: they travel beside it.
        settings.web_stats = Some("x".repeat(3 * LARGEST).into());
        let (log, listener) = message::pair().unwrap();
        let sink = Sink::File(log);
        master.send(&settings, LogChange::Replace(Some(&sink)), Some(listener.as_fd())).unwrap();
        let order = worker.receive().unwrap().unwrap();
        assert_eq!(order.settings, settings);
        assert!(matches!(order.log, LogChange::Replace(Some(Sink::File(_)))));
        assert!(order.listener.is_some());
        master.send(&settings, LogChange::Keep, None).unwrap();
        let order = worker.receive().unwrap().unwrap();
        assert!(matches!(order.log, LogChange::Keep));
        assert!(order.listener.is_none());
        assert!(worker.receive().unwrap().is_none());
    }

    #[test]
    fn each_end_sees_the_other_go() {
        let (master, worker) = pair().unwrap();
        drop(master);
        assert_eq!(worker.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        let (master, worker) = pair().unwrap();
        worker.report(&Report::Ready).unwrap();
        worker.report(&Report::Failed("x".repeat(10_000))).unwrap();
        drop(worker);
        assert_eq!(master.receive().unwrap(), Some(Report::Ready));
        assert!(matches!(master.receive().unwrap(), Some(Report::Failed(_))));
        assert_eq!(master.receive().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
