//! Which server a connection is sent to, and which next if that one does not take it.
//!
//! | step | who decides | what it looks at |
//! |---|---|---|
//! | 1 | `client_acl` | a client that it refuses goes to the abuse server or nowhere |
//! | 2 | tracking | the client's last server, whatever its state; not with `-r` or `-N` |
//! | 3 | `prio`, else `-W`, else `-h` or `-N`, else round robin | availability, but not the hash |
//! | 4 | the attempt | usable, not shunned, not drained, access list, limits; a refusal means the next in index order |
//! | 5 | the emergency server | the same, without an access list and never drained |
//!
//! Stubborn (`-s`) has only one attempt. A server that is drained of new clients (`drain N`) is out of step 3 and
//! refuses in step 4, except those clients that step 2 sends to it; with `-r` and `-N` that is nobody. Its weight
//! still counts for whether there are weights at all: draining the servers that have one does not give clients to
//! those that were to have none. See pen(1), DESCRIPTION.
//!
//! With `ssl_passthrough sni` some of the servers are for a visit and the others are not: then steps 2 to 4 know of
//! no others.
//!
//! Pure: the answer depends on the arguments alone. The caller brings the view of the servers, makes the
//! reservation and writes the round-robin cursor back. Nothing here allocates.
//! Not here: when a server is shunned (blacklist), what a limit means (limits), what a list says (acl).

use std::net::IpAddr;
use std::ops::Range;

use crate::model::address::{ClientAddress, Drain};
use crate::model::ids::{AclId, ServerId, Target};
use crate::model::settings::Settings;
use crate::policy::acl::Verdicts;
use crate::policy::blacklist::Standing;
use crate::policy::limits;
use crate::policy::routes::{Numbers, ServerSet};

/// The part of [`Settings`] that selection depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// `-r`: the client's last server does not matter; with `hash`, its port does.
    pub roundrobin: bool,
    /// `-h`: the client's address decides.
    pub hash: bool,
    /// `-W`: the fewest connections for its weight; before `hash`.
    pub weight: bool,
    /// `prio`: the lowest number; before `weight`.
    pub prio: bool,
    /// `-s`: one attempt, then close; the emergency server is not for these clients either.
    pub stubborn: bool,
    /// `-N`: as `hash`, and the client's last server does not matter.
    pub forgetful: bool,
    /// The list that clients must pass.
    pub client_acl: AclId,
}

impl Rules {
    /// Do clients come back to the server that they had last?
    fn clients_stay(&self) -> bool {
        !self.roundrobin && !self.forgetful
    }
}

impl From<&Settings> for Rules {
    fn from(settings: &Settings) -> Self {
        Rules {
            roundrobin: settings.roundrobin,
            hash: settings.hash,
            weight: settings.weight,
            prio: settings.prio,
            stubborn: settings.stubborn,
            forgetful: settings.forgetful,
            client_acl: settings.client_acl,
        }
    }
}

/// What selection sees of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerView {
    /// It has an address and a port that is not 0 (resolved, configured).
    pub usable: bool,
    /// Blacklist.
    pub standing: Standing,
    /// Whom it does not take any more; without meaning for the emergency and the abuse server.
    pub drain: Drain,
    /// Most connections for new clients; 0 = no limit.
    pub soft: u32,
    /// Most connections for clients whose last server this was; matters only above `soft`.
    pub hard: u32,
    /// Share under `-W`; 0 = takes no part, unless all are 0.
    pub weight: u32,
    /// Rank under `prio`; the lowest is used first.
    pub prio: i32,
    /// The list that its clients must pass; without meaning for the emergency and the abuse server.
    pub acl: AclId,
}

impl ServerView {
    /// Does it take part in round robin, prio and weight?
    fn available(&self) -> bool {
        self.usable && self.standing != Standing::Shunned && self.drain == Drain::No
    }
}

/// The servers, seen one at a time: a choice looks at no more of them than it needs.
pub trait ServerTable {
    /// How many regular servers there are.
    fn servers(&self) -> u32;
    /// One of them, or the emergency or abuse server; none where there is no such.
    fn view(&self, target: Target) -> Option<ServerView>;
    /// Its connections, open or being made. Asked only where a limit or a weight matters.
    fn load(&self, target: Target) -> u32;
    /// The regular servers that the visit is for; none: all of them.
    fn among(&self) -> Option<&ServerSet>;
}

