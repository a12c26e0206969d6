//! What scanners that look for weaknesses say of the default settings.

use std::process::Command;
use std::time::Duration;

use crate::support::Scratch;
use crate::support::backend::webs;
use crate::support::tls::{has_program, pen_as, run_for, usual, usual_rsa};

/// sslscan: two versions, and only strong ciphers.
#[test]
fn sslscan_finds_nothing_weak() {
    if !has_program("sslscan") {
        return;
    }
    for (_, identity) in [usual(), usual_rsa()] {
        let (s, files) = (webs(1), Scratch::new());
        let pen = pen_as(identity, &files, &[]).servers(&s).start();
        let mut command = Command::new("sslscan");
        command.args(["--no-colour", "--no-check-certificate", &pen.address.to_string()]);
        let said = run_for(command, b"", Duration::from_secs(60));
        let line = |start: &str| said.stdout.lines().find(|line| line.starts_with(start)).unwrap_or_default();
        for version in ["SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"] {
            assert!(line(version).ends_with("disabled"), "{version}: {said:?}");
        }
        for version in ["TLSv1.2", "TLSv1.3"] {
            assert!(line(version).ends_with("enabled"), "{version}: {said:?}");
        }
        assert!(!said.stdout.contains("Insecure session renegotiation"), "{said:?}");
        assert!(!said.stdout.contains("Compression enabled"), "{said:?}");
        let heartbleed: Vec<&str> =
            said.stdout.lines().filter(|line| line.contains("to heartbleed")).collect();
        assert!(
            heartbleed.len() == 2 && heartbleed.iter().all(|line| line.contains("not vulnerable")),
            "{said:?}"
        );
        let ciphers: Vec<&str> = said
            .stdout
            .lines()
            .filter(|line| line.starts_with("Accepted") || line.starts_with("Preferred"))
            .collect();
        assert!(ciphers.len() >= 5, "{said:?}");
        for cipher in ciphers {
            let aead = cipher.contains("GCM") || cipher.contains("CHACHA20");
            let forward = cipher.contains("ECDHE") || cipher.contains("TLSv1.3");
            assert!(aead && forward && !cipher.contains("SHA1"), "{cipher}");
        }
    }
}

/// testssl.sh: no finding about protocols, ciphers or known attacks is worse than `OK`. (What it says of the
/// certificate is about that of the tests.)
#[test]
fn testssl_finds_nothing_weak() {
    let Some(program) = ["testssl", "testssl.sh"].into_iter().find(|name| has_program(name)) else { return };
    let (_, identity) = usual_rsa();
    let (s, files) = (webs(1), Scratch::new());
    let pen = pen_as(identity, &files, &[]).servers(&s).start();
    let report = files.file("report.csv");
    let mut command = Command::new(program);
    // Else it warns of its own openssl where that has no engine for GOST's ciphers. It needs none to find them.
    command.env("NO_ENGINE", "true");
    command.args(["--quiet", "--color", "0", "--warnings", "batch", "--csvfile", &report, "--ip", "one"]);
    command.args(["--nodns", "min", "--protocols", "--std", "--heartbleed", "--ccs", "--ticketbleed"]);
    command.args(["--renegotiation", "--compression", "--tls-fallback", &pen.address.to_string()]);
    let said = run_for(command, b"", Duration::from_secs(300));
    let report = files.read("report.csv");
    let findings: Vec<Vec<&str>> = report
        .lines()
        .skip(1)
        .map(|line| line.trim_matches('"').split("\",\"").collect())
        .filter(|columns: &Vec<&str>| columns.len() >= 5)
        .collect();
    assert!(findings.len() > 20, "{said:?}");
    for finding in findings {
        assert!(matches!(finding[3], "OK" | "INFO" | "DEBUG"), "{finding:?}");
    }
}
