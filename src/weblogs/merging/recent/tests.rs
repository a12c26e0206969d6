use proptest::prelude::*;

use super::*;

/// What a log has: who, when, of which server, what.
type Logged = (String, i64, &'static str, &'static str);

struct Log(VecDeque<Logged>, Option<Logged>);

impl Log {
    fn of(entries: &[Logged]) -> Self {
        Log(VecDeque::from(entries.to_vec()), None)
    }
}

impl PenLog for Log {
    fn next(&mut self) -> Option<PenLine<'_>> {
        self.1 = self.0.pop_front();
        self.1.as_ref().map(|(client, time, server, text)| PenLine {
            client: client.as_bytes(),
            time: *time,
            server: server.as_bytes(),
            text: text.as_bytes(),
        })
    }
}

fn logged(client: &str, time: i64, server: &'static str, text: &'static str) -> Logged {
    (client.to_owned(), time, server, text)
}

/// Entries of the same request: the first letter of a client, and the time.
fn of_one_request(entries: &[(&str, i64)]) -> Log {
    Log::of(&entries.iter().map(|(client, time)| logged(client, *time, "s", "x")).collect::<Vec<_>>())
}

fn asked(recent: &mut Recent, time: i64, log: &mut Log) -> Option<(String, i64)> {
    let server = recent.server(b"s");
    let found = recent.find(server, b"x", None, time, log);
    found.map(|found| (String::from_utf8(found.client.to_vec()).unwrap(), found.later))
}

/// Who is found for a line of each of these times.
fn found(jitter: u32, entries: &[(&str, i64)], times: &[i64]) -> Vec<String> {
    let mut recent = Recent::new(Span::Jitter(jitter), 0);
    let mut log = of_one_request(entries);
    times
        .iter()
        .map(|&time| asked(&mut recent, time, &mut log).map_or("-".to_owned(), |(client, _)| client))
        .collect()
}

#[test]
fn the_nearest_entry_is_the_client() {
    assert_eq!(found(10, &[("a", 100), ("b", 104), ("c", 109)], &[101, 103, 107, 120]), ["a", "b", "c", "-"]);
}

#[test]
fn of_two_equally_near_the_first_in_the_log_is_taken() {
    assert_eq!(found(10, &[("a", 95), ("b", 105)], &[100]), ["a"]);
    assert_eq!(found(10, &[("a", 105), ("b", 95)], &[100]), ["a"]);
    assert_eq!(found(10, &[("a", 95), ("b", 95), ("c", 105), ("d", 105)], &[100, 101]), ["a", "c"]);
}

#[test]
fn entries_earlier_than_the_jitter_are_forgotten_before_a_line() {
    let far = ("z", 1000);
    assert_eq!(found(3, &[("a", 100), far], &[100, 103]), ["a", "a"]);
    assert_eq!(found(3, &[("a", 100), far], &[100, 104]), ["a", "z"]);
    // Read for this line, and not forgotten before the next.
    assert_eq!(found(3, &[("a", 100)], &[1000, 1000]), ["a", "-"]);
}

#[test]
fn reading_ends_with_the_first_entry_later_than_the_jitter() {
    assert_eq!(found(3, &[("a", 104), ("b", 103)], &[100]), ["a"]);
    assert_eq!(found(3, &[("a", 103), ("b", 102)], &[100]), ["b"]);
    assert_eq!(found(3, &[("a", 1000)], &[100]), ["a"]);
}

#[test]
fn a_late_entry_stays_as_long_as_the_one_before_it() {
    assert_eq!(found(3, &[("a", 109), ("b", 100), ("z", 200)], &[105, 112, 113]), ["a", "a", "z"]);
}

#[test]
fn the_whole_log_is_searched_without_jitter() {
    let mut recent = Recent::new(Span::Whole, 0);
    let mut log = of_one_request(&[("a", 0), ("b", 1_000_000)]);
    assert_eq!(asked(&mut recent, 600_000, &mut log), Some(("b".to_owned(), 400_000)));
    assert_eq!(asked(&mut recent, 0, &mut log), Some(("a".to_owned(), 0)));
    assert_eq!(asked(&mut recent, 400_000, &mut log), Some(("a".to_owned(), -400_000)));
}

