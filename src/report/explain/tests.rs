use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::model::address::{Host, Port, ServerSpec, SocketAddress};
use crate::model::ids::{AclId, ServerId, WorkerId};
use crate::model::listen::{Listen, Protocol};
use crate::model::time::Seconds;
use crate::policy::acl::AccessLists;
use crate::shared::clients::ClientView;
use crate::shared::region::Geometry;
use crate::shared::servers::Definition;
use crate::shared::visits::{self, Reservation};

const WORKER: WorkerId = WorkerId(0);
const NOW: Moment = Moment(1_000_000_000);

fn definition(spec: &ServerSpec) -> Definition {
    let address = match (&spec.host, &spec.port) {
        (Some(Host::Ip(ip)), Port::Number(port)) => Some(SocketAddress::Inet((*ip, *port).into())),
        (Some(Host::Path(path)), _) => Some(SocketAddress::Unix(path.clone())),
        _ => None,
    };
    let ServerSpec { soft, hard, weight, prio, acl, drain, proxy, .. } = *spec;
    Definition { address, soft, hard, weight, prio, acl, drain, tls: 0, proxy: proxy.unwrap_or_default() }
}

/// A pen at work.
struct Pen {
    region: Region,
    settings: Settings,
    open: Vec<Reservation>,
}

impl Pen {
    fn of(servers: Vec<ServerSpec>) -> Self {
        let region = Region::create(Geometry { clients: 20, connections: 10 }).unwrap();
        region.workers().set_count(2);
        let settings = Settings { servers, ..Settings::default() };
        let pen = Pen { region, settings, open: Vec::new() };
        pen.publish();
        pen
    }

    fn with(servers: &[&str], change: impl Fn(&mut Settings)) -> Self {
        let mut pen = Pen::of(servers.iter().map(|spec| spec.parse().unwrap()).collect());
        pen.set(change);
        pen
    }

    fn set(&mut self, change: impl Fn(&mut Settings)) {
        change(&mut self.settings);
        self.publish();
    }

    fn publish(&self) {
        let servers: Vec<Definition> = self.settings.servers.iter().map(definition).collect();
        let [emergency, abuse] =
            [&self.settings.emergency, &self.settings.abuse].map(|spec| spec.as_ref().map(definition));
        self.region.servers().publish(&servers, emergency.as_ref(), abuse.as_ref()).unwrap();
    }

    fn verdicts(&self, client: ClientAddress) -> Verdicts {
        AccessLists::compile(&self.settings.acls).verdicts(&client, |_| None)
    }

    /// A visit whose server answers.
    fn come(&mut self, client: u8, now: Moment) {
        let terms = Terms::from(&self.settings);
        let (address, verdicts) = (ip(client), self.verdicts(ip(client)));
        let visit = visits::begin(&self.region, WORKER, &terms, address, verdicts, None, now);
        if let Some(place) = visit.reservation {
            visits::established(&self.region, WORKER, &terms, visit.client, &place, now);
            self.open.push(place);
        }
    }

    fn explain(&self, client: ClientAddress, now: Moment) -> String {
        let verdicts = self.verdicts(client);
        explain(&self.region, &self.settings, verdicts, None, client, now).unwrap()
    }

    /// What is said of one thing.
    fn said(&self, client: u8, now: Moment, what: &str) -> String {
        let text = self.explain(ip(client), now);
        let fact = text.lines().find_map(|line| line.strip_prefix(&format!("{what}: ")));
        fact.unwrap_or_else(|| panic!("nothing about {what} in {text}")).to_owned()
    }
}

fn ip(number: u8) -> ClientAddress {
    ClientAddress::Inet([10, 0, 0, number].into(), 0)
}

fn acl(number: u32) -> AclId {
    AclId::new(number).unwrap()
}

fn v4(permit: bool, address: [u8; 4], mask: [u8; 4]) -> AclEntry {
    AclEntry { permit, network: Network::V4(address.into(), mask.into()) }
}

