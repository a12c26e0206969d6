//! mergelogs: what comes out of logs, and what it says when they are not there.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::backend::webs;
use crate::support::{Pen, Scratch, client, wait_until};

/// Where Debian has the classic's.
const CLASSIC: &str = "/usr/bin/mergelogs";

/// 08/Jan/2002:23:28:50 UTC.
const THEN: i64 = 1_010_532_530;

fn mergelogs(files: &Scratch, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mergelogs"));
    command.args(arguments).current_dir(files.path()).env("TZ", "UTC").stdin(Stdio::null());
    command
}

fn run(files: &Scratch, arguments: &[&str]) -> Output {
    mergelogs(files, arguments).output().unwrap()
}

/// What it writes, without any message.
#[track_caller]
fn merged(files: &Scratch, arguments: &[&str]) -> String {
    let output = run(files, arguments);
    assert_eq!(text(&output.stderr), "");
    assert!(output.status.success());
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The logs of the manual's example.
fn example() -> Scratch {
    let files = Scratch::new();
    files.write(
        "pen.log",
        "192.0.2.10 1010532530 10.0.0.1 GET /robots.txt HTTP/1.0\n\
         192.0.2.11 1010532531 10.0.0.2 GET /news.html HTTP/1.0\n\
         192.0.2.12 1010532590 10.0.0.1 GET /robots.txt HTTP/1.0\n",
    );
    files.write(
        "a1",
        "10.0.18.6 - - [09/Jan/2002:00:28:50 +0100] \"GET /robots.txt HTTP/1.0\" 404 268\n\
         10.0.18.6 - - [09/Jan/2002:00:29:40 +0100] \"GET /robots.txt HTTP/1.0\" 404 268\n\
         10.0.18.6 - bob [09/Jan/2002:00:31:00 +0100] \"GET /other HTTP/1.0\" 200 1 \"ref\" \"UA x\"\n",
    );
    files.write("a2", "10.0.18.6 - - [09/Jan/2002:00:28:51 +0100] \"GET /news.html HTTP/1.0\" 200 4017\n");
    files
}

const EXAMPLE: &str = "\
192.0.2.10 - - [08/Jan/2002:23:28:50 +0000] \"GET /robots.txt HTTP/1.0\" 404 268\n\
192.0.2.11 - - [08/Jan/2002:23:28:51 +0000] \"GET /news.html HTTP/1.0\" 200 4017\n\
192.0.2.12 - - [08/Jan/2002:23:29:40 +0000] \"GET /robots.txt HTTP/1.0\" 404 268\n\
10.0.0.1 - bob [08/Jan/2002:23:31:00 +0000] \"GET /other HTTP/1.0\" 200 1 \"ref\" \"UA x\"\n";

const OPERANDS: [&str; 4] = ["-p", "pen.log", "10.0.0.1:a1", "10.0.0.2:a2"];

/// A line of a web server at so many seconds after then.
fn line(after: i64, request: &str) -> String {
    let seconds = 23 * 3600 + 28 * 60 + 50 + after;
    let (day, seconds) = (8 + seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("10.9.9.9 - - [{day:02}/Jan/2002:{hour:02}:{minute:02}:{second:02} +0000] \"{request}\" 200 1\n")
}

/// A line of pen's log at so many seconds after then.
fn entry(client: &str, after: i64, server: &str, request: &str) -> String {
    format!("{client} {} {server} {request}\n", THEN + after)
}

/// The first words of lines.
fn clients(merged: &str) -> Vec<&str> {
    merged.lines().map(|line| line.split(' ').next().unwrap()).collect()
}

/// mergelogs(1), EXAMPLES (case 150): in the order of their times, with their clients, in UTC.
#[test]
fn lines_of_all_files_come_in_order_with_their_clients() {
    assert_eq!(merged(&example(), &OPERANDS), EXAMPLE);
}

fn manual() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/mergelogs.1")).unwrap()
}

/// mergelogs(1), EXAMPLES: as printed.
#[test]
fn the_manuals_example_is_true() {
    let manual = manual();
    let (_, examples) = manual.split_once(".Sh EXAMPLES\n").unwrap();
    let blocks = examples.split(".Bd -literal").skip(1);
    let blocks: Vec<&str> =
        blocks.map(|block| block.split_once('\n').unwrap().1.split_once(".Ed\n").unwrap().0).collect();
    let &[pen, first, second, expected] = &blocks[..] else { panic!("{blocks:?}") };
    let files = Scratch::new();
    for (name, content) in [("pen.log", pen), ("a1", first), ("a2", second)] {
        files.write(name, content);
    }
    let command = examples.lines().find_map(|line| line.strip_prefix(".Dl $ mergelogs ")).unwrap();
    let words: Vec<&str> = command.split(' ').collect();
    assert_eq!(merged(&files, &words), expected);
}

/// mergelogs(1), Options.
#[test]
fn every_option_is_in_the_manual_and_in_the_help() {
    let (manual, help) = (manual(), merged(&Scratch::new(), &["--help"]));
    for option in ["c", "d", "j", "p", "r", "t", "-help", "-version"] {
        let item = format!(".It Fl {option}");
        assert!(manual.lines().any(|line| line == item || line.starts_with(&format!("{item} "))), "{option}");
        assert!(help.contains(&format!(" -{option}")), "{option}:\n{help}");
    }
}

/// mergelogs(1), DESCRIPTION: times are in UTC, wherever the reader is.
#[test]
fn the_local_zone_changes_nothing() {
    for zone in ["CET-1CEST,M3.5.0,M10.5.0/3", "IST-5:30", "EST5EDT,M3.2.0,M11.1.0"] {
        let output = mergelogs(&example(), &OPERANDS).env("TZ", zone).output().unwrap();
        assert_eq!(text(&output.stdout), EXAMPLE, "{zone}");
    }
}

/// mergelogs(1), -t: seconds that are taken from pen's times (case 151), counted from the local zone's.
#[test]
fn pens_times_can_be_shifted() {
    let shifted = |zone: &str, seconds: &str| {
        let output =
            mergelogs(&example(), &[&["-t", seconds], &OPERANDS[..]].concat()).env("TZ", zone).output();
        clients(&text(&output.unwrap().stdout)).join(" ")
    };
    let straight = "192.0.2.10 192.0.2.11 192.0.2.12 10.0.0.1";
    assert_eq!(shifted("UTC", "0"), straight);
    assert_eq!(shifted("CET-1CEST,M3.5.0,M10.5.0/3", "3600"), straight);
    assert_eq!(shifted("EST5EDT,M3.2.0,M11.1.0", "-18000"), straight);
    assert_eq!(shifted("UTC", "40"), "192.0.2.12 192.0.2.11 192.0.2.12 10.0.0.1");
    assert_eq!(shifted("EST5EDT,M3.2.0,M11.1.0", "-17960"), "192.0.2.12 192.0.2.11 192.0.2.12 10.0.0.1");
    // For the first line all of pen's log is read, and it is forgotten before the second.
    assert_eq!(shifted("UTC", "3600"), "192.0.2.12 10.0.0.2 10.0.0.1 10.0.0.1");
}

/// mergelogs(1), DIAGNOSTICS: no operands, or an option that there is not, shows the usage with status 0 (case 152).
#[test]
fn the_usage_is_no_failure() {
    let files = example();
    for (arguments, message) in [
        (&[][..], ""),
        (&["-p", "pen.log"], ""),
        (&["--help"], ""),
        (&["-z", "10.0.0.1:a1"], "mergelogs: unknown option -z"),
        (&["-p"], "mergelogs: -p needs an argument"),
    ] {
        let output = run(&files, arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(text(&output.stdout).starts_with("usage: mergelogs -p penlog"), "{arguments:?}");
        let told = text(&output.stderr);
        assert!(told.starts_with(message) && told.lines().count() <= 1, "{arguments:?}: {told}");
        assert_eq!(told.is_empty(), message.is_empty(), "{arguments:?}: {told}");
    }
}

/// mergelogs(1), DIAGNOSTICS: status 1 if a log is not there, or not named as it should be (case 152).
#[test]
fn a_log_that_is_not_there_is_a_failure_before_anything_is_written() {
    let files = example();
    for (arguments, message) in [
        (&["10.0.0.1:a1"][..], "no log of pen given; name it with -p"),
        (&["-p", "nope", "10.0.0.1:a1"], "cannot open nope: No such file or directory"),
        (&["-p", ".", "10.0.0.1:a1"], "cannot open .: is a directory"),
        (&["-p", "pen.log", "10.0.0.1:a1", "w:nope"], "cannot open nope: No such file or directory"),
        (
            &["-p", "pen.log", "a1"],
            "a1: no server; give server:logfile, with the server's address as pen's log has it",
        ),
        (
            &["-p", "pen.log", "::1:a1"],
            "::1:a1: no server before the colon; an IPv6 address needs brackets, as in [::1]:access.log",
        ),
        (
            &["-p", "pen.log", "fe80::1:a1"],
            "cannot open :1:a1: No such file or directory; an IPv6 address needs brackets, as in [::1]:access.log",
        ),
        (
            &["-p", "pen.log", "-j", "soon", "10.0.0.1:a1"],
            "-j must be a number from 0 to 2147483647, not \"soon\"",
        ),
        (&["-p", "pen.log", "-r", "no/dir", "10.0.0.1:a1"], "cannot open no/dir: No such file or directory"),
        (&["-p", "-", "10.0.0.1:-"], "standard input can be only one of the logs"),
    ] {
        let output = run(&files, arguments);
        assert_eq!(text(&output.stderr), format!("mergelogs: {message}\n"));
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]), "{arguments:?}");
    }
}

