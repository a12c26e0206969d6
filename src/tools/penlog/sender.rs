//! Datagrams to penlogd(1). Nothing here waits for long, and nothing is an error that ends anything: whoever writes the
//! log waits for whoever reads it, so what the network does not take is counted and dropped.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::model::time::{Moment, Seconds};
use crate::sys::datagram::{self, Departure};
use crate::sys::reason::words;
use crate::sys::socket::Source;
use crate::sys::wait::{self, Interest};

/// How long a batch waits for room in the socket.
const PATIENCE: Duration = Duration::from_millis(10);

/// A socket that does not work is replaced at most this often.
const RENEWAL: Seconds = Seconds(1);

/// Losses are told of at most this often.
const TELLING: Seconds = Seconds(60);

/// A datagram to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outgoing<'a> {
    pub(super) bytes: &'a [u8],
    /// A line, or a piece of one: it is a loss if it is not sent.
    pub(super) line: bool,
}

/// A socket towards penlogd, and what has become of what it was to send.
#[derive(Debug)]
pub(super) struct Sender {
    to: SocketAddr,
    source: Option<Source>,
    /// None while it cannot be had: no network, no descriptors.
    socket: Option<OwnedFd>,
    opened: Moment,
    /// The socket may never work again: its address may have gone.
    broken: bool,
    /// Waiting has helped, or has not been tried.
    patient: bool,
    losses: Losses,
}

impl Sender {
    /// A sender from `source`, or from whatever address the system chooses.
    ///
    /// # Errors
    ///
    /// It cannot send from there. That it can send nothing at all may change.
    pub(super) fn open(to: SocketAddr, source: Option<Source>, now: Moment) -> io::Result<Self> {
        let mut sender = Sender {
            to,
            source,
            socket: None,
            opened: now,
            broken: false,
            patient: true,
            losses: Losses::default(),
        };
        match connect(to, source) {
            Ok(socket) => sender.socket = Some(socket),
            Err(Failure::Source(error)) => return Err(error),
            Err(Failure::Network(error)) => sender.fail(Lost::Lines(0), error),
        }
        Ok(sender)
    }

    /// Replaces the socket if it does not work, now and then. True: what is sent from now on comes from another port.
    pub(super) fn renew(&mut self, now: Moment) -> bool {
        if !(self.broken || self.socket.is_none()) || now.micros_since(self.opened) < RENEWAL.micros() {
            return false;
        }
        self.opened = now;
        self.broken = false;
        match connect(self.to, self.source) {
            Ok(socket) => self.socket = Some(socket),
            Err(Failure::Source(error) | Failure::Network(error)) => {
                self.fail(Lost::Lines(0), error);
                return false;
            }
        }
        true
    }

    /// Sends what it can; at most [`datagram::BATCH`] at a time.
    pub(super) fn send(&mut self, batch: &[Outgoing<'_>]) {
        let Some(left) = self.try_send(batch) else { return };
        let Left { datagrams, error } = left;
        if error.kind() != ErrorKind::WouldBlock {
            // The error may be an earlier datagram's, and none of these have been tried.
            let again = self.try_send(datagrams);
            if again.as_ref().is_none_or(|again| again.datagrams.len() < datagrams.len()) {
                self.fail(Lost::Some, error);
            }
            return again.into_iter().for_each(|left| self.drop_all(left));
        }
        if !self.patient {
            return self.drop_all(Left { datagrams, error });
        }
        let socket = self.socket.as_ref().map(|socket| (socket.as_fd(), Interest::WRITE));
        // That it is not ready is found out by trying, too.
        let _ = wait::until_ready(socket.as_slice(), PATIENCE);
        self.patient = false;
        if let Some(left) = self.try_send(datagrams) {
            self.drop_all(left);
        }
    }

    /// At the end: what is known of datagrams that were sent, and all that has not been told.
    pub(super) fn finish(&mut self) -> Option<String> {
        if let Some(error) = self.socket.as_ref().and_then(|socket| datagram::take_error(socket.as_fd())) {
            self.fail(Lost::Some, error);
        }
        self.losses.take().map(|news| self.told(&news))
    }

    /// What is to be told now.
    pub(super) fn news(&mut self, now: Moment) -> Option<String> {
        self.losses.due(now).map(|news| self.told(&news))
    }

    /// When there will be something to tell, if there will.
    pub(super) fn next_news(&self) -> Option<Moment> {
        self.losses.next()
    }

    fn told(&self, news: &News) -> String {
        format!("{} port {}: {news}", self.to.ip(), self.to.port())
    }

    /// Sends all, or all up to where it makes no sense to go on.
    fn try_send<'a, 'b>(&mut self, batch: &'b [Outgoing<'a>]) -> Option<Left<'a, 'b>> {
        let Some(socket) = &self.socket else {
            self.losses.note(count(batch), None);
            return None;
        };
        let pieces: Vec<[IoSlice<'_>; 1]> = batch.iter().map(|one| [IoSlice::new(one.bytes)]).collect();
        let departures: Vec<Departure<'_>> =
            pieces.iter().map(|pieces| Departure { to: None, from: None, pieces, segment: None }).collect();
        let (mut sent, mut stopped, mut failed) = (false, None, None);
        datagram::send_all(socket.as_fd(), &departures, |index, result| match result {
            Ok(()) => sent = true,
            Err(error) if error.kind() == ErrorKind::WouldBlock || datagram::is_servers_fault(&error) => {
                stopped.get_or_insert((index, error));
            }
            Err(error) => {
                let (lost, _) = failed.get_or_insert((0, error));
                *lost += u64::from(batch[index].line);
            }
        });
        self.patient |= sent;
        if let Some((lost, error)) = failed {
            self.fail(Lost::Lines(lost), error);
        }
        stopped.map(|(index, error)| Left { datagrams: &batch[index..], error })
    }

    fn drop_all(&mut self, left: Left<'_, '_>) {
        self.fail(count(left.datagrams), left.error);
    }

    fn fail(&mut self, lost: Lost, error: io::Error) {
        // The address that the system chose for it when it was connected is no longer this machine's.
        self.broken |= matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::AddrNotAvailable);
        let reason = match error.kind() {
            ErrorKind::WouldBlock => "the network takes no more".to_owned(),
            _ => words(&error),
        };
        self.losses.note(lost, Some(reason));
    }
}