#[test]
fn the_shift_is_taken_from_pens_times() {
    let mut recent = Recent::new(Span::Jitter(5), 3600);
    let mut log = of_one_request(&[("a", 100), ("b", 3700), ("c", 9999)]);
    assert_eq!(asked(&mut recent, 100, &mut log), Some(("b".to_owned(), 0)));
}

#[test]
fn extreme_times_do_no_harm() {
    let extremes = [i64::MIN, i64::MIN + 1, 0, i64::MAX - 1, i64::MAX];
    for span in [Span::Jitter(0), Span::Jitter(u32::MAX), Span::Whole] {
        for shift in [0, i64::MIN, i64::MAX] {
            let mut recent = Recent::new(span, shift);
            let mut log = of_one_request(&extremes.map(|time| ("a", time)));
            for time in extremes {
                asked(&mut recent, time, &mut log);
            }
        }
    }
}

#[test]
fn servers_and_requests_have_to_be_the_same() {
    let mut recent = Recent::new(Span::Jitter(600), 0);
    let (one, two) = (recent.server(b"10.0.0.1"), recent.server(b"10.0.0.2"));
    let mut log = Log::of(&[
        logged("a", 100, "10.0.0.1", "GET /"),
        logged("b", 100, "10.0.0.1", "GET /b"),
        logged("c", 100, "10.0.0.2", "GET /"),
        logged("d", 100, "10.0.0.11", "GET /d"),
    ]);
    let mut ask = |server, text: &[u8]| {
        recent.find(server, text, None, 100, &mut log).map(|found| found.client.to_vec())
    };
    assert_eq!(ask(one, b"GET /"), Some(b"a".to_vec()));
    assert_eq!(ask(one, b"GET /b"), Some(b"b".to_vec()));
    assert_eq!(ask(two, b"GET /"), Some(b"c".to_vec()));
    assert_eq!(ask(two, b"GET /b"), None);
    assert_eq!(ask(one, b"GET /d"), None);
    assert_eq!(ask(one, b"GET"), None);
}

#[test]
fn an_address_is_known_in_pens_spelling() {
    let mut recent = Recent::new(Span::Jitter(600), 0);
    let six = recent.server(b"0:0:0:0:0:0:0:1");
    assert_eq!(recent.server(b"::1"), six);
    let four = recent.server(b"::ffff:10.0.0.1");
    assert_ne!(four, six);
    assert_eq!(recent.server(b"10.0.0.1"), four);
    assert_ne!(recent.server(b"www"), four);
}

#[test]
fn a_request_that_pen_has_cut_counts_if_nobody_asked_for_the_whole() {
    let mut recent = Recent::new(Span::Jitter(600), 0);
    let server = recent.server(b"s");
    let mut log = Log::of(&[logged("cut", 100, "s", "GET /a"), logged("whole", 150, "s", "GET /ab")]);
    let mut ask = |text: &[u8]| {
        recent.find(server, text, Some(b"GET /a"), 100, &mut log).map(|found| found.client.to_vec())
    };
    assert_eq!(ask(b"GET /ab"), Some(b"whole".to_vec()));
    assert_eq!(ask(b"GET /abc"), Some(b"cut".to_vec()));
}

#[test]
fn entries_of_the_same_second_and_request_are_kept_once() {
    let mut recent = Recent::new(Span::Jitter(600), 0);
    let entries: Vec<_> = (0..100_000).map(|number| logged(&number.to_string(), 100, "s", "x")).collect();
    let mut log = Log::of(&entries);
    assert_eq!(asked(&mut recent, 100, &mut log), Some(("0".to_owned(), 0)));
    assert_eq!(recent.entries.len(), 1);
}

#[test]
fn what_lies_before_the_jitter_takes_no_room() {
    let mut recent = Recent::new(Span::Jitter(10), 0);
    let entries: Vec<_> = (0..500_000).map(|time| logged("someone", time, "s", "x")).collect();
    let mut log = Log::of(&entries);
    assert_eq!(asked(&mut recent, 499_000, &mut log), Some(("someone".to_owned(), 0)));
    assert!(recent.entries.len() <= KEPT);
    assert!(recent.clients.bytes.len() < 4 * KEPT * "someone".len());
    for time in 499_000..500_100 {
        asked(&mut recent, time, &mut log);
    }
    assert!(recent.entries.is_empty());
    assert!(recent.clients.bytes.len() < 100_000);
}

