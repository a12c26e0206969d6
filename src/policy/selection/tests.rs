use std::cell::Cell;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::model::{self, Server, World};
use super::*;
use crate::model::settings::{AclEntry, Network};
use crate::policy::acl::AccessLists;

fn acl(number: u32) -> AclId {
    AclId::new(number).unwrap()
}

/// `-r`, `-h`, `-W`, `-s`, `-N` and `p` for prio, written together: `rules("hr")`.
fn rules(flags: &str) -> Rules {
    let on = |flag| flags.contains(flag);
    Rules {
        roundrobin: on('r'),
        hash: on('h'),
        weight: on('W'),
        prio: on('p'),
        stubborn: on('s'),
        forgetful: on('N'),
        client_acl: AclId::default(),
    }
}

/// What a client hears that these lists refuse and the others do not.
fn refused_by(lists: &[u32]) -> Verdicts {
    let everybody = || {
        let network = Network::V4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::UNSPECIFIED);
        vec![AclEntry { permit: false, network }]
    };
    let entries = std::array::from_fn(|n| if lists.contains(&(n as u32)) { everybody() } else { vec![] });
    AccessLists::compile(&entries).verdicts(&ClientAddress::Inet([10, 0, 0, 1].into(), 1), |_| None)
}

fn good() -> Server {
    let view = ServerView {
        usable: true,
        standing: Standing::Good,
        drain: Drain::No,
        soft: 0,
        hard: 0,
        weight: 0,
        prio: 0,
        acl: AclId::default(),
    };
    Server { view, load: 0 }
}

fn server(n: u32) -> Target {
    Target::Server(ServerId(n))
}

/// The whole way of a visit whose every attempt fails.
fn itinerary(rules: &Rules, world: &World, visitor: &Visitor, cursor: ServerId) -> (Vec<Target>, ServerId) {
    let mut cursor = cursor;
    let mut stops = Vec::new();
    let mut choice = choose(rules, world, visitor, &mut cursor);
    while let Some(Choice { target, failover }) = choice {
        stops.push(target);
        assert!(stops.len() <= world.servers.len() + 1, "a visit without end: {stops:?}");
        choice = choose_next(rules, world, visitor, &failover);
    }
    (stops, cursor)
}

/// As much of a balancer as stories about choosing need: it remembers clients, counts connections and shuns
/// servers that refuse.
struct Balancer {
    rules: Rules,
    world: World,
    lists: [Vec<AclEntry>; AclId::COUNT],
    refusing: Vec<Target>,
    /// Connections last until the end of the story.
    held: bool,
    clients: HashMap<IpAddr, ServerId>,
    cursor: ServerId,
}

impl Balancer {
    fn new(flags: &str, servers: usize) -> Self {
        Balancer {
            rules: rules(flags),
            world: World { servers: vec![good(); servers], ..World::default() },
            lists: Default::default(),
            refusing: Vec::new(),
            held: false,
            clients: HashMap::new(),
            cursor: ServerId(0),
        }
    }

    fn held(mut self) -> Self {
        self.held = true;
        self
    }

    fn each<T>(mut self, values: impl IntoIterator<Item = T>, set: impl Fn(&mut ServerView, T)) -> Self {
        self.world.servers.iter_mut().zip(values).for_each(|(server, value)| set(&mut server.view, value));
        self
    }

    fn weights(self, weights: impl IntoIterator<Item = u32>) -> Self {
        self.each(weights, |view, weight| view.weight = weight)
    }

    fn prios(self, prios: impl IntoIterator<Item = i32>) -> Self {
        self.each(prios, |view, prio| view.prio = prio)
    }

    fn limits(self, limits: impl IntoIterator<Item = (u32, u32)>) -> Self {
        self.each(limits, |view, (soft, hard)| (view.soft, view.hard) = (soft, hard))
    }

    fn drained(self, drains: impl IntoIterator<Item = Drain>) -> Self {
        self.each(drains, |view, drain| view.drain = drain)
    }

    fn emergency(mut self) -> Self {
        self.world.emergency = Some(good());
        self
    }

    fn abuse(mut self) -> Self {
        self.world.abuse = Some(good());
        self
    }

    fn list(mut self, number: usize, permit: bool, client: u8) -> Self {
        let network = Network::V4(Ipv4Addr::new(127, 0, 0, client), Ipv4Addr::BROADCAST);
        self.lists[number].push(AclEntry { permit, network });
        self
    }

    fn client_acl(mut self, number: u32) -> Self {
        self.rules.client_acl = acl(number);
        self
    }

    fn stands(&mut self, server: usize, standing: Standing) {
        self.world.servers[server].view.standing = standing;
    }

    /// Where a client lands: the server's number, `E`, `B`, or `-` if it is closed.
    fn connect(&mut self, address: ClientAddress) -> String {
        let ClientAddress::Inet(ip, _) = address else { panic!("stories are about IP clients") };
        let visitor = Visitor {
            address,
            remembered: self.clients.get(&ip).copied(),
            verdicts: AccessLists::compile(&self.lists).verdicts(&address, |_| None),
        };
        let mut choice = choose(&self.rules, &self.world, &visitor, &mut self.cursor);
        while let Some(failed) = choice.filter(|choice| self.refusing.contains(&choice.target)) {
            self.at(failed.target).view.standing = Standing::Shunned;
            choice = choose_next(&self.rules, &self.world, &visitor, &failed.failover);
        }
        let Some(Choice { target, .. }) = choice else {
            return "-".to_string();
        };
        self.at(target).load += u32::from(self.held);
        match target {
            Target::Server(server) => {
                self.clients.insert(ip, server);
                server.to_string()
            }
            Target::Emergency => "E".to_string(),
            Target::Abuse => "B".to_string(),
        }
    }

    fn at(&mut self, target: Target) -> &mut Server {
        match target {
            Target::Server(server) => &mut self.world.servers[server.0 as usize],
            Target::Emergency => self.world.emergency.as_mut().unwrap(),
            Target::Abuse => self.world.abuse.as_mut().unwrap(),
        }
    }

