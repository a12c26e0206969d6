//! HTTP: servers that say what they were sent, and clients that can be told to do anything.
//!
//! Both read messages by themselves, and strictly: nothing of pen's own code is in here.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use super::backend::Visit;
use super::client::read_all;
use super::{Backend, Ending, Pen};

/// A request as a server got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// With its blank line.
    pub head: String,
    /// As it came over the wire, chunks and all.
    pub body: Vec<u8>,
}

/// A response as a client got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub head: String,
    /// As it came over the wire.
    pub body: Vec<u8>,
}

/// The values of a header, in order, of a head with its blank line.
pub fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    headers.filter(|(header, _)| header.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

/// The only value of a header, if there is one.
fn value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let found = values(head, name);
    assert!(found.len() < 2, "{name} comes twice: {head}");
    found.first().copied()
}

impl Request {
    pub fn method(&self) -> &str {
        self.head.split(' ').next().unwrap()
    }

    pub fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub fn values(&self, name: &str) -> Vec<&str> {
        values(&self.head, name)
    }

    /// As it came over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        [self.head.as_bytes(), &self.body].concat()
    }
}

/// A head, up to its blank line; nothing at the end of the stream. Every line must end with CRLF.
fn read_head(stream: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    loop {
        let before = head.len();
        stream.read_until(b'\n', &mut head)?;
        match &head[before..] {
            [] if head.is_empty() => return Ok(None),
            b"\r\n" => return Ok(Some(String::from_utf8_lossy(&head).into_owned())),
            line if line.ends_with(b"\r\n") => {}
            _ => return Err(io::Error::other(format!("no head: {:?}", String::from_utf8_lossy(&head)))),
        }
    }
}

/// A body, as its head says.
fn read_body(stream: &mut impl BufRead, head: &str) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    match (value(head, "content-length"), value(head, "transfer-encoding")) {
        (None, None) => {}
        (Some(length), None) => {
            body.resize(length.parse().map_err(io::Error::other)?, 0);
            stream.read_exact(&mut body)?;
        }
        (None, Some("chunked")) => loop {
            let line = read_line(stream, &mut body)?;
            let size = line.split(';').next().unwrap();
            match usize::from_str_radix(size, 16).map_err(io::Error::other)? {
                0 => {
                    while !read_line(stream, &mut body)?.is_empty() {}
                    break;
                }
                size => {
                    let before = body.len();
                    body.resize(before + size + 2, 0);
                    stream.read_exact(&mut body[before..])?;
                    assert!(body.ends_with(b"\r\n"), "a chunk ends as it should");
                }
            }
        },
        other => return Err(io::Error::other(format!("no length: {other:?}"))),
    }
    Ok(body)
}

