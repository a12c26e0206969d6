//! The proof that this pen can take the classic's place: the same scenarios, played with both, give the same
//! transcripts, but for the differences that are intended.
//!
//! `cargo test --test differential` plays all of them with Debian's pen 0.34.1 and with the pen that cargo has just
//! built. A scenario starts pens, servers and clients, sends commands and signals, and notes what can be seen from
//! outside; ports, pids, times and paths are replaced by names. The transcripts are compared line by line. A
//! difference fails, unless [`intended::DIFFERENCES`] tells what either side gives, and why; an entry there that is no
//! longer true fails, too. What this version cannot do yet is listed in [`missing::MISSING`], and is tried: it must be
//! refused with a clear message, and the entry must go when the capability comes.
//!
//! Arguments are those of libtest: words select scenarios by parts of their names, `--list` lists them, `--test-threads N` plays so
//! many at a time. Besides, `--show` prints the transcripts. `PEN_CLASSIC` is the path of the classic if it is not /usr/bin/pen, and
//! `PEN_UNDER_TEST` that of another pen to compare; if that is the classic as well, the scenarios themselves are
//! tested: nothing may differ then. Not run by libtest, because the summary is for people to read, also when all is
//! well.
#![allow(clippy::unwrap_used)] // the whole crate is a test
#![allow(unreachable_pub)] // its modules are for each other

mod compare;
mod intended;
mod missing;
mod pen;
mod scenarios;
mod stage;
#[allow(dead_code, unused_imports, unused_macros)] // what only the stories of tests/behaviour use
#[path = "../behaviour/support/mod.rs"]
mod support;
mod traffic;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use compare::{Comparison, Lines};
use missing::Capability;
use scenarios::Scenario;
use stage::{Program, Transcript};

/// Scenarios mostly wait.
const THREADS: usize = 8;

/// Of logs no more lines are shown.
const MOST_SHOWN: usize = 5;

/// What became of a test.
enum Outcome {
    Compared(Comparison),
    /// Why it was not played.
    Ignored(String),
}

struct Options {
    words: Vec<String>,
    list: bool,
    show: bool,
    threads: usize,
}

impl Options {
    fn from_arguments() -> Options {
        let mut options = Options { words: Vec::new(), list: false, show: false, threads: THREADS };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let (flag, value) = argument.split_once('=').unwrap_or((&argument, ""));
            match flag {
                "--list" => options.list = true,
                "--show" => options.show = true,
                "--test-threads" => {
                    let given = if value.is_empty() { arguments.next() } else { Some(value.to_owned()) };
                    let given = given.and_then(|given| given.parse().ok());
                    options.threads = given.unwrap_or(THREADS).max(1);
                }
                // The others of libtest change nothing here.
                _ if flag.starts_with('-') => {}
                _ => options.words.push(argument),
            }
        }
        options
    }

    fn asks_for(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| name.contains(word.as_str()))
    }
}

/// Both pens. `alike`: the classic plays both parts.
struct Cast {
    classic: Program,
    ours: Program,
    alike: bool,
}