    /// Where the clients 127.0.0.N land, one after the other.
    fn clients(&mut self, last_bytes: impl IntoIterator<Item = u8>) -> String {
        let client = |n| ClientAddress::Inet([127, 0, 0, n].into(), 40_000);
        let landed: Vec<String> = last_bytes.into_iter().map(|n| self.connect(client(n))).collect();
        landed.join(" ")
    }
}

#[test]
fn round_robin_starts_at_server_1() {
    assert_eq!(Balancer::new("r", 3).clients([1; 7]), "1 2 0 1 2 0 1");
}

#[test]
fn a_client_stays_on_its_first_server() {
    assert_eq!(Balancer::new("", 3).clients([1; 4]), "1 1 1 1");
}

#[test]
fn new_clients_take_the_next_server_and_known_ones_do_not_move_it() {
    let mut pen = Balancer::new("", 3);
    assert_eq!(pen.clients([1; 4]), "1 1 1 1");
    assert_eq!(pen.clients(2..=8), "2 0 1 2 0 1 2");
    assert_eq!(pen.clients(2..=8), "2 0 1 2 0 1 2");
}

#[test]
fn a_hashed_client_goes_where_its_address_says() {
    assert_eq!(Balancer::new("h", 3).clients(1..=7), "2 0 1 2 0 1 2");
    assert_eq!(client_number(ClientAddress::Inet([192, 0, 2, 1].into(), 80), false), 0x0102_00c0);
}

#[test]
fn a_known_client_stays_under_hash_too() {
    let mut pen = Balancer::new("h", 3);
    pen.stands(2, Standing::Shunned);
    assert_eq!(pen.clients([1]), "0");
    pen.stands(2, Standing::Good);
    assert_eq!(pen.clients([1, 4]), "0 2");
}

#[test]
fn with_hash_and_round_robin_the_port_counts() {
    let mut pen = Balancer::new("hr", 5);
    for port in [1, 255, 256, 40_000, 65_535] {
        let swapped = u64::from(port % 256) * 256 + u64::from(port / 256);
        let expected = ((127 + 16_777_216) ^ swapped) % 5;
        let client = ClientAddress::Inet([127, 0, 0, 1].into(), port);
        assert_eq!(pen.connect(client), expected.to_string());
    }
}

#[test]
fn the_hash_of_an_ipv6_client_takes_the_whole_address_and_is_fnv_1a() {
    assert_eq!(fnv_1a(b"".iter()), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv_1a(b"a".iter()), 0xaf63_dc4c_8601_ec8c);
    assert_eq!(fnv_1a(b"foobar".iter()), 0x8594_4171_f739_67e8);
    let base = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
    let number = |bits: u128, port, with_port| {
        client_number(ClientAddress::Inet(Ipv6Addr::from(bits).into(), port), with_port)
    };
    let flipped: BTreeSet<u64> = (0..128).map(|bit| number(base ^ 1 << bit, 1, false)).collect();
    assert_eq!(flipped.len(), 128);
    assert_eq!(number(base, 1, false), number(base, 2, false));
    assert_ne!(number(base, 1, true), number(base, 2, true));
    assert_ne!(number(base, 1, true), number(base, 256, true));
}

#[test]
fn neighbouring_ipv6_clients_spread_evenly() {
    for (step, count) in [1, 1 << 16, 1 << 64].into_iter().flat_map(|step| (2..=16).map(move |n| (step, n))) {
        let mut landed = vec![0u32; count];
        for n in 0..4096 * count as u128 {
            let address = Ipv6Addr::from((0x2001_0db8 << 96) + n * step);
            let number = client_number(ClientAddress::Inet(address.into(), 1), false);
            landed[(number % count as u64) as usize] += 1;
        }
        let even = 4096 * 85 / 100..4096 * 115 / 100;
        assert!(landed.iter().all(|n| even.contains(n)), "step {step}, {count} servers: {landed:?}");
    }
}

#[test]
fn clients_of_a_unix_socket_hash_to_server_0() {
    let visitor = Visitor { address: ClientAddress::Unix, remembered: None, verdicts: Verdicts::ALL };
    let world = World { servers: vec![good(); 3], ..World::default() };
    for flags in ["h", "hr", "N"] {
        assert_eq!(itinerary(&rules(flags), &world, &visitor, ServerId(1)).0[0], server(0));
    }
}

#[test]
fn forgetful_is_hash_without_the_clients_last_server() {
    let mut pen = Balancer::new("N", 3).limits([(1, 9); 3]).held();
    pen.clients.insert([127, 0, 0, 1].into(), ServerId(0));
    assert_eq!(pen.clients([1]), "2");
    pen.clients.insert([127, 0, 0, 1].into(), ServerId(2));
    assert_eq!(pen.clients([1]), "0", "the hard limit is for known clients, and -N knows nobody");
}

#[test]
fn connections_follow_the_weights() {
    let mut pen = Balancer::new("W", 3).weights([1, 2, 3]).held();
    assert_eq!(pen.clients(1..=12), "0 1 2 2 1 2 0 1 2 2 1 2");
    let mut pen = Balancer::new("Wr", 3).weights([1, 2, 3]).held();
    assert_eq!(pen.clients([1; 12]), "0 1 2 2 1 2 0 1 2 2 1 2");
    let mut pen = Balancer::new("W", 3).weights([1, 1, 1]).held();
    assert_eq!(pen.clients(1..=12), "0 1 2 0 1 2 0 1 2 0 1 2");
}

#[test]
fn weight_0_takes_no_part() {
    let mut pen = Balancer::new("W", 3).weights([0, 2, 3]).held();
    assert_eq!(pen.clients(1..=8), "1 2 2 1 2 1 2 2");
}