/// The rule as it is written at the top of the module, and nothing else.
struct Model {
    jitter: i64,
    log: Vec<Logged>,
    cache: Vec<Logged>,
    last: Option<i64>,
}

impl Model {
    fn find(&mut self, server: &str, text: &str, time: i64) -> Option<(String, i64)> {
        while self.cache.first().is_some_and(|entry| entry.1 < time - self.jitter) {
            self.cache.remove(0);
        }
        while !self.log.is_empty() && self.last.is_none_or(|last| last <= time + self.jitter) {
            let entry = self.log.remove(0);
            self.last = Some(entry.1);
            self.cache.push(entry);
        }
        let mut best: Option<&Logged> = None;
        for entry in &self.cache {
            let better = best.is_none_or(|best| (entry.1 - time).abs() < (best.1 - time).abs());
            if entry.2 == server && entry.3 == text && better {
                best = Some(entry);
            }
        }
        best.map(|entry| (entry.0.clone(), entry.1 - time))
    }
}

const SERVERS: [&str; 3] = ["s", "t", "other"];
const TEXTS: [&str; 3] = ["x", "y", "z"];

fn entries() -> impl Strategy<Value = Vec<Logged>> {
    let entry = (prop_oneof![8 => 0_i64..3, 1 => 0_i64..40], -3_i64..3, 0_usize..3, 0_usize..3);
    prop::collection::vec(entry, 0..60).prop_map(|steps| {
        let mut time = 1000;
        let mut entries = Vec::new();
        for (number, (step, off, server, text)) in steps.into_iter().enumerate() {
            time += step;
            entries.push((format!("c{number}"), time + off.max(0), SERVERS[server], TEXTS[text]));
        }
        entries
    })
}

fn questions() -> impl Strategy<Value = Vec<(i64, usize, usize)>> {
    let question = (prop_oneof![8 => 0_i64..4, 1 => 0_i64..60, 1 => -9_i64..0], 0_usize..2, 0_usize..3);
    prop::collection::vec(question, 0..40).prop_map(|steps| {
        let mut time = 995;
        let place = |(step, server, text)| {
            time += step;
            (time, server, text)
        };
        steps.into_iter().map(place).collect()
    })
}

/// What the index finds for each question, and what the model finds.
fn compare(
    mut recent: Recent,
    jitter: i64,
    log: &[Logged],
    questions: &[(i64, usize, usize)],
) -> Result<(), TestCaseError> {
    let ids = [recent.server(b"s"), recent.server(b"t")];
    let mut model = Model { jitter, log: log.to_vec(), cache: Vec::new(), last: None };
    let mut lines = Log::of(log);
    for &(time, server, text) in questions {
        let found = recent.find(ids[server], TEXTS[text].as_bytes(), None, time, &mut lines);
        let found = found.map(|found| (String::from_utf8(found.client.to_vec()).unwrap(), found.later));
        prop_assert_eq!(found, model.find(SERVERS[server], TEXTS[text], time), "at {}", time);
    }
    Ok(())
}

proptest! {
    #[test]
    fn the_index_finds_what_a_search_finds(log in entries(), questions in questions(), jitter in 0_u32..20) {
        compare(Recent::new(Span::Jitter(jitter), 0), jitter.into(), &log, &questions)?;
    }

    #[test]
    fn it_does_so_in_the_whole_log(log in entries(), questions in questions()) {
        compare(Recent::new(Span::Whole, 0), 1_000_000, &log, &questions)?;
    }

    /// Lines in order are answered the same however little is kept of what was skipped.
    #[test]
    fn little_is_enough_for_lines_in_order(log in entries(), mut questions in questions(), jitter in 0_u32..20) {
        let mut log = log;
        log.sort_by_key(|entry| entry.1);
        questions.sort_by_key(|question| question.0);
        compare(Recent::keeping(0, Span::Jitter(jitter), 0), jitter.into(), &log, &questions)?;
    }
}
