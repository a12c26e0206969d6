//! Sockets that clients connect to: opened once by the master and inherited by every worker, and the control port, which
//! the master keeps to itself. All that pen listens on, datagrams too, is [`super::listeners`].

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::model::address::SocketAddress;
use crate::model::listen::Protocol;
use crate::process::listeners::Place;
use crate::process::owned_path::OwnedPath;
use crate::sys::privileges::{self, User};
use crate::sys::reason::words;
use crate::sys::socket;

/// How many clients of the control port may wait in the kernel's queue.
const CONTROL_BACKLOG: u32 = 32;

/// An open listener for connections. A Unix socket's path goes with it.
#[derive(Debug)]
pub struct StreamListener {
    fd: OwnedFd,
    address: SocketAddress,
    owned_path: Option<OwnedPath>,
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The system says no.
    #[error("cannot listen on {place}: {}{}", words(.reason), way_out(.place, .reason))]
    Refused {
        /// Where.
        place: Place,
        /// Why not.
        reason: io::Error,
    },
    /// A file that is no socket has the path.
    #[error("cannot listen on {}: there is a file of that name; remove it or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// Two of pen's own would be in each other's way.
    #[error("{}", clash(.place, .other))]
    Clash {
        /// Where.
        place: Place,
        /// Where pen listens, or is to listen, too.
        other: Place,
    },
    /// The same, where it is the control port.
    #[error("control port: {0}")]
    Control(Box<ListenError>),
}

fn clash(place: &Place, other: &Place) -> String {
    match place == other {
        true => format!("cannot listen on {place} twice"),
        false => format!("cannot listen on {place} beside {other}, which has the same port"),
    }
}

fn way_out(place: &Place, reason: &io::Error) -> &'static str {
    use SocketAddress::{Inet, Unix};
    match (reason.kind(), &place.address) {
        (io::ErrorKind::AddrInUse, Inet(_)) => {
            "; another program listens there: stop it, or choose another port"
        }
        (io::ErrorKind::AddrInUse, Unix(_)) => {
            "; another program listens there: stop it, or choose another path"
        }
        (io::ErrorKind::PermissionDenied, Inet(_)) => "; start pen as root, or choose a port above 1023",
        (io::ErrorKind::PermissionDenied, Unix(_)) => "; start pen as root, or choose another path",
        (io::ErrorKind::AddrNotAvailable, _) => "; this machine has no such address",
        _ => "",
    }
}

impl StreamListener {
    /// Listens there. The socket of a Unix path that nobody answers on any more is replaced.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn open(address: SocketAddress, backlog: u32) -> Result<Self, ListenError> {
        if let SocketAddress::Unix(path) = &address {
            remove_dead_socket(path)?;
        }
        let refused = |reason| refusal(&address, reason);
        let fd = socket::listen(&address, backlog).map_err(refused)?;
        let owned_path = match &address {
            SocketAddress::Unix(path) => Some(OwnedPath::of(path).map_err(refused)?),
            SocketAddress::Inet(_) => None,
        };
        Ok(StreamListener { fd, address, owned_path })
    }

    /// Listens there for users of the control port. A Unix socket is for `owner` alone (none: for the user that pen is
    /// now): whoever else connects, at any moment, is refused by the system.
    ///
    /// # Errors
    ///
    /// [`ListenError::Control`].
    pub fn open_control(address: SocketAddress, owner: Option<&User>) -> Result<Self, ListenError> {
        let opened = match &address {
            SocketAddress::Unix(path) => StreamListener::open_private(path, owner),
            SocketAddress::Inet(_) => StreamListener::open(address, CONTROL_BACKLOG),
        };
        opened.map_err(|error| ListenError::Control(Box::new(error)))
    }

    fn open_private(path: &Path, owner: Option<&User>) -> Result<Self, ListenError> {
        remove_dead_socket(path)?;
        let address = SocketAddress::Unix(path.to_path_buf());
        let refused = |reason| refusal(&address, reason);
        let fd = socket::bind_private(path).map_err(refused)?;
        let owned_path = Some(OwnedPath::of(path).map_err(refused)?);
        let listener = StreamListener { fd, address: address.clone(), owned_path };
        owner.map_or(Ok(()), |owner| owner.take_socket(path)).map_err(refused)?;
        listener.set_backlog(CONTROL_BACKLOG).map_err(refused)?;
        Ok(listener)
    }

    /// Could the control port be opened there? As [`StreamListener::check`].
    ///
    /// # Errors
    ///
    /// [`ListenError::Control`].
    pub fn check_control(address: SocketAddress) -> Result<(), ListenError> {
        StreamListener::check(address).map_err(|error| ListenError::Control(Box::new(error)))
    }

    /// Could it be opened? That somebody listens there already is no hindrance, and nobody is disturbed.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn check(address: SocketAddress) -> Result<(), ListenError> {
        let checked = match &address {
            SocketAddress::Unix(path) => match fs::symlink_metadata(path) {
                Ok(found) if found.file_type().is_socket() => Ok(()),
                Ok(_) => return Err(ListenError::NotASocket { path: path.clone() }),
                Err(_) => privileges::check_writable(path),
            },
            // Nobody can connect to it before it is closed again.
            SocketAddress::Inet(_) => socket::bind(&address).map(drop),
        };
        match checked {
            Err(reason) if reason.kind() == io::ErrorKind::AddrInUse => Ok(()),
            checked => checked.map_err(|reason| refusal(&address, reason)),
        }
    }

    /// Could it be opened now, while whoever listens there goes on?
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn check_free(address: SocketAddress) -> Result<(), ListenError> {
        let taken = match &address {
            SocketAddress::Unix(path) => {
                socket::is_answered(path).then(|| io::Error::from(io::ErrorKind::AddrInUse))
            }
            // Nobody can connect to it before it is closed again.
            SocketAddress::Inet(_) => {
                socket::bind(&address).err().filter(|error| error.kind() == io::ErrorKind::AddrInUse)
            }
        };
        if let Some(reason) = taken {
            return Err(refusal(&address, reason));
        }
        StreamListener::check(address)
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

    /// The descriptor. A Unix socket's path stays, if this process does not own it.
    pub fn into_socket(self) -> OwnedFd {
        self.fd
    }
}

