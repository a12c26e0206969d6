//! Datagram sockets: batches in, batches out, one system call each, and what ICMP says of a server.
//!
//! A run of datagrams of one length (the last may be shorter) is a *train*: the kernel takes it to pieces on its way out
//! (UDP_SEGMENT) and puts it together on its way in (UDP_GRO).

#![allow(unsafe_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{MaybeUninit, offset_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::{iter, ptr, slice};

use memmap2::{Advice, MmapMut, MmapRaw};
use nix::sys::socket::{
    self as ns, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, setsockopt, sockopt,
};

use super::socket::{self, KernelAddress, Source, inet_address, local_address};
use crate::model::address::SocketAddress;

/// Most messages in a batch, and most datagrams in a train.
pub const BATCH: usize = 64;

/// Room for a message: no datagram or train is longer.
pub const LARGEST: usize = 65_536;

/// From one message's room to the next: with a whole power of two all of them would begin in the same few lines of the
/// processor's caches.
const STRIDE: usize = LARGEST + 3 * 64;

/// Bytes that may wait in a listening socket, in each direction: as many as a batch can have.
const QUEUE: usize = BATCH * LARGEST;

/// Bytes that may wait in the socket of a collector, with what the kernel needs for each datagram: a burst of some ten
/// thousand.
const COLLECTED: usize = 16 << 20;

/// How often a call that failed because of an earlier datagram is made again.
const TRIES: usize = 8;

/// Most errors that [`take_error`] takes from a socket's queue.
const MOST_ERRORS: usize = 64;

/// Room for the messages of one batch, used over and over.
#[derive(Debug)]
pub struct Inbox {
    /// Once something has been received.
    room: Option<Room>,
    /// How many messages the last call took.
    taken: usize,
    /// In which form.
    came: Came,
    /// How many headers of each kind the kernel has written to, in the last batch of theirs.
    written: [usize; 2],
}

/// What is known of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Named,
    Nameless,
    /// There is one, and it came without anything but its bytes: so many.
    Alone(usize),
}

/// A message that came: a datagram, or a train of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// Who sent it.
    pub from: SocketAddr,
    /// Which of this machine's addresses it was sent to, where the socket tells ([`open_group`]).
    pub to: Option<IpAddr>,
    /// All its bytes.
    pub bytes: &'a [u8],
    /// The length of each datagram but the last; not less than that of `bytes` if it is one datagram alone.
    pub segment: usize,
    /// Something of it is missing, which cannot be: it would have to be longer than its room.
    pub truncated: bool,
}

/// A message to be sent: a datagram, or a train of them.
#[derive(Debug)]
pub struct Departure<'a> {
    /// Where to; None on a connected socket.
    pub to: Option<SocketAddr>,
    /// From which of this machine's addresses, if that is not the system's to choose.
    pub from: Option<IpAddr>,
    /// Its bytes.
    pub pieces: &'a [IoSlice<'a>],
    /// It is a train of datagrams of this length (the last may be shorter).
    pub segment: Option<u16>,
}

/// A socket on its way to a server.
#[derive(Debug)]
pub struct Attempt {
    /// The socket, connected: it hears that server alone, and of its errors.
    pub socket: OwnedFd,
    /// Binding to the source failed; it sends from whatever address the system chose.
    pub unbound: Option<io::Error>,
}

impl Inbox {
    /// Room that costs no memory before it is used.
    pub fn new() -> Self {
        Inbox { room: None, taken: 0, came: Came::Named, written: [0; 2] }
    }

