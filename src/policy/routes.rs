//! Which servers a client's connection is for, by the name that it asks for: `ssl_passthrough sni`.
//!
//! Servers with names (`server N sni NAME`) are for the clients that ask for one of these. All servers with a name are
//! candidates; who has it exactly comes before who has it by a wildcard. Clients that ask for no name, or for one that
//! no server has, are for the servers without names, and if there is no such server for all of them.
//!
//! Pure, and made once for each generation of settings: looking a name up costs the same however many there are.
//! Not here: what the name is (client_hello), which of the candidates it is to be (selection).

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::rc::Rc;
use std::slice;

use crate::model::ids::ServerId;
use crate::model::server_name::{NameIndex, NamePattern};
use crate::model::settings::Settings;

/// Some of the regular servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerSet {
    /// Their numbers, ascending.
    members: Box<[u32]>,
    rota: u32,
    generation: u64,
}

impl ServerSet {
    /// The servers of these numbers.
    pub fn new(members: impl IntoIterator<Item = u32>, rota: u32) -> Self {
        let mut members: Vec<u32> = members.into_iter().collect();
        members.sort_unstable();
        members.dedup();
        ServerSet { members: members.into(), rota, generation: 0 }
    }

    /// The generation of the settings whose servers have these numbers.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Names its round robin, which goes on from where it stopped whoever is served elsewhere meanwhile. No two sets
    /// of the same [`Routes`] have the same.
    pub fn rota(&self) -> u32 {
        self.rota
    }

    /// Is it one of them?
    pub fn contains(&self, server: ServerId) -> bool {
        self.members.binary_search(&server.0).is_ok()
    }

    /// All of them, ascending.
    pub fn members(&self) -> &[u32] {
        &self.members
    }

    /// Those in a range of numbers.
    fn within(&self, range: &Range<u32>) -> &[u32] {
        let position = |number: u32| self.members.partition_point(|member| *member < number);
        self.members.get(position(range.start)..position(range.end)).unwrap_or_default()
    }
}

/// Numbers of servers, ascending.
#[derive(Debug, Clone)]
pub enum Numbers<'a> {
    /// All that there are.
    All(Range<u32>),
    /// Those of a set.
    Some(slice::Iter<'a, u32>),
}

impl<'a> Numbers<'a> {
    /// Those in the range; with a set, those of it.
    #[inline]
    pub fn new(among: Option<&'a ServerSet>, range: Range<u32>) -> Self {
        match among {
            None => Numbers::All(range),
            Some(set) => Numbers::Some(set.within(&range).iter()),
        }
    }
}

impl Iterator for Numbers<'_> {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        match self {
            Numbers::All(range) => range.next(),
            Numbers::Some(members) => members.next().copied(),
        }
    }
}

/// Who is for whom.
#[derive(Debug)]
pub struct Routes {
    by_name: NameIndex<Rc<ServerSet>>,
    /// For the clients that ask for nobody's name; none: all servers are.
    others: Option<Rc<ServerSet>>,
}

impl Routes {
    /// None: names do not matter.
    pub fn of(settings: &Settings) -> Option<Routes> {
        if !settings.tls.passthrough {
            return None;
        }
        let mut nameless = Vec::new();
        let mut by_name: BTreeMap<&NamePattern, Vec<u32>> = BTreeMap::new();
        for (number, spec) in (0..).zip(&settings.servers).filter(|(_, spec)| spec.host.is_some()) {
            if spec.sni.is_empty() {
                nameless.push(number);
            }
            for name in &spec.sni {
                by_name.entry(name).or_default().push(number);
            }
        }
        // Names of the same servers share a round robin, too.
        let mut sets: HashMap<Vec<u32>, Rc<ServerSet>> = HashMap::new();
        let set_of = |members: &[u32], rota| {
            let set = ServerSet::new(members.iter().copied(), rota);
            Rc::new(ServerSet { generation: settings.generation, ..set })
        };
        let mut index = NameIndex::default();
        for (name, members) in by_name {
            let rota = sets.len() as u32 + 1;
            let set = sets.entry(members).or_insert_with_key(|members| set_of(members, rota));
            index.add(name, Rc::clone(set));
        }
        let others = (!nameless.is_empty()).then(|| set_of(&nameless, 0));
        Some(Routes { by_name: index, others })
    }

