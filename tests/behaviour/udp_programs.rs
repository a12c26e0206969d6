//! pen(1), -U, with the programs that speak by datagrams: loggers and rsyslog, SIPp; and with those that take the PROXY
//! protocol there: dnsdist, and pen itself.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::thread;

use crate::support::dns::{NameServer, dig, dnsperf, two_name_servers, who};
use crate::support::page::column;
use crate::support::pen::pen_says;
use crate::support::programs::Running;
use crate::support::tls::{has_program, run};
use crate::support::{Pen, Scratch, free_port, only_ours, wait_until};

/// The configurations that we give as examples.
#[test]
fn the_examples_are_accepted() {
    only_ours!("it knows one listener");
    for service in ["dns", "syslog", "sip"] {
        let file = format!("{}/contrib/{service}.cfg", env!("CARGO_MANIFEST_DIR"));
        let said = pen_says(&["--check", "-F", &file]);
        assert_eq!((said.code(), said.stdout.as_str()), (0, "ok\n"), "{file}: {said:?}");
        // They are for a service that may have more than we.
        assert!(said.stderr.lines().all(|line| line.contains("descriptors")), "{file}: {said:?}");
    }
}

/// An rsyslogd that writes messages as they come to a file.
struct Collector {
    running: Running,
    port: u16,
}

impl Collector {
    fn start() -> Self {
        let port = free_port();
        let config = format!(
            "module(load=\"imudp\" threads=\"1\")\n\
             global(workDirectory=\"SCRATCH\")\n\
             main_queue(queue.type=\"LinkedList\" queue.workerThreads=\"1\")\n\
             template(name=\"whole\" type=\"string\" string=\"%rawmsg%\\n\")\n\
             input(type=\"imudp\" address=\"127.0.0.1\" port=\"{port}\" rcvbufSize=\"1m\")\n\
             action(type=\"omfile\" file=\"SCRATCH/messages\" template=\"whole\")\n"
        );
        Collector { running: rsyslogd(&config, &[port]), port }
    }

    fn messages(&self) -> Vec<String> {
        self.running.files.read("messages").lines().map(str::to_owned).collect()
    }
}

fn rsyslogd(config: &str, ports: &[u16]) -> Running {
    Running::start(config, ports, |files, config| {
        let mut command = Command::new("rsyslogd");
        command.args(["-n", "-f", config, "-i", &files.file("pid")]);
        command
    })
}

/// A pen for syslog, and the two collectors behind it. -r, so that senders on one host are spread.
fn syslog() -> Option<([Collector; 2], Pen)> {
    if !has_program("rsyslogd") || !has_program("logger") {
        return None;
    }
    let collectors = [(); 2].map(|()| Collector::start());
    let servers = collectors.each_ref().map(|collector| format!("127.0.0.1:{}", collector.port));
    let pen = Pen::with(&["-U", "-r"]).servers(servers).start();
    Some((collectors, pen))
}

/// So many messages of each of these senders have come: each once, in their order, all of one sender in one place; and
/// every collector has some.
#[track_caller]
fn all_have_come(collectors: &[Collector; 2], senders: &[&str], count: usize) {
    let total = || collectors.iter().map(|collector| collector.messages().len()).sum::<usize>();
    wait_until("all messages have come", || total() >= senders.len() * count);
    let mut seen = BTreeMap::new();
    for (place, collector) in collectors.iter().enumerate() {
        let messages = collector.messages();
        assert!(!messages.is_empty(), "nothing has come to collector {place}");
        for message in messages {
            let (before, number) = message.rsplit_once(' ').unwrap();
            let sender = before.rsplit(' ').next().unwrap().to_owned();
            let at: &mut Vec<_> = seen.entry((sender, place)).or_default();
            at.push(number.parse::<usize>().unwrap());
        }
    }
    let places: Vec<&str> = seen.keys().map(|(sender, _)| sender.as_str()).collect();
    assert_eq!(places, senders);
    for numbers in seen.values() {
        assert!(numbers.iter().copied().eq(1..=count), "{numbers:?}");
    }
}

/// The messages of a sender, a line each.
fn lines(sender: &str, count: usize) -> String {
    (1..=count).map(|n| format!("{sender} {n}\n")).collect()
}