impl AsFd for StreamListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn refusal(address: &SocketAddress, reason: io::Error) -> ListenError {
    ListenError::Refused { place: Place { protocol: Protocol::Tcp, address: address.clone() }, reason }
}

/// Removes a socket that nobody listens on from that path.
fn remove_dead_socket(path: &Path) -> Result<(), ListenError> {
    let refused = |reason| refusal(&SocketAddress::Unix(path.to_path_buf()), reason);
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
        let listener = StreamListener::open(SocketAddress::Unix(path.clone()), 50).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let path = path("dead");
        let dead = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = StreamListener::open(SocketAddress::Unix(path.clone()), 50).unwrap_err();
        assert!(error.to_string().contains("another program listens there"), "{error}");
        assert_eq!(
            StreamListener::check_free(SocketAddress::Unix(path.clone())).unwrap_err().to_string(),
            error.to_string()
        );
        drop(dead);
        StreamListener::check_free(SocketAddress::Unix(path.clone())).unwrap();
        assert!(path.exists());
        StreamListener::open(SocketAddress::Unix(path.clone()), 50).unwrap();
    }

    #[test]
    fn a_check_leaves_everything_as_it_is() {
        let path = path("check");
        StreamListener::check(SocketAddress::Unix(path.clone())).unwrap();
        assert!(!path.exists());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        StreamListener::check(SocketAddress::Unix(path.clone())).unwrap();
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
        let nowhere = SocketAddress::Unix(PathBuf::from("/no/such/folder/socket"));
        assert!(StreamListener::check(nowhere).is_err());
        let foreign = SocketAddress::Inet("192.0.2.1:80".parse().unwrap());
        assert!(StreamListener::check(foreign).is_err());
    }

    #[test]
    fn what_is_free_now_is_another_question() {
        let any = SocketAddress::Inet("127.0.0.1:0".parse().unwrap());
        for address in [SocketAddress::Unix(path("free")), any] {
            StreamListener::check_free(address.clone()).unwrap();
            let listener = StreamListener::open(address.clone(), 50).unwrap();
            let taken = socket::local_address(listener.as_fd()).unwrap();
            StreamListener::check(taken.clone()).unwrap();
            let refusal = StreamListener::check_free(taken.clone()).unwrap_err().to_string();
            assert!(refusal.contains("another program listens there"), "{refusal}");
            drop(listener);
            StreamListener::check_free(taken).unwrap();
        }
    }

    #[test]
    fn a_file_that_is_no_socket_is_refused_and_kept() {
        let path = path("file");
        fs::write(&path, "precious").unwrap();
        let error = StreamListener::open(SocketAddress::Unix(path.clone()), 50).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket { .. }));
        assert!(matches!(
            StreamListener::check(SocketAddress::Unix(path.clone())),
            Err(ListenError::NotASocket { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_second_listener_on_one_address_fails_with_a_way_out() {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = SocketAddress::Inet(first.local_addr().unwrap());
        let error = StreamListener::open(address.clone(), 50).unwrap_err();
        StreamListener::check(address.clone()).unwrap();
        assert_eq!(StreamListener::check_free(address.clone()).unwrap_err().to_string(), error.to_string());
        assert!(error.to_string().starts_with(&format!("cannot listen on {address}: ")), "{error}");
        drop(first);
        StreamListener::open(address, 50).unwrap().set_backlog(60).unwrap();
    }

    #[test]
    fn a_control_socket_is_for_its_owner_alone() {
        use std::os::unix::fs::MetadataExt;
        let path = path("control");
        let root = privileges::is_root();
        let owner = if root { User::find("nobody").unwrap() } else { None };
        let listener =
            StreamListener::open_control(SocketAddress::Unix(path.clone()), owner.as_ref()).unwrap();
        let found = fs::symlink_metadata(&path).unwrap();
        assert!(found.file_type().is_socket());
        assert_eq!(found.mode() & 0o777, 0o600);
        if let Some(owner) = &owner {
            assert!(found.uid() != 0 && owner.name == "nobody");
        }
        UnixStream::connect(&path).unwrap();
        socket::accept(listener.as_fd()).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn nobody_can_connect_to_a_socket_that_is_not_its_owners_yet() {
        use std::os::unix::fs::MetadataExt;
        let path = path("private");
        let bound = socket::bind_private(&path).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        socket::set_backlog(bound.as_fd(), CONTROL_BACKLOG).unwrap();
        UnixStream::connect(&path).unwrap();
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_control_socket_replaces_dead_sockets_alone() {
        let (path, open) = (path("control-dead"), |path: &Path| {
            StreamListener::open_control(SocketAddress::Unix(path.to_path_buf()), None)
        });
        let dead = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let text = open(&path).unwrap_err().to_string();
        let start = format!("control port: cannot listen on {}: Address in use; another", path.display());
        assert!(text.to_lowercase().starts_with(&start.to_lowercase()), "{text}");
        StreamListener::check_control(SocketAddress::Unix(path.clone())).unwrap();
        drop(dead);
        drop(open(&path).unwrap());
        for replace in [
            |path: &Path| fs::write(path, "precious"),
            |path: &Path| std::os::unix::fs::symlink("/no/such/place", path),
        ] {
            replace(&path).unwrap();
            let text = open(&path).unwrap_err().to_string();
            assert!(
                text.starts_with("control port: ") && text.contains("there is a file of that name"),
                "{text}"
            );
            assert!(StreamListener::check_control(SocketAddress::Unix(path.clone())).is_err());
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn a_socket_whose_owner_is_too_busy_to_answer_is_not_dead() {
        let path = path("busy");
        let bound = socket::bind_private(&path).unwrap();
        socket::set_backlog(bound.as_fd(), 0).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        let error = StreamListener::open_control(SocketAddress::Unix(path.clone()), None).unwrap_err();
        assert!(error.to_string().contains("another program listens there"), "{error}");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_in_the_sockets_place_is_not_given_away() {
        let path = path("taken");
        fs::write(&path, "precious").unwrap();
        let root = User::find("root").unwrap().unwrap();
        assert_eq!(root.take_socket(&path).unwrap_err().to_string(), "another file has taken its place");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/no/such/place", &path).unwrap();
        assert!(root.take_socket(&path).is_err());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_control_port_is_a_listener_of_its_own() {
        let any = SocketAddress::Inet("127.0.0.1:0".parse().unwrap());
        let listener = StreamListener::open_control(any, None).unwrap();
        let taken = socket::local_address(listener.as_fd()).unwrap();
        let text = StreamListener::open_control(taken.clone(), None).unwrap_err().to_string();
        assert!(text.starts_with(&format!("control port: cannot listen on {taken}: ")), "{text}");
        StreamListener::check_control(taken).unwrap();
        let foreign = SocketAddress::Inet("192.0.2.1:80".parse().unwrap());
        let text = StreamListener::check_control(foreign).unwrap_err().to_string();
        assert!(
            text.starts_with("control port: ") && text.ends_with("this machine has no such address"),
            "{text}"
        );
    }
}
