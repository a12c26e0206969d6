use std::collections::VecDeque;

use proptest::prelude::*;

use super::super::datagram::{LINE_MAX, PIECE};
use super::*;

const WAIT: u64 = 1_000_000;

/// A consolidator, its clock and what it has written.
struct Story {
    consolidator: Consolidator,
    now: Moment,
    out: Vec<u8>,
}

impl Story {
    fn with(limits: Limits) -> Self {
        Story { consolidator: Consolidator::new(limits), now: Moment(1), out: Vec::new() }
    }

    fn new() -> Self {
        Story::with(Limits::default())
    }

    /// A datagram from this address.
    fn take(&mut self, from: &str, datagram: impl AsRef<[u8]>) {
        let from = SocketAddr::new(from.parse().unwrap(), 5000);
        self.consolidator.take(from, datagram.as_ref(), self.now, &mut self.out);
    }

    fn pen(&mut self, datagram: &str) {
        self.take("10.0.0.9", datagram);
    }

    fn later(&mut self, micros: u64) {
        self.now = self.now.plus_micros(micros);
        self.consolidator.tick(self.now, &mut self.out);
    }

    /// What was written since this was asked last.
    fn written(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.out)).unwrap()
    }

    fn counts(&self) -> &Counts {
        self.consolidator.counts()
    }
}

fn line(request: &str) -> String {
    format!("10.9.9.9 - - [22/Nov/2026:07:10:00 +0000] \"{request}\" 200 1")
}

fn of(client: &str, request: &str) -> String {
    line(request).replace("10.9.9.9", client) + "\n"
}

#[test]
fn a_line_gets_the_client_of_the_newest_record_that_begins_with_its_request() {
    let mut story = Story::new();
    story.pen("+ 127.0.0.7 127.0.0.2 GET /index.html HTTP/1.0\n");
    story.pen("+ 127.0.0.8 127.0.0.2 GET /index.html HTTP/1.0\n");
    story.pen("+ 127.0.0.9 127.0.0.3 GET /index.html HTTP/1.0\n");
    for _ in 0..2 {
        story.take("127.0.0.2", line("GET /index.html HTTP/1.0") + "\n");
        assert_eq!(story.written(), of("127.0.0.8", "GET /index.html HTTP/1.0"));
    }
    story.take("127.0.0.3", line("GET /index"));
    assert_eq!(story.written(), of("127.0.0.9", "GET /index"));
    story.take("::ffff:127.0.0.2", line(""));
    assert_eq!(story.written(), of("127.0.0.8", ""));
    assert_eq!((story.counts().entries, story.counts().matched), (3, 4));
}

#[test]
fn a_line_without_a_record_is_written_as_it_came_when_its_time_is_up() {
    let mut story = Story::new();
    story.take("127.0.0.2", line("GET /"));
    assert_eq!((story.written(), story.consolidator.deadline()), (String::new(), Some(Moment(1 + WAIT))));
    story.later(WAIT - 1);
    assert_eq!(story.written(), "");
    story.later(1);
    assert_eq!(story.written(), of("10.9.9.9", "GET /"));
    assert_eq!((story.counts().waited, story.counts().unmatched), (1, 1));
    assert_eq!(story.consolidator.deadline(), None);
}

/// penlogd was stopped, or had to wait for a disk.
#[test]
fn what_had_come_in_time_is_taken_before_a_line_is_given_up() {
    let mut story = Story::new();
    story.take("127.0.0.2", line("GET /a"));
    story.take("127.0.0.2", line("GET /b"));
    story.now = Moment(5 * WAIT);
    story.pen("+ other 127.0.0.2 GET /c\n");
    story.pen("+ c 127.0.0.2 GET /b\n");
    assert_eq!(story.written(), "");
    story.later(0);
    assert_eq!(story.written(), of("10.9.9.9", "GET /a") + &of("c", "GET /b"));
}