/// -U: logger(1) never gets a reply; its messages all go to one collector, in their order.
#[test]
fn what_logger_says_arrives_in_order() {
    only_ours!("it tears senders apart that begin at the same time");
    let Some((collectors, pen)) = syslog() else { return };
    let (files, senders) = (Scratch::new(), ["a", "b", "c", "d"]);
    thread::scope(|scope| {
        for sender in senders {
            let file = files.write(sender, lines(sender, 100));
            let port = pen.address.port().to_string();
            scope.spawn(move || {
                let mut command = Command::new("logger");
                command.args(["--server", "127.0.0.1", "--port", &port, "--udp", "--file", &file]);
                let said = run(command, b"");
                assert_eq!(said.code, 0, "{said:?}");
            });
        }
    });
    all_have_come(&collectors, &senders, 100);
}

/// -U: rsyslog on both sides.
#[test]
fn what_rsyslog_forwards_arrives_in_order() {
    let Some((collectors, pen)) = syslog() else { return };
    let senders = ["a", "b"];
    let count = 1000;
    let _senders = senders.map(|sender| {
        let files = Scratch::new();
        let file = files.write("said", lines(sender, count));
        let config = format!(
            "module(load=\"imfile\")\n\
             global(workDirectory=\"SCRATCH\")\n\
             template(name=\"line\" type=\"string\" string=\"<13>%msg%\")\n\
             input(type=\"imfile\" file=\"{file}\" tag=\"said\")\n\
             action(type=\"omfwd\" target=\"127.0.0.1\" port=\"{}\" protocol=\"udp\" template=\"line\" \
             udp.sendDelay=\"50\")\n",
            pen.address.port()
        );
        (rsyslogd(&config, &[]), files)
    });
    let marked = |sender: &str| format!("<13>{sender}");
    let [a, b] = senders.map(marked);
    all_have_come(&collectors, &[&a, &b], count);
}

/// A SIPp that takes calls, and the messages that it has had.
fn callee() -> (Running, u16) {
    let port = free_port();
    let running = Running::start("", &[port], |files, _| {
        let mut command = Command::new("sipp");
        command.args(["-sn", "uas", "-i", "127.0.0.1", "-p", &port.to_string(), "-nostdin"]);
        command.args(["-max_socket", "500", "-trace_msg", "-message_file", &files.file("messages")]);
        command.current_dir(files.path());
        command
    });
    (running, port)
}

/// What has come of each call: the methods, in their order.
fn calls(callee: &Running) -> BTreeMap<String, Vec<String>> {
    let text = callee.files.read("messages");
    let mut calls = BTreeMap::<_, Vec<String>>::new();
    for message in text.split("UDP message ").filter(|message| message.starts_with("received")) {
        let line = |start: &str| message.lines().find_map(|line| line.strip_prefix(start));
        let Some((call, sequence)) = line("Call-ID: ").zip(line("CSeq: ")) else { continue };
        let method = sequence.split_whitespace().nth(1).unwrap_or_default();
        calls.entry(call.to_owned()).or_default().push(method.to_owned());
    }
    calls
}

/// -U: each call's messages stay with one server, and its answers find their way back.
#[test]
fn calls_of_sipp_succeed() {
    if !has_program("sipp") {
        return;
    }
    let callees = [(); 2].map(|()| callee());
    let servers = callees.each_ref().map(|(_, port)| format!("127.0.0.1:{port}"));
    let (pen, files) = (Pen::with(&["-U", "-r"]).servers(servers).start(), Scratch::new());
    let mut command = Command::new("sipp");
    // A socket for each call.
    command.args(["-sn", "uac", &pen.address.to_string(), "-i", "127.0.0.1", "-t", "un", "-nostdin"]);
    command.args(["-m", "50", "-r", "100", "-d", "10", "-max_socket", "500"]).current_dir(files.path());
    let said = run(command, b"");
    assert_eq!(said.code, 0, "{said:?}");
    let count = |what: &str| {
        let line = said.stdout.lines().rfind(|line| line.trim().starts_with(what)).unwrap();
        line.rsplit('|').next().unwrap().trim().to_owned()
    };
    assert_eq!((count("Successful call"), count("Failed call")), ("50".to_owned(), "0".to_owned()));
    let all = || callees.each_ref().map(|(callee, _)| calls(callee));
    let ended = |call: &Vec<String>| call.iter().any(|method| method == "BYE");
    wait_until("all calls have ended", || {
        all().iter().flatten().filter(|(_, call)| ended(call)).count() >= 50
    });
    let [one, two] = all();
    assert_eq!(one.len() + two.len(), 50, "a call has come to both: {one:?} {two:?}");
    assert!(!one.is_empty() && !two.is_empty(), "{one:?} {two:?}");
    for mut call in one.into_values().chain(two.into_values()) {
        // What was lost and sent anew comes twice.
        call.dedup();
        assert_eq!(call, ["INVITE", "ACK", "BYE"]);
    }
}

