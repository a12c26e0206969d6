//! TLS clients for `benches/tls.sh`, and the plain server behind what they measure.
//!
//! ```text
//! tls_load serve ADDRESS
//! tls_load full|resumed|bulk|idle ADDRESS [KEY=VALUE ...]
//! ```
//!
//! - `full`: one handshake, one request of 64 bytes and one answer of 1 KiB a connection.
//! - `resumed`: the same with a session that an earlier connection was given; each must really be resumed.
//! - `bulk`: connections that stay and only receive; an operation is a GiB.
//! - `idle`: connections that have had one answer and then stay; nothing is timed, memory is read.
//!
//! Keys: `version` (1.2 or 1.3), `ciphers` and `groups` (what is offered, unless the library's defaults), `clients`
//! (connections at a time), `seconds`, `pid` (the process to be measured, and its descendants), `events` (what
//! perf(1) shall count in them).
//!
//! The answer is one line of `key=value`. Whatever comes before the measurement (first tickets, the handshakes of
//! bulk connections) and what the clients themselves cost is not in it.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::{Duration, Instant};
use std::{env, iter, thread};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{
    setsockopt,
    sockopt::{RcvBuf, SndBuf},
};
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslMethod, SslRef, SslSession, SslSessionCacheMode, SslSessionRef,
    SslStream, SslVerifyMode, SslVersion,
};

use common::{GIB, Measurement, UNDER_WAY, complain, fail, memory, settle};

/// The first byte says what is wanted: an answer, or bytes without end.
const REQUEST: [u8; 64] = [b'a'; 64];
const ENDLESS: [u8; 64] = [b'e'; 64];
const ANSWER: usize = 1024;
/// A client that hears nothing for so long counts as a failure.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (mode, address) = match arguments.as_slice() {
        // cargo runs benches and examples with arguments of its own, or with none.
        [mode, address, ..] if !mode.starts_with('-') => {
            (mode.as_str(), address.parse().unwrap_or_else(|e| fail(e)))
        }
        _ => fail("tls_load serve|full|resumed|bulk|idle ADDRESS [KEY=VALUE ...]"),
    };
    let plan = Plan::parse(mode, address, &arguments[2..]);
    match mode {
        "serve" => serve(address),
        "full" | "resumed" => handshakes(&plan, mode == "resumed"),
        "bulk" => bulk(&plan),
        "idle" => idle(&plan),
        _ => fail(format_args!("no such mode: {mode}")),
    }
}

// What is to be done.

struct Plan {
    address: SocketAddr,
    clients: usize,
    time: Duration,
    pid: Option<i32>,
    events: Option<String>,
    version: Option<SslVersion>,
    ciphers: Option<String>,
    groups: Option<String>,
}

impl Plan {
    fn parse(mode: &str, address: SocketAddr, options: &[String]) -> Plan {
        let mut plan = Plan {
            address,
            clients: if mode == "idle" { 2000 } else { 16 },
            time: Duration::from_secs(2),
            pid: None,
            events: None,
            version: None,
            ciphers: None,
            groups: None,
        };
        for option in options {
            let (key, value) =
                option.split_once('=').unwrap_or_else(|| fail(format_args!("KEY=VALUE: {option}")));
            match key {
                "clients" => plan.clients = value.parse().unwrap_or_else(|e| fail(e)),
                "seconds" => plan.time = Duration::from_secs_f64(value.parse().unwrap_or_else(|e| fail(e))),
                "pid" => plan.pid = Some(value.parse().unwrap_or_else(|e| fail(e))),
                "events" => plan.events = Some(value.to_owned()),
                "ciphers" => plan.ciphers = Some(value.to_owned()),
                "groups" => plan.groups = Some(value.to_owned()),
                "version" => {
                    plan.version = Some(match value {
                        "1.2" => SslVersion::TLS1_2,
                        "1.3" => SslVersion::TLS1_3,
                        _ => fail("version=1.2 or version=1.3"),
                    });
                }
                _ => fail(format_args!("no such key: {key}")),
            }
        }
        plan
    }

    fn context(&self) -> SslContextBuilder {
        let mut context = SslContext::builder(SslMethod::tls_client()).unwrap();
        context.set_verify(SslVerifyMode::NONE);
        context.set_min_proto_version(self.version).unwrap();
        context.set_max_proto_version(self.version).unwrap();
        if let Some(ciphers) = &self.ciphers {
            // One list for both kinds of names, told apart as the library does.
            let (new, old): (Vec<&str>, Vec<&str>) =
                ciphers.split(':').partition(|name| name.starts_with("TLS_"));
            if !new.is_empty() {
                set_suites(&mut context, &new.join(":"));
            }
            if !old.is_empty() {
                context.set_cipher_list(&old.join(":")).unwrap_or_else(|e| fail(e));
            }
        }
        if let Some(groups) = &self.groups {
            context.set_groups_list(groups).unwrap_or_else(|e| fail(e));
        }
        context
    }
}

// What the openssl crate has for OpenSSL alone, with which `benches/tls.sh` builds this.

