//! Small MaxMind databases, written as version 2.0 of the format is specified: a search tree over the bits of an
//! address, a section of data, and metadata. The unit tests and the benches use it, too.
#![allow(dead_code)] // nobody uses all of it

use std::collections::HashMap;
use std::net::IpAddr;

/// What begins the metadata.
const MARKER: &[u8] = b"\xab\xcd\xefMaxMind.com";

/// Zeros between the tree and the data.
const SEPARATOR: usize = 16;

/// A value in a database.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    Text(String),
    Short(u16),
    Number(u32),
    Long(u64),
    Map(Vec<(String, Value)>),
    List(Vec<Value>),
}

impl Value {
    pub fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    pub fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Value {
        Value::Map(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    }
}

/// A database that is still to be written.
#[derive(Debug, Clone)]
pub struct Mmdb {
    version: u16,
    records: u16,
    kind: String,
    networks: Vec<(String, Value)>,
}

impl Mmdb {
    /// For IPv4 addresses alone.
    pub fn v4() -> Self {
        Mmdb { version: 4, records: 24, kind: "Test-Country".to_owned(), networks: Vec::new() }
    }

    /// For both families: IPv4 networks are in ::/96.
    pub fn v6() -> Self {
        Mmdb { version: 6, ..Mmdb::v4() }
    }

    /// With records of 24, 28 or 32 bits.
    pub fn records(self, bits: u16) -> Self {
        Mmdb { records: bits, ..self }
    }

    /// The type that it says it is of.
    pub fn kind(self, kind: &str) -> Self {
        Mmdb { kind: kind.to_owned(), ..self }
    }

    /// With these networks too, `10.0.0.0/8`; one within another comes after it.
    pub fn networks<'a>(mut self, networks: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        self.networks.extend(networks.into_iter().map(|(network, value)| (network.to_owned(), value)));
        self
    }

    /// With networks of countries, as GeoLite2-Country has them.
    pub fn countries<'a>(self, countries: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let record = |letters: &str| {
            let country =
                Value::map([("geoname_id", Value::Number(2_661_886)), ("iso_code", Value::text(letters))]);
            Value::map([("continent", Value::map([("code", Value::text("EU"))])), ("country", country)])
        };
        self.networks(countries.into_iter().map(|(network, letters)| (network, record(letters))))
    }

    /// The file.
    pub fn bytes(&self) -> Vec<u8> {
        let (mut tree, mut data) = (Tree::new(), Data::default());
        for (network, value) in &self.networks {
            let (bits, length) = self.bits(network);
            tree.insert(bits, length, data.place(value));
        }
        let mut file = tree.bytes(self.records);
        file.extend([0; SEPARATOR]);
        file.extend(data.bytes);
        file.extend(MARKER);
        encode(&self.metadata(tree.nodes.len()), &mut file, None);
        file
    }

    fn metadata(&self, nodes: usize) -> Value {
        Value::map([
            ("binary_format_major_version", Value::Short(2)),
            ("binary_format_minor_version", Value::Short(0)),
            ("build_epoch", Value::Long(1_700_000_000)),
            ("database_type", Value::text(&self.kind)),
            ("description", Value::map([("en", Value::text("for tests"))])),
            ("ip_version", Value::Short(self.version)),
            ("languages", Value::List(vec![Value::text("en")])),
            ("node_count", Value::Number(nodes as u32)),
            ("record_size", Value::Short(self.records)),
        ])
    }

    /// A network's bits, from the top of the number, and how many of them.
    fn bits(&self, network: &str) -> (u128, u32) {
        let (address, length) = network.split_once('/').unwrap();
        let length: u32 = length.parse().unwrap();
        match (address.parse().unwrap(), self.version) {
            (IpAddr::V4(address), 4) => (u128::from(address.to_bits()) << 96, length),
            (IpAddr::V4(address), _) => (u128::from(address.to_bits()), 96 + length),
            (IpAddr::V6(address), 6) => (address.to_bits(), length),
            (IpAddr::V6(_), _) => panic!("{network} in a database for IPv4"),
        }
    }
}

/// What a node has for a bit.
#[derive(Debug, Clone, Copy)]
enum Record {
    Nothing,
    Node(usize),
    Data(usize),
}

struct Tree {
    nodes: Vec<[Record; 2]>,
}