/// A dnsdist that believes 127.0.0.1, and nobody else, who the client is; asks this name server; and answers for itself
/// that the address of `client.pen.test` is the client's.
fn dnsdist(server: &NameServer) -> (Running, u16) {
    let port = free_port();
    let config = format!(
        "setSecurityPollSuffix('')\n\
         setLocal('127.0.0.1:{port}')\n\
         setACL({{'127.0.0.0/8'}})\n\
         setProxyProtocolACL({{'127.0.0.1/32'}})\n\
         newServer({{address='{server}', checkName='who.pen.test.'}})\n\
         addAction('client.pen.test.', LuaAction(function(question)\n\
             return DNSAction.Spoof, question.remoteaddr:toString()\n\
         end))\n"
    );
    let running = Running::start(&config, &[port], |_, config| {
        let mut command = Command::new("dnsdist");
        command.args(["--supervised", "-C", config]);
        command
    });
    wait_until("dnsdist has found its server", || running.files.read("stdout").contains("as 'up'"));
    (running, port)
}

/// The address of the client as the server sees it.
#[track_caller]
fn seen(client: &str, pen: &Pen, words: &[&str]) -> String {
    dig(client, pen.address, &[&["client.pen.test", "A", "+short"], words].concat()).trim().to_owned()
}

/// `proxy_send every`: dnsdist wants a header in each datagram, and at the start of each connection, and learns from it
/// who the client is.
#[test]
fn dnsdist_knows_the_clients() {
    only_ours!("it does not know the PROXY protocol");
    if !["nsd", "dig", "dnsperf", "dnsdist"].iter().all(|program| has_program(program)) {
        return;
    }
    let (server, files) = (NameServer::start("one"), Scratch::new());
    let (_dnsdist, port) = dnsdist(&server);
    let here = format!("127.0.0.1:{}", free_port());
    let config = files.write("pen.cfg", format!("listen udp {here}\nlisten tcp {here}\nproxy_send every\n"));
    let pen = Pen::with(&["-F", &config]).servers([format!("127.0.0.1:{port}")]).listen(here).start();
    for client in ["127.0.0.1", "127.0.0.7", "127.0.0.8"] {
        for words in [&[][..], &["+tcp"]] {
            assert_eq!(seen(client, &pen, words), client, "{words:?}");
            assert_eq!(who(client, pen.address, words), "one", "{words:?}");
        }
    }
    let perf = dnsperf(pen.address, 2000, 1, 5);
    assert_eq!((perf.completed, perf.lost), (2000, 0));
}

/// `proxy_send` and `proxy_accept`: one pen behind another, with a header for each flow and for each datagram.
#[test]
fn pen_believes_pen_who_the_clients_are() {
    only_ours!("it does not know the PROXY protocol");
    let Some(servers) = two_name_servers(&["dnsperf"]) else { return };
    let files = Scratch::new();
    let log = files.file("log");
    let options = ["-U", "-l", &log, "-O", "acl 1 permit 127.0.0.1", "-O", "proxy_accept 1"];
    let back = Pen::with(&options).servers(&servers).controlled().start();
    let clients = ["127.0.0.7", "127.0.0.8", "127.0.0.9"];
    let mut names = BTreeSet::new();
    for version in ["2", "every"] {
        let send = format!("proxy_send {version}");
        let front = Pen::with(&["-U", "-O", &send]).servers([back.address]).start();
        for client in clients {
            let name = who(client, front.address, &[]);
            // It stays with its server, by whichever pen it comes.
            assert_eq!(who(client, front.address, &[]), name);
            names.insert((client, name));
        }
        let perf = dnsperf(front.address, 2000, 20, 5);
        assert_eq!((perf.completed, perf.lost), (2000, 0), "{version}");
    }
    assert_eq!(names.len(), clients.len(), "{names:?}");
    let logged = |client: &str| files.read("log").lines().filter(|line| line.starts_with(client)).count();
    for client in clients {
        wait_until("it is all logged", || logged(&format!("{client} ")) == 4);
    }
    wait_until("it is all logged", || logged("127.0.0.1 ") == 4000);
    assert!(column(&back.ask("status"), "worker", "PROXY refused").iter().all(|count| count == "0"));
}
