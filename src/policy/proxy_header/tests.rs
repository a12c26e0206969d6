use ppp::v1;
use ppp::v2::{self, Builder, Command, Type, Version};
use proptest::prelude::*;

use super::*;
use crate::model::address::ClientAddress;
use crate::model::proxy::ProxySend;

/// What HAProxy 2.6 sent, and a few bytes of a client after it.
macro_rules! recorded {
    ($name:literal) => {
        include_bytes!(concat!("../../../contrib/fuzz/corpus/proxy_header/", $name)).as_slice()
    };
}

fn inet(source: &str, destination: &str) -> Route {
    Route::Inet { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

#[track_caller]
fn whole(bytes: &[u8]) -> Header {
    match parse(bytes) {
        Verdict::Whole(header) => header,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

#[track_caller]
fn flaw(bytes: &[u8]) -> Flaw {
    match parse(bytes) {
        Verdict::Broken(flaw) => flaw,
        other => panic!("{other:?}: {}", bytes.escape_ascii()),
    }
}

/// A header of version 2.
fn binary(command: u8, kind: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[command, kind][..], &length, content].concat()
}

/// 10.1.2.3:1000 to 10.0.0.1:80.
const ADDRESSES: [u8; 12] = [10, 1, 2, 3, 10, 0, 0, 1, 3, 232, 0, 80];

/// One of those addresses with these extensions.
fn extended(extensions: &[u8]) -> Vec<u8> {
    binary(0x21, 0x11, &[&ADDRESSES, extensions].concat())
}

/// The sum of a header that has none yet, the slow way.
fn sum(bytes: &[u8]) -> u32 {
    let shift = |sum: u32| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    !bytes.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| shift(sum)))
}

/// With a checksum at the end, over these extensions before it.
fn summed(extensions: &[u8]) -> Vec<u8> {
    let mut header = extended(&[extensions, &[CHECKSUM, 0, 4, 0, 0, 0, 0]].concat());
    let (sum, end) = (sum(&header), header.len());
    header[end - 4..].copy_from_slice(&sum.to_be_bytes());
    header
}

#[test]
fn what_haproxy_sends_is_understood() {
    for (bytes, length, route, secured) in [
        (recorded!("haproxy-v1"), 44, inet("127.0.0.1:55444", "127.0.0.1:18101"), false),
        (recorded!("haproxy-v1-unix"), 15, Route::Own, false),
        (recorded!("haproxy-v2"), 28, inet("127.0.0.1:53046", "127.0.0.1:18102"), false),
        (recorded!("haproxy-v2-ipv6"), 52, inet("[::1]:60106", "[::1]:18102"), false),
        (recorded!("haproxy-v2-unix"), 16, Route::Own, false),
        (recorded!("haproxy-v2-tls"), 107, inet("127.0.0.1:48936", "127.0.0.1:18103"), true),
        (recorded!("haproxy-v2-tls-certificate"), 119, inet("127.0.0.1:48950", "127.0.0.1:18103"), true),
    ] {
        assert_eq!(whole(bytes), Header { length, route, secured }, "{}", bytes.escape_ascii());
        assert!((1..=3).contains(&(bytes.len() - length)), "a few bytes follow");
    }
}

#[test]
fn a_checksum_that_is_there_must_be_right() {
    for bytes in [recorded!("haproxy-v2-tls"), recorded!("haproxy-v2-tls-certificate")] {
        let header = &bytes[..whole(bytes).length];
        // Not what is looked at before the sum: signature, version, family and length; and that it is a sum.
        for place in (FIXED..header.len()).filter(|place| *place != FIXED + ADDRESSES.len()) {
            let mut changed = header.to_vec();
            changed[place] ^= 0x10;
            assert!(matches!(flaw(&changed), Flaw::Checksum | Flaw::Extensions), "{place}");
        }
    }
    assert_eq!(whole(&summed(b"")).length, 35);
    assert_eq!(whole(&summed(b"\x04\0\x01x")).length, 39);
    for extensions in [
        &b"\x03\0\x04\0\0\0\0"[..],
        b"\x03\0\x03\0\0\0",
        b"\x03\0\x05\0\0\0\0\0",
        b"\x03\0\0",
        &summed(b"")[28..],
    ] {
        assert_eq!(flaw(&summed(extensions)), Flaw::Checksum, "two of them");
    }
    for alone in [&b"\x03\0\x04\0\0\0\0"[..], b"\x03\0\x03\0\0\0", b"\x03\0\0"] {
        assert_eq!(flaw(&extended(alone)), Flaw::Checksum);
    }
}

#[test]
fn a_line_is_exactly_as_it_is_specified_or_none() {
    let ipv4 = inet("10.1.2.3:1000", "10.0.0.1:80");
    for (line, route) in [
        ("PROXY TCP4 10.1.2.3 10.0.0.1 1000 80\r\n", ipv4),
        ("PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n", inet("255.255.255.255:65535", "0.0.0.0:0")),
        ("PROXY TCP6 2001:DB8::1 ::2 1 2\r\n", inet("[2001:db8::1]:1", "[::2]:2")),
        ("PROXY TCP6 ::ffff:a01:203 ::1 1 2\r\n", inet("[::ffff:10.1.2.3]:1", "[::1]:2")),
        ("PROXY UNKNOWN\r\n", Route::Own),
        ("PROXY UNKNOWN \r\n", Route::Own),
        ("PROXY UNKNOWN whatever \u{e4} 1\r\n", Route::Own),
    ] {
        assert_eq!(whole(line.as_bytes()), Header { length: line.len(), route, secured: false }, "{line}");
    }
    assert_eq!(whole(b"PROXY UNKNOWN \xff\0\r\n").route, Route::Own);
    for line in [
        "PROXY  TCP4 10.1.2.3 10.0.0.1 1000 80",
        "PROXY TCP4  10.1.2.3 10.0.0.1 1000 80",
        "PROXY TCP4 10.1.2.3 10.0.0.1 1000 80 ",
        "PROXY TCP4 10.1.2.3 10.0.0.1 1000 80 90",
        "PROXY TCP4 10.1.2.3 10.0.0.1 1000",
        "PROXY TCP4 10.1.2.3 10.0.0.1",
        "PROXY TCP4",
        "PROXY ",
        "PROXY TCP5 10.1.2.3 10.0.0.1 1000 80",
        "PROXY tcp4 10.1.2.3 10.0.0.1 1000 80",
        "PROXY UNKNOWNS",
        "PROXY unknown",
        "PROXY TCP4 ::1 10.0.0.1 1000 80",
        "PROXY TCP4 10.1.2.3 ::1 1000 80",
        "PROXY TCP6 10.1.2.3 10.0.0.1 1000 80",
        "PROXY TCP6 fe80::1%eth0 ::1 1000 80",
        "PROXY TCP6 [::1] ::1 1000 80",
        "PROXY TCP6 1:2:3:4:5:6:7 ::1 1000 80",
        "PROXY TCP4 10.1.2 10.0.0.1 1000 80",
        "PROXY TCP4 10.1.2.256 10.0.0.1 1000 80",
        "PROXY TCP4 10.1.2.03 10.0.0.1 1000 80",
        "PROXY TCP4 10.1.2.3\t10.0.0.1 1000 80",
        "PROXY TCP4 10.1.2.3 10.0.0.1 01000 80",
        "PROXY TCP4 10.1.2.3 10.0.0.1 00 80",
        "PROXY TCP4 10.1.2.3 10.0.0.1 +100 80",
        "PROXY TCP4 10.1.2.3 10.0.0.1 -1 80",
        "PROXY TCP4 10.1.2.3 10.0.0.1 65536 80",
        "PROXY TCP4 10.1.2.3 10.0.0.1 1000 8x",
        "PROXY TCP4 10.1.2.3 10.0.0.1 1000 \u{661}",
        "PROXY TCP4 \u{e4} 10.0.0.1 1000 80",
    ] {
        assert_eq!(flaw(format!("{line}\r\n").as_bytes()), Flaw::Line, "{line}");
        // Nothing is said before the line is whole.
        assert_eq!(parse(line.as_bytes()), Verdict::Incomplete, "{line}");
    }
}

#[test]
fn only_crlf_ends_a_line() {
    for line in
        ["PROXY UNKNOWN\n", "PROXY UNKNOWN\rx", "PROXY UNKNOWN\r\r\n", "PROXY \n", "PROXY UNKNOWN \n\r\n"]
    {
        assert_eq!(flaw(line.as_bytes()), Flaw::LineEnd, "{line:?}");
    }
    assert_eq!(parse(b"PROXY UNKNOWN\r"), Verdict::Incomplete);
}

#[test]
fn a_line_has_107_bytes_at_most() {
    for length in [106, 107] {
        let line = format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16));
        assert_eq!(whole(line.as_bytes()).length, length);
    }
    assert_eq!(whole(recorded!("line-longest")).length, LONGEST_LINE);
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(long.len(), LONGEST_LINE + 1);
    assert_eq!(parse(&long.as_bytes()[..106]), Verdict::Incomplete);
    for length in [107, 108] {
        assert_eq!(flaw(&long.as_bytes()[..length]), Flaw::TooLong(107));
    }
    assert_eq!(flaw(format!("{long}more").as_bytes()), Flaw::TooLong(107));
    assert_eq!(flaw(&[b"PROXY ".as_slice(), &[b'x'; 200]].concat()), Flaw::TooLong(107));
}

