//! What the stories are told with: pens, servers, clients, and a look into /proc.

pub mod backend;
pub mod certificates;
pub mod client;
pub mod control;
pub mod daemon;
pub mod dns;
pub mod http;
pub mod mmdb;
pub mod network;
pub mod nginx;
pub mod objects;
pub mod page;
pub mod pen;
pub mod penlogd;
pub mod processes;
pub mod programs;
pub mod rotation;
pub mod scratch;
pub mod tls;
pub mod udp;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

pub use backend::Backend;
pub use client::{Ending, Held};
pub use pen::Pen;
pub use penlogd::Penlogd;
pub use scratch::Scratch;
pub use udp::UdpServer;

/// Long enough for anything that should happen at once, on a machine that is busy with all the other tests.
pub const SOON: Duration = Duration::from_secs(15);

/// Waits until `condition` holds; panics, naming `what`, when it does not [`SOON`].
#[track_caller]
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_for(what, SOON, condition);
}

/// Waits until `condition` holds, at most for `deadline`. Returns how long it took.
#[track_caller]
pub fn wait_for(what: &str, deadline: Duration, condition: impl FnMut() -> bool) -> Duration {
    match became_true(deadline, condition) {
        Some(took) => took,
        None => panic!("not within {deadline:?}: {what}"),
    }
}

/// Polls `condition` until it holds or the time is up.
pub fn became_true(deadline: Duration, mut condition: impl FnMut() -> bool) -> Option<Duration> {
    let start = Instant::now();
    loop {
        if condition() {
            return Some(start.elapsed());
        }
        if start.elapsed() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Lets the clock move on: for what depends on time itself (a ban that runs out), not on something happening.
pub fn let_pass(time: Duration) {
    let start = Instant::now();
    wait_for("the clock to move on", time + SOON, || start.elapsed() >= time);
}

/// A port of 127.0.0.1 that nothing uses now, and that no other story is given.
///
/// Not from the range from which the kernel takes the ports of outgoing connections: there, between finding the port
/// free and listening on it, some client of a test that runs at the same time would take it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = (FIRST + (std::process::id().wrapping_mul(997).wrapping_add(step)) % COUNT) as u16;
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}

/// Is the pen under test the classic one? It takes `--version` for bad usage, and answers with the usage text.
pub fn classic() -> bool {
    static CLASSIC: OnceLock<bool> = OnceLock::new();
    *CLASSIC.get_or_init(|| {
        let output =
            std::process::Command::new(pen::program()).arg("--version").output().expect("pen can be run");
        output.stdout.starts_with(b"usage:")
    })
}

/// Ends a story early when it is told of the classic pen, which is known to differ for the reason given.
macro_rules! only_ours {
    ($reason:literal) => {
        if crate::support::classic() {
            eprintln!("not told of the classic pen: {}", $reason);
            return;
        }
    };
}
pub(crate) use only_ours;

/// Ends a story early when the tests do not run as root.
macro_rules! needs_root {
    () => {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("not told: this needs root");
            return;
        }
    };
}
pub(crate) use needs_root;
