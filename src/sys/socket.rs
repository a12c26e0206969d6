//! Stream sockets: every call that pen makes on one, non-blocking and close-on-exec from birth.
//!
//! Errors are the kernel's, as [`io::Error`]; `WouldBlock` means "not now" everywhere. Nothing here decides anything.

#![allow(unsafe_code)]

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl};
use nix::sys::socket::{
    self as ns, AddressFamily, Backlog, MsgFlags, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6,
    SockaddrLike, UnixAddr, setsockopt, sockopt,
};
use nix::sys::stat::{Mode, fchmod};

use crate::model::address::{ClientAddress, SocketAddress};

/// An address in the kernel's form.
pub(super) enum KernelAddress {
    V4(SockaddrIn),
    V6(SockaddrIn6),
    Unix(UnixAddr),
}

impl KernelAddress {
    fn new(address: &SocketAddress) -> io::Result<Self> {
        Ok(match address {
            SocketAddress::Inet(inet) => (*inet).into(),
            SocketAddress::Unix(path) => KernelAddress::Unix(UnixAddr::new(path.as_path())?),
        })
    }

    pub(super) fn family(&self) -> AddressFamily {
        match self {
            KernelAddress::V4(_) => AddressFamily::Inet,
            KernelAddress::V6(_) => AddressFamily::Inet6,
            KernelAddress::Unix(_) => AddressFamily::Unix,
        }
    }

    pub(super) fn bind(&self, socket: &OwnedFd) -> nix::Result<()> {
        match self {
            KernelAddress::V4(v4) => ns::bind(socket.as_raw_fd(), v4),
            KernelAddress::V6(v6) => ns::bind(socket.as_raw_fd(), v6),
            KernelAddress::Unix(unix) => ns::bind(socket.as_raw_fd(), unix),
        }
    }

    pub(super) fn connect(&self, socket: &OwnedFd) -> nix::Result<()> {
        match self {
            KernelAddress::V4(v4) => ns::connect(socket.as_raw_fd(), v4),
            KernelAddress::V6(v6) => ns::connect(socket.as_raw_fd(), v6),
            KernelAddress::Unix(unix) => ns::connect(socket.as_raw_fd(), unix),
        }
    }

    /// Where it is, for as long as it stays there, and its length.
    pub(super) fn raw(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        match self {
            KernelAddress::V4(v4) => (v4.as_ptr(), v4.len()),
            KernelAddress::V6(v6) => (v6.as_ptr(), v6.len()),
            KernelAddress::Unix(unix) => (SockaddrLike::as_ptr(unix), unix.len()),
        }
    }
}

impl From<SocketAddr> for KernelAddress {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(v4) => KernelAddress::V4(v4.into()),
            SocketAddr::V6(v6) => KernelAddress::V6(v6.into()),
        }
    }
}

/// A listening socket. `[::]` listens for IPv4 too. Accepted sockets inherit keepalive and TCP_NODELAY.
///
/// SO_REUSEPORT is not set: a second pen on the same address must fail.
///
/// # Errors
/// The kernel's; `AddrInUse` also for a Unix socket's path that exists, whatever it is.
pub fn listen(address: &SocketAddress, backlog: u32) -> io::Result<OwnedFd> {
    let socket = bind(address)?;
    set_backlog(socket.as_fd(), backlog)?;
    Ok(socket)
}

/// What [`listen`] makes, before anybody can connect to it.
///
/// # Errors
/// As there.
pub fn bind(address: &SocketAddress) -> io::Result<OwnedFd> {
    let kernel = KernelAddress::new(address)?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = ns::socket(kernel.family(), SockType::Stream, flags, None)?;
    match address {
        SocketAddress::Inet(inet) => {
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
            setsockopt(&socket, sockopt::KeepAlive, &true)?;
            setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
            if let IpAddr::V6(ip) = inet.ip() {
                setsockopt(&socket, sockopt::Ipv6V6Only, &!ip.is_unspecified())?;
            }
        }
        SocketAddress::Unix(_) => {}
    }
    kernel.bind(&socket)?;
    Ok(socket)
}

/// A Unix socket with that path that does not listen yet: nobody can connect before [`set_backlog`]. Its mode is 0600,
/// or less where the umask takes even that.
///
/// # Errors
/// The kernel's; `AddrInUse` for a path that exists, whatever it is.
pub fn bind_private(path: &Path) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = ns::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // Linux gives the path the mode of the socket. A chmod(2) of the path would be one of whatever is there by then.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    KernelAddress::Unix(UnixAddr::new(path)?).bind(&socket)?;
    Ok(socket)
}

