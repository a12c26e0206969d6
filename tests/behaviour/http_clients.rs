//! pen(1), -H, with the programs that people use: curl, nginx, h2load and nghttp.

use std::process::Command;

use crate::support::http::{echo, response, server, values};
use crate::support::nginx::Nginx;
use crate::support::tls::{self, Said, has_program, run};
use crate::support::{Pen, Scratch, only_ours};

/// What nginx logs: the client's address and what else of it is told.
const TOLD: &str = "$remote_addr [$http_x_forwarded_for] [$http_x_forwarded_proto] $server_protocol";

/// An nginx with these lines in its `server`, and for `listen`. None, and a message: there is none.
fn nginx(listen: &str, lines: &str) -> Option<Nginx> {
    let server = format!("listen 127.0.0.1:PORT {listen}; {lines} location / {{ return 200 'hello'; }}");
    Nginx::start(TOLD, &server)
}

/// curl with these arguments.
#[track_caller]
fn curl(arguments: &[&str]) -> Said {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--verbose", "--max-time", "25"]).args(arguments);
    let said = run(command, b"");
    assert_eq!(said.code, 0, "{said:?}");
    said
}

/// The requests that curl makes of one connection, and what the server says to them.
#[test]
fn curl_speaks_through_pen() {
    only_ours!("it keeps what is there");
    if !has_program("curl") {
        return;
    }
    let (server, files) = (echo(), Scratch::new());
    let upload = files.write("upload", "GET / HTTP/1.1\r\n\r\n".repeat(200_000));
    let pen = Pen::with(&["-H"]).servers([&server]).start();
    let url = format!("http://{}/", pen.address);
    // It waits for the server's word for up to 25 s, and so would the test.
    let expecting = ["-H", "Expect: 100-continue", "--expect100-timeout", "25", "--data-binary"];
    let body = format!("@{upload}");
    let said = curl(
        &[&expecting[..], &[&body, &url, "-o", &files.file("first"), &url, "-o", &files.file("second")]]
            .concat(),
    );
    assert_eq!(said.stderr.matches("< HTTP/1.1 100 Continue").count(), 2, "{said:?}");
    assert_eq!(said.stderr.matches("< HTTP/1.1 200 OK").count(), 2);
    for name in ["first", "second"] {
        let echoed = files.read(name);
        assert!(echoed.ends_with(&files.read("upload")), "the body has changed");
        assert_eq!(values(echoed.split_once("\r\n\r\n").unwrap().0, "x-forwarded-for"), ["127.0.0.1"]);
    }
    assert_eq!(server.accepted(), 1);
    // In chunks, from a pipe; HTTP/1.0; HEAD.
    let said = curl(&["-X", "PUT", "-H", "Transfer-Encoding: chunked", "--data-binary", "abc", &url]);
    assert!(said.stdout.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{said:?}");
    let said = curl(&["--http1.0", "-H", "X-Forwarded-For: 192.0.2.7", &url]);
    assert_eq!(values(&said.stdout, "x-forwarded-for"), ["192.0.2.7, 127.0.0.1"]);
    let said = curl(&["--head", &url, &url]);
    assert_eq!(said.stdout.matches("HTTP/1.1 200 OK").count(), 2, "{said:?}");
}

/// pen(1), -H: https when the client has come by TLS.
#[test]
fn curl_speaks_tls_through_pen() {
    if !has_program("curl") {
        return;
    }
    let (server, files) = (echo(), Scratch::new());
    let pen = tls::pen(&files, &["-H"]).servers([&server]).start();
    for version in ["--tlsv1.3", "--tls-max"] {
        let arguments: &[&str] = if version == "--tls-max" { &["--tls-max", "1.2"] } else { &[version] };
        let said = tls::curl(pen.address, &tls::usual().0, &[arguments, &["--data-binary", "abc"]].concat());
        assert_eq!(values(&said.stdout, "x-forwarded-for"), ["127.0.0.1"], "{said:?}");
        assert_eq!(values(&said.stdout, "x-forwarded-proto"), ["https"], "{said:?}");
        assert!(said.stdout.ends_with("abc"), "{said:?}");
    }
}

/// RFC 9113, 3.2 of its predecessor: an upgrade to HTTP/2 that the server grants, and one that it does not.
#[test]
fn curl_asks_for_an_upgrade() {
    if !has_program("curl") {
        return;
    }
    let server = server("S", |_, _| Some(response("200 OK", b"not granted")));
    let pen = Pen::with(&["-H"]).servers([&server]).start();
    let url = format!("http://{}/", pen.address);
    let said = curl(&["--http2", &url, "--next", "--http1.1", &url]);
    assert_eq!(said.stdout, "not grantednot granted");
    for head in server.notes() {
        assert_eq!(values(&head, "x-forwarded-for"), ["127.0.0.1"]);
    }
}

/// pen(1), -H: nginx believes pen, and logs the client.
#[test]
fn nginx_sees_the_client() {
    only_ours!("it keeps what is there");
    if !has_program("curl") {
        return;
    }
    let Some(nginx) = nginx("", "set_real_ip_from 127.0.0.1; real_ip_header X-Forwarded-For;") else {
        return;
    };
    let pen = Pen::with(&["-H"]).servers([&nginx]).start();
    let url = format!("http://{}/", pen.address);
    for client in ["127.0.0.7", "127.0.0.8"] {
        let said = curl(&["--interface", client, &url, &url]);
        assert_eq!(said.stdout, "hellohello");
    }
    // Who lies is last in his own list.
    curl(&["--interface", "127.0.0.9", "-H", "X-Forwarded-For: 192.0.2.7", &url]);
    let line = |client: &str, list: &str| format!("{client} [{list}] [http] HTTP/1.1");
    assert_eq!(
        nginx.log(5),
        [
            line("127.0.0.7", "127.0.0.7"),
            line("127.0.0.7", "127.0.0.7"),
            line("127.0.0.8", "127.0.0.8"),
            line("127.0.0.8", "127.0.0.8"),
            line("127.0.0.9", "192.0.2.7, 127.0.0.9"),
        ]
    );
}

/// pen(1), -H: pipelined requests of many connections at once.
#[test]
fn h2load_pipelines_its_requests() {
    only_ours!("it looks at the beginning of what it reads");
    if !has_program("h2load") {
        return;
    }
    const COUNT: usize = 4000;
    let Some(nginx) = nginx("", "") else { return };
    let pen = Pen::with(&["-H"]).servers([&nginx]).start();
    let mut command = Command::new("h2load");
    let (count, url) = (COUNT.to_string(), format!("http://{}/", pen.address));
    command.args(["--h1", "-n", &count, "-c", "20", "-m", "10", &url]);
    let said = run(command, b"");
    assert!(said.stdout.contains(&format!("{COUNT} succeeded, 0 failed, 0 errored")), "{said:?}");
    let log = nginx.log(COUNT);
    assert_eq!(log.len(), COUNT);
    assert!(log.iter().all(|line| line == "127.0.0.1 [127.0.0.1] [http] HTTP/1.1"), "{:?}", log.first());
}

/// pen(1), -H: HTTP/2 with prior knowledge is passed on as it is.
#[test]
fn http2_with_prior_knowledge_passes() {
    if !has_program("h2load") || !has_program("nghttp") {
        return;
    }
    let Some(nginx) = nginx("http2", "") else { return };
    let pen = Pen::with(&["-H"]).servers([&nginx]).start();
    let url = format!("http://{}/", pen.address);
    let mut command = Command::new("nghttp");
    command.args(["--no-dep", &url]);
    assert_eq!(run(command, b"").stdout, "hello");
    let mut command = Command::new("h2load");
    command.args(["-n", "1000", "-c", "5", "-m", "20", &url]);
    let said = run(command, b"");
    assert!(said.stdout.contains("1000 succeeded, 0 failed, 0 errored"), "{said:?}");
    assert!(nginx.log(1001).iter().all(|line| line == "127.0.0.1 [-] [-] HTTP/2.0"));
}