/// What could not be sent now.
#[derive(Debug)]
struct Left<'a, 'b> {
    datagrams: &'b [Outgoing<'a>],
    error: io::Error,
}

fn count(batch: &[Outgoing<'_>]) -> Lost {
    Lost::Lines(batch.iter().filter(|one| one.line).count() as u64)
}

/// Why there is no socket.
enum Failure {
    /// It cannot send from the address that was asked for.
    Source(io::Error),
    /// It cannot send at all.
    Network(io::Error),
}

fn connect(to: SocketAddr, source: Option<Source>) -> Result<OwnedFd, Failure> {
    let attempt = datagram::connect(to, source).map_err(Failure::Network)?;
    match attempt.unbound {
        None => Ok(attempt.socket),
        Some(error) => Err(Failure::Source(error)),
    }
}

/// How much was lost.
#[derive(Debug, Clone, Copy)]
enum Lost {
    /// So many lines and pieces, which were not sent.
    Lines(u64),
    /// Something of what was sent: what ICMP tells of could have been marks.
    Some,
}

/// What was lost and has not been told: the first loss is told of at once, further ones now and then.
#[derive(Debug, Default)]
struct Losses {
    news: Option<News>,
    told: Option<Moment>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    /// The latest one's.
    reason: Option<String>,
    lines: u64,
    /// And an unknown number.
    more: bool,
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.as_deref().unwrap_or("it cannot be reached"))?;
        match (self.lines, self.more) {
            (0, false) => Ok(()),
            (0, true) => f.write_str("; lines are lost"),
            (1, false) => f.write_str("; 1 line is lost"),
            (lines, false) => write!(f, "; {lines} lines are lost"),
            (lines, true) => write!(f, "; {lines} lines or more are lost"),
        }
    }
}

impl Losses {
    /// No reason: it has been told before.
    fn note(&mut self, lost: Lost, reason: Option<String>) {
        if reason.is_none() && matches!(lost, Lost::Lines(0)) {
            return;
        }
        let news = self.news.get_or_insert_default();
        news.reason = reason.or(news.reason.take());
        match lost {
            Lost::Lines(lines) => news.lines += lines,
            Lost::Some => news.more = true,
        }
    }

    fn next(&self) -> Option<Moment> {
        self.news.as_ref().map(|_| self.told.map_or(Moment(0), |told| told.plus(TELLING)))
    }

    fn due(&mut self, now: Moment) -> Option<News> {
        self.next().filter(|&next| next <= now)?;
        self.told = Some(now);
        self.take()
    }

