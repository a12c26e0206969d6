//! All that clients come to, opened by the master for life: sockets for connections, which all workers share, and groups
//! of sockets for datagrams, each of which one worker reads.
//!
//! The kernel gives each client's datagrams to one socket of a group, whoever reads it. So a worker that has ended loses
//! none: its successor is given the same sockets.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::model::address::SocketAddress;
use crate::model::listen::Protocol;
use crate::net::channel::Listening;
use crate::process::listening::{ListenError, StreamListener};
use crate::sys::datagram;
use crate::sys::privileges::User;

/// Where clients come to, and by which protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// By which protocol.
    pub protocol: Protocol,
    /// Where.
    pub address: SocketAddress,
}

/// As messages name it: `127.0.0.1:80`, `udp 127.0.0.1:53`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Tcp => self.address.fmt(f),
            Protocol::Udp => write!(f, "{} {}", self.protocol, self.address),
        }
    }
}

impl Place {
    /// Does the kernel refuse to have one of these beside the other?
    pub fn meets(&self, other: &Place) -> bool {
        match (&self.address, &other.address) {
            (SocketAddress::Inet(one), SocketAddress::Inet(two)) => {
                self.protocol == other.protocol && takes_in(*one, *two)
            }
            (SocketAddress::Unix(one), SocketAddress::Unix(two)) => one == two,
            (SocketAddress::Inet(_), SocketAddress::Unix(_))
            | (SocketAddress::Unix(_), SocketAddress::Inet(_)) => false,
        }
    }
}

/// `[::]` takes in IPv4, too.
fn takes_in(one: SocketAddr, two: SocketAddr) -> bool {
    let (a, b) = (one.ip().to_canonical(), two.ip().to_canonical());
    let all = |wildcard: std::net::IpAddr, ip: std::net::IpAddr| {
        wildcard.is_unspecified() && (wildcard.is_ipv6() || ip.is_ipv4())
    };
    one.port() == two.port() && (a == b || all(a, b) || all(b, a))
}

/// The first of these that cannot be beside one before it, or beside one of `others`; by their positions.
///
/// # Errors
///
/// [`ListenError::Clash`], and the position of the later one.
pub fn check_clashes(places: &[Place], others: &[Place]) -> Result<(), (usize, ListenError)> {
    for (number, place) in places.iter().enumerate() {
        if let Some(other) = others.iter().chain(&places[..number]).find(|other| place.meets(other)) {
            return Err((number, ListenError::Clash { place: place.clone(), other: other.clone() }));
        }
    }
    Ok(())
}

/// A worker's share of a group: it reads every so-many-th of the sockets. Whatever their number and that of the workers,
/// each is read by exactly one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Its place among the workers that read, from 0.
    pub place: usize,
    /// How many workers read.
    pub of: usize,
}

impl Share {
    /// Is the socket at this position the worker's? Those that are more workers than sockets have none.
    pub fn holds(self, socket: usize) -> bool {
        socket % self.of.max(1) == self.place
    }
}

/// Those of a group's sockets that are a share's; without one, none.
fn held<T>(sockets: impl IntoIterator<Item = T>, share: Option<Share>) -> impl Iterator<Item = T> {
    let mine = move |number| share.is_some_and(|share| share.holds(number));
    sockets.into_iter().enumerate().filter(move |(number, _)| mine(*number)).map(|(_, socket)| socket)
}

/// An open listener.
#[derive(Debug)]
pub enum Listener {
    /// For connections.
    Stream(StreamListener),
    /// For datagrams.
    Group(Group),
}

/// Sockets for datagrams at one address.
#[derive(Debug)]
pub struct Group {
    address: SocketAddress,
    sockets: Vec<OwnedFd>,
}

impl Group {
    /// Opens as many sockets as there are workers to read them.
    fn open(address: SocketAddress, members: u32, room: &mut usize) -> Result<Self, ListenError> {
        let members = (members as usize).max(1);
        let sockets = datagrams(&address).and_then(|inet| {
            *room = room.checked_sub(members).ok_or_else(no_room)?;
            datagram::open_group(inet, members)
        });
        match sockets {
            Ok(sockets) => Ok(Group { address, sockets }),
            Err(reason) => Err(refusal(address, reason)),
        }
    }

    /// Opens more sockets until there is one for each worker. Those that were opened before a failure stay.
    fn grow(&mut self, members: u32, room: &mut usize) -> io::Result<()> {
        let address = datagrams(&self.address)?;
        while self.sockets.len() < members as usize {
            *room = room.checked_sub(1).ok_or_else(no_room)?;
            self.sockets.push(datagram::join_group(address)?);
        }
        Ok(())
    }

