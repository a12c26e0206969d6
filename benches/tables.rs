//! What a visit costs in the shared tables and the access lists: `cargo bench --bench tables`.
//!
//! - `client table`: a visit of one of 500 clients that come all the time, while 1,000 or 1,000,000 are remembered:
//!   the same work, whatever the table's size. The uniform ones, and a table that is full so that every visit throws
//!   somebody out, show what the processor's caches add when visits go all over the table.
//! - `selection`: the whole of a connection's way through the tables.
//! - `access lists`: all verdicts on a client, by few entries and by thousands; and with the country looked up.
//! - `lock`: alone, and while other processes want it as badly.
//! - `web logs`: a record of pen and a line of a web server, 500 records later, on their way through penlogd; with
//!   requests as they are, and with such as are meant to make the search long.
#![allow(unsafe_code, unreachable_pub, clippy::unwrap_used, missing_docs)]

#[path = "../tests/behaviour/support/mmdb.rs"]
mod mmdb;

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

use pen::model::address::{ClientAddress, Drain, SocketAddress};
use pen::model::ids::{AclId, WorkerId};
use pen::model::settings::{AclEntry, Network, Settings};
use pen::model::time::{Moment, Seconds};
use pen::policy::acl::{AccessLists, Verdicts};
use pen::policy::selection::Rules;
use pen::shared::region::{Geometry, Region};
use pen::shared::servers::Definition;
use pen::shared::visits::{self, Terms};
use pen::sys::{clock, geoip, sealed};
use pen::weblogs::consolidation::{Consolidator, Limits};

const WORKER: WorkerId = WorkerId(0);
const HOT: u32 = 500;
const TRACKING: Seconds = Seconds(3600);

fn client(number: u32) -> ClientAddress {
    ClientAddress::Inet(Ipv4Addr::from_bits(0x0a00_0000 | number).into(), 1000)
}

/// Scatters the hot clients over the table, so that size alone differs.
fn scattered(number: u32, of: u32) -> u32 {
    (number as u64 * 2_654_435_761 % u64::from(of)) as u32
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(limit)) >> 32) as u32
    }
}

fn region(clients: u32) -> Region {
    let region = Region::create(Geometry { clients, connections: 500 }).unwrap();
    let servers: Vec<Definition> = (0..4)
        .map(|number| Definition {
            proxy: pen::model::proxy::ProxySend::Off,
            address: Some(SocketAddress::Inet(([127, 0, 0, 1], 8000 + number).into())),
            soft: 1_000_000,
            hard: 0,
            weight: 1,
            prio: 0,
            acl: AclId::default(),
            drain: Drain::No,
            tls: 0,
        })
        .collect();
    region.servers().publish(&servers, None, None).unwrap();
    region.workers().set_count(4);
    region
}

/// A table that remembers so many clients, all of the room taken.
fn remembering(clients: u32) -> Region {
    let region = region(clients);
    let guard = region.lock(WORKER);
    for number in 0..clients {
        region.clients().visit(&guard, client(number), TRACKING, clock::now());
    }
    drop(guard);
    assert_eq!(region.clients().used(), clients);
    region
}

fn client_table(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("client table");
    for size in [1_000, 1_000_000] {
        let region = remembering(size);
        let now = clock::now();
        let mut random = Random(7);
        let visit = |number: u32| {
            let guard = region.lock(WORKER);
            black_box(region.clients().visit(&guard, client(number), TRACKING, now));
        };
        group.bench_function(BenchmarkId::new("500 clients come back, of", size), |bencher| {
            bencher.iter(|| visit(scattered(random.below(HOT), size)));
        });
        group.bench_function(BenchmarkId::new("any client comes back (caches), of", size), |bencher| {
            bencher.iter(|| visit(random.below(size)));
        });
        let mut fresh = size;
        group.bench_function(
            BenchmarkId::new("a new client, the oldest goes (caches), of", size),
            |bencher| {
                bencher.iter(|| {
                    fresh = (fresh + 1) & 0xff_ffff;
                    visit(fresh);
                });
            },
        );
    }
    group.finish();
}

fn selection(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("selection");
    let kinds = [
        ("client tracking", Settings::default()),
        ("round robin", Settings { roundrobin: true, ..Settings::default() }),
        ("weight", Settings { roundrobin: true, weight: true, ..Settings::default() }),
    ];
    for (name, settings) in kinds {
        let region = remembering(1000);
        let terms = Terms {
            rules: Rules::from(&settings),
            tracking: TRACKING,
            blacklist: Seconds(30),
            timeout: Seconds(5),
        };
        let now = clock::now();
        let mut random = Random(7);
        group.bench_function(BenchmarkId::new("begin, established, give_back", name), |bencher| {
            bencher.iter(|| {
                let client = client(random.below(1000));
                let visit = visits::begin(&region, WORKER, &terms, client, Verdicts::ALL, None, now);
                let reservation = visit.reservation.unwrap();
                visits::established(&region, WORKER, &terms, visit.client, &reservation, now);
                visits::give_back(&region, WORKER, reservation);
            });
        });
    }
    group.finish();
}

/// So many networks of 256 addresses, none of them beside another, and after them so many countries.
fn access_lists(networks: u32, countries: u8) -> AccessLists {
    let network = |number: u32| Network::V4(Ipv4Addr::from_bits(number << 9), Ipv4Addr::from_bits(!0xff));
    let country = |number: u8| Network::Country(letters(number));
    let entries = (0..networks).map(network).chain((0..countries).map(country));
    let mut lists: [Vec<AclEntry>; AclId::COUNT] = Default::default();
    lists[1] = entries.map(|network| AclEntry { permit: true, network }).collect();
    AccessLists::compile(&lists)
}

