//! Heads of HTTP requests.

use httparse::Status;
use pen::model::address::ClientAddress;
use pen::model::http::{Existing, HttpSettings};
use pen::policy::http::body::Body;
use pen::policy::http::head::{self, HeadRules, Kind, MOST_HEADERS, Opening, Request};

const ADDRESS: &str = "2001:db8::1";
const ELEMENT: &str = "for=\"[2001:db8::1]\";proto=https";

type Fields = Vec<(String, Vec<u8>)>;

/// The first bytes of a client, as if they came in pieces, and the heads in them.
pub fn http_head(input: &[u8]) {
    let opening = head::opening(input);
    for step in 0..64 {
        let sooner = head::opening(&input[..input.len() * step / 64]);
        assert!(sooner == Opening::Incomplete || sooner == opening, "{sooner:?}, then {opening:?}");
    }
    let mut rest = input;
    loop {
        rest = &rest[head::empty_lines(rest)..];
        let end = head::find_end(rest, 0);
        check_end(rest, end);
        let Some(end) = end else { return };
        let (head, after) = rest.split_at(end);
        let Some(request) = check_head(head) else { return };
        assert_eq!(opening, Opening::Request, "it was let by");
        match request.body {
            Body::None => rest = after,
            Body::Length(length) => {
                rest =
                    usize::try_from(length).ok().and_then(|length| after.get(length..)).unwrap_or_default();
            }
            Body::Chunked(_) | Body::Rest => return,
        }
    }
}

fn check_end(bytes: &[u8], end: Option<usize>) {
    let is_end = |end: &usize| bytes[..*end].ends_with(b"\n\n") || bytes[..*end].ends_with(b"\n\r\n");
    assert_eq!((0..=bytes.len()).find(is_end), end);
    for looked in (0..end.unwrap_or(bytes.len())).rev().take(8) {
        assert_eq!(head::find_end(&bytes[..looked], 0), None);
        assert_eq!(head::find_end(bytes, looked), end);
    }
}

/// What it is, if it is taken: by all rules or by none.
fn check_head(head: &[u8]) -> Option<Request> {
    let choices = [Existing::Append, Existing::Replace, Existing::Keep]
        .map(|existing| [(existing, false), (existing, true)]);
    let mut verdicts = choices.into_iter().flatten().map(|(existing, forwarded)| {
        let settings = HttpSettings { existing, forwarded, ..HttpSettings::default() };
        let client = ClientAddress::Inet(ADDRESS.parse().expect("an address"), 1);
        let rules = HeadRules::new(&settings, &client, true);
        let mut out = Vec::new();
        let verdict = head::rewrite(head, &rules, &mut out);
        match &verdict {
            Ok(request) => check_rewritten(head, &out, &settings, request, &rules),
            Err(reason) => {
                super::assert_is_one_line(reason.0);
                assert!(out.is_empty());
            }
        }
        verdict.ok()
    });
    let first = verdicts.next().flatten();
    assert!(verdicts.all(|verdict| verdict == first));
    first
}

fn check_rewritten(head: &[u8], out: &[u8], settings: &HttpSettings, request: &Request, rules: &HeadRules) {
    let (line, fields) = read(head);
    let (line_now, fields_now) = read(out);
    assert_eq!(line_now, line);
    assert_eq!(head::find_end(out, 0), Some(out.len()));
    assert!(out.split_inclusive(|&byte| byte == b'\n').all(|line| line.ends_with(b"\r\n")));
    let may_upgrade = matches!(request.kind, Kind::Plain | Kind::Upgrade);
    let is_other = |(name, _): &&(String, Vec<u8>)| {
        !["X_FORWARDED_FOR", "X_FORWARDED_PROTO", "FORWARDED"].contains(&variable(name).as_str())
            && (may_upgrade || !name.eq_ignore_ascii_case("upgrade"))
    };
    assert!(fields.iter().filter(is_other).eq(fields_now.iter().filter(is_other)));
    let framing = of_framing(&fields_now);
    assert!(framing <= 1 && (framing == 1 || request.body == Body::None));
    for (name, entry, wanted) in [
        ("X-Forwarded-For", ADDRESS, true),
        ("X-Forwarded-Proto", "https", true),
        ("Forwarded", ELEMENT, settings.forwarded),
    ] {
        let same = |fields: &Fields| -> Fields {
            fields.iter().filter(|(other, _)| variable(other) == variable(name)).cloned().collect()
        };
        let (before, now) = (same(&fields), same(&fields_now));
        let had = before.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        match settings.existing {
            Existing::Replace if !wanted => assert_eq!(now, []),
            Existing::Append if !wanted => assert_eq!(now, before),
            Existing::Append | Existing::Replace => {
                let [(exact, value)] = &now[..] else { panic!("{now:?}") };
                assert!(exact.eq_ignore_ascii_case(name));
                assert!(value == entry.as_bytes() || value.ends_with(format!(", {entry}").as_bytes()));
            }
            Existing::Keep if had || !wanted => assert_eq!(now, before),
            Existing::Keep => {
                assert_eq!(now[..now.len() - 1], before);
                assert_eq!(now.last(), Some(&(name.to_owned(), entry.as_bytes().to_vec())));
            }
        }
    }
    if fields_now.len() <= MOST_HEADERS {
        let mut again = Vec::new();
        assert_eq!(head::rewrite(out, rules, &mut again).as_ref(), Ok(request));
        assert!(settings.existing == Existing::Append || again == out, "once is as good as twice");
    }
}

/// As CGI has it.
fn variable(name: &str) -> String {
    name.to_ascii_uppercase().replace(|sign: char| !sign.is_ascii_alphanumeric(), "_")
}

/// How many headers say something of the body's length, to whomever.
fn of_framing(fields: &Fields) -> usize {
    let names = ["CONTENT_LENGTH", "TRANSFER_ENCODING"];
    fields.iter().filter(|(name, _)| names.contains(&variable(name).as_str())).count()
}

/// The request line's parts, and the headers.
fn read(head: &[u8]) -> ((String, String, u8), Fields) {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS + 3];
    let mut request = httparse::Request::new(&mut headers);
    assert_eq!(request.parse(head), Ok(Status::Complete(head.len())));
    let fields =
        request.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect();
    let line = request.method.zip(request.path).zip(request.version).expect("a whole head");
    ((line.0.0.to_owned(), line.0.1.to_owned(), line.1), fields)
}