    /// Could it be opened now? A socket that shares nothing tells; it is closed at once.
    fn check_free(address: SocketAddress) -> Result<(), ListenError> {
        let opened = datagrams(&address).and_then(UdpSocket::bind);
        opened.map(drop).map_err(|reason| refusal(address, reason))
    }
}

/// A process that had used up its descriptors for listeners could not even start a worker.
fn no_room() -> io::Error {
    io::Error::other("too many sockets for the limit of descriptors (ulimit -n, LimitNOFILE=)")
}

/// Paths are refused by whoever reads the settings; this is for the day on which they are not.
fn datagrams(address: &SocketAddress) -> io::Result<SocketAddr> {
    match address {
        SocketAddress::Inet(inet) => Ok(*inet),
        SocketAddress::Unix(_) => Err(io::Error::other("udp needs [host:]port")),
    }
}

fn refusal(address: SocketAddress, reason: io::Error) -> ListenError {
    ListenError::Refused { place: Place { protocol: Protocol::Udp, address }, reason }
}

impl Listener {
    /// Listens there: with TCP, so many clients may wait in the kernel's queue; with UDP, so many workers are to read, and
    /// as many sockets are taken from the `room` for them.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn open(place: Place, backlog: u32, workers: u32, room: &mut usize) -> Result<Self, ListenError> {
        match place.protocol {
            Protocol::Tcp => StreamListener::open(place.address, backlog).map(Listener::Stream),
            Protocol::Udp => Group::open(place.address, workers, room).map(Listener::Group),
        }
    }

    /// Could it be opened? That somebody has the address already is no hindrance, and nobody is disturbed.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn check(place: Place) -> Result<(), ListenError> {
        match place.protocol {
            Protocol::Tcp => StreamListener::check(place.address),
            Protocol::Udp => match Group::check_free(place.address) {
                Err(ListenError::Refused { reason, .. }) if reason.kind() == io::ErrorKind::AddrInUse => {
                    Ok(())
                }
                checked => checked,
            },
        }
    }

    /// Could it be opened now, while whoever has the address goes on?
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn check_free(place: Place) -> Result<(), ListenError> {
        match place.protocol {
            Protocol::Tcp => StreamListener::check_free(place.address),
            Protocol::Udp => Group::check_free(place.address),
        }
    }

    /// Where it listens.
    pub fn place(&self) -> Place {
        let (protocol, address) = match self {
            Listener::Stream(stream) => (Protocol::Tcp, stream.address()),
            Listener::Group(group) => (Protocol::Udp, &group.address),
        };
        Place { protocol, address: address.clone() }
    }

    fn is_at(&self, place: &Place) -> bool {
        match self {
            Listener::Stream(stream) => place.protocol == Protocol::Tcp && *stream.address() == place.address,
            Listener::Group(group) => place.protocol == Protocol::Udp && group.address == place.address,
        }
    }
}

/// All that clients come to, in the order of the settings.
#[derive(Debug, Default)]
pub struct Listeners(Vec<Listener>);

impl Listeners {
    /// Opens them all, or none; at most `room` sockets for datagrams.
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn open(
        places: Vec<Place>,
        backlog: u32,
        workers: u32,
        mut room: usize,
    ) -> Result<Self, ListenError> {
        check_clashes(&places, &[]).map_err(|(_, clash)| clash)?;
        let opened = places.into_iter().map(|place| Listener::open(place, backlog, workers, &mut room));
        opened.collect::<Result<_, _>>().map(Listeners)
    }

    /// Where they listen.
    pub fn places(&self) -> Vec<Place> {
        self.0.iter().map(Listener::place).collect()
    }

    /// Does one of them listen there?
    pub fn has(&self, place: &Place) -> bool {
        self.0.iter().any(|listener| listener.is_at(place))
    }

    /// Are there datagrams?
    pub fn has_groups(&self) -> bool {
        self.0.iter().any(|listener| matches!(listener, Listener::Group(_)))
    }

    /// How many sockets they are.
    pub fn sockets(&self) -> usize {
        let sockets = self.0.iter().map(|listener| match listener {
            Listener::Stream(_) => 1,
            Listener::Group(group) => group.sockets.len(),
        });
        sockets.sum()
    }

    /// What a worker with this share listens on; one without reads no datagrams.
    pub fn shared(&self, share: Option<Share>) -> Vec<(Protocol, BorrowedFd<'_>)> {
        let mut all = Vec::new();
        for listener in &self.0 {
            match listener {
                Listener::Stream(stream) => all.push((Protocol::Tcp, stream.as_fd())),
                Listener::Group(group) => {
                    let mine = held(&group.sockets, share);
                    all.extend(mine.map(|socket| (Protocol::Udp, socket.as_fd())));
                }
            }
        }
        all
    }

