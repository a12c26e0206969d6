//! The listener: opened once by the master, inherited by every worker.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::model::address::SocketAddress;
use crate::process::owned_path::OwnedPath;
use crate::sys::reason::words;
use crate::sys::{privileges, socket};

/// An open listener. A Unix socket's path goes with it.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    address: SocketAddress,
    owned_path: Option<OwnedPath>,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The system says no.
    #[error("cannot listen on {address}: {}{}", words(.reason), way_out(.reason))]
    Refused {
        /// Where.
        address: SocketAddress,
        /// Why not.
        reason: io::Error,
    },
    /// A file that is no socket has the path.
    #[error("cannot listen on {}: there is a file of that name; remove it or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

fn way_out(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::AddrInUse => "; another program listens there: stop it, or choose another port",
        io::ErrorKind::PermissionDenied => "; start pen as root, or choose a port above 1023",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}

impl Listener {
    /// Listens there. The socket of a Unix path that nobody answers on any more is replaced.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn open(address: SocketAddress, backlog: u32) -> Result<Self, ListenError> {
        if let SocketAddress::Unix(path) = &address {
            remove_dead_socket(path)?;
        }
        let refused = |reason| ListenError::Refused { address: address.clone(), reason };
        let fd = socket::listen(&address, backlog).map_err(refused)?;
        let owned_path = match &address {
            SocketAddress::Unix(path) => Some(OwnedPath::of(path).map_err(refused)?),
            SocketAddress::Inet(_) => None,
        };
        Ok(Listener { fd, address, owned_path })
    }

    /// Could it be opened? That somebody listens there already is no hindrance, and nobody is disturbed.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn check(address: SocketAddress) -> Result<(), ListenError> {
        if let SocketAddress::Unix(path) = &address {
            return match fs::symlink_metadata(path) {
                Ok(found) if found.file_type().is_socket() => Ok(()),
                Ok(_) => Err(ListenError::NotASocket { path: path.clone() }),
                Err(_) => privileges::check_writable(path)
                    .map_err(|reason| ListenError::Refused { address: address.clone(), reason }),
            };
        }
        match Listener::open(address, 0) {
            Ok(_) => Ok(()),
            Err(ListenError::Refused { reason, .. }) if reason.kind() == io::ErrorKind::AddrInUse => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> &SocketAddress {
        &self.address
    }

    /// Changes how many clients may wait in the kernel's queue.
    ///
    /// # Errors
    ///
    /// listen(2)'s.
    pub fn set_backlog(&self, backlog: u32) -> io::Result<()> {
        socket::set_backlog(self.fd.as_fd(), backlog)
    }

    /// From now on a Unix socket's path goes with this process, a child of the one that opened it.
    pub fn adopt(&mut self) {
        self.owned_path.iter_mut().for_each(OwnedPath::adopt);
    }

    /// Leaves a Unix socket's path to the process that adopted it.
    pub fn disown(&mut self) {
        self.owned_path.iter_mut().for_each(OwnedPath::disown);
    }

    /// The descriptor, and where it listens.
    pub fn into_parts(self) -> (OwnedFd, SocketAddress) {
        (self.fd, self.address)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Removes a socket that nobody listens on from that path.
fn remove_dead_socket(path: &Path) -> Result<(), ListenError> {
    let refused = |reason| ListenError::Refused { address: SocketAddress::Unix(path.to_path_buf()), reason };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused(error)),
        Ok(found) if !found.file_type().is_socket() => {
            Err(ListenError::NotASocket { path: path.to_path_buf() })
        }
        Ok(_) if socket::is_answered(path) => Err(refused(io::ErrorKind::AddrInUse.into())),
        Ok(_) => fs::remove_file(path).map_err(refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("pen-listening-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_unix_listeners_path_goes_with_it() {
        let path = path("goes");
        let listener = Listener::open(SocketAddress::Unix(path.clone()), 50).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let path = path("dead");
        let dead = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = Listener::open(SocketAddress::Unix(path.clone()), 50).unwrap_err();
        assert!(error.to_string().contains("another program listens there"), "{error}");
        drop(dead);
        assert!(path.exists());
        Listener::open(SocketAddress::Unix(path.clone()), 50).unwrap();
    }

    #[test]
    fn a_check_leaves_everything_as_it_is() {
        let path = path("check");
        Listener::check(SocketAddress::Unix(path.clone())).unwrap();
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        Listener::check(SocketAddress::Unix(path.clone())).unwrap();
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        let nowhere = SocketAddress::Unix(PathBuf::from("/no/such/folder/socket"));
        assert!(Listener::check(nowhere).is_err());
        let foreign = SocketAddress::Inet("192.0.2.1:80".parse().unwrap());
        assert!(Listener::check(foreign).is_err());
    }

    #[test]
    fn a_file_that_is_no_socket_is_refused_and_kept() {
        let path = path("file");
        fs::write(&path, "precious").unwrap();
        let error = Listener::open(SocketAddress::Unix(path.clone()), 50).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket { .. }));
        assert!(matches!(
            Listener::check(SocketAddress::Unix(path.clone())),
            Err(ListenError::NotASocket { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_second_listener_on_one_address_fails_with_a_way_out() {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = SocketAddress::Inet(first.local_addr().unwrap());
        let error = Listener::open(address.clone(), 50).unwrap_err();
        Listener::check(address.clone()).unwrap();
        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
        drop(first);
        Listener::open(address, 50).unwrap().set_backlog(60).unwrap();
    }
}
