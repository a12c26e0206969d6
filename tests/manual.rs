//! The manuals are true and whole: man/pen.1 names every option, its examples and those of README.md are accepted by the
//! program, those of the log tools name theirs, and the markup of all of them is clean. What penlogd(1) shows in its HOWTO
//! is carried out elsewhere, in behaviour/weblogs.rs.
#![allow(clippy::unwrap_used)] // the whole crate is a test

#[allow(dead_code, unreachable_pub)] // it is there for all tests
#[path = "behaviour/support/scratch.rs"]
mod scratch;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use pen::model::address::SocketAddress;
use pen::model::command::{Command as Setting, CommandError};
use pen::model::ids::{ConnId, ServerId, Target, WorkerId};
use pen::model::listen::Protocol;
use pen::model::record::{
    Chosen, ChosenServer, ConnectionRecord, Ended, RequestRecord, TlsFacts, WallMicros,
};
use scratch::Scratch;

/// Every letter that pen 0.34.1 or the manual of 2008 knows.
const LETTERS: &str = "ABCDEFGHKLNOPQRSTUWXZabcdefhijlmnopqrstuwx";

/// Every command that pen 0.34.1 or its manual knows, and ours.
const COMMANDS: &str = "abort_on_error abuse acl ascii blacklist block check client_acl clients_max close \
    conn_max connection control control_acl debug delayed_forward diff drain dsr_if dsr_ip dummy emergency \
    epoll exit explain forgetful geoip hash http http_head_max http_head_timeout idle_timeout idlers include keepalive kqueue limits \
    listen listen_queue log log_format mode multi_accept peek pending_max pid poll prio proxy_accept proxy_send recent reload roundrobin \
    select server servers socket source ssl_alpn ssl_ca_file ssl_ca_path ssl_certificate ssl_ciphers ssl_ciphersuites \
    ssl_client_renegotiation_interval ssl_groups ssl_handshake_timeout ssl_key ssl_max_version \
    ssl_min_version ssl_ocsp_response ssl_option ssl_passthrough ssl_sni_path ssl_ticket_rotation \
    ssl_verify_client status stubborn tarpit_acl tcp_fastclose tcp_nodelay timeout tracking \
    transparent udp_timeout undrain web_stats weight workers write";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    std::fs::read_to_string(repository().join(file)).unwrap()
}

/// A directory that others can write to, too: some examples are theirs.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    std::fs::set_permissions(scratch.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    scratch
}

/// `pen --check` with these words, in that directory.
fn check(words: &[String], directory: &Path) -> Output {
    let pen = env!("CARGO_BIN_EXE_pen");
    Command::new(pen).arg("--check").args(words).current_dir(directory).output().unwrap()
}

/// The words of a command line as a shell would pass them on; of quotes, single ones are enough here.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (number, part) in line.split('\'').enumerate() {
        if number % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// The lines of the manual's examples as they are displayed.
fn manual_examples() -> Vec<String> {
    let manual = text("man/pen.1");
    let (_, examples) = manual.split_once(".Sh EXAMPLES\n").unwrap();
    let (examples, _) = examples.split_once("\n.Sh ").unwrap();
    let mut literal = false;
    let mut lines: Vec<String> = Vec::new();
    let mut continued = false;
    for line in examples.lines() {
        match line {
            _ if line.starts_with(".Bd -literal") => literal = true,
            ".Ed" => literal = false,
            _ => {
                let Some(shown) = line.strip_prefix(".Dl ").or(literal.then_some(line)) else {
                    continue;
                };
                let (shown, continues) = match shown.strip_suffix("\\e") {
                    Some(first) => (first, true),
                    None => (shown, false),
                };
                match lines.last_mut() {
                    Some(last) if continued => last.push_str(shown),
                    _ => lines.push(shown.to_owned()),
                }
                continued = continues;
            }
        }
    }
    lines
}

/// What could be shown to anybody and tried by anybody: loopback addresses alone.
fn is_local(line: &str) -> bool {
    line.starts_with("pen ") && line.contains("127.0.0.1") && !line.contains("www") && !line.contains("://")
}