/// mergelogs(1), DESCRIPTION: of lines of the same second those of the file that was named first; a file's own order stays.
#[test]
fn the_earliest_of_the_current_lines_is_next() {
    let files = Scratch::new();
    files.write("pen.log", "");
    let lines = |lines: &[(i64, &str)]| {
        lines.iter().map(|(after, request)| line(*after, request)).collect::<String>()
    };
    files.write("a", lines(&[(0, "a"), (5, "b"), (5, "c"), (1, "d")]));
    files.write("b", lines(&[(0, "e"), (5, "f"), (6, "g")]));
    files.write("c", lines(&[(-5, "h"), (9, "i"), (5, "j")]));
    let merged = merged(&files, &["-p", "pen.log", "1:a", "2:b", "3:c"]);
    let requests: String = merged.lines().map(|line| line.split('"').nth(1).unwrap()).collect();
    assert_eq!(requests, "haebcdfgij");
    assert_eq!(clients(&merged).concat(), "3121112233");
}

/// mergelogs(1), -j and -c.
#[test]
fn clients_are_looked_for_within_the_jitter() {
    let files = Scratch::new();
    let others: String = (0..100).map(|after| entry("x", after, "w", "GET /x")).collect();
    files.write(
        "pen.log",
        format!("{}{others}{}", entry("a", 0, "w", "GET /"), entry("b", 100, "w", "GET /")),
    );
    files.write("w", line(0, "GET /nothing") + &line(40, "GET /"));
    let found = |options: &[&str]| {
        let merged = merged(&files, &[options, &["-p", "pen.log", "w:w"]].concat());
        clients(&merged)[1].to_owned()
    };
    assert_eq!(found(&[]), "a");
    assert_eq!(found(&["-j", "40"]), "a");
    assert_eq!(found(&["-j", "39"]), "w");
    assert_eq!(found(&["-j", "59"]), "a");
    assert_eq!(found(&["-c", "-j", "1"]), "a");
}

