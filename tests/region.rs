//! The shared region under fire: processes that visit, fail over and leave as fast as they can, one of which is
//! killed again and again, at any instruction. After each death nothing may be left of the dead, the tables must be
//! in order, no limit exceeded, the lock to be had; and when all stand still, the ledger must say what they hold.
//!
//! `PEN_TORTURE_KILLS` sets the number of kills. Not run by libtest: its threads and fork do not go together. What it
//! prints is what libtest would.
#![allow(unsafe_code, clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use pen::model::address::{ClientAddress, Drain, SocketAddress};
use pen::model::ids::{AclId, ConnId, ServerId, Target, WorkerId};
use pen::model::settings::Settings;
use pen::model::time::{Moment, Seconds};
use pen::policy::acl::Verdicts;
use pen::policy::selection::Rules;
use pen::shared::clients::{ClientRef, ClientView};
use pen::shared::lock::Busy;
use pen::shared::region::{Geometry, Phase, Region};
use pen::shared::servers::Definition;
use pen::shared::slots::SlotFinder;
use pen::shared::visits::{self, Reservation, Terms};
use pen::sys::clock;

const WORKERS: u32 = 4;
const SERVERS: u32 = 3;
const SOFT: u32 = 8;
const HARD: u32 = 10;
const EMERGENCY: u32 = 5;
/// Fewer slots than clients, so that somebody is evicted all the time.
const GEOMETRY: Geometry = Geometry { clients: 40, connections: 24 };
const CLIENTS: u16 = 60;
/// A quiet check after so many kills.
const ROUND: u32 = 100;
/// The servers change places after so many kills.
const RELIST: u32 = 7;

/// Unless told how many kills, a test ends after this.
const TIME: Duration = Duration::from_secs(9);
/// The same for the one in slow motion.
const SLOW_TIME: Duration = Duration::from_secs(3);

/// A test that did not fail.
enum Outcome {
    Passed,
    /// This system does not let us.
    Ignored(String),
}