    /// The same for a worker's process, which closes the rest.
    pub fn into_share(self, share: Option<Share>) -> Vec<Listening> {
        let mut all = Vec::new();
        for listener in self.0 {
            match listener {
                Listener::Stream(stream) => {
                    all.push(Listening { protocol: Protocol::Tcp, socket: stream.into_socket() });
                }
                Listener::Group(group) => {
                    let mine = held(group.sockets, share);
                    all.extend(mine.map(|socket| Listening { protocol: Protocol::Udp, socket }));
                }
            }
        }
        all
    }

    /// Changes how many clients may wait in the queues of those for connections. Those that could not be changed, and why.
    pub fn set_backlog(&self, backlog: u32) -> Vec<(Place, io::Error)> {
        let streams = self.0.iter().filter_map(|listener| match listener {
            Listener::Stream(stream) => Some((listener, stream)),
            Listener::Group(_) => None,
        });
        streams
            .filter_map(|(listener, stream)| Some((listener.place(), stream.set_backlog(backlog).err()?)))
            .collect()
    }

    /// Sees to a socket for each worker in every group, at most `room` more. Groups that stay smaller, with the number of
    /// workers that read there, and why.
    pub fn grow(&mut self, workers: u32, mut room: usize) -> Vec<(Place, usize, io::Error)> {
        let groups = self.0.iter_mut().filter_map(|listener| match listener {
            Listener::Stream(_) => None,
            Listener::Group(group) => Some(group),
        });
        let grown = groups.filter_map(|group| {
            let reason = group.grow(workers, &mut room).err()?;
            let place = Place { protocol: Protocol::Udp, address: group.address.clone() };
            Some((place, group.sockets.len(), reason))
        });
        grown.collect()
    }

    /// Goes over to these. Those that are to stay keep their sockets, others are closed, with their paths.
    pub fn replace(&mut self, planned: Vec<Planned>) {
        let mut before = std::mem::take(&mut self.0);
        for planned in planned {
            match planned {
                Planned::Opened(listener) => self.0.push(listener),
                Planned::Stays(place) => {
                    if let Some(number) = before.iter().position(|listener| listener.is_at(&place)) {
                        self.0.push(before.swap_remove(number));
                    }
                }
            }
        }
    }

    /// Gives the sockets of the groups to this user, who can add to them later where he may bind the port.
    pub fn give_groups_to(&self, user: &User) {
        for listener in &self.0 {
            if let Listener::Group(group) = listener {
                // If it cannot be, they serve as well, and `workers` tells that they stay as many as they are.
                group.sockets.iter().for_each(|socket| drop(user.own_descriptor(socket.as_fd())));
            }
        }
    }

    /// Closes those for connections, with their paths.
    pub fn close_streams(&mut self) {
        self.0.retain(|listener| matches!(listener, Listener::Group(_)));
    }

    /// From now on the paths of Unix sockets go with this process, a child of the one that opened them.
    pub fn adopt(&mut self) {
        self.streams().for_each(StreamListener::adopt);
    }

    /// Leaves the paths of Unix sockets to the process that adopted them.
    pub fn disown(&mut self) {
        self.streams().for_each(StreamListener::disown);
    }

    fn streams(&mut self) -> impl Iterator<Item = &mut StreamListener> {
        self.0.iter_mut().filter_map(|listener| match listener {
            Listener::Stream(stream) => Some(stream),
            Listener::Group(_) => None,
        })
    }
}

/// A listener of a set that is to come.
#[derive(Debug)]
pub enum Planned {
    /// It is there already.
    Stays(Place),
    /// It has been opened for that.
    Opened(Listener),
}

#[cfg(test)]
impl Group {
    /// With sockets that nothing comes to.
    pub(super) fn silent(address: &str, members: usize) -> Self {
        let socket = || crate::sys::message::pair().unwrap_or_else(|error| panic!("{error}")).0;
        let inet = address.parse().unwrap_or_else(|error| panic!("{address}: {error}"));
        let sockets = std::iter::repeat_with(socket).take(members).collect();
        Group { address: SocketAddress::Inet(inet), sockets }
    }
}

