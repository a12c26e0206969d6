//! TLS towards clients.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use openssl::ssl::SslVersion;

use super::{Scenario, scenario};
use crate::pen::{Builder, Pen};
use crate::stage::Stage;
use crate::support::client::read_all;
use crate::support::tls::{Authority, Client, Identity, Kind, TlsEnding, curl, now, s_client, staple};
use crate::support::{Backend, Scratch, wait_until};

/// A pen with this certificate.
fn pen<'a>(t: &'a Stage, identity: &Identity, options: &[&str]) -> Builder<'a> {
    let file = identity.file(&t.scratch, "cert.pem");
    t.pen(&[&["-E", &file], options].concat())
}

/// What becomes of a request.
fn answer(pen: &Pen<'_>, client: Client) -> String {
    match client.connect(pen.connect()).map(|mut secured| secured.request("/").0) {
        Ok(body) if !body.is_empty() => body,
        _ => "refused".to_owned(),
    }
}

/// Whose certificate a client gets, by the name in it.
fn shown(pen: &Pen<'_>, name: Option<&str>) -> String {
    let client = Client::careless();
    let client = if let Some(name) = name { client.name(name) } else { client };
    let slow = Slow { stream: pen.connect(), pen, has_read: false };
    let Ok(secured) = client.build().handshake().connect(slow) else { return "refused".to_owned() };
    let certificate = secured.ssl().peer_certificate().unwrap();
    let name = certificate.subject_name().entries().next().unwrap();
    name.data().to_string().unwrap()
}

/// A client that reads nothing before pen has answered and waits for more. A classic without a file for a name takes a
/// handshake that it has to wait for for a failed one; whether it has to must not depend on who is quicker.
struct Slow<'a> {
    stream: TcpStream,
    pen: &'a Pen<'a>,
    has_read: bool,
}

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !std::mem::replace(&mut self.has_read, true) {
            // A reset is for the handshake to find.
            let _ = self.stream.peek(&mut [0]);
            self.pen.wait_for_rest();
        }
        self.stream.read(buffer)
    }
}

