//! What [`crate::shared::visits::begin`] would do now, without doing it.
//!
//! The same choice by the same code from the same tables, under the lock: but the client is not noted, round robin
//! does not move and no place is taken. Only the master asks: it waits for the lock no longer than
//! [`Region::LOCK_TIMEOUT`], and holds it for as long as a choice takes and then for a look at [`DESCRIBED`] servers.
//! Not here: putting it into words ([`crate::report::explain`]).
#![forbid(unsafe_code)]

use std::cell::Cell;

use crate::model::address::ClientAddress;
use crate::model::ids::{ServerId, Target};
use crate::model::time::Moment;
use crate::policy::acl::Verdicts;
use crate::policy::blacklist::Record;
use crate::policy::routes::{Numbers, ServerSet};
use crate::policy::selection::{self, Choice, Decision, Refusal, ServerTable, ServerView, Visitor};
use crate::policy::tracking;
use crate::shared::clients::ClientView;
use crate::shared::lock::Busy;
use crate::shared::region::Region;
use crate::shared::visits::{Terms, VisitContext};

/// At most so many regular servers are described.
pub const DESCRIBED: u32 = 50;

/// What would happen to a client.
#[derive(Debug, Clone)]
pub struct Preview {
    /// What the client table has of it, though its tracking time may be up.
    pub record: Option<ClientView>,
    /// It is, so that the client would be a new one.
    pub expired: bool,
    /// Where it would go, and why.
    pub decision: Decision,
    /// How many regular servers there are that it is for.
    pub servers: u32,
    /// Those around the first choice and the final one, by number; then the emergency and the abuse server.
    pub candidates: Vec<Candidate>,
}

/// A server as the choice saw it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// Which one.
    pub target: Target,
    /// What selection knows of it.
    pub view: ServerView,
    /// Its failures.
    pub record: Record,
    /// Its connections, open or being made.
    pub load: u32,
    /// Why it would not take the client; none if it would.
    pub refusal: Option<Refusal>,
}

/// What would [`crate::shared::visits::begin`] do with this client? Servers that it is not for are not described.
///
/// # Errors
/// [`Busy`] if a worker holds the lock and does not let go.
pub fn preview(
    region: &Region,
    terms: &Terms,
    client: ClientAddress,
    verdicts: Verdicts,
    among: Option<&ServerSet>,
    now: Moment,
) -> Result<Preview, Busy> {
    // Whatever memory this takes is taken before the lock is.
    let mut candidates = Vec::with_capacity(DESCRIBED as usize + 2);
    let table = OneLook::at(VisitContext { region, terms, among, now });
    let guard = region.lock_within(Region::LOCK_TIMEOUT)?;

    let record = region.clients().peek(&guard, client);
    let expired = record.is_some_and(|record| !tracking::remembered(record.last_used, terms.tracking, now));
    let is_candidate = |server: &ServerId| among.is_none_or(|set| set.contains(*server));
    let remembered = record.filter(|_| !expired).and_then(|record| record.server).filter(is_candidate);
    let visitor = Visitor { address: client, remembered, verdicts };
    let mut cursor = region.servers().cursor(among);
    let decision = selection::decide(&terms.rules, &table, &visitor, &mut cursor);

    let servers = table.servers();
    let chosen = match decision.choice {
        Some(Choice { target: Target::Server(server), .. }) => Some(server),
        Some(Choice { target: Target::Emergency | Target::Abuse, .. }) | None => None,
    };
    let regular =
        described(servers, decision.first, chosen).map(ServerId).filter(is_candidate).map(Target::Server);
    for target in regular.chain([Target::Emergency, Target::Abuse]) {
        let Some(view) = table.view(target) else { continue };
        let (record, load) = (region.servers().record(target), table.load(target));
        let refusal = selection::refusal(&terms.rules, &table, &visitor, target);
        candidates.push(Candidate { target, view, record, load, refusal });
    }
    drop(guard);
    let servers = Numbers::new(among, 0..servers).count() as u32;
    Ok(Preview { record, expired, decision, servers, candidates })
}

/// All servers if they are few, else as many before and after each of both.
fn described(servers: u32, first: Option<ServerId>, chosen: Option<ServerId>) -> impl Iterator<Item = u32> {
    let [first, chosen] =
        [first.or(chosen), chosen.or(first)].map(|server| server.map_or(0, |server| server.0));
    let length = if first == chosen { DESCRIBED } else { DESCRIBED / 2 };
    let around = move |server: u32| {
        let start = server.saturating_sub(length / 2).min(servers.saturating_sub(length));
        start..start.saturating_add(length)
    };
    (0..servers).filter(move |number| {
        servers <= DESCRIBED || around(first).contains(number) || around(chosen).contains(number)
    })
}

/// The servers, each looked at once, so that all that is said comes from the same numbers: places are given back
/// without the lock.
struct OneLook<'a> {
    table: VisitContext<'a>,
    views: Vec<Cell<Option<Option<ServerView>>>>,
    loads: Vec<Cell<Option<u32>>>,
}

impl<'a> OneLook<'a> {
    fn at(table: VisitContext<'a>) -> Self {
        let (views, loads) = (vec![Cell::new(None); Target::ROWS], vec![Cell::new(None); Target::ROWS]);
        OneLook { table, views, loads }
    }
}

/// What was seen there, else what is seen now.
fn once<T: Copy>(seen: &[Cell<Option<T>>], target: Target, look: impl Fn() -> T) -> T {
    let Some(cell) = seen.get(target.row()) else {
        return look();
    };
    let value = cell.get().unwrap_or_else(look);
    cell.set(Some(value));
    value
}

impl ServerTable for OneLook<'_> {
    fn servers(&self) -> u32 {
        self.table.servers()
    }

    fn view(&self, target: Target) -> Option<ServerView> {
        once(&self.views, target, || self.table.view(target))
    }

    fn load(&self, target: Target) -> u32 {
        once(&self.loads, target, || self.table.load(target))
    }

    fn among(&self) -> Option<&ServerSet> {
        self.table.among()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_few_servers_all_are_described() {
        assert!(described(DESCRIBED, None, None).eq(0..50));
        assert!(described(3, Some(ServerId(1)), Some(ServerId(2))).eq(0..3));
        assert_eq!(described(0, None, None).count(), 0);
    }

    #[test]
    fn of_many_servers_those_around_the_choice_are_described() {
        let listed = |first: Option<u32>, chosen: Option<u32>| {
            described(4096, first.map(ServerId), chosen.map(ServerId)).collect::<Vec<u32>>()
        };
        assert!(listed(None, None).into_iter().eq(0..50));
        assert!(listed(Some(1000), Some(1000)).into_iter().eq(975..1025));
        assert!(listed(Some(1000), None).into_iter().eq(975..1025));
        assert!(listed(Some(4095), Some(4095)).into_iter().eq(4046..4096));
        assert!(listed(Some(4095), Some(30)).into_iter().eq((18..43).chain(4071..4096)));
        assert!(listed(Some(7), Some(9)).into_iter().eq(0..25));
    }
}
