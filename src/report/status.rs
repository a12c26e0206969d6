//! Statistics: text for USR1, HTML for `-w`. See pen(1), STATISTICS.
//!
//! Both are made in two steps: a `Snapshot` copies what is shown out of the shared region and the settings, then
//! `summary` or `page` puts it into words.

mod page;
mod summary;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::fmt;

use crate::model::address::{Drain, Host, Port, ServerSpec, SocketAddress};
use crate::model::ids::{ClientId, ConnId, ServerId, Target, WorkerId};
use crate::model::listen::Protocol;
use crate::model::proxy::ProxySend;
use crate::model::settings::Settings;
use crate::model::time::{Moment, Seconds, WallTime};
use crate::policy::blacklist::{self, Record, Standing};
use crate::shared::clients::ClientView;
use crate::shared::region::Region;
use crate::shared::servers::Definition;
use crate::shared::slots::ConnectionView;
use crate::shared::workers::{Handshakes, Lost, Refusals, Traffic, WorkerView};
use crate::sys::clock;

pub use page::write_page;

/// At most so many clients, and so many connections, are listed: a report costs the master time in which it does
/// nothing else, whatever `-c` and `-x` are.
pub(super) const LISTED: usize = 10_000;

/// Stands for "no server" where a number is expected; -1 and -2 are the emergency and the abuse server.
const NOBODY: i32 = -3;

/// The text of USR1, one message after another (each a block of lines).
pub fn text(region: &Region, settings: &Settings, now: Moment, wall: WallTime) -> Vec<String> {
    summary::blocks(&Snapshot::take(region, settings, now, wall))
}

/// The page of `-w`.
pub fn html(region: &Region, settings: &Settings, now: Moment, wall: WallTime) -> String {
    page::html(&Snapshot::take(region, settings, now, wall))
}

/// Everything that a report shows, as it was at one moment (each row by itself: the workers do not stop for it).
#[derive(Debug, Default)]
struct Snapshot {
    time: String,
    /// Where round robin stopped.
    current: u32,
    /// Regular servers, then the emergency and the abuse server if there are such; and the state that each is in.
    servers: Vec<(ServerRow, String)>,
    regular: u32,
    clients_max: u32,
    clients_used: u32,
    /// The most recently seen, by slot.
    clients: Vec<ClientRow>,
    connections_max: u32,
    connections_used: u32,
    /// The highest slot in use.
    connections_last: u32,
    connections: Vec<ConnectionRow>,
    workers: Vec<WorkerRow>,
    /// Clients can be turned away for what they send, or some were.
    with_refusals: bool,
    /// None: there are no datagrams, and have been none.
    datagrams: Option<Datagrams>,
    repairs: u64,
}

/// What went by in datagrams, over all workers, also those that are no more.
#[derive(Debug)]
struct Datagrams {
    /// Where clients come in, by any protocol.
    listeners: Vec<String>,
    traffic: Traffic,
}

/// Can there be datagrams, or have there been some? Else no report has a word of them.
pub(super) fn has_datagrams(region: &Region, settings: &Settings) -> bool {
    settings.listens_with(Protocol::Udp) || region.workers().traffic() != Traffic::default()
}

/// Why a datagram was lost, in as few words as a column's head takes.
fn lost_by(why: Lost) -> &'static str {
    match why {
        Lost::NoServer => "no server",
        Lost::NoRoom => "no room",
        Lost::TooLong => "too long",
        Lost::Unreachable => "unreachable",
        Lost::Proxy => "no PROXY header",
    }
}

/// Datagrams that were lost, by reason.
fn losses(traffic: &Traffic) -> String {
    let told = Lost::ALL.into_iter().zip(traffic.lost).map(|(why, lost)| format!("{lost} {}", lost_by(why)));
    told.collect::<Vec<_>>().join(", ")
}

#[derive(Debug)]
pub(super) struct ServerRow {
    pub(super) number: Target,
    pub(super) address: Place,
    /// Seconds since 1970 of the last failure, 0 if it has served since.
    status: u64,
    pub(super) port: u16,
    pub(super) connections: u32,
    pub(super) soft: u32,
    pub(super) hard: u32,
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) datagrams_sent: u64,
    pub(super) datagrams_received: u64,
    pub(super) weight: u32,
    pub(super) prio: i32,
    pub(super) drain: Drain,
    pub(super) proxy: ProxySend,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    /// Its address, path or name, as one word as long as there is no space in it; `(none)` for an empty slot.
    pub(super) word: String,
    /// It is a name, of which nobody knows the address.
    unresolved: bool,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.word, if self.unresolved { " (unresolved)" } else { "" })
    }
}

