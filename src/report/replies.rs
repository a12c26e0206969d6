//! Answers of the control port about a running pen: `servers`, `recent`, `connection`, `socket`, `limits`.
//!
//! All but the last have the classic's form to the letter, because scripts take them apart. See pen(1), COMMANDS.
//! Not here: what settings answer ([`crate::model::apply`]), the page of `status` ([`super::status`]), `explain`
//! ([`super::explain`]).

use std::collections::{HashMap, HashSet};
use std::fmt::{Display, Write as _};

use super::status::{self, ClientRow, ConnectionRow, OpenBytes, ServerRow};
use crate::model::address::Drain;
use crate::model::ids::{ConnId, MAX_SERVERS, MAX_WORKERS, ServerId, Target, WorkerId};
use crate::model::reply;
use crate::model::settings::Settings;
use crate::model::time::{Moment, Seconds};
use crate::shared::clients::ClientView;
use crate::shared::region::Region;
use crate::shared::slots::ConnectionView;

/// `servers`: a line for each slot. `sx` and `rx` are bytes; where there are datagrams, `dsx` and `drx` are how many of
/// those it was sent and sent back. Of one that gets a header of the PROXY protocol, `proxy 1` or `proxy 2` follows
/// what the classic had; one that is drained has `drain new` or `drain all` at the end of its line.
///
/// The address is one word (a path may have spaces): `(none)` for a slot that nobody has filled, and the name itself
/// while nobody knows its address.
pub fn servers(region: &Region, settings: &Settings) -> String {
    let slots = (0..region.servers().count()).map(|number| Target::Server(ServerId(number)));
    let rows = slots.filter_map(|target| ServerRow::of(region, settings, target));
    let with_datagrams = status::has_datagrams(region, settings);
    lines(rows.map(|row| {
        let drain = match row.drain {
            Drain::No => "",
            Drain::New => " drain new",
            Drain::All => " drain all",
        };
        let datagrams = match with_datagrams {
            true => format!(" dsx {} drx {}", row.datagrams_sent, row.datagrams_received),
            false => String::new(),
        };
        format!(
            "{} addr {} port {} conn {} max {} hard {} weight {} prio {} sx {} rx {}{datagrams}{}{drain}",
            row.number,
            row.address.word,
            row.port,
            row.connections,
            row.soft,
            row.hard,
            row.weight,
            row.prio,
            row.sent,
            row.received,
            status::with_proxy(row.proxy),
        )
    }))
}

/// `recent`: a line for each client that came within so many seconds, by slot. `sx` is what it was sent. Of very many
/// those seen last are listed, and a last line says how many are not.
pub fn recent(region: &Region, now: Moment, within: Seconds) -> String {
    let mut found = 0;
    let recent = |view: &ClientView| now.seconds_since(view.last_used) <= within.0.into();
    let listed = status::most_recent(region.clients().iter().filter(recent).inspect(|_| found += 1));
    let left_out = status::left_out(found, listed.len(), "clients");
    let open = OpenBytes::now(region);
    let rows = listed.into_iter().filter_map(|id| region.clients().view(id));
    let rows = rows.map(|view| ClientRow::of(&view, &open, now));
    let rows = rows
        .map(|row| format!("{} connects {} sx {} rx {}", row.address, row.connects, row.sent, row.received));
    lines(rows.chain(left_out))
}

/// `connection N`: five lines. `pend` is how many bytes wait to be sent, both ways together. -1 and -3 stand for no
/// client and no server, as on the status page.
pub fn connection(region: &Region, conn: ConnId) -> String {
    if conn.0 >= region.slots().capacity() {
        return reply::out_of_range(conn);
    }
    let entry = region.slots().entry(conn).map_or(ConnectionView::UNUSED, |(_, entry)| entry);
    let row = ConnectionRow::of(conn, &entry);
    format!(
        "Connection {conn}:\nstate = {}\ndownfd = {}, upfd = {}\nclient = {}, server = {}\npend = {}\n",
        entry.state,
        row.down_fd,
        row.up_fd,
        row.client,
        row.server,
        u64::from(row.pending_down) + u64::from(row.pending_up),
    )
}

