//! Clients, from any address of 127.0.0.0/8.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::SOON;

/// Connects from the address given. Nothing that is then done with the stream blocks for longer than [`SOON`].
pub fn connect(source: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::seconds(SOON.as_secs() as i64))?;
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_write_timeout(Some(SOON))?;
    Ok(stream)
}

/// How what came in ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    EndOfStream,
    Reset,
    /// Neither, in the time allowed.
    Open,
}

/// Reads until the end, whatever that is.
pub fn read_all(mut stream: &TcpStream) -> (Vec<u8>, Ending) {
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (all, Ending::EndOfStream),
            Ok(count) => all.extend_from_slice(&buffer[..count]),
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return (all, Ending::Open),
                _ => return (all, Ending::Reset),
            },
        }
    }
}

/// Closes so that the other side gets a reset instead of an end of stream.
pub fn reset(stream: TcpStream) {
    setsockopt(&stream, sockopt::Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
}

/// Sends a request and tells what came: the body of the answer, or `closed` for nothing at all.
pub fn request(stream: TcpStream, path: &str) -> String {
    // A pen that will not serve us may have reset the connection before all is written.
    let _ = (&stream).write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
    match read_all(&stream) {
        (bytes, Ending::Open) => format!("nothing more after {} bytes", bytes.len()),
        (bytes, _) if bytes.is_empty() => "closed".to_owned(),
        (bytes, _) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            text.split_once("\r\n\r\n").map_or(text.clone(), |(_, body)| body.to_owned())
        }
    }
}

/// A connection to a greeter ([`super::Backend::greeter`]) that stays open.
#[derive(Debug)]
pub struct Held {
    pub stream: TcpStream,
    /// The name that the server sent, or `closed`.
    pub name: String,
}

impl Held {
    /// Waits for the greeting.
    pub fn greeted(stream: TcpStream) -> Self {
        let name = match read_line(&stream) {
            Some(line) if !line.is_empty() => line,
            Some(_) => "closed".to_owned(),
            None => "silence".to_owned(),
        };
        Held { stream, name }
    }

    /// Sends a line and looks whether it comes back.
    pub fn echoes(&self) -> bool {
        let sent = (&self.stream).write_all(b"are you there?\n");
        sent.is_ok() && read_line(&self.stream).as_deref() == Some("are you there?")
    }

    /// Waits, at most so long, for the connection to end.
    pub fn ending(&self, within: Duration) -> Ending {
        self.stream.set_read_timeout(Some(within)).unwrap();
        let (_, ending) = read_all(&self.stream);
        self.stream.set_read_timeout(Some(SOON)).unwrap();
        ending
    }

    pub fn port(&self) -> u16 {
        self.stream.local_addr().unwrap().port()
    }
}

/// Reads to the end of the line, or of the stream. None: nothing came in time.
pub fn read_line(mut stream: &TcpStream) -> Option<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(1) if byte[0] != b'\n' => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return Some(String::from_utf8_lossy(&line).into_owned()),
        }
    }
}