/// Who comes.
#[derive(Debug, Clone, Copy)]
pub struct Visitor {
    /// The client.
    pub address: ClientAddress,
    /// The client's last server, if it is remembered (whatever the rules say of using it).
    pub remembered: Option<ServerId>,
    /// What the access lists say of the client.
    pub verdicts: Verdicts,
}

/// How far a connection's search has come. Small and plain, kept with the connection while it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailoverState(Stage);

const _: () = assert!(size_of::<FailoverState>() <= 16); // kept once for every pending connection

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The regular servers from `first` to `last`, wrapping, have been tried or passed over.
    Regular { first: ServerId, last: ServerId },
    /// The emergency or the abuse server: nothing comes after it.
    LastResort,
}

/// A choice: try `target`; if that fails, [`choose_next`] with `failover`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Where to connect.
    pub target: Target,
    /// What [`choose_next`] needs to know.
    pub failover: FailoverState,
}

/// What decided where a visit goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `client_acl` refuses the client: only the abuse server is for it.
    Denied,
    /// The client's last server.
    LastServer,
    /// `prio`.
    Prio,
    /// `-W`.
    Weight,
    /// `-h` or `-N`.
    Hash,
    /// None of these.
    RoundRobin,
}

/// Why a server does not take a client: the first reason that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such server.
    Missing,
    /// It has no address (yet), or port 0.
    NoAddress,
    /// It failed, or somebody is trying it.
    Shunned,
    /// `drain`: it takes no new clients, or nobody.
    Draining(Drain),
    /// This list refuses the client.
    List(AclId),
    /// So many connections it has, and that is all that it may have of such clients.
    Full {
        /// Connections, open or being made.
        load: u32,
        /// Most of them for this client: the hard limit if the server is its own and that is the higher one.
        most: u32,
    },
}

/// A choice and how it came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// What named the first server.
    pub rule: Rule,
    /// The server that the rule named, which need not take the client. None: there is none for that rule.
    pub first: Option<ServerId>,
    /// Where to go. None: the client is closed.
    pub choice: Option<Choice>,
}

/// Where does this visit go first? None: it is closed. `cursor` is where round robin stopped last (at first:
/// server 0, so that server 1 is the first to be used), and is moved when round robin decides, even if that
/// server then refuses. The answer has passed every check of an attempt (usable, not shunned, limits, access
/// list): the caller reserves and connects. See pen(1), DESCRIPTION.
#[inline]
pub fn choose(
    rules: &Rules,
    table: &impl ServerTable,
    visitor: &Visitor,
    cursor: &mut ServerId,
) -> Option<Choice> {
    decide(rules, table, visitor, cursor).choice
}

/// [`choose`], for those who ask why.
#[inline]
pub fn decide(rules: &Rules, table: &impl ServerTable, visitor: &Visitor, cursor: &mut ServerId) -> Decision {
    if !visitor.verdicts.permits(rules.client_acl) {
        let choice = last_resort(rules, table, visitor, Target::Abuse);
        return Decision { rule: Rule::Denied, first: None, choice };
    }
    let (rule, first) = first_choice(rules, table, visitor, cursor);
    let choice = match first {
        Some(first) => regular(rules, table, visitor, first, first)
            .or_else(|| fail_over(rules, table, visitor, first, first)),
        None if rules.stubborn => None,
        None => last_resort(rules, table, visitor, Target::Emergency),
    };
    Decision { rule, first, choice }
}

/// Where does the visit go after the target of `failover` has failed? Each server is tried at most once a visit.
///
/// Servers may have come and gone since: those gone are not tried, and those that came are, as far as they
/// follow the one that failed.
pub fn choose_next(
    rules: &Rules,
    table: &impl ServerTable,
    visitor: &Visitor,
    failover: &FailoverState,
) -> Option<Choice> {
    match failover.0 {
        Stage::Regular { first, last } => fail_over(rules, table, visitor, first, last),
        Stage::LastResort => None,
    }
}