fn main() -> ExitCode {
    let options = Options::from_arguments();
    let all = scenarios::all();
    if options.list {
        all.iter().for_each(|scenario| println!("{}: test", scenario.name));
        missing::MISSING.iter().for_each(|entry| println!("{}: test", entry.name()));
        return ExitCode::SUCCESS;
    }
    let total = all.len() + missing::MISSING.len();
    let (scenarios, out): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|scenario| options.asks_for(scenario.name));
    println!("\nrunning {} tests", total - out.len());
    let path = classic_path();
    if !takes_anything_for_usage(&path) {
        println!("test differential ... ignored, there is no classic pen: {} is not one", path.display());
        println!("\ntest result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out\n");
        return ExitCode::SUCCESS;
    }
    let ours = std::env::var_os("PEN_UNDER_TEST").map_or(env!("CARGO_BIN_EXE_pen").into(), PathBuf::from);
    let alike = takes_anything_for_usage(&ours);
    let cast = Cast {
        classic: Program { path, classic: true },
        ours: Program { path: ours, classic: alike },
        alike,
    };
    keep_panics();
    let start = Instant::now();
    let mut outcomes = play_all(&scenarios, &cast, &options);
    let missing = missing::MISSING.iter().filter(|entry| !alike && options.asks_for(entry.name()));
    for entry in missing {
        let outcome = match entry.check(&cast.ours) {
            Ok(()) => Outcome::Ignored(entry.what()),
            Err(faults) => Outcome::Compared(Comparison { failures: faults, ..Comparison::default() }),
        };
        tell(entry.name(), &outcome);
        outcomes.push((entry.name(), outcome));
    }
    if options.words.is_empty() && !alike {
        let known: Vec<&str> = scenarios.iter().map(|scenario| scenario.name).collect();
        outcomes.extend(intended::without_scenario(&known).into_iter().map(|difference| {
            let failures = vec!["there is no such scenario, but an intended difference of it".to_owned()];
            (difference.scenario, Outcome::Compared(Comparison { failures, ..Comparison::default() }))
        }));
    }
    summary(&outcomes, total, start)
}

/// Where the classic is, if it is there. Its other programs are beside it.
fn classic_path() -> PathBuf {
    std::env::var_os("PEN_CLASSIC").map_or("/usr/bin/pen".into(), PathBuf::from)
}

/// The classic takes `--version` for bad usage, and answers with the usage text.
fn takes_anything_for_usage(path: &Path) -> bool {
    Command::new(path).arg("--version").output().is_ok_and(|output| output.stdout.starts_with(b"usage:"))
}

/// A panic ends the scenario of its thread, and is told with its outcome.
fn keep_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !scenarios::keep_panic(panic) {
            default(panic);
        }
    }));
}

fn play_all<'a>(scenarios: &'a [Scenario], cast: &Cast, options: &Options) -> Vec<(&'a str, Outcome)> {
    // What takes long comes first.
    let mut order: Vec<&Scenario> = scenarios.iter().collect();
    order.sort_by_key(|scenario| !scenario.slow);
    let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                while let Some(scenario) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = play(scenario, cast, options.show);
                    let mut outcomes = outcomes.lock().unwrap();
                    tell(scenario.name, &outcome);
                    outcomes.insert(scenario.name, outcome);
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    scenarios.iter().map(|scenario| (scenario.name, outcomes.remove(scenario.name).unwrap())).collect()
}

fn play(scenario: &Scenario, cast: &Cast, show: bool) -> Outcome {
    if scenario.root && !nix::unistd::geteuid().is_root() {
        return Outcome::Ignored("it needs root".to_owned());
    }
    if !cast.alike
        && let Some(missing) = scenario.needs.iter().find(|needed| needed.is_missing())
    {
        return Outcome::Ignored(format!("not in this version: {missing}"));
    }
    let mut comparison = Comparison::default();
    let classic = match scenario.play(&cast.classic, 1) {
        Ok(transcript) => transcript,
        Err(panic) => {
            comparison.failures.push(format!("with the classic it breaks off: {panic}"));
            return Outcome::Compared(comparison);
        }
    };
    for &workers in if cast.alike { &[1] } else { scenario.workers } {
        let ours = match scenario.play(&cast.ours, workers) {
            Ok(transcript) => transcript,
            Err(panic) => {
                comparison.failures.push(format!("with ours, {workers} workers, it breaks off: {panic}"));
                continue;
            }
        };
        if show {
            print(scenario.name, &classic, &ours);
        }
        let intended = if cast.alike { Vec::new() } else { intended::of(scenario.name) };
        comparison.add(compare::compare(&classic, &ours, &intended));
    }
    Outcome::Compared(comparison)
}