/// How many clients may wait in the queue of a socket that is bound, from now on. From the first time on it listens.
///
/// # Errors
/// listen(2)'s.
pub fn set_backlog(socket: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    // The kernel caps a backlog at net.core.somaxconn; nix refuses what listen(2) would cap.
    let backlog =
        i32::try_from(backlog).ok().and_then(|n| Backlog::new(n).ok()).unwrap_or(Backlog::MAXALLOWABLE);
    Ok(ns::listen(&socket, backlog)?)
}

/// Takes a waiting client from a listening socket, with its address: one system call.
///
/// # Errors
/// `WouldBlock` when nobody waits; see accept(2) for those that concern one client only ([`is_clients_fault`])
/// and those that mean that the system has no room ([`is_exhaustion`]).
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, ClientAddress)> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: storage is writable for the length given, and lives across the call.
    let fd = unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            storage.as_mut_ptr().cast(),
            &mut length,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: accept4 has just made this descriptor, nobody else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: zeroed at first, so initialised whatever part of it the kernel wrote; any bit pattern is valid.
    let storage = unsafe { storage.assume_init() };
    Ok((socket, client_address(&storage)))
}

fn client_address(storage: &libc::sockaddr_storage) -> ClientAddress {
    inet_address(storage).map_or(ClientAddress::Unix, ClientAddress::from)
}

/// What the kernel says is an address; None if it is of another family.
pub(super) fn inet_address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let pointer: *const libc::sockaddr_storage = storage;
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: sockaddr_storage is as large and as aligned as every socket address, and the family says
            // that it holds this one.
            let v4 = unsafe { &*pointer.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*pointer.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

/// Does this error of [`accept`] concern only the client that was being accepted?
pub fn is_clients_fault(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EPERM
                | libc::ETIMEDOUT
        )
    )
}

/// Does this error mean that descriptors or memory ran out?
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Does this error of [`connect`] tell of a lack on our side (local ports), and nothing about the server?
pub fn is_our_lack(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
}

/// How to connect.
#[derive(Debug, Clone, Copy, Default)]
pub struct ConnectOptions {
    /// Local address to connect from; of no effect on a server of the other family.
    pub source: Option<Source>,
    /// SO_KEEPALIVE.
    pub keepalive: bool,
}

mod option {
    use nix::{setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// IPV6_TRANSPARENT, which nix lacks.
        Ipv6Transparent,
        SetOnly,
        libc::SOL_IPV6,
        libc::IPV6_TRANSPARENT,
        bool
    );
}

/// Where a connection is to come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// An address of this machine.
    Own(IpAddr),
    /// An address that may be another machine's: the peer takes this one for that. Needs [`check_foreign`].
    Foreign(IpAddr),
}

impl Source {
    fn address(self) -> IpAddr {
        match self {
            Source::Own(address) | Source::Foreign(address) => address,
        }
    }

    /// Makes the socket one whose connection comes from there. Its port is chosen when it connects: bind(2) would take
    /// one that no other connection could have, whatever server it is to, and run out of them.
    fn bind(self, socket: &OwnedFd) -> io::Result<()> {
        match self {
            Source::Own(_) => {}
            Source::Foreign(IpAddr::V4(_)) => setsockopt(socket, sockopt::IpTransparent, &true)?,
            Source::Foreign(IpAddr::V6(_)) => setsockopt(socket, option::Ipv6Transparent, &true)?,
        }
        // Sockets for IPv6 have no such option of their own, and know this one.
        setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
        Ok(KernelAddress::from(SocketAddr::new(self.address(), 0)).bind(socket)?)
    }

    /// The same for a socket that is to be connected to that server, where there is a source that is of its kind; what
    /// went wrong.
    pub(super) fn bind_for(source: Option<Source>, to: IpAddr, socket: &OwnedFd) -> Option<io::Error> {
        source.filter(|source| source.address().is_ipv4() == to.is_ipv4())?.bind(socket).err()
    }
}

/// May this process connect from addresses that are not this machine's?
///
/// # Errors
/// `PermissionDenied`: it lacks CAP_NET_ADMIN over the network that it is in.
pub fn check_foreign() -> io::Result<()> {
    let socket = ns::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    Ok(setsockopt(&socket, sockopt::IpTransparent, &true)?)
}

/// A socket on its way to a server.
#[derive(Debug)]
pub struct Attempt {
    /// The socket.
    pub socket: OwnedFd,
    /// Connected already (Unix sockets); else it becomes writable when it is, or reports an error.
    pub established: bool,
    /// Binding to `source` failed; the connect goes on from whatever address the system chose.
    pub unbound: Option<io::Error>,
}