impl From<String> for Place {
    fn from(word: String) -> Self {
        Place { word, unresolved: false }
    }
}

#[derive(Debug)]
pub(super) struct ClientRow {
    number: ClientId,
    pub(super) address: String,
    age: u64,
    server: i64,
    pub(super) connects: u32,
    pub(super) sent: u64,
    pub(super) received: u64,
}

#[derive(Debug)]
pub(super) struct ConnectionRow {
    number: ConnId,
    pub(super) down_fd: i32,
    pub(super) up_fd: i32,
    pub(super) pending_down: u32,
    pub(super) pending_up: u32,
    pub(super) client: i64,
    pub(super) server: String,
}

#[derive(Debug)]
struct WorkerRow {
    number: WorkerId,
    pid: i32,
    state: &'static str,
    connections: u32,
    pending: u32,
    accepted: u64,
    restarts: u32,
    heartbeat: u64,
    settings: u64,
    handshakes: Handshakes,
    refusals: Refusals,
    traffic: Traffic,
}

impl Datagrams {
    /// Where clients come in; how many flows there were, and datagrams; how many were lost, and why.
    fn lines(&self) -> [String; 3] {
        let Traffic { flows, evicted, up, down, .. } = self.traffic;
        [
            format!("Listening: {}", self.listeners.join(", ")),
            format!("Flows: {flows} begun, {evicted} evicted; datagrams: {up} up, {down} down"),
            format!("Datagrams lost: {}", losses(&self.traffic)),
        ]
    }
}

impl Snapshot {
    fn headline(&self) -> String {
        format!("Time {}, {} servers, {} current", self.time, self.regular, self.current)
    }

    fn workers_line(&self) -> String {
        format!("Number of workers: {}, shared tables repaired {} times", self.workers.len(), self.repairs)
    }

    /// One line about the clients that are not listed, if there are such.
    fn clients_left_out(&self) -> Option<String> {
        left_out(self.clients_used, self.clients.len(), "clients")
    }

    /// One line about the connections that are not listed, if there are such.
    fn connections_left_out(&self) -> Option<String> {
        left_out(self.connections_used, self.connections.len(), "connections")
    }

    fn take(region: &Region, settings: &Settings, now: Moment, wall: WallTime) -> Snapshot {
        let regular = region.servers().count();
        let targets = (0..regular).map(|number| Target::Server(ServerId(number)));
        let servers = targets.chain([Target::Emergency, Target::Abuse]);
        let mut snapshot = Snapshot {
            time: clock::local(wall),
            current: region.servers().cursor(None).0,
            servers: servers
                .filter_map(|target| {
                    let row = ServerRow::of(region, settings, target)?;
                    Some((row, server_state(region, settings, target, now)))
                })
                .collect(),
            regular,
            clients_max: region.clients().capacity(),
            clients_used: region.clients().used(),
            connections_max: region.slots().capacity(),
            connections_used: region.slots().used(),
            repairs: region.repairs(),
            ..Snapshot::default()
        };
        snapshot.take_workers(region, settings, now);
        snapshot.datagrams = has_datagrams(region, settings).then(|| Datagrams {
            listeners: settings.listen.iter().map(ToString::to_string).collect(),
            traffic: region.workers().traffic(),
        });
        let open = snapshot.take_connections(region);
        snapshot.clients = most_recent(region.clients().iter())
            .into_iter()
            .filter_map(|id| region.clients().view(id))
            .map(|view| ClientRow::of(&view, &open, now))
            .collect();
        snapshot
    }

    fn take_workers(&mut self, region: &Region, settings: &Settings, now: Moment) {
        let workers = (0..region.workers().count()).map(|number| region.workers().view(WorkerId(number)));
        self.workers = workers.map(|view| WorkerRow::of(&view, now)).collect();
        self.with_refusals = settings.http.headers
            || settings.proxy_accept.is_some()
            || self.workers.iter().any(|row| row.refusals != Refusals::default());
    }