impl Tree {
    fn new() -> Self {
        Tree { nodes: vec![[Record::Nothing; 2]] }
    }

    fn insert(&mut self, bits: u128, length: u32, data: usize) {
        if length == 0 {
            self.nodes = vec![[Record::Data(data); 2]];
            return;
        }
        let bit = |index: u32| (bits >> (127 - index) & 1) as usize;
        let mut node = 0;
        for index in 0..length - 1 {
            node = match self.nodes[node][bit(index)] {
                Record::Node(next) => next,
                // What was one network becomes two halves.
                whole => {
                    self.nodes.push([whole; 2]);
                    let next = self.nodes.len() - 1;
                    self.nodes[node][bit(index)] = Record::Node(next);
                    next
                }
            };
        }
        self.nodes[node][bit(length - 1)] = Record::Data(data);
    }

    fn bytes(&self, bits: u16) -> Vec<u8> {
        let number = |record: Record| match record {
            Record::Nothing => self.nodes.len() as u32,
            Record::Node(node) => node as u32,
            Record::Data(offset) => (self.nodes.len() + SEPARATOR + offset) as u32,
        };
        let node = |&[left, right]: &[Record; 2]| {
            let ([a, b, c, d], [e, f, g, h]) = (number(left).to_be_bytes(), number(right).to_be_bytes());
            match bits {
                24 => vec![b, c, d, f, g, h],
                28 => vec![b, c, d, a << 4 | e, f, g, h],
                _ => vec![a, b, c, d, e, f, g, h],
            }
        };
        self.nodes.iter().flat_map(node).collect()
    }
}

/// The data section. What is in it already is pointed to.
#[derive(Default)]
struct Data {
    bytes: Vec<u8>,
    places: HashMap<Value, usize>,
}

impl Data {
    fn place(&mut self, value: &Value) -> usize {
        if let Some(&place) = self.places.get(value) {
            return place;
        }
        let mut bytes = Vec::new();
        encode(value, &mut bytes, Some(self));
        let place = self.bytes.len();
        self.bytes.extend(bytes);
        self.places.insert(value.clone(), place);
        place
    }
}

/// Appends a value to `out`. Maps within it go to `data`, where they can be shared, if there is one.
fn encode(value: &Value, out: &mut Vec<u8>, mut data: Option<&mut Data>) {
    let mut part = |value: &Value, out: &mut Vec<u8>| match (value, data.as_deref_mut()) {
        (Value::Map(_), Some(data)) => point(data.place(value), out),
        (_, data) => encode(value, out, data),
    };
    match value {
        Value::Text(text) => {
            head(2, text.len(), out);
            out.extend(text.as_bytes());
        }
        Value::Short(number) => unsigned(5, (*number).into(), out),
        Value::Number(number) => unsigned(6, (*number).into(), out),
        Value::Long(number) => unsigned(9, *number, out),
        Value::Map(entries) => {
            head(7, entries.len(), out);
            for (key, value) in entries {
                encode(&Value::text(key), out, None);
                part(value, out);
            }
        }
        Value::List(values) => {
            head(11, values.len(), out);
            for value in values {
                part(value, out);
            }
        }
    }
}

fn unsigned(kind: u8, number: u64, out: &mut Vec<u8>) {
    let zeros = number.leading_zeros() as usize / 8;
    head(kind, 8 - zeros, out);
    out.extend(&number.to_be_bytes()[zeros..]);
}

/// A value's type and size.
fn head(kind: u8, size: usize, out: &mut Vec<u8>) {
    let (size, more) = match size {
        ..29 => (size as u8, None),
        29..285 => (29, Some((size - 29) as u8)),
        _ => panic!("a value of {size}"),
    };
    match kind {
        ..8 => out.push(kind << 5 | size),
        _ => out.extend([size, kind - 7]),
    }
    out.extend(more);
}

fn point(place: usize, out: &mut Vec<u8>) {
    match place {
        ..2048 => out.extend([1 << 5 | (place >> 8) as u8, place as u8]),
        _ => {
            let place = place - 2048;
            assert!(place < 1 << 19, "too much data");
            out.extend([1 << 5 | 1 << 3 | (place >> 16) as u8, (place >> 8) as u8, place as u8]);
        }
    }
}
