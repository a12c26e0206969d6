//! What must hold whatever text comes from outside. A function a target: it takes any bytes, and panics if something
//! does not hold.
//!
//! Called by the fuzzer (`contrib/fuzz/fuzz_targets`) and, with the corpus and mutations of it, by `tests/corpus.rs`.

use std::fmt::{Debug, Display};
use std::io;
use std::path::Path;
use std::str::FromStr;

use pen::model::address::{ClientAddress, Host, ListenSpec, Port, ServerSpec};
use pen::model::apply::MAX_DEBUG;
use pen::model::command::Command;
use pen::model::config;
use pen::model::ids::{MAX_CLIENTS, MAX_CONNECTIONS, MAX_SERVERS, MAX_WORKERS};
use pen::model::listen::Protocol;
use pen::model::proxy::ProxySend;
use pen::model::server_name::{NameIndex, NamePattern};
use pen::model::settings::{LogDestination, Settings};
use pen::net::control::request::{LARGEST_BATCH, LONGEST_LINE, Verdict};
use pen::net::control::{Request, RequestReader};
use pen::policy::client_hello::{self, Hello};
use pen::policy::http::body::{Body, Chunked};
use pen::policy::http::head::Kind;
use pen::policy::http::responses::Responses;
use pen::policy::proxy_header::{self, Flaw, Header, Outgoing, Route, Verdict as HeaderVerdict};

mod http_head;
mod merge;
mod weblogs;

pub use http_head::http_head;
pub use merge::merge;
pub use weblogs::{penlogd, web_line};

/// More lines than this say nothing new, and take time.
const MOST_LINES: usize = 32;

/// Lines of commands, carried out one after another.
pub fn command(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    let mut settings = Settings::default();
    for line in text.lines().take(MOST_LINES) {
        carry_out(&mut settings, line);
    }
    check_settings(&settings);
    // The same lines as a file: all or nothing.
    let nothing_to_include = |_: &Path| Err(io::ErrorKind::NotFound.into());
    match config::read(&Settings::default(), "input", text, nothing_to_include) {
        Ok(reading) => {
            let (before, after) = (Settings::default(), &reading.settings);
            check_settings(after);
            assert_eq!(after.generation, before.generation + 1);
            // Tables grow and never shrink.
            assert!(after.clients_max >= before.clients_max && after.conn_max >= before.conn_max);
            assert_eq!(reading.settings.problems(), []);
        }
        Err(rejected) => {
            assert!(!rejected.faults.is_empty());
            rejected.faults.iter().for_each(|fault| assert_is_one_line(&fault.to_string()));
        }
    }
}

fn carry_out(settings: &mut Settings, line: &str) {
    let parsed = match Command::parse(line) {
        Ok(Some(parsed)) => parsed,
        Ok(None) => return,
        Err(error) => return assert_is_one_line(&error.to_string()),
    };
    parsed.notices.iter().for_each(|notice| assert_is_one_line(&notice.to_string()));
    assert_eq!(Command::parse(&format!("\t{line}  # and a comment")), Ok(Some(parsed.clone())));
    let before = settings.clone();
    let outcome = settings.apply(parsed.command.clone());
    let reply = &outcome.reply;
    assert!(reply.is_empty() || reply.ends_with('\n') || matches!(parsed.command, Command::Constant(_)));
    assert_eq!(settings.generation, before.generation);
    assert!(settings.servers.len() >= before.servers.len());
    if changes_nothing(&parsed.command) {
        assert_eq!(*settings, before, "a question changes nothing");
    }
    if !matches!(parsed.command, Command::AclAdd(..)) {
        let mut again = settings.clone();
        assert_eq!(again.apply(parsed.command), outcome);
        assert_eq!(again, *settings, "twice is no more than once");
    }
}

fn changes_nothing(command: &Command) -> bool {
    command.is_question() || matches!(command, Command::Operation(_) | Command::Nothing)
}