/// A line, which is appended and returned without its end.
fn read_line(stream: &mut impl BufRead, to: &mut Vec<u8>) -> io::Result<String> {
    let before = to.len();
    stream.read_until(b'\n', to)?;
    let line = to[before..].strip_suffix(b"\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(String::from_utf8_lossy(line).into_owned())
}

/// A server that answers each request of a connection with the bytes that `answer` returns, and closes when it returns
/// nothing. Every head is noted; and so is, after `broken: `, what was no request.
pub fn server(
    name: &str,
    answer: impl Fn(&Request, &Visit) -> Option<Vec<u8>> + Send + Sync + 'static,
) -> Backend {
    Backend::serving(name, move |visit| {
        let mut reader = BufReader::new(&visit.stream);
        let mut next = || -> io::Result<Option<Request>> {
            let Some(head) = read_head(&mut reader)? else { return Ok(None) };
            visit.note(&head);
            if !values(&head, "expect").is_empty() {
                (&visit.stream).write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
            let body = read_body(&mut reader, &head)?;
            Ok(Some(Request { head, body }))
        };
        loop {
            match next() {
                Ok(None) => return,
                Err(error) => return visit.note(format!("broken: {error}")),
                Ok(Some(request)) => {
                    let Some(response) = answer(&request, &visit) else { return };
                    if (&visit.stream).write_all(&response).is_err() {
                        return;
                    }
                }
            }
        }
    })
}

/// A response with a length.
pub fn response(status: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A server whose answers are what it was sent, byte by byte.
pub fn echo() -> Backend {
    server("echo", |request, _| {
        let bytes = request.bytes();
        let mut response = response("200 OK", &bytes);
        if request.method() == "HEAD" {
            response.truncate(response.len() - bytes.len());
        }
        Some(response)
    })
}

/// A server that sends a greeting, if it has one, and then notes every piece that it reads.
pub fn recorder(greeting: &'static [u8]) -> Backend {
    Backend::serving("recorder", move |visit| {
        let _ = (&visit.stream).write_all(greeting);
        let mut room = [0; 64 * 1024];
        while let Ok(count @ 1..) = (&visit.stream).read(&mut room) {
            visit.note(latin(&room[..count]));
        }
        visit.note("the end");
    })
}

/// Bytes as text of as many characters.
pub fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// What a recorder has recorded so far, over all its connections.
pub fn recorded(server: &Backend) -> String {
    server.notes().concat()
}

/// A client.
pub struct Talk {
    stream: TcpStream,
    reader: RefCell<BufReader<TcpStream>>,
}

impl Talk {
    pub fn over(stream: TcpStream) -> Self {
        let reader = RefCell::new(BufReader::new(stream.try_clone().unwrap()));
        Talk { stream, reader }
    }

    /// From 127.0.0.1.
    #[track_caller]
    pub fn with(pen: &Pen) -> Self {
        Talk::over(pen.connect())
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    #[track_caller]
    pub fn say(&self, bytes: impl AsRef<[u8]>) {
        (&self.stream).write_all(bytes.as_ref()).expect("the connection is open");
    }

    /// The next response to a request of that method, interim ones included.
    #[track_caller]
    pub fn response_to(&self, method: &str) -> Response {
        let mut reader = self.reader.borrow_mut();
        let head = read_head(&mut *reader).expect("a head comes").expect("a response comes");
        assert!(head.starts_with("HTTP/1."), "{head:?}");
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let body = match status {
            100..=199 | 204 | 304 => Vec::new(),
            _ if method == "HEAD" => Vec::new(),
            _ => read_body(&mut *reader, &head).expect("a body comes"),
        };
        Response { status, head, body }
    }

    #[track_caller]
    pub fn response(&self) -> Response {
        self.response_to("GET")
    }

    /// Sends a request and returns what the echo server was sent for it.
    #[track_caller]
    pub fn echoed(&self, request: impl AsRef<[u8]>) -> String {
        self.echoed_by(request, 200)
    }

    /// The same with another status.
    #[track_caller]
    pub fn echoed_by(&self, request: impl AsRef<[u8]>, status: u16) -> String {
        self.say(request);
        let response = self.response();
        assert_eq!(response.status, status, "{response:?}");
        latin(&response.body)
    }

    /// So many bytes.
    #[track_caller]
    pub fn read(&self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.reader.borrow_mut().read_exact(&mut bytes).expect("so many bytes come");
        bytes
    }

    /// What is left, and how it ends.
    pub fn rest(&self) -> (String, Ending) {
        let mut all = self.reader.borrow().buffer().to_vec();
        self.reader.borrow_mut().consume(all.len());
        let (more, ending) = read_all(&self.stream);
        all.extend_from_slice(&more);
        (latin(&all), ending)
    }

    /// The next response is this refusal, and then the stream ends.
    #[track_caller]
    pub fn is_refused(&self, status: u16) {
        let response = self.response();
        assert_eq!(response.status, status, "{response:?}");
        assert_eq!(values(&response.head, "connection"), ["close"]);
        assert_eq!(self.rest(), (String::new(), Ending::EndOfStream));
    }
}
