//! Certificates by name: which one a client gets, and what becomes of them at a reload.

use crate::support::backend::webs;
use crate::support::tls::{Authority, Client, Identity, Kind, TlsEnding, config, pen_as, serial};
use crate::support::{Pen, Scratch, only_ours, tls, wait_until};

/// The serial number of the certificate that a client gets who asks for this name, or for none.
#[track_caller]
fn shown(pen: &Pen, name: Option<&str>) -> String {
    let client = Client::careless();
    let client = if let Some(name) = name { client.name(name) } else { client };
    client.open(pen).peer_serial()
}

/// A directory of certificates beside a certificate for everybody else.
struct Names {
    root: Authority,
    files: Scratch,
    directory: Scratch,
    default: Identity,
}

impl Names {
    fn new() -> Self {
        let root = Authority::new("Root");
        let default = root.issue(&["default.test"]);
        Names { root, files: Scratch::new(), directory: Scratch::new(), default }
    }

    /// Puts a certificate for these names into the directory, under the first of them.
    fn add(&self, names: &[&str]) -> Identity {
        let identity = self.root.issue(names);
        identity.pair(&self.directory, names[0]);
        identity
    }

    fn path(&self) -> &str {
        self.directory.path().to_str().unwrap()
    }

    /// A configuration file, so that it can be read again.
    fn config(&self) -> String {
        let certificate = self.default.file(&self.files, "default.pem");
        let (certificate, path) =
            (format!("ssl_certificate {certificate}"), format!("ssl_sni_path {}", self.path()));
        config(&self.files, &[&certificate, &path])
    }

    fn start(&self, servers: &[crate::support::Backend]) -> Pen {
        Pen::with(&["-F", &self.config()]).servers(servers).workers(2).controlled().start()
    }
}

/// pen(1), Server names: a certificate for each of ten names, with keys of both kinds, for clients of both versions.
#[test]
fn each_of_ten_names_has_its_certificate() {
    let (s, names) = (webs(1), Names::new());
    let identities: Vec<_> = (0..10)
        .map(|number| {
            let name = format!("name{number}.test");
            let kind = if number % 2 == 0 { Kind::P256 } else { Kind::Rsa2048 };
            let identity = names.root.issue_with(&[&name], kind);
            identity.pair(&names.directory, &name);
            (name, identity)
        })
        .collect();
    let option = format!("ssl_sni_path {}", names.path());
    let pen = pen_as(&names.default, &names.files, &["-O", &option]).servers(&s).start();
    for version in [openssl::ssl::SslVersion::TLS1_2, openssl::ssl::SslVersion::TLS1_3] {
        for (name, identity) in &identities {
            let client = Client::trusting(&names.root).version(version).checked_name(name);
            let mut secured = client.open(&pen);
            assert_eq!(secured.peer_serial(), identity.serial(), "{name}");
            assert_eq!(secured.request("/").0, "S0", "{name}");
        }
        let mut secured = Client::trusting(&names.root).version(version).open(&pen);
        assert_eq!(secured.peer_serial(), names.default.serial(), "a client that asks for no name");
        assert_eq!(secured.request("/").0, "S0");
    }
}

/// pen(1), Server names: an unknown name gets the default certificate, the first time as every time.
#[test]
fn an_unknown_name_gets_the_default() {
    only_ours!("the first client of such a name fails");
    let (s, names) = (webs(1), Names::new());
    names.add(&["known.test"]);
    let pen = names.start(&s);
    for name in ["unknown.test", "unknown.test", "test", "x.known.test", "known.test.x"] {
        let mut secured = Client::careless().name(name).open(&pen);
        assert_eq!(secured.peer_serial(), names.default.serial(), "{name}");
        assert_eq!(secured.request("/"), ("S0".to_owned(), TlsEnding::Declared), "{name}");
    }
}