    /// Takes up to `most` (at most [`BATCH`]) messages that have come: how many there are.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. On a connected socket: what is known of the server, all of it as [`take_error`] does.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        self.receive_batch(socket, most, Came::Named)
    }

    /// As [`Inbox::receive`], from a connected socket: who sent a message is not told, which costs less.
    ///
    /// # Errors
    /// As [`Inbox::receive`].
    pub fn receive_nameless(&mut self, socket: BorrowedFd<'_>, most: usize) -> io::Result<usize> {
        self.receive_batch(socket, most, Came::Nameless)
    }

    fn receive_batch(&mut self, socket: BorrowedFd<'_>, most: usize, form: Came) -> io::Result<usize> {
        let room = match &mut self.room {
            Some(room) => room,
            none => none.insert(Room::open()?),
        };
        let [named, nameless] = room.headers_mut();
        let [named_written, nameless_written] = &mut self.written;
        let (headers, written) = match form {
            Came::Named => (named, named_written),
            Came::Nameless | Came::Alone(_) => (nameless, nameless_written),
        };
        // The kernel has written there how much of the room it used.
        for header in headers.iter_mut().take(*written) {
            restore(&mut header.msg_hdr);
        }
        (self.taken, self.came) = (0, form);
        *written = 0;
        self.taken = retrying(socket, || {
            // SAFETY: there are at least `most` headers, each with room of its own that lives as long as they do.
            let count = unsafe {
                libc::recvmmsg(
                    socket.as_raw_fd(),
                    headers.as_mut_ptr(),
                    most.min(BATCH) as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            usize::try_from(count).map_err(|_| io::Error::last_os_error())
        })?;
        *written = self.taken;
        Ok(self.taken)
    }

    /// Takes one message from a connected socket that gathers no trains ([`gather_trains`]), which costs less than a
    /// batch of one. Who sent it is not told.
    ///
    /// # Errors
    /// As [`Inbox::receive`].
    pub fn receive_alone(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        let room = match &mut self.room {
            Some(room) => room,
            none => none.insert(Room::open()?),
        };
        let slot = room.slot(0);
        let length = retrying(socket, || {
            // SAFETY: there is room for LARGEST bytes, and nobody else writes to it meanwhile.
            let length = unsafe { libc::recv(socket.as_raw_fd(), slot.cast(), LARGEST, libc::MSG_DONTWAIT) };
            usize::try_from(length).map_err(|_| io::Error::last_os_error())
        })?;
        (self.taken, self.came) = (1, Came::Alone(length));
        Ok(())
    }

    /// One of the messages that were taken last.
    ///
    /// # Panics
    /// If `index` is not below their number.
    #[inline]
    pub fn get(&self, index: usize) -> Arrival<'_> {
        let (Some(room), true) = (&self.room, index < self.taken) else {
            panic!("message {index} of {}", self.taken)
        };
        let envelopes = room.envelopes();
        let ([named, nameless], mut from) = (&envelopes.headers, NOBODY);
        let mmsghdr = match self.came {
            Came::Alone(length) => {
                let bytes = room.bytes(index, length);
                return Arrival { from, to: None, bytes, segment: length, truncated: false };
            }
            Came::Named => {
                from = sender(&envelopes.names[index]);
                &named[index]
            }
            Came::Nameless => &nameless[index],
        };
        let length = (mmsghdr.msg_len as usize).min(LARGEST);
        let header = &mmsghdr.msg_hdr;
        let told = if header.msg_controllen == 0 { Told::default() } else { Told::read(header) };
        Arrival {
            from,
            to: told.to,
            bytes: room.bytes(index, length),
            segment: told.segment.unwrap_or(length),
            // Without its control messages nobody knows whether it is a train.
            truncated: header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0,
        }
    }
}

/// Receives until something comes of it: a datagram that was lost somewhere is no reason not to take those that have come.
fn retrying(socket: BorrowedFd<'_>, mut receive: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    let mut tries = TRIES;
    loop {
        let error = match receive() {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => error,
            result => return result,
        };
        if let Some(told) = take_error(socket) {
            return Err(told);
        }
        tries -= 1;
        if tries == 0 {
            return Err(error);
        }
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Inbox::new()
    }
}

/// Whose name the kernel does not tell: nobody's.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl<'a> Arrival<'a> {
    /// Its datagrams. One without bytes is one, too.
    pub fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let empty = self.bytes.is_empty().then_some(self.bytes);
        empty.into_iter().chain(self.bytes.chunks(self.segment.max(1)))
    }
}

/// Where the kernel writes messages, and what it is told of that place: one mapping, so that nothing in it ever moves.
#[derive(Debug)]
struct Room(MmapRaw);

