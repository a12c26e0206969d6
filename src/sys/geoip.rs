//! Which country an address belongs to: looked up in a MaxMind database, the file of the command `geoip`.
//!
//! The file is copied into sealed memory, so that it does not matter what becomes of it, and a download that writes
//! over it kills nobody. All processes share the one copy: by fork, or by a descriptor that is sent to them.
//!
//! The country is the one where the address is used (`country.iso_code`). Where a database does not know that, it is
//! the one where the address is registered (`registered_country.iso_code`): that is nearly always the same, and a list
//! that refuses a country means those clients, too. Databases with nothing but countries have them as `country_code`.
//!
//! Nothing in the file is trusted: what is damaged is an error when it is loaded, or no country when it is looked up.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use maxminddb::{LookupResult, MaxMindDbError, PathElement, Reader, WithinOptions};

use super::reason::words;
use super::sealed::{self, Mapping};
use super::textfile;

#[cfg(test)]
#[allow(unreachable_pub)] // it belongs to the stories of tests/behaviour, too
#[path = "../../tests/behaviour/support/mmdb.rs"]
mod mmdb;

/// No larger file is loaded: one with all the cities of the world has 60 MiB.
const MOST: u64 = 1 << 30;

/// So many networks are searched for the first with a country: where there are any, they are not that rare.
const SEARCHED: usize = 100_000;

/// Most characters of a file's own words in a message.
const WORDS: usize = 100;

/// Where in a record a country's two letters are; the first that are there count.
const PLACES: [&[PathElement<'static>]; 3] = [
    &[PathElement::Key("country"), PathElement::Key("iso_code")],
    &[PathElement::Key("registered_country"), PathElement::Key("iso_code")],
    &[PathElement::Key("country_code")],
];

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub enum GeoipError {
    /// Nothing there, or nothing that can be read.
    #[error("cannot read the country database {}: {}", .0.display(), words(.1))]
    Unreadable(PathBuf, io::Error),
    /// More than a database can have.
    #[error(
        "cannot use the country database {}: it has more than 1 GiB; name a smaller one with geoip", .0.display()
    )]
    TooLarge(PathBuf),
    /// No memory for it.
    #[error("cannot load the country database {}: {}", .0.display(), words(.1))]
    NoMemory(PathBuf, io::Error),
    /// Another kind of file, or a damaged one.
    #[error(
        "{} is not a MaxMind database ({}); name one with geoip, their names end in .mmdb", .0.display(), reason(.1)
    )]
    NoDatabase(PathBuf, MaxMindDbError),
    /// A database of other things.
    #[error(
        "the database {} has no countries in it, its type is {:?}; name one that has with geoip, such as GeoLite2-Country",
        .0.display(), clip(.1)
    )]
    NoCountries(PathBuf, String),
}

/// A database in memory.
#[derive(Debug)]
pub struct Database {
    reader: Reader<Mapping>,
    memory: OwnedFd,
}

impl Database {
    /// Loads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no database of countries; the message names it.
    pub fn load(path: &Path) -> Result<Self, GeoipError> {
        let (file, length) =
            textfile::open_regular(path).map_err(|error| GeoipError::Unreadable(path.into(), error))?;
        if length > MOST {
            return Err(GeoipError::TooLarge(path.into()));
        }
        let no_memory = |error| GeoipError::NoMemory(path.into(), error);
        let memory = sealed::copy("pen-countries", file, length).map_err(no_memory)?;
        let mapping = Mapping::of(memory.as_fd()).map_err(no_memory)?;
        let reader =
            Reader::from_source(mapping).map_err(|error| GeoipError::NoDatabase(path.into(), error))?;
        if !has_countries(&reader) {
            return Err(GeoipError::NoCountries(path.into(), reader.metadata().database_type.clone()));
        }
        Ok(Database { reader, memory })
    }

    /// A database that another process has loaded, by (a copy of) its descriptor.
    ///
    /// # Errors
    /// `InvalidData` if it is none, or not sealed; no memory.
    pub fn from_fd(memory: OwnedFd) -> io::Result<Self> {
        let mapping = Mapping::of(memory.as_fd())?;
        let reader = Reader::from_source(mapping)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, reason(&error)))?;
        Ok(Database { reader, memory })
    }

    /// The two letters, in capitals, of the country that an address belongs to, if the database knows it.
    pub fn country(&self, address: IpAddr) -> Option<[u8; 2]> {
        country(&self.reader, address)
    }

    /// What kind of database it says it is, or the beginning of that: `GeoLite2-Country`.
    pub fn kind(&self) -> String {
        clip(&self.reader.metadata().database_type)
    }
}

