//! The request log: pen(1) `-l`.
//!
//! A worker gathers the lines of one turn of its loop and hands them to the kernel at once. Every write(2) holds
//! whole lines and appends, so lines of several workers never run into each other, and after a rotation each line
//! is in exactly one of the two files. What the system does not take (disk full, nobody reads the FIFO, no penlogd)
//! is counted and dropped: a log must never stop the traffic it tells of.
//!
//! With `log_format json` there are objects instead, each on a line: of connections and requests that are over. A pipe
//! takes no more than PIPE_BUF bytes as a whole and a datagram has an end too, so there the request of an object is cut
//! for it.
//!
//! The form of the lines is [`logline`]'s and [`record`]'s business.
//!
//! [`record`]: crate::model::record

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use crate::model::address::ClientAddress;
use crate::model::logline::{self, Sequence};
use crate::model::record::{ConnectionRecord, RequestRecord};
use crate::model::settings::{LogDestination, LogFormat};
use crate::model::time::WallTime;
use crate::sys::logfile;
use crate::sys::privileges;
use crate::sys::random;
use crate::sys::reason::words;

/// At most this many bytes to a file at a time.
const CHUNK: usize = 64 * 1024;

/// To anything but a regular file: PIPE_BUF, up to which Linux takes a write to a pipe whole or not at all.
const PIPE_CHUNK: usize = 4096;

/// What a datagram can hold over IPv4; over IPv6 it is a little more.
const DATAGRAM_MAX: usize = 65_507;

/// An open log.
#[derive(Debug)]
pub enum Sink {
    /// A file, opened for appending.
    File(OwnedFd),
    /// A UDP socket connected to penlogd, non-blocking.
    Network(OwnedFd),
}

/// Why a log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log {destination}: {}", words(reason))]
pub struct LogError {
    /// The file, or `host:port`.
    pub destination: String,
    /// What the system says.
    pub reason: io::Error,
}

/// Could the log be this file? Nothing is opened.
///
/// # Errors
///
/// What [`open`] would say.
pub fn check(path: &Path) -> Result<(), LogError> {
    privileges::check_writable(path)
        .map_err(|reason| LogError { destination: path.display().to_string(), reason })
}

/// Opens a log: O_APPEND|O_CREAT|O_CLOEXEC mode 0644, or a connected UDP socket. Resolves a host name (blocking).
pub fn open(destination: &LogDestination) -> Result<Sink, LogError> {
    match destination {
        LogDestination::File(path) => match logfile::open(path) {
            Ok(file) => Ok(Sink::File(file.into())),
            Err(reason) => Err(LogError { destination: path.display().to_string(), reason }),
        },
        LogDestination::Network(host, port) => match connect(host, *port) {
            Ok(socket) => Ok(Sink::Network(socket.into())),
            Err(reason) => Err(LogError { destination: format!("{host}:{port}"), reason }),
        },
    }
}

/// A socket towards the first address of `host` that the routing table knows a way to.
fn connect(host: &str, port: u16) -> io::Result<UdpSocket> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in (host, port).to_socket_addrs()? {
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let connected = UdpSocket::bind(local).and_then(|socket| {
            socket.set_nonblocking(true)?;
            socket.connect(address)?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => return Ok(socket),
            Err(reason) => failure = reason,
        }
    }
    Err(failure)
}

impl Sink {
    /// Another descriptor for the same open log.
    pub fn try_clone(&self) -> io::Result<Sink> {
        match self {
            Sink::File(fd) => fd.try_clone().map(Sink::File),
            Sink::Network(fd) => fd.try_clone().map(Sink::Network),
        }
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Sink::File(fd) | Sink::Network(fd) => fd.as_fd(),
        }
    }
}

/// One worker's writer: collects the lines of a loop turn and writes them at once.
#[derive(Debug)]
pub struct RequestLog {
    output: Output,
    format: LogFormat,
    /// Whole lines, or whole datagrams one after another. Emptied by a flush, never freed.
    gathered: Vec<u8>,
    /// Where each of them ends in `gathered`.
    ends: Vec<usize>,
    lost: u64,
    /// How many of the lost ones a flush has told of.
    told: u64,
}

