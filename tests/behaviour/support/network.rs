//! Networks of a story's own: clients, pen and servers each on a machine of theirs, as far as they can tell.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::process::Command;

use nix::sched::{CloneFlags, setns, unshare};

/// A network with nothing in it but a loopback interface. It is gone when this and all that was made in it are.
pub struct Network(OwnedFd);

impl Network {
    fn new() -> io::Result<Self> {
        // A thread can be in another network than the rest of its process.
        std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(Network(File::open("/proc/thread-self/ns/net")?.into()))
        })
        .join()
        .unwrap()
    }

    /// Some. None, with a message: networks cannot be made here.
    pub fn alone() -> Option<Self> {
        Network::new().inspect_err(|error| eprintln!("not told: no network can be made here: {error}")).ok()
    }

    /// The sockets and the processes that `work` makes are in this network, wherever they go afterwards.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let within = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(within).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Runs ip(8) with these words in it.
    #[track_caller]
    pub fn ip(&self, words: &str) {
        let output = self.inside(|| Command::new("ip").args(words.split_whitespace()).output()).unwrap();
        assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Another one, with a machine of this address, and a cable to this one, which is `own` at its end. Nobody but these
    /// two uses the cable, and `name` is what this one calls it.
    pub fn neighbour(&self, name: &str, address: &str, own: &str) -> Self {
        let other = Network::new().unwrap();
        other.ip(&format!("link add out type veth peer name {name} netns {}", self.path()));
        other.ip("link set lo up");
        for (network, interface, here, there) in [(self, name, own, address), (&other, "out", address, own)] {
            network.ip(&format!("address add {here}/32 dev {interface}"));
            network.ip(&format!("link set {interface} up"));
            network.ip(&format!("route add {there}/32 dev {interface} src {here}"));
        }
        other
    }

    /// Its name for ip(8), for as long as this process lives.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}

/// Clients and servers that only reach each other through pen's machine, which passes nothing on.
///
/// | | clients | pen | servers |
/// |---|---|---|---|
/// | `c` | 192.0.2.1 and .2, 2001:db8:1::1, fe80::1 | 192.0.2.254, 2001:db8:1::fe, fe80::fe | |
/// | `s` | | 198.51.100.254, 2001:db8:2::fe; not by itself .253, ::fd | 198.51.100.1, 2001:db8:2::1 |
pub struct Machines {
    pub clients: Network,
    pub pen: Network,
    pub servers: Network,
}

/// Where pen's connections to servers come from that it makes in its own name.
pub const OWN: [&str; 2] = ["198.51.100.254", "2001:db8:2::fe"];

/// Others that it can make them from.
pub const SOURCES: [&str; 2] = ["198.51.100.253", "2001:db8:2::fd"];

/// Where servers are.
pub const SERVERS: [&str; 2] = ["198.51.100.1", "2001:db8:2::1"];

impl Machines {
    /// None, with a message: networks cannot be made here.
    pub fn new() -> Option<Self> {
        match (Network::new(), Network::new(), Network::new()) {
            (Ok(clients), Ok(pen), Ok(servers)) => Some(Machines { clients, pen, servers }.connected()),
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
                eprintln!("not told: no network can be made here: {error}");
                None
            }
        }
    }

    fn connected(self) -> Self {
        let Machines { clients, pen, servers } = &self;
        clients.ip(&format!("link add c type veth peer name c netns {}", pen.path()));
        servers.ip(&format!("link add s type veth peer name s netns {}", pen.path()));
        for (network, interface, addresses) in [
            (clients, "c", &["192.0.2.1/24", "192.0.2.2/24", "2001:db8:1::1/64", "fe80::1/64"][..]),
            (pen, "c", &["192.0.2.254/24", "2001:db8:1::fe/64", "fe80::fe/64"]),
            (pen, "s", &["198.51.100.254/24", "2001:db8:2::fe/64"]),
            (pen, "s", &["198.51.100.253/24", "2001:db8:2::fd/64 preferred_lft 0"]),
            (servers, "s", &["198.51.100.1/24", "2001:db8:2::1/64"]),
        ] {
            for address in addresses {
                // Usable at once: nobody else can have them.
                let how = if address.contains(':') { "nodad" } else { "" };
                network.ip(&format!("address add {address} {how} dev {interface}"));
            }
            network.ip(&format!("link set {interface} up"));
            network.ip("link set lo up");
        }
        self
    }

    /// What the manual says is needed for `transparent`: the servers' way to the clients is through pen's machine, which
    /// takes what comes back for its own.
    pub fn routed(self) -> Self {
        self.servers.ip("route add default via 198.51.100.254");
        self.servers.ip("-6 route add default via 2001:db8:2::fe");
        for family in ["-4", "-6"] {
            self.pen.ip(&format!("{family} rule add iif s lookup 100"));
            self.pen.ip(&format!("{family} route add local default dev lo table 100"));
        }
        self
    }
}
