//! Selection told once more, slowly and plainly, to compare the real one with.

use std::net::IpAddr;

use super::{Rules, ServerTable, ServerView, Visitor};
use crate::model::address::{ClientAddress, Drain};
use crate::model::ids::{ServerId, Target};
use crate::policy::blacklist::Standing;
use crate::policy::routes::ServerSet;

/// A server and its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) view: ServerView,
    pub(super) load: u32,
}

/// All servers there are.
#[derive(Debug, Clone, Default)]
pub(super) struct World {
    pub(super) servers: Vec<Server>,
    pub(super) emergency: Option<Server>,
    pub(super) abuse: Option<Server>,
    /// Those that the visit is for; none: all of them.
    pub(super) among: Option<ServerSet>,
}

impl World {
    pub(super) fn at(&self, target: Target) -> Option<Server> {
        match target {
            Target::Server(server) => self.servers.get(server.0 as usize).copied(),
            Target::Emergency => self.emergency,
            Target::Abuse => self.abuse,
        }
    }
}

impl ServerTable for World {
    fn servers(&self) -> u32 {
        self.servers.len() as u32
    }

    fn view(&self, target: Target) -> Option<ServerView> {
        self.at(target).map(|server| server.view)
    }

    fn load(&self, target: Target) -> u32 {
        self.at(target).expect("only servers that exist are asked for their load").load
    }

    fn among(&self) -> Option<&ServerSet> {
        self.among.as_ref()
    }
}

/// All that a visit tries, in order, if everything it tries fails; and where round robin stopped.
pub(super) fn itinerary(
    rules: &Rules,
    world: &World,
    visitor: &Visitor,
    cursor: ServerId,
) -> (Vec<Target>, ServerId) {
    let mut stops = Vec::new();
    if !visitor.verdicts.permits(rules.client_acl) {
        if world.abuse.is_some_and(|abuse| accepts_anybody(&abuse)) {
            stops.push(Target::Abuse);
        }
        return (stops, cursor);
    }

    let members = members(world);
    let (first, cursor) = first_choice(rules, world, visitor, cursor);
    if let Some(first) = first {
        let attempts = if rules.stubborn { 1 } else { members.len() };
        let first = members.iter().position(|member| *member == first).expect("the first is one of them");
        for step in 0..attempts {
            let index = members[(first + step) % members.len()];
            if accepts(rules, world, visitor, index) {
                stops.push(Target::Server(ServerId(index as u32)));
            }
        }
    }
    if !rules.stubborn && world.emergency.is_some_and(|emergency| accepts_anybody(&emergency)) {
        stops.push(Target::Emergency);
    }
    (stops, cursor)
}

/// The visit knows of no others. There may be some that do not exist (any more).
fn members(world: &World) -> Vec<usize> {
    match &world.among {
        None => (0..world.servers.len()).collect(),
        Some(set) => set.members().iter().map(|number| *number as usize).collect(),
    }
}

/// It can be connected to.
fn up(server: &Server) -> bool {
    server.view.usable && (server.view.standing == Standing::Good || server.view.standing == Standing::Due)
}

/// It gets its share of the new clients.
pub(super) fn available(server: &Server) -> bool {
    up(server) && server.view.drain == Drain::No
}

/// The checks of an attempt on a regular server.
pub(super) fn accepts(rules: &Rules, world: &World, visitor: &Visitor, index: usize) -> bool {
    let Some(server) = world.servers.get(index).copied() else {
        return false;
    };
    let own = visitor.remembered == Some(ServerId(index as u32));
    let mut room = accepts_anybody(&server);
    if own && !rules.forgetful && up(&server) && server.load < server.view.hard {
        room = true;
    }
    let drained = match server.view.drain {
        Drain::No => false,
        Drain::New if rules.roundrobin || rules.forgetful => true,
        Drain::New => !own,
        Drain::All => true,
    };
    room && !drained && visitor.verdicts.permits(server.view.acl)
}

/// The checks of an attempt on the emergency or the abuse server, which nobody drains.
pub(super) fn accepts_anybody(server: &Server) -> bool {
    let full = server.view.soft != 0 && server.load >= server.view.soft;
    up(server) && !full
}

fn first_choice(
    rules: &Rules,
    world: &World,
    visitor: &Visitor,
    cursor: ServerId,
) -> (Option<usize>, ServerId) {
    let members = members(world);
    if members.is_empty() {
        return (None, cursor);
    }
    let there: Vec<usize> = members.iter().copied().filter(|index| *index < world.servers.len()).collect();
    if let Some(last) = visitor.remembered
        && !rules.roundrobin
        && !rules.forgetful
        && there.contains(&(last.0 as usize))
    {
        return (Some(last.0 as usize), cursor);
    }
    if rules.prio {
        let mut ranked: Vec<usize> =
            there.iter().copied().filter(|i| available(&world.servers[*i])).collect();
        ranked.sort_by_key(|i| (world.servers[*i].view.prio, *i));
        return (ranked.first().copied(), cursor);
    }
    if rules.weight {
        let mut weights: Vec<u64> = world.servers.iter().map(|server| server.view.weight.into()).collect();
        if there.iter().all(|index| weights[*index] == 0) {
            weights.fill(1);
        }
        let takes_part = |i: &usize| weights[*i] != 0 && available(&world.servers[*i]);
        let mut ranked: Vec<usize> = there.iter().copied().filter(takes_part).collect();
        ranked.sort_by_key(|i| (256 * u64::from(world.servers[*i].load) / weights[*i], *i));
        return (ranked.first().copied(), cursor);
    }
    if rules.hash || rules.forgetful {
        let position = number(rules, visitor.address) % members.len() as u64;
        return (Some(members[position as usize]), cursor);
    }
    let count = world.servers.len();
    for step in 1..=count {
        let index = (cursor.0 as usize + step) % count;
        if there.contains(&index) && available(&world.servers[index]) {
            return (Some(index), ServerId(index as u32));
        }
    }
    (None, cursor)
}

fn number(rules: &Rules, client: ClientAddress) -> u64 {
    let ClientAddress::Inet(ip, port) = client else {
        return 0;
    };
    let (high, low) = (u64::from(port) / 256, u64::from(port) % 256);
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets().map(u64::from);
            let number = a + 256 * b + 65_536 * c + 16_777_216 * d;
            if rules.roundrobin { number ^ (256 * low + high) } else { number }
        }
        IpAddr::V6(ip) => {
            let mut bytes: Vec<u64> = ip.octets().map(u64::from).to_vec();
            if rules.roundrobin {
                bytes.extend([high, low]);
            }
            let mut hash: u128 = 14_695_981_039_346_656_037;
            for byte in bytes {
                hash = (hash ^ u128::from(byte)) * 1_099_511_628_211 % (1 << 64);
            }
            (hash / (1 << 32)) as u64 ^ (hash % (1 << 32)) as u64
        }
    }
}