#[derive(Debug)]
enum Output {
    Nowhere,
    File {
        file: File,
        /// Most bytes for one write.
        chunk: usize,
        /// The last write stopped inside a line and the system took no more of it: the next begins a new line.
        torn: bool,
    },
    Network {
        socket: UdpSocket,
        /// A sink's own: whoever opens it anew begins another stream, and so does each worker.
        sequence: Sequence,
    },
}

impl From<Option<Sink>> for Output {
    fn from(sink: Option<Sink>) -> Self {
        match sink {
            None => Output::Nowhere,
            Some(Sink::File(fd)) => {
                let file = File::from(fd);
                let regular = file.metadata().is_ok_and(|about| about.is_file());
                Output::File { file, chunk: if regular { CHUNK } else { PIPE_CHUNK }, torn: false }
            }
            Some(Sink::Network(fd)) => Output::Network {
                socket: UdpSocket::from(fd),
                sequence: Sequence { stream: random::number(), next: 0 },
            },
        }
    }
}

impl Output {
    /// How long a line can be that is taken as a whole.
    fn most(&self) -> usize {
        match self {
            Output::File { chunk: PIPE_CHUNK, .. } => PIPE_CHUNK,
            Output::Nowhere | Output::File { .. } => usize::MAX,
            Output::Network { .. } => DATAGRAM_MAX,
        }
    }
}

impl RequestLog {
    /// No sink: nothing is logged. The format is the classic's until [`RequestLog::set_format`].
    pub fn new(sink: Option<Sink>) -> Self {
        let format = LogFormat::Classic;
        RequestLog { output: sink.into(), format, gathered: Vec::new(), ends: Vec::new(), lost: 0, told: 0 }
    }

    /// From now on; what was collected is written as it is.
    pub fn set_format(&mut self, format: LogFormat) {
        self.format = format;
    }

    /// Is [`RequestLog::record`] of any use?
    pub fn wants_lines(&self) -> bool {
        self.format == LogFormat::Classic && !matches!(self.output, Output::Nowhere)
    }

    /// Are [`RequestLog::connection`] and [`RequestLog::request`] of any use?
    pub fn wants_records(&self) -> bool {
        self.format == LogFormat::Json && !matches!(self.output, Output::Nowhere)
    }

    /// One line: the client, the time, the server's address without port, and the first line of `chunk`. Nothing in
    /// another format than the classic's.
    pub fn record(&mut self, client: &ClientAddress, server: &dyn fmt::Display, now: WallTime, chunk: &[u8]) {
        if !self.wants_lines() {
            return;
        }
        match &mut self.output {
            Output::Nowhere => return,
            Output::File { .. } => logline::file_line(&mut self.gathered, client, server, now, chunk),
            Output::Network { sequence, .. } => {
                logline::datagram(&mut self.gathered, client, server, sequence, chunk);
            }
        }
        self.collected();
    }

    /// A connection is over, or a flow of datagrams: one object. Nothing in another format than JSON.
    pub fn connection(&mut self, record: &ConnectionRecord<'_>) {
        if self.wants_records() {
            record.write_json(&mut self.gathered);
            self.collected();
        }
    }

    /// A request is over: the same.
    pub fn request(&mut self, record: &RequestRecord<'_>) {
        if self.wants_records() {
            record.write_json(&mut self.gathered, self.output.most());
            self.collected();
        }
    }

    /// The last line is whole.
    fn collected(&mut self) {
        self.ends.push(self.gathered.len());
        if self.gathered.len() >= CHUNK {
            self.write_out();
        }
    }