/// pen(1), Server names: upper and lower case, wildcards, names in certificates, and what comes before what.
#[test]
fn wildcards_and_names_in_certificates_count() {
    only_ours!("it looks for a file of just this name");
    let (s, names) = (webs(1), Names::new());
    let exact = names.add(&["www.a.test"]);
    let star = names.add(&["*.a.test"]);
    let low = names.root.issue(&["*.low.test"]);
    low.pair(&names.directory, "_.low.test");
    let multi = names.add(&["multi.test", "alias.test", "*.inner.test", "www.a.test", "x.a.test"]);
    // A key in the same file.
    let joint = names.root.issue(&["joint.test"]);
    joint.file(&names.directory, "joint.test.crt");
    let pen = names.start(&s);
    for (name, identity) in [
        ("www.a.test", &exact), // the file of just this name
        ("WWW.A.Test", &exact),
        ("x.a.test", &multi), // a name in a certificate comes before a wildcard
        ("y.a.test", &star),
        ("x.y.a.test", &names.default),
        ("a.test", &names.default),
        ("host.low.test", &low),
        ("multi.test", &multi),
        ("Alias.Test", &multi),
        ("any.inner.test", &multi),
        ("joint.test", &joint),
        ("default.test", &names.default),
    ] {
        assert_eq!(shown(&pen, Some(name)), identity.serial(), "{name}");
    }
}

/// pen(1), Server names: nothing is read because of a client, and a name never leads out of the directory.
#[test]
fn a_name_is_never_a_path() {
    only_ours!("it is one");
    let (s, names) = (webs(1), Names::new());
    let known = names.add(&["known.test"]);
    // The directory is inside another one that has certificates, too.
    let outside = names.root.issue(&["outside.test"]);
    let parent = names.directory.path().parent().unwrap();
    let beside = Scratch::new();
    outside.pair(&beside, "outside.test");
    assert_eq!(beside.path().parent(), Some(parent));
    std::fs::create_dir(names.directory.path().join("sub")).unwrap();
    for end in ["crt", "key"] {
        let to = names.directory.path().join(format!("sub/deep.test.{end}"));
        std::fs::copy(beside.file(&format!("outside.test.{end}")), to).unwrap();
    }
    let pen = names.start(&s);
    let beside_name = beside.path().file_name().unwrap().to_str().unwrap();
    let up = format!("../{beside_name}/outside.test");
    let absolute = format!("{}/outside.test", beside.path().to_str().unwrap());
    let long = "a".repeat(250);
    for name in [&up, &absolute, "sub/deep.test", "./known.test", "..", ".", "*", "known.test/", "a b", &long]
    {
        assert_eq!(shown(&pen, Some(name)), names.default.serial(), "{name}");
    }
    assert_eq!(shown(&pen, Some("known.test")), known.serial());
    // What is put there while pen runs is not used before pen is told to.
    let late = names.add(&["late.test"]);
    assert_eq!(shown(&pen, Some("late.test")), names.default.serial());
    assert_eq!(pen.ask("reload"), "ok\n");
    assert_eq!(shown(&pen, Some("late.test")), late.serial());
}

/// pen(1), Server names: a reload adds, removes and renews names; who is connected keeps what he has.
#[test]
fn a_reload_brings_the_directory_up_to_date() {
    only_ours!("it reads once");
    let (g, names) = (crate::support::backend::greeters(1), Names::new());
    let stays = names.add(&["stays.test"]);
    let before = names.add(&["renewed.test"]);
    names.add(&["goes.test"]);
    let pen = names.start(&g);
    let mut held = Client::careless().name("renewed.test").open(&pen);
    assert_eq!(held.read_line().as_deref(), Some("G0"));
    let after = names.add(&["renewed.test"]);
    let comes = names.add(&["comes.test"]);
    for end in ["crt", "key"] {
        std::fs::remove_file(names.directory.file(&format!("goes.test.{end}"))).unwrap();
    }
    assert_eq!(shown(&pen, Some("renewed.test")), before.serial());
    assert_eq!(pen.ask("reload"), "ok\n");
    // Every worker has it.
    for _ in 0..8 {
        for (name, identity) in [
            ("stays.test", &stays),
            ("renewed.test", &after),
            ("comes.test", &comes),
            ("goes.test", &names.default),
        ] {
            assert_eq!(shown(&pen, Some(name)), identity.serial(), "{name}");
        }
    }
    assert!(held.echoes(), "a connection was disturbed");
    assert_eq!(held.peer_serial(), before.serial());
}