/// What belongs to each message beside its bytes.
#[repr(C)]
struct Envelopes {
    /// Those with room for a name, and those without.
    headers: [[libc::mmsghdr; BATCH]; 2],
    pieces: [libc::iovec; BATCH],
    names: [libc::sockaddr_storage; BATCH],
    controls: [Control; BATCH],
}

/// Room for the control messages of a message: both kinds of packet information and a segment's length.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; 128]);

impl Room {
    fn open() -> io::Result<Self> {
        let map = MmapRaw::from(MmapMut::map_anon(size_of::<Envelopes>() + BATCH * STRIDE)?);
        // A large page would be real memory for the sake of a few bytes.
        let _ = map.advise(Advice::NoHugePage);
        let room = Room(map);
        for index in 0..BATCH {
            let piece = libc::iovec { iov_base: room.slot(index).cast(), iov_len: LARGEST };
            let place: *mut libc::iovec = room.part(offset_of!(Envelopes, pieces), index);
            // SAFETY: it is within the mapping, aligned, and nobody else knows of it.
            unsafe { place.write(piece) };
            for kind in 0..2 {
                let header: *mut libc::mmsghdr =
                    room.part(offset_of!(Envelopes, headers), kind * BATCH + index);
                // SAFETY: as above, and zeroes are a valid value.
                let header = &mut unsafe { &mut *header }.msg_hdr;
                // All addresses are the mapping's own: one of a borrow would be good for as long as that only.
                if kind == 0 {
                    header.msg_name =
                        room.part::<libc::sockaddr_storage>(offset_of!(Envelopes, names), index).cast();
                }
                header.msg_iov = place;
                header.msg_iovlen = 1;
                header.msg_control = room.part::<Control>(offset_of!(Envelopes, controls), index).cast();
                restore(header);
            }
        }
        Ok(room)
    }

    fn headers_mut(&mut self) -> &mut [[libc::mmsghdr; BATCH]; 2] {
        let headers: *mut [[libc::mmsghdr; BATCH]; 2] = self.0.as_mut_ptr().cast();
        // SAFETY: they are what the mapping begins with, initialised by open, and borrowed as this is.
        unsafe { &mut *headers }
    }

    fn envelopes(&self) -> &Envelopes {
        let envelopes: *const Envelopes = self.0.as_ptr().cast();
        // SAFETY: it is what the mapping begins with; the kernel writes to it only in calls that borrow it mutably.
        unsafe { &*envelopes }
    }

    /// One of the envelopes' parts of that kind, which begin at `offset`.
    fn part<T>(&self, offset: usize, index: usize) -> *mut T {
        self.0.as_mut_ptr().wrapping_add(offset).cast::<T>().wrapping_add(index)
    }

    /// Where that message's bytes are: [`LARGEST`] of them.
    fn slot(&self, index: usize) -> *mut u8 {
        self.0.as_mut_ptr().wrapping_add(size_of::<Envelopes>() + index * STRIDE)
    }

    /// So many bytes of that message. `index` is below [`BATCH`].
    fn bytes(&self, index: usize, length: usize) -> &[u8] {
        // SAFETY: the slot is within the mapping with LARGEST bytes, all of them initialised from the start, and nobody
        // writes to it before the next call that receives, which cannot be while this is borrowed.
        unsafe { slice::from_raw_parts(self.slot(index), length.min(LARGEST)) }
    }
}

/// All the room for a name, if there is any, and for control messages is there again.
fn restore(header: &mut libc::msghdr) {
    if !header.msg_name.is_null() {
        header.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    }
    header.msg_controllen = size_of::<Control>() as _;
}

/// What control messages say of a message.
#[derive(Debug, Default)]
struct Told {
    to: Option<IpAddr>,
    segment: Option<usize>,
}