#[test]
fn a_known_client_stays_under_weight_and_prio() {
    let mut pen = Balancer::new("W", 3).weights([1, 2, 3]).held();
    assert_eq!(pen.clients([1; 4]), "0 0 0 0");
    let mut pen = Balancer::new("p", 3).prios([2, 1, 3]);
    pen.clients.insert([127, 0, 0, 1].into(), ServerId(2));
    assert_eq!(pen.clients([1, 2]), "2 1");
}

#[test]
fn weights_that_are_all_0_count_the_same() {
    let mut pen = Balancer::new("W", 3).held();
    assert_eq!(pen.clients(1..=6), "0 1 2 0 1 2");
}

#[test]
fn weight_0_stays_out_even_when_those_with_weight_are_down() {
    let mut pen = Balancer::new("W", 2).weights([0, 5]).emergency();
    pen.stands(1, Standing::Shunned);
    assert_eq!(pen.clients([1]), "E");
}

#[test]
fn the_lowest_prio_serves_and_the_next_one_when_it_is_down() {
    let mut pen = Balancer::new("p", 3).prios([2, 1, 3]);
    assert_eq!(pen.clients(1..=4), "1 1 1 1");
    pen.stands(1, Standing::Shunned);
    assert_eq!(pen.clients(5..=6), "0 0");
}

#[test]
fn from_a_full_prio_server_the_way_goes_by_index_not_by_prio() {
    let mut pen = Balancer::new("rp", 3).prios([2, 1, 3]).limits([(2, 0); 3]).held();
    assert_eq!(pen.clients([1; 8]), "1 1 2 2 0 0 - -");
}

#[test]
fn prio_goes_before_weight_and_weight_before_hash() {
    let mut pen = Balancer::new("hp", 3).prios([2, 1, 3]);
    assert_eq!(pen.clients(1..=3), "1 1 1");
    let mut pen = Balancer::new("hW", 3).weights([1, 2, 3]).held();
    assert_eq!(pen.clients(1..=6), "0 1 2 2 1 2");
    let mut pen = Balancer::new("pW", 3).prios([2, 1, 3]).weights([1, 2, 3]).held();
    assert_eq!(pen.clients(1..=6), "1 1 1 1 1 1");
}

#[test]
fn round_robin_skips_a_shunned_server_until_it_is_forgiven() {
    let mut pen = Balancer::new("r", 3);
    pen.stands(1, Standing::Shunned);
    assert_eq!(pen.clients([1; 4]), "2 0 2 0");
    pen.stands(1, Standing::Due);
    assert_eq!(pen.clients([1; 3]), "1 2 0");
}

#[test]
fn a_shunned_server_is_never_picked_for_a_new_client() {
    for flags in ["", "r", "h", "W", "p", "s", "hs", "N"] {
        let mut pen = Balancer::new(flags, 3);
        pen.stands(1, Standing::Shunned);
        assert!(!pen.clients(1..=9).contains('1'), "{flags}");
    }
}

#[test]
fn when_all_are_shunned_there_is_only_the_emergency_server() {
    for (flags, emergency, expected) in [("r", false, "-"), ("r", true, "E"), ("rs", true, "-")] {
        let pen = Balancer::new(flags, 2);
        let mut pen = if emergency { pen.emergency() } else { pen };
        pen.stands(0, Standing::Shunned);
        pen.stands(1, Standing::Shunned);
        assert_eq!(pen.clients([1]), expected);
        pen.stands(1, Standing::Due);
        assert_eq!(pen.clients([1]), "1", "a client of the emergency server is new the next time");
    }
}

#[test]
fn a_client_whose_server_is_shunned_moves_to_the_next_and_stays() {
    let mut pen = Balancer::new("", 3);
    assert_eq!(pen.clients([1]), "1");
    pen.stands(1, Standing::Shunned);
    assert_eq!(pen.clients([1]), "2");
    pen.stands(1, Standing::Good);
    assert_eq!(pen.clients([1, 2]), "2 2", "and fail-over has not moved round robin");
}

#[test]
fn a_stubborn_client_is_closed_until_its_server_is_back() {
    let mut pen = Balancer::new("s", 3).emergency();
    assert_eq!(pen.clients([1]), "1");
    pen.stands(1, Standing::Shunned);
    assert_eq!(pen.clients([1, 2]), "- 2");
    pen.stands(1, Standing::Good);
    assert_eq!(pen.clients([1]), "1");
}

#[test]
fn a_stubborn_hash_serves_all_but_the_clients_of_the_server_that_is_down() {
    let mut pen = Balancer::new("hs", 3);
    pen.stands(0, Standing::Shunned);
    assert_eq!(pen.clients(1..=7), "2 - 1 2 - 1 2");
}

#[test]
fn a_server_that_refuses_is_tried_once_and_then_left_alone() {
    let mut pen = Balancer::new("r", 3);
    pen.refusing = vec![server(1)];
    assert_eq!(pen.clients([1; 5]), "2 2 0 2 0");
}

#[test]
fn with_every_server_dead_the_visit_ends_even_if_none_is_ever_shunned() {
    let world = World { servers: vec![good(); 2], ..World::default() };
    let address = ClientAddress::Inet([127, 0, 0, 1].into(), 1);
    let visitor = Visitor { address, remembered: None, verdicts: Verdicts::ALL };
    let (stops, cursor) = itinerary(&rules("r"), &world, &visitor, ServerId(0));
    assert_eq!((stops, cursor), (vec![server(1), server(0)], ServerId(1)));
}

#[test]
fn with_the_only_server_dead_the_emergency_server_serves() {
    let mut pen = Balancer::new("", 1).emergency();
    pen.refusing = vec![server(0)];
    assert_eq!(pen.clients([1; 3]), "E E E");
    pen.refusing.push(Target::Emergency);
    assert_eq!(pen.clients([1; 2]), "- -");
}

#[test]
fn the_client_acl_closes_those_it_refuses() {
    let mut pen = Balancer::new("", 3).list(1, true, 2).client_acl(1);
    assert_eq!(pen.clients([2, 3]), "1 -");
    let mut pen = Balancer::new("", 3).list(1, false, 2).client_acl(1);
    assert_eq!(pen.clients([2, 3]), "- 1");
}