fn letters(number: u8) -> String {
    [b'A' + number / 26, b'A' + number % 26].map(char::from).iter().collect()
}

/// 200,000 networks of 200 countries: three quarters of all IPv4 addresses.
fn countries() -> geoip::Database {
    let networks: Vec<(String, String)> = (0..200_000u32)
        .map(|number| (format!("{}/18", Ipv4Addr::from_bits(number << 14)), letters((number % 200) as u8)))
        .collect();
    let networks = networks.iter().map(|(network, letters)| (network.as_str(), letters.as_str()));
    let bytes = mmdb::Mmdb::v6().countries(networks).bytes();
    let memory = sealed::copy("countries", &bytes[..], bytes.len() as u64).unwrap();
    geoip::Database::from_fd(memory).unwrap()
}

fn access(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("access lists");
    let database = countries();
    let anybody =
        |random: &mut Random| ClientAddress::Inet(Ipv4Addr::from_bits(random.below(u32::MAX)).into(), 1);
    for (networks, countries) in [(5, 0), (10_000, 0), (5, 3), (10_000, 200)] {
        let lists = access_lists(networks, countries);
        let name = format!("{networks} networks, {countries} countries");
        let mut random = Random(7);
        group.bench_function(BenchmarkId::new("verdicts", &name), |bencher| {
            bencher.iter(|| {
                let country = |_| Some(*b"DD");
                black_box(lists.verdicts(&anybody(&mut random), country))
            });
        });
        if lists.wants_countries() {
            group.bench_function(BenchmarkId::new("country and verdicts", &name), |bencher| {
                bencher.iter(|| {
                    let country = |address| database.country(address);
                    black_box(lists.verdicts(&anybody(&mut random), country))
                });
            });
        }
    }
    let mut random = Random(7);
    group.bench_function("country", |bencher| {
        bencher.iter(|| database.country(Ipv4Addr::from_bits(black_box(random.below(u32::MAX))).into()));
    });
    group.finish();
}

/// Other processes that take the lock, do what a visit does under it, and let go, all the time.
struct Rivals(Vec<Pid>);

impl Rivals {
    fn start(region: &Region, number: u32) -> Self {
        let start = |rival| {
            // SAFETY: criterion starts no threads of its own here, and the child calls nothing that could need one.
            match unsafe { fork() }.unwrap() {
                ForkResult::Parent { child } => child,
                ForkResult::Child => {
                    // SAFETY: asks that this process die with the one that forked it.
                    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                    loop {
                        visit_alone(region, WorkerId(rival), rival);
                    }
                }
            }
        };
        Rivals((1..=number).map(start).collect())
    }
}

impl Drop for Rivals {
    fn drop(&mut self) {
        for pid in &self.0 {
            kill(*pid, Signal::SIGKILL).unwrap();
            waitpid(*pid, None).unwrap();
        }
    }
}

fn visit_alone(region: &Region, worker: WorkerId, number: u32) {
    let guard = region.lock(worker);
    black_box(region.clients().visit(&guard, client(number), TRACKING, Moment(1)));
}

fn lock(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lock");
    let region = remembering(1000);
    group.bench_function("lock and unlock, nobody else", |bencher| {
        bencher.iter(|| drop(black_box(region.lock(WORKER))));
    });
    for processes in [1, 2, 4] {
        let rivals = Rivals::start(&region, processes - 1);
        group.bench_function(
            BenchmarkId::new("a visit, by so many processes at once:", processes),
            |bencher| {
                bencher.iter(|| visit_alone(&region, WORKER, 0));
            },
        );
        drop(rivals);
    }
    group.finish();
}

/// A request by its number.
type Request = fn(usize) -> String;

fn web_logs(criterion: &mut Criterion) {
    const DIFFERENT: usize = 200_000;
    const LATER: usize = 500;
    let requests: [(&str, Request); 4] = [
        ("each its own", |number| format!("GET /items/{}/page HTTP/1.1", number * 7919 % DIFFERENT)),
        ("880 bytes are the same", |number| format!("GET /{}{number}", "a".repeat(880))),
        ("one is the beginning of all", |number| match number % 1000 {
            0 => format!("GET /{}", "a".repeat(880)),
            _ => format!("GET /{}{number}", "a".repeat(880)),
        }),
        ("of all lengths", |number| format!("GET /{}{}", "a".repeat(number * 7919 % 860), number % 997)),
    ];
    let mut group = criterion.benchmark_group("web logs");
    for (kind, request) in requests {
        let record = |number| format!("+ 10.1.2.3 127.0.0.1 {}\n", request(number));
        let line =
            |number| format!("10.0.0.1 - - [22/Nov/2026:07:10:00 +0000] \"{}\" 200 1\n", request(number));
        let records: Vec<_> = (0..DIFFERENT).map(record).collect();
        let lines: Vec<_> = (0..DIFFERENT).map(line).collect();
        for entries in [1000, 100_000] {
            let mut consolidator = Consolidator::new(Limits { entries, ..Limits::default() });
            let (mut out, mut number) = (Vec::new(), 0);
            let mut both = || {
                let from = ([127, 0, 0, 1], 5000).into();
                out.clear();
                consolidator.take(from, records[number % DIFFERENT].as_bytes(), Moment(1), &mut out);
                let earlier = (number + DIFFERENT - LATER) % DIFFERENT;
                if number >= LATER {
                    consolidator.take(from, lines[earlier].as_bytes(), Moment(1), &mut out);
                }
                number += 1;
            };
            (0..entries + LATER).for_each(|_| both());
            group.bench_function(BenchmarkId::new(kind, entries), |bencher| bencher.iter(&mut both));
            assert_eq!(consolidator.counts().waited, 0);
        }
    }
    group.finish();
}

criterion_group!(benches, client_table, selection, access, lock, web_logs);
criterion_main!(benches);
