//! One visit's critical sections: look up the client, choose a server, reserve a place on it.
//!
//! ```text
//! begin ──> reservation ──> established ──> give_back        the server answered
//!                │  ^
//!                │  └─ fail (the next server's)              it refused or timed out
//!                └───────────────────────────> give_back     the client went away meanwhile
//! ```
//!
//! A client's server is recorded when it has answered. Until then it is recorded *unconfirmed*, so that all of the
//! connections a browser opens at once go to the same server; the one that recorded it takes that back, or moves it
//! on, if its attempt comes to nothing.
//! Not here: which server it is to be ([`crate::policy::selection`]), connecting ([`crate::net`]).
#![forbid(unsafe_code)]

use std::cell::Cell;

use crate::model::address::{ClientAddress, SocketAddress};
use crate::model::ids::{Target, WorkerId};
use crate::model::proxy::ProxySend;
use crate::model::record::Chosen;
use crate::model::settings::Settings;
use crate::model::time::{Moment, Seconds};
use crate::policy::acl::Verdicts;
use crate::policy::blacklist::{self, Standing};
use crate::policy::routes::ServerSet;
use crate::policy::selection::{
    self, Choice, Decision, FailoverState, Rule, Rules, ServerTable, ServerView, Visitor,
};
use crate::shared::clients::{ClientRef, Noted};
use crate::shared::region::Region;
use crate::shared::servers::{PathRoom, RawAddress, ServerKey, ServerRow};
use crate::sys::clock;

/// What applies to every visit under one generation of settings.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How to choose.
    pub rules: Rules,
    /// For how long clients are remembered; 0 = for ever.
    pub tracking: Seconds,
    /// For how long a server that failed is left alone.
    pub blacklist: Seconds,
    /// Connect timeout: for how long a probe keeps others away.
    pub timeout: Seconds,
}

impl From<&Settings> for Terms {
    fn from(settings: &Settings) -> Self {
        Terms {
            rules: settings.into(),
            tracking: settings.tracking,
            blacklist: settings.blacklist,
            timeout: settings.timeout,
        }
    }
}

impl Terms {
    /// A probe whose worker hangs ends by itself, a little after every other one would have timed out.
    fn probe_until(&self, now: Moment) -> Moment {
        now.plus(self.timeout).plus(Seconds(1))
    }
}

/// A place on a server, counted in the ledger, to be given back exactly once with [`give_back`] or [`fail`].
#[derive(Debug)]
#[must_use]
pub struct Reservation {
    /// The server.
    pub target: Target,
    /// Where it is.
    pub address: SocketAddress,
    /// How it is spoken to: [`crate::shared::servers::Definition::tls`].
    pub tls: u64,
    /// Which header of the PROXY protocol it gets.
    pub proxy: ProxySend,
    /// What [`fail`] needs to find the next one.
    pub failover: FailoverState,
    /// What has led there.
    pub chosen: Chosen,
    /// Which server that is, wherever in the list it stands by now.
    key: ServerKey,
    /// The client's remembered server when it came.
    remembered: ServerKey,
    client: ClientRef,
    /// It is the one probe of a server whose blacklist time is up; others stay away until then.
    probe: Option<Moment>,
    /// It recorded the server, unconfirmed.
    provisional: bool,
    /// [`established`] was called.
    answered: Cell<bool>,
}

/// A client that came, and where it goes: none = close it.
#[derive(Debug)]
pub struct Visit {
    /// Its slot in the client table.
    pub client: ClientRef,
    /// Its place on a server.
    pub reservation: Option<Reservation>,
}

/// A client came: note it in the client table, choose, reserve. One critical section. `among`: the regular servers that
/// it is for; none: all of them. If their numbers are not those of the list any more, nothing is chosen.
///
/// A client is known to one server. One that has two names from one address by turns is new to both, every time.
pub fn begin(
    region: &Region,
    worker: WorkerId,
    terms: &Terms,
    client: ClientAddress,
    verdicts: Verdicts,
    among: Option<&ServerSet>,
    now: Moment,
) -> Visit {
    let context = VisitContext { region, terms, among, now };
    region.workers().mark_used(worker);
    let guard = region.lock(worker);
    let Noted { client: record, server, key: last } =
        region.clients().visit(&guard, client, terms.tracking, now);
    let remembered = server.filter(|last| among.is_none_or(|set| set.contains(*last)));
    let visitor = Visitor { address: client, remembered, verdicts };
    let before = region.servers().cursor(among);
    let mut cursor = before;
    let choice = match context.is_outdated() {
        true => None,
        false => chosen(&selection::decide(&terms.rules, &context, &visitor, &mut cursor)),
    };
    if cursor != before {
        region.servers().set_cursor(among, cursor);
    }
    let mut path = PathRoom::new();
    let place = choice.and_then(|(choice, chosen)| context.take(worker, choice, chosen, &mut path));
    let provisional = match place.as_ref().and_then(|place| remembered_as(place.choice.target, place.key)) {
        // With -r every connection goes elsewhere: nothing is gained before a server has answered.
        Some(key) if remembered.is_none() && !terms.rules.forgetful && !terms.rules.roundrobin => {
            region.clients().remember(&guard, record, key.unconfirmed());
            true
        }
        _ => false,
    };
    drop(guard);
    let remembered = if remembered.is_some() { last } else { ServerKey::NONE };
    Visit {
        client: record,
        reservation: place.map(|place| place.reservation(&path, record, remembered, provisional)),
    }
}

