//! What pen has told of requests: who asked which server for what, and whose request a line of that server's log is.
//!
//! The rule is penlogd's of old: the newest record of that server whose text begins with the line's request. Records are
//! not used up, and forgotten in the order in which they came. pen cuts long texts, so one that was cut is also met by
//! requests that begin with it.
//!
//! What a record or a line costs depends on the length of its request and not on the number of records.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::num::NonZeroU64;

use super::datagram::RECORD_MAX;
use super::prefixes::{Payload, Prefixes, Texts};
use super::request::{self, BeyondAscii};

/// Bytes of a key that are the server's address.
const ADDRESS: usize = 16;

/// No key whose text was cut is shorter than this: there is room for more in a datagram.
const SHORTEST_CUT: usize = 512;

/// A request, and who was asked: the server's address, then the request as pen logs it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Key(Vec<u8>);

impl Key {
    /// A record's key; says whether there may have been more of its text, which was `cut` or is too long for a datagram
    /// of pen.
    pub fn set_record(&mut self, server: IpAddr, text: &[u8], cut: bool) -> bool {
        self.begin(server);
        request::tame(&text[..text.len().min(RECORD_MAX)], BeyondAscii::Kept, &mut self.0);
        (cut || text.len() > RECORD_MAX) && self.0.len() > SHORTEST_CUT
    }

    /// The key of a request as a web server writes it between quotes. `escapes`: it writes some bytes as escapes.
    pub fn set_quoted(&mut self, server: IpAddr, quoted: &[u8], escapes: bool) {
        self.begin(server);
        if escapes {
            request::as_pen_logs(quoted, BeyondAscii::Kept, &mut self.0);
        } else {
            request::tame(quoted, BeyondAscii::Kept, &mut self.0);
        }
        // What goes beyond the longest record tells that there is more than that, and nothing else.
        self.0.truncate(ADDRESS + RECORD_MAX + 1);
    }

    /// Its bytes: the longer one of two begins with the other if the server is the same and the request begins so.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn begin(&mut self, server: IpAddr) {
        self.0.clear();
        let address = match server {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        self.0.extend(address.octets());
    }
}

/// A client's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit<'a> {
    /// Who asked.
    pub client: &'a [u8],
    /// Who was asked, for what.
    pub key: &'a Key,
    /// There may have been more of the request.
    pub cut: bool,
}

/// A record that is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisitId(u64);

/// The records that are remembered.
#[derive(Debug)]
pub struct Visits {
    most: usize,
    entries: Entries,
    tree: Prefixes<NewestCut>,
}

#[derive(Debug, Default)]
struct Entries {
    /// The number of the oldest.
    first: u64,
    queue: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The key, then the client.
    bytes: Box<[u8]>,
    key: u32,
    cut: bool,
}

/// The newest text that was cut and ends at a node.
#[derive(Debug, Default)]
struct NewestCut(Option<NonZeroU64>);

impl Visits {
    /// Room for so many.
    pub fn new(most: usize) -> Self {
        // The tree counts its nodes, two for each, in 32 bits.
        let most = most.min(1 << 30);
        // A record has number 0 never.
        Visits { most, entries: Entries { first: 1, ..Entries::default() }, tree: Prefixes::new() }
    }

    /// Remembers a request, and says whether another was forgotten for it.
    pub fn remember(&mut self, visit: Visit<'_>) -> bool {
        if self.most == 0 {
            return false;
        }
        let full = self.entries.queue.len() >= self.most;
        if full {
            self.forget_oldest();
        }
        let key = visit.key.bytes();
        let number = self.entries.first + self.entries.queue.len() as u64;
        let end = self.tree.insert(&self.entries, number, key);
        if visit.cut {
            self.tree.payload_mut(end).0 = NonZeroU64::new(number);
        }
        let bytes = [key, visit.client].concat().into_boxed_slice();
        self.entries.queue.push_back(Entry { bytes, key: key.len() as u32, cut: visit.cut });
        full
    }