#[cfg(test)]
impl From<Vec<Listener>> for Listeners {
    fn from(all: Vec<Listener>) -> Self {
        Listeners(all)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;

    use super::*;
    use crate::sys::socket;

    fn tcp(address: &str) -> Place {
        Place { protocol: Protocol::Tcp, address: SocketAddress::Inet(address.parse().unwrap()) }
    }

    fn udp(address: &str) -> Place {
        Place { protocol: Protocol::Udp, ..tcp(address) }
    }

    fn unix(name: &str) -> (PathBuf, Place) {
        let path = std::env::temp_dir().join(format!("pen-listeners-{}-{name}", std::process::id()));
        (path.clone(), Place { protocol: Protocol::Tcp, address: SocketAddress::Unix(path) })
    }

    /// A listener on a port of the kernel's choice, known by that port.
    fn stream() -> Listener {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let place = tcp(&taken.local_addr().unwrap().to_string());
        drop(taken);
        Listener::open(place, 50, 1, &mut 0).unwrap()
    }

    #[test]
    fn each_socket_of_a_group_is_read_by_exactly_one_worker() {
        for members in 1..=9 {
            for workers in 1..=9 {
                let make = || {
                    let group = Group::silent("192.0.2.1:53", members);
                    Listeners(vec![Listener::Group(group)])
                };
                let listeners = make();
                let share = |place| Some(Share { place, of: workers });
                let numbers = |listeners: Vec<(Protocol, BorrowedFd<'_>)>| -> Vec<_> {
                    listeners.iter().map(|(_, fd)| fd.as_raw_fd()).collect()
                };
                let mut read: Vec<_> =
                    (0..workers).flat_map(|place| numbers(listeners.shared(share(place)))).collect();
                read.sort_unstable();
                let mut all = numbers(listeners.shared(Some(Share { place: 0, of: 1 })));
                all.sort_unstable();
                assert_eq!((read, all.len()), (all, members), "{members} sockets, {workers} workers");
                assert!(listeners.shared(None).is_empty());
                for place in 0..workers {
                    let there_are = listeners.shared(share(place)).len();
                    assert_eq!(make().into_share(share(place)).len(), there_are);
                    assert_eq!(there_are == 0, place >= members);
                }
            }
        }
    }

    #[test]
    fn all_workers_share_the_listeners_for_connections() {
        let all = Listeners(vec![stream(), Listener::Group(Group::silent("192.0.2.1:53", 3)), stream()]);
        assert_eq!((all.sockets(), all.has_groups()), (5, true));
        let protocols = |share| all.shared(share).iter().map(|it| it.0).collect::<Vec<_>>();
        let (one, two) = (Protocol::Tcp, Protocol::Udp);
        assert_eq!(protocols(None), [one, one]);
        assert_eq!(protocols(Some(Share { place: 0, of: 2 })), [one, two, two, one]);
        assert_eq!(protocols(Some(Share { place: 1, of: 2 })), [one, two, one]);
        assert!(all.set_backlog(60).is_empty());
    }

    #[test]
    fn if_one_cannot_be_opened_nothing_is_left_of_the_others() {
        let (path, unix) = unix("third");
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let third = tcp(&taken.local_addr().unwrap().to_string());
        let places = vec![unix.clone(), tcp("127.0.0.1:0"), third.clone()];
        let error = Listeners::open(places, 50, 1, 0).unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on {third}: ")), "{error}");
        assert!(!path.exists());
        drop(taken);
        let open = Listeners::open(vec![unix.clone(), third.clone()], 50, 1, 0).unwrap();
        assert_eq!(open.places(), [unix.clone(), third]);
        assert!(path.exists() && open.has(&unix));
        drop(open);
        assert!(!path.exists());
    }

    #[test]
    fn those_that_stay_keep_their_sockets() {
        let (path, place) = unix("stays");
        let group = Group::silent("192.0.2.1:53", 2);
        let mut all = Listeners(vec![
            stream(),
            Listener::open(place.clone(), 50, 1, &mut 0).unwrap(),
            Listener::Group(group),
            stream(),
        ]);
        let everything = Some(Share { place: 0, of: 1 });
        let sockets = |all: &Listeners| -> Vec<OwnedFd> {
            all.shared(everything).iter().map(|(_, fd)| fd.try_clone_to_owned().unwrap()).collect()
        };
        let (before, places) = (sockets(&all), all.places());
        let stays = |number: usize| Planned::Stays(places[number].clone());
        all.replace(vec![stays(3), Planned::Opened(stream()), stays(2), stays(1)]);
        assert_eq!(all.places()[2..], [places[2].clone(), places[1].clone()]);
        let after = sockets(&all);
        let came_from = |socket: &OwnedFd| {
            before.iter().position(|before| socket::is_same(before.as_fd(), socket.as_fd()))
        };
        assert_eq!(
            after.iter().map(came_from).collect::<Vec<_>>(),
            [Some(4), None, Some(2), Some(3), Some(1)]
        );
        assert!(path.exists() && !all.has(&places[0]));
        all.replace(vec![Planned::Stays(places[3].clone())]);
        assert!(!path.exists(), "its path goes with it");
    }

    #[test]
    fn two_that_the_kernel_refuses_side_by_side_clash() {
        let meets = |one: &str, two: &str| {
            let (one, two) = (tcp(one), tcp(two));
            assert_eq!(one.meets(&two), two.meets(&one));
            one.meets(&two)
        };
        assert!(meets("127.0.0.1:80", "127.0.0.1:80") && !meets("127.0.0.1:80", "127.0.0.1:81"));
        assert!(meets("127.0.0.1:80", "0.0.0.0:80") && meets("127.0.0.1:80", "[::]:80"));
        assert!(meets("[::1]:80", "[::]:80") && meets("0.0.0.0:80", "[::]:80"));
        assert!(!meets("[::1]:80", "0.0.0.0:80") && !meets("127.0.0.1:80", "127.0.0.2:80"));
        assert!(meets("[::ffff:127.0.0.1]:80", "0.0.0.0:80"));
        assert!(!udp("127.0.0.1:80").meets(&tcp("127.0.0.1:80")));
        let (_, path) = unix("clash");
        assert!(path.meets(&path) && !path.meets(&tcp("0.0.0.0:80")));

        let clash = |places: &[Place], others: &[Place]| {
            check_clashes(places, others).map_err(|(number, error)| (number, error.to_string()))
        };
        let both = [tcp("0.0.0.0:80"), udp("0.0.0.0:80"), tcp("127.0.0.1:81")];
        assert_eq!(clash(&both, &[]), Ok(()));
        let words = "cannot listen on 127.0.0.1:81 beside 0.0.0.0:81, which has the same port";
        assert_eq!(clash(&both, &[tcp("0.0.0.0:81")]), Err((2, words.to_string())));
        let twice = clash(&[udp("[::1]:53"), udp("[::1]:53")], &[]);
        assert_eq!(twice, Err((1, "cannot listen on udp [::1]:53 twice".to_string())));
        assert!(Listeners::open(vec![tcp("127.0.0.1:1"), tcp("0.0.0.0:1")], 50, 1, 0).is_err());
    }

    #[test]
    fn a_group_is_one_pens_alone_and_grows_with_its_workers() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let place = udp(&taken.local_addr().unwrap().to_string());
        let open = || Listeners::open(vec![place.clone()], 50, 2, 2);
        let refusal = open().unwrap_err().to_string();
        assert_eq!(refusal, Listener::check_free(place.clone()).unwrap_err().to_string());
        drop(taken);
        let mut group = open().unwrap();
        assert_eq!(open().unwrap_err().to_string(), refusal);
        Listener::check(place.clone()).unwrap();
        let readers = |group: &Listeners, of| -> Vec<usize> {
            (0..of).map(|place| group.shared(Some(Share { place, of })).len()).collect()
        };
        assert_eq!(readers(&group, 2), [1, 1]);
        let lacking = group.grow(5, 1);
        assert_eq!((lacking[0].1, lacking[0].2.to_string()), (3, no_room().to_string()));
        assert!(Listeners::open(vec![udp("127.0.0.1:0")], 50, 2, 1).is_err());
        assert!(group.grow(5, 2).is_empty());
        assert_eq!(readers(&group, 5), [1; 5]);
        assert!(group.grow(3, 0).is_empty());
        assert_eq!(readers(&group, 3), [2, 2, 1], "none is closed");
        drop(group);
        open().unwrap();
    }

    #[test]
    fn a_check_of_datagrams_tells_what_an_opening_would() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let place = udp(&taken.local_addr().unwrap().to_string());
        Listener::check(place.clone()).unwrap();
        let refusal = Listener::check_free(place.clone()).unwrap_err().to_string();
        assert!(refusal.starts_with(&format!("cannot listen on {place}: ")), "{refusal}");
        assert!(refusal.ends_with("; another program listens there: stop it, or choose another port"));
        drop(taken);
        Listener::check_free(place).unwrap();
        let foreign = udp("192.0.2.1:53");
        assert!(Listener::check(foreign.clone()).is_err() && Listener::check_free(foreign).is_err());
        let (_, path) = unix("datagrams");
        let error = Listener::open(Place { protocol: Protocol::Udp, ..path }, 50, 1, &mut 1).unwrap_err();
        assert!(error.to_string().ends_with("udp needs [host:]port"), "{error}");
    }
}