#[test]
fn addresses_of_every_family_are_read() {
    let route = inet("10.1.2.3:1000", "10.0.0.1:80");
    assert_eq!(whole(&binary(0x21, 0x11, &ADDRESSES)), Header { length: 28, route, secured: false });
    let v6: Vec<u8> = (1..=36).collect();
    let expected =
        inet("[102:304:506:708:90a:b0c:d0e:f10]:8482", "[1112:1314:1516:1718:191a:1b1c:1d1e:1f20]:8996");
    assert_eq!(whole(&binary(0x21, 0x21, &v6)), Header { length: 52, route: expected, secured: false });
    let header = binary(0x21, 0x31, &[b'/'; 216]);
    assert_eq!(whole(&header), Header { length: 232, route: Route::Unix, secured: false });
}

#[test]
fn datagrams_are_not_what_follows_on_a_stream() {
    for kind in [0x02, 0x12, 0x22, 0x32] {
        let header = binary(0x21, kind, &[0; 216]);
        for length in [14, 16, header.len()] {
            assert_eq!(flaw(&header[..length]), Flaw::Datagrams, "{kind:x}");
        }
        // With LOCAL it says nothing.
        assert_eq!(whole(&binary(0x20, kind, &[0; 216])).route, Route::Own);
    }
}