/// Begins to connect.
///
/// # Errors
/// An immediate refusal, or what socket(2) says ([`is_exhaustion`]).
pub fn connect(to: &SocketAddress, options: ConnectOptions) -> io::Result<Attempt> {
    let kernel = KernelAddress::new(to)?;
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = ns::socket(kernel.family(), SockType::Stream, flags, None)?;
    let mut unbound = None;
    if let SocketAddress::Inet(inet) = to {
        if options.keepalive {
            setsockopt(&socket, sockopt::KeepAlive, &true)?;
        }
        unbound = Source::bind_for(options.source, inet.ip(), &socket);
    }
    match kernel.connect(&socket) {
        Ok(()) => Ok(Attempt { socket, established: true, unbound }),
        Err(nix::Error::EINPROGRESS) => Ok(Attempt { socket, established: false, unbound }),
        // A Unix server's full backlog says EAGAIN and never becomes writable: no better than a refusal.
        Err(nix::Error::EAGAIN) => Err(io::Error::from_raw_os_error(libc::ECONNREFUSED)),
        Err(error) => Err(error.into()),
    }
}

/// What went wrong with a socket, if anything did: SO_ERROR, which asking clears.
pub fn take_error(socket: BorrowedFd<'_>) -> Option<io::Error> {
    match ns::getsockopt(&socket, sockopt::SocketError) {
        Ok(0) => None,
        Ok(code) => Some(io::Error::from_raw_os_error(code)),
        Err(error) => Some(error.into()),
    }
}

/// Reads; 0 is the end of the stream.
///
/// # Errors
/// `WouldBlock` when nothing is there.
#[inline]
pub fn receive(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    Ok(ns::recv(socket.as_raw_fd(), into, MsgFlags::empty())?)
}

/// Reads what is there without taking it; 0 is the end of the stream.
///
/// # Errors
/// As [`receive`].
pub fn peek(socket: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    Ok(ns::recv(socket.as_raw_fd(), into, MsgFlags::MSG_PEEK)?)
}

/// Writes as much as the socket takes, without SIGPIPE.
///
/// # Errors
/// `WouldBlock` when it takes nothing.
#[inline]
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(ns::send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)?)
}

/// As [`send`], but what does not fill a segment may wait for what is sent next.
///
/// # Errors
/// As [`send`].
pub fn send_with_more(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::from_bits_retain(libc::MSG_MORE);
    Ok(ns::send(socket.as_raw_fd(), bytes, flags)?)
}

/// As [`send`], from several places with one call.
///
/// # Errors
/// As [`send`].
pub fn send_pieces(socket: BorrowedFd<'_>, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
    Ok(ns::sendmsg::<()>(socket.as_raw_fd(), pieces, &[], MsgFlags::MSG_NOSIGNAL, None)?)
}

/// Sends the last byte as urgent data: for tests, as nothing of pen's does.
///
/// # Errors
/// As [`send`].
#[cfg(test)]
pub fn send_urgent(socket: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
    Ok(ns::send(socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_OOB)?)
}

/// Ends our direction: the peer reads end of stream, and can go on sending. An error here means that the
/// connection is gone, which reading shows better.
pub fn shutdown_write(socket: BorrowedFd<'_>) {
    let _ = ns::shutdown(socket.as_raw_fd(), Shutdown::Write);
}

/// TCP_NODELAY. Of no use, and no harm, on a Unix socket.
pub fn set_nodelay(socket: BorrowedFd<'_>) {
    let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
}

/// Acknowledges what has come instead of waiting for something to send along with it: once (TCP_QUICKACK). Of no use,
/// and no harm, on a Unix socket.
pub fn acknowledge_now(socket: BorrowedFd<'_>) {
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, which lives across the call.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUICKACK,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
}

/// Makes close(2) send a reset and drop what was not sent.
pub fn reset_on_close(socket: BorrowedFd<'_>) {
    let _ = setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
}

/// A kernel buffer that bytes move through without being copied.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// Smallest size in bytes with which splicing is better than copying.
    pub const SMALLEST: usize = 64 * 1024;

    /// A pipe of `size` bytes, or of the system's usual size where a user may not have more.
    ///
    /// # Errors
    /// No descriptors, or the user's share of pipe memory is used up (`Unsupported`): copy instead.
    pub fn new(size: usize) -> io::Result<Pipe> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        let wanted = i32::try_from(size).unwrap_or(i32::MAX);
        if fcntl(&write, FcntlArg::F_SETPIPE_SZ(wanted)).is_err() {
            let granted = fcntl(&write, FcntlArg::F_GETPIPE_SZ)?;
            if usize::try_from(granted).unwrap_or(0) < Pipe::SMALLEST {
                return Err(io::ErrorKind::Unsupported.into());
            }
        }
        Ok(Pipe { read, write })
    }

    /// Moves up to `length` bytes from a socket into the pipe; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when the socket has nothing (or the pipe is full).
    pub fn fill(&self, from: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
        splice(from, self.write.as_fd(), length)
    }

    /// Moves up to `length` bytes from the pipe to a socket. Never raises SIGPIPE where that is ignored.
    ///
    /// # Errors
    /// `WouldBlock` when the socket takes nothing (or the pipe is empty).
    pub fn drain(&self, to: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
        splice(self.read.as_fd(), to, length)
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
    Ok(nix::fcntl::splice(from, None, to, None, length, flags)?)
}

