//! `explain`: which server a client would get now, and why.
//!
//! For people, but steady enough for scripts: a fact a line, `WHAT: FACT`. A server's line begins as in the reply of
//! `servers`; after that come its state, what its access list says and whether it takes the client, with `; ` between
//! them. See pen(1), COMMANDS.
//!
//! ```text
//! client: 192.0.2.7
//! client_acl: list 1 permits, by entry 2 of 3: acl 1 permit 192.0.2.0 255.255.255.0
//! last server: 1, seen 34 s ago
//! first choice: server 1, by last server
//! goes to: server 2, 127.0.0.1 port 82
//! server 0: addr 127.0.0.1 port 80 conn 0 max 0 hard 0 weight 0 prio 0; available; acl 0 permits; takes it
//! server 1: addr 127.0.0.1 port 81 conn 0 max 0 hard 0 weight 0 prio 0; a probe is under way; acl 0 permits; …
//! ```
//!
//! The choice is that of [`preview`], which is the one that a visit would make: here it only gets words.

use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::rc::Rc;

use super::status::{in_use, shown, spec, wanted, why_unusable, with_proxy};
use crate::model::address::{ClientAddress, Drain};
use crate::model::ids::{AclId, Target};
use crate::model::listen::Protocol;
use crate::model::proxy::ProxySend;
use crate::model::settings::{AclEntry, Network, Settings};
use crate::model::time::Moment;
use crate::policy::acl::Verdicts;
use crate::policy::routes::{Routes, ServerSet};
use crate::policy::selection::{Refusal, Rule};
use crate::shared::lock::Busy;
use crate::shared::preview::{Candidate, Preview, preview};
use crate::shared::region::Region;
use crate::shared::visits::Terms;

/// What would happen to this client now? Nothing is changed by asking. `verdicts` and `country` are what the access
/// lists and the country database say of it.
///
/// # Errors
/// [`Busy`] if a worker holds the lock of the shared tables and does not let go.
pub fn explain(
    region: &Region,
    settings: &Settings,
    verdicts: Verdicts,
    country: Option<[u8; 2]>,
    client: ClientAddress,
    now: Moment,
) -> Result<String, Busy> {
    // What name the client would ask for is not known.
    let routes = Routes::of(settings);
    let among = routes.as_ref().and_then(|routes| routes.find(None)).map(Rc::as_ref);
    let preview = preview(region, &Terms::from(settings), client, verdicts, among, now)?;
    Ok(Telling { region, settings, among, verdicts, country, client, now, preview }.text())
}

/// All that the words are made from.
struct Telling<'a> {
    region: &'a Region,
    settings: &'a Settings,
    /// The servers for clients that ask for no name; none: all of them.
    among: Option<&'a ServerSet>,
    verdicts: Verdicts,
    country: Option<[u8; 2]>,
    client: ClientAddress,
    now: Moment,
    preview: Preview,
}

