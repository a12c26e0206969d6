//! A site's traffic, as pen and the web servers behind it log it: made up, but the same for the same seed.
//!
//! The two stories do not agree in everything, as in life: servers write later than pen, and not in order; some of what
//! either tells is missing; many clients ask for the same thing, one request begins as another does, some are long;
//! some lines are none. For `tests/differential`, which has the classic's programs read it besides ours, and for
//! `benches/logs`.
#![allow(unreachable_pub, dead_code)] // it is a part of both, and neither uses all of it

use std::fmt::Write as _;

/// A generator of numbers (SplitMix64): the same for the same seed, everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0, and less than that.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True so many times out of a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len() as u64) as usize]
    }
}

/// What the traffic is like.
pub struct Plan {
    pub seed: u64,
    /// Visits in all.
    pub visits: usize,
    pub servers: usize,
    /// What is asked for; some of it far more often than the rest.
    pub requests: usize,
    /// Visits in a minute, about.
    pub rate: u64,
    /// Seconds at most until a server writes its line.
    pub delay: u64,
    /// Of a thousand visits, so many that pen's log lacks, and so many that the server's lacks. Nobody else asks for what
    /// pen's log lacks.
    pub gaps: u64,
    /// Of a thousand lines of servers, so many that are none.
    pub bogus: u64,
}

/// A client's request, and what becomes of it.
pub struct Visit {
    pub client: String,
    pub server: usize,
    pub request: String,
    /// When pen passes it on; seconds since 1970.
    pub time: u64,
    /// When the server says that it came.
    pub logged: u64,
    pub pen_tells: bool,
    pub server_tells: bool,
    /// The line of the server.
    pub line: String,
}

/// The longest request that the classic's programs match.
pub const LONGEST: usize = 99;
/// The first visit: the evening of 29 December 2023, so that a day, a month and a year end soon.
const START: u64 = 1_703_880_000;
/// Where the servers are: hours and minutes before or behind UTC.
const ZONES: [(i64, &str); 4] = [(0, "+0000"), (3600, "+0100"), (-12_600, "-0330"), (20_700, "+0545")];
const BROWSERS: [&str; 4] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "curl/8.14.1",
    "Mozilla/5.0 (compatible; \\\"quoted\\\" bot; +http://bot.example/)",
    "-",
];

/// All visits, in the order in which pen passes them on.
pub struct Traffic {
    plan: Plan,
    random: Random,
    requests: Vec<String>,
    number: usize,
    /// Sixtieths of a second since [`START`], as pen's clock has them.
    clock: u64,
}

impl Traffic {
    pub fn new(plan: Plan) -> Traffic {
        let mut random = Random(plan.seed);
        let requests = (0..plan.requests.max(1)).map(|number| request(&mut random, number)).collect();
        Traffic { plan, random, requests, number: 0, clock: 0 }
    }

    /// The line of the server, and when it says the request came.
    fn line(&mut self, server: usize, time: u64, request: &str) -> (String, u64) {
        let random = &mut self.random;
        // A server that names the time at which a request came, but writes when it is answered.
        let logged =
            (time + random.below(2)).saturating_sub(if random.chance(50) { random.below(3) } else { 0 });
        if random.chance(self.plan.bogus) {
            let none = [
                "",
                "child 77 exited",
                "10.9.9.9 - - nothing in it",
                "- - - [half a time",
                "10.9.9.9 - - \"",
            ];
            return (random.of(&none).to_owned(), logged);
        }
        let user = random.of(&["-", "-", "-", "frank"]);
        let stamp = stamp(logged, ZONES[server % ZONES.len()]);
        let status = random.of(&["200", "200", "200", "304", "404", "500"]);
        let size = random.below(100_000);
        let mut line = format!("10.9.9.{} - {user} [{stamp}] \"{request}\" {status} {size}", server + 1);
        if server.is_multiple_of(2) {
            let from =
                random.of(&["-", "http://www.example.com/", "http://www.example.com/caf\u{e9}?q=a%20b"]);
            write!(line, " \"{from}\" \"{}\"", random.of(&BROWSERS)).unwrap();
        }
        (line, logged)
    }
}

impl Iterator for Traffic {
    type Item = Visit;

    fn next(&mut self) -> Option<Visit> {
        if self.number == self.plan.visits {
            return None;
        }
        let (number, random) = (self.number, &mut self.random);
        self.number += 1;
        self.clock += random.below(2 * 3600 / self.plan.rate.max(1) + 1);
        let time = START + self.clock / 60;
        let server = random.below(self.plan.servers as u64) as usize;
        let client = format!("192.0.{}.{}", 2 + random.below(2), 1 + random.below(254));
        let pen_tells = !random.chance(self.plan.gaps);
        let server_tells = !random.chance(self.plan.gaps);
        // What is asked for often comes first: one half asks for a thirtieth of it.
        let many = self.requests.len() as u64;
        let most = if random.chance(500) { many / 30 } else { many };
        let request = match pen_tells {
            true => self.requests[random.below(most) as usize].clone(),
            false => format!("GET /unseen/{number} HTTP/1.1"),
        };
        let delay = random.below(self.plan.delay + 1);
        let (line, logged) = self.line(server, time + delay, &request);
        Some(Visit { client, server, request, time, logged, pen_tells, server_tells, line })
    }
}

