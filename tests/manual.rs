//! The manual is true and whole: man/pen.1 names every option, its examples and those of README.md are accepted by the
//! program, and the markup of it and of man/penctl.1 is clean.
#![allow(clippy::unwrap_used)] // the whole crate is a test

#[allow(dead_code, unreachable_pub)] // it is there for all tests
#[path = "behaviour/support/scratch.rs"]
mod scratch;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use pen::model::command::{Command as Setting, CommandError};
use scratch::Scratch;

/// Every letter that pen 0.34.1 or the manual of 2008 knows.
const LETTERS: &str = "ABCDEFGHKLNOPQRSTUWXZabcdefhijlmnopqrstuwx";

/// Every command that pen 0.34.1 or its manual knows, and ours.
const COMMANDS: &str = "abort_on_error abuse acl ascii blacklist block check client_acl clients_max close \
    conn_max connection control control_acl debug delayed_forward diff drain dsr_if dsr_ip dummy emergency \
    epoll exit explain forgetful geoip hash http http_head_max http_head_timeout idle_timeout idlers include keepalive kqueue limits \
    listen listen_queue log mode multi_accept peek pending_max pid poll prio proxy_accept proxy_send recent reload roundrobin \
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

/// What the manual's option lists define: `b` and `-blacklist` for `.It Fl b Ar seconds , Fl -blacklist Ar seconds`.
fn manual_options() -> BTreeSet<String> {
    let manual = text("man/pen.1");
    let items = manual.lines().filter_map(|line| line.strip_prefix(".It Fl "));
    let names = items.flat_map(|item| item.split(" , ").map(|name| name.trim_start_matches("Fl ")));
    names.map(first_word).collect()
}

fn first_word(text: &str) -> String {
    text.split_whitespace().next().unwrap_or_default().to_owned()
}

/// The long options that `pen --help` lists, each with one of its dashes.
fn help_options() -> BTreeSet<String> {
    let help = Command::new(env!("CARGO_BIN_EXE_pen")).arg("--help").output().unwrap();
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
    let manual = manual_options();
    for letter in LETTERS.chars().map(String::from) {
        assert!(manual.contains(&letter), "-{letter} is missing");
    }
    let help = help_options();
    assert!(help.len() > 30, "{help:?}");
    let missing: Vec<_> = help.difference(&manual).collect();
    assert!(missing.is_empty(), "in --help and not in the manual: {missing:?}");
    let long = manual.into_iter().filter(|name| name.starts_with('-')).collect::<BTreeSet<_>>();
    let wrong: Vec<_> = long.difference(&help).collect();
    assert!(wrong.is_empty(), "in the manual and not in --help: {wrong:?}");
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

#[test]
fn the_manuals_markup_is_clean() {
    let mandoc = Command::new("mandoc")
        .args(["-Tlint", "-Wwarning", "man/pen.1", "man/penctl.1"])
        .current_dir(repository())
        .output();
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