type Test = (&'static str, fn() -> Outcome);

const TESTS: [Test; 2] = [
    ("killed_at_any_instruction_a_worker_leaves_the_tables_whole", torture),
    ("killed_in_the_middle_of_a_visit_a_worker_costs_nobody_else_anything", steps),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let asked = |(name, _): &&Test| words.is_empty() || words.iter().any(|word| name.contains(word.as_str()));
    let tests: Vec<&Test> = TESTS.iter().filter(asked).collect();
    println!("\nrunning {} tests", tests.len());
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    for (name, test) in &tests {
        match catch_unwind(test) {
            Ok(Outcome::Passed) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Ok(Outcome::Ignored(reason)) => {
                ignored += 1;
                println!("test {name} ... ignored, {reason}");
            }
            Err(_) => {
                failed += 1;
                println!("test {name} ... FAILED");
            }
        }
    }
    let (verdict, out) = (if failed == 0 { "ok" } else { "FAILED" }, TESTS.len() - tests.len());
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {out} filtered out\n"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn torture() -> Outcome {
    let asked = std::env::var("PEN_TORTURE_KILLS").ok().and_then(|kills| kills.parse().ok());
    let kills: u32 = asked.unwrap_or(2000);
    let region = region(GEOMETRY);
    let begun = Instant::now();
    let mut random = Random(clock::now().0 | 1);
    let mut crew = Crew { region: &region, pids: Vec::new(), forks: 0 };
    let mut served = 0;
    let mut deaths = 0;
    while deaths < kills && (asked.is_some() || begun.elapsed() < TIME) {
        deaths += 1;
        crew.fill();
        if deaths % RELIST == 0 {
            // A worker may have the lock: then another time.
            let _ = publish(&region, deaths / RELIST);
        }
        // Any moment will do, but not one that depends on ours.
        std::thread::sleep(Duration::from_micros(random.below(1500)));
        crew.kill(random.below(WORKERS.into()) as u32);
        check(&region);
        let now_served = targets().map(|target| region.ledger().totals(target).connections).sum();
        assert!(now_served >= served, "connections served were forgotten: {now_served} after {served}");
        served = now_served;
        if deaths % ROUND == 0 {
            crew.fill();
            crew.quiesce();
        }
    }
    crew.fill();
    crew.quiesce();
    let repairs = region.repairs();
    println!(
        "{deaths} kills, {repairs} of them of the lock's holder, {served} connections served, {} clients evicted, {:?}",
        region.clients().evictions(),
        begun.elapsed()
    );
    assert!(served > 0 && region.clients().evictions() > 0);
    assert!(repairs > 0, "the holder was never hit: nothing was shown");
    Outcome::Passed
}

fn targets() -> impl Iterator<Item = Target> {
    (0..SERVERS).map(|server| Target::Server(ServerId(server))).chain([Target::Emergency])
}

/// Both halves of every address say which client it is: a mixture of two is found out.
fn client(number: u16) -> ClientAddress {
    let high = number.wrapping_mul(40_503);
    ClientAddress::Inet([0x2001, high, high, high, number, number, number, number].into(), 0)
}

/// What must hold at any time, whatever the workers are doing.
fn check(region: &Region) {
    let guard = region.lock_within(Duration::from_secs(10)).expect("the lock is to be had");
    region.clients().audit(&guard).unwrap();
    check_limits(region);
    for view in region.clients().iter() {
        assert!((0..CLIENTS).any(|number| client(number) == view.address), "nobody is {view:?}");
    }
    drop(guard);
    region.verify().unwrap();
    assert!(region.clients().used() <= GEOMETRY.clients);
    assert!(region.slots().used() <= GEOMETRY.connections);
}

/// With the lock held: then places are given back only, and a sum that is read meanwhile is not too large.
fn check_limits(region: &Region) {
    for target in targets() {
        let (load, most) =
            (region.ledger().load(target), if target == Target::Emergency { EMERGENCY } else { HARD });
        assert!(load <= most, "{load} connections to server {target}, which takes {most}");
    }
}

fn region(geometry: Geometry) -> Region {
    let region = Region::create(geometry).unwrap();
    publish(&region, 0).unwrap();
    region.workers().set_count(WORKERS);
    region
}

/// The servers, beginning with another one each time.
fn publish(region: &Region, first: u32) -> Result<(), Busy> {
    let server = |port, soft, hard| Definition {
        proxy: pen::model::proxy::ProxySend::Off,
        address: Some(SocketAddress::Inet(([127, 0, 0, 1], port).into())),
        soft,
        hard,
        weight: 0,
        prio: 0,
        acl: AclId::default(),
        drain: Drain::No,
        tls: 0,
    };
    let servers: Vec<Definition> =
        (0..SERVERS).map(|n| server(1000 + ((n + first) % SERVERS) as u16, SOFT, HARD)).collect();
    region.servers().publish(&servers, Some(&server(99, EMERGENCY, 0)), None)
}

const MOMENT: Moment = Moment(1_000_000);

/// The same in slow motion: one visit that throws another client out, run instruction by instruction under ptrace(2)
/// and killed somewhere while it has the lock. As often as a few seconds allow; `PEN_TORTURE_STEPS=all` kills at every
/// single instruction (in a release build a minute or two).
fn steps() -> Outcome {
    let (region, _) = full_region();
    let total = match step(&region, u64::MAX) {
        Stepped::Through(total) => total,
        outcome => return Outcome::Ignored(format!("this system does not let us trace: {outcome:?}")),
    };
    let all = std::env::var_os("PEN_TORTURE_STEPS").is_some_and(|steps| steps == "all");
    let mut random = Random(clock::now().0 | 1);
    let (begun, mut kills) = (Instant::now(), 0);
    while if all { kills < total } else { kills < 4 || begun.elapsed() < SLOW_TIME } {
        kill_one(if all { kills } else { random.below(total) });
        kills += 1;
    }
    println!("{kills} kills at one of {total} instructions with the lock held, {:?}", begun.elapsed());
    Outcome::Passed
}

/// A table with as many clients as it has room for, and what is known of them.
fn full_region() -> (Region, Vec<ClientView>) {
    let region = region(Geometry { clients: 4, connections: 1 });
    let worker = WorkerId(1);
    let clients = (0..4).map(|number| {
        let visit = visits::begin(&region, worker, &terms(), client(number), Verdicts::ALL, None, MOMENT);
        let place = visit.reservation.unwrap();
        visits::established(&region, worker, &terms(), visit.client, &place, MOMENT);
        visits::give_back(&region, worker, place);
        region.clients().view(visit.client.id).unwrap()
    });
    let clients = clients.collect();
    (region, clients)
}

fn kill_one(instructions: u64) {
    let (region, before) = full_region();
    match step(&region, instructions) {
        Stepped::Killed => {}
        // Chains are not the same in every table, so some visits are shorter.
        Stepped::Through(_) => return,
        Stepped::Refused => panic!("no more tracing after {instructions}"),
    }
    region.reclaim(WorkerId(0));
    let guard = region.lock_within(Duration::from_secs(10)).expect("the lock is to be had");
    region.clients().audit(&guard).unwrap();
    drop(guard);
    assert!(targets().all(|target| region.ledger().load(target) == 0));
    let after: Vec<ClientView> = region.clients().iter().collect();
    for bystander in &before[1..] {
        assert!(after.contains(bystander), "after {instructions}: {bystander:?} is not in {after:?}");
    }
    for view in after.iter().filter(|view| !before.contains(view)) {
        let mut fresh = *view;
        fresh.connects = 0;
        fresh.server = None;
        let last_used = view.last_used;
        let newcomer = ClientView {
            id: view.id,
            short_tag: view.short_tag,
            address: client(9),
            last_used,
            server: None,
            connects: 0,
            up: 0,
            down: 0,
        };
        assert!(fresh == newcomer && view.connects <= 1, "after {instructions}: nobody is {view:?}");
    }
}

fn terms() -> Terms {
    Terms {
        rules: Rules::from(&Settings::default()),
        tracking: Seconds(20),
        blacklist: Seconds(1),
        timeout: Seconds(2),
    }
}

#[derive(Debug)]
enum Stepped {
    Killed,
    /// The lock was given back before it came to that, after so many instructions.
    Through(u64),
    /// This system does not let us.
    Refused,
}

/// A visit as worker 0, in a process of its own: runs until it has taken the lock, then for so many instructions, and
/// is killed.
fn step(region: &Region, instructions: u64) -> Stepped {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: this process has one thread, so the child may do anything.
    let pid = match unsafe { fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            // SAFETY: takes no memory; the parent, which waits, controls this process from here on.
            if unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, nothing, nothing) } == 0 {
                nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
                let visit =
                    visits::begin(region, WorkerId(0), &terms(), client(9), Verdicts::ALL, None, MOMENT);
                std::mem::forget(visit);
            }
            // SAFETY: ends the process at once.
            unsafe { libc::_exit(0) }
        }
    };
    let end = |outcome| {
        let _ = kill(pid, Signal::SIGKILL);
        let _ = waitpid(pid, None);
        outcome
    };
    if !matches!(waitpid(pid, None), Ok(WaitStatus::Stopped(_, Signal::SIGSTOP))) {
        return Stepped::Refused;
    }
    let mut held_for = None;
    loop {
        // SAFETY: takes no memory of ours; `pid` is our child and stopped.
        if unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, pid.as_raw(), nothing, nothing) } != 0 {
            return end(Stepped::Refused);
        }
        if !matches!(waitpid(pid, None), Ok(WaitStatus::Stopped(_, Signal::SIGTRAP))) {
            return end(Stepped::Refused);
        }
        let holds = region.workers().lock_holder() == Some(WorkerId(0));
        match held_for {
            None if holds => held_for = Some(0),
            None => {}
            Some(count) if !holds => return end(Stepped::Through(count)),
            Some(count) => held_for = Some(count + 1),
        }
        if held_for == Some(instructions) {
            return end(Stepped::Killed);
        }
    }
}