/// The sealed memory, for [`Database::from_fd`].
impl AsFd for Database {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

fn country<S: AsRef<[u8]>>(reader: &Reader<S>, address: IpAddr) -> Option<[u8; 2]> {
    letters(&reader.lookup(address.to_canonical()).ok()?)
}

/// Is there a network with a country? Takes bounded time, also in a damaged tree, where one way may lead back to
/// another: every step of this walk ends at a network.
fn has_countries<S: AsRef<[u8]>>(reader: &Reader<S>) -> bool {
    let every = WithinOptions::default().include_networks_without_data().include_aliased_networks();
    let Ok(networks) = reader.networks(every) else {
        return false;
    };
    networks.take(SEARCHED).any(|network| network.is_ok_and(|found| letters(&found).is_some()))
}

fn letters<S: AsRef<[u8]>>(found: &LookupResult<'_, S>) -> Option<[u8; 2]> {
    let code = |place: &&[PathElement<'_>]| -> Option<[u8; 2]> {
        let code: &str = found.decode_path(place).ok()??;
        let letters: [u8; 2] = code.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_alphabetic).then(|| letters.map(|letter| letter.to_ascii_uppercase()))
    };
    PLACES.iter().find_map(code)
}

/// What is wrong with a file, without the words that the message has anyway.
fn reason(error: &MaxMindDbError) -> String {
    match error {
        MaxMindDbError::InvalidDatabase { message, .. } => clip(message),
        other => clip(&other.to_string()),
    }
}

fn clip(words: &str) -> String {
    words.chars().take(WORDS).collect()
}

#[cfg(test)]
mod tests {
    use super::mmdb::{Mmdb, Value};
    use super::*;
    use std::fs::{self, File};
    use std::panic;

    use nix::sys::stat::Mode;

    /// A file that goes with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, content: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("pen-geoip-{}-{name}", std::process::id()));
            fs::write(&path, content).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    fn reader(mmdb: &Mmdb) -> Reader<Vec<u8>> {
        Reader::from_source(mmdb.bytes()).unwrap()
    }

    fn find<S: AsRef<[u8]>>(reader: &Reader<S>, address: &str) -> String {
        let found = country(reader, address.parse().unwrap());
        found.map_or("none".to_string(), |letters| String::from_utf8(letters.to_vec()).unwrap())
    }

    fn load(mmdb: &Mmdb, name: &str) -> Database {
        Database::load(&Scratch::new(name, &mmdb.bytes()).0).unwrap()
    }

    fn refusal(path: &Path) -> String {
        Database::load(path).unwrap_err().to_string()
    }

    #[test]
    fn countries_are_found_with_records_of_every_size() {
        for bits in [24, 28, 32] {
            let v4 =
                [("10.0.0.0/8", "SE"), ("10.1.0.0/16", "DK"), ("10.1.2.3/32", "NO"), ("0.0.0.0/8", "FI")];
            let v6 = [("2001:db8::/32", "SE"), ("2001:db8:1::/48", "DK"), ("2001:db8:1::1/128", "IS")];
            let four = reader(&Mmdb::v4().records(bits).countries(v4));
            let both = reader(&Mmdb::v6().records(bits).countries(v4).countries(v6));
            for reader in [&four, &both] {
                for (address, expected) in [
                    ("10.0.0.0", "SE"),
                    ("10.255.255.255", "SE"),
                    ("10.1.255.0", "DK"),
                    ("10.1.2.3", "NO"),
                    ("10.1.2.2", "DK"),
                    ("0.0.0.1", "FI"),
                    ("11.0.0.0", "none"),
                    ("255.255.255.255", "none"),
                    ("::ffff:10.1.2.3", "NO"),
                ] {
                    assert_eq!(find(reader, address), expected, "{address}, {bits} bits");
                }
            }
            for (address, expected) in [
                ("2001:db8::1", "SE"),
                ("2001:db8:1::2", "DK"),
                ("2001:db8:1::1", "IS"),
                ("2001:db9::", "none"),
            ] {
                assert_eq!(find(&both, address), expected, "{address}, {bits} bits");
                assert_eq!(find(&four, address), "none", "a tree for IPv4 alone knows no {address}");
            }
        }
    }

