//! What /proc tells about a pen's processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::unistd::{Pid, User};

/// The parts of /proc/PID/stat that the stories use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub parent: i32,
    pub state: char,
    /// User and system time, in ticks of 10 ms.
    pub ticks: u64,
}

/// None: there is no such process (any more). A zombie counts as gone: it only waits to be waited for.
pub fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let state = fields[0].chars().next()?;
    let number = |index: usize| fields[index].parse::<u64>().ok();
    let stat = Stat { parent: number(1)? as i32, state, ticks: number(11)? + number(12)? };
    (state != 'Z' && state != 'X').then_some(stat)
}

pub fn alive(pid: i32) -> bool {
    stat(pid).is_some()
}

fn all() -> Vec<i32> {
    let entries = fs::read_dir("/proc").unwrap();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The live children of a process (that has no threads), in the order of their numbers.
pub fn children(parent: i32) -> Vec<i32> {
    let text = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
    let mut found: Vec<i32> = text.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    found.retain(|&pid| alive(pid));
    found.sort_unstable();
    found
}

/// A variable of the environment, `NAME=VALUE`, that no other pen of these tests is given: its family is found by it.
pub fn marker() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("PEN_TEST_MARK={}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub fn kill_all(pids: &BTreeSet<i32>) {
    for &pid in pids {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// The live processes started with `marker` in their environment, and all their descendants: also those that became
/// daemons or orphans.
pub fn family(marker: &str) -> BTreeSet<i32> {
    let stats: BTreeMap<i32, Stat> = all().into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let marked = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|&byte| byte == 0).any(|variable| variable == marker.as_bytes())
    };
    let mut found: BTreeSet<i32> = stats.keys().copied().filter(marked).collect();
    loop {
        let more: Vec<i32> = stats
            .iter()
            .filter(|(pid, stat)| !found.contains(pid) && found.contains(&stat.parent))
            .map(|(&pid, _)| pid)
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

/// A line of /proc/PID/status, without its name.
pub fn status(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// One of the sets of capabilities that /proc/PID/status has, `CapEff` for one.
pub fn capabilities(pid: i32, set: &str) -> u64 {
    u64::from_str_radix(&status(pid, set), 16).unwrap()
}

/// The process is this user and has its group alone, is in the root directory given, and cannot become anything else.
#[track_caller]
pub fn assert_confined(pid: i32, user: &User, root: &Path) {
    let (uid, gid) = (user.uid, user.gid);
    // Real, effective, saved and file system id.
    assert_eq!(status(pid, "Uid"), format!("{uid} {uid} {uid} {uid}"));
    assert_eq!(status(pid, "Gid"), format!("{gid} {gid} {gid} {gid}"));
    let groups = status(pid, "Groups");
    assert!(groups.is_empty() || groups == gid.to_string(), "supplementary groups {groups}");
    assert_eq!(status(pid, "NoNewPrivs"), "1");
    for set in ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"] {
        assert_eq!(capabilities(pid, set), 0, "{set}");
    }
    for place in ["root", "cwd"] {
        assert_eq!(fs::read_link(format!("/proc/{pid}/{place}")).unwrap(), root, "{place} of {pid}");
    }
}

/// Does the process itself do something when this signal comes? Whether it dies of one says little: it may have been started
/// with signals that are ignored.
pub fn catches(pid: i32, signal: Signal) -> bool {
    has_in_mask(pid, "SigCgt", signal)
}

fn has_in_mask(pid: i32, field: &str, signal: Signal) -> bool {
    let bit = 1u64 << (signal as u32 - 1);
    u64::from_str_radix(&status(pid, field), 16).is_ok_and(|mask| mask & bit != 0)
}

/// Does the process catch or block this signal, so that it will not die of it? One that it ignores it may only have been
/// started so.
pub fn prepared_for(pid: i32, signal: Signal) -> bool {
    ["SigCgt", "SigBlk"].iter().any(|field| has_in_mask(pid, field, signal))
}

/// The processor time that these processes have used so far.
pub fn cpu_time(pids: &BTreeSet<i32>) -> Duration {
    Duration::from_millis(10 * pids.iter().filter_map(|&pid| stat(pid)).map(|stat| stat.ticks).sum::<u64>())
}

/// Memory of these processes in KiB, each shared page counted once (PSS).
pub fn memory_kib(pids: &BTreeSet<i32>) -> u64 {
    let pss = |pid: &i32| -> u64 {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    };
    pids.iter().map(pss).sum()
}

/// The soft limit of open descriptors.
pub fn descriptor_limit(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = text.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap_or(u64::MAX)
}

/// A line of the kernel's table of TCP sockets: `   0: 0100007F:1F90 00000000:0000 0A …`, for IPv6 with 32 digits.
struct Socket {
    local: u16,
    remote: u16,
    state: u8,
    line: String,
}

const SYN_SENT: u8 = 0x02;
const LISTEN: u8 = 0x0a;

impl Socket {
    /// By position: after all these tests the table has tens of thousands of lines.
    fn parse(line: io::Result<String>) -> Option<Socket> {
        let line = line.ok()?;
        let start = line.bytes().position(|byte| byte == b':')? + 2;
        let fields = line.get(start..)?;
        let digits = fields.bytes().position(|byte| byte == b':')?;
        let hex = |from: usize, length: usize| u16::from_str_radix(fields.get(from..from + length)?, 16).ok();
        Some(Socket {
            local: hex(digits + 1, 4)?,
            remote: hex(2 * digits + 7, 4)?,
            state: hex(2 * digits + 12, 2)? as u8,
            line,
        })
    }

    /// How many bytes have come that nobody has read.
    fn unread(&self) -> u64 {
        let queues = self.line.split_whitespace().nth(4).unwrap_or_default();
        queues.split_once(':').and_then(|(_, unread)| u64::from_str_radix(unread, 16).ok()).unwrap_or(0)
    }

    fn inode(&self) -> &str {
        self.line.split_whitespace().nth(9).unwrap_or_default()
    }
}

/// The kernel's tables for IPv4 and IPv6, of the network that the caller is in. Within each, sockets that listen come
/// first.
fn tables() -> impl Iterator<Item = impl Iterator<Item = Socket>> {
    let tables = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
    let files = tables.into_iter().filter_map(|table| fs::File::open(table).ok());
    files.map(|file| io::BufReader::new(file).lines().skip(1).filter_map(Socket::parse))
}

/// Does anybody listen on this TCP port? Found out without connecting, which would be a client for the pen.
pub fn listening(port: u16) -> bool {
    // To the end of the listeners only: of connections that have ended there may be tens of thousands.
    tables().any(|table| table.take_while(|socket| socket.state == LISTEN).any(|socket| socket.local == port))
}

/// Does somebody listen at this Unix socket? Bound is not yet listening: a flag says which.
pub fn listening_at(path: &str) -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().any(|socket| socket.ends_with(path) && socket.contains(" 00010000 "))
}

/// How many connects to this port are waiting for an answer.
pub fn connects_under_way(port: u16) -> usize {
    tables().flatten().filter(|socket| socket.remote == port && socket.state == SYN_SENT).count()
}

/// Has somebody who is connected to this port left something unread that came from there?
pub fn is_unread(port: u16) -> bool {
    let mut connected = tables().flatten().filter(|socket| socket.remote == port);
    connected.any(|socket| socket.unread() > 0)
}

/// Has the process at the other end of this connection (over IPv4, on this machine) read everything that was sent?
pub fn has_read_all(stream: &TcpStream) -> bool {
    let (SocketAddr::V4(ours), SocketAddr::V4(theirs)) =
        (stream.local_addr().unwrap(), stream.peer_addr().unwrap())
    else {
        panic!("not over IPv4: {stream:?}");
    };
    // What is acknowledged has arrived; the other order would miss what is on its way. So has what is less than a segment,
    // but its acknowledgement may be put off for 40 ms.
    let (_, unacknowledged) = queues(ours, theirs);
    let (unread, _) = queues(theirs, ours);
    unacknowledged < 1000 && unread == 0
}

/// How many bytes are unread in a socket, and how many are not acknowledged to it: sock_diag(7). /proc/net/tcp would say
/// the same, after thousands of lines.
fn queues(local: SocketAddrV4, remote: SocketAddrV4) -> (u32, u32) {
    const SOCK_DIAG_BY_FAMILY: u16 = 20;
    const NLM_F_REQUEST: u16 = 1;
    const IPPROTO_TCP: u8 = 6;
    let address = |ip: &Ipv4Addr| [&ip.octets()[..], &[0; 12]].concat();
    let request = [
        &[AddressFamily::Inet as u8, IPPROTO_TCP, 0, 0, 0xff, 0xff, 0xff, 0xff][..],
        &local.port().to_be_bytes(),
        &remote.port().to_be_bytes(),
        &address(local.ip()),
        &address(remote.ip()),
        // Any interface, any incarnation.
        &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    ]
    .concat();
    let length = 16 + request.len() as u32;
    let message = [
        &length.to_ne_bytes()[..],
        &SOCK_DIAG_BY_FAMILY.to_ne_bytes(),
        &NLM_F_REQUEST.to_ne_bytes(),
        &[0; 8],
        &request,
    ]
    .concat();
    let kernel = socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        Some(SockProtocol::NetlinkSockDiag),
    )
    .unwrap();
    sendto(kernel.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).unwrap();
    let mut answer = [0; 4096];
    let count = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
    let word = |at: usize| u32::from_ne_bytes(answer[at..at + 4].try_into().unwrap());
    assert!(
        count >= 80 && answer[4..6] == SOCK_DIAG_BY_FAMILY.to_ne_bytes(),
        "no such socket: {local} {remote}"
    );
    (word(72), word(76))
}

/// Which of these processes has the accepted side of each connection to the port `server`? By the clients' ports.
pub fn owners(pids: &[i32], server: u16) -> BTreeMap<u16, i32> {
    let mut processes = BTreeMap::new();
    for &pid in pids {
        processes.extend(open(pid).into_iter().map(|what| (what, pid)));
    }
    let accepted = tables().flatten().filter(|socket| socket.local == server);
    accepted
        .filter_map(|socket| Some((socket.remote, *processes.get(&format!("socket:[{}]", socket.inode()))?)))
        .collect()
}

/// What the process has open, as /proc names it.
fn open(pid: i32) -> Vec<String> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok()?.into_os_string().into_string().ok())
        .collect()
}

/// Has the process a descriptor of this, as /proc names it?
pub fn has_open(pid: i32, what: &str) -> bool {
    open(pid).iter().any(|open| open == what)
}

/// How many descriptors of things named like this it has open.
pub fn descriptors_of(pid: i32, what: &str) -> usize {
    open(pid).iter().filter(|open| open.starts_with(what)).count()
}

/// How many descriptors it has open.
pub fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