/// pen(1), Certificates: with any mistake nothing changes, and the file is named.
#[test]
fn a_broken_pair_changes_nothing() {
    only_ours!("it reads once");
    let (s, names) = (webs(1), Names::new());
    let good = names.add(&["good.test"]);
    let pen = names.start(&s);
    let other = names.add(&["other.test"]);
    let renewed = names.add(&["good.test"]);
    for (file, content) in [
        ("broken.test.key", other.key_pem()), // of another certificate
        ("broken.test.crt", b"garbage".to_vec()),
        ("broken.test.ca", b"garbage".to_vec()),
    ] {
        let broken = names.add(&["broken.test"]);
        names.directory.write(file, content);
        let reply = pen.ask("reload");
        let named = [file, "broken.test.crt"].iter().any(|name| reply.contains(&names.directory.file(name)));
        assert!(reply.starts_with("error: ") && named, "{file}: {reply}");
        wait_until("it is told", || pen.stderr().contains(reply.trim_start_matches("error: ").trim_end()));
        assert_eq!(shown(&pen, Some("good.test")), good.serial());
        assert_eq!(shown(&pen, Some("other.test")), names.default.serial());
        // The same at the start.
        let ended = Pen::with(&["-F", &names.config()]).servers(&s).run();
        assert!(ended.code() == 1 && ended.stderr.contains("broken.test"), "{file}: {ended:?}");
        drop(broken);
    }
    for end in ["crt", "key", "ca"] {
        std::fs::remove_file(names.directory.file(&format!("broken.test.{end}"))).unwrap();
    }
    assert_eq!(pen.ask("reload"), "ok\n");
    assert_eq!(shown(&pen, Some("good.test")), renewed.serial());
    assert_eq!(shown(&pen, Some("other.test")), other.serial());
}

/// pen(1), Server names: NAME.ca is whom clients of this name must be from, in place of -G; a session of one name is no
/// way around that of another.
#[test]
fn a_name_may_have_authorities_of_its_own() {
    only_ours!("it asks nobody without -G");
    let (s, names) = (webs(1), Names::new());
    names.add(&["own.test"]);
    names.add(&["usual.test"]);
    let (own, usual) = (Authority::new("Own"), Authority::new("General"));
    own.file(&names.directory, "own.test.ca");
    let ca = usual.file(&names.files, "ca.pem");
    let path = format!("ssl_sni_path {}", names.path());
    let options = ["-R", "-G", &ca, "-O", &path];
    let pen = pen_as(&names.default, &names.files, &options).servers(&s).controlled().start();
    let (of_own, of_usual) = (own.issue(&["client"]), usual.issue(&["client"]));
    for version in [openssl::ssl::SslVersion::TLS1_2, openssl::ssl::SslVersion::TLS1_3] {
        for (name, identity, good) in [
            ("own.test", &of_own, true),
            ("own.test", &of_usual, false),
            ("usual.test", &of_own, false),
            ("usual.test", &of_usual, true),
        ] {
            let client = Client::trusting(&names.root).version(version).name(name).certificate(identity);
            let answer = client.connect(pen.connect()).map(|mut secured| secured.request("/").0);
            assert_eq!(answer.as_deref() == Ok("S0"), good, "{name}: {answer:?}");
        }
        let client =
            Client::trusting(&names.root).version(version).name("own.test").certificate(&of_own).build();
        assert_eq!(client.visit(&pen), "S0");
        for name in ["usual.test", "default.test"] {
            let intruder = Client::trusting(&names.root).version(version).name(name);
            let answer = intruder
                .build()
                .resuming(client.session())
                .connect(pen.connect())
                .map(|mut secured| secured.request("/").0);
            assert_ne!(answer.as_deref(), Ok("S0"), "{name} with a session of own.test");
        }
    }
    tls::nothing_is_left(&pen);
}

/// pen(1), Server names: without -E nobody is spoken to with TLS, names or not.
#[test]
fn names_alone_are_told() {
    only_ours!("it says nothing");
    let (s, names) = (webs(1), Names::new());
    names.add(&["known.test"]);
    let option = format!("ssl_sni_path {}", names.path());
    let pen = Pen::with(&["-O", &option]).servers(&s).start();
    assert_eq!(pen.visit(), "S0");
}

/// pen(1), Server names: what a client sees is the whole chain of the name's file.
#[test]
fn the_chain_of_a_name_is_sent() {
    only_ours!("it sends the first one only");
    let (s, names) = (webs(1), Names::new());
    let middle = names.root.intermediate("Middle");
    let identity = middle.issue(&["chain.test"]);
    identity.pair(&names.directory, "chain.test");
    let pen = names.start(&s);
    let secured = Client::trusting(&names.root).checked_name("chain.test").open(&pen);
    let chain: Vec<_> = secured.ssl().peer_cert_chain().unwrap().iter().map(serial).collect();
    assert_eq!(chain, [identity.serial(), serial(&middle.0.certificate)]);
}