    /// Writes what has been collected: whole lines, in single writes. Lines that the system did not take are counted
    /// and dropped. Cheap when nothing was collected. Returns the number of lines newly lost, for one warning.
    pub fn flush(&mut self) -> u64 {
        if !self.ends.is_empty() {
            self.write_out();
        }
        let news = self.lost - self.told;
        self.told = self.lost;
        news
    }

    /// Flushes to the old sink, then goes on with the new one.
    pub fn replace(&mut self, sink: Option<Sink>) {
        self.write_out();
        self.output = sink.into();
    }

    /// Lines lost since the start.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    fn write_out(&mut self) {
        self.lost += match &mut self.output {
            Output::Nowhere => 0,
            Output::File { file, chunk, torn } => append(file, &self.gathered, &self.ends, *chunk, torn),
            Output::Network { socket, .. } => send(socket, &self.gathered, &self.ends),
        };
        self.gathered.clear();
        self.ends.clear();
    }
}

/// Appends the lines of `gathered` that end at `ends`, as many of them in each write as `chunk` bytes hold. Returns
/// how many the system did not take.
fn append(file: &mut impl Write, gathered: &[u8], ends: &[usize], chunk: usize, torn: &mut bool) -> u64 {
    let mut start = 0;
    let mut next = 0;
    let mut lost = 0;
    while next < ends.len() {
        if *torn {
            // Only now, when there is a line to separate. If even this does not fit, neither would the line.
            match write(file, b"\n") {
                Ok(_) => *torn = false,
                Err(_) => return (ends.len() - next) as u64 + lost,
            }
        }
        let fitting = ends[next..].partition_point(|&end| end - start <= chunk).max(1);
        let end = ends[next + fitting - 1];
        let written = write_most(file, &gathered[start..end]);
        if start + written < end {
            // Lines are lost from the one that was being written on; those after this chunk may still fit.
            let whole = ends[next..next + fitting].partition_point(|&end| end <= start + written);
            let cut_at = if whole == 0 { start } else { ends[next + whole - 1] };
            *torn = start + written > cut_at;
            lost += (fitting - whole) as u64;
        }
        start = end;
        next += fitting;
    }
    lost
}

/// Writes until all is written or the system refuses: a short write is followed by one of the rest at once, so a
/// line that was cut is finished if it can be. Returns how much was written.
fn write_most(file: &mut impl Write, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match write(file, &bytes[written..]) {
            Ok(more) => written += more,
            Err(_) => break,
        }
    }
    written
}