impl Telling<'_> {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut fact = |what: &dyn fmt::Display, fact: &str| {
            writeln!(text, "{what}: {fact}").expect("a String takes every write");
        };
        fact(&"client", &self.client.to_string());
        if let Some(country) = self.country {
            fact(&"country", &country.map(char::from).iter().collect::<String>());
        }
        if self.settings.dummy {
            fact(&"dummy", "on: no server is used; this is how it would be without");
        }
        if let Some(shortage) = self.shortage() {
            fact(&"waits", &shortage);
        }
        if self.among.is_some() {
            fact(&"name", "none asked for: servers with names are for others");
        }
        if let Some(list) = self.settings.proxy_accept {
            fact(&"proxy_accept", &self.proxy_accept(list));
        }
        fact(&"client_acl", &self.client_acl());
        fact(&"last server", &self.last_server());
        fact(&"first choice", &self.first_choice());
        fact(&"goes to", &self.destination());
        for candidate in &self.preview.candidates {
            fact(&format_args!("server {}", candidate.target), &self.server(candidate));
        }
        for target in [Target::Emergency, Target::Abuse] {
            if self.candidate(target).is_none()
                && let wanted_spec @ Some(_) = spec(self.settings, target)
            {
                let ((place, port), why) = (wanted(wanted_spec), why_unusable(wanted_spec));
                fact(&format_args!("server {target}"), &format!("addr {} port {port}; {why}", place.word));
            }
        }
        let is_regular = |candidate: &&Candidate| matches!(candidate.target, Target::Server(_));
        let listed = self.preview.candidates.iter().filter(is_regular).count();
        let left_out = (self.preview.servers as usize).saturating_sub(listed);
        if left_out > 0 {
            fact(&"not listed", &format!("{left_out} more servers"));
        }
        text
    }

    /// Why the client would not be accepted at once.
    fn shortage(&self) -> Option<String> {
        let (slots, pending) = (self.region.slots(), self.region.workers().pending());
        let [tcp, udp] = [Protocol::Tcp, Protocol::Udp].map(|it| self.settings.listens_with(it));
        if slots.used() >= slots.capacity() {
            let capacity = slots.capacity();
            Some(match (tcp, udp) {
                (false, true) => format!("for nothing, but another flow ends: all {capacity} are in use"),
                (true, true) => format!(
                    "until a connection ends: all {capacity} are in use; for a datagram another flow ends"
                ),
                (_, false) => format!("until a connection ends: all {capacity} are in use"),
            })
        } else if pending >= self.settings.pending_max && (tcp || !udp) {
            Some(format!("until a connect has ended: {pending} are under way, and that is pending_max"))
        } else {
            None
        }
    }

    /// The rest is about a client of this address, whoever tells it.
    fn proxy_accept(&self, list: AclId) -> String {
        let permits = self.verdicts.permits(list);
        let so = match permits {
            true => "it must begin with a header that names the client",
            false => "it is let in if the header of another names it",
        };
        format!("list {list} {}: {so}", verdict(permits))
    }

    fn client_acl(&self) -> String {
        let list = self.settings.client_acl;
        let verdict = verdict(self.verdicts.permits(list));
        let entries = &self.settings.acls[list.index()];
        let because = match deciding(entries, self.client, self.country) {
            Deciding::NoEntries => ": it is empty".to_owned(),
            Deciding::Unix => ": clients of a Unix socket always pass".to_owned(),
            Deciding::Entry(place, entry) => {
                let text = entry_text(entry);
                format!(", by entry {} of {}: acl {list} {text}", place + 1, entries.len())
            }
            Deciding::Opposite(last) => {
                let text = entry_text(last);
                format!(", no entry matches: the opposite of the last, acl {list} {text}")
            }
        };
        format!("list {list} {verdict}{because}")
    }

    fn last_server(&self) -> String {
        let Some(record) = self.preview.record else {
            return "none, the client is not remembered".to_owned();
        };
        let seen = format!("seen {} s ago", self.now.seconds_since(record.last_used));
        if self.preview.expired {
            let tracking = self.settings.tracking;
            return format!("none, the client is forgotten: {seen}, and the tracking time is {tracking} s");
        }
        let Some(server) = record.server else {
            return format!("none, the client was {seen}");
        };
        let foreign = self.among.is_some_and(|set| !set.contains(server));
        let unused = match (self.settings.forgetful, self.settings.roundrobin) {
            (true, _) => "; without meaning because of -N",
            (false, true) => "; not asked for because of roundrobin",
            (false, false) if foreign => "; not asked for because it has names",
            (false, false) => "",
        };
        format!("{server}, {seen}{unused}")
    }

    fn first_choice(&self) -> String {
        let rule = match self.preview.decision.rule {
            Rule::Denied => return "none, client_acl refuses the client".to_owned(),
            Rule::LastServer => "last server".to_owned(),
            Rule::Prio => "prio".to_owned(),
            Rule::Weight => "weight".to_owned(),
            Rule::Hash if !self.settings.roundrobin => "hash".to_owned(),
            Rule::Hash => match self.client {
                ClientAddress::Inet(_, port) => {
                    format!("hash of address and port, here {port}: another port may lead elsewhere")
                }
                ClientAddress::Unix => "hash".to_owned(),
            },
            Rule::RoundRobin => "round robin".to_owned(),
        };
        match self.preview.decision.first {
            Some(first) => format!("server {first}, by {rule}"),
            None if self.preview.servers == 0 => "none, there are no servers".to_owned(),
            None => format!("none, by {rule}: no server is available"),
        }
    }

    fn destination(&self) -> String {
        let Some(choice) = self.preview.decision.choice else {
            return format!("nobody, the connection is closed: {}", self.why_closed());
        };
        let (place, port) = self.place(choice.target);
        let because = match choice.target {
            Target::Server(server) if self.preview.decision.first != Some(server) => {
                match self.preview.decision.first.and_then(|first| self.why_not(Target::Server(first))) {
                    Some(reason) => format!(", because the first choice does not take it: {reason}"),
                    None => String::new(),
                }
            }
            Target::Server(_) => String::new(),
            Target::Emergency => ", the emergency server, because no other takes it".to_owned(),
            Target::Abuse => ", the abuse server, because client_acl refuses it".to_owned(),
        };
        format!("server {}, {place} port {port}{because}", choice.target)
    }

    fn why_closed(&self) -> String {
        let decision = &self.preview.decision;
        if self.settings.stubborn && decision.rule != Rule::Denied {
            return match decision.first.and_then(|first| self.why_not(Target::Server(first))) {
                Some(reason) => format!("stubborn, and the first choice does not take it: {reason}"),
                None => "stubborn, and there is no first choice".to_owned(),
            };
        }
        let (because, target, name) = match decision.rule {
            Rule::Denied => ("client_acl refuses it", Target::Abuse, "abuse"),
            _ => ("no server takes it", Target::Emergency, "emergency"),
        };
        match (self.why_not(target), spec(self.settings, target)) {
            (Some(reason), _) => format!("{because}, nor does the {name} server: {reason}"),
            (None, wanted @ Some(_)) => {
                format!("{because}, nor does the {name} server: {}", why_unusable(wanted))
            }
            (None, None) => format!("{because}, and there is no {name} server"),
        }
    }

    fn server(&self, candidate: &Candidate) -> String {
        let Candidate { target, view, record, load, .. } = candidate;
        let (place, port) = self.place(*target);
        let state = if view.usable {
            in_use(*record, view.drain, self.settings.blacklist, self.now)
        } else {
            why_unusable(spec(self.settings, *target)).to_owned()
        };
        let list = match target {
            Target::Server(_) => format!("acl {} {}", view.acl, verdict(self.verdicts.permits(view.acl))),
            Target::Emergency | Target::Abuse => "no acl".to_owned(),
        };
        let end = match (self.why_not_asked(*target), self.why_not(*target)) {
            (Some(reason), _) => format!("not asked: {reason}"),
            (None, Some(reason)) => format!("does not take it: {reason}"),
            (None, None) => "takes it".to_owned(),
        };
        let proxy = self.region.servers().definition(*target).map_or(ProxySend::Off, |it| it.proxy);
        format!(
            "addr {place} port {port} conn {load} max {} hard {} weight {} prio {}{}; {state}; {list}; {end}",
            view.soft,
            view.hard,
            view.weight,
            view.prio,
            with_proxy(proxy),
        )
    }

    /// Would nobody ask this server, whatever its state is?
    fn why_not_asked(&self, target: Target) -> Option<&'static str> {
        let decision = &self.preview.decision;
        match (decision.rule, target) {
            (Rule::Denied, Target::Abuse) => None,
            (Rule::Denied, _) => Some("client_acl refuses the client"),
            (_, Target::Abuse) => Some("client_acl permits the client"),
            (_, Target::Emergency) if self.settings.stubborn => Some("stubborn"),
            (_, Target::Emergency) => None,
            (_, Target::Server(server)) => match decision.first {
                None => Some("there is no first choice to go on from"),
                Some(first) if self.settings.stubborn && first != server => Some("stubborn"),
                Some(_) => None,
            },
        }
    }

    /// Why a server that is listed does not take the client.
    fn why_not(&self, target: Target) -> Option<String> {
        let candidate = self.candidate(target)?;
        Some(match candidate.refusal? {
            Refusal::Missing => "there is no such server".to_owned(),
            Refusal::NoAddress => why_unusable(spec(self.settings, target)).to_owned(),
            Refusal::Shunned => in_use(candidate.record, Drain::No, self.settings.blacklist, self.now),
            Refusal::Draining(Drain::All) => "draining, all".to_owned(),
            Refusal::Draining(Drain::New | Drain::No) => "draining, for new clients".to_owned(),
            Refusal::List(list) => format!("acl {list} refuses"),
            Refusal::Full { load, most } => format!("full, {load} of {most}"),
        })
    }

    fn candidate(&self, target: Target) -> Option<&Candidate> {
        self.preview.candidates.iter().find(|candidate| candidate.target == target)
    }

    /// Address and port.
    fn place(&self, target: Target) -> (String, u16) {
        let address = self.region.servers().definition(target).and_then(|definition| definition.address);
        let (place, port) = address.map_or_else(|| wanted(spec(self.settings, target)), |it| shown(&it));
        (place.word, port)
    }
}