/// `socket N`: which connection has this descriptor? Each worker has descriptors of its own, so it may be one in each
/// of them: a line for every one.
pub fn socket(region: &Region, fd: i32) -> String {
    let has = |entry: &ConnectionView| fd >= 0 && (entry.down_fd == fd || entry.up_fd == fd);
    let line = |owner: &dyn Display| format!("Socket {fd} belongs to connection {owner}");
    let owners = status::connections(region).filter(|(_, _, entry)| has(entry));
    let mut owners = owners.map(|(conn, _, _)| line(&conn)).peekable();
    let none = owners.peek().is_none().then(|| line(&-1));
    lines(owners.chain(none))
}

/// The descriptors that one worker needs, and may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// For all connections of `-x`, and for itself.
    pub needed: u64,
    /// The limit in force.
    pub granted: u64,
}

/// `limits`: what there is of everything that can run out: `NAME needed N granted N used N`, a line each, and then those
/// that count what came of a shortage or a failure: `NAME total N`. The last two are there where there are datagrams.
///
/// | line | needed | granted | used |
/// |---|---|---|---|
/// | connections | `-x` | slots of the table | open |
/// | clients | `-c` | slots of the table | remembered |
/// | servers | listed | most | with an address |
/// | workers | wanted | most | running |
/// | pending | `pending_max` | the same | connects under way |
/// | descriptors | by a worker, for all connections | its limit | by connections, in the worker with most |
/// | memory | bytes, with full tables | bytes of address space | bytes |
/// | evictions | | | clients thrown out to make room |
/// | repairs | | | of the shared tables |
/// | flow_evictions | | | flows of datagrams that ended because another needed their place |
/// | datagrams_lost | | | not sent on, for whatever reason |
pub fn limits(region: &Region, settings: &Settings, descriptors: Descriptors) -> String {
    let (slots, clients, workers) = (region.slots(), region.clients(), region.workers());
    let with_address =
        (0..region.servers().count()).map(|number| Target::Server(ServerId(number))).filter(|target| {
            region.servers().definition(*target).is_some_and(|definition| definition.address.is_some())
        });
    let running = (0..workers.count()).filter(|worker| workers.view(WorkerId(*worker)).pid != 0);
    // What fstat(2) of the own memory says; it has no reason to fail.
    let memory = region.footprint().unwrap_or(0);
    let rows: [(&str, [u64; 3]); 7] = [
        ("connections", [settings.conn_max, slots.capacity(), slots.used()].map(u64::from)),
        ("clients", [settings.clients_max, clients.capacity(), clients.used()].map(u64::from)),
        ("servers", [settings.servers.len() as u64, MAX_SERVERS.into(), with_address.count() as u64]),
        ("workers", [workers.count().into(), MAX_WORKERS.into(), running.count() as u64]),
        ("pending", [settings.pending_max, settings.pending_max, workers.pending()].map(u64::from)),
        ("descriptors", [descriptors.needed, descriptors.granted, most_sockets(region)]),
        ("memory", [region.largest_footprint(), region.reserve(), memory]),
    ];
    let mut totals = vec![("evictions", clients.evictions()), ("repairs", region.repairs())];
    if status::has_datagrams(region, settings) {
        let traffic = workers.traffic();
        totals.extend([
            ("flow_evictions", traffic.evicted),
            ("datagrams_lost", traffic.lost.iter().sum::<u64>()),
        ]);
    }
    let width = |column: usize| rows.iter().map(|(_, row)| digits(row[column])).max().unwrap_or(0);
    let [needed, granted, used] = [0, 1, 2].map(width);
    let names = rows.iter().map(|(name, _)| name.len());
    let names = names.chain(totals.iter().map(|(name, _)| name.len())).max().unwrap_or(0);
    let rows = rows.map(|(name, [need, grant, use_])| {
        format!("{name:names$} needed {need:needed$} granted {grant:granted$} used {use_:used$}")
    });
    let totals = totals.into_iter().map(|(name, total)| format!("{name:names$} total  {total:needed$}"));
    lines(rows.into_iter().chain(totals))
}

fn digits(number: u64) -> usize {
    number.to_string().len()
}

/// Sockets of connections, in the worker that has most of them. Flows of datagrams share that to their clients.
fn most_sockets(region: &Region) -> u64 {
    let mut sockets: HashMap<WorkerId, HashSet<i32>> = HashMap::new();
    for (_, worker, entry) in status::connections(region) {
        let its = [entry.down_fd, entry.up_fd].into_iter().filter(|fd| *fd >= 0);
        sockets.entry(worker).or_default().extend(its);
    }
    sockets.values().map(HashSet::len).max().unwrap_or(0) as u64
}