fn check_settings(settings: &Settings) {
    assert!(settings.servers.len() <= MAX_SERVERS as usize);
    assert!(settings.clients_max <= MAX_CLIENTS && settings.conn_max <= MAX_CONNECTIONS);
    assert!(settings.timeout.0 >= 1 && settings.pending_max >= 1 && settings.debug <= MAX_DEBUG);
    assert!(settings.udp_timeout.idle.0 >= 1 && settings.udp_timeout.replies != Some(0));
    assert!(settings.workers.is_none_or(|workers| (1..=MAX_WORKERS).contains(&workers)));
    let text = serde_json::to_string(settings).expect("settings are text");
    let arrived: Settings = serde_json::from_str(&text).expect("what a worker gets are settings");
    assert_eq!(arrived, *settings);
}

/// Lines of addresses and the like, each read as all there are.
pub fn specs(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    for line in text.lines().take(MOST_LINES) {
        assert_is_stable::<ServerSpec>(line);
        assert_is_stable::<ListenSpec>(line);
        assert_is_stable::<LogDestination>(line);
        assert_is_stable::<Host>(line);
        assert_is_stable::<Port>(line);
        if let Ok(spec) = line.parse::<ListenSpec>() {
            assert_eq!(spec.to_string(), line);
            assert_ne!(spec.port, Port::Listeners);
        }
    }
}

/// The text of what was read reads as the same.
fn assert_is_stable<T: FromStr<Err: Display> + Display + Debug + PartialEq>(text: &str) {
    match text.parse::<T>() {
        Ok(value) => {
            let shown = value.to_string();
            assert_eq!(shown.parse::<T>().ok().as_ref(), Some(&value), "{shown:?}, of {text:?}");
        }
        Err(error) => assert_is_one_line(&error.to_string()),
    }
}