#[test]
fn refused_clients_go_to_the_abuse_server_whatever_the_list_and_never_to_the_emergency_server() {
    let mut pen = Balancer::new("", 3).list(1, false, 2).client_acl(1).abuse().emergency();
    assert_eq!(pen.clients([2, 3]), "B 1");
    pen.refusing = vec![Target::Abuse];
    assert_eq!(pen.clients([2]), "-");
    let mut pen = Balancer::new("", 3).list(0, false, 2).abuse();
    assert_eq!(pen.clients([2]), "B");
    let mut pen = Balancer::new("", 3).list(1, false, 2).client_acl(1).emergency();
    assert_eq!(pen.clients([2]), "-");
}

#[test]
fn a_servers_own_list_sends_the_client_on_without_moving_round_robin() {
    let mut pen = Balancer::new("r", 3).list(1, true, 7);
    pen.world.servers[1].view.acl = acl(1);
    assert_eq!(pen.clients([8; 6]), "2 2 0 2 2 0");
    pen.cursor = ServerId(0);
    assert_eq!(pen.clients([7; 3]), "1 2 0");
}

#[test]
fn a_full_server_takes_nobody_and_counts_connections_that_are_being_made() {
    let mut pen = Balancer::new("", 1).limits([(1, 0)]).held();
    assert_eq!(pen.clients([2, 3, 4]), "0 - -");
    let mut pen = Balancer::new("", 1).limits([(2, 0)]).held();
    assert_eq!(pen.clients(1..=10), "0 0 - - - - - - - -");
}

#[test]
fn the_hard_limit_is_for_the_servers_own_clients() {
    let mut pen = Balancer::new("", 2).limits([(1, 3), (1, 3)]).held();
    assert_eq!(pen.clients([1; 3]), "1 1 1");
    pen.clients.insert([127, 0, 0, 2].into(), ServerId(0));
    assert_eq!(pen.clients([2; 5]), "0 0 0 - -");
}

#[test]
fn the_hard_limit_follows_the_client_as_it_moves() {
    let mut pen = Balancer::new("", 2).limits([(1, 3), (1, 3)]).held();
    assert_eq!(pen.clients([1; 8]), "1 1 1 0 0 0 - -");
}

#[test]
fn the_hard_limit_holds_under_round_robin_too() {
    let mut pen = Balancer::new("r", 2).limits([(1, 2), (1, 2)]).held();
    assert_eq!(pen.clients([1; 5]), "1 0 0 - -");
}

#[test]
fn an_empty_slot_takes_no_share_and_fails_attempts() {
    let mut pen = Balancer::new("r", 3);
    pen.world.servers[0].view.usable = false;
    assert_eq!(pen.clients([1; 4]), "1 2 1 2");
    let mut pen = Balancer::new("h", 3);
    pen.world.servers[2].view.usable = false;
    assert_eq!(pen.clients([1, 2, 3]), "0 0 1");
}

use Drain::{All, New, No};

#[test]
fn a_drained_server_keeps_its_clients_and_gets_no_others() {
    let mut pen = Balancer::new("", 3);
    assert_eq!(pen.clients(1..=3), "1 2 0");
    pen = pen.drained([No, New, No]);
    assert_eq!(pen.clients(1..=3), "1 2 0", "they stay");
    assert_eq!(pen.clients(4..=7), "2 0 2 0", "others pass it by");
    pen = pen.drained([No, All, No]);
    assert_eq!(pen.clients(1..=3), "2 2 0", "nobody stays");
    pen = pen.drained([No, No, No]);
    assert_eq!(pen.clients([1, 8, 9]), "2 1 2", "in use again");
}

#[test]
fn where_clients_do_not_stay_a_drained_server_gets_nobody() {
    for (flags, expected) in [("r", "2 0 2"), ("N", "2 2 2"), ("rp", "0 0 0"), ("rW", "0 0 0")] {
        let mut pen = Balancer::new(flags, 3).drained([No, New, No]);
        // Its hash is that of server 1, too.
        pen.clients.insert([127, 0, 0, 3].into(), ServerId(1));
        assert_eq!(pen.clients([3; 3]), expected, "{flags}");
    }
}

#[test]
fn a_hash_that_lands_on_a_drained_server_goes_on_from_there() {
    let mut pen = Balancer::new("h", 3).drained([No, New, No]);
    assert_eq!(pen.clients(1..=7), "2 0 2 2 0 2 2");
    let mut pen = Balancer::new("hs", 3).drained([No, New, No]);
    assert_eq!(pen.clients(1..=7), "2 0 - 2 0 - 2");
}

#[test]
fn prio_and_weight_do_without_a_drained_server() {
    let mut pen = Balancer::new("p", 3).prios([2, 1, 3]).drained([No, New, No]);
    assert_eq!(pen.clients(1..=2), "0 0");
    let mut pen = Balancer::new("W", 3).weights([1, 2, 3]).drained([No, New, No]).held();
    assert_eq!(pen.clients(1..=4), "0 2 2 2");
    let mut pen = Balancer::new("W", 3).drained([No, New, No]).held();
    assert_eq!(pen.clients(1..=4), "0 2 0 2", "all weights are 0: those that are left share");
}

#[test]
fn draining_the_servers_with_weight_does_not_fill_the_one_without() {
    let mut pen = Balancer::new("W", 2).weights([0, 5]).emergency();
    assert_eq!(pen.clients([1]), "1");
    assert_eq!(pen.drained([No, New]).clients([2, 1]), "E 1");
}

#[test]
fn fail_over_goes_to_a_drained_server_only_if_it_is_the_clients_own() {
    let mut pen = Balancer::new("", 3).drained([No, New, No]);
    pen.clients.insert([127, 0, 0, 1].into(), ServerId(0));
    pen.refusing = vec![server(0)];
    assert_eq!(pen.clients([1]), "2");
    let mut pen = Balancer::new("p", 3).drained([No, No, New]);
    pen.clients.insert([127, 0, 0, 1].into(), ServerId(2));
    pen.refusing = vec![server(2)];
    assert_eq!(pen.clients([1]), "0", "the way goes on from its own");
}

