use super::*;

struct Log(Vec<&'static str>);

impl PenLog for Log {
    fn next(&mut self) -> Option<PenLine<'_>> {
        (!self.0.is_empty()).then(|| PenLine::read(self.0.remove(0).as_bytes()).unwrap())
    }
}

/// What becomes of a line of the server "s" with these lines of pen's log.
fn merged(line: &[u8], log: &[&'static str]) -> (String, Written) {
    let mut merger = Merger::new(Span::Jitter(600), 0);
    let server = merger.server(b"s");
    let parts = WebLine::read(line).unwrap();
    let time = stamp::read(&line[parts.time.clone()]).unwrap();
    let mut out = Vec::new();
    let line = Line { text: line, parts: &parts, time, server };
    let written = merger.write(line, &mut Log(log.to_vec()), &mut out);
    (String::from_utf8_lossy(&out).into_owned(), written)
}

#[test]
fn the_client_and_the_time_in_utc_are_put_in() {
    let line = br#"10.0.18.6 - bob [09/Jan/2002:00:28:50 +0100] "GET /r HTTP/1.0" 404 268 "ref" "UA x""#;
    assert_eq!(
        merged(line, &["192.0.2.10 1010532532 s GET /r HTTP/1.0"]),
        (
            "192.0.2.10 - bob [08/Jan/2002:23:28:50 +0000] \"GET /r HTTP/1.0\" 404 268 \"ref\" \"UA x\"\n"
                .into(),
            Written::Client(2)
        )
    );
}

#[test]
fn the_server_stands_for_a_client_that_nobody_knows() {
    let (line, written) =
        merged(b"c - - [08/Jan/2002:23:28:50 +0000] \"GET /\" 1", &["x 1010532532 t GET /"]);
    assert_eq!(line, "s - - [08/Jan/2002:23:28:50 +0000] \"GET /\" 1\n");
    assert_eq!(written, Written::Nobody);
}

fn client(request: &str, log: &[&'static str]) -> String {
    let line = format!("c - - [08/Jan/2002:23:28:50 +0000] \"{request}\" 1");
    merged(line.as_bytes(), log).0.split(' ').next().unwrap().to_owned()
}

#[test]
fn escapes_of_the_web_server_are_compared_as_what_pen_logs() {
    assert_eq!(client(r#"GET /a\"b HTTP/1.0"#, &["x 1010532530 s GET /a\"b HTTP/1.0"]), "x");
    assert_eq!(client(r"GET /\xe5 HTTP/1.0", &["x 1010532530 s GET /. HTTP/1.0"]), "x");
    assert_eq!(client(r"GET /\x1b", &["x 1010532530 s GET /\x1b"]), "x");
    assert_eq!(client("GET /å", &["x 1010532530 s GET /å"]), "x");
}

#[test]
fn longer_requests_are_compared_with_what_pen_keeps_of_them() {
    let cut: &'static str = format!("x 1010532530 s {}", "a".repeat(TEXT_MAX)).leak();
    let whole: &'static str = format!("y 1010532590 s {}", "a".repeat(TEXT_MAX + 1)).leak();
    let long = "a".repeat(TEXT_MAX + 1);
    assert_eq!(client(&long, &[cut]), "x");
    assert_eq!(client(&long, &[cut, whole]), "y");
    assert_eq!(client(&long[1..], &[cut, whole]), "x");
    assert_eq!(client(&long[2..], &[cut, whole]), "s");
}

#[test]
fn nothing_in_a_log_makes_a_new_line_or_reaches_a_terminal() {
    let line = b"c - \x1b- [08/Jan/2002:23:28:50 +0000] \"GET /\x07\" 1 \"\x00\r\x7f\t\xe5\"";
    let (line, _) = merged(line, &["\x1b]0;x 1010532530 s GET /\x07"]);
    assert_eq!(line.matches('\n').count(), 1);
    assert!(line.starts_with("\\x1b]0;x - \\x1b- [08/Jan/2002"), "{line}");
    assert!(!line.trim_end().bytes().any(|byte| byte.is_ascii_control() && byte != b'\t'), "{line}");
}