#[test]
fn a_record_that_comes_late_is_the_oldest_waiting_lines_and_no_others() {
    let mut story = Story::new();
    story.take("127.0.0.2", line("GET /a"));
    story.take("127.0.0.2", line("GET /a"));
    story.take("127.0.0.3", line("GET /a"));
    story.pen("+ first 127.0.0.2 GET /a HTTP/1.0\n");
    assert_eq!(story.written(), of("first", "GET /a"));
    story.pen("+ second 127.0.0.2 GET /a HTTP/1.0\n");
    assert_eq!(story.written(), of("second", "GET /a"));
    story.later(WAIT);
    assert_eq!(story.written(), of("10.9.9.9", "GET /a"));
}

#[test]
fn a_line_that_has_waited_in_vain_gets_the_newest_client_all_the_same() {
    let mut story = Story::new();
    story.take("127.0.0.2", line("GET /a"));
    story.take("127.0.0.2", line("GET /a"));
    story.pen("+ c 127.0.0.2 GET /a HTTP/1.0\n");
    story.take("127.0.0.2", line("GET /a"));
    assert_eq!(story.written(), of("c", "GET /a"));
    story.later(WAIT);
    assert_eq!(story.written(), of("c", "GET /a").repeat(2));
    assert_eq!((story.counts().matched, story.counts().unmatched), (3, 0));
}

#[test]
fn lines_leave_in_the_order_in_which_they_came() {
    let mut story = Story::new();
    story.pen("+ known 127.0.0.2 GET /known\n");
    for request in ["GET /a", "GET /known", "GET /b", "GET /known", "GET /c"] {
        story.take("127.0.0.2", line(request));
    }
    story.pen("+ late 127.0.0.2 GET /b\n");
    assert_eq!(story.written(), "");
    story.pen("+ later 127.0.0.2 GET /a\n");
    let expected =
        [of("later", "GET /a"), of("known", "GET /known"), of("late", "GET /b"), of("known", "GET /known")];
    assert_eq!(story.written(), expected.concat());
    story.consolidator.flush(&mut story.out);
    assert_eq!(story.written(), of("10.9.9.9", "GET /c"));
    assert_eq!(story.consolidator.deadline(), None);
    assert_eq!((story.counts().matched, story.counts().unmatched, story.counts().waited), (4, 1, 3));
}

#[test]
fn without_time_to_wait_every_line_leaves_at_once() {
    let mut story = Story::with(Limits { wait: 0, ..Limits::default() });
    story.take("127.0.0.2", line("GET /"));
    assert_eq!(story.written(), of("10.9.9.9", "GET /"));
    assert_eq!(story.counts().waited, 0);
}

#[test]
fn when_too_many_lines_wait_the_oldest_leaves_before_its_time() {
    let mut story = Story::with(Limits { lines: 2, ..Limits::default() });
    for request in ["GET /a", "GET /b", "GET /c"] {
        story.take("127.0.0.2", line(request));
    }
    assert_eq!(story.written(), of("10.9.9.9", "GET /a"));
    let mut story = Story::with(Limits { bytes: 1500, ..Limits::default() });
    for _ in 0..100 {
        story.take("127.0.0.2", line("GET /a"));
        assert!(story.consolidator.waiting.size().1 <= 1500);
    }
    assert!(story.counts().hurried > 90);
    assert_eq!(story.counts().hurried, story.counts().unmatched);
}

#[test]
fn as_many_records_are_remembered_as_were_asked_for() {
    let mut story = Story::with(Limits { entries: 2, wait: 0, ..Limits::default() });
    for request in ["GET /a", "GET /b", "GET /c"] {
        story.pen(&format!("+ c 127.0.0.2 {request}\n"));
    }
    story.take("127.0.0.2", line("GET /a"));
    story.take("127.0.0.2", line("GET /b"));
    assert_eq!(story.written(), of("10.9.9.9", "GET /a") + &of("c", "GET /b"));
    assert_eq!(story.counts().evicted, 1);
}

