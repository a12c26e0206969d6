//! A record as one JSON object on one line, which nothing but printable ASCII is in, whatever clients send: everything
//! else is written as `\uXXXX`. So no reader, program or terminal, sees another line end or anything to obey in it.
//!
//! Fields that have no value are left out, and their order is pen(1)'s, REQUEST LOG. Written by hand because requests
//! are many: serde_json takes more than twice as long for the same, and the tests read back with it whatever is written.

use std::fmt::{self, Display, Write};

use super::{ChosenServer, ConnectionRecord, Ended, Protocol, RequestRecord, TlsFacts, WallMicros};
use crate::model::address::{ClientAddress, SocketAddress};
use crate::model::ids::{ConnId, Target, WorkerId};

impl ConnectionRecord<'_> {
    /// Appends the object and a line end.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        let mut object = Object { out };
        object.begin(end(self.began, self.duration), "connection", self.protocol, self.worker, self.conn);
        object.addresses(self.client.as_ref(), self.server.as_ref());
        object.number("attempts", self.attempts.into());
        object.word("began", self.began.rfc3339().as_str());
        if let Some(micros) = self.connected_after {
            object.number("connect_us", micros);
        }
        object.traffic(self.duration, self.up, self.down);
        if let Some((up, down)) = self.datagrams {
            object.number("datagrams_up", up);
            object.number("datagrams_down", down);
        }
        object.ending(self.ended, self.tls.as_ref());
        object.end();
    }
}

impl RequestRecord<'_> {
    /// Appends the object and a line end, `most` bytes at most: the request is cut for it, and `request_length` says how
    /// long it was.
    pub fn write_json(&self, out: &mut Vec<u8>, most: usize) {
        let start = out.len();
        self.write(out, self.request);
        if out.len() - start <= most {
            return;
        }
        out.truncate(start);
        self.write(out, b"");
        let room = most.saturating_sub(out.len() - start);
        out.truncate(start);
        self.write(out, fitting(self.request, room));
    }

    /// With so much of the request's text.
    fn write(&self, out: &mut Vec<u8>, text: &[u8]) {
        let mut object = Object { out };
        object.begin(end(self.began, self.duration), "request", Protocol::Tcp, self.worker, self.conn);
        object.addresses(Some(&self.client), self.server.as_ref());
        object.word("began", self.began.rfc3339().as_str());
        object.traffic(self.duration, self.up, self.down);
        object.ending(self.ended, self.tls.as_ref());
        object.bytes("request", text);
        if text.len() < self.request.len() {
            object.number("request_length", self.request.len() as u64);
        }
        if let Some(status) = self.status {
            object.number("status", status.into());
        }
        object.end();
    }
}

fn end(began: WallMicros, duration: u64) -> WallMicros {
    WallMicros(began.0.saturating_add(duration))
}

/// The object that is being written.
struct Object<'a> {
    out: &'a mut Vec<u8>,
}