#[test]
fn a_datagram_has_a_header_of_version_2_or_none() {
    let content = [&ADDRESSES, &b"\x04\0\x01x"[..]].concat();
    let route = inet("10.1.2.3:1000", "10.0.0.1:80");
    for rest in [&b""[..], b"x", b"PROXY UNKNOWN\r\n", SIGNATURE, &[0; 65_000]] {
        let datagram = [&binary(0x21, 0x12, &content), rest].concat();
        assert_eq!(parse_datagram(&datagram), Ok(Some(Header { length: 32, route, secured: false })));
    }
    let length = FIXED + 216;
    for (command, kind, route) in [
        (0x21, 0x32, Route::Unix),
        (0x21, 0x02, Route::Own),
        (0x21, 0x10, Route::Own),
        (0x20, 0x00, Route::Own),
        (0x20, 0x11, Route::Own),
    ] {
        let datagram = binary(command, kind, &[0; 216]);
        assert_eq!(parse_datagram(&datagram), Ok(Some(Header { length, route, secured: false })), "{kind:x}");
    }
    // A client's own words. Two line ends are what SIP keeps a path open with.
    for datagram in
        [&b""[..], b"\r\n\r\n", &SIGNATURE[..11], b"\0", b"PROXY", b"PROXY TCP4 is what I like\r\n"]
    {
        assert_eq!(parse_datagram(datagram), Ok(None), "{}", datagram.escape_ascii());
    }
}

#[test]
fn a_broken_header_of_a_datagram_is_not_taken_for_the_clients_words() {
    let datagram = binary(0x21, 0x12, &ADDRESSES);
    for length in SIGNATURE.len()..datagram.len() {
        assert_eq!(parse_datagram(&datagram[..length]), Err(Flaw::Cut), "{length}");
    }
    let extended = |extensions: &[u8]| binary(0x21, 0x12, &[&ADDRESSES, extensions].concat());
    for (datagram, flaw) in [
        (&b"PROXY TCP4 10.1.2.3 10.0.0.1 1000 80\r\nx"[..], Flaw::Version(1)),
        (b"PROXY UNKNOWN\r\n", Flaw::Version(1)),
        (&binary(0x21, 0x11, &ADDRESSES), Flaw::Stream),
        (&binary(0x21, 0x21, &[0; 36]), Flaw::Stream),
        (&binary(0x21, 0x01, b""), Flaw::Stream),
        (&binary(0x21, 0x13, &ADDRESSES), Flaw::Transport(3)),
        (&binary(0x21, 0x42, &ADDRESSES), Flaw::Family(4)),
        (&binary(0x22, 0x12, &ADDRESSES), Flaw::Command(2)),
        (&binary(0x31, 0x12, &ADDRESSES), Flaw::Version(3)),
        (&binary(0x21, 0x12, &ADDRESSES[1..]), Flaw::Short),
        (&binary(0x21, 0x12, &[0; LONGEST]), Flaw::TooLong(LONGEST)),
        (&extended(b"\x01\0\x01"), Flaw::Extensions),
        (&extended(b"\x03\0\x04\0\0\0\0"), Flaw::Checksum),
    ] {
        assert_eq!(parse_datagram(datagram), Err(flaw), "{}", datagram.escape_ascii());
    }
}