#[test]
fn a_drained_servers_own_clients_have_its_limits() {
    let mut pen = Balancer::new("", 2).limits([(1, 2); 2]).drained([No, New]).held();
    pen.clients.insert([127, 0, 0, 1].into(), ServerId(1));
    assert_eq!(pen.clients([1; 4]), "1 1 0 0", "hard, there; then it is at home at the other");
}

#[test]
fn when_all_are_drained_new_clients_go_to_the_emergency_server_which_never_is() {
    let mut pen = Balancer::new("", 2).drained([New, All]).emergency().abuse();
    pen.at(Target::Emergency).view.drain = All;
    pen.at(Target::Abuse).view.drain = New;
    pen.clients.insert([127, 0, 0, 1].into(), ServerId(0));
    assert_eq!(pen.clients([1, 2]), "0 E");
    assert_eq!(pen.list(0, false, 3).clients([3]), "B");
}

#[test]
fn a_refusal_names_the_first_reason() {
    let mut world = World { servers: vec![good()], ..World::default() };
    let address = ClientAddress::Inet([127, 0, 0, 1].into(), 1);
    let visitor = Visitor { address, remembered: Some(ServerId(0)), verdicts: refused_by(&[1]) };
    let why = |world: &World, flags| refusal(&rules(flags), world, &visitor, server(0));
    assert_eq!(why(&World::default(), ""), Some(Refusal::Missing));
    world.servers[0].view = ServerView {
        usable: false,
        standing: Standing::Shunned,
        drain: New,
        soft: 1,
        acl: acl(1),
        ..good().view
    };
    world.servers[0].load = 3;
    assert_eq!(why(&world, "r"), Some(Refusal::NoAddress));
    world.servers[0].view.usable = true;
    assert_eq!(why(&world, "r"), Some(Refusal::Shunned));
    world.servers[0].view.standing = Standing::Due;
    assert_eq!(why(&world, "r"), Some(Refusal::Draining(New)));
    assert_eq!(why(&world, ""), Some(Refusal::List(acl(1))), "its own client");
    world.servers[0].view.acl = acl(0);
    world.servers[0].view.hard = 2;
    assert_eq!(why(&world, ""), Some(Refusal::Full { load: 3, most: 2 }));
    world.servers[0].view.drain = No;
    assert_eq!(why(&world, "N"), Some(Refusal::Full { load: 3, most: 1 }), "a stranger");
    world.servers[0].load = 1;
    assert_eq!(why(&world, ""), None);
}

#[test]
fn a_decision_names_its_rule() {
    let world = World { servers: vec![good(); 3], ..World::default() };
    let address = ClientAddress::Inet([127, 0, 0, 1].into(), 1);
    let ask = |flags, remembered, refusing: &[u32]| {
        let visitor = Visitor { address, remembered, verdicts: refused_by(refusing) };
        let decision = decide(&rules(flags), &world, &visitor, &mut ServerId(0));
        (decision.rule, decision.first.map(|first| first.0))
    };
    assert_eq!(ask("hWp", Some(ServerId(2)), &[0]), (Rule::Denied, None));
    assert_eq!(ask("hWp", Some(ServerId(2)), &[]), (Rule::LastServer, Some(2)));
    assert_eq!(ask("hWp", Some(ServerId(3)), &[]), (Rule::Prio, Some(0)), "it is not there any more");
    assert_eq!(ask("hWr", Some(ServerId(2)), &[]), (Rule::Weight, Some(0)));
    assert_eq!(ask("h", None, &[]), (Rule::Hash, Some(2)));
    assert_eq!(ask("N", Some(ServerId(0)), &[]), (Rule::Hash, Some(2)));
    assert_eq!(ask("", None, &[]), (Rule::RoundRobin, Some(1)));
}

#[test]
fn a_limit_on_the_emergency_server_holds() {
    let mut pen = Balancer::new("", 0).emergency().held();
    pen.at(Target::Emergency).view.soft = 2;
    pen.at(Target::Emergency).view.hard = 9;
    pen.at(Target::Emergency).view.acl = acl(1);
    assert_eq!(pen.list(1, false, 1).clients([1; 3]), "E E -");
}

#[test]
fn a_last_server_that_is_no_longer_there_makes_the_client_new() {
    let mut pen = Balancer::new("", 3);
    pen.clients.insert([127, 0, 0, 1].into(), ServerId(3));
    pen.cursor = ServerId(70);
    assert_eq!(pen.clients([1]), "0");
}

#[test]
fn a_client_of_some_servers_fails_over_among_them_and_then_to_the_emergency_server() {
    let mut pen = Balancer::new("", 5).emergency();
    pen.world.among = Some(ServerSet::new([1, 3], 0));
    assert_eq!(pen.clients(1..=4), "1 3 1 3");
    pen.refusing = vec![server(3)];
    assert_eq!(pen.clients([2]), "1", "to the first after the last");
    pen.refusing.push(server(1));
    assert_eq!(pen.clients([1, 2]), "E E", "though the others would take them");
    pen.clients.insert([127, 0, 0, 9].into(), ServerId(0));
    pen.world.servers[1].view.standing = Standing::Good;
    pen.refusing.clear();
    assert_eq!(pen.clients([9]), "1", "its last server is for others");
}

#[test]
fn rules_are_those_of_the_settings() {
    let mut settings = Settings { client_acl: acl(4), ..Settings::default() };
    assert_eq!(Rules::from(&settings), Rules { client_acl: acl(4), ..rules("") });
    (settings.roundrobin, settings.weight, settings.stubborn) = (true, true, true);
    assert_eq!(Rules::from(&settings), Rules { client_acl: acl(4), ..rules("rWs") });
    (settings.hash, settings.prio, settings.forgetful) = (true, true, true);
    assert_eq!(Rules::from(&settings), Rules { client_acl: acl(4), ..rules("rWshpN") });
}

