//! Access lists, compiled.
//!
//! The first entry that matches decides; if none does, the opposite of the last entry's action; an empty list
//! permits. Entries of the other address family, and countries where the client's is not known, match nobody, but a
//! last one counts for the opposite. Clients of a Unix socket always pass. See pen(1), acl.
//!
//! The lists become sorted ranges of addresses, each with the entry that is first there, so that a list of
//! thousands costs a client a dozen comparisons; countries likewise become a sorted table with the first entry of
//! each. IPv4 masks with gaps are legal but make no ranges: those entries are asked one by one, as far as they stand
//! before the entry that the ranges found.
//!
//! Not here: which country a client is in. Whoever asks brings the answer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;

use crate::model::address::ClientAddress;
use crate::model::ids::AclId;
use crate::model::settings::{AclEntry, Network};

/// The verdicts of all ten lists on one client, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdicts(u16);

impl Verdicts {
    /// Every list lets the client in.
    pub const ALL: Verdicts = Verdicts(u16::MAX);

    /// Does this list let the client in?
    pub fn permits(self, list: AclId) -> bool {
        self.0 & (1 << list.index()) != 0
    }

    /// The same, but list number `index` refuses.
    fn refused_by(self, index: usize) -> Self {
        Verdicts(self.0 & !(1 << index))
    }
}

/// The ten lists in a form that is quick to ask.
#[derive(Debug, Clone)]
pub struct AccessLists {
    /// Those that have entries, with their numbers.
    lists: Vec<(usize, List)>,
    wants_countries: bool,
}

impl AccessLists {
    /// Compiles the lists. Takes O(n log n) for n entries, and memory for at most 2n ranges.
    pub fn compile(lists: &[Vec<AclEntry>; AclId::COUNT]) -> Self {
        let compile = |(index, entries): (usize, &Vec<AclEntry>)| Some((index, List::compile(entries)?));
        let lists: Vec<(usize, List)> = lists.iter().enumerate().filter_map(compile).collect();
        let wants_countries = lists.iter().any(|(_, list)| !list.countries.is_empty());
        AccessLists { lists, wants_countries }
    }

    /// Is there any entry for a country?
    pub fn wants_countries(&self) -> bool {
        self.wants_countries
    }

    /// What each list says of this client. Costs nothing when all lists are empty. `country` finds the two letters,
    /// in capitals, of the country that an address belongs to; asked at most once, and not without an entry for any.
    pub fn verdicts(
        &self,
        client: &ClientAddress,
        country: impl FnOnce(IpAddr) -> Option<[u8; 2]>,
    ) -> Verdicts {
        let ClientAddress::Inet(address, _) = client else {
            return Verdicts::ALL;
        };
        let country = if self.wants_countries { country(*address) } else { None };
        let refusing = self.lists.iter().filter(|(_, list)| !list.permits(*address, country));
        refusing.fold(Verdicts::ALL, |verdicts, (index, _)| verdicts.refused_by(*index))
    }
}

/// An entry's place in its list, and what it says. Ordered by place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Verdict {
    place: u32,
    permit: bool,
}

/// One list that is not empty.
#[derive(Debug, Clone)]
struct List {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
    /// The IPv4 entries whose masks have gaps, in order: address, mask, verdict.
    gapped: Vec<(u32, u32, Verdict)>,
    /// Each country that is named, by its letters, with its first entry.
    countries: Vec<([u8; 2], Verdict)>,
    /// Clients that no entry matches.
    otherwise: bool,
}