    /// The servers for a client that asks for this name, or for none; none: all of them are.
    pub fn find(&self, name: Option<&str>) -> Option<&Rc<ServerSet>> {
        name.and_then(|name| self.by_name.find(name)).or(self.others.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address::ServerSpec;

    fn settings(names: &[&[&str]]) -> Settings {
        let spec = |names: &&[&str]| {
            let sni = names.iter().map(|name| name.parse().unwrap()).collect();
            ServerSpec { sni, ..ServerSpec::unset() }
        };
        let mut settings = Settings { servers: names.iter().map(spec).collect(), ..Settings::default() };
        for spec in &mut settings.servers {
            spec.host = Some("127.0.0.1".parse().unwrap());
        }
        settings.tls.passthrough = true;
        settings
    }

    fn found(settings: &Settings, name: Option<&str>) -> Option<Vec<u32>> {
        let routes = Routes::of(settings).unwrap();
        routes.find(name).map(|set| set.members().to_vec())
    }

    #[test]
    fn names_matter_only_where_tls_is_passed_through() {
        let mut settings = settings(&[&["a.test"]]);
        settings.tls.passthrough = false;
        assert!(Routes::of(&settings).is_none());
    }

    #[test]
    fn a_name_leads_to_all_servers_that_have_it_and_others_to_those_that_have_none() {
        let settings =
            settings(&[&["a.test"], &[], &["b.test", "*.test"], &["a.test", "a.test"], &["c.example"], &[]]);
        for (name, servers) in [
            (Some("a.test"), [0, 3].as_slice()),
            (Some("A.TEST."), &[0, 3]),
            (Some("b.test"), &[2]),
            (Some("d.test"), &[2]),
            (Some("c.example"), &[4]),
            (Some("d.example"), &[1, 5]),
            (Some("../a.test"), &[1, 5]),
            (Some(""), &[1, 5]),
            (None, &[1, 5]),
        ] {
            assert_eq!(found(&settings, name).as_deref(), Some(servers), "{name:?}");
        }
    }

    #[test]
    fn where_all_servers_have_names_all_are_for_the_others() {
        let mut settings = settings(&[&["a.test"], &["b.test"]]);
        assert_eq!(found(&settings, None), None);
        assert_eq!(found(&settings, Some("a.test")), Some(vec![0]));
        settings.servers.push(ServerSpec::unset());
        assert_eq!(found(&settings, None), None, "nobody can be served by an empty slot");
    }

    #[test]
    fn sets_take_turns_of_their_own_and_the_same_set_only_one() {
        let settings = settings(&[&["a.test", "b.test"], &["a.test", "b.test", "c.test"], &["c.test"], &[]]);
        let routes = Routes::of(&settings).unwrap();
        let rota = |name| routes.find(name).unwrap().rota();
        assert_eq!(rota(Some("a.test")), rota(Some("b.test")));
        let mut all = [Some("a.test"), Some("c.test"), None].map(rota);
        all.sort_unstable();
        assert_eq!(all, [0, 1, 2]);
    }

    #[test]
    fn a_set_has_its_members_in_every_range() {
        let set = ServerSet::new([5, 1, 9, 5], 0);
        let within = |range| Numbers::new(Some(&set), range).collect::<Vec<u32>>();
        assert_eq!(within(0..10), [1, 5, 9]);
        assert_eq!(within(1..9), [1, 5]);
        assert_eq!(within(2..5), [0; 0]);
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = 9..2;
        assert_eq!(within(backwards), [0; 0]);
        assert!(set.contains(ServerId(9)) && !set.contains(ServerId(2)));
        assert!(Numbers::new(None, 3..5).eq([3, 4]));
    }
}