/// What came of a server's failure.
#[derive(Debug)]
pub struct Failed {
    /// The server is shunned for it, and was not left alone already, for this or because of others.
    pub is_news: bool,
    /// The client's place on the next server; none: there is no other for it.
    pub next: Option<Reservation>,
}

/// The reserved server failed (refused, timed out): shun it if `shun`, give its place back, choose the next, of those
/// that the visit began with.
#[allow(clippy::too_many_arguments)]
pub fn fail(
    region: &Region,
    worker: WorkerId,
    terms: &Terms,
    client: (ClientAddress, ClientRef),
    verdicts: Verdicts,
    among: Option<&ServerSet>,
    failed: Reservation,
    shun: bool,
    now: Moment,
) -> Failed {
    let (address, record) = client;
    let servers = region.servers();
    let context = VisitContext { region, terms, among, now };
    let wall = clock::wall();
    let guard = region.lock(worker);
    let remembered = match servers.resolve(failed.remembered) {
        Some(Target::Server(server)) => Some(server),
        Some(Target::Emergency | Target::Abuse) | None => None,
    };
    let visitor = Visitor { address, remembered, verdicts };
    let mut is_news = false;
    if let Some(row) = servers.row_of(failed.key) {
        if let Some(until) = failed.probe {
            row.probe_ended(until);
        }
        if shun {
            is_news = !context.is_shunned(row);
            row.shun(now, wall);
        }
    }
    region.ledger().give(worker, failed.key.row());
    let next = match context.is_outdated() {
        true => None,
        false => selection::choose_next(&terms.rules, &context, &visitor, &failed.failover),
    };
    let mut path = PathRoom::new();
    let place = next.and_then(|next| context.take(worker, next, after_failure(next.target), &mut path));
    let provisional = if failed.provisional {
        let next = place.as_ref().and_then(|place| remembered_as(place.choice.target, place.key));
        let moved = next.map_or(ServerKey::NONE, ServerKey::unconfirmed);
        region.clients().revise(record, failed.key.unconfirmed(), moved);
        next.is_some()
    } else {
        false
    };
    drop(guard);
    let next = place.map(|place| place.reservation(&path, record, failed.remembered, provisional));
    Failed { is_news, next }
}

/// The reserved server answered: forgive its failures, remember it for the client (regular servers only, not with
/// -N; after the emergency or the abuse server the client is a new one), count the connection. Takes the lock only
/// if something changes. What `server N blacklist T` has put off beyond `now` is not forgiven.
pub fn established(
    region: &Region,
    worker: WorkerId,
    terms: &Terms,
    client: ClientRef,
    reservation: &Reservation,
    now: Moment,
) {
    if reservation.answered.replace(true) {
        return;
    }
    region.ledger().reached(worker, reservation.key.row());
    let servers = region.servers();
    let forgivable = servers.row_of(reservation.key).is_some_and(|row| row.is_forgivable(now));

    let clients = region.clients();
    let wanted = remembered_as(reservation.target, reservation.key).unwrap_or_default();
    let remember = match clients.server(client).filter(|_| !terms.rules.forgetful) {
        None => false,
        Some(noted) if noted == wanted => false,
        Some(noted) if noted.confirmed() == wanted => {
            clients.revise(client, noted, wanted);
            false
        }
        Some(_) => true,
    };
    if !forgivable && !remember {
        return;
    }
    let guard = region.lock(worker);
    if let Some(row) = servers.row_of(reservation.key) {
        row.forgive(now);
    }
    if remember {
        clients.remember(&guard, client, wanted);
    }
}

/// The reserved server had answered and is gone now, as far as is known: shun it. The place stays reserved. True if it
/// was not left alone already, for this or because of others.
pub fn shun(
    region: &Region,
    worker: WorkerId,
    terms: &Terms,
    reservation: &Reservation,
    now: Moment,
) -> bool {
    let wall = clock::wall();
    let _guard = region.lock(worker);
    let Some(row) = region.servers().row_of(reservation.key) else {
        return false;
    };
    let is_news = !VisitContext { region, terms, among: None, now }.is_shunned(row);
    row.shun(now, wall);
    is_news
}

/// The connection is over, the server's descriptor closed: give the place back. No lock. Also for a connection that
/// ended before the server had answered, without its fault (the client went away): then a probe is left to the next
/// visit, and what was recorded for the client meanwhile is taken back.
pub fn give_back(region: &Region, worker: WorkerId, reservation: Reservation) {
    region.ledger().give(worker, reservation.key.row());
    if reservation.answered.get() {
        return;
    }
    if let Some(until) = reservation.probe
        && let Some(row) = region.servers().row_of(reservation.key)
    {
        row.probe_ended(until);
    }
    if reservation.provisional {
        region.clients().revise(reservation.client, reservation.key.unconfirmed(), ServerKey::NONE);
    }
}

/// Bytes have gone by: counted for the server, even if it is not listed any more. No lock.
#[inline]
pub fn count(region: &Region, worker: WorkerId, reservation: &Reservation, up: u64, down: u64) {
    region.ledger().count(worker, reservation.key.row(), up, down);
}

/// So many datagrams have gone by: counted for the server, beside their bytes. No lock.
pub fn count_datagrams(region: &Region, worker: WorkerId, reservation: &Reservation, up: u64, down: u64) {
    region.ledger().count_datagrams(worker, reservation.key.row(), up, down);
}