    #[test]
    fn the_country_where_an_address_is_registered_counts_if_no_other_is_known() {
        fn at<'a>(place: &'a str, letters: &str) -> (&'a str, Value) {
            (place, Value::map([("iso_code", Value::text(letters))]))
        }
        let records = [
            ("10.0.0.0/8", Value::map([at("country", "SE"), at("registered_country", "US")])),
            ("11.0.0.0/8", Value::map([at("registered_country", "US")])),
            ("12.0.0.0/8", Value::map([("country_code", Value::text("dk"))])),
            // Where the country is a name, the letters are beside it.
            (
                "13.0.0.0/8",
                Value::map([("country", Value::text("Iceland")), ("country_code", Value::text("IS"))]),
            ),
            ("14.0.0.0/8", Value::map([at("continent", "EU")])),
            ("15.0.0.0/8", Value::map([("city", Value::map([])), at("country", "no")])),
        ];
        let reader = reader(&Mmdb::v6().networks(records));
        let found = ["10.0.0.1", "11.0.0.1", "12.0.0.1", "13.0.0.1", "14.0.0.1", "15.0.0.1"];
        assert_eq!(found.map(|address| find(&reader, address)), ["SE", "US", "DK", "IS", "none", "NO"]);
    }

    #[test]
    fn only_two_letters_are_a_country() {
        let code = |value: Value| Value::map([("country", Value::map([("iso_code", value)]))]);
        for odd in ["", "S", "SWE", "A1", "S\0", "é", "--"] {
            let reader = reader(&Mmdb::v4().networks([("10.0.0.0/8", code(Value::text(odd)))]));
            assert_eq!(find(&reader, "10.0.0.1"), "none", "{odd:?}");
            assert!(!has_countries(&reader));
        }
        let numbers = reader(&Mmdb::v4().networks([("10.0.0.0/8", code(Value::Number(752)))]));
        assert_eq!(find(&numbers, "10.0.0.1"), "none");
        let text = reader(&Mmdb::v4().networks([("10.0.0.0/8", Value::text("SE"))]));
        assert_eq!(find(&text, "10.0.0.1"), "none");
    }

    #[test]
    fn what_becomes_of_the_file_does_not_matter() {
        let file = Scratch::new("changed", &Mmdb::v6().countries([("10.0.0.0/8", "SE")]).bytes());
        let database = Database::load(&file.0).unwrap();
        File::options().write(true).open(&file.0).unwrap().set_len(0).unwrap();
        assert_eq!(database.country([10, 0, 0, 1].into()), Some(*b"SE"));
        fs::write(&file.0, Mmdb::v6().countries([("10.0.0.0/8", "DK")]).bytes()).unwrap();
        assert_eq!(database.country([10, 0, 0, 1].into()), Some(*b"SE"));
        assert_eq!(Database::load(&file.0).unwrap().country([10, 0, 0, 1].into()), Some(*b"DK"));
    }

    #[test]
    fn a_database_goes_to_another_process_by_its_descriptor() {
        let loaded = load(&Mmdb::v6().kind("GeoLite2-Country").countries([("::1/128", "SE")]), "sent");
        let sent = loaded.as_fd().try_clone_to_owned().unwrap();
        drop(loaded);
        let received = Database::from_fd(sent).unwrap();
        assert_eq!(received.country("::1".parse().unwrap()), Some(*b"SE"));
        assert_eq!(received.country("::2".parse().unwrap()), None);
        assert_eq!(received.kind(), "GeoLite2-Country");
        assert_eq!(
            received.as_fd().try_clone_to_owned().and_then(Database::from_fd).unwrap().kind(),
            received.kind()
        );
    }

    #[test]
    fn what_is_sent_must_be_sealed_and_a_database() {
        let refused = |fd: OwnedFd| Database::from_fd(fd).unwrap_err().kind();
        let file = Scratch::new("unsealed", &Mmdb::v6().countries([("::1/128", "SE")]).bytes());
        assert_eq!(refused(File::open(&file.0).unwrap().into()), io::ErrorKind::InvalidData);
        let nonsense = sealed::copy("test", &b"no database"[..], 100).unwrap();
        assert_eq!(refused(nonsense), io::ErrorKind::InvalidData);
    }

    #[test]
    fn refusals_name_the_file_the_reason_and_the_way_out() {
        let missing = Path::new("/no/such/file.mmdb");
        assert_eq!(
            refusal(missing),
            "cannot read the country database /no/such/file.mmdb: No such file or directory"
        );
        for other in ["", "acl 1 permit country SE\n", "\u{1f}\u{8b}compressed", "GEO-106FREE"] {
            let file = Scratch::new("text", other.as_bytes());
            let expected = format!(
                "{} is not a MaxMind database (could not find MaxMind DB metadata in file); name one with geoip, \
                 their names end in .mmdb",
                file.0.display()
            );
            assert_eq!(refusal(&file.0), expected);
        }
        let networks = [("10.0.0.0/8", Value::map([("autonomous_system_number", Value::Number(64512))]))];
        let file = Scratch::new("asn", &Mmdb::v4().kind("GeoLite2-ASN").networks(networks).bytes());
        let expected = format!(
            "the database {} has no countries in it, its type is \"GeoLite2-ASN\"; name one that has with geoip, such \
             as GeoLite2-Country",
            file.0.display()
        );
        assert_eq!(refusal(&file.0), expected);
    }

    #[test]
    fn a_file_cannot_put_more_than_a_few_words_into_a_message() {
        let kind = format!("odd\n\u{1b}[2J{}", "x".repeat(200));
        let file = Scratch::new("words", &Mmdb::v4().kind(&kind).countries([]).bytes());
        let message = refusal(&file.0);
        assert!(!message.contains(['\n', '\u{1b}']) && message.len() < 400, "{message:?}");
    }

    #[test]
    fn only_regular_files_of_a_reasonable_size_are_read() {
        assert!(refusal(Path::new("/dev/zero")).contains("not a regular file"));
        assert!(refusal(Path::new("/")).contains("directory"));
        let fifo = Scratch::new("fifo", b"");
        fs::remove_file(&fifo.0).unwrap();
        nix::unistd::mkfifo(&fifo.0, Mode::S_IRWXU).unwrap();
        assert!(refusal(&fifo.0).contains("not a regular file"));
        let sparse = Scratch::new("sparse", b"");
        File::options().write(true).open(&sparse.0).unwrap().set_len(MOST + 1).unwrap();
        assert!(refusal(&sparse.0).contains("more than 1 GiB"));
    }

    /// Databases with trees and records of every kind, small enough to be damaged everywhere.
    fn samples() -> [Vec<u8>; 4] {
        let country = |letters: &str| Value::map([("iso_code", Value::text(letters))]);
        let record = |letters: &str| {
            let names = Value::map([("en", Value::text(&"name ".repeat(8)))]);
            let list = Value::List(vec![Value::Number(1), names]);
            Value::map([
                ("list", list),
                ("country", country(letters)),
                ("registered_country", country("US")),
                ("country_code", Value::text(letters)),
            ])
        };
        let networks = |networks: &[&'static str]| -> Vec<(&'static str, Value)> {
            networks
                .iter()
                .zip(["SE", "DK", "NO"])
                .map(|(&network, letters)| (network, record(letters)))
                .collect()
        };
        [
            Mmdb::v4().networks(networks(&["10.0.0.0/7", "10.0.0.0/10", "128.0.0.0/4"])),
            Mmdb::v4().records(28).networks(networks(&["0.0.0.0/0"])),
            Mmdb::v6().records(28).networks(networks(&["10.0.0.0/8", "2001:db8::/9"])),
            Mmdb::v6().records(32).networks(networks(&["::/5", "2001:db8::/9", "2001:db8::/13"])),
        ]
        .map(|mmdb| mmdb.bytes())
    }

    /// Opens what may be damaged, and looks at all of it: whatever comes of it, it comes at once.
    fn look_around(bytes: Vec<u8>) {
        let Ok(reader) = Reader::from_source(bytes) else { return };
        let _ = has_countries(&reader);
        for address in [
            "0.0.0.0",
            "10.0.0.1",
            "10.1.2.3",
            "127.0.0.1",
            "255.255.255.255",
            "::1",
            "2001:db8::1",
            "ffff::",
        ] {
            let found = country(&reader, address.parse().unwrap());
            assert!(found.is_none_or(|letters| letters.iter().all(u8::is_ascii_uppercase)));
        }
    }

    #[test]
    fn a_damaged_database_gives_no_country_and_no_panic() {
        for sample in samples() {
            for position in 0..sample.len() {
                let flips = (0..8).map(|bit| sample[position] ^ 1 << bit);
                for byte in flips.chain([0x00, 0xff]) {
                    let mut bytes = sample.clone();
                    bytes[position] = byte;
                    panic::catch_unwind(|| look_around(bytes)).unwrap_or_else(|_| {
                        panic!("byte {position} is {byte:#04x} instead of {:#04x}", sample[position])
                    });
                }
            }
        }
    }

    #[test]
    fn a_database_that_was_cut_gives_no_country_and_no_panic() {
        for sample in samples() {
            for length in 0..sample.len() {
                look_around(sample[..length].to_vec());
            }
            for without in (0..sample.len()).step_by(7) {
                look_around(sample[without..].to_vec());
                look_around([&sample[..without / 2], &sample[without..]].concat());
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn neither_does_one_that_is_damaged_all_over(
            sample in 0..4usize,
            damage in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 1..40),
        ) {
            let mut bytes = samples()[sample].clone();
            for (position, byte) in damage {
                let position = position.index(bytes.len());
                bytes[position] = byte;
            }
            look_around(bytes);
        }
    }
}