/// What is asked for under this number.
fn request(random: &mut Random, number: usize) -> String {
    let method = random.of(&["GET", "GET", "GET", "GET", "POST", "HEAD"]);
    let protocol = random.of(&[" HTTP/1.1", " HTTP/1.1", " HTTP/1.0", ""]);
    let mut path = match random.below(4) {
        0 => format!("/{number}"),
        1 => format!("/static/{number}.css?v={}", random.below(10)),
        2 => format!("/caf%C3%A9/{number}/~user,a;b=c&d"),
        _ => format!("/search?q={number}+and+more"),
    };
    if random.chance(100) {
        let room = LONGEST - method.len() - " ".len() - protocol.len() - path.len();
        let more = if random.chance(500) { room as u64 } else { random.below(room as u64) };
        path.extend((0..more).map(|_| char::from(b'a' + random.below(26) as u8)));
    }
    format!("{method} {path}{protocol}")
}

/// As web servers write it, in their zone.
fn stamp(time: u64, (ahead, zone): (i64, &str)) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let time = time as i64 + ahead;
    let (days, second) = (time.div_euclid(86_400), time.rem_euclid(86_400));
    // Years that begin in March, in eras of 400 of them; the first day of 1970 is day 719,468 of the first era.
    let (era, day) = ((days + 719_468).div_euclid(146_097), (days + 719_468).rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year + i64::from(month >= 10);
    let month = MONTHS[(month as usize + 2) % 12];
    format!("{day:02}/{month}/{year}:{:02}:{:02}:{:02} {zone}", second / 3600, second / 60 % 60, second % 60)
}

/// The files that mergelogs(1) reads.
pub struct Files {
    /// pen's log.
    pub pen: String,
    /// Those of the servers.
    pub servers: Vec<String>,
    /// Lines in them.
    pub lines: usize,
}

/// The name of a server in pen's log.
pub fn server_name(server: usize) -> String {
    format!("127.0.0.{}", server + 2)
}

/// Writes the logs of this traffic as files. Servers write in the order in which they have answered, which is not
/// quite that of the times they write.
pub fn files(plan: Plan) -> Files {
    let servers = plan.servers;
    let mut pen = String::new();
    let mut written: Vec<Vec<(u64, String)>> = vec![Vec::new(); servers];
    let mut random = Random(plan.seed ^ 1);
    for visit in Traffic::new(plan) {
        if visit.pen_tells {
            let server = server_name(visit.server);
            writeln!(pen, "{} {} {server} {}", visit.client, visit.time, visit.request).unwrap();
        }
        if visit.server_tells {
            written[visit.server].push((visit.logged + random.below(2), visit.line));
        }
    }
    let lines = written.iter().map(Vec::len).sum();
    let file = |mut lines: Vec<(u64, String)>| {
        lines.sort_by_key(|(time, _)| *time);
        lines.into_iter().fold(String::new(), |file, (_, line)| file + &line + "\n")
    };
    Files { pen, servers: written.into_iter().map(file).collect(), lines }
}

/// A datagram for penlogd(1).
pub enum Datagram {
    Pen(String),
    Server(usize, String),
}

impl Datagram {
    /// The line of a server.
    pub fn line(self) -> Option<String> {
        match self {
            Datagram::Pen(_) => None,
            Datagram::Server(_, line) => Some(line),
        }
    }
}

/// What pen and penlog(1) send of this traffic, in this order. A line comes behind its counterpart, by at most `apart`
/// visits, but for one in a hundred: twice to five times as far, and nobody else asks for the same. A penlogd that keeps
/// three to four times `apart` entries still has the counterparts of some of those.
pub fn datagrams(plan: Plan, apart: u64) -> Vec<Datagram> {
    let mut random = Random(plan.seed ^ 2);
    let mut all = Vec::new();
    for (number, mut visit) in Traffic::new(plan).enumerate() {
        let number = number as u64;
        let mut behind = random.below(apart);
        if random.chance(10) {
            let late = format!("GET /late/{number} HTTP/1.1");
            visit.line = visit.line.replace(&visit.request, &late);
            visit.request = late;
            behind = 2 * apart + random.below(3 * apart);
        }
        if random.chance(2) {
            // Nothing was asked, or nothing that was understood.
            let odd = random.of(&["\"\"", "\"-\""]);
            visit.line = visit.line.replace(&format!("\"{}\"", visit.request), odd);
        }
        if visit.pen_tells {
            let server = server_name(visit.server);
            let text = format!("+ {} {server} {}\n", visit.client, visit.request);
            all.push((2 * number, Datagram::Pen(text)));
        } else if random.chance(20) {
            all.push((2 * number, Datagram::Pen("+ half\n".to_owned())));
        }
        if visit.server_tells {
            all.push((2 * (number + behind) + 1, Datagram::Server(visit.server, visit.line + "\n")));
        }
    }
    all.sort_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, datagram)| datagram).collect()
}