/// A choice, and what has led to it.
fn chosen(decision: &Decision) -> Option<(Choice, Chosen)> {
    let choice = decision.choice?;
    let by_rule = match decision.rule {
        Rule::Denied => Chosen::Abuse,
        Rule::LastServer => Chosen::LastServer,
        Rule::Prio => Chosen::Prio,
        Rule::Weight => Chosen::Weight,
        Rule::Hash => Chosen::Hash,
        Rule::RoundRobin => Chosen::RoundRobin,
    };
    let first = decision.first.map(Target::Server);
    Some((choice, if first == Some(choice.target) { by_rule } else { after_failure(choice.target) }))
}

/// What has led to a server that another one comes before.
fn after_failure(target: Target) -> Chosen {
    match target {
        Target::Server(_) => Chosen::Failover,
        Target::Emergency => Chosen::Emergency,
        Target::Abuse => Chosen::Abuse,
    }
}

/// What a client remembers of a server. Nothing of the emergency and the abuse server: it is a new one next time.
fn remembered_as(target: Target, key: ServerKey) -> Option<ServerKey> {
    matches!(target, Target::Server(_)).then_some(key)
}

/// What a choice is made from, by the holder of the lock.
#[derive(Debug, Clone, Copy)]
pub(super) struct VisitContext<'a> {
    pub(super) region: &'a Region,
    pub(super) terms: &'a Terms,
    pub(super) among: Option<&'a ServerSet>,
    pub(super) now: Moment,
}

/// A place taken; what else a [`Reservation`] needs is added without the lock.
struct Reserved {
    choice: Choice,
    chosen: Chosen,
    address: RawAddress,
    tls: u64,
    proxy: ProxySend,
    key: ServerKey,
    probe: Option<Moment>,
}

impl VisitContext<'_> {
    /// The servers that the visit is for have other numbers now.
    fn is_outdated(&self) -> bool {
        self.among.is_some_and(|set| set.generation() != self.region.servers().generation())
    }

    /// Is a server left alone already, for a failure or by order?
    fn is_shunned(&self, row: &ServerRow) -> bool {
        blacklist::left(row.record(), self.terms.blacklist, self.now) > 0
    }

    /// Takes a place on the chosen target. None only if the choice was not one to make.
    #[inline(always)]
    fn take(
        &self,
        worker: WorkerId,
        choice: Choice,
        chosen: Chosen,
        path: &mut PathRoom,
    ) -> Option<Reserved> {
        let (row, key) = self.region.servers().row_and_key(choice.target)?;
        let address = row.usable_address(path)?;
        if !self.region.ledger().take(worker, key.row()) {
            return None;
        }
        let standing = blacklist::standing(row.record(), self.terms.blacklist, self.now);
        let probe = (standing == Standing::Due).then(|| self.terms.probe_until(self.now));
        if let Some(until) = probe {
            row.probe(worker, until);
        }
        Some(Reserved { choice, chosen, address, tls: row.tls(), proxy: row.proxy(), key, probe })
    }
}

impl ServerTable for VisitContext<'_> {
    fn servers(&self) -> u32 {
        self.region.servers().count()
    }

    fn view(&self, target: Target) -> Option<ServerView> {
        let servers = self.region.servers();
        let view = servers.row(servers.at(target)?)?.view(self.terms.blacklist, self.now);
        // There is no such thing as an emergency or abuse server that is in the table but not usable.
        (view.usable || matches!(target, Target::Server(_))).then_some(view)
    }

    fn load(&self, target: Target) -> u32 {
        self.region.ledger().load(target)
    }

    fn among(&self) -> Option<&ServerSet> {
        self.among
    }
}