/// Counts how often a server is looked at.
struct Watched {
    world: World,
    looks: Cell<u32>,
}

impl ServerTable for Watched {
    fn servers(&self) -> u32 {
        self.world.servers()
    }

    fn view(&self, target: Target) -> Option<ServerView> {
        self.looks.set(self.looks.get() + 1);
        self.world.view(target)
    }

    fn among(&self) -> Option<&ServerSet> {
        self.world.among()
    }

    fn load(&self, target: Target) -> u32 {
        let view = self.world.view(target).unwrap();
        assert_ne!(view.soft, 0, "the load of a server without a limit matters to nobody");
        self.world.load(target)
    }
}

#[test]
fn among_thousands_of_servers_a_choice_looks_at_two_at_most() {
    let world = World { servers: vec![good(); 4096], ..World::default() };
    let table = Watched { world, looks: Cell::new(0) };
    let address = ClientAddress::Inet([127, 0, 0, 1].into(), 1);
    for (flags, remembered) in [("r", None), ("h", None), ("N", None), ("", Some(ServerId(4000)))] {
        let visitor = Visitor { address, remembered, verdicts: Verdicts::ALL };
        table.looks.set(0);
        assert!(choose(&rules(flags), &table, &visitor, &mut ServerId(4095)).is_some());
        assert!(table.looks.get() <= 2, "{flags}: {}", table.looks.get());
    }
}

/// Every combination of flags, with and without each special server, for every kind of client.
#[test]
fn every_combination_of_flags_does_what_the_plain_model_does() {
    let servers = |views: [(Standing, u32, u32, u32, i32, u32); 4]| -> Vec<Server> {
        let one = |(standing, soft, load, weight, prio, list)| {
            let view = ServerView { standing, soft, hard: 2, weight, prio, acl: acl(list), ..good().view };
            Server { view, load }
        };
        views.map(one).to_vec()
    };
    use Standing::{Due, Good, Shunned};
    let drained = |drains: [Drain; 4]| -> Vec<Server> {
        let one = |drain| Server { view: ServerView { drain, ..good().view }, load: 1 };
        drains.map(one).to_vec()
    };
    let mut with_empty_slots =
        servers([(Good, 0, 1, 2, 1, 0), (Good, 0, 0, 9, 0, 0), (Good, 0, 5, 1, 0, 0), (Due, 0, 3, 2, 7, 0)]);
    with_empty_slots[1].view.usable = false;
    let situations = [
        vec![good(); 4],
        servers([(Good, 0, 1, 2, 3, 0), (Good, 0, 0, 0, 1, 0), (Good, 0, 2, 1, 1, 0), (Good, 0, 5, 9, 7, 0)]),
        servers([
            (Good, 0, 0, 0, 2, 0),
            (Shunned, 0, 0, 5, 1, 0),
            (Due, 1, 1, 3, 1, 0),
            (Good, 0, 1, 1, 1, 0),
        ]),
        servers([(Good, 1, 1, 1, 1, 0), (Good, 1, 1, 1, 0, 0), (Good, 1, 3, 1, 2, 0), (Good, 1, 1, 9, 4, 0)]),
        servers([(Good, 0, 0, 1, 2, 2), (Good, 0, 0, 1, 1, 2), (Good, 0, 4, 1, 3, 0), (Good, 0, 1, 1, 4, 2)]),
        servers([(Shunned, 0, 0, 1, 1, 0); 4]),
        drained([New, No, New, All]),
        drained([New, All, New, New]),
        with_empty_slots,
        vec![good()],
        vec![],
    ];
    let yes_or_no = [false, true];
    let addresses = [[127, 0, 0, 1], [127, 0, 0, 2], [192, 0, 2, 7]].map(IpAddr::from);
    let mut compared = 0;
    for flags in 0..1 << 6 {
        let on = |bit| flags & 1 << bit != 0;
        let rules = Rules {
            roundrobin: on(0),
            hash: on(1),
            weight: on(2),
            prio: on(3),
            stubborn: on(4),
            forgetful: on(5),
            client_acl: acl(1),
        };
        for (emergency, abuse, denied) in yes_or_no
            .into_iter()
            .flat_map(|e| yes_or_no.into_iter().flat_map(move |a| yes_or_no.map(|d| (e, a, d))))
        {
            let verdicts = refused_by(if denied { &[1, 2] } else { &[2] });
            for (remembered, ip) in
                [None, Some(ServerId(2))].into_iter().flat_map(|r| addresses.map(|ip| (r, ip)))
            {
                let visitor = Visitor { address: ClientAddress::Inet(ip, 51_234), remembered, verdicts };
                for situation in &situations {
                    let world = World {
                        servers: situation.clone(),
                        emergency: emergency.then(good),
                        abuse: abuse.then(good),
                        among: None,
                    };
                    for among in [None, Some(ServerSet::new([1, 2], 0)), Some(ServerSet::new([0, 3, 9], 0))] {
                        let world = World { among, ..world.clone() };
                        assert_eq!(
                            itinerary(&rules, &world, &visitor, ServerId(0)),
                            model::itinerary(&rules, &world, &visitor, ServerId(0)),
                            "{rules:?} {visitor:?} {world:?}"
                        );
                        compared += 1;
                    }
                }
            }
        }
    }
    assert_eq!(compared, 64 * 8 * 6 * 11 * 3);
}

prop_compose! {
    fn any_server()(
        usable in prop::bool::weighted(0.9),
        standing in prop_oneof![
            6 => Just(Standing::Good), 1 => Just(Standing::Due), 2 => Just(Standing::Shunned),
        ],
        (soft, hard, load) in (0u32..4, 0u32..5, prop_oneof![9 => 0u32..6, 1 => any::<u32>()]),
        drain in prop_oneof![6 => Just(No), 2 => Just(New), 1 => Just(All)],
        weight in prop_oneof![1 => Just(0), 3 => 0u32..4, 1 => any::<u32>()],
        prio in -2..3,
        list in 0u32..3,
    ) -> Server {
        let view = ServerView { usable, standing, drain, soft, hard, weight, prio, acl: acl(list) };
        Server { view, load }
    }
}