#[test]
fn where_nothing_is_specified_the_connections_own_addresses_count() {
    for kind in [0x00, 0x01, 0x10] {
        for content in [&ADDRESSES[..], &[&ADDRESSES, &b"\x04\0\x01x"[..]].concat()] {
            let header = binary(0x21, kind, content);
            let expected = Header { length: header.len(), route: Route::Own, secured: false };
            assert_eq!(whole(&header), expected, "{kind:x}");
        }
    }
    assert_eq!(whole(&binary(0x21, 0x00, b"")).length, 16);
    assert!(whole(recorded!("binary-unspecified-tls")).secured);
    assert_eq!(flaw(&binary(0x21, 0x00, b"\x03\0\x04\0\0\0\0")), Flaw::Checksum);
    assert_eq!(flaw(&binary(0x21, 0x20, &ADDRESSES)), Flaw::Short);
}

#[test]
fn what_comes_with_local_means_nothing() {
    let tls = b"\x20\0\x05\x01\0\0\0\0";
    let wrong_sum = b"\x03\0\x04\0\0\0\0";
    for (kind, content) in [
        (0x00, &b""[..]),
        (0x11, &ADDRESSES),
        (0x11, &[&ADDRESSES[..], tls].concat()),
        (0x11, &[&ADDRESSES[..], wrong_sum].concat()),
        (0x21, b"short"),
        (0xff, b"\xff\xff\xff\xff"),
    ] {
        let header = binary(0x20, kind, content);
        assert_eq!(whole(&header), Header { length: header.len(), route: Route::Own, secured: false });
    }
}

#[test]
fn what_is_no_header_is_known_at_its_first_wrong_byte() {
    for stream in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"\x16\x03\x01",
        b"\r\n\r\n\r\n",
        b"proxy TCP4",
        b"PROXY\tTCP4",
        b"PROXY\r\n",
        b"PROXY\0",
        b" PROXY ",
        b"\0",
    ] {
        assert_eq!(flaw(stream), Flaw::Missing, "{}", stream.escape_ascii());
    }
    for start in [&SIGNATURE[..], LINE_START] {
        for length in 0..=start.len() {
            assert_eq!(parse(&start[..length]), Verdict::Incomplete);
        }
        for place in 0..start.len() {
            let mut changed = start.to_vec();
            changed[place] ^= 1;
            assert_eq!(flaw(&changed[..=place]), Flaw::Missing);
            assert_eq!(flaw(&changed), Flaw::Missing);
        }
    }
}

#[test]
fn unknown_versions_commands_families_and_transports_are_refused_at_once() {
    for (bytes, expected) in [
        (&[0x11][..], Flaw::Version(1)),
        (&[0x31], Flaw::Version(3)),
        (&[0x01], Flaw::Version(0)),
        (&[0x22], Flaw::Command(2)),
        (&[0x2f], Flaw::Command(15)),
        (&[0x21, 0x41], Flaw::Family(4)),
        (&[0x21, 0xf1], Flaw::Family(15)),
        (&[0x21, 0xff], Flaw::Family(15)),
        (&[0x21, 0x13], Flaw::Transport(3)),
        (&[0x21, 0x0f], Flaw::Transport(15)),
    ] {
        assert_eq!(flaw(&[SIGNATURE, bytes].concat()), expected);
    }
}

#[test]
fn a_header_has_16_kib_at_most() {
    let room = |length: usize| {
        extended(
            &[&[4], &u16::try_from(length - 31).unwrap().to_be_bytes()[..], &vec![0; length - 31]].concat(),
        )
    };
    assert_eq!(whole(&room(LONGEST)).length, LONGEST);
    let long = room(LONGEST + 1);
    assert_eq!(parse(&long[..15]), Verdict::Incomplete);
    assert_eq!(flaw(&long[..16]), Flaw::TooLong(LONGEST));
    assert_eq!(flaw(&long), Flaw::TooLong(LONGEST));
    // LOCAL is no excuse.
    assert_eq!(flaw(&[SIGNATURE, &b"\x20\0\xff\xff"[..]].concat()), Flaw::TooLong(LONGEST));
}