impl Told {
    /// `header` is one that the kernel has filled in.
    #[inline(never)]
    fn read(header: &libc::msghdr) -> Told {
        let mut told = Told::default();
        // SAFETY: the header's control points to as many bytes as it says, which the kernel has written.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(header) };
        while !next.is_null() {
            // SAFETY: it lies within the control messages, aligned.
            let part = unsafe { *next };
            // SAFETY: as above.
            let data = unsafe { libc::CMSG_DATA(next) };
            match (part.cmsg_level, part.cmsg_type) {
                (libc::SOL_IP, libc::IP_PKTINFO) => {
                    // SAFETY: these two numbers say that it holds this; it may lie anywhere.
                    let info: libc::in_pktinfo = unsafe { ptr::read_unaligned(data.cast()) };
                    // Not ipi_addr: nobody can answer from where a broadcast went to.
                    let own = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
                    told.to = (!own.is_unspecified()).then_some(IpAddr::V4(own));
                }
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                    // SAFETY: as above.
                    let info: libc::in6_pktinfo = unsafe { ptr::read_unaligned(data.cast()) };
                    let own = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    // An IPv4 packet's is told better in the other way.
                    if own.to_ipv4_mapped().is_none() && !own.is_multicast() && !own.is_unspecified() {
                        told.to = Some(IpAddr::V6(own));
                    }
                }
                (libc::SOL_UDP, libc::UDP_GRO) => {
                    // SAFETY: as above.
                    let length: libc::c_int = unsafe { ptr::read_unaligned(data.cast()) };
                    told.segment = usize::try_from(length).ok().filter(|&length| length > 0);
                }
                _ => {}
            }
            // SAFETY: as for the first.
            next = unsafe { libc::CMSG_NXTHDR(header, next) };
        }
        told
    }
}

/// Who sent a message. Apart from the rest: woven into it, addresses are moved byte by byte.
#[inline(never)]
fn sender(name: &libc::sockaddr_storage) -> SocketAddr {
    inet_address(name).map_or(NOBODY, plain)
}

/// An IPv4 address that came over a socket for IPv6 is one nevertheless.
fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::new(v4.into(), v6.port()),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// Sends messages, in as few calls as it takes, and tells of each what became of it. After one that failed it goes on
/// with the next, but when it is known that the server is not there, all that follow fail for the same reason. When the kernel has no room now, that one and all that follow are `WouldBlock` and not tried again.
pub fn send_all(
    socket: BorrowedFd<'_>,
    departures: &[Departure<'_>],
    mut told: impl FnMut(usize, io::Result<()>),
) {
    if let [Departure { to: None, from: None, pieces: [bytes], segment: None }] = departures
        && let Some(result) = send_alone(socket, bytes)
    {
        return told(0, result);
    }
    for (number, batch) in departures.chunks(BATCH).enumerate() {
        let first = number * BATCH;
        if let Err(error) = send_batch(socket, batch, &mut |index, result| told(first + index, result)) {
            return (first + batch.len()..departures.len()).for_each(|index| told(index, Err(same(&error))));
        }
    }
}

/// What most messages need, without the kernel's reading and checking of a header. None: it was not sent because of an
/// earlier datagram, whose error says nothing of the server.
fn send_alone(socket: BorrowedFd<'_>, bytes: &[u8]) -> Option<io::Result<()>> {
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let error = match ns::send(socket.as_raw_fd(), bytes, flags) {
        Ok(_) => return Some(Ok(())),
        Err(error) => io::Error::from(error),
    };
    if is_servers_fault(&error) { take_error(socket).map(Err) } else { Some(Err(error)) }
}

fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// As [`send_all`], for [`BATCH`] messages at most. An error: that of the last message, and of all that would follow.
fn send_batch(
    socket: BorrowedFd<'_>,
    batch: &[Departure<'_>],
    told: &mut impl FnMut(usize, io::Result<()>),
) -> io::Result<()> {
    // Most of it is never touched.
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
    let mut names = [const { MaybeUninit::<KernelAddress>::uninit() }; BATCH];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; BATCH];
    for (((departure, header), name), control) in
        batch.iter().zip(&mut headers).zip(&mut names).zip(&mut controls)
    {
        header.write(address(departure, name, control));
    }
    let mut at = 0;
    let mut tries = TRIES;
    while at < batch.len() {
        // SAFETY: so many headers have been written, and what they point to lives in the arrays above and in the batch.
        let sent = unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers[at..].as_mut_ptr().cast(),
                (batch.len() - at) as libc::c_uint,
                (libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) as _,
            )
        };
        if let Ok(sent) = usize::try_from(sent) {
            for _ in 0..sent.min(batch.len() - at) {
                told(at, Ok(()));
                at += 1;
            }
            continue;
        }
        let mut error = io::Error::last_os_error();
        // It may be an earlier datagram's. Where that says nothing of the server, this one can be sent.
        if batch[at].to.is_none() && is_servers_fault(&error) {
            match take_error(socket) {
                Some(known) => error = known,
                None if tries > 0 => {
                    tries -= 1;
                    continue;
                }
                None => {}
            }
        }
        let nobody_hears = batch[at].to.is_none() && is_servers_fault(&error);
        if nobody_hears || error.kind() == io::ErrorKind::WouldBlock {
            (at..batch.len()).for_each(|index| told(index, Err(same(&error))));
            return Err(error);
        }
        told(at, Err(error));
        at += 1;
    }
    Ok(())
}