impl List {
    /// None for an empty list.
    fn compile(entries: &[AclEntry]) -> Option<Self> {
        let otherwise = !entries.last()?.permit;
        let (mut v4, mut v6, mut gapped, mut countries) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (place, AclEntry { permit, network }) in (0..).zip(entries) {
            let verdict = Verdict { place, permit: *permit };
            match network {
                Network::V4(address, mask) => {
                    let (address, mask) = (u32::from(*address), u32::from(*mask));
                    if address & !mask != 0 {
                        continue; // no client AND mask can be equal to it
                    }
                    if mask.leading_ones() + mask.trailing_zeros() == u32::BITS {
                        v4.push(EntryRange { start: address, end: address | !mask, verdict });
                    } else {
                        gapped.push((address, mask, verdict));
                    }
                }
                Network::V6(address, prefix) => {
                    let address = u128::from(*address);
                    let host = u128::MAX.checked_shr((*prefix).into()).unwrap_or(0);
                    if address & host == 0 {
                        v6.push(EntryRange { start: address, end: address | host, verdict });
                    }
                }
                Network::Country(letters) => {
                    countries.extend(letters.as_bytes().try_into().ok().map(|letters| (letters, verdict)));
                }
            }
        }
        countries.sort_unstable();
        countries.dedup_by_key(|(letters, _)| *letters);
        Some(List { v4: Ranges::of(v4), v6: Ranges::of(v6), gapped, countries, otherwise })
    }

    fn permits(&self, client: IpAddr, country: Option<[u8; 2]>) -> bool {
        let by_address = self.first_of_address(client);
        let by_country = country.and_then(|letters| self.first_of_country(letters));
        let first = by_address.into_iter().chain(by_country).min();
        first.map_or(self.otherwise, |verdict| verdict.permit)
    }

    fn first_of_country(&self, letters: [u8; 2]) -> Option<Verdict> {
        let found = self.countries.binary_search_by_key(&letters, |(letters, _)| *letters).ok()?;
        Some(self.countries[found].1)
    }

    fn first_of_address(&self, client: IpAddr) -> Option<Verdict> {
        match client {
            IpAddr::V4(address) => {
                let address = u32::from(address);
                let found = self.v4.first(address);
                let before = |verdict: &Verdict| found.is_none_or(|found| *verdict < found);
                let mut earlier = self.gapped.iter().take_while(|(_, _, verdict)| before(verdict));
                let gapped = earlier.find(|(wanted, mask, _)| address & mask == *wanted);
                gapped.map(|(_, _, verdict)| *verdict).or(found)
            }
            IpAddr::V6(address) => self.v6.first(u128::from(address)),
        }
    }
}

/// The addresses that one entry matches, both ends included.
#[derive(Debug, Clone, Copy)]
struct EntryRange<A> {
    start: A,
    end: A,
    verdict: Verdict,
}

/// Disjoint ranges of addresses, each with the first entry that matches there, if one does. A range goes from
/// its start to the next one's; addresses before the first start match nothing.
#[derive(Debug, Clone)]
struct Ranges<A>(Vec<(A, Option<Verdict>)>);

impl<A: Address> Ranges<A> {
    fn of(mut entries: Vec<EntryRange<A>>) -> Self {
        entries.sort_unstable_by_key(|entry| entry.start);
        // The answer can change only where a entry starts or just after one ends.
        let ends = entries.iter().filter_map(|entry| entry.end.next());
        let mut starts: Vec<A> = entries.iter().map(|entry| entry.start).chain(ends).collect();
        starts.sort_unstable();
        starts.dedup();

        let mut ranges: Vec<(A, Option<Verdict>)> = Vec::new();
        let mut coming = entries.into_iter().peekable();
        // The entries begun so far, first entry on top. Those that have ended are thrown out when they come up.
        let mut begun = BinaryHeap::new();
        for start in starts {
            while let Some(entry) = coming.next_if(|entry| entry.start == start) {
                begun.push(Reverse((entry.verdict, entry.end)));
            }
            while begun.peek().is_some_and(|Reverse((_, end))| *end < start) {
                begun.pop();
            }
            let first = begun.peek().map(|Reverse((verdict, _))| *verdict);
            if ranges.last().is_none_or(|(_, before)| *before != first) {
                ranges.push((start, first));
            }
        }
        ranges.shrink_to_fit();
        Ranges(ranges)
    }

    fn first(&self, address: A) -> Option<Verdict> {
        let next = self.0.partition_point(|(start, _)| *start <= address);
        self.0[..next].last().and_then(|(_, first)| *first)
    }
}

