//! What the fuzzer checks (`contrib/fuzz`), without the fuzzer: its corpus, and some thousand mutations of it that are
//! the same every time.
#![allow(clippy::unwrap_used)] // the whole crate is a test
#![allow(unreachable_pub)] // the targets are the library of another crate, too

use std::fs;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "../contrib/fuzz/src/lib.rs"]
mod targets;

/// How many mutations a target gets.
const MUTATIONS: usize = 2000;

/// No target mutates for longer than this, on a slow machine.
const MOST_TIME: Duration = Duration::from_secs(10);

/// No input is mutated to more than this.
const MOST_BYTES: usize = 8192;

#[test]
fn commands_keep_what_they_promise() {
    run("command", targets::command);
}

#[test]
fn specifications_read_as_they_are_shown() {
    run("specs", targets::specs);
}

#[test]
fn sessions_ask_for_the_same_however_they_are_cut() {
    run("session", targets::session);
}

#[test]
fn client_hellos_say_the_same_however_they_are_cut() {
    run("client_hello", targets::client_hello);
}

#[test]
fn bodies_and_responses_are_followed_the_same_however_they_are_cut() {
    run("http_stream", targets::http_stream);
}

#[test]
fn headers_of_the_proxy_protocol_say_the_same_however_they_are_cut() {
    run("proxy_header", targets::proxy_header);
}

#[test]
fn heads_of_requests_tell_of_the_client_or_are_refused() {
    run("http_head", targets::http_head);
}

#[test]
fn datagrams_for_penlogd_become_whole_lines() {
    run("penlogd", targets::penlogd);
}

#[test]
fn requests_in_lines_of_web_servers_are_those_of_pen() {
    run("web_line", targets::web_line);
}

#[test]
fn merged_lines_are_lines_that_say_the_same() {
    run("merge", targets::merge);
}

#[test]
fn the_fuzzers_targets_are_those_with_a_corpus() {
    let manifest = fs::read_to_string(fuzz("Cargo.toml")).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(fuzz("corpus")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let expected = [
        "client_hello",
        "command",
        "http_head",
        "http_stream",
        "merge",
        "penlogd",
        "proxy_header",
        "session",
        "specs",
        "web_line",
    ];
    assert_eq!(names, expected);
    for name in names {
        let name = name.to_str().unwrap();
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        let target = fs::read_to_string(fuzz(&format!("fuzz_targets/{name}.rs"))).unwrap();
        assert!(target.contains(&format!("pen_fuzz::{name}(")), "{name}");
    }
}

/// Else the fuzzer would be built with other packages than those that have been looked at.
#[test]
fn the_fuzzers_lock_file_knows_all_packages() {
    let read = |file: PathBuf| fs::read_to_string(file).unwrap();
    let manifest = read(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let (_, wanted) = manifest.split_once("[dependencies]\n").unwrap();
    let wanted = wanted.lines().take_while(|line| !line.starts_with('['));
    let lock = read(fuzz("Cargo.lock"));
    let mut packages = lock.split("[[package]]\n");
    let pen = packages.find(|package| package.starts_with("name = \"pen\"\n")).unwrap();
    for name in wanted.filter_map(|line| line.split_once(" = ")).map(|(name, _)| name) {
        assert!(
            pen.contains(&format!("\n \"{name}\",\n")),
            "{name}: run cargo update --workspace in contrib/fuzz"
        );
    }
}

fn fuzz(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/fuzz").join(path)
}

fn run(name: &str, target: fn(&[u8])) {
    let corpus = corpus(name);
    for input in &corpus {
        attempt(name, target, input);
    }
    let words = dictionary();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let end = Instant::now() + MOST_TIME;
    for _ in 0..MUTATIONS {
        let mut input = random.of(&corpus).clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, &mut random, &corpus, &words);
        }
        attempt(name, target, &input);
        if Instant::now() > end {
            return;
        }
    }
}

/// Says which input it was if something does not hold.
fn attempt(name: &str, target: fn(&[u8]), input: &[u8]) {
    if catch_unwind(|| target(input)).is_err() {
        panic!("contrib/fuzz, target {name}, input b\"{}\"", input.escape_ascii());
    }
}

/// All inputs of a target that are kept, in the order of their names.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let mut files: Vec<_> =
        fs::read_dir(fuzz("corpus").join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
    // What a fuzzer has left behind is named by a hash.
    files.retain(|file| file.file_name().is_some_and(|name| name.len() < 40));
    files.sort();
    assert!(files.len() > 2, "the corpus of {name} is gone");
    files.into_iter().map(|file| fs::read(file).unwrap()).collect()
}

/// The words of the fuzzer's dictionary; those with escapes are left to it.
fn dictionary() -> Vec<Vec<u8>> {
    let text = fs::read_to_string(fuzz("words.dict")).unwrap();
    let words = text.lines().filter(|line| !line.starts_with('#') && !line.contains('\\'));
    let words: Vec<_> = words.map(|line| line.trim_matches('"').as_bytes().to_vec()).collect();
    assert!(words.len() > 30);
    words
}

fn mutate(input: &mut Vec<u8>, random: &mut Random, corpus: &[Vec<u8>], words: &[Vec<u8>]) {
    let from = random.below(input.len() + 1);
    let to = from + random.below((input.len() - from).min(16) + 1);
    match random.below(7) {
        0 => drop(input.drain(from..to)),
        1 => {
            let piece = input[from..to].to_vec();
            let at = random.below(input.len() + 1);
            input.splice(at..at, piece);
        }
        2 => {
            if let Some(byte) = input.get_mut(from) {
                *byte ^= 1 << random.below(8);
            }
        }
        3 => {
            let telling = b" \t\r\n\0\"\\#:/[].-019axz\xff\xc3\xa5";
            input.insert(from, *random.of(telling));
        }
        4 => drop(input.splice(from..to, random.of(words).iter().copied())),
        5 => {
            let other = random.of(corpus);
            let (start, at) = (random.below(other.len() + 1), from);
            input.splice(at.., other[start..].iter().copied());
        }
        _ => {
            // A line from somewhere else.
            let lines: Vec<_> = random.of(corpus).split(|&byte| byte == b'\n').collect();
            let line = random.of(&lines).to_vec();
            input.splice(from..to, line);
        }
    }
    input.truncate(MOST_BYTES);
}

/// xorshift64: the same numbers every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}