/// A header for that message; what it needs besides is written to the other places.
fn address(
    departure: &Departure<'_>,
    name: &mut MaybeUninit<KernelAddress>,
    control: &mut MaybeUninit<Control>,
) -> libc::mmsghdr {
    // SAFETY: it consists of integers and pointers, of which zero is a valid value.
    let mut mmsghdr: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    let header = &mut mmsghdr.msg_hdr;
    if let Some(to) = departure.to {
        // A socket for IPv6 that hears IPv4 takes such an address as it is.
        let (pointer, length) = name.write(plain(to).into()).raw();
        header.msg_name = pointer.cast_mut().cast();
        header.msg_namelen = length;
    }
    // An IoSlice is an iovec on Unix; what is sent is only read.
    header.msg_iov = departure.pieces.as_ptr().cast_mut().cast();
    header.msg_iovlen = departure.pieces.len() as _;
    let mut used = 0;
    match departure.from.map(|from| from.to_canonical()) {
        Some(IpAddr::V4(from)) => {
            let own = libc::in_addr { s_addr: u32::from(from).to_be() };
            let any = libc::in_addr { s_addr: 0 };
            let info = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: own, ipi_addr: any };
            append(control, &mut used, libc::SOL_IP, libc::IP_PKTINFO, info);
        }
        Some(IpAddr::V6(from)) => {
            let own = libc::in6_addr { s6_addr: from.octets() };
            let info = libc::in6_pktinfo { ipi6_addr: own, ipi6_ifindex: 0 };
            append(control, &mut used, libc::SOL_IPV6, libc::IPV6_PKTINFO, info);
        }
        None => {}
    }
    if let Some(length) = departure.segment {
        append(control, &mut used, libc::SOL_UDP, libc::UDP_SEGMENT, length);
    }
    if used > 0 {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = used as _;
    }
    mmsghdr
}

/// A control message. Its size is what CMSG_SPACE(3) says.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Part<T> {
    header: libc::cmsghdr,
    value: T,
}

/// Adds a control message behind those that are there, and what it needs of the room to `used`.
fn append<T: Copy>(
    control: &mut MaybeUninit<Control>,
    used: &mut usize,
    level: libc::c_int,
    kind: libc::c_int,
    value: T,
) {
    const { assert!(size_of::<Part<T>>() + size_of::<Part<u16>>() <= size_of::<Control>()) };
    // SAFETY: it consists of integers, of which zero is a valid value.
    let mut header: libc::cmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<T>()) as _;
    header.cmsg_level = level;
    header.cmsg_type = kind;
    let place: *mut Part<T> = control.as_mut_ptr().cast::<u8>().wrapping_add(*used).cast();
    // SAFETY: at most two are written, the last is that of the segment: there is room for them, see above; and what is
    // there before is a multiple of the alignment of all.
    unsafe { place.write(Part { header, value }) };
    *used += size_of::<Part<T>>();
}