/// write(2), again if a signal came first. Nothing written is an error here, as nobody could go on from it.
fn write(file: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    loop {
        match file.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// One datagram a record. Returns how many were not sent.
fn send(socket: &UdpSocket, gathered: &[u8], ends: &[usize]) -> u64 {
    let mut lost = 0;
    let mut start = 0;
    for &end in ends {
        let datagram = &gathered[start..end];
        start = end;
        match socket.send(datagram) {
            Ok(_) => {}
            // The kernel tells of an earlier datagram that nobody was there to take; this one it has not tried.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                lost += 1 + u64::from(socket.send(datagram).is_err());
            }
            Err(_) => lost += 1,
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::SocketAddress;
    use crate::model::ids::{ConnId, ServerId, Target, WorkerId};
    use crate::model::listen::Protocol;
    use crate::model::record::{Chosen, ChosenServer, Ended, WallMicros};
    use proptest::prelude::*;
    use std::io::Read;
    use std::net::IpAddr;
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::time::Duration;

    const NOW: WallTime = WallTime(1_795_331_283);

    fn client() -> ClientAddress {
        ClientAddress::Inet(IpAddr::from([127, 0, 0, 7]), 4711)
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pen-log-{}-{name}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn log_to(path: &std::path::Path) -> RequestLog {
        RequestLog::new(Some(open(&LogDestination::File(path.into())).unwrap()))
    }

    fn record(log: &mut RequestLog, request: &str) {
        log.record(&client(), &"127.0.0.1", NOW, request.as_bytes());
    }

    /// A file of limited size, as on a full disk; writes at most `at_once` bytes a time.
    struct Full {
        taken: Vec<u8>,
        room: usize,
        at_once: usize,
        writes: Vec<usize>,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let length = bytes.len().min(self.room).min(self.at_once);
            if length == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= length;
            self.taken.extend_from_slice(&bytes[..length]);
            self.writes.push(length);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(texts: &[&str]) -> (Vec<u8>, Vec<usize>) {
        let mut gathered = Vec::new();
        let ends = texts.iter().map(|text| {
            gathered.extend_from_slice(text.as_bytes());
            gathered.push(b'\n');
            gathered.len()
        });
        let ends = ends.collect();
        (gathered, ends)
    }

    #[test]
    fn lines_wait_for_the_flush_and_are_appended_to_what_is_there() {
        let path = scratch("append");
        std::fs::write(&path, "old\n").unwrap();
        let mut log = log_to(&path);
        record(&mut log, "GET / HTTP/1.0\r\nHost: a\r\n\r\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\n");
        assert_eq!(log.flush(), 0);
        let expected = "old\n127.0.0.7 1795331283 127.0.0.1 GET / HTTP/1.0\n";
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_new_log_is_readable_by_all_and_writable_by_its_owner() {
        let path = scratch("mode");
        drop(log_to(&path));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o022, 0o644);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn without_a_sink_nothing_is_gathered() {
        let mut log = RequestLog::new(None);
        assert!(!log.wants_lines());
        record(&mut log, "GET /");
        assert!(log.gathered.is_empty());
        assert_eq!(log.flush(), 0);
    }

    #[test]
    fn a_log_that_cannot_be_opened_names_itself_and_the_reason() {
        let error = open(&LogDestination::File("/no/such/directory/log".into())).unwrap_err();
        let expected = "cannot open the log /no/such/directory/log: No such file or directory";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn more_than_a_chunk_is_written_before_the_turn_ends_and_memory_stays_bounded() {
        let path = scratch("chunk");
        let mut log = log_to(&path);
        for number in 0..20_000 {
            record(&mut log, &format!("GET /{number} {}", "x".repeat(60)));
            assert!(log.gathered.len() < CHUNK);
        }
        assert_eq!(log.flush(), 0);
        let text = std::fs::read_to_string(&path).unwrap();
        let numbers = text.lines().map(|line| line.split([' ', '/']).nth(5).unwrap().parse::<u32>().unwrap());
        assert!(numbers.eq(0..20_000));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn replacing_the_sink_flushes_to_the_old_one_first() {
        let (old, new) = (scratch("old"), scratch("new"));
        let mut log = log_to(&old);
        record(&mut log, "before");
        log.replace(Some(open(&LogDestination::File(new.clone())).unwrap()));
        record(&mut log, "after");
        log.flush();
        assert!(std::fs::read_to_string(&old).unwrap().ends_with("before\n"));
        assert!(std::fs::read_to_string(&new).unwrap().ends_with("after\n"));
        for path in [old, new] {
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_full_disk_loses_lines_counts_them_and_tells_once() {
        let mut log = RequestLog::new(Some(open(&LogDestination::File("/dev/full".into())).unwrap()));
        for _ in 0..3 {
            record(&mut log, "GET /");
        }
        assert_eq!(log.flush(), 3);
        assert_eq!(log.flush(), 0);
        assert_eq!(log.lost(), 3);
    }

    #[test]
    fn a_fifo_without_a_reader_neither_blocks_nor_fails_at_the_start() {
        let path = scratch("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        let mut log = log_to(&path);
        record(&mut log, "kept in the pipe");
        assert_eq!(log.flush(), 0);
        for _ in 0..5_000 {
            record(&mut log, "more than a pipe holds");
        }
        assert!(log.flush() > 0);
        let mut reader = std::fs::OpenOptions::new().read(true).open(&path).unwrap();
        let mut buffer = [0; 4096];
        let length = reader.read(&mut buffer).unwrap();
        assert!(buffer[..length].starts_with(b"127.0.0.7 1795331283 127.0.0.1 kept in the pipe\n"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_line_cut_by_a_short_write_is_finished_at_once() {
        let (gathered, ends) = lines(&["one", "two", "three"]);
        let mut file = Full { taken: Vec::new(), room: 1000, at_once: 5, writes: Vec::new() };
        let mut torn = false;
        assert_eq!(append(&mut file, &gathered, &ends, CHUNK, &mut torn), 0);
        assert_eq!(file.taken, gathered);
        assert!(!torn);
    }

    #[test]
    fn after_a_line_that_could_not_be_finished_the_next_begins_on_its_own() {
        let (gathered, ends) = lines(&["one", "two", "three"]);
        let mut file = Full { taken: Vec::new(), room: 6, at_once: 1000, writes: Vec::new() };
        let mut torn = false;
        assert_eq!(append(&mut file, &gathered, &ends, CHUNK, &mut torn), 2);
        assert!(torn);
        file.room = 1000;
        let (gathered, ends) = lines(&["four"]);
        assert_eq!(append(&mut file, &gathered, &ends, CHUNK, &mut torn), 0);
        assert_eq!(file.taken, b"one\ntw\nfour\n");
    }

    proptest! {
        #[test]
        fn every_write_holds_whole_lines_within_the_chunk(
            texts in proptest::collection::vec("[a-z]{0,40}", 1..60),
            chunk in 1usize..200,
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let (gathered, ends) = lines(&texts);
            let mut file = Full { taken: Vec::new(), room: usize::MAX, at_once: usize::MAX, writes: Vec::new() };
            prop_assert_eq!(append(&mut file, &gathered, &ends, chunk, &mut false), 0);
            prop_assert_eq!(&file.taken, &gathered);
            let (mut at, longest) = (0, texts.iter().map(|text| text.len() + 1).max().unwrap());
            for length in file.writes {
                prop_assert!(length <= chunk.max(longest));
                at += length;
                prop_assert!(ends.contains(&at));
            }
        }

        #[test]
        fn whatever_the_room_what_is_not_counted_as_lost_is_in_the_file(
            texts in proptest::collection::vec("[a-z]{1,20}", 1..30),
            room in 0usize..400,
            at_once in 1usize..50,
        ) {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let (gathered, ends) = lines(&texts);
            let mut file = Full { taken: Vec::new(), room, at_once, writes: Vec::new() };
            let lost = append(&mut file, &gathered, &ends, 64, &mut false) as usize;
            let taken = String::from_utf8(file.taken).unwrap();
            let whole = taken.matches('\n').count();
            prop_assert_eq!(whole + lost, texts.len());
        }
    }

    fn request(text: &[u8], say: impl FnOnce(&RequestRecord<'_>)) {
        let address = SocketAddress::Inet(([127, 0, 0, 1], 80).into());
        let chosen = Chosen::RoundRobin;
        say(&RequestRecord {
            worker: WorkerId(0),
            conn: ConnId(0),
            client: client(),
            server: Some(ChosenServer { target: Target::Server(ServerId(0)), address: &address, chosen }),
            request: text,
            status: Some(200),
            began: WallMicros(1_795_331_283_000_000),
            duration: 1,
            up: 1,
            down: 1,
            ended: Ended::ServerClosed,
            tls: None,
        });
    }

    fn connection(log: &mut RequestLog) {
        log.connection(&ConnectionRecord {
            protocol: Protocol::Tcp,
            worker: WorkerId(0),
            conn: ConnId(0),
            client: Some(client()),
            server: None,
            attempts: 0,
            began: WallMicros(1_795_331_283_000_000),
            connected_after: None,
            duration: 1,
            up: 0,
            down: 0,
            datagrams: None,
            ended: Ended::ClientClosed,
            tls: None,
        });
    }

    fn json_to(path: &std::path::Path) -> RequestLog {
        let mut log = log_to(path);
        log.set_format(LogFormat::Json);
        log
    }

    /// The requests of a log's objects, or what event else there is.
    fn events(text: &str) -> Vec<String> {
        let objects = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let shown = objects.map(|it| it.get("request").unwrap_or(&it["event"]).as_str().unwrap().to_owned());
        shown.collect()
    }

    #[test]
    fn each_format_has_its_own_and_changes_between_lines() {
        let path = scratch("formats");
        let mut log = log_to(&path);
        let all = |log: &mut RequestLog, text: &str| {
            record(log, text);
            connection(log);
            request(text.as_bytes(), |record| log.request(record));
        };
        assert!(log.wants_lines() && !log.wants_records());
        all(&mut log, "first");
        log.set_format(LogFormat::Json);
        assert!(log.wants_records() && !log.wants_lines());
        all(&mut log, "second");
        log.set_format(LogFormat::Classic);
        all(&mut log, "third");
        assert_eq!(log.flush(), 0);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[0].ends_with(" first") && lines[3].ends_with(" third"), "{text}");
        assert_eq!(events(&lines[1..3].join("\n")), ["connection", "second"]);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn without_a_sink_no_format_wants_anything() {
        let mut log = RequestLog::new(None);
        for format in [LogFormat::Classic, LogFormat::Json] {
            log.set_format(format);
            assert!(!log.wants_lines() && !log.wants_records());
            connection(&mut log);
        }
        assert!(log.gathered.is_empty());
    }

    #[test]
    fn a_file_takes_a_request_of_any_length() {
        let path = scratch("long");
        let mut log = json_to(&path);
        let text = vec![0x1b; 100_000];
        request(&text, |record| log.request(record));
        connection(&mut log);
        assert_eq!(log.flush(), 0);
        let requests = events(&std::fs::read_to_string(&path).unwrap());
        assert_eq!((requests[0].len(), requests[1].as_str()), (100_000, "connection"));
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn an_object_in_a_pipe_is_never_longer_than_what_the_kernel_takes_as_a_whole() {
        let path = scratch("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
        let mut log = json_to(&path);
        for length in [10, 3000, 4000, 30_000] {
            request(&vec![b'x'; length], |record| log.request(record));
        }
        let lengths: Vec<usize> =
            log.ends.iter().scan(0, |start, &end| Some(end - std::mem::replace(start, end))).collect();
        assert_eq!(lengths[2..], [PIPE_CHUNK; 2]);
        assert!(lengths[1] > 3000 && lengths[1] < PIPE_CHUNK);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_datagram_is_one_object_and_what_is_too_long_for_it_is_cut() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = receiver.local_addr().unwrap().port();
        let destination = LogDestination::Network("127.0.0.1".into(), port);
        let mut log = RequestLog::new(Some(open(&destination).unwrap()));
        log.set_format(LogFormat::Json);
        connection(&mut log);
        request(&vec![b'\n'; 40_000], |record| log.request(record));
        assert_eq!(log.flush(), 0);
        let mut buffer = vec![0; 70_000];
        let mut receive = || {
            let length = receiver.recv(&mut buffer).unwrap();
            (length, events(std::str::from_utf8(&buffer[..length]).unwrap()).remove(0))
        };
        assert_eq!(receive().1, "connection");
        let (length, text) = receive();
        // Each of them is six bytes, so five may be left.
        assert!((DATAGRAM_MAX - 5..=DATAGRAM_MAX).contains(&length));
        assert!(text.len() > 10_000 && text.bytes().all(|byte| byte == b'\n'));
    }

    #[test]
    fn the_network_log_sends_one_datagram_a_record() {
        let penlogd = UdpSocket::bind("127.0.0.1:0").unwrap();
        penlogd.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = penlogd.local_addr().unwrap().port();
        let mut log =
            RequestLog::new(Some(open(&LogDestination::Network("127.0.0.1".into(), port)).unwrap()));
        record(&mut log, "GET /a HTTP/1.0\r\n");
        record(&mut log, &"x".repeat(5000));
        assert_eq!(log.flush(), 0);
        let mut buffer = [0; 2048];
        let length = penlogd.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let (record, sequence) = text.split_once('\n').unwrap();
        assert_eq!(record, "+ 127.0.0.7 127.0.0.1 GET /a HTTP/1.0");
        assert!(sequence.len() == 12 && sequence.starts_with('#') && sequence.ends_with(" 0\n"), "{text}");
        assert_eq!(penlogd.recv(&mut buffer).unwrap(), 1024);
    }

    /// The stream and number of the next datagram.
    fn sequence(penlogd: &UdpSocket) -> (String, u64) {
        let mut buffer = [0; 2048];
        let length = penlogd.recv(&mut buffer).unwrap();
        let text = std::str::from_utf8(&buffer[..length]).unwrap();
        let (stream, number) = text.lines().nth(1).unwrap().split_once(' ').unwrap();
        (stream.to_owned(), number.parse().unwrap())
    }

    #[test]
    fn each_log_numbers_its_datagrams_and_begins_anew_with_another_sink() {
        let penlogd = UdpSocket::bind("127.0.0.1:0").unwrap();
        penlogd.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = penlogd.local_addr().unwrap().port();
        let sink = open(&LogDestination::Network("127.0.0.1".into(), port)).unwrap();
        let mut other = RequestLog::new(Some(sink.try_clone().unwrap()));
        let mut log = RequestLog::new(Some(sink.try_clone().unwrap()));
        let mut streams = std::collections::BTreeSet::new();
        let mut expect = |log: &mut RequestLog, numbers: std::ops::Range<u64>| {
            for _ in numbers.clone() {
                record(log, "GET /");
            }
            log.flush();
            for number in numbers {
                let (stream, found) = sequence(&penlogd);
                assert_eq!(found, number);
                streams.insert(stream);
            }
        };
        expect(&mut log, 0..3);
        expect(&mut other, 0..1);
        expect(&mut log, 3..5);
        log.replace(Some(sink));
        expect(&mut log, 0..2);
        assert_eq!(streams.len(), 3, "{streams:?}");
    }

    #[test]
    fn a_datagram_that_was_not_sent_has_a_number_all_the_same() {
        let penlogd = UdpSocket::bind("127.0.0.1:0").unwrap();
        penlogd.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = penlogd.local_addr().unwrap().port();
        let sink = open(&LogDestination::Network("127.0.0.1".into(), port)).unwrap();
        let Sink::Network(socket) = sink.try_clone().unwrap() else { panic!("{sink:?}") };
        let mut log = RequestLog::new(Some(sink));
        // It hears nobody but itself: for all others there is nobody.
        penlogd.connect(penlogd.local_addr().unwrap()).unwrap();
        for _ in 0..10 {
            record(&mut log, "GET /");
            log.flush();
        }
        assert!(log.lost() > 0);
        penlogd.connect(UdpSocket::from(socket).local_addr().unwrap()).unwrap();
        record(&mut log, "GET /");
        log.flush();
        assert_eq!(sequence(&penlogd).1, 10);
    }

    #[test]
    fn a_penlogd_that_is_not_there_costs_lines_and_nothing_else() {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut log =
            RequestLog::new(Some(open(&LogDestination::Network("127.0.0.1".into(), port)).unwrap()));
        for _ in 0..10 {
            record(&mut log, "GET /");
            log.flush();
        }
        assert!((1..=10).contains(&log.lost()));
    }

    #[test]
    fn a_clone_writes_to_the_same_log() {
        let path = scratch("clone");
        let sink = open(&LogDestination::File(path.clone())).unwrap();
        let mut logs = [RequestLog::new(Some(sink.try_clone().unwrap())), RequestLog::new(Some(sink))];
        for log in &mut logs {
            record(log, "GET /");
        }
        for log in &mut logs {
            log.flush();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
        std::fs::remove_file(&path).unwrap();
    }
}