    fn take_connections(&mut self, region: &Region) -> OpenBytes {
        let mut open = OpenBytes::default();
        for (number, _, entry) in connections(region) {
            self.connections_last = number.0;
            open.add(&entry);
            if self.connections.len() < LISTED {
                self.connections.push(ConnectionRow::of(number, &entry));
            }
        }
        open
    }
}

/// All slots in use: with the worker that each belongs to.
pub(super) fn connections(region: &Region) -> impl Iterator<Item = (ConnId, WorkerId, ConnectionView)> {
    let slots = region.slots();
    (0..slots.capacity()).map(ConnId).filter_map(move |number| {
        let (worker, entry) = slots.entry(number)?;
        Some((number, worker, entry))
    })
}

/// The bytes that each client's open connections have carried, up and down: the client table learns of them only
/// when a connection ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct OpenBytes(HashMap<ClientId, (u64, u64)>);

impl OpenBytes {
    fn add(&mut self, entry: &ConnectionView) {
        if let Some(client) = entry.client {
            let (up, down) = self.0.entry(client).or_default();
            *up = up.saturating_add(entry.up);
            *down = down.saturating_add(entry.down);
        }
    }

    pub(super) fn now(region: &Region) -> Self {
        let mut open = OpenBytes::default();
        connections(region).for_each(|(_, _, entry)| open.add(&entry));
        open
    }
}

impl ServerRow {
    /// None: there is no such server.
    pub(super) fn of(region: &Region, settings: &Settings, number: Target) -> Option<ServerRow> {
        let definition = region.servers().definition(number)?;
        let totals = region.ledger().totals(number);
        let (address, port) = match &definition.address {
            Some(address) => shown(address),
            None => wanted(spec(settings, number)),
        };
        Some(ServerRow {
            number,
            address,
            status: region.servers().failed_at(number).map_or(0, |time| time.0),
            port,
            connections: totals.live,
            soft: definition.soft,
            hard: definition.hard,
            sent: totals.up,
            received: totals.down,
            datagrams_sent: totals.datagrams_up,
            datagrams_received: totals.datagrams_down,
            weight: definition.weight,
            prio: definition.prio,
            drain: definition.drain,
            proxy: definition.proxy,
        })
    }
}

/// What the settings say of a server.
pub(super) fn spec(settings: &Settings, target: Target) -> Option<&ServerSpec> {
    match target {
        Target::Server(server) => settings.servers.get(server.0 as usize),
        Target::Emergency => settings.emergency.as_ref(),
        Target::Abuse => settings.abuse.as_ref(),
    }
}

fn server_state(region: &Region, settings: &Settings, target: Target, now: Moment) -> String {
    let usable = |definition: &Definition| definition.address.is_some();
    let definition = region.servers().definition(target);
    if !definition.as_ref().is_some_and(usable) {
        return why_unusable(spec(settings, target)).into();
    }
    let drain = definition.map_or(Drain::No, |definition| definition.drain);
    in_use(region.servers().record(target), drain, settings.blacklist, now)
}

/// Why there is no way to connect to a server.
pub(super) fn why_unusable(spec: Option<&ServerSpec>) -> &'static str {
    match spec {
        None | Some(ServerSpec { host: None, .. }) => "not set",
        Some(ServerSpec { port: Port::Number(0), .. }) => "out of use (port 0)",
        Some(_) => "no address yet",
    }
}

/// The state of a server that can be connected to: `available`, or what is known against it.
pub(super) fn in_use(record: Record, drain: Drain, blacklist: Seconds, now: Moment) -> String {
    let left = blacklist::left(record, blacklist, now).div_ceil(1_000_000);
    let failures = match blacklist::standing(record, blacklist, now) {
        Standing::Good => None,
        Standing::Due => Some("a probe is due".to_owned()),
        Standing::Shunned if left == 0 => Some("a probe is under way".to_owned()),
        Standing::Shunned => Some(format!("blacklisted for {left} s more")),
    };
    let drain = match drain {
        Drain::No => None,
        Drain::New => Some("draining".to_owned()),
        Drain::All => Some("draining, all".to_owned()),
    };
    let known: Vec<String> = failures.into_iter().chain(drain).collect();
    if known.is_empty() { "available".to_owned() } else { known.join(", ") }
}

/// What follows the numbers of a server that gets a header of the PROXY protocol.
pub(super) fn with_proxy(version: ProxySend) -> String {
    match version {
        ProxySend::Off => String::new(),
        ProxySend::V1 | ProxySend::V2 | ProxySend::V2Every => format!(" proxy {version}"),
    }
}