/// What the option lists of a manual define: `b` and `-blacklist` for `.It Fl b Ar seconds , Fl -blacklist Ar seconds`.
fn manual_options(program: &str) -> BTreeSet<String> {
    let manual = text(&format!("man/{program}.1"));
    let items = manual.lines().filter_map(|line| line.strip_prefix(".It Fl "));
    let names = items.flat_map(|item| item.split(" , ").map(|name| name.trim_start_matches("Fl ")));
    names.map(first_word).collect()
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// The long options that a program's `--help` lists, each with one of its dashes.
fn help_options(path: &str) -> BTreeSet<String> {
    let help = Command::new(path).arg("--help").output().unwrap();
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    let words = help.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    words
        .filter_map(|word| word.strip_prefix('-'))
        .filter(|word| word.starts_with('-'))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_option_is_in_the_manual() {
    let manual = manual_options("pen");
    for letter in LETTERS.chars().map(String::from) {
        assert!(manual.contains(&letter), "-{letter} is missing");
    }
    let help = help_options(env!("CARGO_BIN_EXE_pen"));
    assert!(help.len() > 30, "{help:?}");
    the_same_long_options(&manual, &help);
}

#[track_caller]
fn the_same_long_options(manual: &BTreeSet<String>, help: &BTreeSet<String>) {
    let missing: Vec<_> = help.difference(manual).collect();
    assert!(missing.is_empty(), "in --help and not in the manual: {missing:?}");
    let long = manual.iter().filter(|name| name.starts_with('-'));
    let wrong: Vec<_> = long.filter(|name| !help.contains(*name)).collect();
    assert!(wrong.is_empty(), "in the manual and not in --help: {wrong:?}");
}

/// With the letters that the log tools of pen 0.34.1 have.
#[test]
fn every_option_of_the_log_tools_is_in_their_manuals() {
    for (program, path, letters) in [
        ("penlog", env!("CARGO_BIN_EXE_penlog"), ""),
        ("penlogd", env!("CARGO_BIN_EXE_penlogd"), "bdfjlnpu"),
        ("mergelogs", env!("CARGO_BIN_EXE_mergelogs"), "cdjprt"),
    ] {
        let manual = manual_options(program);
        for letter in letters.chars().map(String::from) {
            assert!(manual.contains(&letter), "{program}: -{letter} is missing");
        }
        the_same_long_options(&manual, &help_options(path));
    }
}

#[test]
fn every_command_is_in_the_manual() {
    let manual = text("man/pen.1");
    let lines = manual.lines().filter_map(|line| line.strip_prefix(".It Ic ").or(line.strip_prefix(".Ic ")));
    let words: BTreeSet<&str> = lines.flat_map(|line| line.split([' ', ','])).collect();
    let known: BTreeSet<&str> = COMMANDS.split_whitespace().collect();
    let missing: Vec<_> = known.difference(&words).collect();
    assert!(missing.is_empty(), "not in the manual: {missing:?}");
    for command in known {
        let unknown = matches!(Setting::parse(command), Err(CommandError::Unknown(_)));
        assert!(!unknown, "{command} is in the manual, and pen does not know it");
    }
}

#[test]
fn the_examples_of_the_manual_and_the_readme_are_accepted() {
    let readme = text("README.md");
    let readme = readme.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned);
    let local: Vec<String> =
        manual_examples().into_iter().chain(readme).filter(|line| is_local(line)).collect();
    assert!(local.len() >= 5, "only {} examples found", local.len());
    let scratch = scratch();
    make_certificate(scratch.path());
    for line in local {
        let output = check(&words(&line)[1..], scratch.path());
        assert!(output.status.success(), "{line}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The files that the examples name: cert.pem, key.pem, and a directory for more.
fn make_certificate(directory: &Path) {
    let arguments =
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout key.pem -out cert.pem";
    let made = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::create_dir(directory.join("certs")).unwrap();
}

#[test]
fn the_manuals_configuration_file_passes_the_check_that_it_shows() {
    let lines = manual_examples();
    let start = lines.iter().position(|line| line == "$ cat pen.cfg").unwrap() + 1;
    let length = lines[start..].iter().position(|line| line.starts_with("$ pen --check -F pen.cfg")).unwrap();
    assert!(length > 0);
    let scratch = scratch();
    scratch.write("pen.cfg", lines[start..start + length].join("\n"));
    let output = check(&["-F".into(), "pen.cfg".into()], scratch.path());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The part of the manual that begins with this line, up to the next that begins so.
fn part(heading: &str) -> String {
    let manual = text("man/pen.1");
    let (_, part) = manual.split_once(&format!("\n{heading}\n")).unwrap();
    part.split("\n.S").next().unwrap().to_owned()
}

/// What a list of the manual defines: `time` for `.It Va time`.
fn items(part: &str, markup: &str) -> Vec<String> {
    part.lines().filter_map(|line| line.strip_prefix(markup)).map(str::to_owned).collect()
}

#[test]
fn the_words_of_the_log_are_those_of_the_manual_in_its_order() {
    let ended: Vec<_> = Ended::ALL.iter().map(|it| it.word()).collect();
    assert_eq!(items(&part(".Ss How it ended"), ".It Cm "), ended);
    let chosen: Vec<_> = Chosen::ALL.iter().map(|it| it.word()).collect();
    assert_eq!(items(&part(".Ss Why a server was chosen"), ".It Cm "), chosen);
}

/// The request of the manual's example.
fn record(address: &SocketAddress) -> RequestRecord<'_> {
    let chosen = Chosen::LastServer;
    RequestRecord {
        worker: WorkerId(0),
        conn: ConnId(17),
        client: "192.0.2.7:40312".parse::<SocketAddr>().unwrap().into(),
        server: Some(ChosenServer { target: Target::Server(ServerId(1)), address, chosen }),
        request: b"GET /index.html HTTP/1.1",
        status: Some(200),
        began: WallMicros(1_795_459_327_128_850),
        duration: 2400,
        up: 412,
        down: 5120,
        ended: Ended::Answered,
        tls: Some(TlsFacts { version: Some("TLSv1.3"), name: Some("www.example.com") }),
    }
}

fn address() -> SocketAddress {
    SocketAddress::Inet("10.0.0.2:80".parse().unwrap())
}

#[test]
fn the_manuals_object_is_what_pen_writes() {
    let part = part(".Ss JSON");
    let (_, shown) = part.split_once(".Bd -literal -offset indent\n").unwrap();
    let (shown, _) = shown.split_once("\n.Ed").unwrap();
    let shown = shown.replace('\n', "");
    let value: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(value["request"], "GET /index.html HTTP/1.1");
    let mut written = Vec::new();
    record(&address()).write_json(&mut written, usize::MAX);
    assert_eq!(String::from_utf8(written).unwrap(), shown + "\n");
}

#[test]
fn the_fields_of_the_log_are_those_of_the_manual_in_its_order() {
    let address = address();
    let request = record(&address);
    let connection = ConnectionRecord {
        protocol: Protocol::Udp,
        worker: request.worker,
        conn: request.conn,
        client: Some(request.client),
        server: request.server,
        attempts: 1,
        began: request.began,
        connected_after: Some(1),
        duration: 2,
        up: 3,
        down: 4,
        datagrams: Some((5, 6)),
        ended: Ended::Replied,
        tls: request.tls,
    };
    let fields = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut line = Vec::new();
        write(&mut line);
        let line = String::from_utf8(line).unwrap();
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let names = line.split(['{', ',']).filter_map(|part| part.split_once("\":"));
        let names: Vec<String> = names.map(|(name, _)| name.trim_start_matches('"').to_owned()).collect();
        assert_eq!(names.len(), value.as_object().unwrap().len());
        names
    };
    let of_both = [
        fields(&|line| connection.write_json(line)),
        // It is cut: all its fields are there.
        fields(&|line| request.write_json(line, 1)),
    ];
    let manual = items(&part(".Ss JSON"), ".It Va ");
    for names in &of_both {
        let known: Vec<_> = manual.iter().filter(|name| names.contains(name)).collect();
        assert_eq!(known, names.iter().collect::<Vec<_>>());
    }
    let written: BTreeSet<_> = of_both.iter().flatten().collect();
    assert_eq!(manual.iter().collect::<BTreeSet<_>>(), written);
}

#[test]
fn the_manuals_markup_is_clean() {
    let manuals =
        ["pen", "penctl", "penlog", "penlogd", "mergelogs"].map(|program| format!("man/{program}.1"));
    let mandoc =
        Command::new("mandoc").args(["-Tlint", "-Wwarning"]).args(manuals).current_dir(repository()).output();
    match mandoc {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("mandoc is not installed: skipped")
        }
        result => {
            let output = result.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}