/// The server that the rules name, before anybody asks whether it takes the client, and the rule that did.
#[inline]
fn first_choice(
    rules: &Rules,
    table: &impl ServerTable,
    visitor: &Visitor,
    cursor: &mut ServerId,
) -> (Rule, Option<ServerId>) {
    let stays =
        |last: &ServerId| rules.clients_stay() && last.0 < table.servers() && is_candidate(table, *last);
    let last = visitor.remembered.filter(stays);
    if last.is_some() {
        (Rule::LastServer, last)
    } else if rules.prio {
        (Rule::Prio, lowest_prio(table))
    } else if rules.weight {
        (Rule::Weight, lightest(table))
    } else if rules.hash || rules.forgetful {
        (Rule::Hash, by_hash(rules, table, visitor.address))
    } else {
        let next = round_robin(table, *cursor);
        *cursor = next.unwrap_or(*cursor);
        (Rule::RoundRobin, next)
    }
}

/// Is the visit for this server?
fn is_candidate(table: &impl ServerTable, server: ServerId) -> bool {
    table.among().is_none_or(|set| set.contains(server))
}

/// The servers that the visit is for, of those in a range of numbers.
#[inline]
fn candidates(table: &impl ServerTable, range: Range<u32>) -> Numbers<'_> {
    Numbers::new(table.among(), range)
}

fn lowest_prio(table: &impl ServerTable) -> Option<ServerId> {
    let best = available(table, candidates(table, 0..table.servers())).min_by_key(|(_, view)| view.prio);
    best.map(|(server, _)| server)
}

/// The available server with the fewest connections for its weight; the first of equals. Weights of 0 on every
/// server, available or not, would shut everybody out: then all count the same.
fn lightest(table: &impl ServerTable) -> Option<ServerId> {
    let all = candidates(table, 0..table.servers());
    let weighs = |server| table.view(Target::Server(ServerId(server))).is_some_and(|view| view.weight != 0);
    let weighted = all.clone().any(weighs);
    let cost = |(server, view): (ServerId, ServerView)| {
        let weight = if weighted { view.weight } else { 1 };
        let load = u64::from(table.load(Target::Server(server)));
        // Whole numbers: which servers tie, and so where the next connection goes, is part of what -W means.
        (server, 256 * load / u64::from(weight))
    };
    let partakers = available(table, all).filter(|(_, view)| !weighted || view.weight != 0);
    partakers.map(cost).min_by_key(|(_, cost)| *cost).map(|(server, _)| server)
}

/// Any server, whatever its state, so that the same client comes to the same one as long as their number is the
/// same.
fn by_hash(rules: &Rules, table: &impl ServerTable, client: ClientAddress) -> Option<ServerId> {
    let number = client_number(client, rules.roundrobin);
    let server = match table.among() {
        None => u32::try_from(number.checked_rem(table.servers().into())?).ok(),
        Some(set) => {
            let position = number.checked_rem(set.members().len() as u64)?;
            set.members().get(usize::try_from(position).ok()?).copied()
        }
    };
    server.map(ServerId)
}

/// The number that `-h` takes modulo the number of servers. The same on every machine and in every run, so that
/// several balancers agree.
///
/// - IPv4 a.b.c.d: a + 256 b + 65536 c + 16777216 d. With the port: XOR the port with its two bytes swapped.
/// - IPv6: 64-bit FNV-1a over the sixteen bytes of the address, then, with the port, its two bytes, high byte
///   first; the result's upper half XOR its lower half.
/// - Unix: 0.
fn client_number(client: ClientAddress, with_port: bool) -> u64 {
    match client {
        ClientAddress::Inet(IpAddr::V4(address), port) => {
            let mixed_in = if with_port { port.swap_bytes() } else { 0 };
            u64::from(u32::from_le_bytes(address.octets()) ^ u32::from(mixed_in))
        }
        ClientAddress::Inet(IpAddr::V6(address), port) => {
            let port = port.to_be_bytes();
            let mixed_in = if with_port { &port[..] } else { &[] };
            let hash = fnv_1a(address.octets().iter().chain(mixed_in));
            // The lowest bits of FNV-1a see nothing of the higher bits of any byte: fold.
            (hash >> 32) ^ (hash & 0xffff_ffff)
        }
        ClientAddress::Unix => 0,
    }
}

