//! pen(1), The PROXY protocol, with others that speak it: HAProxy and nginx on either side, and pen itself.

use std::net::{IpAddr, SocketAddr, TcpStream};

use crate::support::backend::webs;
use crate::support::client::{connect, request};
use crate::support::page::column;
use crate::support::programs::{NGINX_STREAM, Running, has_haproxy, has_nginx_stream};
use crate::support::tls::{self, Authority, Client, Identity, has_program, nothing_is_left, usual};
use crate::support::{Backend, Pen, Scratch, free_port, only_ours, wait_until};

/// Where the clients are, unlike everybody else.
const CLIENT: &str = "127.0.0.7";

fn client_to(port: u16) -> TcpStream {
    connect(CLIENT.parse().unwrap(), SocketAddr::new([127, 0, 0, 1].into(), port)).unwrap()
}

/// A pen that takes headers from 127.0.0.1 and from nobody else, in front of a web server.
fn behind(server: &[Backend], log: &str) -> Pen {
    let options = ["-H", "-l", log, "-O", "acl 1 permit 127.0.0.1", "-O", "proxy_accept 1"];
    Pen::with(&options).servers(server).controlled().start()
}

/// The clients of the log, when it has so many lines.
#[track_caller]
fn logged(files: &Scratch, count: usize) -> Vec<String> {
    wait_until("all is logged", || files.read("log").lines().count() >= count);
    files.read("log").lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

#[track_caller]
fn nobody_was_refused(pen: &Pen) {
    assert!(column(&pen.ask("status"), "worker", "PROXY refused").iter().all(|count| count == "0"));
    nothing_is_left(pen);
}

/// proxy_accept: HAProxy's headers of both versions, with all extensions that it has.
#[test]
fn what_haproxy_sends_is_accepted() {
    only_ours!("it does not know the PROXY protocol");
    if !has_haproxy() {
        return;
    }
    let (s, files) = (webs(1), Scratch::new());
    let pen = behind(&s, &files.file("log"));
    let [one, two, secure] = [(); 3].map(|()| free_port());
    let identity = usual().1.file(&files, "cert.pem");
    let server = pen.address;
    let haproxy = Running::haproxy(
        &format!(
            "listen one\n mode tcp\n bind 127.0.0.1:{one}\n server pen {server} send-proxy\n\
             listen two\n mode tcp\n bind 127.0.0.1:{two}\n bind [::1]:{two}\n server pen {server} send-proxy-v2\n\
             listen secure\n mode tcp\n bind 127.0.0.1:{secure} ssl crt {identity} alpn http/1.1\n\
             server pen {server} send-proxy-v2-ssl-cn proxy-v2-options \
             ssl,cert-cn,cert-key,cert-sig,crc32c,authority,unique-id\n"
        ),
        &[one, two, secure],
    );
    for _ in 0..3 {
        assert_eq!(request(client_to(one), "/"), "S0");
        assert_eq!(request(client_to(two), "/"), "S0");
        let six: IpAddr = "::1".parse().unwrap();
        assert_eq!(request(connect(six, SocketAddr::new(six, two)).unwrap(), "/"), "S0");
        let mut secured = Client::usual().name("pen.test").connect(client_to(secure)).unwrap();
        assert_eq!(secured.request("/").0, "S0");
    }
    let mut clients = logged(&files, 12);
    clients.sort();
    assert_eq!(clients, [vec![CLIENT; 9], vec!["::1"; 3]].concat());
    for (number, note) in s[0].notes().iter().enumerate() {
        let client = if number % 4 == 2 { "::1" } else { CLIENT };
        let proto = if number % 4 == 3 { "https" } else { "http" };
        let expected = format!("X-Forwarded-For: {client}\r\nX-Forwarded-Proto: {proto}\r\n");
        assert!(note.contains(&expected), "{number}: {note}");
    }
    nobody_was_refused(&pen);
    drop(haproxy);
}

/// proxy_accept: HAProxy's health checks name nobody, and are served.
#[test]
fn haproxy_finds_a_pen_behind_it_healthy() {
    only_ours!("it does not know the PROXY protocol");
    if !has_haproxy() {
        return;
    }
    let (s, files) = (webs(1), Scratch::new());
    let pen = behind(&s, &files.file("log"));
    let (port, server) = (free_port(), pen.address);
    let _haproxy = Running::haproxy(
        &format!(
            "listen checked\n mode http\n bind 127.0.0.1:{port}\n option httpchk GET /check\n\
             server pen {server} send-proxy-v2 check check-send-proxy inter 50ms\n"
        ),
        &[port],
    );
    let checks = || files.read("log").lines().filter(|line| line.contains("GET /check")).count();
    wait_until("it has been checked a few times", || checks() >= 3);
    assert_eq!(request(client_to(port), "/"), "S0");
    wait_until("all is logged", || files.read("log").contains(&format!("{CLIENT} ")));
    let log = files.read("log");
    assert!(log.lines().all(|line| line.contains("/check") == line.starts_with("127.0.0.1 ")), "{log}");
    assert!(column(&pen.ask("status"), "worker", "PROXY refused").iter().all(|count| count == "0"));
}

/// proxy_accept: nginx's headers.
#[test]
fn what_nginx_sends_is_accepted() {
    only_ours!("it does not know the PROXY protocol");
    if !has_nginx_stream() {
        return;
    }
    let (s, files) = (webs(1), Scratch::new());
    let pen = behind(&s, &files.file("log"));
    let (port, server) = (free_port(), pen.address);
    let _nginx = Running::nginx(
        &format!(
            "{NGINX_STREAM}stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass {server}; proxy_protocol on; }} }}"
        ),
        &[port],
    );
    for _ in 0..3 {
        assert_eq!(request(client_to(port), "/"), "S0");
    }
    assert_eq!(logged(&files, 3), [CLIENT; 3]);
    nobody_was_refused(&pen);
}

/// proxy_send: nginx takes both versions, before TLS too, and knows the client by them.
#[test]
fn what_pen_sends_is_taken_by_nginx() {
    only_ours!("it does not know the PROXY protocol");
    if !has_program("nginx") {
        return;
    }
    let (root, files) = (Authority::new("Servers"), Scratch::new());
    let ca = root.file(&files, "ca.pem");
    let identity = root.issue(&["127.0.0.1"]).file(&files, "cert.pem");
    let [plain, secure] = [(); 2].map(|()| free_port());
    let common = "set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol; location / { return 200 \
                  '$remote_addr $remote_port $proxy_protocol_server_addr $proxy_protocol_server_port $scheme'; }";
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let paths: String = paths.iter().map(|path| format!("{path}_temp_path SCRATCH/{path};\n")).collect();
    let nginx = Running::nginx(
        &format!(
            "http {{ {paths} access_log SCRATCH/access.log;\n\
             server {{ listen 127.0.0.1:{plain} proxy_protocol; {common} }}\n\
             server {{ listen 127.0.0.1:{secure} ssl proxy_protocol; ssl_certificate {identity}; \
             ssl_certificate_key {identity}; {common} }} }}"
        ),
        &[plain, secure],
    );
    let servers = [format!("127.0.0.1:{plain}"), format!("127.0.0.1:{secure}")];
    let options = ["-r", "-O", &format!("server 1 tls verify {ca}")];
    let pen = Pen::with(&options).servers(servers).listen("[::]:PORT").controlled().start();
    let six: IpAddr = "::1".parse().unwrap();
    let mut count = 0;
    for version in [1, 2] {
        pen.tell(&format!("proxy_send {version}"));
        for source in [CLIENT.parse().unwrap(), six] {
            let to = if source == six { six } else { pen.address.ip() };
            let mut answers = Vec::new();
            // Round robin: with TLS and without.
            for _ in 0..2 {
                let client = connect(source, SocketAddr::new(to, pen.address.port())).unwrap();
                let port = client.local_addr().unwrap().port();
                let answer = request(client, &format!("/{version}"));
                let own = pen.address.port();
                assert!(answer.starts_with(&format!("{source} {port} {to} {own} http")), "{answer}");
                answers.push(answer.rsplit(' ').next().unwrap().to_owned());
                count += 1;
            }
            answers.sort();
            assert_eq!(answers, ["http", "https"]);
        }
    }
    // What an administrator would look at.
    wait_until("all is logged", || nginx.files.read("access.log").lines().count() == count);
    let log = nginx.files.read("access.log");
    assert_eq!(
        log.lines().filter(|line| line.starts_with(&format!("{CLIENT} - - "))).count(),
        count / 2,
        "{log}"
    );
    assert_eq!(log.lines().filter(|line| line.starts_with("::1 - - ")).count(), count / 2, "{log}");
    assert_eq!(nginx.files.read("error.log"), "");
}

/// proxy_send: HAProxy takes both versions, and finds the name that was asked for.
#[test]
fn what_pen_sends_is_taken_by_haproxy() {
    only_ours!("it does not know the PROXY protocol");
    if !has_haproxy() {
        return;
    }
    let files = Scratch::new();
    let root = Authority::new("Clients");
    let ca = root.file(&files, "ca.pem");
    let known: Identity = root.issue(&["somebody"]);
    let port = free_port();
    let _haproxy = Running::haproxy(
        &format!(
            "frontend f\n mode http\n bind 127.0.0.1:{port} accept-proxy\n http-request return status 200 \
             content-type text/plain lf-string \"%[src] %[src_port] %[dst_port] %[fc_rcvd_proxy] \
             %[fc_pp_authority]\"\n"
        ),
        &[port],
    );
    let server = [format!("127.0.0.1:{port}")];
    let pen = Pen::with(&[]).servers(&server).controlled().start();
    let expected = |client: &TcpStream, pen: &Pen, name: &str| {
        let own = client.local_addr().unwrap();
        format!("{} {} {} 1 {name}", own.ip(), own.port(), pen.address.port())
    };
    for version in [1, 2] {
        pen.tell(&format!("proxy_send {version}"));
        let client = client_to(pen.address.port());
        let expected = expected(&client, &pen, "");
        assert_eq!(request(client, "/"), expected);
    }
    let options = ["-O", "proxy_send 2", "-O", "ssl_verify_client request", "-G", &ca];
    let pen = tls::pen(&files, &options).servers(&server).start();
    for client in [Client::usual(), Client::usual().certificate(&known)] {
        let stream = client_to(pen.address.port());
        let expected = expected(&stream, &pen, "pen.test");
        let mut secured = client.name("pen.test").connect(stream).unwrap();
        assert_eq!(secured.request("/").0, expected);
    }
}

/// The PROXY protocol: one pen behind another.
#[test]
fn pen_understands_itself() {
    only_ours!("it does not know the PROXY protocol");
    let (s, files, certificates) = (webs(1), Scratch::new(), Scratch::new());
    let back = behind(&s, &files.file("log"));
    for version in ["proxy_send 1", "proxy_send 2"] {
        let front = Pen::with(&["-O", version]).servers([back.address]).start();
        assert_eq!(front.visit_from(CLIENT), "S0");
        let secure = tls::pen(&certificates, &["-O", version]).servers([back.address]).start();
        let mut secured = Client::usual().connect(secure.connect_from(CLIENT)).unwrap();
        assert_eq!(secured.request("/").0, "S0");
    }
    assert_eq!(logged(&files, 4), [CLIENT; 4]);
    // Version 1 cannot say by what a client came.
    for (note, proto) in s[0].notes().iter().zip(["http", "http", "http", "https"]) {
        let expected = format!("X-Forwarded-For: {CLIENT}\r\nX-Forwarded-Proto: {proto}\r\n");
        assert!(note.contains(&expected), "{note}");
    }
    nobody_was_refused(&back);
}