/// An address as a number.
trait Address: Copy + Ord {
    /// The number after it, unless it is the last.
    fn next(self) -> Option<Self>;
}

impl Address for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Address for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

    /// `permit 127.0.0.2`, `deny 10.0.0.0 255.0.0.0`, `permit 2001:db8::/127`, `deny SE`.
    fn entry(text: &str) -> AclEntry {
        let words: Vec<&str> = text.split_whitespace().collect();
        let network = match (words[1].split_once('/'), words.get(2)) {
            (Some((address, prefix)), _) => Network::V6(address.parse().unwrap(), prefix.parse().unwrap()),
            (None, Some(mask)) => Network::V4(words[1].parse().unwrap(), mask.parse().unwrap()),
            (None, None) if words[1].len() == 2 => Network::Country(words[1].to_string()),
            (None, None) => Network::V4(words[1].parse().unwrap(), Ipv4Addr::BROADCAST),
        };
        AclEntry { permit: words[0] == "permit", network }
    }

    fn only(list: usize, entries: Vec<AclEntry>) -> AccessLists {
        let mut lists: [Vec<AclEntry>; AclId::COUNT] = Default::default();
        lists[list] = entries;
        AccessLists::compile(&lists)
    }

    fn client(address: &str) -> ClientAddress {
        SocketAddr::new(address.parse().unwrap(), 4711).into()
    }

    fn acl(number: u32) -> AclId {
        AclId::new(number).unwrap()
    }

    /// The world of these tests: 127.0.0.3 is in DK, the rest of 127.0.0.0/8 in SE; ::1 too, and nobody knows of others.
    fn country(address: IpAddr) -> Option<[u8; 2]> {
        match address {
            IpAddr::V4(address) if address == Ipv4Addr::new(127, 0, 0, 3) => Some(*b"DK"),
            _ => address.is_loopback().then_some(*b"SE"),
        }
    }

    /// Those of the clients that a list of these entries lets in.
    fn admitted<'a>(entries: &[&str], clients: &[&'a str]) -> Vec<&'a str> {
        let lists = only(1, entries.iter().map(|text| entry(text)).collect());
        let admits = |address: &&&str| lists.verdicts(&client(address), country).permits(acl(1));
        clients.iter().filter(admits).copied().collect()
    }

    #[test]
    fn empty_lists_permit_everybody() {
        let lists = AccessLists::compile(&Default::default());
        assert_eq!(lists.verdicts(&client("127.0.0.1"), country), Verdicts::ALL);
        assert_eq!(lists.verdicts(&client("::1"), country), Verdicts::ALL);
    }

    #[test]
    fn a_list_of_permits_refuses_the_rest() {
        assert_eq!(admitted(&["permit 127.0.0.2"], &["127.0.0.2", "127.0.0.3", "::1"]), ["127.0.0.2"]);
    }

    #[test]
    fn a_list_of_denies_permits_the_rest() {
        assert_eq!(admitted(&["deny 127.0.0.2"], &["127.0.0.2", "127.0.0.3", "::1"]), ["127.0.0.3", "::1"]);
    }

    #[test]
    fn the_last_entry_decides_for_those_that_none_matches() {
        let entries = ["permit 127.0.0.2", "deny 127.0.0.3"];
        let clients = ["127.0.0.2", "127.0.0.3", "127.0.0.4"];
        assert_eq!(admitted(&entries, &clients), ["127.0.0.2", "127.0.0.4"]);
    }

    #[test]
    fn the_first_match_decides() {
        let entries = ["deny 127.0.0.3", "permit 127.0.0.0 255.255.255.0"];
        let clients = ["127.0.0.3", "127.0.0.2", "127.0.1.1"];
        assert_eq!(admitted(&entries, &clients), ["127.0.0.2"]);
        let entries = ["permit 127.0.0.0 255.255.255.0", "deny 127.0.0.3", "permit 10.0.0.1"];
        assert_eq!(admitted(&entries, &clients), ["127.0.0.3", "127.0.0.2"]);
    }

    #[test]
    fn ipv6_goes_by_prefix() {
        let clients = ["2001:db8::1", "2001:db8::2", "::1", "127.0.0.1"];
        assert_eq!(admitted(&["permit 2001:db8::/127"], &clients), ["2001:db8::1"]);
        assert_eq!(admitted(&["permit ::/0"], &clients), ["2001:db8::1", "2001:db8::2", "::1"]);
        assert_eq!(admitted(&["deny ::1/128"], &clients), ["2001:db8::1", "2001:db8::2", "127.0.0.1"]);
    }

    #[test]
    fn a_mapped_client_of_a_dual_stack_listener_is_an_ipv4_client() {
        assert_eq!(admitted(&["permit 127.0.0.2"], &["::ffff:127.0.0.2"]), ["::ffff:127.0.0.2"]);
        assert_eq!(admitted(&["deny 127.0.0.2"], &["::ffff:127.0.0.2"]), [""; 0]);
    }

    #[test]
    fn masks_reach_from_everybody_to_the_last_address() {
        let clients = ["0.0.0.0", "255.255.255.255", "::"];
        assert_eq!(admitted(&["permit 0.0.0.0 0.0.0.0"], &clients), ["0.0.0.0", "255.255.255.255"]);
        assert_eq!(admitted(&["permit 255.255.255.255"], &clients), ["255.255.255.255"]);
        assert_eq!(admitted(&["permit ffff::/16"], &["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]).len(), 1);
    }

    #[test]
    fn masks_with_gaps_keep_their_place_in_the_order() {
        let even_third = "deny 10.0.0.0 255.0.1.0";
        let clients = ["10.1.2.3", "10.1.3.3", "11.0.0.1"];
        assert_eq!(admitted(&[even_third], &clients), ["10.1.3.3", "11.0.0.1"]);
        assert_eq!(admitted(&["permit 10.1.2.3", even_third], &clients), clients);
        assert_eq!(admitted(&[even_third, "permit 10.0.0.0 255.0.0.0"], &clients), ["10.1.3.3"]);
    }

    #[test]
    fn an_entry_with_bits_outside_its_mask_matches_nobody() {
        assert_eq!(admitted(&["permit 127.0.0.2 255.255.255.0"], &["127.0.0.2", "127.0.0.0"]), [""; 0]);
        assert_eq!(admitted(&["permit ::1/64"], &["::1", "::"]), [""; 0]);
    }

    #[test]
    fn countries_match_the_clients_that_are_there() {
        let clients = ["127.0.0.2", "127.0.0.3", "::1", "10.0.0.1", "2001:db8::1"];
        assert_eq!(admitted(&["permit SE"], &clients), ["127.0.0.2", "::1"]);
        assert_eq!(admitted(&["deny SE"], &clients), ["127.0.0.3", "10.0.0.1", "2001:db8::1"]);
        assert_eq!(admitted(&["permit SE", "permit DK"], &clients), ["127.0.0.2", "127.0.0.3", "::1"]);
        assert_eq!(admitted(&["permit NO"], &clients), [""; 0]);
        assert_eq!(admitted(&["permit SE"], &["::ffff:127.0.0.2"]), ["::ffff:127.0.0.2"]);
    }

    #[test]
    fn countries_and_addresses_decide_in_the_order_of_the_list() {
        let clients = ["127.0.0.2", "127.0.0.3", "127.0.0.4", "::1", "10.0.0.1"];
        let hole = ["deny 127.0.0.2", "permit SE"];
        assert_eq!(admitted(&hole, &clients), ["127.0.0.4", "::1"]);
        let too_late = ["permit SE", "deny 127.0.0.2"];
        assert_eq!(admitted(&too_late, &clients), ["127.0.0.2", "127.0.0.3", "127.0.0.4", "::1", "10.0.0.1"]);
        let more = ["permit 10.0.0.1", "deny SE", "permit 127.0.0.0 255.255.255.0"];
        assert_eq!(admitted(&more, &clients), ["127.0.0.3", "10.0.0.1"]);
        let gaps = ["deny DK", "permit 0.0.0.1 0.0.0.1", "deny SE"];
        assert_eq!(admitted(&gaps, &["127.0.0.3", "127.0.0.5", "127.0.0.2"]), ["127.0.0.5"]);
    }

    #[test]
    fn the_first_entry_of_a_country_decides() {
        let clients = ["127.0.0.2", "127.0.0.3"];
        assert_eq!(admitted(&["permit SE", "deny SE", "permit NO"], &clients), ["127.0.0.2"]);
        assert_eq!(admitted(&["permit NO", "deny SE", "permit SE", "deny NO"], &clients), ["127.0.0.3"]);
    }

    #[test]
    fn a_country_that_matches_nobody_counts_when_it_is_last() {
        assert_eq!(admitted(&["permit 127.0.0.2", "deny NO"], &["127.0.0.3"]), ["127.0.0.3"]);
        assert_eq!(admitted(&["deny 127.0.0.2", "permit NO"], &["127.0.0.3"]), [""; 0]);
    }

    #[test]
    fn countries_are_asked_for_once_and_only_if_a_list_names_one() {
        let mut lists: [Vec<AclEntry>; AclId::COUNT] = Default::default();
        lists[3] = vec![entry("deny 10.0.0.1")];
        let asked = std::cell::Cell::new(0);
        let country = |address| {
            asked.set(asked.get() + 1);
            country(address)
        };
        let addresses = AccessLists::compile(&lists);
        assert!(!addresses.wants_countries());
        addresses.verdicts(&client("127.0.0.1"), country);
        assert_eq!(asked.get(), 0);
        lists[4] = vec![entry("permit SE")];
        lists[5] = vec![entry("permit DK"), entry("permit NO")];
        let countries = AccessLists::compile(&lists);
        assert!(countries.wants_countries());
        let verdicts = countries.verdicts(&client("127.0.0.1"), country);
        assert_eq!([3, 4, 5].map(|list| verdicts.permits(acl(list))), [true, true, false]);
        assert_eq!(asked.get(), 1);
        assert_eq!(countries.verdicts(&ClientAddress::Unix, country), Verdicts::ALL);
        assert_eq!(asked.get(), 1);
    }

    #[test]
    fn clients_of_a_unix_socket_always_pass() {
        let lists = only(0, vec![entry("deny 0.0.0.0 0.0.0.0"), entry("deny ::/0"), entry("deny SE")]);
        assert_eq!(lists.verdicts(&ClientAddress::Unix, country), Verdicts::ALL);
        assert_ne!(lists.verdicts(&client("127.0.0.1"), country), Verdicts::ALL);
    }

    #[test]
    fn each_list_has_a_verdict_of_its_own() {
        let mut lists: [Vec<AclEntry>; AclId::COUNT] = Default::default();
        lists[3] = vec![entry("deny 127.0.0.1")];
        lists[9] = vec![entry("permit 127.0.0.2")];
        let verdicts = AccessLists::compile(&lists).verdicts(&client("127.0.0.1"), country);
        let refusing: Vec<u32> = (0..10).filter(|number| !verdicts.permits(acl(*number))).collect();
        assert_eq!(refusing, [3, 9]);
    }

    #[test]
    fn ten_thousand_networks_become_as_many_ranges_and_neighbours_of_one_entry_none() {
        let networks = (0..10_000u32).map(|n| Network::V4(Ipv4Addr::from(n << 9), Ipv4Addr::from(!0xff)));
        let entries: Vec<AclEntry> = networks.map(|network| AclEntry { permit: true, network }).collect();
        let list = List::compile(&entries).unwrap();
        assert_eq!(list.v4.0.len(), 20_000);
        assert!(list.permits(Ipv4Addr::from((9_999 << 9) + 5).into(), None));
        assert!(!list.permits(Ipv4Addr::from((9_999 << 9) + 256).into(), None));
        let hidden = vec![entry("permit 0.0.0.0 0.0.0.0"), entry("deny 10.0.0.0 255.0.0.0")];
        assert_eq!(List::compile(&hidden).unwrap().v4.0.len(), 1);
    }

    #[test]
    fn thousands_of_entries_for_a_few_countries_become_one_each() {
        let entries: Vec<AclEntry> =
            ["permit SE", "deny DK", "deny NO"].iter().cycle().take(9_000).map(|text| entry(text)).collect();
        assert_eq!(List::compile(&entries).unwrap().countries.len(), 3);
    }

    /// The rule as it is told: entry by entry.
    fn obvious(entries: &[AclEntry], client: IpAddr, country: Option<[u8; 2]>) -> bool {
        for entry in entries {
            let matches = match (&entry.network, client) {
                (Network::V4(address, mask), IpAddr::V4(client)) => {
                    u32::from(client) & u32::from(*mask) == u32::from(*address)
                }
                (Network::V6(address, prefix), IpAddr::V6(client)) => {
                    let bit = |a: Ipv6Addr, n: u8| u128::from(a) >> (127 - n) & 1;
                    (0..*prefix).all(|n| bit(client, n) == bit(*address, n))
                        && (*prefix..128).all(|n| bit(*address, n) == 0)
                }
                (Network::Country(letters), _) => {
                    country.is_some_and(|country| letters.as_bytes() == country)
                }
                _ => false,
            };
            if matches {
                return entry.permit;
            }
        }
        entries.last().is_none_or(|last| !last.permit)
    }

    /// Few bits that vary, at both ends, so that entries overlap and touch often.
    fn v4() -> impl Strategy<Value = u32> {
        prop_oneof![0u32..16, (0u32..16).prop_map(|n| !n), any::<u32>()]
    }

    fn v6() -> impl Strategy<Value = u128> {
        prop_oneof![0u128..16, (0u128..16).prop_map(|n| !n), any::<u128>()]
    }

    fn letters() -> impl Strategy<Value = [u8; 2]> {
        (b'A'..=b'C', b'A'..=b'B').prop_map(|(first, second)| [first, second])
    }

    fn network() -> impl Strategy<Value = Network> {
        let prefix = |length: u32| u32::MAX.checked_shl(32 - length).unwrap_or(0);
        let mask = prop_oneof![
            4 => (26u32..=32).prop_map(prefix),
            2 => (0u32..=32).prop_map(prefix),
            1 => (0u32..16).prop_map(|gaps| !gaps),
            1 => any::<u32>(),
        ];
        let length = prop_oneof![3 => 122u8..=128, 1 => 0u8..=128];
        let host = |length: u8| u128::MAX.checked_shr(length.into()).unwrap_or(0);
        prop_oneof![
            8 => (v4(), mask).prop_map(|(a, m)| Network::V4((a & m).into(), m.into())),
            4 => (v6(), length).prop_map(move |(a, l)| Network::V6((a & !host(l)).into(), l)),
            4 => letters().prop_map(|letters| Network::Country(String::from_utf8(letters.to_vec()).unwrap())),
            1 => any::<(u32, u32)>().prop_map(|(a, m)| Network::V4(a.into(), m.into())),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn the_compiled_lists_say_what_the_entries_say(
            entries in prop::collection::vec((any::<bool>(), network()), 0..20),
            v4s in prop::collection::vec(v4(), 40),
            v6s in prop::collection::vec(v6(), 40),
            countries in prop::collection::vec(prop::option::of(letters()), 80),
        ) {
            let entries: Vec<AclEntry> =
                entries.into_iter().map(|(permit, network)| AclEntry { permit, network }).collect();
            let lists = only(5, entries.clone());
            let v4s = v4s.into_iter().map(|n| IpAddr::from(Ipv4Addr::from(n)));
            let v6s = v6s.into_iter().map(|n| Ipv6Addr::from(n).to_canonical());
            for (address, country) in v4s.chain(v6s).zip(countries) {
                let verdicts = lists.verdicts(&ClientAddress::Inet(address, 1), |asked| {
                    assert_eq!(asked, address);
                    country
                });
                let expected = obvious(&entries, address, country);
                prop_assert_eq!(verdicts.permits(acl(5)), expected, "{} in {:?}", address, country);
                prop_assert!(verdicts.permits(acl(4)));
            }
        }
    }
}