/// Sockets that share an address: the kernel gives each client's datagrams to one of them, always the same. Where the
/// address is a wildcard they tell which address a datagram was sent to. `[::]` hears IPv4 too. No other program can have
/// the address, nor another group of the same user. The port may be 0: all get the one that the kernel chooses.
///
/// # Errors
/// The kernel's; `AddrInUse` if anybody has the address.
pub fn open_group(address: SocketAddr, members: usize) -> io::Result<Vec<OwnedFd>> {
    let first = listening(address)?;
    KernelAddress::from(address).bind(&first)?;
    // Only now: otherwise it would join any group of this user that is there.
    setsockopt(&first, sockopt::ReusePort, &true)?;
    let address = match local_address(first.as_fd())? {
        SocketAddress::Inet(inet) => inet,
        SocketAddress::Unix(_) => address,
    };
    let further = iter::repeat_with(|| join_group(address)).take(members.saturating_sub(1));
    iter::once(Ok(first)).chain(further).collect()
}

/// One more socket for a group, which changes whose datagrams most clients' are. The process must have the user that it
/// had when it opened the group.
///
/// # Errors
/// The kernel's.
pub fn join_group(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = listening(address)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    KernelAddress::from(address).bind(&socket)?;
    Ok(socket)
}

/// A socket that hears what anybody sends to this port and never answers: over IPv6 and IPv4, or over IPv4 alone where the
/// system has no IPv6. As much may wait in it as the system allows, up to `COLLECTED`.
///
/// # Errors
/// The kernel's.
pub fn open_collector(port: u16) -> io::Result<OwnedFd> {
    let open = |address: IpAddr| {
        let address = KernelAddress::from(SocketAddr::new(address, port));
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = ns::socket(address.family(), SockType::Datagram, flags, None)?;
        if address.family() == ns::AddressFamily::Inet6 {
            setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
        }
        if setsockopt(&socket, sockopt::RcvBufForce, &COLLECTED).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &COLLECTED)?;
        }
        address.bind(&socket)?;
        Ok(socket)
    };
    match open(Ipv6Addr::UNSPECIFIED.into()) {
        Err(error) if lacks_family(&error) => open(Ipv4Addr::UNSPECIFIED.into()),
        result => result,
    }
}

/// Is it that there is no IPv6?
fn lacks_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}

/// What a socket holds that nobody has read, and what it could not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queue {
    /// Bytes that wait, with what the kernel needs for each datagram.
    pub waiting: u32,
    /// As many may.
    pub limit: u32,
    /// Datagrams that the kernel has dropped since the socket was opened, most of them for lack of room. Counted modulo
    /// 2³².
    pub dropped: u32,
}