#[test]
fn a_new_client_hears_all_there_is_to_know() {
    let pen = Pen::with(&["127.0.0.1:80:10:20:2:1", "[::1]:81", "www.example:82"], |settings| {
        settings.emergency = Some("/run/e.sock".parse().unwrap());
        settings.abuse = Some("www.example".parse().unwrap());
    });
    assert_eq!(
        pen.explain(ip(1), NOW),
        "client: 10.0.0.1\n\
         client_acl: list 0 permits: it is empty\n\
         last server: none, the client is not remembered\n\
         first choice: server 1, by round robin\n\
         goes to: server 1, ::1 port 81\n\
         server 0: addr 127.0.0.1 port 80 conn 0 max 10 hard 20 weight 2 prio 1; available; acl 0 permits; takes it\n\
         server 1: addr ::1 port 81 conn 0 max 0 hard 0 weight 0 prio 0; available; acl 0 permits; takes it\n\
         server 2: addr www.example port 82 conn 0 max 0 hard 0 weight 0 prio 0; no address yet; acl 0 permits; \
         does not take it: no address yet\n\
         server -1: addr /run/e.sock port 1 conn 0 max 0 hard 0 weight 0 prio 0; available; no acl; takes it\n\
         server -2: addr www.example port 0; no address yet\n"
    );
}

#[test]
fn a_header_of_the_proxy_protocol_is_part_of_how_a_server_is_reached_and_who_is_let_in() {
    let pen = Pen::with(&["127.0.0.1:80", "127.0.0.1:81"], |settings| {
        settings.servers[1].proxy = Some(ProxySend::V2);
        settings.proxy_accept = Some(acl(3));
        settings.acls[3] = vec![v4(true, [10, 0, 0, 1], [255; 4])];
    });
    let server = |number: u32| pen.said(1, NOW, &format!("server {number}"));
    assert!(server(0).contains(" prio 0; available; "), "{}", server(0));
    assert!(server(1).contains(" prio 0 proxy 2; available; "), "{}", server(1));
    let told = |client| pen.said(client, NOW, "proxy_accept");
    assert_eq!(told(1), "list 3 permits: it must begin with a header that names the client");
    assert_eq!(told(2), "list 3 refuses: it is let in if the header of another names it");
}

#[test]
fn where_names_choose_it_is_the_choice_of_a_client_without_one() {
    let servers = ["127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:82", "127.0.0.1:83"];
    let mut pen = Pen::with(&servers, |settings| {
        settings.tls.passthrough = true;
        settings.servers[1].sni.push("a.test".parse().unwrap());
        settings.servers[2].sni.push("b.test".parse().unwrap());
    });
    let text = pen.explain(ip(1), NOW);
    for line in
        ["name: none asked for: servers with names are for others", "goes to: server 3, 127.0.0.1 port 83"]
    {
        assert!(text.contains(&format!("\n{line}\n")), "{text}");
    }
    assert!(!text.contains("server 1: ") && !text.contains("not listed"), "{text}");
    pen.come(1, NOW);
    pen.come(1, NOW);
    assert_eq!(pen.said(1, NOW, "last server"), "1, seen 0 s ago; not asked for because it has names");
    assert_eq!(pen.said(1, NOW, "first choice"), "server 3, by round robin");
}

#[test]
fn asking_changes_nothing() {
    let mut pen = Pen::with(&["127.0.0.1:80", "127.0.0.1:81"], |settings| settings.tracking = Seconds(10));
    pen.come(1, NOW);
    pen.come(2, NOW);
    let late = NOW.plus(Seconds(11));
    let state = |pen: &Pen| {
        let clients: Vec<ClientView> = pen.region.clients().iter().collect();
        let records = [0, 1].map(|n| pen.region.servers().record(Target::Server(ServerId(n))));
        let loads = [0, 1].map(|n| pen.region.ledger().load(Target::Server(ServerId(n))));
        (clients, records, loads, pen.region.servers().cursor(None), pen.region.clients().evictions())
    };
    let before = state(&pen);
    for (client, now) in [(1, NOW), (1, late), (3, NOW), (3, late), (3, late)] {
        assert!(pen.explain(ip(client), now).starts_with("client: "));
    }
    assert_eq!(state(&pen), before);
}

