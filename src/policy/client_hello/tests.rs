use proptest::prelude::*;

use super::*;

/// What real clients sent, and what was made of it.
macro_rules! recorded {
    ($name:literal) => {
        include_bytes!(concat!("../../../contrib/fuzz/corpus/client_hello/", $name)).as_slice()
    };
}

/// Whole hellos of real clients, each in one record, with the name that they were to ask for.
const CLIENTS: [(&[u8], Option<&str>); 10] = [
    (recorded!("openssl"), Some("www.example.com")),
    (recorded!("openssl-tls10"), Some("old.example.com")),
    (recorded!("openssl-tls12"), Some("www.example.com")),
    (recorded!("openssl-tls13-alpn"), Some("Shop.Example.ORG")),
    (recorded!("openssl-no-name"), None),
    (recorded!("openssl-tls12-no-name"), None),
    (recorded!("curl"), Some("api.example.net")),
    (recorded!("curl-tls12"), Some("api.example.net")),
    (recorded!("curl-address"), None),
    (recorded!("python"), Some("xn--bcher-kva.example")),
];

fn asks_for(name: Option<&str>) -> Hello<'_> {
    name.map_or(Hello::NoName, |name| Hello::Name(name.into()))
}

/// A message in records of so many bytes.
fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |fragment: &[u8]| {
        let length = u16::try_from(fragment.len()).unwrap().to_be_bytes();
        [&[HANDSHAKE, MAJOR, 1, length[0], length[1]], fragment].concat()
    };
    message.chunks(size).flat_map(record).collect()
}

/// The message in a record.
fn message_of(record: &[u8]) -> &[u8] {
    &record[RECORD_HEADER..]
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), &(content.len() as u16).to_be_bytes(), content].concat()
}

/// The extension with one host name.
fn names(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let entry =
        |(kind, name): &(u8, &[u8])| [&[*kind], &(name.len() as u16).to_be_bytes()[..], name].concat();
    let list: Vec<u8> = entries.iter().flat_map(entry).collect();
    extension(SERVER_NAME, &[&(list.len() as u16).to_be_bytes(), &list[..]].concat())
}

/// A hello with these extensions, as a message.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let body =
        [&[3, 3], &[7; 32][..], &[0], &[0, 2, 0x13, 1], &[1, 0], &(extensions.len() as u16).to_be_bytes()];
    message(&[&body.concat(), extensions].concat())
}

fn message(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_be_bytes();
    [&[CLIENT_HELLO], &length[1..], body].concat()
}