#[cfg(not(feature = "aws-lc"))]
fn set_suites(context: &mut SslContextBuilder, list: &str) {
    context.set_ciphersuites(list).unwrap_or_else(|e| fail(e));
}

#[cfg(feature = "aws-lc")]
fn set_suites(_: &mut SslContextBuilder, _: &str) {
    fail("ciphers of TLS 1.3 can be chosen with OpenSSL alone");
}

#[cfg(not(feature = "aws-lc"))]
fn group(ssl: &SslRef) -> &'static str {
    // Nothing to tell of a resumed TLS 1.2 session: no keys were exchanged.
    ssl.peer_tmp_key().map_or("-", |key| match (key.id(), key.ec_key()) {
        (openssl::pkey::Id::X25519, _) => "X25519",
        (_, Ok(key)) => key.group().curve_name().and_then(|curve| curve.short_name().ok()).unwrap_or("EC"),
        _ => "other",
    })
}

#[cfg(feature = "aws-lc")]
fn group(_: &SslRef) -> &'static str {
    "-"
}

// Clients.

fn connect(
    plan: &Plan,
    context: &SslContext,
    session: Option<&SslSessionRef>,
) -> Result<SslStream<TcpStream>, String> {
    let socket = TcpStream::connect(plan.address).map_err(|e| format!("connect: {e}"))?;
    let prepare = || -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))
    };
    prepare().map_err(|e| format!("socket: {e}"))?;
    let mut ssl = Ssl::new(context).map_err(|e| format!("SSL: {e}"))?;
    if let Some(session) = session {
        // SAFETY: the session comes from a connection of this very context.
        #[allow(unsafe_code)]
        unsafe { ssl.set_session(session) }.map_err(|e| format!("session: {e}"))?;
    }
    ssl.connect(socket).map_err(|e| format!("handshake: {e}"))
}

fn ask(stream: &mut SslStream<TcpStream>) -> Result<(), String> {
    let mut answer = [0; ANSWER];
    stream.write_all(&REQUEST).map_err(|e| format!("request: {e}"))?;
    stream.read_exact(&mut answer).map_err(|e| format!("answer: {e}"))
}

/// What all clients of a run have done, and the first thing that went wrong.
#[derive(Default)]
struct Tally {
    done: AtomicU64,
    failures: AtomicU64,
    first: Mutex<Option<String>>,
    negotiated: Mutex<Option<String>>,
}

impl Tally {
    fn count(&self, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => _ = self.done.fetch_add(1, Ordering::Relaxed),
            Err(why) => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.first.lock().unwrap().get_or_insert(why);
            }
        }
    }

    fn note(&self, stream: &SslStream<TcpStream>) {
        let ssl = stream.ssl();
        let group = group(ssl);
        let cipher = ssl.current_cipher().map_or("-", |cipher| cipher.name());
        let text = format!("version={} cipher={cipher} group={group}", ssl.version_str());
        self.negotiated.lock().unwrap().get_or_insert(text);
    }

    fn print(&self, operations: f64, seconds: f64, measured: &str) {
        if let Some(why) = self.first.lock().unwrap().take() {
            complain(format_args!("first failure: {why}"));
        }
        let failures = self.failures.load(Ordering::Relaxed);
        let negotiated = self.negotiated.lock().unwrap().take().unwrap_or_default();
        println!("operations={operations} failures={failures} seconds={seconds:.3} {negotiated}{measured}");
    }
}

/// One request and answer on a connection of its own.
fn visit(
    plan: &Plan,
    context: &SslContext,
    session: Option<&SslSessionRef>,
    tally: &Tally,
) -> Result<(), String> {
    let mut stream = connect(plan, context, session)?;
    ask(&mut stream)?;
    tally.note(&stream);
    // As browsers leave: the end is announced, the peer's is not waited for.
    let _ = stream.shutdown();
    match session {
        Some(_) if !stream.ssl().session_reused() => Err("not resumed".to_owned()),
        _ => Ok(()),
    }
}

fn handshakes(plan: &Plan, resumed: bool) {
    let tally = Tally::default();
    let stop = AtomicBool::new(false);
    // Everybody meets here twice: when all are ready, and when the measurement has begun.
    let gate = Barrier::new(plan.clients + 1);
    let mut measurement = None;
    let mut seconds = 0.0;
    let client = || {
        let ticket: Arc<Mutex<Option<SslSession>>> = Arc::default();
        let mut context = plan.context();
        if resumed {
            let ticket = Arc::clone(&ticket);
            context.set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
            context.set_new_session_callback(move |_, session| *ticket.lock().unwrap() = Some(session));
        }
        let context = context.build();
        if let Err(why) = visit(plan, &context, None, &Tally::default()) {
            fail(why);
        }
        // The newest ticket each time, as TLS 1.3 wants it.
        let session = || ticket.lock().unwrap().clone();
        if resumed && session().is_none() {
            fail("no session was offered");
        }
        gate.wait();
        gate.wait();
        while !stop.load(Ordering::Relaxed) {
            tally.count(visit(plan, &context, session().as_deref(), &tally));
        }
    };
    thread::scope(|scope| {
        let clients: Vec<_> = iter::repeat_with(|| scope.spawn(client)).take(plan.clients).collect();
        gate.wait();
        settle();
        let running = Measurement::begin(plan.pid, plan.events.as_deref());
        let start = Instant::now();
        gate.wait();
        thread::sleep(plan.time);
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().for_each(|client| client.join().unwrap());
        seconds = start.elapsed().as_secs_f64();
        settle();
        measurement = Some(running.end());
    });
    tally.print(tally.done.load(Ordering::Relaxed) as f64, seconds, &measurement.unwrap_or_default());
}