impl Object<'_> {
    fn begin(
        &mut self,
        time: WallMicros,
        event: &'static str,
        protocol: Protocol,
        worker: WorkerId,
        conn: ConnId,
    ) {
        self.out.extend_from_slice(b"{\"time\":\"");
        self.out.extend_from_slice(time.rfc3339().as_str().as_bytes());
        self.out.push(b'"');
        self.word("event", event);
        self.text("protocol", protocol);
        self.number("worker", worker.0.into());
        self.number("connection", conn.0.into());
    }

    fn addresses(&mut self, client: Option<&ClientAddress>, server: Option<&ChosenServer<'_>>) {
        if let Some(client) = client {
            self.text("client", client);
        }
        if let Some(ClientAddress::Inet(_, port @ 1..)) = client {
            self.number("client_port", (*port).into());
        }
        let Some(ChosenServer { target, address, chosen }) = server else {
            return;
        };
        match target {
            Target::Server(server) => self.number("server", server.0.into()),
            Target::Emergency => self.word("server", "emergency"),
            Target::Abuse => self.word("server", "abuse"),
        }
        match address {
            SocketAddress::Inet(inet) => {
                self.text("server_address", inet.ip());
                self.number("server_port", inet.port().into());
            }
            SocketAddress::Unix(path) => self.text("server_address", path.display()),
        }
        self.word("chosen", chosen.word());
    }

    fn traffic(&mut self, duration: u64, up: u64, down: u64) {
        self.number("duration_us", duration);
        self.number("bytes_up", up);
        self.number("bytes_down", down);
    }

    fn ending(&mut self, ended: Ended, tls: Option<&TlsFacts<'_>>) {
        self.word("ended", ended.word());
        let Some(TlsFacts { version, name }) = tls else {
            return;
        };
        if let Some(version) = version {
            self.text("tls_version", version);
        }
        if let Some(name) = name {
            self.text("tls_name", name);
        }
    }

    fn end(self) {
        self.out.extend_from_slice(b"}\n");
    }

    /// Never the first.
    fn name(&mut self, name: &'static str) {
        self.out.extend_from_slice(b",\"");
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn number(&mut self, name: &'static str, number: u64) {
        self.name(name);
        let mut digits = [0; 20];
        let mut first = digits.len();
        let mut rest = number;
        loop {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.out.extend_from_slice(&digits[first..]);
    }

    /// A string of ours: there is nothing to escape in it.
    fn word(&mut self, name: &'static str, word: &str) {
        self.name(name);
        self.out.push(b'"');
        self.out.extend_from_slice(word.as_bytes());
        self.out.push(b'"');
    }

    /// A string of what something shows.
    fn text(&mut self, name: &'static str, text: impl Display) {
        self.name(name);
        self.out.push(b'"');
        write!(Escaping(self.out), "{text}").expect("writing to memory");
        self.out.push(b'"');
    }

    /// A string of what a client has sent: what is not UTF-8 is U+FFFD.
    fn bytes(&mut self, name: &'static str, bytes: &[u8]) {
        self.name(name);
        self.out.push(b'"');
        for chunk in bytes.utf8_chunks() {
            escape(self.out, chunk.valid());
            if !chunk.invalid().is_empty() {
                escape_one(self.out, char::REPLACEMENT_CHARACTER);
            }
        }
        self.out.push(b'"');
    }
}

/// The inside of a string.
struct Escaping<'a>(&'a mut Vec<u8>);

impl Write for Escaping<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