#[test]
fn addresses_and_extensions_must_be_whole() {
    for (kind, length) in [(0x11, 12), (0x21, 36), (0x31, 216), (0x10, 12)] {
        let header = binary(0x21, kind, &vec![1; length - 1]);
        assert_eq!(flaw(&header[..FIXED]), Flaw::Short, "{kind:x}");
        assert_eq!(flaw(&header), Flaw::Short, "{kind:x}");
    }
    for extensions in [
        &b"\x01"[..],
        b"\x01\0",
        b"\x01\0\x01",
        b"\x01\0\0\x02",
        b"\xe0\xff\xff\0",
        b"\x20\0\x04\x01\0\0\0",
        b"\x20\0\0",
    ] {
        assert_eq!(flaw(&extended(extensions)), Flaw::Extensions, "{}", extensions.escape_ascii());
    }
    assert!(!whole(&extended(b"\x20\0\x05\x06\0\0\0\0")).secured, "a certificate, but no TLS");
    assert!(whole(&extended(b"\xee\0\0\x20\0\x07\x01\0\0\0\0xx\x05\0\x02ab")).secured);
}

/// A client with TLS and all that can be known of it.
fn everything() -> ClientTls<'static> {
    ClientTls {
        server_name: Some("www.example.com"),
        protocol: Some(b"h2"),
        version: "TLSv1.3",
        cipher: "TLS_AES_128_GCM_SHA256",
        certificate: Some(ClientCertificate {
            name: Some("Client \u{c4}".to_owned()),
            resumed: false,
            result: 0,
        }),
    }
}

fn client(address: &str) -> ClientAddress {
    ClientAddress::from(address.parse::<SocketAddr>().unwrap())
}

fn outgoing(source: ClientAddress, destination: Option<&str>) -> Outgoing<'static> {
    let destination = destination.map(|text| text.parse().unwrap());
    Outgoing { protocol: Protocol::Tcp, source, destination, tls: None }
}

fn line(source: &str, destination: &str) -> String {
    String::from_utf8(outgoing(client(source), Some(destination)).header(ProxySend::V1)).unwrap()
}

#[test]
fn lines_are_written_as_they_are_specified() {
    assert_eq!(line("10.1.2.3:1000", "10.0.0.1:80"), "PROXY TCP4 10.1.2.3 10.0.0.1 1000 80\r\n");
    assert_eq!(line("[2001:db8::1]:1", "[::1]:2"), "PROXY TCP6 2001:db8::1 ::1 1 2\r\n");
    // A listener for both families shows clients of IPv4 in IPv6, and so it shows itself to them.
    assert_eq!(
        line("[::ffff:10.1.2.3]:1000", "[::ffff:10.0.0.1]:80"),
        "PROXY TCP4 10.1.2.3 10.0.0.1 1000 80\r\n"
    );
    assert_eq!(
        line("10.1.2.3:1000", "[2001:db8::1]:80"),
        "PROXY TCP6 ::ffff:a01:203 2001:db8::1 1000 80\r\n"
    );
    assert_eq!(
        line("[2001:db8::1]:80", "10.1.2.3:1000"),
        "PROXY TCP6 2001:db8::1 ::ffff:a01:203 80 1000\r\n"
    );
    let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = line(&format!("[{full}]:65535"), &format!("[{full}]:65535"));
    assert_eq!(longest, format!("PROXY TCP6 {full} {full} 65535 65535\r\n"));
    for unknown in [
        outgoing(ClientAddress::Unix, Some("10.0.0.1:80")),
        outgoing(ClientAddress::Unix, None),
        outgoing(client("10.1.2.3:1000"), None),
    ] {
        assert_eq!(unknown.header(ProxySend::V1), b"PROXY UNKNOWN\r\n");
        assert_eq!(unknown.header(ProxySend::V2), binary(0x21, 0, b""));
    }
    assert_eq!(outgoing(client("10.1.2.3:1000"), Some("10.0.0.1:80")).header(ProxySend::Off), b"");
}

#[test]
fn of_datagrams_version_2_alone_tells() {
    let datagrams =
        |from: &str, to: &str| Outgoing { protocol: Protocol::Udp, ..outgoing(client(from), Some(to)) };
    let ipv4 = datagrams("10.1.2.3:1000", "10.0.0.1:80");
    assert_eq!(ipv4.header(ProxySend::V2), binary(0x21, 0x12, &ADDRESSES));
    assert_eq!(ipv4.header(ProxySend::V1), b"PROXY UNKNOWN\r\n");
    assert_eq!(ipv4.header(ProxySend::Off), b"");
    let ipv6 = [&[0; 15][..], &[1], &[0; 15], &[2], &[0, 3, 0, 4]].concat();
    assert_eq!(datagrams("[::1]:3", "[::2]:4").header(ProxySend::V2), binary(0x21, 0x22, &ipv6));
    let unknown = Outgoing { destination: None, ..ipv4 };
    assert_eq!(unknown.header(ProxySend::V2), binary(0x21, 0, b""));
}