    /// The record of the request whose [`Key::bytes`] these are, if there is one.
    pub fn newest(&mut self, asked: &[u8]) -> Option<VisitId> {
        let whole = self.tree.newest(&self.entries, asked);
        let cut = if asked.len() > SHORTEST_CUT { self.newest_cut(asked.len()) } else { None };
        whole.max(cut).map(VisitId)
    }

    /// Whose it is; nobody's, if it has been forgotten.
    pub fn client(&self, visit: VisitId) -> &[u8] {
        self.entries.get(visit.0).map_or(&[], |entry| &entry.bytes[entry.key as usize..])
    }

    /// The newest text on the way that was cut and is shorter than `length`.
    fn newest_cut(&self, length: usize) -> Option<u64> {
        let passed = self.tree.passed().take_while(|(_, depth)| *depth > SHORTEST_CUT);
        let shorter = passed.filter(|(_, depth)| *depth < length);
        shorter.filter_map(|(node, _)| self.tree.payload(node).0).max().map(u64::from)
    }

    fn forget_oldest(&mut self) {
        let Some(oldest) = self.entries.queue.front() else {
            return;
        };
        let (number, key) = (self.entries.first, &oldest.bytes[..oldest.key as usize]);
        if oldest.cut
            && let Some(end) = self.tree.end_of(key)
        {
            let newest = &mut self.tree.payload_mut(end).0;
            newest.take_if(|newest| newest.get() == number);
        }
        self.tree.forget(number, key);
        self.entries.queue.pop_front();
        self.entries.first += 1;
    }
}