fn lines(lines: impl Iterator<Item = String>) -> String {
    lines.fold(String::new(), |mut text, line| {
        writeln!(text, "{line}").expect("a String takes every write");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::{ClientAddress, SocketAddress};
    use crate::model::ids::AclId;
    use crate::model::listen::{Listen, Protocol};
    use crate::model::proxy::ProxySend;
    use crate::policy::acl::Verdicts;
    use crate::shared::region::Geometry;
    use crate::shared::servers::Definition;
    use crate::shared::slots::SlotFinder;
    use crate::shared::visits::{self, Reservation, Terms};
    use crate::shared::workers::Lost;

    const WORKER: WorkerId = WorkerId(0);
    const NOW: Moment = Moment(1_000_000_000);

    /// The servers of these specifications; those without an IP address or a path are not resolved.
    fn pen(specs: &[&str]) -> (Region, Settings) {
        let region = Region::create(Geometry { clients: 16, connections: 8 }).unwrap();
        region.workers().set_count(2);
        let servers = specs.iter().map(|text| match *text {
            "" => crate::model::address::ServerSpec::unset(),
            text => text.parse().unwrap(),
        });
        let settings =
            Settings { servers: servers.collect(), clients_max: 16, conn_max: 8, ..Settings::default() };
        publish(&region, &settings);
        (region, settings)
    }

    fn publish(region: &Region, settings: &Settings) {
        use crate::model::address::{Host, Port};
        let define = |spec: &crate::model::address::ServerSpec| Definition {
            proxy: spec.proxy.unwrap_or(settings.proxy_send),
            address: match (&spec.host, &spec.port) {
                (Some(Host::Ip(ip)), Port::Number(port)) => Some(SocketAddress::Inet((*ip, *port).into())),
                (Some(Host::Path(path)), _) => Some(SocketAddress::Unix(path.clone())),
                _ => None,
            },
            soft: spec.soft,
            hard: spec.hard,
            weight: spec.weight,
            prio: spec.prio,
            acl: AclId::default(),
            drain: spec.drain,
            tls: 0,
        };
        let servers: Vec<Definition> = settings.servers.iter().map(define).collect();
        region.servers().publish(&servers, None, None).unwrap();
    }

    fn client(number: u8) -> ClientAddress {
        ClientAddress::Inet([127, 0, 0, number].into(), 1000)
    }

    /// A visit that has a place on a server.
    fn come(region: &Region, settings: &Settings, number: u8, now: Moment) -> (visits::Visit, Reservation) {
        let terms = Terms::from(settings);
        let mut visit = visits::begin(region, WORKER, &terms, client(number), Verdicts::ALL, None, now);
        let place = visit.reservation.take().unwrap();
        visits::established(region, WORKER, &terms, visit.client, &place, now);
        (visit, place)
    }

    #[test]
    fn servers_are_listed_as_they_always_were() {
        let (region, mut settings) =
            pen(&["127.0.0.1:9001:10:20:2:1", "127.0.0.1:9002:5", "[::1]:80:::0:-4"]);
        let (_, held) = come(&region, &settings, 1, NOW);
        visits::count(&region, WORKER, &held, 36, 78);
        let classic = "\
            0 addr 127.0.0.1 port 9001 conn 0 max 10 hard 20 weight 2 prio 1 sx 0 rx 0\n\
            1 addr 127.0.0.1 port 9002 conn 1 max 5 hard 0 weight 0 prio 0 sx 36 rx 78\n\
            2 addr ::1 port 80 conn 0 max 0 hard 0 weight 0 prio -4 sx 0 rx 0\n";
        assert_eq!(servers(&region, &settings), classic);
        settings.servers[0].drain = Drain::New;
        settings.servers[2].drain = Drain::All;
        publish(&region, &settings);
        let drained = classic.replacen("sx 0 rx 0\n", "sx 0 rx 0 drain new\n", 1);
        let drained = drained.replace("prio -4 sx 0 rx 0\n", "prio -4 sx 0 rx 0 drain all\n");
        assert_eq!(servers(&region, &settings), drained);
        settings.proxy_send = ProxySend::V1;
        settings.servers[1].proxy = Some(ProxySend::Off);
        settings.servers[2].proxy = Some(ProxySend::V2);
        publish(&region, &settings);
        let told =
            drained.replace("drain new", "proxy 1 drain new").replace("drain all", "proxy 2 drain all");
        assert_eq!(servers(&region, &settings), told);
    }

    #[test]
    fn where_there_are_datagrams_every_server_tells_of_them() {
        let (region, mut settings) = pen(&["127.0.0.1:9001", "127.0.0.1:9002"]);
        settings.servers[1].drain = Drain::New;
        settings.servers[0].proxy = Some(ProxySend::V2);
        publish(&region, &settings);
        let (_, held) = come(&region, &settings, 1, NOW);
        visits::count(&region, WORKER, &held, 36, 78);
        let before = servers(&region, &settings);
        assert!(!before.contains("dsx"), "{before}");
        visits::count_datagrams(&region, WORKER, &held, 3, 4);
        region.workers().sent_on(WORKER, 3, 4);
        let expected = before
            .replace("sx 36 rx 78", "sx 36 rx 78 dsx 3 drx 4")
            .replace("sx 0 rx 0", "sx 0 rx 0 dsx 0 drx 0");
        assert_eq!(servers(&region, &settings), expected);
        assert!(expected.contains(" proxy 2\n") && expected.ends_with(" drain new\n"), "{expected}");
        let (region, mut settings) = pen(&["127.0.0.1:9001"]);
        settings.listen = vec![Listen { protocol: Protocol::Udp, spec: "53".parse().unwrap() }];
        assert!(servers(&region, &settings).ends_with(" sx 0 rx 0 dsx 0 drx 0\n"));
    }

    #[test]
    fn limits_count_flows_that_had_to_end_and_datagrams_that_were_lost() {
        let (region, settings) = pen(&["127.0.0.1:80"]);
        let text = || limits(&region, &settings, Descriptors { needed: 1140, granted: 1024 });
        assert_eq!(text().lines().count(), 9);
        (0..5).for_each(|_| region.workers().flow_evicted(WorkerId(1)));
        region.workers().lost(WORKER, Lost::TooLong, 2);
        region.workers().lost(WorkerId(1), Lost::NoRoom, 7);
        let text = text();
        let added: Vec<Vec<&str>> =
            text.lines().skip(9).map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(added, [["flow_evictions", "total", "5"], ["datagrams_lost", "total", "9"]]);
        let numbers = text.lines().map(|line| line.find(" needed ").or(line.find(" total ")).unwrap());
        assert!(numbers.eq([14; 11]), "{text}");
    }

    #[test]
    fn the_address_is_one_word_whatever_it_is() {
        let (region, settings) = pen(&["/run/x.sock", "www.example:80", "www.example", ""]);
        let listed = servers(&region, &settings);
        let places: Vec<String> = listed
            .lines()
            .map(|line| line.split(' ').skip(2).step_by(2).take(2).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(places, ["/run/x.sock 1", "www.example 80", "www.example 0", "(none) 0"]);
        assert_eq!(servers(&pen(&[]).0, &settings), "");
    }

    #[test]
    fn recent_clients_are_listed_by_slot_with_what_their_open_connections_carry() {
        let (region, settings) = pen(&["127.0.0.1:80"]);
        let over = |number, seconds| {
            let (visit, place) = come(&region, &settings, number, NOW.plus(Seconds(seconds)));
            region.clients().count(visit.client, 18, 39);
            visits::give_back(&region, WORKER, place);
        };
        over(1, 0);
        let (visit, _open) = come(&region, &settings, 20, NOW.plus(Seconds(50)));
        over(9, 99);
        over(1, 100);
        let mut finder = SlotFinder::default();
        let conn = region.slots().claim(&mut finder, WORKER, NOW).unwrap();
        region.slots().describe(conn, Some(visit.client.id), None, 2, 7, 8);
        region.slots().progress(conn, 5, 6, 0, 0);
        let now = NOW.plus(Seconds(300));
        let [first, open, last] = [
            "127.0.0.1 connects 2 sx 78 rx 36\n",
            "127.0.0.20 connects 1 sx 6 rx 5\n",
            "127.0.0.9 connects 1 sx 39 rx 18\n",
        ];
        assert_eq!(recent(&region, now, Seconds(300)), format!("{first}{open}{last}"));
        assert_eq!(recent(&region, now, Seconds(201)), format!("{first}{last}"));
        assert_eq!(recent(&region, now, Seconds(200)), first);
        assert_eq!(recent(&region, now, Seconds(199)), "");
    }

    #[test]
    fn of_very_many_recent_clients_some_are_only_counted() {
        let most = status::LISTED as u32;
        let region = Region::create(Geometry { clients: most + 5, connections: 1 }).unwrap();
        for number in 0..most + 3 {
            let client = ClientAddress::Inet(std::net::Ipv4Addr::from_bits(number).into(), 1);
            region.clients().visit(&region.lock(WORKER), client, Seconds(0), NOW);
        }
        let listed = recent(&region, NOW, Seconds(300));
        assert_eq!(listed.lines().count(), status::LISTED + 1);
        assert_eq!(listed.lines().last(), Some("3 more clients not listed"));
        assert!(listed.starts_with("0.0.0.3 connects 1 "), "the last to come are listed");
    }

    #[test]
    fn a_connection_has_five_lines_and_so_has_an_unused_slot() {
        let (region, _) = pen(&["127.0.0.1:80", "127.0.0.1:81"]);
        let conn = region.slots().claim(&mut SlotFinder::default(), WORKER, NOW).unwrap();
        let visitor = crate::model::ids::ClientId(0);
        region.slots().describe(conn, Some(visitor), Some(Target::Server(ServerId(1))), 2, 8, 9);
        assert_eq!(
            connection(&region, conn),
            "Connection 0:\nstate = 2\ndownfd = 8, upfd = 9\nclient = 0, server = 1\npend = 0\n"
        );
        region.slots().progress(conn, 1, 2, 30, 4);
        assert!(connection(&region, conn).ends_with("\npend = 34\n"));
        assert_eq!(
            connection(&region, ConnId(7)),
            "Connection 7:\nstate = 0\ndownfd = -1, upfd = -1\nclient = -1, server = -3\npend = 0\n"
        );
        assert_eq!(connection(&region, ConnId(8)), "Connection 8 out of range\n");
    }

    #[test]
    fn a_descriptor_can_belong_to_a_connection_of_every_worker() {
        let (region, _) = pen(&["127.0.0.1:80"]);
        for (worker, down, up) in [(0, 8, 9), (1, 9, -1), (1, 7, 8)] {
            let conn = region.slots().claim(&mut SlotFinder::default(), WorkerId(worker), NOW).unwrap();
            region.slots().describe(conn, None, None, 2, down, up);
        }
        assert_eq!(socket(&region, 7), "Socket 7 belongs to connection 2\n");
        assert_eq!(
            socket(&region, 8),
            "Socket 8 belongs to connection 0\nSocket 8 belongs to connection 2\n"
        );
        for nobodys in [10, -1] {
            assert_eq!(socket(&region, nobodys), format!("Socket {nobodys} belongs to connection -1\n"));
        }
    }

    #[test]
    fn limits_line_up_and_every_line_is_names_and_numbers() {
        let (region, settings) = pen(&["127.0.0.1:80", "www.example:80"]);
        let (_, _held) = come(&region, &settings, 1, NOW);
        region.workers().register(WorkerId(1), 4711, NOW);
        // One that is being made, two flows with the same socket to their clients, and another worker.
        for (worker, down, up) in [(0, 8, -1), (0, 9, 10), (0, 9, 11), (1, 8, 9)] {
            let conn = region.slots().claim(&mut SlotFinder::default(), WorkerId(worker), NOW).unwrap();
            region.slots().describe(conn, None, None, 2, down, up);
        }
        let text = limits(&region, &settings, Descriptors { needed: 1140, granted: 1024 });
        let column = |line: &str, name: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words.iter().position(|word| *word == name)?;
            words.get(at + 1)?.parse::<u64>().ok()
        };
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        let row = |name: &str| ["needed", "granted", "used"].map(|what| column(line(name), what).unwrap());
        assert_eq!(row("connections"), [8, 8, 4]);
        assert_eq!(row("clients"), [16, 16, 1]);
        assert_eq!(row("servers"), [2, 4096, 1]);
        assert_eq!(row("workers"), [2, 256, 1]);
        assert_eq!(row("pending"), [100, 100, 0]);
        assert_eq!(row("descriptors"), [1140, 1024, 4]);
        let [full, reserve, now] = row("memory");
        assert!(0 < now && now <= full && full < reserve);
        assert_eq!(column(line("evictions"), "total"), Some(0));
        assert_eq!(column(line("repairs"), "total"), Some(0));
        let ends: Vec<usize> = text.lines().take(7).map(str::len).collect();
        assert!(ends.iter().all(|end| *end == ends[0]), "{text}");
    }
}