prop_compose! {
    fn any_world()(
        servers in prop::collection::vec(any_server(), 0..8),
        emergency in prop::option::of(any_server()),
        abuse in prop::option::of(any_server()),
    ) -> World {
        World { servers, emergency, abuse, among: None }
    }
}

prop_compose! {
    fn any_rules()(flags: [bool; 6], list in 0u32..3) -> Rules {
        let [roundrobin, hash, weight, prio, stubborn, forgetful] = flags;
        Rules { roundrobin, hash, weight, prio, stubborn, forgetful, client_acl: acl(list) }
    }
}

prop_compose! {
    fn any_visitor()(
        address in prop_oneof![
            4 => (any::<Ipv4Addr>(), any::<u16>()).prop_map(|(ip, port)| ClientAddress::Inet(ip.into(), port)),
            2 => (any::<Ipv6Addr>(), any::<u16>()).prop_map(|(ip, port)| ClientAddress::Inet(ip.into(), port)),
            1 => Just(ClientAddress::Unix),
        ],
        remembered in prop::option::of((0u32..10).prop_map(ServerId)),
        refusing in prop::collection::vec(0u32..3, 0..2),
    ) -> Visitor {
        Visitor { address, remembered, verdicts: refused_by(&refusing) }
    }
}

/// Those that a visit is for, some of which may be gone.
fn any_set() -> impl Strategy<Value = Option<ServerSet>> {
    let members = prop::collection::vec(0u32..10, 0..6);
    prop::option::of(members.prop_map(|members| ServerSet::new(members, 0)))
}

fn any_cursor() -> impl Strategy<Value = ServerId> {
    (0u32..8).prop_map(ServerId)
}

/// The regular servers that a visit can be served by.
fn admissible(rules: &Rules, world: &World, visitor: &Visitor) -> BTreeSet<u32> {
    let takes = |n: &u32| model::accepts(rules, world, visitor, *n as usize);
    Numbers::new(world.among(), 0..world.servers()).filter(takes).collect()
}