#[test]
fn a_known_client_hears_of_its_last_server() {
    let mut pen = Pen::with(&["127.0.0.1:80", "127.0.0.1:81"], |settings| settings.tracking = Seconds(60));
    pen.come(1, NOW);
    let later = NOW.plus(Seconds(34));
    assert_eq!(pen.said(1, later, "last server"), "1, seen 34 s ago");
    assert_eq!(pen.said(1, later, "first choice"), "server 1, by last server");
    assert_eq!(pen.said(1, later, "goes to"), "server 1, 127.0.0.1 port 81");
    let forgotten = NOW.plus(Seconds(61));
    assert_eq!(
        pen.said(1, forgotten, "last server"),
        "none, the client is forgotten: seen 61 s ago, and the tracking time is 60 s"
    );
    assert_eq!(pen.said(1, forgotten, "goes to"), "server 0, 127.0.0.1 port 80");
    pen.set(|settings| settings.roundrobin = true);
    assert_eq!(pen.said(1, later, "last server"), "1, seen 34 s ago; not asked for because of roundrobin");
    assert_eq!(pen.said(1, later, "goes to"), "server 0, 127.0.0.1 port 80");
    pen.set(|settings| settings.forgetful = true);
    assert_eq!(pen.said(1, later, "last server"), "1, seen 34 s ago; without meaning because of -N");
    assert_eq!(
        pen.said(1, later, "first choice"),
        "server 0, by hash of address and port, here 0: another port may lead elsewhere"
    );
    pen.set(|settings| settings.servers.truncate(1));
    assert_eq!(pen.said(1, later, "last server"), "none, the client was seen 34 s ago");
}

#[test]
fn the_way_from_a_server_that_is_out_is_told() {
    let mut pen = Pen::with(&["127.0.0.1:80", "127.0.0.1:81", "127.0.0.1:82"], |_| ());
    pen.come(1, NOW);
    pen.region.servers().shun_for(Target::Server(ServerId(1)), Seconds(12), pen.settings.blacklist, NOW);
    let soon = Moment(NOW.0 + 1);
    assert_eq!(
        pen.said(1, soon, "goes to"),
        "server 2, 127.0.0.1 port 82, because the first choice does not take it: blacklisted for 12 s more"
    );
    let line = pen.said(1, soon, "server 1");
    assert!(
        line.ends_with(
            "; blacklisted for 12 s more; acl 0 permits; does not take it: blacklisted for 12 s more"
        ),
        "{line}"
    );
    let due = NOW.plus(Seconds(12));
    assert!(pen.said(1, due, "server 1").ends_with("; a probe is due; acl 0 permits; takes it"));
    pen.set(|settings| settings.stubborn = true);
    assert_eq!(
        pen.said(1, soon, "goes to"),
        "nobody, the connection is closed: stubborn, and the first choice does not take it: \
         blacklisted for 12 s more"
    );
    assert!(pen.said(1, soon, "server 2").ends_with("not asked: stubborn"));
    pen.set(|settings| settings.stubborn = false);
    let terms = Terms::from(&pen.settings);
    let _probe = visits::begin(&pen.region, WORKER, &terms, ip(1), Verdicts::ALL, None, due);
    assert!(pen.said(1, due, "server 1").contains("; a probe is under way; "), "{}", pen.explain(ip(1), due));
}