fn compressed(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// mergelogs(1), DESCRIPTION: a log can be compressed with gzip(1), whatever its name.
#[test]
fn compressed_logs_are_read() {
    let files = example();
    for name in ["pen.log", "a2"] {
        files.write(name, compressed(&files.read(name)));
    }
    assert_eq!(merged(&files, &OPERANDS), EXAMPLE);
}

/// mergelogs(1), DESCRIPTION: - is standard input.
#[test]
fn any_log_can_be_standard_input() {
    let files = example();
    for (name, arguments) in [
        ("pen.log", ["-p", "-", "10.0.0.1:a1", "10.0.0.2:a2"]),
        ("a1", ["-p", "pen.log", "10.0.0.1:-", "10.0.0.2:a2"]),
    ] {
        for content in [fs::read(files.file(name)).unwrap(), compressed(&files.read(name))] {
            let input = File::open(files.write("input", content)).unwrap();
            let output = mergelogs(&files, &arguments).stdin(input).output().unwrap();
            assert_eq!(text(&output.stdout), EXAMPLE, "{name}");
        }
    }
}

/// mergelogs(1), DIAGNOSTICS: what can be read is merged; the status says that it was not all.
#[test]
fn a_compressed_log_that_is_cut_is_told_of_and_the_others_are_merged() {
    let files = example();
    let mut content = compressed(&files.read("a2"));
    content.truncate(content.len() / 2);
    files.write("a2", content);
    let output = run(&files, &OPERANDS);
    assert_eq!(output.status.code(), Some(1));
    let told = text(&output.stderr);
    assert!(told.starts_with("mergelogs: a2: ") && told.ends_with("; the rest of it is missing\n"), "{told}");
    let merged = text(&output.stdout);
    assert_eq!(clients(&merged), ["192.0.2.10", "192.0.2.12", "10.0.0.1"]);
}

/// mergelogs(1), DESCRIPTION: IPv6 addresses stand in brackets.
#[test]
fn servers_can_have_ipv6_addresses() {
    let files = Scratch::new();
    files.write("pen.log", entry("2001:db8::7", 0, "::1", "GET /"));
    files.write("a", line(0, "GET /") + &line(0, "GET /other"));
    assert_eq!(clients(&merged(&files, &["-p", "pen.log", "[::1]:a"])), ["2001:db8::7", "::1"]);
    assert_eq!(clients(&merged(&files, &["-p", "pen.log", "[0:0::1]:a"]))[0], "2001:db8::7");
}

/// mergelogs(1), DESCRIPTION: pen keeps 100 bytes of a request; escapes are no part of it.
#[test]
fn requests_are_compared_as_pen_logs_them() {
    let files = Scratch::new();
    let long = format!("GET /{} HTTP/1.0", "x".repeat(200));
    let pen = [
        entry("a", 0, "w", &long[..100]),
        entry("b", 0, "w", "GET /\"quoted\" HTTP/1.0"),
        entry("c", 0, "w", "GET /. HTTP/1.0"),
    ];
    files.write("pen.log", pen.concat());
    let web = [&long, r#"GET /\"quoted\" HTTP/1.0"#, r"GET /\xe5 HTTP/1.0", "GET /x HTTP/1.0"];
    files.write("w", web.map(|request| line(0, request)).concat());
    assert_eq!(clients(&merged(&files, &["-p", "pen.log", "w:w"])), ["a", "b", "c", "w"]);
}

/// mergelogs(1), -d and -r: bogus lines are left out; they can be told of and kept.
#[test]
fn bogus_lines_are_told_of_and_kept_when_that_is_wanted() {
    let files = Scratch::new();
    files.write("pen.log", entry("a", 2, "w", "GET /") + "garbage\n" + &entry("x", 2, "w", ""));
    files.write("w", format!("hello\n{}\nc - - [x] \"r\x1b\" 1\n{}", line(0, "GET /"), line(3, "GET /n")));
    let arguments = ["-p", "pen.log", "-r", "bad", "w:w"];
    let expected = "a - - [08/Jan/2002:23:28:50 +0000] \"GET /\" 200 1\nw - - [08/Jan/2002:23:28:53 +0000] \"GET /n\" 200 1\n";
    assert_eq!(merged(&files, &arguments), expected);
    assert_eq!(files.read("bad"), "hello\n\nc - - [x] \"r\\x1b\" 1\n");
    let told = |option: &str| {
        let output = run(&files, &[&[option], &arguments[..]].concat());
        assert_eq!(text(&output.stdout), expected);
        text(&output.stderr)
    };
    let bogus = [
        "mergelogs: w:1: no client and space at its beginning\n",
        "mergelogs: w:3: no client and space at its beginning\n",
        "mergelogs: w:4: [time] cannot be read; it must be like [09/Jan/2002:00:28:50 +0100]\n",
    ];
    let pens = "mergelogs: pen.log:2: not a line of pen's\n";
    let counts = "mergelogs: 2 lines written, 1 of them with their client\n\
                  mergelogs: 3 bogus lines of web servers left out, 1 of pen's\n";
    let [first, second, third] = bogus;
    assert_eq!(told("-d"), [first, pens, second, third, counts].concat());
    let each = ["mergelogs: w:2: the client asked 2 s later\n", "mergelogs: w:5: pen knows no client\n"];
    assert_eq!(told("-dd"), [first, pens, each[0], second, third, each[1], counts].concat());
}

/// mergelogs(1), -d: of however many bogus lines.
#[test]
fn each_bogus_line_of_pen_is_told_of() {
    let files = Scratch::new();
    files.write("pen.log", "garbage\n".repeat(3000));
    files.write("w", line(0, "GET /"));
    let told = text(&run(&files, &["-d", "-p", "pen.log", "w:w"]).stderr);
    assert_eq!(told.matches(": not a line of pen's\n").count(), 3000);
}

/// mergelogs(1), DIAGNOSTICS: what is read is not overwritten, by whatever name.
#[test]
fn a_log_is_never_written_to() {
    let files = example();
    fs::hard_link(files.file("a1"), files.file("same")).unwrap();
    let before = files.read("a1");
    for rejects in ["a1", "pen.log", "./same"] {
        let output = run(&files, &[&["-r", rejects], &OPERANDS[..]].concat());
        assert_eq!(
            text(&output.stderr),
            format!("mergelogs: cannot write to {rejects}: it is one of the logs\n")
        );
        assert_eq!((output.status.code(), &output.stdout[..]), (Some(1), &b""[..]));
    }
    let log = File::options().append(true).open(files.file("same")).unwrap();
    let output = mergelogs(&files, &OPERANDS).stdout(log).output().unwrap();
    assert_eq!(text(&output.stderr), "mergelogs: cannot write to standard output: it is one of the logs\n");
    let input = File::open(files.file("a1")).unwrap();
    let arguments = ["-r", "a1", "-p", "pen.log", "10.0.0.1:-"];
    let output = mergelogs(&files, &arguments).stdin(input).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(files.read("a1"), before);
    assert!(files.read("pen.log").starts_with("192.0.2.10 "));
    // What was there before goes, where it is another file.
    files.write("bad", "old\n");
    assert_eq!(merged(&files, &[&["-r", "bad"], &OPERANDS[..]].concat()), EXAMPLE);
    assert_eq!(files.read("bad"), "");
    assert_eq!(merged(&files, &[&["-r", "/dev/null"], &OPERANDS[..]].concat()), EXAMPLE);
}

/// mergelogs(1), DESCRIPTION: a client chooses its user's name; it must neither hide a line nor move others.
#[test]
fn brackets_in_the_users_name_change_nothing() {
    let files = Scratch::new();
    files.write("pen.log", entry("a", 0, "w", "GET /") + &entry("b", 5, "w", "GET /b"));
    let user = |user: &str| line(0, "GET /").replace("- - ", &format!("- {user} "));
    files.write(
        "w",
        user("x[y") + &user("[01/Jan/2030:00:00:00 +0000]") + &user("[t] \\\"GET /") + &line(5, "GET /b"),
    );
    files.write("v", line(3, "GET /v"));
    let merged = merged(&files, &["-p", "pen.log", "w:w", "v:v"]);
    assert_eq!(clients(&merged), ["a", "a", "a", "v", "b"]);
    assert!(
        merged.contains("a - [01/Jan/2030:00:00:00 +0000] [08/Jan/2002:23:28:50 +0000] \"GET /\" 200 1\n")
    );
}

/// mergelogs(1), DESCRIPTION: control characters of a log cannot forge a line or reach a terminal.
#[test]
fn nothing_in_a_log_forges_a_line() {
    let files = Scratch::new();
    files.write("pen.log", entry("\x1b[2Jevil\x07", 0, "w", "GET /\x1b"));
    files.write("w", "c - a\rb\x0b [08/Jan/2002:23:28:50 +0000] \"GET /\x1b\" 200 \"\x00\x7f\t\"\r\n");
    assert_eq!(
        merged(&files, &["-p", "pen.log", "w:w"]),
        "\\x1b[2Jevil\\x07 - a\\x0db\\x0b [08/Jan/2002:23:28:50 +0000] \"GET /\\x1b\" 200 \"\\x00\\x7f\t\"\n"
    );
}

/// mergelogs(1), DESCRIPTION: lines of up to 1 MiB stay whole.
#[test]
fn long_lines_stay_whole() {
    let files = Scratch::new();
    files.write("pen.log", "");
    let long = line(0, "GET /").replace("200 1\n", &"y".repeat(500_000));
    files.write("w", format!("{long}\n{}", line(1, "GET /next")));
    let merged = merged(&files, &["-p", "pen.log", "w:w"]);
    assert_eq!(merged, format!("{long}\n{}", line(1, "GET /next")).replace("10.9.9.9", "w"));
    files.write("w", format!("{}{}\n", line(0, "GET /").trim_end(), "y".repeat(3 << 20)));
    let output = run(&files, &["-p", "pen.log", "w:w"]);
    assert_eq!(text(&output.stderr), "mergelogs: 1 lines were longer than 1048576 bytes and have been cut\n");
    assert!(output.status.success() && output.stdout.len() < (1 << 20) + 100);
}

/// mergelogs(1), DIAGNOSTICS: a disk that is full is a failure; a reader that has seen enough is one without words.
#[test]
fn output_that_nobody_takes_is_a_failure() {
    let files = example();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let output = mergelogs(&files, &OPERANDS).stdout(full).output().unwrap();
    assert_eq!(text(&output.stderr), "mergelogs: standard output: No space left on device\n");
    assert_eq!(output.status.code(), Some(1));
    files.write("a1", line(0, "GET /").repeat(20_000));
    let mut child =
        mergelogs(&files, &OPERANDS).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut some = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut some).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(1), String::new()));
}