#[test]
fn what_is_known_by_tls_goes_with_version_2_alone() {
    let secured =
        Outgoing { tls: Some(everything()), ..outgoing(client("10.1.2.3:1000"), Some("10.0.0.1:80")) };
    assert_eq!(secured.header(ProxySend::V1), b"PROXY TCP4 10.1.2.3 10.0.0.1 1000 80\r\n");
    let extensions = b"\x01\0\x02h2\x02\0\x0fwww.example.com\x20\0\x34\x07\0\0\0\0\x21\0\x07TLSv1.3\
                       \x22\0\x09Client \xc3\x84\x23\0\x16TLS_AES_128_GCM_SHA256";
    assert_eq!(secured.header(ProxySend::V2), extended(extensions));
    let unix = Outgoing { source: ClientAddress::Unix, ..secured };
    assert_eq!(unix.header(ProxySend::V2), binary(0x21, 0, extensions));
}

#[test]
fn only_a_certificate_that_was_shown_can_have_been_verified() {
    let flags = |certificate: Option<(bool, u32)>| {
        let certificate =
            certificate.map(|(resumed, result)| ClientCertificate { name: None, resumed, result });
        let tls = ClientTls { certificate, server_name: None, protocol: None, ..everything() };
        let header = Outgoing { tls: Some(tls), ..outgoing(ClientAddress::Unix, None) }.header(ProxySend::V2);
        header[FIXED + 3..FIXED + 8].to_vec()
    };
    assert_eq!(flags(None), [1, 0, 0, 0, 1]);
    assert_eq!(flags(Some((false, 0))), [7, 0, 0, 0, 0]);
    assert_eq!(flags(Some((true, 0))), [5, 0, 0, 0, 0]);
    assert_eq!(flags(Some((false, 0x0102_0304))), [7, 1, 2, 3, 4]);
}

#[test]
fn what_is_too_long_is_left_out() {
    let long = "x".repeat(1025);
    let tls = ClientTls {
        server_name: Some(&long),
        protocol: Some(long.as_bytes()),
        version: &long,
        cipher: &long,
        certificate: Some(ClientCertificate { name: Some(long.clone()), resumed: false, result: 0 }),
    };
    let header = Outgoing { tls: Some(tls), ..outgoing(ClientAddress::Unix, None) }.header(ProxySend::V2);
    assert_eq!(header, binary(0x21, 0, b"\x20\0\x05\x07\0\0\0\0"));
}