/// A Unix socket has no port; the classic shows 1, and 0 would look like a server out of use.
pub(super) fn shown(address: &SocketAddress) -> (Place, u16) {
    match address {
        SocketAddress::Inet(address) => (address.ip().to_string().into(), address.port()),
        SocketAddress::Unix(path) => (path.display().to_string().into(), 1),
    }
}

/// What is known of a server without a usable address.
pub(super) fn wanted(spec: Option<&ServerSpec>) -> (Place, u16) {
    let Some(ServerSpec { host: Some(host), port, .. }) = spec else {
        return ("(none)".to_owned().into(), 0);
    };
    let port = match port {
        Port::Number(number) => *number,
        Port::Service(_) | Port::Listeners => 0,
    };
    match host {
        Host::Ip(ip) => (ip.to_string().into(), port),
        Host::Path(path) => (path.display().to_string().into(), 1),
        Host::Name(name) => (Place { word: name.clone(), unresolved: true }, port),
    }
}

impl ClientRow {
    pub(super) fn of(view: &ClientView, open: &OpenBytes, now: Moment) -> ClientRow {
        let (up, down) = open.0.get(&view.id).copied().unwrap_or_default();
        ClientRow {
            number: view.id,
            address: view.address.to_string(),
            age: now.seconds_since(view.last_used),
            server: view.server.map_or(i64::from(NOBODY), |server| i64::from(server.0)),
            connects: view.connects,
            sent: view.down.saturating_add(down),
            received: view.up.saturating_add(up),
        }
    }
}

impl ConnectionRow {
    pub(super) fn of(number: ConnId, entry: &ConnectionView) -> ConnectionRow {
        ConnectionRow {
            number,
            down_fd: entry.down_fd,
            up_fd: entry.up_fd,
            pending_down: entry.pending_down,
            pending_up: entry.pending_up,
            client: entry.client.map_or(-1, |client| i64::from(client.0)),
            server: entry.server.map_or_else(|| NOBODY.to_string(), |target| target.to_string()),
        }
    }
}

impl WorkerRow {
    fn of(view: &WorkerView, now: Moment) -> WorkerRow {
        WorkerRow {
            number: view.id,
            pid: view.pid,
            state: match (view.pid, view.ready) {
                (0, _) => "ended",
                (_, true) => "ready",
                (_, false) if view.draining => "draining",
                (_, false) => "starting",
            },
            connections: view.connections,
            pending: view.pending,
            accepted: view.accepted,
            restarts: view.restarts,
            heartbeat: now.seconds_since(view.heartbeat),
            settings: view.settings,
            handshakes: view.handshakes,
            refusals: view.refusals,
            traffic: view.traffic,
        }
    }
}

/// The [`LISTED`] clients seen last, in the order of their slots; never holds more than that many.
pub(super) fn most_recent(clients: impl Iterator<Item = ClientView>) -> Vec<ClientId> {
    let mut oldest_first = BinaryHeap::new();
    for view in clients {
        oldest_first.push(Reverse((view.last_used, view.id)));
        if oldest_first.len() > LISTED {
            oldest_first.pop();
        }
    }
    let mut recent: Vec<ClientId> = oldest_first.into_iter().map(|Reverse((_, id))| id).collect();
    recent.sort_unstable();
    recent
}