/// mergelogs(1), DESCRIPTION: memory is needed for what lies within the jitter, however long the logs are.
#[test]
fn logs_of_any_size_are_merged_in_little_memory() {
    const LINES: i64 = 400_000;
    let files = Scratch::new();
    let mut web = String::new();
    for after in (0..LINES).step_by(1000) {
        web += &line(after % 80_000, "GET /never");
    }
    for after in LINES - 10..LINES {
        let stamp = THEN + after;
        write!(web, "{}", line(0, "GET /").replace("08/Jan/2002:23:28:50", &stamp_of(stamp))).unwrap();
    }
    files.write("w", web);
    let limited = format!(
        "ulimit -v 49152; exec {} -j 10 -p - w:w",
        Path::new(env!("CARGO_BIN_EXE_mergelogs")).to_str().unwrap()
    );
    let mut child = Command::new("sh")
        .args(["-c", &limited])
        .current_dir(files.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pen = child.stdin.take().unwrap();
    let writing = thread::spawn(move || {
        let mut lines = String::new();
        for after in 0..LINES {
            lines += &entry(&format!("client{after}"), after, "w", "GET /");
            lines += &entry("somebody", after, "w", &format!("GET /{after}/{}", "x".repeat(60)));
            if lines.len() > 1 << 16 {
                pen.write_all(lines.as_bytes()).unwrap();
                lines.clear();
            }
        }
        pen.write_all(lines.as_bytes()).unwrap();
    });
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    assert!(output.status.success());
    let merged = text(&output.stdout);
    let expected: Vec<String> = (LINES - 10..LINES).map(|after| format!("client{after}")).collect();
    assert_eq!(clients(&merged)[LINES as usize / 1000..], expected);
}

/// A time in January 2002, as logs have it.
fn stamp_of(seconds: i64) -> String {
    let (day, of_day) = ((seconds - 1_009_843_200) / 86_400 + 1, (seconds - 1_009_843_200) % 86_400);
    assert!(day <= 31);
    format!("{day:02}/Jan/2002:{:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// pen(1), REQUEST LOG, and mergelogs(1): what pen logs is what finds the client.
#[test]
fn pens_own_log_tells_who_asked() {
    let (s, files) = (webs(1), Scratch::new());
    let pen = Pen::with(&["-l", &files.file("pen.log")]).servers(&s).start();
    for (client, path) in [("127.0.0.7", "/index.html"), ("127.0.0.8", "/other")] {
        assert_eq!(client::request(pen.connect_from(client), path), "S0");
    }
    wait_until("pen has logged both", || files.read("pen.log").lines().count() == 2);
    let time: i64 = files.read("pen.log").split(' ').nth(1).unwrap().parse().unwrap();
    let since_then = time - THEN;
    // The web server's clock is some minutes off, and its zone another one.
    let date = Command::new("date")
        .args(["-u", "-d", &format!("@{}", THEN + since_then + 3600 + 200), "+%d/%b/%Y:%H:%M:%S +0100"])
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let date = text(&date.stdout);
    let line = |path: &str| format!("127.0.0.1 - - [{}] \"GET {path} HTTP/1.0\" 200 1\n", date.trim_end());
    files.write("w", ["/index.html", "/other", "/never"].map(line).concat());
    let merged = merged(&files, &["-p", "pen.log", "127.0.0.1:w"]);
    assert_eq!(clients(&merged), ["127.0.0.7", "127.0.0.8", "127.0.0.1"]);
}

/// xorshift64: the same numbers every time.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % bound
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// Logs with gaps, jitter, disorder, duplicates and garbage, and the options to merge them with.
fn generated(random: &mut Random, files: &Scratch) -> Vec<String> {
    let servers = &["10.0.0.1", "10.0.0.2", "www3"][..random.below(3) + 1];
    let jitter = *random.of(&[1, 3, 10, 600_usize]);
    let disorder = *random.of(&[0, 0, 1, 5_usize]);
    let pages = *random.of(&[1, 3, 20_usize]);
    let (mut pen, mut webs) = (String::new(), vec![String::new(); servers.len()]);
    // The classic takes an hour from the second line of the first file (it has not set whether it is summer), so this one
    // is far from all others.
    webs[0] += &line(-20_000, "GET /first");
    webs[0] += &line(-15_000, "GET /second");
    let mut after = 0;
    let off = |random: &mut Random, most: usize| random.below(2 * most + 1) as i64 - most as i64;
    for number in 0..*random.of(&[5, 30, 200]) {
        after += *random.of(&[0, 0, 0, 1, 1, 2, random.0 as i64 & 7]);
        if random.below(30) == 0 {
            after += random.below(5 * jitter + 5) as i64;
        }
        let (place, request) =
            (random.below(servers.len()), format!("GET /{} HTTP/1.0", random.below(pages)));
        if random.below(10) > 0 {
            let server = if random.below(20) > 0 { servers[place] } else { "10.9.9.9" };
            pen += &entry(&format!("c{number}"), after + off(random, disorder), server, &request);
        }
        if random.below(50) == 0 {
            pen += *random.of(&["garbage\n", "\n", "c 1010532530 10.0.0.1 \n", "c 1010532530\n"]);
        }
        if random.below(10) > 0 {
            let rest = *random.of(&["200 1", "404 - \"ref\" \"agent \\\"x\\\"\"", "200 1 \"\\x22\""]);
            let zone = *random.of(&["+0000", "+0100", "-0530"]);
            let names = *random.of(&["- - ", "-   bob ", "- a \"b "]);
            let line = line(after + off(random, 3 * disorder), &request);
            webs[place] += &line.replace("200 1", rest).replace("+0000", zone).replace("- - ", names);
        }
        if random.below(50) == 0 {
            webs[place] += *random.of(&["garbage\n", "\n", "c - - [08/Jan/2002:23:28:50 +0000] \"\" 1\n"]);
        }
    }
    files.write("pen.log", pen);
    let mut arguments = vec!["-p".to_owned(), "pen.log".to_owned(), format!("-j{jitter}")];
    if random.below(5) == 0 {
        arguments.push("-c".to_owned());
    }
    if random.below(5) == 0 {
        arguments.push(format!("-t{}", off(random, 20)));
    }
    for (server, web) in servers.iter().zip(webs) {
        files.write(server, web);
        arguments.push(format!("{server}:{server}"));
    }
    arguments
}

/// mergelogs(1), STANDARDS: what comes out is what the classic's mergelogs writes, byte for byte.
#[test]
fn it_writes_what_the_classic_writes() {
    if !Path::new(CLASSIC).exists() {
        eprintln!("not told: there is no {CLASSIC}");
        return;
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..60 {
        let files = Scratch::new();
        let arguments = generated(&mut random, &files);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let classic =
            Command::new(CLASSIC).args(&arguments).current_dir(files.path()).env("TZ", "UTC").output();
        // Its second line is an hour early, where that is the first file's.
        let classic = text(&classic.unwrap().stdout);
        let second = |text: &str| {
            text.lines().filter(|line| !line.contains("GET /second")).map(str::to_owned).collect::<Vec<_>>()
        };
        let ours = merged(&files, &arguments);
        assert!(ours.lines().count() > 2);
        assert_eq!(second(&ours), second(&classic), "round {round}: {arguments:?}");
    }
}