    fn take(&mut self) -> Option<News> {
        self.news.take()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn lines<'a>(texts: &[&'a str]) -> Vec<Outgoing<'a>> {
        texts.iter().map(|text| Outgoing { bytes: text.as_bytes(), line: !text.starts_with('#') }).collect()
    }

    fn second(number: u64) -> Moment {
        Moment(number * 1_000_000)
    }

    /// A sender to somebody who reads nothing: unlike with UDP, that is where it comes to an end.
    fn stalled() -> (Sender, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let nowhere = "127.0.0.1:9".parse().unwrap();
        let mut sender = Sender::open(nowhere, None, second(0)).unwrap();
        sender.socket = Some(ours.into());
        (sender, theirs)
    }

    #[test]
    fn a_receiver_that_takes_nothing_costs_lines_and_is_waited_for_once() {
        let (mut sender, theirs) = stalled();
        let batch = lines(&["a line\n"; 64]);
        let waits = (0..10_000).filter(|_| {
            let patient = sender.patient;
            sender.send(&batch);
            patient && !sender.patient
        });
        assert_eq!(waits.count(), 1);
        theirs.set_nonblocking(true).unwrap();
        let received = std::iter::from_fn(|| theirs.recv(&mut [0; 100]).ok()).count() as u64;
        assert!(received > 0);
        let news = sender.losses.take().unwrap();
        assert_eq!(news.lines + received, 640_000);
        assert!(news.to_string().starts_with("the network takes no more; "), "{news}");
    }

    #[test]
    fn it_goes_on_when_the_receiver_does() {
        let (mut sender, theirs) = stalled();
        while sender.losses.news.is_none() {
            sender.send(&lines(&["x\n"; 8]));
        }
        theirs.set_nonblocking(true).unwrap();
        while theirs.recv(&mut [0; 100]).is_ok() {}
        sender.send(&lines(&["again\n"]));
        let mut buffer = [0; 100];
        let length = theirs.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"again\n");
        assert!(sender.patient);
    }

    #[test]
    fn what_was_refused_says_nothing_of_what_comes_later() {
        let penlogd = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = penlogd.local_addr().unwrap();
        // It hears nobody but itself: for all others there is nobody.
        penlogd.connect(address).unwrap();
        let mut sender = Sender::open(address, None, second(0)).unwrap();
        sender.send(&lines(&["#mark\n"]));
        sender.send(&lines(&["lost\n"]));
        let ours = UdpSocket::from(sender.socket.as_ref().unwrap().try_clone().unwrap());
        penlogd.connect(ours.local_addr().unwrap()).unwrap();
        sender.send(&lines(&["one\n", "#mark\n", "two\n"]));
        penlogd.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        for expected in ["one\n", "#mark\n", "two\n"] {
            let mut buffer = [0; 100];
            let length = penlogd.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected.as_bytes());
        }
        let news = sender.news(second(1)).unwrap();
        assert_eq!(news, format!("127.0.0.1 port {}: Connection refused; lines are lost", address.port()));
    }

    #[test]
    fn the_last_line_s_refusal_is_told_too() {
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
        nobody.connect(nobody.local_addr().unwrap()).unwrap();
        let mut sender = Sender::open(nobody.local_addr().unwrap(), None, second(0)).unwrap();
        sender.send(&lines(&["last\n"]));
        assert_eq!(sender.news(second(1)), None);
        assert!(sender.finish().unwrap().ends_with(": Connection refused; lines are lost"));
    }

    #[test]
    fn a_datagram_that_cannot_be_sent_does_not_hold_up_the_others() {
        let penlogd = UdpSocket::bind("127.0.0.1:0").unwrap();
        penlogd.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut sender = Sender::open(penlogd.local_addr().unwrap(), None, second(0)).unwrap();
        let long = "x".repeat(70_000);
        sender.send(&lines(&["one\n", &long, "two\n"]));
        for expected in ["one\n", "two\n"] {
            let mut buffer = [0; 100];
            let length = penlogd.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected.as_bytes());
        }
        assert!(sender.news(second(1)).unwrap().ends_with("; 1 line is lost"));
    }

    #[test]
    fn a_socket_that_does_not_work_is_replaced_once_a_second() {
        let penlogd = UdpSocket::bind("127.0.0.1:0").unwrap();
        penlogd.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut sender = Sender::open(penlogd.local_addr().unwrap(), None, second(0)).unwrap();
        assert!(!sender.renew(second(5)), "it works");
        sender.socket = None;
        sender.send(&lines(&["lost\n"]));
        assert!(!sender.renew(Moment(999_999)), "too early");
        assert!(sender.renew(second(1)));
        sender.send(&lines(&["sent\n"]));
        let mut buffer = [0; 100];
        let length = penlogd.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"sent\n");
        assert!(sender.finish().unwrap().ends_with(": it cannot be reached; 1 line is lost"));
    }

    #[test]
    fn an_address_that_is_another_machines_is_an_error_at_the_start() {
        let source = Some(Source::Own("192.0.2.1".parse().unwrap()));
        let error = Sender::open("127.0.0.1:9".parse().unwrap(), source, second(0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn losses_are_told_at_once_and_then_once_a_minute() {
        let mut losses = Losses::default();
        assert_eq!((losses.next(), losses.due(second(1))), (None, None));
        losses.note(Lost::Lines(0), None);
        assert_eq!(losses.next(), None);
        losses.note(Lost::Lines(1), Some("no".into()));
        assert_eq!(losses.due(second(1)).unwrap().to_string(), "no; 1 line is lost");
        losses.note(Lost::Lines(2), None);
        losses.note(Lost::Lines(3), Some("again".into()));
        assert_eq!((losses.next(), losses.due(second(60))), (Some(second(61)), None));
        assert_eq!(losses.due(second(61)).unwrap().to_string(), "again; 5 lines are lost");
        assert_eq!((losses.next(), losses.take()), (None, None));
        losses.note(Lost::Some, Some("who knows".into()));
        assert_eq!(losses.take().unwrap().to_string(), "who knows; lines are lost");
        losses.note(Lost::Some, Some("who knows".into()));
        losses.note(Lost::Lines(7), None);
        assert_eq!(losses.take().unwrap().to_string(), "who knows; 7 lines or more are lost");
        losses.note(Lost::Lines(0), Some("later".into()));
        assert_eq!(losses.take().unwrap().to_string(), "later");
    }
}