/// The master's part.
struct Crew<'a> {
    region: &'a Region,
    pids: Vec<Option<Pid>>,
    forks: u64,
}

impl Crew<'_> {
    fn fill(&mut self) {
        self.pids.resize(WORKERS as usize, None);
        for (worker, pid) in (0..).map(WorkerId).zip(&mut self.pids) {
            if pid.is_none() {
                self.forks += 1;
                // SAFETY: this process has one thread, so the child may do anything.
                match unsafe { fork() }.unwrap() {
                    ForkResult::Parent { child } => *pid = Some(child),
                    ForkResult::Child => run_child(self.region, worker, self.forks),
                }
                self.region.workers().register(worker, pid.map_or(0, Pid::as_raw), clock::now());
            }
        }
    }

    fn kill(&mut self, worker: u32) {
        let pid = self.pids[worker as usize].take().unwrap();
        kill(pid, Signal::SIGKILL).unwrap();
        let status = waitpid(pid, None).unwrap();
        assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)), "worker {worker}: {status:?}");
        self.reclaim(WorkerId(worker));
    }

    fn reclaim(&self, worker: WorkerId) -> u32 {
        let freed = self.region.reclaim(worker);
        assert_eq!(self.region.reclaim(worker), 0, "a second time there is nothing left");
        assert!(targets().all(|target| self.region.ledger().held(worker, target) == 0));
        assert_eq!(self.slots(worker), 0);
        freed
    }

    /// How many slots say that they are the worker's.
    fn slots(&self, worker: WorkerId) -> u32 {
        let entries =
            (0..GEOMETRY.connections).filter_map(|number| self.region.slots().entry(ConnId(number)));
        entries.filter(|(owner, _)| *owner == worker).count() as u32
    }

    /// All stop where they are and say what they hold; then they are gone, and nothing may be left.
    fn quiesce(&mut self) {
        self.region.set_phase(Phase::Draining);
        let mut total = 0;
        for (worker, pid) in (0..).map(WorkerId).zip(std::mem::take(&mut self.pids)) {
            let held = match await_exit(pid.unwrap()) {
                WaitStatus::Exited(_, held) if held < 100 => held as u32,
                status => panic!("worker {worker}: {status:?}"),
            };
            let ledger: u32 = targets().map(|target| self.region.ledger().held(worker, target)).sum();
            assert_eq!(ledger, held, "worker {worker}'s places");
            assert_eq!(self.slots(worker), held, "worker {worker}'s slots");
            total += held;
        }
        assert_eq!(targets().map(|target| self.region.ledger().load(target)).sum::<u32>(), total);
        assert_eq!(self.region.slots().used(), total);
        check(self.region);
        let freed: u32 = (0..WORKERS).map(|worker| self.reclaim(WorkerId(worker))).sum();
        assert_eq!(freed, total);
        assert!(targets().all(|target| self.region.ledger().load(target) == 0));
        assert_eq!(self.region.slots().used(), 0);
        self.region.set_phase(Phase::Serving);
    }
}