#[test]
fn requests_are_compared_without_the_servers_escapes() {
    let mut story = Story::new();
    story.pen("+ c 127.0.0.2 GET /\"quoted\"\\ \u{1b}å HTTP/1.0\n");
    for quoted in
        [r#"GET /\"quoted\"\\ \x1b\xc3\xa5 HTTP/1.0"#, r"GET /\x22quoted\x22\x5C \x1B\xC3\xA5 HTTP/1.0"]
    {
        story.take("127.0.0.2", line(quoted));
        assert_eq!(story.written(), of("c", quoted));
    }
}

#[test]
fn a_server_that_knows_of_no_escapes_is_understood_too() {
    let mut story = Story::new();
    story.pen("+ c 127.0.0.2 GET /a\\x41 HTTP/1.0\n");
    story.take("127.0.0.2", line(r"GET /a\x41 HTTP/1.0"));
    assert_eq!(story.written(), of("c", r"GET /a\x41 HTTP/1.0"));
    for (record, line_first) in [(r"GET /b\x41", r"GET /b\x41"), ("GET /cA", r"GET /c\x41")] {
        story.take("127.0.0.2", line(line_first));
        story.pen(&format!("+ late 127.0.0.2 {record}\n"));
        assert_eq!(story.written(), of("late", line_first));
    }
}

#[test]
fn a_request_that_pen_has_cut_is_its_lines() {
    let mut story = Story::new();
    let request = format!("GET /{} HTTP/1.0", "x".repeat(2000));
    let mut record = format!("+ c 127.0.0.2 {request}");
    record.truncate(999);
    record += "\n#0badcafe 1234567890123\n";
    assert_eq!(record.len(), 1024);
    story.take("127.0.0.2", line(&request));
    story.pen(&record);
    story.take("127.0.0.2", line(&request));
    assert_eq!(story.written(), of("c", &request).repeat(2));
    story.take("127.0.0.2", line(&request[..1500]));
    story.take("127.0.0.2", line(&(request[..900].to_owned() + "y")));
    assert_eq!(story.written(), of("c", &request[..1500]));
}

#[test]
fn nothing_from_the_network_forges_a_line() {
    let mut story = Story::with(Limits { wait: 0, ..Limits::default() });
    story.take("127.0.0.2", "a \"GET /\" 200\n6.6.6.6 - - \"GET /forged\"\n\x1b[2J\r\n");
    assert_eq!(story.written(), "a \"GET /\" 200\\x0a6.6.6.6 - - \"GET /forged\"\\x0a\\x1b[2J\n");
    story.pen("+ c\n6.6.6.6 127.0.0.2 GET /\n");
    story.pen("+ c\u{7f}d 127.0.0.2 GET /\n");
    assert_eq!(story.counts().malformed(Malformed::Record), 2);
}

#[test]
fn what_cannot_be_understood_is_counted_and_not_written() {
    let mut story = Story::new();
    for (datagram, why) in [
        ("+ 1.2.3.4\n", Malformed::Record),
        ("+ 1.2.3.4 no.such.host GET /\n", Malformed::Server),
        ("+ 1.2.3.4 /run/x.sock GET /\n", Malformed::UnixServer),
        ("+ 1.2.3.4 127.0.0.1 \n", Malformed::NoText),
        ("#penlog what\n", Malformed::Mark),
        ("no request here\n", Malformed::Line),
        ("\n", Malformed::Line),
        ("", Malformed::Line),
    ] {
        let before = story.counts().malformed(why);
        story.take("127.0.0.2", datagram);
        assert_eq!(story.counts().malformed(why), before + 1, "{datagram:?}");
    }
    assert_eq!(story.counts().malformed.iter().sum::<u64>(), 8);
    story.consolidator.flush(&mut story.out);
    assert_eq!(story.written(), "");
}

#[test]
fn nginxs_syslog_header_is_taken_off() {
    let mut story = Story::new();
    story.pen("+ c 127.0.0.2 GET /a\n");
    let line = line("GET /a");
    story.take("127.0.0.2", format!("<190>Nov 23 10:00:00 web1 nginx: {line}"));
    story.take("127.0.0.2", format!("<190>Nov  3 10:00:00 nginx: {line}"));
    assert_eq!(story.written(), of("c", "GET /a").repeat(2));
}

#[test]
fn a_line_that_comes_in_pieces_is_one_line() {
    let mut story = Story::new();
    let request = format!("GET /{}", "x".repeat(2400));
    let long = line(&request) + "\n";
    let announced = format!("#penlog 00000001 0 {}\n", long.len());
    for announcement in ["", &announced] {
        if !announcement.is_empty() {
            story.take("127.0.0.2", announcement);
        }
        for (number, piece) in long.as_bytes().chunks(PIECE).enumerate() {
            story.take("127.0.0.2", piece);
            // Another process at the same address.
            story.consolidator.take(
                ([127, 0, 0, 2], 7).into(),
                line("GET /b").as_bytes(),
                story.now,
                &mut story.out,
            );
            assert_eq!(story.consolidator.pieces.deadline().is_none(), number == 2);
        }
        story.later(WAIT);
        assert_eq!(story.written().replace(&of("10.9.9.9", "GET /b"), ""), long);
    }
    assert_eq!(story.counts().unmatched, 8);
}

#[test]
fn a_line_of_which_a_piece_was_lost_is_dropped_and_the_next_is_not_touched() {
    let mut story = Story::with(Limits { wait: 0, ..Limits::default() });
    let long = line(&"x".repeat(2400)) + "\n";
    let pieces: Vec<_> = long.as_bytes().chunks(PIECE).collect();
    for kept in [&pieces[..1], &pieces[1..], &[pieces[0], pieces[2]], &[]] {
        story.take("127.0.0.2", format!("#penlog 00000001 0 {}\n", long.len()));
        for piece in kept {
            story.take("127.0.0.2", piece);
        }
        story.take("127.0.0.2", line("GET /next") + "\n");
        assert_eq!(story.written(), of("10.9.9.9", "GET /next"));
    }
    assert_eq!(story.counts().broken, 4);
}

/// Who asks for it chooses where the pieces of his line begin.
#[test]
fn a_piece_that_looks_like_a_mark_is_a_piece() {
    let head = line("GET /") + &"x".repeat(PIECE - line("GET /").len());
    let forged = format!("#penlog 00000002 {:0>1006}", 7);
    assert_eq!((head.len(), forged.len()), (PIECE, PIECE));
    let long = head.clone() + &forged + "end\n";
    for announced in [true, false] {
        let mut story = Story::with(Limits { wait: 0, ..Limits::default() });
        if announced {
            story.take("127.0.0.2", format!("#penlog 00000001 0 {}\n", long.len()));
        }
        for piece in long.as_bytes().chunks(PIECE) {
            story.take("127.0.0.2", piece);
        }
        assert_eq!(story.written(), long);
    }
}

/// Nor when those before it are lost, or late, as soon as its sender is known to mark its lines.
#[test]
fn nothing_that_a_client_put_at_the_beginning_of_a_piece_is_taken_for_itself() {
    for forged in [
        "+ 6.6.6.6 127.0.0.2 GET /a",
        "6.6.6.6 - - \"GET /a\"",
        "#penlog 00000001 9",
        "<190>Nov 23 10:00:00 x: 6.6.6.6 \"GET /a\"",
    ] {
        let mut story = Story::with(Limits { wait: 0, ..Limits::default() });
        story.take("127.0.0.2", "#penlog 00000001 0\n");
        story.pen("+ c 127.0.0.2 GET /a\n");
        let head = line("GET /") + &"x".repeat(PIECE - line("GET /").len());
        let middle = format!("{forged}{}", "y".repeat(PIECE - forged.len()));
        let long = head + &middle + &middle + "end \"-\"\n";
        let pieces: Vec<_> = long.as_bytes().chunks(PIECE).collect();
        // The announcement and the first piece are lost.
        for piece in &pieces[1..] {
            story.take("127.0.0.2", piece);
        }
        // They come, and the others when nobody waits for them any more.
        story.take("127.0.0.2", format!("#penlog 00000001 3 {}\n", long.len()));
        story.take("127.0.0.2", pieces[0]);
        story.later(LEAST_PATIENCE);
        for piece in &pieces[1..] {
            story.take("127.0.0.2", piece);
        }
        assert_eq!(story.written(), "", "{forged}");
        story.take("127.0.0.2", line("GET /a"));
        assert_eq!(story.written(), of("c", "GET /a"), "{forged}");
        assert_eq!((story.counts().broken, story.counts().entries), (2, 1), "{forged}");
        // A whole line of a web server can look like a record as well.
        story.take("127.0.0.2", "+ 6.6.6.6 127.0.0.2 GET /a\n");
        story.take("127.0.0.2", line("GET /a"));
        assert_eq!(story.written(), of("c", "GET /a"), "{forged}");
    }
}

#[test]
fn a_line_of_which_nobody_knows_how_long_it_is_may_be_announced() {
    let mut story = Story::with(Limits { wait: 0, ..Limits::default() });
    let long = line(&("GET /\" ".to_owned() + &"x".repeat(3000))) + "\n";
    story.take("127.0.0.2", format!("#penlog 00000001 0 {UNKNOWN}\n"));
    for piece in long.as_bytes().chunks(PIECE) {
        story.take("127.0.0.2", piece);
    }
    assert_eq!((story.written(), story.counts().broken), (long, 0));
}

#[test]
fn a_line_that_does_not_end_is_written_in_time_and_when_all_ends() {
    let mut story = Story::with(Limits { wait: 0, ..Limits::default() });
    let start = &line(&("GET /\" ".to_owned() + &"x".repeat(2000)))[..PIECE];
    story.take("127.0.0.2", start);
    story.later(LEAST_PATIENCE);
    assert_eq!(story.written(), start.to_owned() + "\n");
    story.take("127.0.0.2", start);
    story.take("127.0.0.2", "#penlog 00000001 1\n");
    assert_eq!(story.written(), start.to_owned() + "\n");
    story.take("127.0.0.2", "#penlog 00000001 0 2000\n");
    story.take("127.0.0.2", start);
    story.consolidator.flush(&mut story.out);
    assert_eq!(story.written(), start.to_owned() + "\n");
    assert_eq!(story.counts().broken, 0);
}

#[test]
fn a_line_longer_than_64_kib_is_cut() {
    let mut story = Story::with(Limits { wait: 0, ..Limits::default() });
    let long = line(&("GET /\" ".to_owned() + &"x".repeat(70_000))) + "\n";
    for piece in long.as_bytes().chunks(PIECE) {
        story.take("127.0.0.2", piece);
    }
    assert_eq!(story.written(), long[..LINE_MAX].to_owned() + "\n");
    assert_eq!((story.counts().cut, story.counts().unmatched), (1, 1));
}

#[test]
fn datagrams_that_were_lost_are_counted_for_their_sender() {
    let mut story = Story::new();
    for seq in [0, 1, 4, 4] {
        story.pen(&format!("+ c 127.0.0.2 GET /{seq}\n#0badcafe {seq}\n"));
    }
    // It says nothing, but is not missing.
    story.pen("+ c 127.0.0.2 \n#0badcafe 5\n");
    story.take("127.0.0.2", "#penlog 00000001 0\n");
    story.take("127.0.0.2", line("GET /0"));
    story.take("127.0.0.2", "#penlog 00000001 3\n");
    assert_eq!((story.counts().lost_entries, story.counts().lost_lines), (0, 0));
    story.later(WAIT);
    assert_eq!((story.counts().lost_entries, story.counts().lost_lines), (2, 2));
    assert_eq!((story.counts().duplicates, story.counts().entries), (1, 3));
    let losses = story.consolidator.take_losses();
    let pen = Loss { from: [10, 0, 0, 9].into(), records: true, datagrams: 2 };
    assert_eq!(losses, [pen, Loss { from: [127, 0, 0, 2].into(), records: false, datagrams: 2 }]);
}

#[test]
fn lines_that_look_like_something_else_are_not_missing() {
    let mut story = Story::new();
    story.take("127.0.0.2", "#penlog 00000001 0\n");
    for line in ["+ - [22/Nov/2026]\n", "+ c 127.0.0.2 GET /\n", "#penlog what\n", "\n"] {
        story.take("127.0.0.2", line);
    }
    story.take("127.0.0.2", "#penlog 00000001 5\n");
    story.later(WAIT);
    assert_eq!(story.counts().lost_lines, 1);
}

#[test]
fn numbers_at_the_end_of_all_numbers_do_no_harm() {
    let mut story = Story::new();
    for _ in 0..3 {
        story.take("127.0.0.2", format!("#penlog 00000001 {}\n", u64::MAX));
        story.take("127.0.0.2", line("GET /"));
        story.pen(&format!("+ c 127.0.0.2 GET /\n#0badcafe {}\n", u64::MAX));
    }
    story.later(WAIT);
    assert_eq!((story.counts().lost_entries, story.counts().lost_lines), (0, 0));
}

/// The rules, naively: every line looks at every record, and every record at every line.
#[derive(Default)]
struct Naive {
    records: VecDeque<(u8, Vec<u8>, String)>,
    lines: VecDeque<(u8, Vec<u8>, Option<String>, u64)>,
    written: String,
}

impl Naive {
    fn record(&mut self, server: u8, text: &[u8], client: &str, most: usize) {
        let waits = |line: &&mut (u8, Vec<u8>, Option<String>, u64)| {
            line.0 == server && line.2.is_none() && text.starts_with(&line.1)
        };
        if let Some(line) = self.lines.iter_mut().find(waits) {
            line.2 = Some(client.to_owned());
        }
        self.records.push_back((server, text.to_vec(), client.to_owned()));
        if self.records.len() > most {
            self.records.pop_front();
        }
    }

    fn line(&mut self, server: u8, request: &[u8], now: u64, most: usize) {
        let fits = |record: &&(u8, Vec<u8>, String)| record.0 == server && record.1.starts_with(request);
        let client = self.records.iter().rev().find(fits).map(|record| record.2.clone());
        self.lines.push_back((server, request.to_vec(), client, now + WAIT));
        while self.lines.len() > most && self.lines.iter().any(|line| line.2.is_none()) {
            self.write_oldest();
        }
    }

    fn write_due(&mut self, now: u64) {
        while self.lines.front().is_some_and(|line| line.2.is_some() || line.3 <= now) {
            self.write_oldest();
        }
    }

    fn write_oldest(&mut self) {
        if let Some((server, request, client, _)) = self.lines.pop_front() {
            let fits = |record: &&(u8, Vec<u8>, String)| record.0 == server && record.1.starts_with(&request);
            let newest = || self.records.iter().rev().find(fits).map(|record| record.2.clone());
            let client = client.or_else(newest);
            let request = String::from_utf8(request).unwrap();
            self.written += &of(client.as_deref().unwrap_or("10.9.9.9"), &request);
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_what_the_rules_say(
        steps in prop::collection::vec(
            (0_u8..3, 0_u8..2, prop::collection::vec(prop::sample::select(&b"ab"[..]), 1..6), 0..WAIT / 4),
            0..200,
        ),
        entries in 0_usize..20,
        lines in 1_usize..20,
    ) {
        let mut story = Story::with(Limits { entries, lines, ..Limits::default() });
        let mut naive = Naive::default();
        for (number, (kind, server, text, pause)) in steps.into_iter().enumerate() {
            story.later(pause);
            naive.write_due(story.now.0);
            let (address, request) = (format!("127.0.0.{server}"), std::str::from_utf8(&text).unwrap());
            if kind == 0 {
                let client = format!("c{number}");
                story.pen(&format!("+ {client} {address} {request}\n"));
                naive.record(server, &text, &client, entries);
            } else {
                let request = &text[..text.len() / usize::from(kind)];
                story.take(&address, line(std::str::from_utf8(request).unwrap()));
                naive.line(server, request, story.now.0, lines);
            }
            naive.write_due(story.now.0);
            prop_assert_eq!(std::str::from_utf8(&story.out).unwrap(), &naive.written);
        }
        story.consolidator.flush(&mut story.out);
        while !naive.lines.is_empty() {
            naive.write_oldest();
        }
        prop_assert_eq!(story.written(), naive.written);
    }
}