fn bulk(plan: &Plan) {
    let tally = Tally::default();
    let context = plan.context().build();
    let stop = AtomicBool::new(false);
    let ready = Barrier::new(plan.clients + 1);
    let mut received = 0;
    let mut measured = String::new();
    let mut seconds = 0.0;
    let client = || {
        let mut stream = connect(plan, &context, None).unwrap_or_else(|e| fail(e));
        setsockopt(stream.get_ref(), RcvBuf, &UNDER_WAY).unwrap();
        tally.note(&stream);
        ready.wait();
        let mut buffer = [0; 1 << 16];
        let mut outcome = stream.write_all(&ENDLESS).map_err(|e| e.to_string());
        while outcome.is_ok() && !stop.load(Ordering::Relaxed) {
            outcome = match stream.read(&mut buffer) {
                Ok(0) => Err("the end of bytes without end".to_owned()),
                Ok(n) => {
                    tally.done.fetch_add(n as u64, Ordering::Relaxed);
                    Ok(())
                }
                Err(e) => Err(e.to_string()),
            };
        }
        if outcome.is_err() {
            tally.count(outcome);
        }
    };
    thread::scope(|scope| {
        iter::repeat_with(|| scope.spawn(client)).take(plan.clients).for_each(drop);
        ready.wait();
        // Megabytes fill the buffers of each connection's sockets first.
        thread::sleep(plan.time / 2);
        let running = Measurement::begin(plan.pid, plan.events.as_deref());
        let start = Instant::now();
        let before = tally.done.load(Ordering::Relaxed);
        thread::sleep(plan.time);
        received = tally.done.load(Ordering::Relaxed) - before;
        measured = running.end();
        seconds = start.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
    });
    tally.print(received as f64 / GIB, seconds, &measured);
}

fn idle(plan: &Plan) {
    let tally = Tally::default();
    let context = plan.context().build();
    // What the first connections make the balancer load or allocate for good is not theirs.
    for _ in 0..16 {
        visit(plan, &context, None, &tally).unwrap_or_else(|e| fail(e));
    }
    settle();
    let before = plan.pid.map(memory);
    let mut open = Vec::new();
    for _ in 0..plan.clients {
        let stream = connect(plan, &context, None).and_then(|mut stream| ask(&mut stream).map(|()| stream));
        tally.count(stream.map(|stream| open.push(stream)));
    }
    settle();
    let after = plan.pid.map(memory);
    let growth = match (before, after) {
        (Some(before), Some(after)) => format!(" memory={}", after as i64 - before as i64),
        _ => String::new(),
    };
    tally.print(open.len() as f64, 0.0, &growth);
}

// The server.

/// Answers in the cheapest way, so that most of the one CPU is left to what is measured.
fn serve(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap_or_else(|e| fail(format_args!("{address}: {e}")));
    listener.set_nonblocking(true).unwrap();
    let epoll = Epoll::new(EpollCreateFlags::empty()).unwrap();
    let watch =
        |socket: &dyn AsFd, flags, number| epoll.add(socket.as_fd(), EpollEvent::new(flags, number)).unwrap();
    watch(&listener, EpollFlags::EPOLLIN, 0);
    let mut clients: HashMap<u64, TcpStream> = HashMap::new();
    let mut events = [EpollEvent::empty(); 64];
    let mut buffer = [0; 4096];
    let plenty = vec![b'x'; 1 << 18];
    let mut last = 0;
    loop {
        let number = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(number) => number,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => fail(e),
        };
        for event in &events[..number] {
            if event.data() == 0 {
                while let Ok((client, _)) = listener.accept() {
                    client.set_nonblocking(true).unwrap();
                    client.set_nodelay(true).unwrap();
                    last += 1;
                    watch(&client, EpollFlags::EPOLLIN, last);
                    clients.insert(last, client);
                }
                continue;
            }
            let Some(client) = clients.get_mut(&event.data()) else { continue };
            let outcome = if event.events().contains(EpollFlags::EPOLLIN) {
                client.read(&mut buffer).and_then(|n| match buffer[..n].first() {
                    None => Err(ErrorKind::UnexpectedEof.into()),
                    Some(b'e') => {
                        setsockopt(&*client, SndBuf, &UNDER_WAY).unwrap();
                        let mut event =
                            EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT, event.data());
                        Ok(epoll.modify(&*client, &mut event)?)
                    }
                    Some(_) => client.write_all(&plenty[..ANSWER]),
                })
            } else {
                client.write(&plenty).map(drop)
            };
            if outcome.is_err_and(|e| e.kind() != ErrorKind::WouldBlock) {
                clients.remove(&event.data());
            }
        }
    }
}