fn print(name: &str, classic: &Transcript, ours: &Transcript) {
    let mut text = format!("--- {name}\n");
    for (who, transcript) in [("classic", classic), ("ours", ours)] {
        for seen in &transcript.observations {
            let count = seen.text.lines().count();
            if !seen.lines || count <= MOST_SHOWN {
                text += &format!("{who:8} {:?}: {:?}\n", seen.label, seen.text);
                continue;
            }
            text += &format!("{who:8} {:?}, {count} lines:\n", seen.label);
            seen.text.lines().take(MOST_SHOWN).for_each(|line| text += &format!("    {line}\n"));
        }
    }
    print!("{text}");
}

fn tell(name: &str, outcome: &Outcome) {
    match outcome {
        Outcome::Ignored(reason) => println!("test {name} ... ignored, {reason}"),
        Outcome::Compared(comparison) => {
            let verdict = if comparison.failures.is_empty() { "ok" } else { "FAILED" };
            println!("test {name} ... {verdict}");
            comparison.failures.iter().for_each(|failure| println!("    {failure}"));
        }
    }
}

/// Tells what came of all, for people, and in libtest's line for scripts.
fn summary(outcomes: &[(&str, Outcome)], total: usize, start: Instant) -> ExitCode {
    let (mut sum, mut passed, mut failed, mut ignored) = (Comparison::default(), 0, 0, 0);
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, outcome) in outcomes {
        match outcome {
            Outcome::Ignored(_) => ignored += 1,
            Outcome::Compared(comparison) => {
                *(if comparison.failures.is_empty() { &mut passed } else { &mut failed }) += 1;
                for difference in &comparison.intended {
                    let what = format!("{name}, {}", difference.label);
                    let told = reasons.entry(difference.reason).or_default();
                    if !told.contains(&what) {
                        told.push(what);
                    }
                }
                sum.observations += comparison.observations;
                sum.equal += comparison.equal;
                sum.lines.add(&comparison.lines);
                sum.intended.extend(&comparison.intended);
                sum.failures.extend(comparison.failures.iter().map(|failure| format!("{name}: {failure}")));
            }
        }
    }
    if !reasons.is_empty() {
        println!("\nintended differences:");
    }
    for (reason, what) in &reasons {
        println!("  {reason}");
        what.iter().for_each(|what| println!("      {what}"));
    }
    let mut waiting: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, outcome) in outcomes {
        if let Outcome::Ignored(reason) = outcome {
            waiting.entry(reason).or_default().push(name);
        }
    }
    if !waiting.is_empty() {
        println!("\nnot played:");
    }
    for (reason, names) in &waiting {
        println!("  {reason} ({} tests)", names.len());
        names.iter().for_each(|name| println!("      {name}"));
    }
    if !sum.failures.is_empty() {
        println!("\nfailures:");
    }
    sum.failures.iter().for_each(|failure| println!("  {failure}"));
    let Lines { compared, intended, unlike } = sum.lines;
    if compared > 0 {
        println!(
            "\nlines of the log tools: {compared} compared: {} equal, {intended} different as intended, {unlike} \
             different",
            compared - intended - unlike
        );
    }
    let cases: usize = missing::MISSING.iter().map(|entry| entry.cases.len()).sum();
    println!(
        "\n{} scenarios, {} observations compared: {} equal, {} intended differences ({} reasons), {} failures; \
         not in this version: {} capabilities ({cases} cases)",
        passed + failed,
        sum.observations,
        sum.equal,
        sum.intended.len(),
        reasons.len(),
        sum.failures.len(),
        missing::MISSING.len(),
    );
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; {} filtered \
         out; finished in {:.2}s\n",
        total.saturating_sub(outcomes.len()),
        start.elapsed().as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Capability {
    /// Is it in the list of what this version cannot do?
    fn is_missing(self) -> bool {
        missing::MISSING.iter().any(|entry| entry.capability == Some(self))
    }
}