/// FNV-1a with 64 bits, by Fowler, Noll and Vo.
fn fnv_1a<'a>(bytes: impl Iterator<Item = &'a u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The next available server after `cursor`, wrapping, the cursor's own last.
fn round_robin(table: &impl ServerTable, cursor: ServerId) -> Option<ServerId> {
    let after = cursor.0.saturating_add(1).min(table.servers());
    let in_turn = candidates(table, after..table.servers()).chain(candidates(table, 0..after));
    available(table, in_turn).next().map(|(server, _)| server)
}

fn available(
    table: &impl ServerTable,
    servers: impl Iterator<Item = u32>,
) -> impl Iterator<Item = (ServerId, ServerView)> {
    let seen = servers.map(ServerId).filter_map(|server| Some((server, table.view(Target::Server(server))?)));
    seen.filter(|(_, view)| view.available())
}

/// The next regular server in index order that takes the client, else the emergency server.
fn fail_over(
    rules: &Rules,
    table: &impl ServerTable,
    visitor: &Visitor,
    first: ServerId,
    last: ServerId,
) -> Option<Choice> {
    if rules.stubborn {
        return None;
    }
    let servers = table.servers();
    // Until the search wraps, all that follow the last one and then those before the first; after that, those
    // between the two.
    let (ahead, wrapped) =
        if first <= last { (servers, first.0.min(servers)) } else { (first.0.min(servers), 0) };
    let ahead = candidates(table, last.0.saturating_add(1)..ahead);
    let mut untried = ahead.chain(candidates(table, 0..wrapped)).map(ServerId);
    untried
        .find_map(|server| regular(rules, table, visitor, first, server))
        .or_else(|| last_resort(rules, table, visitor, Target::Emergency))
}

/// An attempt on a regular server, if it takes the client.
fn regular(
    rules: &Rules,
    table: &impl ServerTable,
    visitor: &Visitor,
    first: ServerId,
    last: ServerId,
) -> Option<Choice> {
    let target = Target::Server(last);
    let failover = FailoverState(Stage::Regular { first, last });
    takes(rules, table, visitor, target).then_some(Choice { target, failover })
}

/// An attempt on the emergency or the abuse server, if there is one and it takes the client.
fn last_resort(rules: &Rules, table: &impl ServerTable, visitor: &Visitor, target: Target) -> Option<Choice> {
    takes(rules, table, visitor, target)
        .then_some(Choice { target, failover: FailoverState(Stage::LastResort) })
}

fn takes(rules: &Rules, table: &impl ServerTable, visitor: &Visitor, target: Target) -> bool {
    refusal(rules, table, visitor, target).is_none()
}

/// The checks of an attempt: why would this server not take the client? None: it would. The emergency and the abuse
/// server have no access list, know no clients and are never drained.
#[inline]
pub fn refusal(
    rules: &Rules,
    table: &impl ServerTable,
    visitor: &Visitor,
    target: Target,
) -> Option<Refusal> {
    let Some(view) = table.view(target) else {
        return Some(Refusal::Missing);
    };
    let (drained, permitted, known) = match target {
        Target::Server(server) => {
            let own = visitor.remembered == Some(server);
            let drained = match view.drain {
                Drain::No => false,
                Drain::New => !(own && rules.clients_stay()),
                Drain::All => true,
            };
            (drained, visitor.verdicts.permits(view.acl), own && !rules.forgetful)
        }
        Target::Emergency | Target::Abuse => (false, true, false),
    };
    if !view.usable {
        Some(Refusal::NoAddress)
    } else if view.standing == Standing::Shunned {
        Some(Refusal::Shunned)
    } else if drained {
        Some(Refusal::Draining(view.drain))
    } else if !permitted {
        Some(Refusal::List(view.acl))
    } else if view.soft == 0 {
        None
    } else {
        let load = table.load(target);
        let most = if known { view.soft.max(view.hard) } else { view.soft };
        (!limits::admits(load, view.soft, view.hard, known)).then_some(Refusal::Full { load, most })
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