/// What is known of the datagrams that have come to a socket.
///
/// # Errors
/// The kernel is older than 4.12.
pub fn queue(socket: BorrowedFd<'_>) -> io::Result<Queue> {
    // linux/sock_diag.h: SK_MEMINFO_*.
    const FIELDS: usize = 9;
    const WAITING: usize = 0;
    const LIMIT: usize = 1;
    const DROPPED: usize = 8;
    let mut told = [0u32; FIELDS];
    let mut length = size_of_val(&told) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `told`, which is as long, and the length to `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            told.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Queue { waiting: told[WAITING], limit: told[LIMIT], dropped: told[DROPPED] })
}

/// A socket for datagrams of clients, before it has that address.
fn listening(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = open(address)?;
    let wildcard = address.ip().is_unspecified();
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &!wildcard)?;
        // It sends to IPv4 clients too.
        setsockopt(&socket, option::IpMtuDiscover, &libc::IP_PMTUDISC_DONT)?;
    }
    if wildcard {
        setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
        if address.is_ipv6() {
            setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    // Kernels that put no trains together work as well.
    let _ = gather_trains(socket.as_fd());
    // The limits of the system (net.core.rmem_max, wmem_max) bind whoever may not exceed them.
    if setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &QUEUE)?;
    }
    if setsockopt(&socket, sockopt::SndBufForce, &QUEUE).is_err() {
        setsockopt(&socket, sockopt::SndBuf, &QUEUE)?;
    }
    Ok(socket)
}

/// A socket of the family of that address. What it sends is fragmented where it must be: the kernel does not look for
/// the largest datagram that passes whole, which a sender of datagrams would have to know of.
fn open(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = KernelAddress::from(address).family();
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = ns::socket(family, SockType::Datagram, flags, None)?;
    match address {
        SocketAddr::V4(_) => setsockopt(&socket, option::IpMtuDiscover, &libc::IP_PMTUDISC_DONT)?,
        SocketAddr::V6(_) => setsockopt(&socket, option::Ipv6MtuDiscover, &libc::IPV6_PMTUDISC_DONT)?,
    }
    Ok(socket)
}

mod option {
    use nix::{setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// IP_MTU_DISCOVER, which nix lacks.
        IpMtuDiscover,
        SetOnly,
        libc::SOL_IP,
        libc::IP_MTU_DISCOVER,
        libc::c_int
    );
    sockopt_impl!(
        /// IPV6_MTU_DISCOVER, which nix lacks.
        Ipv6MtuDiscover,
        SetOnly,
        libc::SOL_IPV6,
        libc::IPV6_MTU_DISCOVER,
        libc::c_int
    );
}

/// A socket for datagrams to a server and its replies.
///
/// # Errors
/// The kernel's ([`super::socket::is_exhaustion`], [`super::socket::is_our_lack`]).
pub fn connect(to: SocketAddr, source: Option<Source>) -> io::Result<Attempt> {
    let to = plain(to);
    let socket = open(to)?;
    // Without it only a closed port is heard of, not a host that is not there.
    match to {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    let unbound = Source::bind_for(source, to.ip(), &socket);
    KernelAddress::from(to).connect(&socket)?;
    Ok(Attempt { socket, unbound })
}

/// What ICMP has said of a connected socket's server, if anything, and forgets it: its port or its host cannot be
/// reached. What concerns a datagram alone (too large for the way, lost in transit) is not told.
///
/// As long as errors are there poll(2) reports them.
pub fn take_error(socket: BorrowedFd<'_>) -> Option<io::Error> {
    let mut told = None;
    let mut queued = false;
    for _ in 0..MOST_ERRORS {
        let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
        let mut nothing = [IoSliceMut::new(&mut [])];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let received = ns::recvmsg::<UnixAddr>(socket.as_raw_fd(), &mut nothing, Some(&mut control), flags);
        let Ok(message) = received else { break };
        queued = true;
        for part in message.cmsgs().into_iter().flatten() {
            let (ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _)) =
                part
            else {
                continue;
            };
            if told.is_none() && concerns_server(&error) {
                told = Some(io::Error::from_raw_os_error(error.ee_errno.cast_signed()));
            }
        }
    }
    // Where the queue had no room there is only this; otherwise it repeats what has been read.
    let last = socket::take_error(socket);
    if queued { told } else { last.filter(is_servers_fault) }
}

/// ICMP's Destination Unreachable, for IPv4 and for IPv6.
const UNREACHABLE: [(u8, u8); 2] = [(libc::SO_EE_ORIGIN_ICMP, 3), (libc::SO_EE_ORIGIN_ICMP6, 1)];

fn concerns_server(error: &libc::sock_extended_err) -> bool {
    UNREACHABLE.contains(&(error.ee_origin, error.ee_type))
        && is_servers_fault(&io::Error::from_raw_os_error(error.ee_errno.cast_signed()))
}

/// Does this error of [`connect`] tell of a lack on our side (descriptors, memory, local ports), and nothing about the
/// server?
pub fn is_lack(error: &io::Error) -> bool {
    let no_port = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::AddrInUse);
    no_port || socket::is_exhaustion(error) || socket::is_our_lack(error)
}

/// Does this error of [`send_all`], or of a receive, concern a datagram's length alone?
pub fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMSGSIZE)
}

/// Is this what [`send_all`] tells of a train that its way does not take?
pub fn refuses_trains(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EMSGSIZE | libc::EIO))
}

/// Does this error mean that the server, or its host, is not there?
pub fn is_servers_fault(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::ENOPROTOOPT
                | libc::EACCES
                | libc::EHOSTDOWN
                | libc::ENONET
        )
    )
}

/// From now on the kernel puts trains together on this socket.
///
/// # Errors
/// The kernel's.
pub fn gather_trains(socket: BorrowedFd<'_>) -> io::Result<()> {
    Ok(setsockopt(&socket, sockopt::UdpGroSegment, &true)?)
}

#[cfg(test)]
mod tests;