impl Entries {
    fn get(&self, number: u64) -> Option<&Entry> {
        self.queue.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

impl Texts for Entries {
    fn text(&self, number: u64) -> &[u8] {
        self.get(number).map_or(&[], |entry| &entry.bytes[..entry.key as usize])
    }
}

impl Payload for NewestCut {
    fn is_idle(&self) -> bool {
        self.0.is_none()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SERVER: [u8; 4] = [10, 0, 0, 1];

    /// The rule, naively.
    #[derive(Default)]
    struct Scan(VecDeque<(IpAddr, Vec<u8>, bool, Vec<u8>)>);

    impl Scan {
        fn client(&self, server: IpAddr, asked: &[u8]) -> Option<&[u8]> {
            let fits = |text: &[u8], cut| text.starts_with(asked) || (cut && asked.starts_with(text));
            let newest = self.0.iter().rev().find(|(of, text, cut, _)| *of == server && fits(text, *cut));
            newest.map(|(_, _, _, client)| &client[..])
        }
    }

    fn remember(visits: &mut Visits, server: IpAddr, text: &[u8], cut: bool, client: &[u8]) -> bool {
        let mut key = Key::default();
        let cut = key.set_record(server, text, cut);
        visits.remember(Visit { client, key: &key, cut })
    }

    fn client(visits: &mut Visits, server: impl Into<IpAddr>, asked: &[u8]) -> Option<String> {
        let mut key = Key::default();
        key.set_quoted(server.into(), asked, true);
        let newest = visits.newest(key.bytes())?;
        Some(String::from_utf8(visits.client(newest).to_vec()).unwrap())
    }

    fn visits(most: usize, texts: &[&str]) -> Visits {
        let mut visits = Visits::new(most);
        for (number, text) in texts.iter().enumerate() {
            remember(&mut visits, SERVER.into(), text.as_bytes(), false, format!("c{number}").as_bytes());
        }
        visits
    }

    #[test]
    fn the_newest_record_that_begins_with_the_lines_request_is_its_visit() {
        let mut visits = visits(10, &["GET /a HTTP/1.0", "GET /b", "GET /a HTTP/1.0", "GET /c"]);
        assert_eq!(client(&mut visits, SERVER, b"GET /a HTTP/1.0").as_deref(), Some("c2"));
        assert_eq!(client(&mut visits, SERVER, b"GET /a").as_deref(), Some("c2"));
        assert_eq!(client(&mut visits, SERVER, b"GET /b HTTP/1.0"), None);
        assert_eq!(client(&mut visits, SERVER, b"").as_deref(), Some("c3"));
        assert_eq!(client(&mut visits, [10, 0, 0, 2], b"GET /a"), None);
        assert_eq!(client(&mut visits, [10, 0, 0, 2], b""), None);
    }

    #[test]
    fn as_many_are_remembered_as_were_asked_for() {
        let mut visits = visits(2, &["GET /a", "GET /b", "GET /c"]);
        assert_eq!(client(&mut visits, SERVER, b"GET /a"), None);
        assert_eq!(client(&mut visits, SERVER, b"GET /b").as_deref(), Some("c1"));
        assert_eq!(visits.entries.queue.len(), 2);
        let mut none = Visits::new(0);
        assert!(!remember(&mut none, SERVER.into(), b"GET /", false, b"c"));
        assert!(client(&mut none, SERVER, b"GET /").is_none() && none.entries.queue.is_empty());
    }

    #[test]
    fn a_text_that_was_cut_is_the_beginning_of_its_request() {
        let mut visits = Visits::new(3);
        let long = [b'x'; 2000];
        remember(&mut visits, SERVER.into(), &long[..900], true, b"cut");
        remember(&mut visits, SERVER.into(), &long[..900], false, b"whole");
        assert_eq!(client(&mut visits, SERVER, &long[..1500]).as_deref(), Some("cut"));
        assert_eq!(client(&mut visits, SERVER, &long[..900]).as_deref(), Some("whole"));
        assert_eq!(client(&mut visits, SERVER, &[&long[..899], b"y!"].concat()), None);
        remember(&mut visits, SERVER.into(), &long, false, b"too long");
        assert_eq!(client(&mut visits, SERVER, &long).as_deref(), Some("too long"));
        remember(&mut visits, SERVER.into(), b"GET /", false, b"another");
        remember(&mut visits, SERVER.into(), b"GET /", false, b"another");
        assert_eq!(client(&mut visits, SERVER, &long).as_deref(), Some("too long"));
        remember(&mut visits, SERVER.into(), b"GET /", false, b"another");
        assert_eq!(client(&mut visits, SERVER, &long), None);
    }

    #[test]
    fn an_address_in_either_form_is_the_same_server() {
        let mut visits = visits(10, &["GET /a"]);
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        assert_eq!(client(&mut visits, mapped, b"GET /a").as_deref(), Some("c0"));
    }

    /// Requests that share much, among them long ones.
    fn request() -> impl Strategy<Value = Vec<u8>> {
        let short = prop::collection::vec(prop::sample::select(&b"ab"[..]), 0..6);
        let long = (490_usize..530, prop::collection::vec(prop::sample::select(&b"ab"[..]), 0..3))
            .prop_map(|(length, end)| [&[b'a'; 530][..length], &end].concat());
        prop_oneof![3 => short, 1 => long]
    }

    proptest! {
        #[test]
        fn whatever_came_the_client_is_that_of_a_scan(
            steps in prop::collection::vec((any::<bool>(), 0_u8..2, request(), any::<bool>()), 0..120),
            most in 1_usize..30,
        ) {
            let (mut visits, mut scan) = (Visits::new(most), Scan::default());
            for (number, (is_record, server, text, cut)) in steps.into_iter().enumerate() {
                let server = IpAddr::from([10, 0, 0, server]);
                if !is_record {
                    let expected = scan.client(server, &text).map(|found| String::from_utf8_lossy(found).into_owned());
                    prop_assert_eq!(client(&mut visits, server, &text), expected);
                } else if !text.is_empty() {
                    let name = format!("c{number}").into_bytes();
                    remember(&mut visits, server, &text, cut, &name);
                    let cut = cut && text.len() + ADDRESS > SHORTEST_CUT;
                    scan.0.push_back((server, text, cut, name));
                    if scan.0.len() > most {
                        scan.0.pop_front();
                    }
                    prop_assert_eq!(visits.entries.queue.len(), scan.0.len());
                }
            }
        }
    }
}