impl Reserved {
    #[inline]
    fn reservation(
        self,
        path: &PathRoom,
        client: ClientRef,
        remembered: ServerKey,
        provisional: bool,
    ) -> Reservation {
        Reservation {
            target: self.choice.target,
            address: path.complete(self.address),
            tls: self.tls,
            proxy: self.proxy,
            failover: self.choice.failover,
            chosen: self.chosen,
            key: self.key,
            remembered,
            client,
            probe: self.probe,
            provisional,
            answered: Cell::new(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::Drain;
    use crate::model::ids::ServerId;
    use crate::policy::blacklist::Record;
    use crate::shared::region::Geometry;
    use crate::shared::servers::Definition;
    use proptest::prelude::*;

    const WORKER: WorkerId = WorkerId(0);
    const OTHER: WorkerId = WorkerId(1);
    const NOW: Moment = Moment(1_000_000_000);

    fn region(servers: &[Definition]) -> Region {
        let region = Region::create(Geometry { clients: 100, connections: 100 }).unwrap();
        region.servers().publish(servers, None, None).unwrap();
        region.workers().set_count(2);
        region
    }

    fn three() -> Region {
        region(&[Definition::local(80), Definition::local(81), Definition::local(82)])
    }

    fn terms() -> Terms {
        Terms::from(&Settings::default())
    }

    fn address(number: u8) -> ClientAddress {
        ClientAddress::Inet([10, 0, 0, number].into(), 1000)
    }

    fn server(number: u32) -> Target {
        Target::Server(ServerId(number))
    }

    fn come(region: &Region, terms: &Terms, number: u8, now: Moment) -> Visit {
        begin(region, WORKER, terms, address(number), Verdicts::ALL, None, now)
    }

    fn target(visit: &Visit) -> Option<Target> {
        visit.reservation.as_ref().map(|reservation| reservation.target)
    }

    /// A visit that was served.
    fn served(region: &Region, terms: &Terms, number: u8, now: Moment) -> Target {
        let visit = come(region, terms, number, now);
        let reservation = visit.reservation.unwrap();
        established(region, WORKER, terms, visit.client, &reservation, now);
        let target = reservation.target;
        give_back(region, WORKER, reservation);
        target
    }

    fn failed(region: &Region, terms: &Terms, number: u8, visit: Visit, now: Moment) -> Visit {
        let client = (address(number), visit.client);
        let failed =
            fail(region, WORKER, terms, client, Verdicts::ALL, None, visit.reservation.unwrap(), true, now);
        Visit { client: visit.client, reservation: failed.next }
    }

    #[test]
    fn round_robin_starts_at_server_1_and_clients_return_to_theirs() {
        let (region, terms) = (three(), terms());
        let targets: Vec<Target> = (0..4).map(|number| served(&region, &terms, number, NOW)).collect();
        assert_eq!(targets, [1, 2, 0, 1].map(server));
        for (number, target) in (0..4).zip(targets) {
            assert_eq!(served(&region, &terms, number, NOW), target);
        }
        assert_eq!(region.ledger().totals(server(1)).connections, 4);
        assert_eq!(region.ledger().load(server(1)), 0);
    }

    #[test]
    fn a_browsers_first_connections_go_to_one_server() {
        let (region, terms) = (three(), terms());
        let visits: Vec<Visit> = (0..6).map(|_| come(&region, &terms, 9, NOW)).collect();
        assert!(visits.iter().all(|visit| target(visit) == Some(server(1))));
        assert_eq!(region.ledger().load(server(1)), 6);
        // The first of them goes away before the server answers; the others' is recorded all the same.
        let mut visits = visits.into_iter();
        give_back(&region, WORKER, visits.next().unwrap().reservation.unwrap());
        let second = visits.next().unwrap();
        established(&region, WORKER, &terms, second.client, second.reservation.as_ref().unwrap(), NOW);
        visits.chain([second]).for_each(|visit| give_back(&region, WORKER, visit.reservation.unwrap()));
        assert_eq!(served(&region, &terms, 9, NOW), server(1));
        assert_eq!(region.ledger().load(server(1)), 0);
    }

    #[test]
    fn a_try_that_came_to_nothing_is_not_remembered() {
        let (region, terms) = (three(), terms());
        let visit = come(&region, &terms, 9, NOW);
        let record = visit.client;
        assert_eq!(region.clients().view(record.id).unwrap().server, Some(ServerId(1)));
        give_back(&region, WORKER, visit.reservation.unwrap());
        assert_eq!(region.clients().view(record.id).unwrap().server, None);
    }

    #[test]
    fn what_is_confirmed_survives_the_end_of_the_try_that_recorded_it() {
        let (region, terms) = (three(), terms());
        let (first, second) = (come(&region, &terms, 9, NOW), come(&region, &terms, 9, NOW));
        let confirming = second.reservation.unwrap();
        established(&region, WORKER, &terms, second.client, &confirming, NOW);
        give_back(&region, WORKER, first.reservation.unwrap());
        assert_eq!(region.clients().view(second.client.id).unwrap().server, Some(ServerId(1)));
        give_back(&region, WORKER, confirming);
    }

    #[test]
    fn a_failure_moves_the_client_on_and_spares_all_others() {
        let (region, terms) = (three(), terms());
        let visit = failed(&region, &terms, 9, come(&region, &terms, 9, NOW), NOW);
        assert_eq!(target(&visit), Some(server(2)));
        assert_eq!(region.clients().view(visit.client.id).unwrap().server, Some(ServerId(2)));
        assert_eq!(region.ledger().load(server(1)), 0);
        assert_eq!(region.servers().record(server(1)).failed, Some(NOW));
        assert!(region.servers().failed_at(server(1)).is_some());
        let visit = failed(&region, &terms, 9, visit, NOW);
        let visit = failed(&region, &terms, 9, visit, NOW);
        assert_eq!(target(&visit), None, "each server once");
        assert_eq!(region.clients().view(visit.client.id).unwrap().server, None);
        assert_eq!(target(&come(&region, &terms, 8, NOW)), None, "all are shunned");
    }

    #[test]
    fn when_its_time_is_up_one_visit_probes_a_server() {
        let (region, terms) = (region(&[Definition::local(80)]), terms());
        failed(&region, &terms, 1, come(&region, &terms, 1, NOW), NOW);
        let later = NOW.plus(terms.blacklist);
        let probe = come(&region, &terms, 2, later);
        assert_eq!(target(&probe), Some(server(0)));
        assert_eq!(target(&come(&region, &terms, 3, later)), None, "a probe is under way");

        // It goes away without a verdict: the next one probes.
        give_back(&region, WORKER, probe.reservation.unwrap());
        let probe = come(&region, &terms, 3, later);
        assert_eq!(target(&probe), Some(server(0)));

        // Its worker hangs: the next one probes when the connect would have timed out.
        let timed_out = later.plus(terms.timeout).plus(Seconds(2));
        let second = come(&region, &terms, 4, timed_out);
        assert_eq!(target(&second), Some(server(0)));
        // What becomes of the first does not end the second's.
        give_back(&region, WORKER, probe.reservation.unwrap());
        assert_eq!(target(&come(&region, &terms, 5, timed_out)), None);

        let reservation = second.reservation.unwrap();
        established(&region, WORKER, &terms, second.client, &reservation, timed_out);
        assert_eq!(region.servers().record(server(0)), Record::default());
        assert_eq!(region.servers().failed_at(server(0)), None);
        assert_eq!(served(&region, &terms, 5, timed_out), server(0));
        give_back(&region, WORKER, reservation);
    }

    #[test]
    fn when_a_prober_dies_the_next_visit_probes() {
        let (region, terms) = (region(&[Definition::local(80)]), terms());
        failed(&region, &terms, 1, come(&region, &terms, 1, NOW), NOW);
        let later = NOW.plus(terms.blacklist);
        std::mem::forget(begin(&region, OTHER, &terms, address(2), Verdicts::ALL, None, later));
        region.reclaim(WORKER);
        assert_eq!(target(&come(&region, &terms, 3, later)), None, "another's death");
        region.reclaim(OTHER);
        assert_eq!(target(&come(&region, &terms, 3, later)), Some(server(0)));
    }

    #[test]
    fn a_failure_is_news_to_the_first_who_tells_of_it() {
        let (region, terms) = (region(&[Definition::local(80)]), terms());
        let three = |now| [1, 2, 3].map(|number| come(&region, &terms, number, now));
        let fails = |visit: Visit, number, shun, now| {
            let (who, place) = ((address(number), visit.client), visit.reservation.unwrap());
            fail(&region, WORKER, &terms, who, Verdicts::ALL, None, place, shun, now).is_news
        };
        let [one, two, other] = three(NOW);
        assert!(!fails(other, 3, false, NOW), "that was not the server's failure");
        assert!(fails(one, 1, true, NOW));
        assert!(!fails(two, 2, true, NOW), "it is known");
        // Its time is up: whoever tries it tells the next news.
        let later = NOW.plus(terms.blacklist);
        let probe = come(&region, &terms, 1, later);
        assert!(fails(probe, 1, true, later));
    }

    #[test]
    fn a_server_that_is_lost_later_is_shunned_and_its_place_stays_taken() {
        let (region, terms) = (region(&[Definition::local(80), Definition::local(81)]), terms());
        let visits = [1, 1, 1].map(|number| {
            let visit = come(&region, &terms, number, NOW);
            established(&region, WORKER, &terms, visit.client, visit.reservation.as_ref().unwrap(), NOW);
            visit
        });
        let [one, two, three] = visits.map(|visit| visit.reservation.unwrap());
        assert_eq!([&one, &two, &three].map(|place| place.target), [server(1); 3]);
        assert!(shun(&region, WORKER, &terms, &one, NOW));
        assert!(!shun(&region, OTHER, &terms, &two, NOW), "whoever else hears of it, it is known");
        assert_eq!(region.ledger().load(server(1)), 3, "their connections last until they are given back");
        assert_eq!(served(&region, &terms, 1, NOW), server(0));
        [one, two].into_iter().for_each(|place| give_back(&region, WORKER, place));
        assert_eq!(region.ledger().load(server(1)), 1);
        let later = NOW.plus(terms.blacklist);
        region.servers().shun_for(server(0), Seconds(60), terms.blacklist, later);
        assert_eq!(served(&region, &terms, 2, later), server(1), "its time is up");
        assert!(shun(&region, WORKER, &terms, &three, later), "and this is another failure");

        // A server that is not listed any more is nobody's news, and its successor's record stays clean.
        region.servers().publish(&[Definition::local(80), Definition::local(82)], None, None).unwrap();
        assert!(!shun(&region, WORKER, &terms, &three, later));
        assert_eq!(region.servers().record(server(1)), Record::default());
        give_back(&region, WORKER, three);
        // Without a blacklist it is told every time, and nobody is kept away.
        let terms = Terms { blacklist: Seconds(0), ..terms };
        let place = come(&region, &terms, 9, later).reservation.unwrap();
        assert!(shun(&region, WORKER, &terms, &place, later) && shun(&region, WORKER, &terms, &place, later));
        give_back(&region, WORKER, place);
    }

    #[test]
    fn an_order_to_shun_is_not_undone_by_a_connection_under_way() {
        let (region, terms) = (region(&[Definition::local(80)]), terms());
        let visit = come(&region, &terms, 1, NOW);
        region.servers().shun_for(server(0), Seconds(3600), terms.blacklist, NOW);
        let reservation = visit.reservation.unwrap();
        established(&region, WORKER, &terms, visit.client, &reservation, NOW);
        assert_eq!(target(&come(&region, &terms, 2, NOW)), None);
        let again = fail(
            &region,
            WORKER,
            &terms,
            (address(1), visit.client),
            Verdicts::ALL,
            None,
            reservation,
            true,
            NOW,
        );
        assert!(again.next.is_none() && !again.is_news);
        assert_eq!(
            target(&come(&region, &terms, 2, NOW.plus(Seconds(3599)))),
            None,
            "nor shortened by a failure"
        );
        region.servers().shun_for(server(0), Seconds(0), terms.blacklist, NOW);
        assert_eq!(served(&region, &terms, 2, NOW), server(0));
    }

    #[test]
    fn an_order_soon_after_the_systems_start_ends_like_any_other() {
        let (region, terms) = (region(&[Definition::local(80)]), terms());
        let now = Moment(0).plus(Seconds(5)); // less than the blacklist time
        region.servers().shun_for(server(0), Seconds(1), terms.blacklist, now);
        let later = now.plus(Seconds(1));
        assert_eq!(served(&region, &terms, 1, later), server(0));
        assert_eq!(region.servers().record(server(0)), Record::default());
        let visits = [come(&region, &terms, 2, later), come(&region, &terms, 3, later)];
        assert!(visits.iter().all(|visit| target(visit) == Some(server(0))), "nobody probes any more");
    }

    #[test]
    fn limits_count_from_the_choice_on_over_all_workers() {
        let limited = Definition { soft: 2, hard: 3, ..Definition::local(80) };
        let (region, terms) = (region(&[limited]), terms());
        let first = come(&region, &terms, 1, NOW);
        let second = begin(&region, OTHER, &terms, address(2), Verdicts::ALL, None, NOW);
        assert_eq!(target(&second), Some(server(0)));
        assert_eq!(target(&come(&region, &terms, 3, NOW)), None, "the soft limit");
        let known = come(&region, &terms, 1, NOW);
        assert_eq!(target(&known), Some(server(0)), "a known client, up to the hard limit");
        assert_eq!(target(&come(&region, &terms, 2, NOW)), None, "the hard limit");
        give_back(&region, OTHER, second.reservation.unwrap());
        give_back(&region, WORKER, known.reservation.unwrap());
        assert_eq!(target(&come(&region, &terms, 3, NOW)), Some(server(0)));
        assert_eq!(region.reclaim(WORKER), 0);
        drop(first);
        assert_eq!(region.ledger().load(server(0)), 0);
    }

    #[test]
    fn limits_follow_a_server_to_its_new_position() {
        let [a, b] = [80, 81].map(|port| Definition { soft: 2, ..Definition::local(port) });
        let (region, terms) = (region(&[a.clone(), b.clone()]), terms());
        let on_a: Vec<Visit> = (0..4)
            .map(|number| come(&region, &terms, number, NOW))
            .filter(|it| target(it) == Some(server(0)))
            .collect();
        let loads = || [0, 1].map(|number| region.ledger().load(server(number)));
        assert_eq!((on_a.len(), loads()), (2, [2, 2]));
        on_a.into_iter().for_each(|visit| give_back(&region, WORKER, visit.reservation.unwrap()));
        region.servers().publish(&[b.clone(), a.clone()], None, None).unwrap();
        assert_eq!(loads(), [2, 0], "b is full, a has none");
        let more: Vec<_> = (10..13).map(|number| target(&come(&region, &terms, number, NOW))).collect();
        assert_eq!(more, [Some(server(1)), Some(server(1)), None]);
        assert_eq!(loads(), [2, 2]);

        // Dropped from the list for a while, their connections count on.
        region.servers().publish(&[Definition::local(90)], None, None).unwrap();
        assert_eq!(region.ledger().load(server(0)), 0, "those of b are not the new server's");
        region.servers().publish(&[a, b], None, None).unwrap();
        assert_eq!(loads(), [2, 2]);
        assert_eq!(region.reclaim(WORKER), 0);
        assert_eq!(loads(), [0, 0]);
    }

    #[test]
    fn clients_and_bytes_follow_a_server_to_its_new_position() {
        let (region, terms) = (region(&[Definition::local(80), Definition::local(81)]), terms());
        let visit = come(&region, &terms, 1, NOW);
        let place = visit.reservation.unwrap();
        assert_eq!(place.target, server(1));
        established(&region, WORKER, &terms, visit.client, &place, NOW);
        count(&region, WORKER, &place, 1, 2);
        region.servers().publish(&[Definition::local(81), Definition::local(80)], None, None).unwrap();
        count(&region, WORKER, &place, 10, 20);
        let totals = region.ledger().totals(server(0));
        assert_eq!((totals.live, totals.connections, totals.up, totals.down), (1, 1, 11, 22));
        assert_eq!(target(&come(&region, &terms, 1, NOW)), Some(server(0)));
        give_back(&region, WORKER, place);
        assert_eq!(region.ledger().totals(server(0)).live, 1);
    }

    #[test]
    fn the_emergency_servers_clients_are_new_ones_next_time() {
        let (region, terms) = (three(), terms());
        assert_eq!(served(&region, &terms, 1, NOW), server(1));
        for number in 0..3 {
            region.servers().shun_for(server(number), Seconds(10), terms.blacklist, NOW);
        }
        let servers = [Definition::local(80), Definition::local(81), Definition::local(82)];
        region.servers().publish(&servers, Some(&Definition::local(99)), None).unwrap();
        assert_eq!(served(&region, &terms, 1, NOW), Target::Emergency);
        assert_eq!(served(&region, &terms, 1, NOW.plus(Seconds(10))), server(2), "round robin goes on");
    }

    #[test]
    fn forgetful_clients_leave_no_server_behind() {
        let terms = Terms::from(&Settings { forgetful: true, ..Settings::default() });
        let region = three();
        served(&region, &terms, 1, NOW);
        let visit = come(&region, &terms, 1, NOW);
        assert_eq!(region.clients().view(visit.client.id).unwrap().server, None);
        assert_eq!(region.clients().view(visit.client.id).unwrap().connects, 2);
    }

    #[test]
    fn the_failure_of_a_server_that_was_replaced_is_not_held_against_its_successor() {
        let (region, terms) = (region(&[Definition::local(80)]), terms());
        let visit = come(&region, &terms, 1, NOW);
        region.servers().publish(&[Definition::local(81)], None, None).unwrap();
        failed(&region, &terms, 1, visit, NOW);
        assert_eq!(region.servers().record(server(0)), Record::default());
        assert_eq!(region.ledger().load(server(0)), 0);
        assert_eq!(served(&region, &terms, 1, NOW), server(0));
    }

    #[test]
    fn a_client_that_is_denied_is_counted_all_the_same() {
        let (region, terms) = (region(&[]), terms());
        let visit = come(&region, &terms, 1, NOW);
        assert!(visit.reservation.is_none());
        assert_eq!(region.clients().view(visit.client.id).unwrap().connects, 1);
    }

    /// Where a client of some of the servers is served.
    fn among(region: &Region, terms: &Terms, number: u8, set: &ServerSet) -> Target {
        let visit = begin(region, WORKER, terms, address(number), Verdicts::ALL, Some(set), NOW);
        let reservation = visit.reservation.unwrap();
        established(region, WORKER, terms, visit.client, &reservation, NOW);
        let target = reservation.target;
        give_back(region, WORKER, reservation);
        target
    }

    #[test]
    fn those_that_are_served_elsewhere_do_not_move_the_round_robin_of_a_set() {
        let region = region(&[80, 81, 82, 83, 84].map(Definition::local));
        let terms = Terms { rules: Rules { roundrobin: true, ..terms().rules }, ..terms() };
        let sets = [ServerSet::new([0, 1], 1), ServerSet::new([1, 2, 4], 2), ServerSet::new([3], 0)];
        let served_by: Vec<[u32; 4]> = (0..6)
            .map(|_| {
                let [a, b, c] = sets.each_ref().map(|set| among(&region, &terms, 1, set));
                [a, b, c, served(&region, &terms, 1, NOW)].map(|target| target.row() as u32)
            })
            .collect();
        let expected = [[1, 1, 3, 1], [0, 2, 3, 2], [1, 4, 3, 3], [0, 1, 3, 4], [1, 2, 3, 0], [0, 4, 3, 1]];
        assert_eq!(served_by, expected);
    }

    #[test]
    fn a_client_whose_last_server_is_for_others_is_a_new_one() {
        let (region, terms) = (region(&[80, 81, 82, 83].map(Definition::local)), terms());
        let set = ServerSet::new([2, 3], 1);
        assert_eq!(served(&region, &terms, 1, NOW), server(1));
        let come = || begin(&region, WORKER, &terms, address(1), Verdicts::ALL, Some(&set), NOW);
        let visits: Vec<Visit> = (0..3).map(|_| come()).collect();
        assert!(visits.iter().all(|visit| target(visit) == Some(server(2))), "all at once, to one server");
        let mut visits = visits.into_iter();
        let first = visits.next().unwrap();
        let who = (address(1), first.client);
        let place = first.reservation.unwrap();
        let next =
            fail(&region, WORKER, &terms, who, Verdicts::ALL, Some(&set), place, true, NOW).next.unwrap();
        assert_eq!(next.target, server(3));
        let place = fail(&region, WORKER, &terms, who, Verdicts::ALL, Some(&set), next, true, NOW);
        assert!(place.next.is_none(), "there are no more of them");
    }

    #[test]
    fn a_drained_servers_clients_stay_until_they_are_forgotten() {
        let terms = Terms { tracking: Seconds(60), ..terms() };
        let region = three();
        assert_eq!(served(&region, &terms, 1, NOW), server(1));
        let drained = |drain| {
            [Definition::local(80), Definition { drain, ..Definition::local(81) }, Definition::local(82)]
        };
        region.servers().publish(&drained(Drain::New), None, None).unwrap();
        assert_eq!([2, 3, 4].map(|client| served(&region, &terms, client, NOW)), [2, 0, 2].map(server));
        let held = come(&region, &terms, 1, NOW);
        assert_eq!(target(&held), Some(server(1)));
        region.servers().publish(&drained(Drain::All), None, None).unwrap();
        assert_eq!(region.ledger().load(server(1)), 1, "what is established stays");
        assert_eq!(target(&come(&region, &terms, 1, NOW)), Some(server(2)));
        region.servers().publish(&drained(Drain::New), None, None).unwrap();
        assert_eq!(served(&region, &terms, 1, NOW), server(1));
        let later = NOW.plus(Seconds(61));
        assert_eq!(served(&region, &terms, 1, later), server(0), "it is nobody's client any more");
        give_back(&region, WORKER, held.reservation.unwrap());
    }

    #[test]
    fn a_unix_socket_is_a_place_like_any_other() {
        let mut unix = Definition::local(80);
        unix.address = Some(SocketAddress::Unix("/run/x.sock".into()));
        let region = region(&[unix.clone()]);
        let visit = come(&region, &terms(), 1, NOW);
        assert_eq!(Some(visit.reservation.unwrap().address), unix.address);
    }

    #[test]
    fn a_place_says_how_its_server_is_spoken_to() {
        let region = region(&[Definition { tls: 7, ..Definition::local(80) }, Definition::local(81)]);
        let ways: Vec<u64> =
            [1, 2].map(|client| come(&region, &terms(), client, NOW).reservation.unwrap().tls).into();
        assert_eq!(ways, [0, 7]);
    }

    /// What can happen, to random visits, at random times.
    #[derive(Debug, Clone)]
    enum Event {
        Come { worker: u32, client: u8 },
        Answer(usize),
        Fail(usize),
        Vanish(usize),
        Kill(u32),
        Order { server: u32, seconds: u32 },
        List(Vec<u16>),
        Wait { milliseconds: u64 },
        Terms { blacklist: u32, timeout: u32, roundrobin: bool },
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let list = Just(vec![80u16, 81, 82]).prop_shuffle();
        prop_oneof![
            6 => (0u32..3, 0u8..6).prop_map(|(worker, client)| Event::Come { worker, client }),
            3 => any::<usize>().prop_map(Event::Answer),
            4 => any::<usize>().prop_map(Event::Fail),
            2 => any::<usize>().prop_map(Event::Vanish),
            1 => (0u32..3).prop_map(Event::Kill),
            1 => (0u32..3, 0u32..40).prop_map(|(server, seconds)| Event::Order { server, seconds }),
            1 => (list, 1usize..4).prop_map(|(mut list, length)| {
                list.truncate(length);
                Event::List(list)
            }),
            3 => (0u64..20_000).prop_map(|milliseconds| Event::Wait { milliseconds }),
            1 => (0u32..20, 1u32..20, any::<bool>()).prop_map(|(blacklist, timeout, roundrobin)| {
                Event::Terms { blacklist, timeout, roundrobin }
            }),
        ]
    }

    /// A visit under way: its worker, its client, whether the server has answered.
    struct UnderWay(WorkerId, u8, ClientRef, Reservation, bool);

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// From any state: the ledger says what there is, no limit is exceeded, and a server that answers again gets
        /// its share of the clients again.
        #[test]
        fn whatever_happened_counts_are_exact_and_every_server_is_used_again(
            events in prop::collection::vec(any_event(), 0..120), uptime in 0u32..60,
        ) {
            let defined = |ports: &[u16]| -> Vec<Definition> {
                ports.iter().map(|port| Definition { soft: 2, hard: 3, ..Definition::local(*port) }).collect()
            };
            let (region, mut terms) = (region(&defined(&[80, 81, 82])), terms());
            region.workers().set_count(3);
            let mut now = Moment(0).plus(Seconds(uptime));
            let mut list = vec![80, 81, 82];
            let mut visits: Vec<UnderWay> = Vec::new();
            for event in events {
                let pick = |at: usize, visits: &mut Vec<UnderWay>| {
                    if visits.is_empty() { None } else { Some(visits.swap_remove(at % visits.len())) }
                };
                match event {
                    Event::Come { worker, client } => {
                        let worker = WorkerId(worker);
                        let visit = begin(&region, worker, &terms, address(client), Verdicts::ALL, None, now);
                        let under_way = |it| UnderWay(worker, client, visit.client, it, false);
                        visits.extend(visit.reservation.map(under_way));
                    }
                    Event::Answer(at) => {
                        if let Some(UnderWay(worker, client, record, place, _)) = pick(at, &mut visits) {
                            established(&region, worker, &terms, record, &place, now);
                            visits.push(UnderWay(worker, client, record, place, true));
                        }
                    }
                    Event::Fail(at) => match pick(at, &mut visits) {
                        Some(UnderWay(worker, client, record, place, false)) => {
                            let who = (address(client), record);
                            let next = fail(&region, worker, &terms, who, Verdicts::ALL, None, place, true, now);
                            visits.extend(next.next.map(|it| UnderWay(worker, client, record, it, false)));
                        }
                        other => visits.extend(other),
                    },
                    Event::Vanish(at) => {
                        if let Some(UnderWay(worker, _, _, place, _)) = pick(at, &mut visits) {
                            give_back(&region, worker, place);
                        }
                    }
                    Event::Kill(worker) => {
                        region.reclaim(WorkerId(worker));
                        visits.retain(|visit| visit.0 != WorkerId(worker));
                    }
                    Event::Order { server: number, seconds } => {
                        region.servers().shun_for(server(number), Seconds(seconds), terms.blacklist, now);
                    }
                    Event::List(ports) => {
                        region.servers().publish(&defined(&ports), None, None).unwrap();
                        list = ports;
                    }
                    Event::Wait { milliseconds } => now = Moment(now.0 + milliseconds * 1000),
                    Event::Terms { blacklist, timeout, roundrobin } => {
                        let rules = Rules { roundrobin, ..terms.rules };
                        let (blacklist, timeout) = (Seconds(blacklist), Seconds(timeout));
                        terms = Terms { rules, blacklist, timeout, ..terms };
                    }
                }
                for (number, port) in (0..).zip(&list) {
                    let is_here = |it: &&UnderWay| it.3.address == Definition::local(*port).address.unwrap();
                    let there_are = visits.iter().filter(is_here).count() as u32;
                    prop_assert_eq!(region.ledger().load(server(number)), there_are);
                    prop_assert!(there_are <= 3);
                }
            }
            for UnderWay(worker, _, _, place, _) in visits {
                give_back(&region, worker, place);
            }
            // No order and no blacklist time was longer.
            now = now.plus(Seconds(60));
            terms.rules.roundrobin = true;
            let mut used: Vec<Target> = list.iter().map(|_| served(&region, &terms, 1, now)).collect();
            used.sort_by_key(|target| target.row());
            prop_assert_eq!(used, (0..list.len() as u32).map(server).collect::<Vec<_>>());
            for number in 0..list.len() as u32 {
                prop_assert_eq!(region.servers().record(server(number)), Record::default());
                prop_assert_eq!(region.ledger().load(server(number)), 0);
            }
        }
    }
}