impl Write for Slow<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A directory `sni` with certificates for a.test and b.test, as the command that names it.
fn names(t: &Stage, root: &Authority) -> String {
    let directory = t.scratch.path().join("sni");
    std::fs::create_dir(&directory).unwrap();
    for name in ["a.test", "b.test"] {
        let (identity, files) = (root.issue(&[name]), Scratch::new());
        identity.pair(&files, name);
        for file in files.names() {
            std::fs::copy(files.file(&file), directory.join(file)).unwrap();
        }
    }
    format!("ssl_sni_path {}", directory.to_str().unwrap())
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("case_129_a_tls_client", |t| {
            for (kind, of) in [(Kind::P256, "P-256"), (Kind::Rsa2048, "RSA")] {
                let root = Authority::new("Root");
                let (s, identity) = (t.webs(1), root.issue_with(&["localhost"], kind));
                let pen = pen(t, &identity, &[]).servers(&s).start();
                for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
                    let client = Client::trusting(&root).version(version).checked_name("localhost");
                    t.note(format!("{of}: {version:?}"), answer(&pen, client));
                }
                let client = Client::careless().version(SslVersion::TLS1_1);
                t.note(format!("{of}: TLS 1.1"), answer(&pen, client));
                t.note(format!("{of}: curl"), curl(pen.address, &root, &[]).stdout);
                t.note(format!("{of}: plain"), if pen.visit() == "S0" { "served" } else { "not served" });
            }
        })
        .with_two_workers_too(),
        scenario("case_129_http_headers_of_a_tls_client", |t| {
            let server = t.server(
                "S0",
                Backend::serving("S", |visit| {
                    let (mut head, mut part) = (Vec::new(), [0; 4096]);
                    while !head.ends_with(b"\r\n\r\n") {
                        match (&visit.stream).read(&mut part) {
                            Ok(count @ 1..) => head.extend_from_slice(&part[..count]),
                            _ => return,
                        }
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    visit.note(
                        head.lines().filter(|line| line.starts_with("X-")).collect::<Vec<_>>().join(" | "),
                    );
                    let _ = (&visit.stream).write_all(b"HTTP/1.0 200 OK\r\n\r\nS0");
                }),
            );
            let root = Authority::new("Root");
            let pen = pen(t, &root.issue(&["localhost"]), &["-H"]).servers([&server]).start();
            let mut secured = Client::careless().connect(pen.connect()).unwrap();
            t.note("body", secured.request("/").0);
            let mut told: Vec<String> = server.notes().remove(0).split(" | ").map(str::to_owned).collect();
            told.sort_unstable();
            t.note("told", told.join(" | "));
        }),
        scenario("case_130_the_end_of_a_tls_stream", |t| {
            let (s, root) = (t.webs(1), Authority::new("Root"));
            let pen = pen(t, &root.issue(&["localhost"]), &[]).servers(&s).start();
            for version in [SslVersion::TLS1_2, SslVersion::TLS1_3] {
                let mut secured = Client::careless().version(version).connect(pen.connect()).unwrap();
                let (body, ending) = secured.request("/");
                t.note("body", body);
                let declared = ending == TlsEnding::Declared;
                t.note("end", if declared { "declared" } else { "cut off" });
            }
        }),
        scenario("case_131_client_certificates", |t| {
            let (root, other) = (Authority::new("Root"), Authority::new("Other"));
            let (s, ca) = (t.webs(1), root.file(&t.scratch, "ca.pem"));
            let (good, foreign) = (root.issue(&["client"]), other.issue(&["client"]));
            for (label, options) in [("-R", &["-R", "-G", &ca][..]), ("no -R", &["-G", &ca])] {
                let pen = pen(t, &root.issue(&["localhost"]), options).servers(&s).start();
                t.note(format!("{label}: none"), answer(&pen, Client::careless()));
                t.note(format!("{label}: good"), answer(&pen, Client::careless().certificate(&good)));
                t.note(format!("{label}: foreign"), answer(&pen, Client::careless().certificate(&foreign)));
            }
        }),
        scenario("case_132_certificates_by_name", |t| {
            let (s, root) = (t.webs(1), Authority::new("Root"));
            let option = names(t, &root);
            let pen = pen(t, &root.issue(&["default.test"]), &[]).command(option).servers(&s).start();
            for name in [Some("a.test"), Some("b.test"), None, Some("a.test")] {
                t.note(format!("{name:?}"), shown(&pen, name));
            }
        })
        .with_two_workers_too(),
        scenario("case_133_an_unknown_name", |t| {
            let (s, root) = (t.webs(1), Authority::new("Root"));
            let option = names(t, &root);
            let pen = pen(t, &root.issue(&["default.test"]), &[]).command(option).servers(&s).start();
            t.note("the first time", shown(&pen, Some("unknown.test")));
            t.note("the second time", shown(&pen, Some("unknown.test")));
        }),
        scenario("case_134_a_name_that_is_a_path", |t| {
            let (s, root) = (t.webs(1), Authority::new("Root"));
            let option = names(t, &root);
            let pen = pen(t, &root.issue(&["default.test"]), &[]).command(option).servers(&s).start();
            t.note("a name", shown(&pen, Some("b.test")));
            t.note("a path", shown(&pen, Some("../sni/a.test")));
        }),
        scenario("the_server_of_a_silent_tls_client", |t| {
            let (g, root) = (t.greeters(1), Authority::new("Root"));
            let pen = pen(t, &root.issue(&["localhost"]), &[]).servers(&g).start();
            let silent = pen.connect();
            let mut secured = Client::careless().connect(pen.connect()).unwrap();
            t.note("another one", secured.read_line().unwrap_or_default());
            wait_until("it is counted", || g[0].accepted() > 0);
            t.note("connections of the server", g[0].accepted());
            drop(silent);
        }),
        scenario("a_chain_of_certificates", |t| {
            let (s, root) = (t.webs(1), Authority::new("Root"));
            let identity = root.intermediate("Middle").issue(&["localhost"]);
            let pen = pen(t, &identity, &[]).servers(&s).start();
            let secured = Client::careless().connect(pen.connect()).unwrap();
            t.note("sent", secured.ssl().peer_cert_chain().unwrap().len());
        }),
        scenario("words_of_protocols", |t| {
            let (s, root) = (t.webs(1), Authority::new("Root"));
            for word in ["ssl23", "ssl2", "ssl3", "tls1"] {
                let pen = pen(t, &root.issue(&["localhost"]), &["-L", word, "-Z"]).servers(&s).start();
                let secured = Client::careless().connect(pen.connect()).unwrap();
                t.note(word, secured.version());
            }
        }),
        scenario("a_key_of_its_own", |t| {
            let (s, root) = (t.webs(1), Authority::new("Root"));
            let identity = root.issue(&["localhost"]);
            let certificate = t.scratch.write("leaf.crt", identity.chain_pem());
            let key = t.scratch.write("leaf.key", identity.key_pem());
            let other = t.scratch.write("other.key", root.issue(&["localhost"]).key_pem());
            let pen = t.pen(&["-E", &certificate, "-K", &key]).servers(&s).start();
            t.note("the right one", answer(&pen, Client::careless()));
            for (label, options) in [
                ("of another certificate", &["-E", &certificate, "-K", &other][..]),
                ("missing", &["-E", &certificate, "-K", "/no/such/key"]),
                ("missing certificate", &["-E", "/no/such/certificate"]),
            ] {
                let ended = t.pen(options).servers(&s).run();
                t.note(label, ended.map_or_else(|runs| runs, |ended| ended.how()));
            }
            let pen = t.pen(&["-K", &key]).servers(&s).start();
            t.note("alone", pen.visit());
        }),
        scenario("a_list_of_ciphers", |t| {
            let (s, root) = (t.webs(1), Authority::new("Root"));
            let identity = root.issue(&["localhost"]);
            let good = "ssl_ciphers ECDHE-ECDSA-CHACHA20-POLY1305";
            let with = pen(t, &identity, &["-O", good]).servers(&s).start();
            let client = Client::careless().version(SslVersion::TLS1_2);
            t.note("negotiated", client.connect(with.connect()).unwrap().cipher());
            let bad = pen(t, &identity, &["-O", "ssl_ciphers NO-SUCH-CIPHER"]).servers(&s).try_start();
            t.note("a bad one", bad.map_or_else(|ended| ended.how(), |pen| answer(&pen, Client::careless())));
        }),
        scenario("a_stapled_response", |t| {
            let root = Authority::with_key("Root", Kind::Rsa2048);
            let (s, identity) = (t.webs(1), root.issue(&["localhost"]));
            for (label, until) in [("good", now() + 3600), ("expired", now() - 60)] {
                let response =
                    t.scratch.write("response.ocsp", staple(&root, &identity, now() - 3600, until));
                let option = format!("ssl_ocsp_response {response}");
                let pen = pen(t, &identity, &["-O", &option]).servers(&s).start();
                let said = s_client(pen.address, &root, &["-status"]).stdout;
                t.note(label, if said.contains("Cert Status: good") { "stapled" } else { "not stapled" });
            }
        }),
        scenario("plain_text_where_tls_is_expected", |t| {
            let (s, root) = (t.webs(1), Authority::new("Root"));
            let pen = pen(t, &root.issue(&["localhost"]), &[]).servers(&s).start();
            let stream = pen.connect();
            let _ = (&stream).write_all(b"GET / HTTP/1.0\r\n\r\n");
            let (bytes, ending) = read_all(&stream);
            t.note("answered", String::from_utf8_lossy(&bytes).contains("HTTP"));
            t.note("ends", ending != crate::support::Ending::Open);
            t.note("a client after it", answer(&pen, Client::careless()));
        }),
    ]
}
