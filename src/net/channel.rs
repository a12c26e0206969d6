//! The private line between the master and one worker: a SOCK_SEQPACKET pair.
//!
//! Settings travel as sealed memory, so no message is ever large and the master never blocks. Descriptors (a
//! reopened log, a new listener) travel with them, so a worker never opens a path. What does not fit into one message goes
//! ahead of it in others. A worker says which orders it has carried out: so the master knows from when on a change is in
//! effect everywhere.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::model::ids::ConnId;
use crate::model::listen::Protocol;
use crate::model::settings::Settings;
use crate::report::log::Sink;
use crate::sys::message::{self, MOST_DESCRIPTORS};

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
    /// Descriptors that came ahead of the order with this number.
    ahead: RefCell<(u64, Vec<OwnedFd>)>,
}

/// What happens with new settings to something that goes with them.
#[derive(Debug, PartialEq, Eq)]
pub enum Change<T> {
    /// It stays.
    Keep,
    /// This from now on; `None`: none.
    Replace(Option<T>),
}

/// Settings on their way to the workers: written once, however many workers there are.
#[derive(Debug)]
pub struct PackedSettings(OwnedFd);

impl PackedSettings {
    /// Packs them.
    ///
    /// # Errors
    /// No memory, no descriptors.
    pub fn new(settings: &Settings) -> io::Result<Self> {
        Ok(PackedSettings(message::sealed(&serde_json::to_vec(settings)?)?))
    }

    /// Packs them without their access lists, which may be a thousand times as long as the rest.
    ///
    /// # Errors
    /// As above.
    pub fn without_lists(settings: &Settings) -> io::Result<Self> {
        Self::new(&Settings { acls: Default::default(), ..settings.clone() })
    }
}

/// What goes with settings.
#[derive(Debug)]
pub struct Attachments<'a> {
    /// The settings hold their access lists; else those that the worker has stay.
    pub lists: bool,
    /// The log.
    pub log: Change<&'a Sink>,
    /// The database of countries.
    pub countries: Change<BorrowedFd<'a>>,
    /// What was read for TLS ([`crate::sys::tls::Material`], packed). Replaced whenever the settings of TLS are.
    pub tls: Change<BorrowedFd<'a>>,
    /// What this worker listens on, if that has changed.
    pub listeners: Option<Vec<(Protocol, BorrowedFd<'a>)>>,
}

/// From the master. Orders are numbered, and carried out in their order.
#[derive(Debug)]
pub struct Order {
    /// Goes back in [`Report::Done`].
    pub number: u64,
    /// What to do.
    pub what: Errand,
}

/// What a worker is told to do.
#[derive(Debug)]
pub enum Errand {
    /// Use these settings.
    Use(Box<NewSettings>),
    /// End this connection, if it still is the slot's so-many-th.
    Close(ConnId, u32),
    /// Accept nobody any more, and end with the last connection.
    Retire,
}

/// A socket that clients come to.
#[derive(Debug)]
pub struct Listening {
    /// By which protocol.
    pub protocol: Protocol,
    /// With TCP shared by all workers; with UDP one of a group, which this worker alone reads.
    pub socket: OwnedFd,
}

/// New settings, with what belongs to them.
#[derive(Debug)]
pub struct NewSettings {
    /// The settings.
    pub settings: Settings,
    /// They hold their access lists; else those in use stay.
    pub lists: bool,
    /// The log under them.
    pub log: Change<Sink>,
    /// The database of countries under them.
    pub countries: Change<OwnedFd>,
    /// What was read for TLS.
    pub tls: Change<OwnedFd>,
    /// What to listen on from now on, those for connections first: present ones that are not among them are given up.
    /// None: as before.
    pub listeners: Option<Vec<Listening>>,
}

/// From a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// It accepts connections now.
    Ready,
    /// It cannot start, and why; it exits with [`crate::process::CANNOT_START`].
    Failed(String),
    /// This order has been carried out, and all before it.
    Done(u64),
}