fn escape(out: &mut Vec<u8>, text: &str) {
    let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    let mut rest = text;
    while let Some(at) = rest.bytes().position(|byte| !is_plain(byte)) {
        let (plain, others) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let mut characters = others.chars();
        characters.next().into_iter().for_each(|character| escape_one(out, character));
        rest = characters.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

/// A character that cannot be in a string as it is.
fn escape_one(out: &mut Vec<u8>, character: char) {
    if let '"' | '\\' = character {
        out.extend_from_slice(&[b'\\', character as u8]);
        return;
    }
    for unit in character.encode_utf16(&mut [0; 2]) {
        out.extend_from_slice(b"\\u");
        out.extend([12, 8, 4, 0].map(|shift| b"0123456789abcdef"[usize::from(*unit >> shift & 15)]));
    }
}

/// How much of `request` is `room` bytes long at most when it is written.
fn fitting(request: &[u8], mut room: usize) -> &[u8] {
    let mut end = 0;
    for chunk in request.utf8_chunks() {
        let wrong = Some(chunk.invalid()).filter(|wrong| !wrong.is_empty());
        let characters = chunk.valid().chars().map(|character| (character, character.len_utf8()));
        let replaced = wrong.map(|wrong| (char::REPLACEMENT_CHARACTER, wrong.len()));
        for (character, length) in characters.chain(replaced) {
            match room.checked_sub(escaped_length(character)) {
                Some(rest) => room = rest,
                None => return &request[..end],
            }
            end += length;
        }
    }
    request
}

/// How long a character is in a string.
fn escaped_length(character: char) -> usize {
    match character {
        '"' | '\\' => 2,
        ' '..='~' => 1,
        other => other.len_utf16() * 6,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::path::PathBuf;

    use proptest::prelude::*;
    use serde_json::Value;

    use super::super::{Chosen, Ended};
    use super::*;
    use crate::model::ids::{ConnId, ServerId, WorkerId};

    const BEGAN: WallMicros = WallMicros(1_795_459_325_000_250);

    fn inet(text: &str) -> SocketAddress {
        SocketAddress::Inet(text.parse().unwrap())
    }

    fn connection(server: Option<ChosenServer<'_>>) -> ConnectionRecord<'_> {
        ConnectionRecord {
            protocol: Protocol::Tcp,
            worker: WorkerId(1),
            conn: ConnId(7),
            client: Some("127.0.0.9:40000".parse::<SocketAddr>().unwrap().into()),
            server,
            attempts: 1,
            began: BEGAN,
            connected_after: Some(310),
            duration: 2_000_000,
            up: 100,
            down: 2000,
            datagrams: None,
            ended: Ended::ServerClosed,
            tls: None,
        }
    }

    fn request<'a>(text: &'a [u8], address: &'a SocketAddress) -> RequestRecord<'a> {
        RequestRecord {
            worker: WorkerId(0),
            conn: ConnId(0),
            client: ClientAddress::Unix,
            server: Some(ChosenServer { target: Target::Emergency, address, chosen: Chosen::Emergency }),
            request: text,
            status: Some(200),
            began: BEGAN,
            duration: 5,
            up: 1,
            down: 2,
            ended: Ended::ServerClosed,
            tls: None,
        }
    }

    /// What it is written as, behind what was there; without the line end.
    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"before\n".to_vec();
        write(&mut out);
        let text = String::from_utf8(out).unwrap();
        let line = text.strip_prefix("before\n").unwrap().strip_suffix('\n').unwrap();
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
        line.to_owned()
    }

    fn of_connection(record: &ConnectionRecord<'_>) -> String {
        written(|out| record.write_json(out))
    }

    fn of_request(record: &RequestRecord<'_>, most: usize) -> String {
        written(|out| record.write_json(out, most))
    }

    #[test]
    fn a_connection_is_an_object_of_its_fields_in_order() {
        let address = inet("[::1]:8080");
        let chosen = Chosen::LastServer;
        let server = ChosenServer { target: Target::Server(ServerId(3)), address: &address, chosen };
        let mut record = connection(Some(server));
        record.tls = Some(TlsFacts { version: Some("TLSv1.3"), name: Some("www.example.com") });
        let expected = concat!(
            r#"{"time":"2026-11-23T18:42:07.000250Z","event":"connection","protocol":"tcp","worker":1,"connection":7,"#,
            r#""client":"127.0.0.9","client_port":40000,"server":3,"server_address":"::1","server_port":8080,"#,
            r#""chosen":"last_server","attempts":1,"began":"2026-11-23T18:42:05.000250Z","connect_us":310,"#,
            r#""duration_us":2000000,"bytes_up":100,"bytes_down":2000,"ended":"server_closed","#,
            r#""tls_version":"TLSv1.3","tls_name":"www.example.com"}"#,
        );
        assert_eq!(of_connection(&record), expected);
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let record = ConnectionRecord {
            protocol: Protocol::Udp,
            client: Some(ClientAddress::Unix),
            attempts: 0,
            connected_after: None,
            datagrams: Some((3, 4)),
            ..connection(None)
        };
        let expected = concat!(
            r#"{"time":"2026-11-23T18:42:07.000250Z","event":"connection","protocol":"udp","worker":1,"connection":7,"#,
            r#""client":"unix","attempts":0,"began":"2026-11-23T18:42:05.000250Z","duration_us":2000000,"#,
            r#""bytes_up":100,"bytes_down":2000,"datagrams_up":3,"datagrams_down":4,"ended":"server_closed"}"#,
        );
        assert_eq!(of_connection(&record), expected);
        let tls = |version, name| {
            of_connection(&ConnectionRecord { tls: Some(TlsFacts { version, name }), ..record })
        };
        assert!(tls(Some("TLSv1.2"), None).ends_with(r#""server_closed","tls_version":"TLSv1.2"}"#));
        assert!(tls(None, Some("a.test")).ends_with(r#""server_closed","tls_name":"a.test"}"#));
        let nobody = of_connection(&ConnectionRecord { client: None, ..record });
        assert!(nobody.contains(r#""connection":7,"attempts""#), "{nobody}");
        let portless = Some(ClientAddress::Inet([10, 0, 0, 1].into(), 0));
        let portless = of_connection(&ConnectionRecord { client: portless, ..record });
        assert!(portless.contains(r#""client":"10.0.0.1","attempts""#), "{portless}");
    }

    #[test]
    fn a_request_has_its_text_and_its_status_last() {
        let address = SocketAddress::Unix("/run/ä.sock".into());
        let record = request(b"GET /\"\\\xe5 HTTP/1.1", &address);
        let expected = concat!(
            r#"{"time":"2026-11-23T18:42:05.000255Z","event":"request","protocol":"tcp","worker":0,"connection":0,"#,
            r#""client":"unix","server":"emergency","server_address":"/run/\u00e4.sock","chosen":"emergency","#,
            r#""began":"2026-11-23T18:42:05.000250Z","duration_us":5,"bytes_up":1,"bytes_down":2,"#,
            r#""ended":"server_closed","request":"GET /\"\\\ufffd HTTP/1.1","status":200}"#,
        );
        assert_eq!(of_request(&record, usize::MAX), expected);
        let unanswered = RequestRecord { status: None, ..record };
        assert!(of_request(&unanswered, usize::MAX).ends_with(r#" HTTP/1.1"}"#));
    }

    #[test]
    fn spare_servers_are_called_by_their_names() {
        let address = inet("127.0.0.1:80");
        for (target, name) in [(Target::Emergency, "emergency"), (Target::Abuse, "abuse")] {
            let server = ChosenServer { target, address: &address, chosen: Chosen::Abuse };
            let text = of_connection(&connection(Some(server)));
            assert!(text.contains(&format!(r#""server":"{name}","server_address":"127.0.0.1""#)), "{text}");
        }
    }

    #[test]
    fn numbers_and_times_at_their_ends_are_written() {
        let record = ConnectionRecord {
            worker: WorkerId(u32::MAX),
            attempts: u32::MAX,
            began: WallMicros(u64::MAX),
            duration: u64::MAX,
            up: u64::MAX,
            datagrams: Some((u64::MAX, 0)),
            ..connection(None)
        };
        let value: Value = serde_json::from_str(&of_connection(&record)).unwrap();
        assert_eq!(value["time"], "9999-12-31T23:59:59.999999Z");
        assert_eq!(value["bytes_up"], u64::MAX);
    }

    #[test]
    fn a_request_is_cut_only_if_it_must_be() {
        let (address, text) = (inet("127.0.0.1:80"), "x".repeat(5000));
        let record = request(text.as_bytes(), &address);
        let whole = of_request(&record, usize::MAX);
        // The line end counts.
        assert_eq!(of_request(&record, whole.len() + 1), whole);
        let cut = of_request(&record, whole.len());
        assert_eq!(cut.len() + 1, whole.len());
        let value: Value = serde_json::from_str(&cut).unwrap();
        assert_eq!(value["request_length"], 5000);
        assert_eq!(value["request"], text[..5000 - r#","request_length":5000"#.len() - 1]);
    }

    fn client_address() -> impl Strategy<Value = ClientAddress> {
        let inet = (any::<IpAddr>(), any::<u16>()).prop_map(|(ip, port)| ClientAddress::Inet(ip, port));
        prop_oneof![inet, Just(ClientAddress::Unix)]
    }

    fn server_address() -> impl Strategy<Value = SocketAddress> {
        use std::os::unix::ffi::OsStringExt;
        let inet = any::<SocketAddr>().prop_map(SocketAddress::Inet);
        let path = prop::collection::vec(1..=u8::MAX, 1..108).prop_map(std::ffi::OsString::from_vec);
        prop_oneof![inet, path.prop_map(|path| SocketAddress::Unix(PathBuf::from(path)))]
    }

    /// Bytes as they come, with much that has a meaning somewhere.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        const NASTY: &[&str] = &[
            "\"",
            "\\",
            "\n",
            "\r",
            "\0",
            "\x1b",
            "\u{7f}",
            "\u{9b}",
            "\u{2028}",
            "\u{1f600}",
            "å",
            "}",
            "\\u",
        ];
        let part = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..9),
            prop::sample::select(NASTY).prop_map(|text| text.as_bytes().to_vec()),
            "[ -~]{0,9}".prop_map(String::into_bytes),
        ];
        prop::collection::vec(part, 0..60).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_is_one_line_of_json(
            text in bytes(), client in client_address(), address in server_address(), most in 0..2000_usize,
            status in prop::option::of(100..1000_u16), name in any::<String>(), number in any::<u64>(),
        ) {
            let record = RequestRecord {
                client,
                status,
                up: number,
                tls: Some(TlsFacts { version: Some("TLSv1.3"), name: Some(&name) }),
                ..request(&text, &address)
            };
            let lossy = String::from_utf8_lossy(&text);
            let whole: Value = serde_json::from_str(&of_request(&record, usize::MAX)).unwrap();
            prop_assert_eq!(&whole["request"], &*lossy);
            prop_assert_eq!(&whole["tls_name"], &name);
            prop_assert_eq!(&whole["client"], &client.to_string());
            prop_assert_eq!(&whole["bytes_up"], number);
            prop_assert_eq!(whole.get("status").and_then(Value::as_u64), status.map(u64::from));
            if let SocketAddress::Unix(path) = &address {
                prop_assert_eq!(&whole["server_address"], &*path.to_string_lossy());
            }

            let line = of_request(&record, most);
            let cut: Value = serde_json::from_str(&line).unwrap();
            let Some(length) = cut.get("request_length") else {
                prop_assert_eq!(cut, whole);
                return Ok(());
            };
            prop_assert_eq!(length, text.len());
            let shown = cut["request"].as_str().unwrap();
            prop_assert!(lossy.starts_with(shown));
            // Nothing of it is left where there is no room for anything; else there is none for one character more.
            prop_assert!(line.len() < most || shown.is_empty());
            prop_assert!(line.len() + 13 > most, "{} of {}", line.len(), most);
        }

        #[test]
        fn a_connection_is_one_line_of_json(
            client in client_address(), address in server_address(), name in any::<String>(),
            numbers in any::<[u64; 6]>(),
        ) {
            let server = ChosenServer { target: Target::Abuse, address: &address, chosen: Chosen::Abuse };
            let record = ConnectionRecord {
                client: Some(client),
                began: WallMicros(numbers[0]),
                connected_after: Some(numbers[1]),
                duration: numbers[2],
                down: numbers[3],
                datagrams: Some((numbers[4], numbers[5])),
                tls: Some(TlsFacts { version: Some("TLSv1.3"), name: Some(&name) }),
                ..connection(Some(server))
            };
            let text = of_connection(&record);
            let value: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&value["tls_name"], &name);
            prop_assert_eq!(&value["bytes_down"], numbers[3]);
            prop_assert_eq!(&value["ended"], "server_closed");
        }
    }
}