pub(super) fn left_out(used: u32, listed: usize, what: &str) -> Option<String> {
    let missing = (used as usize).saturating_sub(listed);
    (listed == LISTED && missing > 0).then(|| format!("{missing} more {what} not listed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::ClientAddress;
    use crate::policy::acl::Verdicts;
    use crate::shared::region::Geometry;
    use crate::shared::slots::SlotFinder;
    use crate::shared::visits::{self, Terms};
    use std::net::IpAddr;

    fn server(number: Target, address: &str) -> ServerRow {
        ServerRow {
            number,
            address: address.to_owned().into(),
            status: 1_795_331_283,
            port: 9001,
            connections: 2,
            soft: 5,
            hard: 9,
            sent: 18,
            received: 39,
            datagrams_sent: 8,
            datagrams_received: 6,
            weight: 3,
            prio: -4,
            drain: Drain::No,
            proxy: ProxySend::Off,
        }
    }

    /// One of everything.
    pub(super) fn snapshot() -> Snapshot {
        Snapshot {
            time: "2026-11-22 07:08:36".into(),
            current: 0,
            servers: vec![
                (server(Target::Server(ServerId(0)), "127.0.0.1"), "draining".into()),
                (server(Target::Emergency, "::1"), "blacklisted for 3 s more".into()),
            ],
            regular: 1,
            clients_max: 2048,
            clients_used: 1,
            clients: vec![ClientRow {
                number: ClientId(3),
                address: "127.0.0.7".into(),
                age: 12,
                server: 1,
                connects: 4,
                sent: 78,
                received: 36,
            }],
            connections_max: 500,
            connections_used: 1,
            connections_last: 7,
            connections: vec![ConnectionRow {
                number: ConnId(7),
                down_fd: 11,
                up_fd: 12,
                pending_down: 6,
                pending_up: 5,
                client: 3,
                server: "-3".into(),
            }],
            workers: vec![WorkerRow {
                number: WorkerId(0),
                pid: 4711,
                state: "ready",
                connections: 1,
                pending: 0,
                accepted: 9,
                restarts: 1,
                heartbeat: 0,
                settings: 2,
                handshakes: Handshakes { full: 5, resumed: 3, failed: 1 },
                refusals: Refusals { proxy: 7, bad: 4, slow: 2 },
                traffic: Traffic { flows: 31, evicted: 30, up: 29, down: 28, lost: [21, 22, 23, 24, 25] },
            }],
            with_refusals: true,
            datagrams: Some(Datagrams {
                listeners: ["udp 127.0.0.1:53", "tcp 53"].map(str::to_owned).to_vec(),
                traffic: Traffic { flows: 41, evicted: 40, up: 39, down: 38, lost: [1, 2, 3, 4, 5] },
            }),
            repairs: 0,
        }
    }

    #[test]
    fn who_was_turned_away_is_shown_where_that_can_be_or_has_been() {
        use crate::shared::workers::Refusal;
        let region = Region::create(Geometry { clients: 1, connections: 1 }).unwrap();
        region.workers().set_count(2);
        let shown = |settings: &Settings| {
            let snapshot = Snapshot::take(&region, settings, Moment(0), WallTime(0));
            let (page, text) = (page::html(&snapshot), summary::blocks(&snapshot).concat());
            assert_eq!(page.contains("<td bgcolor=\"#80f080\">PROXY refused</td>"), snapshot.with_refusals);
            assert_eq!(text.contains(" PROXY headers refused, "), snapshot.with_refusals);
            snapshot.with_refusals
        };
        let quiet = Settings::default();
        let mut http = quiet.clone();
        http.http.headers = true;
        let proxy = Settings { proxy_accept: Some(Default::default()), ..quiet.clone() };
        assert_eq!([&quiet, &http, &proxy].map(shown), [false, true, true]);
        region.workers().refused(WorkerId(1), Refusal::Slow);
        assert!(shown(&quiet), "it was on before");
    }

    #[test]
    fn datagrams_are_shown_where_there_can_be_some_or_have_been() {
        let region = Region::create(Geometry { clients: 1, connections: 1 }).unwrap();
        region.workers().set_count(1);
        let shown = |settings: &Settings| {
            let snapshot = Snapshot::take(&region, settings, Moment(0), WallTime(0));
            let (page, text) = (page::html(&snapshot), summary::blocks(&snapshot).concat());
            for report in [page, text] {
                let words = ["Listening: ", "atagrams", "Flows: ", "evicted"];
                assert_eq!(words.map(|word| report.contains(word)), [snapshot.datagrams.is_some(); 4]);
            }
            snapshot.datagrams.map(|datagrams| datagrams.lines())
        };
        let quiet = Settings { listen: crate::model::listen::Listen::tcp("53"), ..Settings::default() };
        assert_eq!(shown(&quiet), None);
        let mut both = quiet.clone();
        let udp = crate::model::listen::Listen { protocol: Protocol::Udp, ..quiet.listen[0].clone() };
        both.listen.push(udp);
        let nothing = "0 no server, 0 no room, 0 too long, 0 unreachable, 0 no PROXY header";
        let lines = [
            "Listening: tcp 53, udp 53".to_owned(),
            "Flows: 0 begun, 0 evicted; datagrams: 0 up, 0 down".to_owned(),
            format!("Datagrams lost: {nothing}"),
        ];
        assert_eq!(shown(&both), Some(lines));
        // It listens no more, and the worker's place is gone.
        region.workers().set_count(2);
        region.workers().lost(WorkerId(1), Lost::Unreachable, 3);
        region.workers().set_count(1);
        let [listeners, _, lost] = shown(&quiet).unwrap();
        assert_eq!(listeners, "Listening: tcp 53");
        assert_eq!(lost, format!("Datagrams lost: {}", nothing.replace("0 unr", "3 unr")));
    }

    #[test]
    fn a_server_and_a_worker_show_their_own_datagrams() {
        let region = Region::create(Geometry { clients: 1, connections: 1 }).unwrap();
        let settings = Settings::default();
        region.workers().set_count(2);
        let servers = [1, 2].map(Definition::local);
        region.servers().publish(&servers, None, None).unwrap();
        let (worker, terms) = (WorkerId(1), Terms::from(&settings));
        let visit =
            visits::begin(&region, worker, &terms, ClientAddress::Unix, Verdicts::ALL, None, Moment(0));
        let reservation = visit.reservation.unwrap();
        visits::count_datagrams(&region, worker, &reservation, 5, 4);
        region.workers().flow_began(worker);
        region.workers().flow_evicted(worker);
        region.workers().sent_on(worker, 5, 4);
        let shown = Snapshot::take(&region, &settings, Moment(0), WallTime(0));
        let datagrams: Vec<_> =
            shown.servers.iter().map(|(row, _)| (row.datagrams_sent, row.datagrams_received)).collect();
        let mut sorted = datagrams.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [(0, 0), (5, 4)], "{datagrams:?}");
        let traffic = Traffic { flows: 1, evicted: 1, up: 5, down: 4, ..Traffic::default() };
        let workers: Vec<_> = shown.workers.iter().map(|row| row.traffic).collect();
        assert_eq!(workers, [Traffic::default(), traffic]);
        assert_eq!(shown.datagrams.unwrap().traffic, traffic);
    }

    fn view(slot: u32, seen: u64) -> ClientView {
        ClientView {
            short_tag: 0,
            id: ClientId(slot),
            address: ClientAddress::Inet(IpAddr::from([127, 0, 0, 7]), 0),
            last_used: Moment(seen),
            server: None,
            connects: 1,
            up: 10,
            down: 20,
        }
    }

    fn spec(host: Host, port: u16) -> ServerSpec {
        ServerSpec { host: Some(host), port: Port::Number(port), ..ServerSpec::unset() }
    }

    #[test]
    fn a_snapshot_shows_what_the_shared_region_holds() {
        let region = Region::create(Geometry { clients: 16, connections: 8 }).unwrap();
        let definition = |address: Option<&str>| Definition {
            proxy: crate::model::proxy::ProxySend::Off,
            address: address.map(|address| SocketAddress::Inet(address.parse().unwrap())),
            soft: 5,
            hard: 9,
            weight: 3,
            prio: -1,
            acl: Default::default(),
            drain: Drain::No,
            tls: 0,
        };
        let settings = Settings {
            servers: vec![
                spec(Host::Ip(IpAddr::from([127, 0, 0, 1])), 9001),
                spec(Host::Name("www2".into()), 80),
            ],
            ..Settings::default()
        };
        let now = Moment(100_000_000);
        let (worker, server) = (WorkerId(0), Target::Server(ServerId(0)));
        region.workers().set_count(2);
        region.workers().register(worker, 4711, now);
        region.workers().set_ready(worker);
        region
            .servers()
            .publish(
                &[definition(Some("127.0.0.1:9001")), Definition { drain: Drain::New, ..definition(None) }],
                Some(&definition(Some("[::1]:9010"))),
                None,
            )
            .unwrap();
        let terms = Terms::from(&settings);
        let visit = visits::begin(&region, worker, &terms, ClientAddress::Unix, Verdicts::ALL, None, now);
        let reservation = visit.reservation.unwrap();
        visits::count(&region, worker, &reservation, 18, 39);
        visits::give_back(&region, worker, reservation);
        region.servers().shun_for(server, Seconds(30), Seconds(30), now);
        let mut finder = SlotFinder::default();
        let connection = region.slots().claim(&mut finder, worker, now).unwrap();
        region.slots().describe(connection, Some(ClientId(3)), Some(server), 2, 11, 12);
        region.slots().progress(connection, 100, 200, 5, 6);

        let shown = Snapshot::take(&region, &settings, now.plus(Seconds(2)), WallTime(0));
        let servers: Vec<String> = shown
            .servers
            .iter()
            .map(|(row, state)| format!("{} {}: {state}", row.number, row.address))
            .collect();
        assert_eq!(
            servers,
            [
                "0 127.0.0.1: blacklisted for 28 s more",
                "1 www2 (unresolved): no address yet",
                "-1 ::1: available"
            ]
        );
        let (first, _) = &shown.servers[0];
        assert_eq!((first.sent, first.received, first.soft, first.prio), (18, 39, 5, -1));
        assert!(first.status > 0);
        assert_eq!((shown.connections_max, shown.connections_used, shown.connections.len()), (8, 1, 1));
        let row = &shown.connections[0];
        assert_eq!((row.number, row.pending_up, row.server.as_str()), (connection, 5, "0"));
        let workers: Vec<&WorkerRow> = shown.workers.iter().collect();
        assert_eq!((workers[0].pid, workers[0].state, workers[0].heartbeat), (4711, "ready", 2));
        assert_eq!(workers[1].state, "ended");
        assert_eq!(OpenBytes::now(&region), OpenBytes(HashMap::from([(ClientId(3), (100, 200))])));
    }

    #[test]
    fn a_clients_bytes_include_its_open_connections() {
        let open = OpenBytes(HashMap::from([(ClientId(3), (100, 200))]));
        let row = ClientRow::of(&view(3, 5_000_000), &open, Moment(17_000_000));
        assert_eq!((row.received, row.sent, row.age, row.server), (110, 220, 12, -3));
    }

    #[test]
    fn servers_without_an_address_show_what_was_asked_for() {
        let mut spec = spec(Host::Name("www1".into()), 80);
        let text = |(place, port): (Place, u16)| format!("{place} {port}");
        assert_eq!(text(wanted(Some(&spec))), "www1 (unresolved) 80");
        assert_eq!(wanted(Some(&spec)).0.word, "www1");
        spec.host = None;
        assert_eq!(text(wanted(Some(&spec))), "(none) 0");
        assert_eq!(text(wanted(None)), "(none) 0");
        assert_eq!(text(shown(&SocketAddress::Unix("/run/x.sock".into()))), "/run/x.sock 1");
        assert_eq!(text(shown(&SocketAddress::Inet("[::1]:80".parse().unwrap()))), "::1 80");
    }

    #[test]
    fn a_servers_state_says_all_that_is_known_against_it() {
        let second = |n: u64| Moment(n * 1_000_000);
        let never = Record::default();
        let failed = Record { failed: Some(second(100)), probing_until: None };
        let probed = Record { probing_until: Some(second(140)), ..failed };
        let state = |record, drain, now| in_use(record, drain, Seconds(30), now);
        assert_eq!(state(never, Drain::No, second(100)), "available");
        assert_eq!(state(never, Drain::New, second(100)), "draining");
        assert_eq!(state(failed, Drain::No, second(100)), "blacklisted for 30 s more");
        assert_eq!(state(failed, Drain::All, Moment(129_999_999)), "blacklisted for 1 s more, draining, all");
        assert_eq!(state(failed, Drain::No, second(130)), "a probe is due");
        assert_eq!(state(probed, Drain::New, second(130)), "a probe is under way, draining");
        let name = ServerSpec { port: Port::Listeners, ..spec(Host::Name("www1".into()), 80) };
        let unused = spec(Host::Ip(IpAddr::from([127, 0, 0, 1])), 0);
        let words = [None, Some(&ServerSpec::unset()), Some(&name), Some(&unused)].map(why_unusable);
        assert_eq!(words, ["not set", "not set", "no address yet", "out of use (port 0)"]);
    }

    #[test]
    fn of_very_many_clients_the_most_recent_are_listed_in_slot_order() {
        let many = LISTED as u32 + 500;
        // The first 500 slots were seen before all others.
        let listed = most_recent((0..many).rev().map(|slot| view(slot, u64::from(slot))));
        assert!(listed.iter().map(|id| id.0).eq(500..many));
        assert_eq!(left_out(many, listed.len(), "clients").unwrap(), "500 more clients not listed");
        assert_eq!(left_out(9, 8, "clients"), None);
    }
}