/// A failed check must not leave anybody running.
impl Drop for Crew<'_> {
    fn drop(&mut self) {
        for pid in self.pids.iter().flatten() {
            let _ = kill(*pid, Signal::SIGKILL);
            let _ = waitpid(*pid, None);
        }
    }
}

fn await_exit(pid: Pid) -> WaitStatus {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)).unwrap() {
            WaitStatus::StillAlive if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1))
            }
            WaitStatus::StillAlive => {
                let _ = kill(pid, Signal::SIGKILL);
                panic!("process {pid} does not stop");
            }
            status => return status,
        }
    }
}

fn run_child(region: &Region, worker: WorkerId, seed: u64) -> ! {
    // SAFETY: only asks that this process be killed should the one that forked it die.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let held = catch_unwind(AssertUnwindSafe(|| Worker::new(region, worker, seed).hammer()));
    // SAFETY: ends the process at once; nothing of the parent's is to be run at exit.
    unsafe { libc::_exit(held.map_or(101, |held| held as i32)) }
}

/// Time goes by a thousand times as fast, so that servers are shunned for a millisecond.
fn now() -> Moment {
    Moment(clock::now().0 * 1000)
}

struct Worker<'a> {
    region: &'a Region,
    id: WorkerId,
    random: Random,
    finder: SlotFinder,
    terms: Terms,
    held: Vec<Held>,
}

struct Held {
    conn: ConnId,
    client: (ClientAddress, ClientRef),
    reservation: Reservation,
}

impl<'a> Worker<'a> {
    fn new(region: &'a Region, id: WorkerId, seed: u64) -> Self {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Worker { region, id, random, finder: SlotFinder::default(), terms: terms(), held: Vec::new() }
    }

    /// Until told to stop. Returns how many connections it has then.
    fn hammer(mut self) -> usize {
        while self.region.phase() == Phase::Serving {
            match self.random.below(16) {
                0..8 => self.accept(),
                8..15 => self.close(),
                _ => {
                    let guard = self.region.lock(self.id);
                    check_limits(self.region);
                    drop(guard);
                }
            }
        }
        // Held connections stay counted: they end with the process.
        self.held.len()
    }

    fn accept(&mut self) {
        let Some(conn) = self.region.slots().claim(&mut self.finder, self.id, now()) else {
            return self.close();
        };
        let client = client(self.random.below(CLIENTS.into()) as u16);
        let visit = visits::begin(self.region, self.id, &self.terms, client, Verdicts::ALL, None, now());
        let client = (client, visit.client);
        let mut reservation = visit.reservation;
        while let Some(place) = reservation {
            if self.random.below(8) != 0 {
                if self.random.below(8) != 0 {
                    visits::established(self.region, self.id, &self.terms, client.1, &place, now());
                }
                self.region.slots().describe(conn, Some(client.1.id), Some(place.target), 2, 3, 4);
                return self.held.push(Held { conn, client, reservation: place });
            }
            let shun = self.random.below(2) == 0;
            reservation = visits::fail(
                self.region,
                self.id,
                &self.terms,
                client,
                Verdicts::ALL,
                None,
                place,
                shun,
                now(),
            )
            .next;
        }
        self.region.slots().release(&mut self.finder, conn);
    }

    fn close(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let Held { conn, client, reservation } =
            self.held.swap_remove(self.random.below(self.held.len() as u64) as usize);
        let (owner, entry) = self.region.slots().entry(conn).expect("a slot that is held is in use");
        // Its server may have changed places since.
        assert_eq!((owner, entry.server.is_some()), (self.id, true));
        visits::count(self.region, self.id, &reservation, 1, 2);
        self.region.clients().count(client.1, 1, 2);
        visits::give_back(self.region, self.id, reservation);
        self.region.slots().release(&mut self.finder, conn);
    }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }
}