fn regular_stops(stops: &[Target]) -> Vec<u32> {
    let number = |target: &Target| match target {
        Target::Server(server) => Some(server.0),
        Target::Emergency | Target::Abuse => None,
    };
    stops.iter().filter_map(number).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn in_any_world_selection_does_what_the_plain_model_does(
        rules in any_rules(), world in any_world(), visitor in any_visitor(), cursor in any_cursor(),
        among in any_set(),
    ) {
        let world = World { among, ..world };
        let cursor = ServerId(cursor.0 % world.servers().max(1));
        let real = itinerary(&rules, &world, &visitor, cursor);
        prop_assert_eq!(&real, &model::itinerary(&rules, &world, &visitor, cursor));
        prop_assert_eq!(real, itinerary(&rules, &world, &visitor, cursor), "the same question, another answer");
    }

    #[test]
    fn a_visit_only_goes_where_it_is_admitted_and_nowhere_twice(
        rules in any_rules(), world in any_world(), visitor in any_visitor(), cursor in any_cursor(),
        among in any_set(),
    ) {
        let world = World { among, ..world };
        let (stops, _) = itinerary(&rules, &world, &visitor, cursor);
        for stop in &stops {
            let Server { view, load } = world.at(*stop).unwrap();
            prop_assert!(view.usable && view.standing != Standing::Shunned);
            let outside = |set: &ServerSet| matches!(stop, Target::Server(server) if !set.contains(*server));
            prop_assert!(!world.among.as_ref().is_some_and(outside));
            let own = visitor.remembered.is_some_and(|last| *stop == Target::Server(last));
            let room = view.soft.max(if own { view.hard } else { 0 });
            prop_assert!(view.soft == 0 || load < room);
            let regular = matches!(stop, Target::Server(_));
            prop_assert!(!regular || visitor.verdicts.permits(view.acl));
            let stays = own && !rules.roundrobin && !rules.forgetful;
            prop_assert!(!regular || view.drain == No || view.drain == New && stays);
            prop_assert_eq!(*stop == Target::Abuse, !visitor.verdicts.permits(rules.client_acl));
        }
        let different: BTreeSet<usize> = stops.iter().map(|stop| stop.row()).collect();
        prop_assert_eq!(different.len(), stops.len());
        prop_assert!(!rules.stubborn || stops.len() <= 1 && !stops.contains(&Target::Emergency));
    }

    #[test]
    fn nobody_is_given_up_before_every_server_that_would_take_it_was_tried(
        rules in any_rules(), world in any_world(), visitor in any_visitor(), cursor in any_cursor(),
        among in any_set(),
    ) {
        let world = World { among, ..world };
        let rules = Rules { stubborn: false, client_acl: acl(9), ..rules };
        let mut world = world;
        if rules.weight && !rules.prio {
            // Those of weight 0 take no part: with them a new client may find no first server to start from.
            world.servers.iter_mut().for_each(|server| server.view.weight = server.view.weight.max(1));
        }
        let (stops, _) = itinerary(&rules, &world, &visitor, cursor);
        let tried: BTreeSet<u32> = regular_stops(&stops).into_iter().collect();
        prop_assert_eq!(&tried, &admissible(&rules, &world, &visitor));
        let emergency = world.emergency.is_some_and(|server| model::accepts_anybody(&server));
        prop_assert_eq!(stops.len(), tried.len() + usize::from(emergency));
        prop_assert_eq!(stops.last() == Some(&Target::Emergency), emergency);
    }

    #[test]
    fn under_prio_nobody_better_is_left_out(
        world in any_world(), visitor in any_visitor(), rest in any_rules(),
    ) {
        let rules = Rules { prio: true, client_acl: AclId::default(), ..rest };
        let visitor = Visitor { remembered: None, verdicts: Verdicts::ALL, ..visitor };
        let (stops, _) = itinerary(&rules, &world, &visitor, ServerId(0));
        let best = world.servers.iter().filter(|server| model::available(server)).map(|s| s.view.prio).min();
        if let Some(first) = regular_stops(&stops).first() {
            let index = *first as usize;
            let equals = |server: &&Server| model::available(server) && Some(server.view.prio) == best;
            let leader = world.servers.iter().position(|server| equals(&server)).unwrap();
            // Another than the leader only if the leader is full or refuses the client.
            prop_assert!(index == leader || !model::accepts(&rules, &world, &visitor, leader));
        }
    }

    #[test]
    fn under_weight_nobody_lighter_is_left_out(world in any_world(), visitor in any_visitor()) {
        let mut world = world;
        world.servers.iter_mut().for_each(|server| (server.view.soft, server.view.acl) = (0, AclId::default()));
        let visitor = Visitor { remembered: None, verdicts: Verdicts::ALL, ..visitor };
        let (stops, _) = itinerary(&rules("W"), &world, &visitor, ServerId(0));
        if let Some(first) = regular_stops(&stops).first() {
            let weighted = world.servers.iter().any(|server| server.view.weight != 0);
            let weight = |server: &Server| if weighted { u64::from(server.view.weight) } else { 1 };
            let chosen = &world.servers[*first as usize];
            prop_assert!(weight(chosen) != 0);
            let cost = |server: &Server| 256 * u64::from(server.load) / weight(server);
            for (index, other) in world.servers.iter().enumerate() {
                if model::available(other) && weight(other) != 0 {
                    prop_assert!((cost(chosen), *first as usize) <= (cost(other), index));
                }
            }
        }
    }

    #[test]
    fn round_robin_is_exactly_even(count in 1u32..40, turns in 1u32..5, start in 0u32..40, sticky: bool) {
        let mut pen = Balancer::new(if sticky { "" } else { "r" }, count as usize);
        pen.cursor = ServerId(start % count);
        let mut landed = vec![0; count as usize];
        for n in 0..count * turns {
            // With sticky clients: each a new one.
            let ip = Ipv4Addr::from(0x0a00_0000 + if sticky { n } else { 0 });
            landed[pen.connect(ClientAddress::Inet(ip.into(), 1)).parse::<usize>().unwrap()] += 1;
        }
        prop_assert_eq!(landed, vec![turns; count as usize]);
    }

    #[test]
    fn among_some_servers_it_is_as_if_there_were_no_others(
        rules in any_rules(), world in any_world(), visitor in any_visitor(),
        members in prop::collection::vec(0u32..8, 1..6), cursor in any_cursor(),
    ) {
        let there = members.into_iter().filter_map(|number| number.checked_rem(world.servers()));
        let set = ServerSet::new(there, 0);
        if set.members().is_empty() {
            return Ok(());
        }
        let numbers = set.members().to_vec();
        let position = |server: ServerId| numbers.iter().position(|number| *number == server.0);
        // The same servers alone, by other numbers; round robin goes on from the last one before the cursor.
        let servers = numbers.iter().map(|number| world.servers[*number as usize]).collect();
        let alone = World { servers, ..world.clone() };
        let stranger = visitor.remembered.is_some_and(|last| position(last).is_none());
        let remembered = visitor.remembered.and_then(position).map(|position| ServerId(position as u32));
        let visitor = Visitor { remembered: visitor.remembered.filter(|_| !stranger), ..visitor };
        let before = numbers.iter().filter(|number| **number <= cursor.0).count();
        let last = ServerId((before + numbers.len() - 1) as u32 % numbers.len() as u32);
        let (stops, _) = itinerary(&rules, &World { among: Some(set), ..world }, &visitor, cursor);
        let (expected, _) = itinerary(&rules, &alone, &Visitor { remembered, ..visitor }, last);
        let expected: Vec<Target> = expected.into_iter().map(|stop| match stop {
            Target::Server(at) => server(numbers[at.0 as usize]),
            other => other,
        }).collect();
        prop_assert_eq!(stops, expected);
    }

    #[test]
    fn every_server_of_a_set_gets_its_share(
        count in 1u32..40, members in prop::collection::vec(0u32..40, 1..8), start in 0u32..40,
        flags in prop::sample::select(vec!["", "r", "h", "hr", "N", "W", "Wr"]),
    ) {
        let set = ServerSet::new(members.into_iter().map(|number| number % count), 0);
        let size = set.members().len();
        let mut pen = Balancer::new(flags, count as usize).held();
        pen.world.among = Some(set.clone());
        pen.cursor = ServerId(start % count);
        // As many clients each, whose addresses follow one another.
        for n in 0..12 * size as u32 {
            let ip = Ipv4Addr::from((0x0a00_0000 + n).swap_bytes());
            pen.connect(ClientAddress::Inet(ip.into(), 0));
        }
        for (number, server) in (0..).zip(&pen.world.servers) {
            let expected = if set.contains(ServerId(number)) { 12 } else { 0 };
            prop_assert_eq!(server.load, expected, "server {} of {:?}", number, set);
        }
    }

    #[test]
    fn servers_that_come_and_go_during_a_visit_confuse_nobody(
        rules in any_rules(),
        worlds in prop::collection::vec(any_world(), 1..12),
        visitor in any_visitor(),
        cursor: u32,
    ) {
        let mut cursor = ServerId(cursor);
        let mut stops = BTreeSet::new();
        let mut choice = choose(&rules, &worlds[0], &visitor, &mut cursor);
        for world in worlds.iter().cycle().skip(1).take(40) {
            let Some(Choice { target, failover }) = choice else { break };
            prop_assert!(stops.insert(target.row()), "{} twice", target);
            choice = choose_next(&rules, world, &visitor, &failover);
            if let Some(Choice { target, .. }) = choice {
                prop_assert!(world.at(target).is_some());
            }
        }
        prop_assert!(choice.is_none());
    }
}
