//! Servers get to know who their clients are: nginx tells it in its access log.

use std::io::Write;
use std::net::IpAddr;
use std::process::Command;

use crate::support::client::{connect, read_all};
use crate::support::nginx::Nginx;
use crate::support::tls::{has_program, run};
use crate::support::{Pen, only_ours};

/// What nginx logs: the client's address, the request line, the status, and the address that the connection came from.
const SEEN: &str = "$remote_addr \"$request\" $status from $realip_remote_addr";

fn with_answer(server: &str) -> String {
    format!("{server}\nreturn 200 pong;")
}

/// What the man page has nginx believe, if pen is here. In the man page pen is at 10.0.0.1, and nginx has TLS.
fn from_the_man_page(what: &str) -> String {
    let page = include_str!("../../man/pen.1");
    let examples = page.split(".Bd -literal").skip(1).filter_map(|rest| rest.split(".Ed").next());
    let example = examples.map(|text| text.split_once('\n').unwrap().1).find(|text| text.contains(what));
    let example = example.unwrap_or_else(|| panic!("the man page has no example with {what}"));
    example.replace("listen 443 ssl", "listen 127.0.0.1:PORT").replace("10.0.0.1", "127.0.0.1")
}

fn believing_headers() -> String {
    from_the_man_page("X-Forwarded-For;") + "listen 127.0.0.1:PORT;"
}

fn believing_proxy_headers() -> String {
    from_the_man_page("proxy_protocol;")
}

/// Sends this from there; returns how many responses came.
#[track_caller]
fn ask(pen: &Pen, source: &str, requests: &str) -> usize {
    let source: IpAddr = source.parse().unwrap();
    let to = if source.is_ipv6() { "::1".parse().unwrap() } else { pen.address.ip() };
    let stream = connect(source, (to, pen.address.port()).into()).expect("pen accepts connections");
    (&stream).write_all(requests.as_bytes()).unwrap();
    let (bytes, _) = read_all(&stream);
    String::from_utf8_lossy(&bytes).matches("pong").count()
}

/// pen(1), THE CLIENT'S ADDRESS: with any of the three ways a server's access log names the clients and not pen: of each
/// request of a connection, and of who claims to be somebody else. (nginx behind pen; what else there is to say of
/// `transparent`, where clients and servers are on other machines, has stories of its own.)
#[test]
fn the_servers_log_the_true_clients_by_each_of_the_three_ways() {
    only_ours!("it does not append to what a client claims, and knows no PROXY protocol");
    let (headers, proxied) = (believing_headers(), believing_proxy_headers());
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("not told of transparent: this needs root");
    }
    let ways: [(&[&str], &str, &str); 4] = [
        (&["-H"], &headers, "127.0.0.1"),
        (&["-O", "proxy_send 1"], &proxied, "127.0.0.1"),
        (&["-O", "proxy_send 2"], &proxied, "127.0.0.1"),
        // There the connections themselves have the clients' addresses.
        (&["-O", "transparent"], "listen 127.0.0.1:PORT;", ""),
    ];
    let two = "POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 14\r\n\r\nGET / HTTP/1.1\
               GET /second HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let liar = "GET /forged HTTP/1.0\r\nX-Forwarded-For: 203.0.113.9\r\nX-Real-IP: 203.0.113.9\r\n\r\n";
    let visits: [(&str, &str, &[&str]); 5] = [
        ("127.0.0.2", "GET /one HTTP/1.0\r\n\r\n", &["GET /one HTTP/1.0"]),
        ("127.0.0.3", "GET /one HTTP/1.0\r\n\r\n", &["GET /one HTTP/1.0"]),
        ("127.0.0.1", "GET /one HTTP/1.0\r\n\r\n", &["GET /one HTTP/1.0"]),
        ("127.0.0.200", two, &["POST /first HTTP/1.1", "GET /second HTTP/1.1"]),
        ("127.0.0.4", liar, &["GET /forged HTTP/1.0"]),
    ];
    for (options, server, from) in &ways[..if root { 4 } else { 3 }] {
        let Some(nginx) = Nginx::start(SEEN, &with_answer(server)) else { return };
        let pen = Pen::with(options).servers([&nginx]).start();
        let mut expected = Vec::new();
        for (client, sent, requests) in visits {
            assert_eq!(ask(&pen, client, sent), requests.len());
            let from = if from.is_empty() { client } else { from };
            expected.extend(requests.iter().map(|request| format!("{client} \"{request}\" 200 from {from}")));
            // It logs some requests only when the client has closed the connection.
            nginx.log(expected.len());
        }
        let log = nginx.log(expected.len());
        eprintln!("{options:?}\n{}\n", log.join("\n"));
        assert_eq!(log, expected, "{options:?}");
    }
}

/// The same for clients that come by IPv6, and for those that come by IPv4 to a pen that listens for both: the server has
/// IPv4 alone.
#[test]
fn the_servers_log_the_true_clients_of_both_families() {
    only_ours!("it shows clients by IPv4 as ::ffff:127.0.0.2, and knows no PROXY protocol");
    let (headers, proxied) = (believing_headers(), believing_proxy_headers());
    let ways: [(&[&str], &str); 3] =
        [(&["-H"], &headers), (&["-O", "proxy_send 1"], &proxied), (&["-O", "proxy_send 2"], &proxied)];
    for (options, server) in ways {
        let Some(nginx) = Nginx::start(SEEN, &with_answer(server)) else { return };
        let pen = Pen::with(options).listen("[::]:PORT").servers([&nginx]).start();
        for (count, client) in [(1, "::1"), (2, "127.0.0.2")] {
            assert_eq!(ask(&pen, client, "GET / HTTP/1.0\r\n\r\n"), 1);
            nginx.log(count);
        }
        let line = |client| format!("{client} \"GET / HTTP/1.0\" 200 from 127.0.0.1");
        assert_eq!(nginx.log(2), [line("::1"), line("127.0.0.2")], "{options:?}");
    }
}

/// pen(1), HTTP headers: each request has exactly one header, with exactly one address, however many there are at once.
#[test]
fn every_request_of_wrk_tells_of_its_client_once() {
    if !has_program("wrk") {
        return;
    }
    let strict = "listen 127.0.0.1:PORT;\n\
                  if ($http_x_forwarded_for != 127.0.0.1) { return 400; }\n\
                  if ($http_x_forwarded_proto != http) { return 400; }\n";
    let Some(nginx) = Nginx::start(SEEN, &with_answer(strict)) else { return };
    let pen = Pen::with(&["-H"]).servers([&nginx]).start();
    let mut command = Command::new("wrk");
    command.args(["--threads", "1", "--connections", "50", "--duration", "1s"]);
    command.arg(format!("http://{}/", pen.address));
    let said = run(command, b"");
    assert!(!said.stdout.contains("Non-2xx") && !said.stdout.contains("Socket errors"), "{said:?}");
    let count =
        said.stdout.split_once(" requests in").and_then(|(before, _)| before.split_whitespace().last());
    let count: usize = count.unwrap().parse().unwrap();
    assert!(count > 0, "{said:?}");
    let log = nginx.log(count);
    assert!(log.iter().all(|line| line == "127.0.0.1 \"GET / HTTP/1.1\" 200 from 127.0.0.1"), "{said:?}");
}