/// What is said of a message, if it comes in one record.
fn said_of(message: &[u8]) -> String {
    match parse(&in_records(message, LONGEST_FRAGMENT)) {
        Hello::Name(name) => name.into_owned(),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_names_that_real_clients_ask_for_are_found() {
    for (record, name) in CLIENTS {
        assert_eq!(parse(record), asks_for(name));
        assert!(!matches!(parse(record), Hello::Name(Cow::Owned(_))), "nothing is copied");
    }
}

#[test]
fn a_hello_that_is_cut_off_anywhere_is_incomplete_and_nothing_else() {
    for (record, name) in CLIENTS {
        for size in [1, 7, LONGEST_FRAGMENT] {
            let stream = in_records(message_of(record), size);
            for end in 0..stream.len() {
                assert_eq!(parse(&stream[..end]), Hello::Incomplete, "{end} bytes, records of {size}");
            }
            assert_eq!(parse(&stream), asks_for(name));
        }
    }
}

#[test]
fn a_hello_may_be_cut_into_records_anywhere() {
    for (record, name) in CLIENTS {
        let message = message_of(record);
        for border in 1..message.len() {
            let (first, second) = message.split_at(border);
            let stream = [in_records(first, LONGEST_FRAGMENT), in_records(second, LONGEST_FRAGMENT)].concat();
            assert_eq!(parse(&stream), asks_for(name), "at {border}");
        }
        for size in 1..message.len() {
            assert_eq!(parse(&in_records(message, size)), asks_for(name), "records of {size}");
        }
    }
}

#[test]
fn a_large_hello_is_one_too() {
    assert_eq!(parse(recorded!("post-quantum")), asks_for(Some("www.example.com")));
    assert_eq!(parse(recorded!("large-in-records")), asks_for(Some("www.example.com")));
    let own = hello(&names(&[(HOST_NAME, b"a.test")])).len() + 4 + RECORD_HEADER;
    for (length, said) in [(LONGEST, "a.test"), (LONGEST + 1, "NotTls"), (LONGEST + 7, "NotTls")] {
        let key_share = extension(51, &vec![9; length - own]);
        let message = hello(&[key_share, names(&[(HOST_NAME, b"a.test")])].concat());
        assert_eq!(said_of(&message), said, "{length} bytes");
    }
}

#[test]
fn a_hello_that_never_ends_is_none_when_it_has_become_too_long() {
    let message = hello(&extension(51, &[9; 9000]));
    let stream = in_records(&message, 2);
    assert!(stream.len() > LONGEST);
    assert_eq!(parse(&stream[..LONGEST - 1]), Hello::Incomplete);
    assert_eq!(parse(&stream[..LONGEST]), Hello::NotTls);
    assert_eq!(parse(&stream), Hello::NotTls, "though all of it is there");
}

#[test]
fn what_is_not_tls_is_known_by_the_first_byte_that_is_wrong() {
    let of_a_record = |length: u16| [&[22, 3, 1], &length.to_be_bytes()[..]].concat();
    let starts: [(&[u8], usize); 8] = [
        (b"GET / HTTP/1.1\r\n\r\n", 1),
        (recorded!("sslv2"), 1),
        (recorded!("alert"), 1),
        (b"\x16\x02\x00\x00\x05", 2),
        (recorded!("empty-record"), 5),
        (&of_a_record(LONGEST_FRAGMENT as u16 + 1), 5),
        (&[&of_a_record(100)[..], &[2]].concat(), 6),
        (&[&of_a_record(100)[..], &[1, 1, 0, 0]].concat(), 9),
    ];
    for (bytes, enough) in starts {
        for end in 0..=bytes.len() {
            let expected = if end < enough { Hello::Incomplete } else { Hello::NotTls };
            assert_eq!(parse(&bytes[..end]), expected, "{}", bytes[..end].escape_ascii());
        }
    }
}

#[test]
fn nothing_may_come_between_the_records_of_a_hello() {
    assert_eq!(parse(recorded!("interleaved")), Hello::NotTls);
    let message = message_of(CLIENTS[0].0);
    let first = in_records(&message[..100], 100);
    for between in [&[20, 3, 3, 0, 1, 1][..], &[23, 3, 3, 0, 1, 1], &[22, 3, 3, 0, 0], b"\r\n"] {
        assert_eq!(parse(&[&first, between].concat()), Hello::NotTls);
    }
}

#[test]
fn what_follows_the_hello_does_not_matter() {
    for (record, name) in CLIENTS {
        for after in [&[20, 3, 3, 0, 1, 1][..], b"\x17\x03\x03\x00\x10early data", &[0; LONGEST]] {
            assert_eq!(parse(&[record, after].concat()), asks_for(name));
        }
    }
}

#[test]
fn the_first_host_name_counts() {
    for (entries, said) in [
        (&[(HOST_NAME, b"a.test".as_slice())][..], "a.test"),
        (&[(7, b"x"), (HOST_NAME, b"a.test"), (HOST_NAME, b"b.test")], "a.test"),
        (&[(7, b"x")], "NoName"),
        (&[(HOST_NAME, b"")], "NoName"),
        (&[(HOST_NAME, b"\xff\xfe")], "NoName"),
        (&[(HOST_NAME, b"\xff\xfe"), (HOST_NAME, b"b.test")], "NoName"),
        (&[(HOST_NAME, b"../../etc/passwd")], "../../etc/passwd"),
    ] {
        assert_eq!(said_of(&hello(&names(entries))), said);
    }
}

#[test]
fn a_hello_without_extensions_asks_for_no_name() {
    assert_eq!(said_of(&hello(b"")), "NoName");
    let old = hello(b"");
    assert_eq!(said_of(&message(&old[MESSAGE_HEADER..old.len() - 2])), "NoName");
}

#[test]
fn a_hello_whose_lengths_are_wrong_is_none() {
    let name = names(&[(HOST_NAME, b"a.test")]);
    let good = hello(&name);
    assert_eq!(said_of(&good), "a.test");
    // Of the session, the ciphers, the compressions, all extensions, the extension, the list and the name.
    let body = MESSAGE_HEADER + 34;
    for length in [body, body + 2, body + 5, body + 8, body + 12, body + 14, body + 17] {
        for wrong in [1u8, 255] {
            let mut bad = good.clone();
            bad[length] = bad[length].wrapping_add(wrong);
            assert_eq!(said_of(&bad), "NotTls", "byte {length}");
        }
    }
    let mut version = good.clone();
    version[MESSAGE_HEADER] = 2;
    assert_eq!(said_of(&version), "NotTls");
    assert_eq!(said_of(&hello(&[name.clone(), name.clone()].concat())), "NotTls", "two of the same");
    assert_eq!(said_of(&hello(&extension(SERVER_NAME, b""))), "NotTls");
    assert_eq!(said_of(&hello(&[&name[..], b"\0"].concat())), "NotTls");
    assert_eq!(said_of(&message(&[&good[MESSAGE_HEADER..], b"\0"].concat())), "NotTls");
    assert_eq!(said_of(&message(b"")), "NotTls");
}

/// Streams that begin as a hello may, with something wrong in them.
fn almost_a_hello() -> impl Strategy<Value = Vec<u8>> {
    let client = (0..CLIENTS.len()).prop_map(|number| CLIENTS[number].0);
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (client, 1usize..600, changes, any::<prop::sample::Index>()).prop_map(|(record, size, changes, end)| {
        let mut stream = in_records(message_of(record), size);
        for (place, byte) in changes {
            let place = place.index(stream.len());
            stream[place] = byte;
        }
        stream.truncate(end.index(2 * stream.len()));
        stream
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_has_been_said_holds_for_all_that_may_follow(
        stream in prop_oneof![prop::collection::vec(any::<u8>(), 0..300), almost_a_hello()],
        after in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut said = Hello::Incomplete;
        let all = [&stream[..], &after].concat();
        for end in 0..=all.len() {
            let now = parse(&all[..end]);
            prop_assert!(said == Hello::Incomplete || now == said, "{said:?}, then {now:?}");
            said = now;
        }
    }

    #[test]
    fn the_records_do_not_matter(
        name in "[a-z0-9-]{1,20}(\\.[a-z0-9-]{1,20}){0,6}",
        before in prop::collection::vec((1u16.., prop::collection::vec(any::<u8>(), 0..700)), 0..4),
        sizes in prop::collection::vec(1usize..2000, 1..50),
    ) {
        let mut extensions: Vec<u8> =
            before.iter().flat_map(|(kind, content)| extension(*kind, content)).collect();
        extensions.extend(names(&[(HOST_NAME, name.as_bytes())]));
        let message = hello(&extensions);
        let (mut stream, mut rest) = (Vec::new(), &message[..]);
        for size in sizes.into_iter().chain([LONGEST_FRAGMENT]) {
            let (fragment, after) = rest.split_at(rest.len().min(size));
            stream.extend(in_records(fragment, LONGEST_FRAGMENT));
            rest = after;
        }
        prop_assert_eq!(parse(&stream), asks_for(Some(&name)));
    }
}