/// An order without the descriptors that come with it.
#[derive(Debug, Serialize, Deserialize)]
struct Envelope {
    number: u64,
    what: Contents,
}

#[derive(Debug, Serialize, Deserialize)]
enum Contents {
    /// Some of the descriptors of the order with this number, which comes next.
    Ahead,
    /// The descriptors are, in this order: settings, log, database, TLS, listeners for connections, for datagrams.
    Use {
        lists: bool,
        log: Option<LogKind>,
        countries: Option<bool>,
        tls: Option<bool>,
        /// How many of them; a list would be longer than a message when one worker has the sockets of hundreds.
        listeners: Option<Listeners>,
    },
    Close {
        conn: ConnId,
        uses: u32,
    },
    Retire,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Listeners {
    streams: usize,
    datagrams: usize,
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
    Ok((MasterEnd { fd: master }, WorkerEnd { fd: worker, ahead: RefCell::default() }))
}

impl MasterEnd {
    /// Sends new settings.
    ///
    /// # Errors
    /// `WouldBlock` when the worker has left too many orders unread, `BrokenPipe` when it is gone.
    pub fn send_settings<'a>(
        &self,
        number: u64,
        settings: &'a PackedSettings,
        attached: &Attachments<'a>,
    ) -> io::Result<()> {
        let mut descriptors = vec![settings.0.as_fd()];
        let log = match &attached.log {
            Change::Keep => None,
            Change::Replace(None) => Some(LogKind::None),
            Change::Replace(Some(Sink::File(fd))) => {
                descriptors.push(fd.as_fd());
                Some(LogKind::File)
            }
            Change::Replace(Some(Sink::Network(fd))) => {
                descriptors.push(fd.as_fd());
                Some(LogKind::Network)
            }
        };
        let mut attach = |change: &Change<BorrowedFd<'a>>| match change {
            Change::Keep => None,
            Change::Replace(None) => Some(false),
            Change::Replace(Some(fd)) => {
                descriptors.push(*fd);
                Some(true)
            }
        };
        let (countries, tls) = (attach(&attached.countries), attach(&attached.tls));
        let listeners = attached.listeners.as_ref().map(|all| {
            let mut attach = |wanted| {
                let before = descriptors.len();
                descriptors.extend(all.iter().filter(|(protocol, _)| *protocol == wanted).map(|(_, fd)| *fd));
                descriptors.len() - before
            };
            Listeners { streams: attach(Protocol::Tcp), datagrams: attach(Protocol::Udp) }
        });
        let what = Contents::Use { lists: attached.lists, log, countries, tls, listeners };
        self.send(&Envelope { number, what }, &descriptors)
    }

    /// Has a connection ended: the one that was the slot's `uses`-th.
    ///
    /// # Errors
    /// As for settings.
    pub fn send_close(&self, number: u64, conn: ConnId, uses: u32) -> io::Result<()> {
        self.send(&Envelope { number, what: Contents::Close { conn, uses } }, &[])
    }

    /// Has the worker end with its last connection.
    ///
    /// # Errors
    /// As for settings.
    pub fn send_retire(&self, number: u64) -> io::Result<()> {
        self.send(&Envelope { number, what: Contents::Retire }, &[])
    }

    /// If a message ahead gets through and the order itself does not, the next order has another number.
    fn send(&self, envelope: &Envelope, mut descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        while let Some((ahead, rest)) = descriptors.split_at_checked(MOST_DESCRIPTORS)
            && !rest.is_empty()
        {
            let bytes = serde_json::to_vec(&Envelope { number: envelope.number, what: Contents::Ahead })?;
            message::send(self.fd.as_fd(), &bytes, ahead)?;
            descriptors = rest;
        }
        message::send(self.fd.as_fd(), &serde_json::to_vec(envelope)?, descriptors)
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
        let (number, what, descriptors) = loop {
            let Some((bytes, mut descriptors)) = receive(self.fd.as_fd())? else {
                return Ok(None);
            };
            let Envelope { number, what } = serde_json::from_slice(&bytes)?;
            let (order, mut all) = self.ahead.take();
            if order != number {
                all.clear();
            }
            all.append(&mut descriptors);
            match what {
                Contents::Ahead => drop(self.ahead.replace((number, all))),
                what => break (number, what, all),
            }
        };
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(io::ErrorKind::InvalidData);
        let what = match what {
            Contents::Use { lists, log, countries, tls, listeners } => {
                let settings = serde_json::from_slice(&message::unseal(next()?)?)?;
                let log = match log {
                    None => Change::Keep,
                    Some(LogKind::None) => Change::Replace(None),
                    Some(LogKind::File) => Change::Replace(Some(Sink::File(next()?))),
                    Some(LogKind::Network) => Change::Replace(Some(Sink::Network(next()?))),
                };
                let mut attached = |there: Option<bool>| -> io::Result<_> {
                    Ok(match there {
                        None => Change::Keep,
                        Some(false) => Change::Replace(None),
                        Some(true) => Change::Replace(Some(next()?)),
                    })
                };
                let (countries, tls) = (attached(countries)?, attached(tls)?);
                let listeners = match listeners {
                    Some(Listeners { streams, datagrams }) => {
                        let of = |protocol, count| std::iter::repeat_n(protocol, count);
                        let all = of(Protocol::Tcp, streams).chain(of(Protocol::Udp, datagrams));
                        let listening = |protocol| Ok(Listening { protocol, socket: next()? });
                        Some(all.map(listening).collect::<io::Result<_>>()?)
                    }
                    None => None,
                };
                Errand::Use(Box::new(NewSettings { settings, lists, log, countries, tls, listeners }))
            }
            Contents::Close { conn, uses } => Errand::Close(conn, uses),
            Contents::Retire => Errand::Retire,
            // The loop above ends with none of these.
            Contents::Ahead => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Some(Order { number, what }))
    }

    /// Tells the master.
    ///
    /// # Errors
    /// `BrokenPipe` when the master is gone.
    pub fn report(&self, report: &Report) -> io::Result<()> {
        let short = match report {
            Report::Ready | Report::Done(_) => report.clone(),
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
    use crate::sys::socket::is_same;

    fn new_settings(worker: &WorkerEnd) -> (u64, NewSettings) {
        match worker.receive().unwrap().unwrap() {
            Order { number, what: Errand::Use(new) } => (number, *new),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn settings_and_descriptors_arrive_as_they_were_sent() {
        let (master, worker) = pair().unwrap();
        let mut settings = Settings { generation: 7, stubborn: true, ..Settings::default() };
        // Far larger than a message may be: they travel beside it.
        settings.web_stats = Some("x".repeat(3 * LARGEST).into());
        let packed = PackedSettings::new(&settings).unwrap();
        let (log, listener) = message::pair().unwrap();
        let sink = Sink::File(log);
        let all = Attachments {
            lists: true,
            log: Change::Replace(Some(&sink)),
            countries: Change::Replace(Some(listener.as_fd())),
            tls: Change::Replace(Some(listener.as_fd())),
            listeners: Some(vec![(Protocol::Tcp, listener.as_fd()), (Protocol::Udp, listener.as_fd())]),
        };
        master.send_settings(3, &packed, &all).unwrap();
        let (number, new) = new_settings(&worker);
        assert_eq!((number, &new.settings), (3, &settings));
        assert!(matches!(new.log, Change::Replace(Some(Sink::File(_)))));
        assert!(matches!(new.countries, Change::Replace(Some(_))));
        assert!(matches!(new.tls, Change::Replace(Some(_))));
        let protocols =
            |new: &NewSettings| new.listeners.as_ref().map(|all| all.iter().map(|it| it.protocol).collect());
        assert_eq!(protocols(&new), Some(vec![Protocol::Tcp, Protocol::Udp]));
        let none = Attachments {
            lists: false,
            log: Change::Keep,
            countries: Change::Replace(None),
            tls: Change::Keep,
            listeners: None,
        };
        master.send_settings(4, &packed, &none).unwrap();
        let (number, new) = new_settings(&worker);
        assert!(!new.lists);
        assert_eq!((number, &new.settings), (4, &settings), "the same memory can be read by many");
        assert!(matches!((new.log, new.countries), (Change::Keep, Change::Replace(None))));
        assert!(new.listeners.is_none());
        assert!(worker.receive().unwrap().is_none());
    }

    #[test]
    fn as_many_listeners_as_there_are_arrive() {
        let (master, worker) = pair().unwrap();
        let packed = PackedSettings::new(&Settings::default()).unwrap();
        let (log, _other) = message::pair().unwrap();
        let sockets: Vec<_> = (0..3 * MOST_DESCRIPTORS).map(|_| message::pair().unwrap().0).collect();
        let sink = Sink::File(log);
        let with = |listeners: &'_ [OwnedFd]| -> Vec<bool> {
            let attached = Attachments {
                lists: true,
                log: Change::Replace(Some(&sink)),
                countries: Change::Keep,
                tls: Change::Keep,
                listeners: Some(listeners.iter().map(|fd| (Protocol::Udp, fd.as_fd())).collect()),
            };
            master.send_settings(listeners.len() as u64, &packed, &attached).unwrap();
            let (_, new) = new_settings(&worker);
            assert!(matches!(new.log, Change::Replace(Some(Sink::File(_)))));
            let came = new.listeners.unwrap();
            assert_eq!(came.len(), listeners.len());
            let pairs = came.iter().zip(listeners);
            pairs.map(|(came, sent)| is_same(came.socket.as_fd(), sent.as_fd())).collect()
        };
        for most in MOST_DESCRIPTORS - 3..3 * MOST_DESCRIPTORS {
            assert!(with(&sockets[..most]).into_iter().all(|same| same), "{most}");
        }
        // One worker may come to have those of all the others.
        crate::sys::privileges::raise_descriptor_limit(None, 4096).unwrap();
        let all: Vec<_> = (0..900).map(|number| &sockets[number % sockets.len()]).collect();
        let attached = Attachments {
            lists: true,
            log: Change::Keep,
            countries: Change::Keep,
            tls: Change::Keep,
            listeners: Some(all.iter().map(|fd| (Protocol::Udp, fd.as_fd())).collect()),
        };
        master.send_settings(6000, &packed, &attached).unwrap();
        let came = new_settings(&worker).1.listeners.unwrap();
        assert_eq!(came.len(), all.len());
        assert!(came.iter().zip(all).all(|(came, sent)| is_same(came.socket.as_fd(), sent.as_fd())));
        // What came ahead of an order that did not come itself belongs to no other.
        let lost = Envelope { number: 7000, what: Contents::Ahead };
        let ahead = serde_json::to_vec(&lost).unwrap();
        message::send(master.fd.as_fd(), &ahead, &[sockets[0].as_fd()]).unwrap();
        assert!(worker.receive().unwrap().is_none());
        assert_eq!(with(&sockets[1..3]), [true, true]);
    }

    #[test]
    fn orders_come_in_their_order_and_are_confirmed() {
        let (master, worker) = pair().unwrap();
        master.send_close(1, ConnId(8), 9).unwrap();
        master.send_retire(2).unwrap();
        let next = || worker.receive().unwrap().unwrap();
        assert!(matches!(next(), Order { number: 1, what: Errand::Close(ConnId(8), 9) }));
        assert!(matches!(next(), Order { number: 2, what: Errand::Retire }));
        worker.report(&Report::Done(2)).unwrap();
        assert_eq!(master.receive().unwrap(), Some(Report::Done(2)));
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