/// Addresses of both kinds, those of IPv4 also in the form of IPv6.
fn any_address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        any::<[u16; 8]>().prop_map(|mut groups| {
            groups[2..6].fill(0);
            IpAddr::from(groups)
        }),
        any::<[u8; 4]>().prop_map(|octets| Ipv4Addr::from(octets).to_ipv6_mapped().into()),
    ];
    (ip, any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

/// Name and protocol that were asked for, and the certificate: name, resumed, result.
type Tls = (String, Vec<u8>, Option<(String, bool, u32)>);

fn any_tls() -> impl Strategy<Value = Option<Tls>> {
    prop::option::of((
        "[a-z.]{0,300}",
        prop::collection::vec(any::<u8>(), 0..300),
        prop::option::of(("\\PC{0,80}", any::<bool>(), any::<u32>())),
    ))
}

/// What one address is in a header in which the other is that one.
fn told(address: SocketAddr, other: SocketAddr) -> SocketAddr {
    match (address.ip().to_canonical(), other.ip().to_canonical()) {
        (IpAddr::V4(v4), IpAddr::V6(_)) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        (ip, _) => SocketAddr::new(ip, address.port()),
    }
}

/// What `ppp` reads from the beginning, in our words. None: nothing.
fn read_by_ppp(bytes: &[u8]) -> Option<Header> {
    let inet = |from: IpAddr, to: IpAddr, ports: (u16, u16)| Route::Inet {
        source: SocketAddr::new(from, ports.0),
        destination: SocketAddr::new(to, ports.1),
    };
    if let Ok(header) = v2::Header::try_from(bytes) {
        let secured = header.tlvs().flatten().any(|tlv| {
            tlv.kind == u8::from(Type::SSL) && tlv.value.first().is_some_and(|client| client & 1 == 1)
        });
        let route = match header.addresses {
            _ if header.command == Command::Local || header.protocol == v2::Protocol::Unspecified => {
                Route::Own
            }
            v2::Addresses::Unspecified => Route::Own,
            v2::Addresses::IPv4(it) => inet(
                it.source_address.into(),
                it.destination_address.into(),
                (it.source_port, it.destination_port),
            ),
            v2::Addresses::IPv6(it) => inet(
                it.source_address.into(),
                it.destination_address.into(),
                (it.source_port, it.destination_port),
            ),
            v2::Addresses::Unix(_) => Route::Unix,
        };
        let secured = secured && header.command == Command::Proxy;
        return Some(Header { length: header.len(), route, secured });
    }
    let header = v1::Header::try_from(bytes).ok()?;
    let route = match header.addresses {
        v1::Addresses::Unknown => Route::Own,
        v1::Addresses::Tcp4(it) => inet(
            it.source_address.into(),
            it.destination_address.into(),
            (it.source_port, it.destination_port),
        ),
        v1::Addresses::Tcp6(it) => inet(
            it.source_address.into(),
            it.destination_address.into(),
            (it.source_port, it.destination_port),
        ),
    };
    Some(Header { length: header.header.len(), route, secured: false })
}

proptest! {
    #[test]
    fn ppp_and_we_read_what_we_write(
        source in prop_oneof![9 => any_address().prop_map(Some), 1 => Just(None)],
        destination in prop_oneof![9 => any_address().prop_map(Some), 1 => Just(None)],
        tls in any_tls(),
        protocol in prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)],
        version in prop_oneof![Just(ProxySend::V1), Just(ProxySend::V2), Just(ProxySend::V2Every)],
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let tls = tls.as_ref().map(|(name, protocol, certificate)| ClientTls {
            server_name: Some(name),
            protocol: Some(protocol),
            version: "TLSv1.2",
            cipher: "ECDHE-RSA-AES128-GCM-SHA256",
            certificate: certificate.clone().map(|(name, resumed, result)| ClientCertificate {
                name: Some(name),
                resumed,
                result,
            }),
        });
        let secured = tls.is_some() && version.is_binary();
        let client = source.map_or(ClientAddress::Unix, ClientAddress::from);
        let header = Outgoing { protocol, source: client, destination, tls: tls.clone() }.header(version);
        let is_line = version == ProxySend::V1;
        let route = match (source, destination) {
            _ if is_line && protocol == Protocol::Udp => Route::Own,
            (Some(from), Some(to)) => Route::Inet { source: told(from, to), destination: told(to, from) },
            _ => Route::Own,
        };
        let expected = Header { length: header.len(), route, secured };
        // Where there are addresses, it is said of what they are.
        let in_stream = protocol == Protocol::Tcp || route == Route::Own;
        let in_datagram = !is_line && (protocol == Protocol::Udp || route == Route::Own);
        let of_stream = if in_stream { Verdict::Whole(expected) } else { Verdict::Broken(Flaw::Datagrams) };
        let flaw = if is_line { Flaw::Version(1) } else { Flaw::Stream };
        let of_datagram = if in_datagram { Ok(Some(expected)) } else { Err(flaw) };
        // Without addresses it looks for no extensions.
        let seen = Header { secured: secured && route != Route::Own, ..expected };
        prop_assert_eq!(read_by_ppp(&header), Some(seen));
        for bytes in [&header[..], &[&header[..], &rest].concat()] {
            prop_assert_eq!(parse(bytes), of_stream);
            prop_assert_eq!(parse_datagram(bytes), of_datagram);
        }
        for length in 0..header.len() {
            let (seen, is_one) = (&header[..length], !is_line && length >= SIGNATURE.len());
            let nothing = if is_one { Err(Flaw::Cut) } else { Ok(None) };
            prop_assert!(!in_stream || parse(seen) == Verdict::Incomplete);
            prop_assert!(!in_datagram || parse_datagram(seen) == nothing);
        }
        if let (Some(tls), true) = (tls, route != Route::Own && secured) {
            let read = v2::Header::try_from(&header[..]).unwrap();
            let find = |kind: Type| read.tlvs().flatten().find(|tlv| tlv.kind == u8::from(kind)).unwrap();
            prop_assert_eq!(&find(Type::Authority).value[..], tls.server_name.unwrap().as_bytes());
            prop_assert_eq!(&find(Type::ALPN).value[..], tls.protocol.unwrap());
            let ssl = find(Type::SSL);
            let within: v2::TypeLengthValues<'_> = ssl.value[5..].into();
            let within: Vec<_> = within.map(|tlv| tlv.unwrap()).collect();
            let text = |kind: Type| {
                let found = within.iter().find(|tlv| tlv.kind == u8::from(kind))?;
                Some(String::from_utf8(found.value.to_vec()).unwrap())
            };
            prop_assert_eq!(text(Type::SSLVersion), Some(tls.version.to_owned()));
            prop_assert_eq!(text(Type::SSLCipher), Some(tls.cipher.to_owned()));
            prop_assert_eq!(text(Type::SSLCommonName), tls.certificate.and_then(|it| it.name));
        }
    }

    #[test]
    fn we_read_what_ppp_writes(
        source in any_address(),
        destination in any_address(),
        command in prop_oneof![Just(Command::Local), Just(Command::Proxy)],
        protocol in prop_oneof![
            Just(v2::Protocol::Stream),
            Just(v2::Protocol::Datagram),
            Just(v2::Protocol::Unspecified),
        ],
        extensions in prop::collection::vec((6u8..32, prop::collection::vec(any::<u8>(), 0..50)), 0..5),
    ) {
        let mut builder = Builder::with_addresses(Version::Two | command, protocol, (source, destination));
        for (kind, value) in &extensions {
            builder = builder.write_tlv(*kind, value).unwrap();
        }
        let header = builder.build().unwrap();
        let theirs = read_by_ppp(&header).unwrap();
        let for_both = protocol == v2::Protocol::Unspecified || command == Command::Local;
        let (of_stream, of_datagram) = match protocol {
            _ if for_both => (Verdict::Whole(theirs), Ok(Some(theirs))),
            v2::Protocol::Datagram => (Verdict::Broken(Flaw::Datagrams), Ok(Some(theirs))),
            _ => (Verdict::Whole(theirs), Err(Flaw::Stream)),
        };
        prop_assert_eq!(parse(&header), of_stream);
        prop_assert_eq!(parse_datagram(&header), of_datagram);
        let line = format!("{}\r\n", v1::Addresses::from((source, destination)));
        let ours = parse(line.as_bytes());
        prop_assert_eq!(ours, read_by_ppp(line.as_bytes()).map_or(Verdict::Incomplete, Verdict::Whole));
    }

    #[test]
    fn whatever_we_take_ppp_takes_too(
        command in prop_oneof![Just(0x20u8), Just(0x21), any::<u8>()],
        kind in prop_oneof![Just(0x11u8), Just(0x21), Just(0x31), Just(0u8), any::<u8>()],
        content in prop::collection::vec(any::<u8>(), 0..260),
        line in "(TCP4|TCP6|UNKNOWN)? ?([0-9]{1,3}[.]){3}[0-9]{1,3} ?[0-9a-f:.]{3,20} [0-9]{1,6} ?[0-9]{0,6}\r?\n?.{0,9}",
    ) {
        let line = format!("PROXY {line}").into_bytes();
        for stream in [binary(command, kind, &content), line] {
            match parse(&stream) {
                Verdict::Whole(ours) => {
                    let theirs = read_by_ppp(&stream);
                    let theirs = theirs.map(|theirs| Header { secured: ours.secured, ..theirs });
                    // To it, families matter with LOCAL as well.
                    prop_assert!(theirs == Some(ours) || command == 0x20 && ours.route == Route::Own);
                }
                Verdict::Incomplete | Verdict::Broken(_) => {}
            }
        }
    }

    #[test]
    fn datagrams_and_streams_differ_in_the_transport_alone(
        command in prop_oneof![Just(0x20u8), Just(0x21)],
        family in 0u8..4,
        content in prop::collection::vec(any::<u8>(), 0..260),
        rest in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let of = |transport| [&binary(command, family << 4 | transport, &content)[..], &rest].concat();
        let of_datagram = match parse_datagram(&of(DATAGRAM)) {
            Ok(header) => Verdict::Whole(header.unwrap()),
            Err(flaw) => Verdict::Broken(flaw),
        };
        prop_assert_eq!(parse(&of(STREAM)), of_datagram);
    }

    #[test]
    fn what_is_said_of_a_beginning_holds(stream in prop::collection::vec(any::<u8>(), 0..300), start in 0usize..3) {
        let start: &[u8] = [&SIGNATURE[..], LINE_START, b""][start];
        let stream = [start, &stream].concat();
        let verdict = parse(&stream);
        for length in 0..stream.len() {
            let sooner = parse(&stream[..length]);
            prop_assert!(sooner == Verdict::Incomplete || sooner == verdict, "{sooner:?}, then {verdict:?}");
        }
    }
}