#[test]
fn reasons_of_every_kind_are_told() {
    let mut pen =
        Pen::with(&["127.0.0.1:80:1:2", "127.0.0.1:81", "127.0.0.1:82", "127.0.0.1:83"], |settings| {
            settings.servers[1].drain = Drain::New;
            settings.servers[2].drain = Drain::All;
            settings.servers[3].acl = acl(3);
            settings.acls[3] = vec![v4(false, [10, 0, 0, 0], [255, 0, 0, 0])];
            settings.servers.push(ServerSpec::unset());
            settings.servers.push(ServerSpec { port: Port::Number(0), ..settings.servers[0].clone() });
        });
    pen.come(1, NOW);
    let end = |client, server| {
        let line = pen.said(client, NOW, &format!("server {server}"));
        line.split("; ").skip(1).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(end(1, 0), "available; acl 0 permits; takes it");
    assert_eq!(end(2, 0), "available; acl 0 permits; does not take it: full, 1 of 1");
    assert_eq!(end(2, 1), "draining; acl 0 permits; does not take it: draining, for new clients");
    assert_eq!(end(2, 2), "draining, all; acl 0 permits; does not take it: draining, all");
    assert_eq!(end(2, 3), "available; acl 3 refuses; does not take it: acl 3 refuses");
    assert_eq!(end(2, 4), "not set; acl 0 permits; does not take it: not set");
    assert_eq!(end(2, 5), "out of use (port 0); acl 0 permits; does not take it: out of use (port 0)");
    assert_eq!(
        pen.said(2, NOW, "goes to"),
        "nobody, the connection is closed: no server takes it, and there is no emergency server"
    );
    pen.set(|settings| settings.emergency = Some("127.0.0.1:99:5".parse().unwrap()));
    assert_eq!(
        pen.said(2, NOW, "goes to"),
        "server -1, 127.0.0.1 port 99, the emergency server, because no other takes it"
    );
    pen.set(|settings| settings.emergency = Some("www.example:99".parse().unwrap()));
    assert!(
        pen.said(2, NOW, "goes to")
            .ends_with("no server takes it, nor does the emergency server: no address yet")
    );
}

#[test]
fn a_first_choice_that_nobody_is_fit_for_is_told() {
    let mut pen = Pen::with(&["127.0.0.1:80:::5", "127.0.0.1:81"], |settings| {
        settings.weight = true;
        settings.servers[0].drain = Drain::New;
    });
    assert_eq!(pen.said(1, NOW, "first choice"), "none, by weight: no server is available");
    assert!(pen.said(1, NOW, "server 1").ends_with("not asked: there is no first choice to go on from"));
    pen.set(|settings| settings.stubborn = true);
    assert!(pen.said(1, NOW, "goes to").ends_with(": stubborn, and there is no first choice"));
    pen.set(|settings| settings.servers.clear());
    assert_eq!(pen.said(1, NOW, "first choice"), "none, there are no servers");
}

#[test]
fn the_entry_that_decides_is_shown() {
    let mut pen = Pen::with(&["127.0.0.1:80"], |settings| {
        settings.client_acl = acl(1);
        settings.acls[1] =
            vec![v4(false, [10, 0, 0, 2], [255; 4]), v4(true, [10, 0, 0, 0], [255, 255, 255, 0])];
    });
    let verdict = |pen: &Pen, client| pen.said(client, NOW, "client_acl");
    assert_eq!(verdict(&pen, 1), "list 1 permits, by entry 2 of 2: acl 1 permit 10.0.0.0 255.255.255.0");
    assert_eq!(verdict(&pen, 2), "list 1 refuses, by entry 1 of 2: acl 1 deny 10.0.0.2 255.255.255.255");
    assert_eq!(pen.said(2, NOW, "first choice"), "none, client_acl refuses the client");
    assert!(pen.said(2, NOW, "server 0").ends_with("not asked: client_acl refuses the client"));
    assert_eq!(
        pen.said(2, NOW, "goes to"),
        "nobody, the connection is closed: client_acl refuses it, and there is no abuse server"
    );
    pen.set(|settings| settings.abuse = Some("127.0.0.1:66:1".parse().unwrap()));
    assert_eq!(
        pen.said(2, NOW, "goes to"),
        "server -2, 127.0.0.1 port 66, the abuse server, because client_acl refuses it"
    );
    assert!(pen.said(1, NOW, "server -2").ends_with("not asked: client_acl permits the client"));
    pen.come(2, NOW);
    assert!(
        pen.said(2, NOW, "goes to")
            .ends_with("client_acl refuses it, nor does the abuse server: full, 1 of 1")
    );
    let outside = pen.explain(ClientAddress::Inet([11, 0, 0, 1].into(), 0), NOW);
    let opposite = "\nclient_acl: list 1 refuses, no entry matches: the opposite of the last, acl 1 permit 10.0.0.0 \
                    255.255.255.0\n";
    assert!(outside.contains(opposite), "{outside}");
    let unix = pen.explain(ClientAddress::Unix, NOW);
    let passes = "client: unix\nclient_acl: list 1 permits: clients of a Unix socket always pass\n";
    assert!(unix.starts_with(passes), "{unix}");
}

#[test]
fn a_country_decides_where_it_is_known() {
    let swedes = AclEntry { permit: true, network: Network::Country("SE".into()) };
    let entries = [v4(false, [10, 0, 0, 2], [255; 4]), swedes];
    assert_eq!(deciding(&entries, ip(1), Some(*b"SE")), Deciding::Entry(1, &entries[1]));
    assert_eq!(deciding(&entries, ip(1), Some(*b"NO")), Deciding::Opposite(&entries[1]));
    assert_eq!(deciding(&entries, ip(1), None), Deciding::Opposite(&entries[1]));
    assert_eq!(entry_text(&entries[1]), "permit country SE");
    let pen = Pen::with(&["127.0.0.1:80"], |settings| settings.dummy = true);
    let text = explain(&pen.region, &pen.settings, Verdicts::ALL, Some(*b"SE"), ip(1), NOW).unwrap();
    assert!(text.starts_with("client: 10.0.0.1\ncountry: SE\ndummy: on: no server is used"), "{text}");
}

#[test]
fn of_thousands_of_servers_those_around_the_choice_are_listed() {
    let specs = (0..4000).map(|n| format!("127.0.0.1:{}", 1000 + n).parse().unwrap());
    let mut pen = Pen::of(specs.collect());
    pen.set(|settings| settings.hash = true);
    let text = pen.explain(ip(1), NOW);
    let first = (10 + (1 << 24)) % 4000;
    assert!(text.contains(&format!("goes to: server {first}, ")), "{text}");
    assert!(text.contains(&format!("\nserver {first}: ")));
    assert_eq!(text.lines().filter(|line| line.starts_with("server ")).count(), 50);
    assert!(text.ends_with("\nnot listed: 3950 more servers\n"), "{text}");
}

#[test]
fn a_client_that_would_have_to_wait_hears_of_that() {
    let pen = Pen::with(&["127.0.0.1:80"], |settings| settings.pending_max = 1);
    pen.region.workers().connecting(WORKER, true);
    assert_eq!(
        pen.said(1, NOW, "waits"),
        "until a connect has ended: 1 are under way, and that is pending_max"
    );
    let mut finder = crate::shared::slots::SlotFinder::default();
    while pen.region.slots().claim(&mut finder, WORKER, NOW).is_some() {}
    assert_eq!(pen.said(1, NOW, "waits"), "until a connection ends: all 10 are in use");
}

#[test]
fn a_datagram_does_not_wait_but_costs_another_flow_its_place() {
    let udp = Listen { protocol: Protocol::Udp, spec: "53".parse().unwrap() };
    let mut pen = Pen::with(&["127.0.0.1:80"], |settings| {
        settings.listen = vec![udp.clone()];
        settings.pending_max = 1;
    });
    pen.region.workers().connecting(WORKER, true);
    assert!(!pen.explain(ip(1), NOW).contains("waits"));
    let mut finder = crate::shared::slots::SlotFinder::default();
    while pen.region.slots().claim(&mut finder, WORKER, NOW).is_some() {}
    assert_eq!(pen.said(1, NOW, "waits"), "for nothing, but another flow ends: all 10 are in use");
    pen.set(|settings| settings.listen.push(Listen { protocol: Protocol::Tcp, ..udp.clone() }));
    assert_eq!(
        pen.said(1, NOW, "waits"),
        "until a connection ends: all 10 are in use; for a datagram another flow ends"
    );
}

#[test]
fn when_the_tables_are_locked_the_answer_is_to_try_again() {
    let pen = Pen::with(&["127.0.0.1:80"], |_| ());
    std::thread::scope(|scope| {
        let (locked, wait) = std::sync::mpsc::channel();
        let (done, end) = std::sync::mpsc::channel::<()>();
        let region = &pen.region;
        scope.spawn(move || {
            let guard = region.lock(WORKER);
            locked.send(()).unwrap();
            let _ = end.recv();
            drop(guard);
        });
        wait.recv().unwrap();
        let busy = explain(region, &pen.settings, Verdicts::ALL, None, ip(1), NOW).unwrap_err();
        assert_eq!(busy.holder, Some(WORKER));
        drop(done);
    });
}

/// Few addresses and masks, so that they meet.
fn any_entry() -> impl Strategy<Value = AclEntry> {
    let v4 = (0u32..8, 28u32..=32).prop_map(|(address, length)| {
        let mask = u32::MAX << (32 - length);
        Network::V4((address & mask).into(), mask.into())
    });
    let v6 = (0u128..8, prop_oneof![Just(0u8), 124u8..=128]).prop_map(|(address, length)| {
        let host = u128::MAX.checked_shr(length.into()).unwrap_or(0);
        Network::V6((address & !host).into(), length)
    });
    (any::<bool>(), prop_oneof![v4, v6]).prop_map(|(permit, network)| AclEntry { permit, network })
}

fn any_spec() -> impl Strategy<Value = ServerSpec> {
    let drain = prop_oneof![5 => Just(Drain::No), 2 => Just(Drain::New), 1 => Just(Drain::All)];
    let limits = (prop_oneof![2 => Just(0u32), 3 => 1u32..4], 0u32..5);
    let numbers = (0u32..3, -1i32..2, prop_oneof![4 => Just(0u32), 1 => Just(1u32)]);
    (prop::bool::weighted(0.9), drain, limits, numbers).prop_map(
        |(resolved, drain, (soft, hard), (weight, prio, list))| {
            let host = Some(if resolved { Host::Ip([127, 0, 0, 1].into()) } else { Host::Name("x".into()) });
            ServerSpec { host, soft, hard, weight, prio, drain, acl: acl(list), ..ServerSpec::unset() }
        },
    )
}

/// What can happen between two questions.
#[derive(Debug, Clone)]
enum Event {
    Come { client: u8, fails: bool },
    Leave(usize),
    Order { server: u32, seconds: u32 },
    Drain { server: usize, drain: Drain },
    Wait { milliseconds: u64 },
}

fn any_event() -> impl Strategy<Value = Event> {
    let drain = prop_oneof![Just(Drain::No), Just(Drain::New), Just(Drain::All)];
    prop_oneof![
        6 => (0u8..6, prop::bool::weighted(0.3)).prop_map(|(client, fails)| Event::Come { client, fails }),
        2 => any::<usize>().prop_map(Event::Leave),
        1 => (0u32..5, 0u32..40).prop_map(|(server, seconds)| Event::Order { server, seconds }),
        1 => (any::<usize>(), drain).prop_map(|(server, drain)| Event::Drain { server, drain }),
        2 => (0u64..20_000).prop_map(|milliseconds| Event::Wait { milliseconds }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_entry_that_is_shown_says_what_the_compiled_list_says(
        entries in prop::collection::vec(any_entry(), 0..8),
        clients in prop::collection::vec(prop_oneof![
            (0u32..12).prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits))),
            (0u128..12).prop_map(|bits| IpAddr::from(Ipv6Addr::from(bits))),
        ], 20),
    ) {
        let mut lists: [Vec<AclEntry>; AclId::COUNT] = Default::default();
        lists[1] = entries.clone();
        let compiled = AccessLists::compile(&lists);
        for client in clients.into_iter().map(|ip| ClientAddress::Inet(ip, 0)).chain([ClientAddress::Unix]) {
            let permits = match deciding(&entries, client, None) {
                Deciding::NoEntries | Deciding::Unix => true,
                Deciding::Entry(_, entry) => entry.permit,
                Deciding::Opposite(last) => !last.permit,
            };
            prop_assert_eq!(permits, compiled.verdicts(&client, |_| None).permits(acl(1)), "{}", client);
        }
    }

    /// From any state, under any rules: the client goes where it was said that it would.
    #[test]
    fn the_answer_is_what_a_visit_then_does(
        specs in prop::collection::vec(any_spec(), 0..5),
        emergency in prop::option::of(any_spec()),
        abuse in prop::option::of(any_spec()),
        flags: [bool; 6],
        tracking in prop_oneof![Just(0u32), 1u32..30],
        events in prop::collection::vec(any_event(), 1..60),
    ) {
        let numbered = |(number, spec): (u16, ServerSpec)| ServerSpec { port: Port::Number(80 + number), ..spec };
        let mut pen = Pen::of((0..).zip(specs).map(numbered).collect());
        pen.set(|settings| {
            [settings.roundrobin, settings.hash, settings.weight, settings.prio, settings.stubborn, settings.forgetful] =
                flags;
            settings.emergency = emergency.clone().map(|spec| numbered((10, spec)));
            settings.abuse = abuse.clone().map(|spec| numbered((11, spec)));
            settings.tracking = Seconds(tracking);
            settings.client_acl = acl(2);
            settings.acls[1] = vec![v4(false, [10, 0, 0, 0], [255, 255, 255, 254])];
            settings.acls[2] = vec![v4(false, [10, 0, 0, 5], [255; 4])];
        });
        let mut now = NOW;
        for event in events {
            match event {
                Event::Come { client, fails } => {
                    let (address, terms) = (ip(client), Terms::from(&pen.settings));
                    let verdicts = pen.verdicts(address);
                    let text = pen.explain(address, now);
                    let foretold = pen.said(client, now, "goes to");
                    let visit = visits::begin(&pen.region, WORKER, &terms, address, verdicts, None, now);
                    let target = visit.reservation.as_ref().map(|place| place.target);
                    match target {
                        Some(target) => {
                            prop_assert!(foretold.starts_with(&format!("server {target}, ")), "{target}: {text}");
                            let line = format!("server {target}");
                            let line = text.lines().find(|it| it.starts_with(&format!("{line}: "))).unwrap();
                            prop_assert!(line.ends_with("; takes it"), "{text}");
                        }
                        None => {
                            prop_assert!(foretold.starts_with("nobody, the connection is closed: "), "{text}");
                            // Nobody who is asked would take it.
                            prop_assert!(!text.contains("; takes it\n"), "{text}");
                        }
                    }
                    let Some(place) = visit.reservation else { continue };
                    if fails {
                        let who = (address, visit.client);
                        let next =
                            visits::fail(&pen.region, WORKER, &terms, who, verdicts, None, place, true, now);
                        pen.open.extend(next.next);
                    } else {
                        visits::established(&pen.region, WORKER, &terms, visit.client, &place, now);
                        pen.open.push(place);
                    }
                }
                Event::Leave(at) => if !pen.open.is_empty() {
                    let at = at % pen.open.len();
                    visits::give_back(&pen.region, WORKER, pen.open.swap_remove(at));
                },
                Event::Order { server, seconds } => {
                    let server = Target::Server(ServerId(server));
                    pen.region.servers().shun_for(server, Seconds(seconds), pen.settings.blacklist, now);
                }
                Event::Drain { server, drain } => pen.set(|settings| {
                    let count = settings.servers.len().max(1);
                    if let Some(spec) = settings.servers.get_mut(server % count) {
                        spec.drain = drain;
                    }
                }),
                Event::Wait { milliseconds } => now = Moment(now.0 + milliseconds * 1000),
            }
        }
    }
}