/// A stream of the control port; the bytes behind the last 0xff, if there is one, say where it is cut.
pub fn session(input: &[u8]) {
    let (stream, cuts) = match input.iter().rposition(|&byte| byte == 0xff) {
        Some(position) => (&input[..position], &input[position + 1..]),
        None => (input, &[][..]),
    };
    let whole = read(&[stream]);
    assert_eq!(read(&stream.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    let mut pieces = Vec::new();
    let mut rest = stream;
    for &cut in cuts {
        let (piece, after) = rest.split_at(rest.len().min(cut.into()));
        pieces.push(piece);
        rest = after;
    }
    pieces.push(rest);
    assert_eq!(read(&pieces), whole, "in pieces");
    check_pause(pieces[0]);
    match whole {
        Some(Ok(Request::Command(line))) => {
            assert!(!line.contains(['\r', '\n', '\0']));
            // Comments in other encodings get longer, by two bytes a byte.
            assert!(line.len() <= 3 * LONGEST_LINE);
            let _ = Command::parse(&line);
        }
        Some(Ok(Request::Batch(text))) => {
            assert!(text.is_empty() || text.ends_with('\n'));
            assert!(text.len() <= 3 * LARGEST_BATCH);
            assert!(!text.lines().any(|line| line.trim_matches([' ', '\t', '\r']) == "end"));
            command(text.as_bytes());
        }
        Some(Err(refusal)) => assert_is_one_line(&refusal.to_string()),
        None => panic!("the end of the stream is the end of the request"),
    }
}

fn read(pieces: &[&[u8]]) -> Verdict {
    let mut reader = RequestReader::default();
    let verdict = pieces.iter().find_map(|piece| reader.push(piece)).or_else(|| reader.end());
    assert_eq!((reader.push(b"mode\n"), reader.settle(), reader.end()), (None, None, None));
    verdict
}

/// After a pause there is what the end of the stream would have brought, or nothing.
fn check_pause(stream: &[u8]) {
    let mut reader = RequestReader::default();
    if reader.push(stream).is_none() {
        let can_settle = reader.can_settle();
        let settled = reader.settle();
        assert_eq!(settled.is_some(), can_settle);
        match settled {
            Some(verdict) => assert_eq!(Some(verdict), read(&[stream])),
            None => assert!(reader.end().is_some()),
        }
    }
}

/// The first bytes of a client, as if they came in pieces, and in other records.
pub fn client_hello(input: &[u8]) {
    let whole = client_hello::parse(input);
    for step in 0..64 {
        let sooner = client_hello::parse(&input[..input.len() * step / 64]);
        assert!(sooner == Hello::Incomplete || sooner == whole, "{sooner:?}, then {whole:?}");
    }
    assert!(whole != Hello::Incomplete || input.len() < client_hello::LONGEST);
    if matches!(whole, Hello::Name(_) | Hello::NoName) {
        for size in [1, 2, 3, 5, 100, 1400] {
            let stream = in_records(input, size);
            let again = client_hello::parse(&stream);
            assert!(again == whole || stream.len() > client_hello::LONGEST, "records of {size}: {again:?}");
        }
    }
    if let Hello::Name(name) = &whole {
        assert!(!name.is_empty() && name.len() < input.len());
        let mut index = NameIndex::default();
        if let Ok(pattern) = name.parse::<NamePattern>() {
            index.add(&pattern, ());
            assert_eq!(index.find(name).is_some(), !pattern.is_wildcard());
        }
        assert_eq!(NameIndex::<()>::default().find(name), None);
    }
}

/// The first bytes of a connection that is to begin with a header of the PROXY protocol, as if they came in pieces; the
/// same bytes as a datagram; and what is announced, announced on.
pub fn proxy_header(input: &[u8]) {
    let whole = proxy_header::parse(input);
    for length in (0..input.len()).step_by(input.len() / 256 + 1) {
        let sooner = proxy_header::parse(&input[..length]);
        assert!(sooner == HeaderVerdict::Incomplete || sooner == whole, "{sooner:?}, then {whole:?}");
    }
    match whole {
        HeaderVerdict::Whole(header) => {
            assert!((15..=proxy_header::LONGEST.min(input.len())).contains(&header.length));
            assert_eq!(proxy_header::parse(&input[..header.length]), whole);
            assert_eq!(proxy_header::parse(&input[..header.length - 1]), HeaderVerdict::Incomplete);
            announce_on(&header);
        }
        HeaderVerdict::Incomplete => assert!(input.len() < proxy_header::LONGEST),
        HeaderVerdict::Broken(flaw) => assert_is_one_line(&flaw.to_string()),
    }
    match proxy_header::parse_datagram(input) {
        Ok(Some(header)) => {
            assert!((16..=proxy_header::LONGEST.min(input.len())).contains(&header.length));
            let (alone, cut) = (&input[..header.length], &input[..header.length - 1]);
            assert_eq!(proxy_header::parse_datagram(alone), Ok(Some(header)));
            assert!(proxy_header::parse_datagram(cut).map_or(true, |header| header.is_none()));
            // On a stream it is the same header, or about something else.
            assert!(
                matches!(whole, HeaderVerdict::Broken(Flaw::Datagrams))
                    || whole == HeaderVerdict::Whole(header)
            );
            announce_on(&header);
        }
        Ok(None) => assert!(!matches!(whole, HeaderVerdict::Whole(_))),
        Err(flaw) => assert_is_one_line(&flaw.to_string()),
    }
}

/// A server is told of the same client, in the words of any version.
fn announce_on(header: &Header) {
    let (source, destination) = match header.route {
        Route::Inet { source, destination } => (ClientAddress::from(source), Some(destination)),
        Route::Unix | Route::Own => (ClientAddress::Unix, None),
    };
    let told = |protocol, version| Outgoing { protocol, source, destination, tls: None }.header(version);
    for version in [ProxySend::V1, ProxySend::V2] {
        let again = told(Protocol::Tcp, version);
        let HeaderVerdict::Whole(again) = proxy_header::parse(&again) else {
            panic!("no header: {}", again.escape_ascii());
        };
        assert_tells_of(&again, &source);
    }
    let again = told(Protocol::Udp, ProxySend::V2);
    let Ok(Some(again)) = proxy_header::parse_datagram(&again) else {
        panic!("no header: {}", again.escape_ascii());
    };
    assert_tells_of(&again, &source);
}

fn assert_tells_of(header: &Header, client: &ClientAddress) {
    match header.route {
        Route::Inet { source, .. } => assert_eq!(ClientAddress::from(source), *client),
        Route::Unix | Route::Own => assert_eq!(*client, ClientAddress::Unix),
    }
}

/// The handshake records at the beginning, what is in them in records of so many bytes.
fn in_records(stream: &[u8], size: usize) -> Vec<u8> {
    let (mut content, mut rest) = (Vec::new(), &stream[..stream.len().min(client_hello::LONGEST)]);
    while let [22, 3, _, high, low, after @ ..] = rest {
        let (fragment, after) = after.split_at(after.len().min(u16::from_be_bytes([*high, *low]).into()));
        content.extend_from_slice(fragment);
        rest = after;
    }
    let records = content.chunks(size).map(|fragment| {
        let [high, low] = u16::try_from(fragment.len()).expect("short records").to_be_bytes();
        [&[22, 3, 3, high, low], fragment].concat()
    });
    records.flatten().collect()
}

/// A chunked body, and a server's responses. The first byte says how it is cut, and what was asked for.
pub fn http_stream(input: &[u8]) {
    let Some((&pattern, stream)) = input.split_first() else { return };
    let size = usize::from(pattern % 64) + 1;
    let whole = pass_body(stream, stream.len(), false);
    assert_eq!(pass_body(stream, 1, false), whole, "byte by byte");
    assert_eq!(pass_body(stream, size, false), whole, "in pieces of {size}");
    assert_eq!(pass_body(stream, size, true), whole, "in pieces of {size}, skipped");
    let kinds = [Kind::Plain, Kind::Head, Kind::Plain, Kind::Upgrade, Kind::Plain, Kind::Connect];
    let asked = kinds.iter().cycle().skip(usize::from(pattern / 64)).take(MOST_LINES);
    let mut responses = Responses::default();
    asked.for_each(|&kind| responses.expect(kind));
    let whole = see_responses(responses.clone(), stream, stream.len(), false);
    assert_eq!(see_responses(responses.clone(), stream, 1, false), whole, "byte by byte");
    assert_eq!(see_responses(responses.clone(), stream, size, false), whole, "in pieces of {size}");
    assert_eq!(see_responses(responses, stream, size, true), whole, "in pieces of {size}, skipped");
    assert!(whole.outstanding() <= MOST_LINES && !whole.is_full());
    assert!(whole.outstanding() == 0 || !whole.is_lost());
    assert!(whole.unseen() == 0 || !whole.is_between());
}

/// What is left of a chunked body after these bytes, and how many of them are not its own; nothing if it is none.
fn pass_body(stream: &[u8], size: usize, skipping: bool) -> Option<(Body, usize)> {
    let mut body = Body::Chunked(Chunked::default());
    let mut rest = stream;
    while !rest.is_empty() && !body.is_over() {
        let (piece, _) = rest.split_at(rest.len().min(size));
        let unseen = if skipping { unseen(body.unseen(), piece) } else { 0 };
        body.skip(unseen as u64);
        let passed = unseen + body.pass(&piece[unseen..]).ok()?;
        assert!(passed == piece.len() || body.is_over());
        rest = &rest[passed..];
    }
    assert!(!body.is_over() || (body.unseen() == 0 && body.pass(rest) == Ok(0)));
    Some((body, rest.len()))
}

fn see_responses(mut responses: Responses, stream: &[u8], size: usize, skipping: bool) -> Responses {
    for piece in stream.chunks(size.max(1)) {
        let unseen = if skipping { unseen(responses.unseen(), piece) } else { 0 };
        responses.skip(unseen as u64);
        responses.see(&piece[unseen..]);
    }
    responses
}

/// How many bytes of the piece need not be looked at.
fn unseen(unseen: u64, piece: &[u8]) -> usize {
    usize::try_from(unseen).map_or(piece.len(), |unseen| unseen.min(piece.len()))
}

fn assert_is_one_line(message: &str) {
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
}