/// Does a process have this Unix socket? Only a refusal says that none does: whoever is too busy for us, or not ours
/// to talk to, is there.
pub fn is_answered(path: &Path) -> bool {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let answer = ns::socket(AddressFamily::Unix, SockType::Stream, flags, None)
        .and_then(|socket| ns::connect(socket.as_raw_fd(), &UnixAddr::new(path)?));
    !matches!(answer, Err(nix::Error::ECONNREFUSED | nix::Error::ENOENT))
}

/// What tells this socket from all others, whichever descriptors it has: the kernel's number for it.
pub fn inode(socket: BorrowedFd<'_>) -> Option<u64> {
    nix::sys::stat::fstat(socket).ok().map(|status| status.st_ino)
}

/// Are these two descriptors of one socket? Not if that cannot be told.
pub fn is_same(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    inode(one).is_some_and(|number| inode(other) == Some(number))
}

/// How many descriptors this process has open. They are looked for up to a little beyond the lowest free one: a
/// process that has just been forked has few holes in between.
pub fn count_descriptors() -> u64 {
    let next = nix::unistd::dup(io::stderr()).map_or(RawFd::from(64u8), |fd| fd.as_raw_fd());
    let open = (0..next.saturating_add(1024)).filter(|&fd| {
        // SAFETY: F_GETFD only asks, and a number that is no descriptor is an error.
        unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
    });
    open.count() as u64
}

/// How many bytes have been sent to the peer that it has not acknowledged yet; 0 if that cannot be told.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int, which lives across the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
    if result == 0 { usize::try_from(bytes).unwrap_or(0) } else { 0 }
}

/// The address that a socket is bound to.
///
/// # Errors
/// getsockname(2)'s.
pub fn local_address(socket: BorrowedFd<'_>) -> io::Result<SocketAddress> {
    let storage = ns::getsockname::<ns::SockaddrStorage>(socket.as_raw_fd())?;
    if let Some(v4) = storage.as_sockaddr_in() {
        return Ok(SocketAddress::Inet(SocketAddr::V4((*v4).into())));
    }
    if let Some(v6) = storage.as_sockaddr_in6() {
        return Ok(SocketAddress::Inet(SocketAddr::V6((*v6).into())));
    }
    let path = storage.as_unix_addr().and_then(UnixAddr::path).map(Path::to_path_buf);
    Ok(SocketAddress::Unix(path.unwrap_or_else(PathBuf::new)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(family: AddressFamily, source: Source) -> io::Result<SocketAddress> {
        let socket = ns::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        source.bind(&socket)?;
        local_address(socket.as_fd())
    }

    #[test]
    fn a_source_takes_no_port_before_the_connect_whatever_the_family() {
        for (family, ip) in [(AddressFamily::Inet, "127.0.0.7"), (AddressFamily::Inet6, "::1")] {
            let ip = ip.parse().unwrap();
            let address = bound(family, Source::Own(ip)).unwrap();
            assert_eq!(address, SocketAddress::Inet(SocketAddr::new(ip, 0)));
        }
    }

    #[test]
    fn foreign_addresses_can_be_bound_to_by_whoever_may() {
        for (family, ip) in [(AddressFamily::Inet, "192.0.2.7"), (AddressFamily::Inet6, "2001:db8::7")] {
            let ip = ip.parse().unwrap();
            let own = bound(family, Source::Own(ip)).unwrap_err();
            assert_eq!(own.kind(), io::ErrorKind::AddrNotAvailable, "{ip} is not this machine's");
            match (check_foreign(), bound(family, Source::Foreign(ip))) {
                (Ok(()), foreign) => {
                    assert_eq!(foreign.unwrap(), SocketAddress::Inet(SocketAddr::new(ip, 0)));
                }
                (Err(_), foreign) => {
                    assert_eq!(foreign.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
                }
            }
        }
    }

    #[test]
    fn a_source_of_the_other_family_is_left_out() {
        let listener = listen(&SocketAddress::Inet("127.0.0.1:0".parse().unwrap()), 1).unwrap();
        let address = local_address(listener.as_fd()).unwrap();
        let source = Some(Source::Foreign("2001:db8::7".parse().unwrap()));
        let attempt = connect(&address, ConnectOptions { source, keepalive: false }).unwrap();
        assert!(attempt.unbound.is_none());
    }
}