fn verdict(permits: bool) -> &'static str {
    if permits { "permits" } else { "refuses" }
}

/// As the command `acl N` takes it.
fn entry_text(entry: &AclEntry) -> String {
    format!("{} {}", if entry.permit { "permit" } else { "deny" }, entry.network)
}

/// What decides on a client.
#[derive(Debug, PartialEq, Eq)]
enum Deciding<'a> {
    /// An empty list permits.
    NoEntries,
    /// Lists are about addresses, and this client has none.
    Unix,
    /// The first that matches, and its place from 0.
    Entry(usize, &'a AclEntry),
    /// None matches; this is the last one.
    Opposite(&'a AclEntry),
}

/// The rule of access lists, entry by entry.
fn deciding(entries: &[AclEntry], client: ClientAddress, country: Option<[u8; 2]>) -> Deciding<'_> {
    let (Some(last), ClientAddress::Inet(ip, _)) = (entries.last(), client) else {
        return if entries.is_empty() { Deciding::NoEntries } else { Deciding::Unix };
    };
    let matches = |entry: &AclEntry| matches(&entry.network, ip, country);
    match entries.iter().position(matches) {
        Some(place) => Deciding::Entry(place, &entries[place]),
        None => Deciding::Opposite(last),
    }
}

fn matches(network: &Network, client: IpAddr, country: Option<[u8; 2]>) -> bool {
    match (network, client) {
        (Network::V4(address, mask), IpAddr::V4(client)) => {
            client.to_bits() & mask.to_bits() == address.to_bits()
        }
        (Network::V6(address, length), IpAddr::V6(client)) => {
            let mask = !u128::MAX.checked_shr((*length).into()).unwrap_or(0);
            client.to_bits() & mask == address.to_bits()
        }
        (Network::Country(letters), _) => country.is_some_and(|country| letters.as_bytes() == country),
        (Network::V4(..), IpAddr::V6(_)) | (Network::V6(..), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests;
