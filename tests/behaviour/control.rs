//! The control port itself: who may use it, how commands arrive, what hostile users can do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::backend::{greeters, webs};
use crate::support::control::{Session, hear};
use crate::support::{
    Pen, SOON, Scratch, became_true, client, free_port, let_pass, needs_root, only_ours, processes,
    wait_until,
};

const MODE: &str = "no hash no roundrobin no stubborn no weight no prio\n";

/// As root a control port needs a user named.
fn as_root() -> &'static [&'static str] {
    if nix::unistd::geteuid().is_root() { &["-u", "root"] } else { &[] }
}

fn tcp(port: u16) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("there is a control port")
}

/// pen(1), CONTROL: a command ends at the end of its line, and what follows it is ignored; blanks in front of it and
/// behind it do not matter; an empty one and a comment have no reply.
#[test]
fn one_command_a_connection_however_its_line_ends() {
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    for command in
        ["mode\n", "mode\r\n", "  mode  \n", "mode\nblacklist\n", "mode\0blacklist\n", "mode\rblacklist\r"]
    {
        assert_eq!(pen.send(command.as_bytes()), MODE, "{command:?}");
    }
    for command in ["\n", "# x\n", "   \n", "\r\n"] {
        assert_eq!(pen.send(command.as_bytes()), "", "{command:?}");
    }
    for (command, word) in [("foo bar", "foo"), ("BLACKLIST", "BLACKLIST")] {
        assert_eq!(pen.ask(command), format!("do_cmd: ignoring command starting with '{word}'\n"));
    }
}

/// A command needs no line end: the end of the stream will do, and so will silence.
#[test]
fn a_command_without_a_line_end_is_carried_out() {
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    let mut ended = pen.control();
    ended.write_all(b"mode").unwrap();
    ended.end();
    assert_eq!(hear(&mut ended), MODE);
    let mut silent = pen.control();
    silent.write_all(b"mode").unwrap();
    assert_eq!(hear(&mut silent), MODE);
}

/// A command may come in pieces.
#[test]
fn a_command_may_arrive_byte_by_byte() {
    only_ours!("it takes the first piece for the whole");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    let mut session = pen.control();
    for byte in b"blacklist\n" {
        session.write_all(&[*byte]).unwrap();
        let_pass(Duration::from_millis(20));
    }
    assert_eq!(hear(&mut session), "30\n");
}

/// Whoever says nothing, says too much, or does not listen holds nobody up: neither clients nor other users of the
/// port; and he is got rid of.
#[test]
fn hostile_users_hold_nobody_up() {
    only_ours!("a silent user stops all of it");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    let silent: Vec<UnixStream> = (0..100).map(|_| pen.control()).collect();
    let mut endless = pen.control();
    let garbage = vec![b'x'; 1 << 20];
    let _ = endless.write_all(&garbage); // the other side may have had enough before all is written
    let mut deaf = Vec::new();
    for _ in 0..40 {
        let mut session = pen.control();
        if session.write_all(b"status\n").is_ok() {
            deaf.push(session);
        }
    }
    let start = Instant::now();
    assert_eq!(pen.visit(), "S0");
    assert_eq!(pen.ask("mode"), MODE);
    assert!(start.elapsed() < Duration::from_secs(5), "somebody was waited for");
    for mut session in silent {
        // Those that were too many at once have been ended already, the others are after some seconds.
        session.patience(Duration::from_secs(30));
        let mut room = [0; 16];
        let ended = matches!(session.read(&mut room), Ok(0))
            || matches!(session.read(&mut room), Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(ended, "a silent session stays");
    }
    assert_eq!(pen.ask("mode"), MODE);
}

/// A line too long, and bytes that are no text, are refused with a line that says so.
#[test]
fn what_is_no_command_line_is_refused() {
    only_ours!("it cuts what is too long into several commands");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    let long = format!("log /{}\n", "x".repeat(5000));
    for bytes in [long.as_bytes(), b"log /\xff\xfe\n"] {
        let reply = pen.send(bytes);
        assert!(
            reply.starts_with("error: ") && reply.ends_with('\n') && reply.lines().count() == 1,
            "{reply:?}"
        );
    }
    assert_eq!(pen.ask("log"), "");
}

/// pen(1), control_acl: whom it refuses is closed without a word.
#[test]
fn an_access_list_closes_the_port() {
    let s = webs(1);
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let options: Vec<&str> = as_root().iter().copied().chain(["-C", &address]).collect();
    let pen = Pen::with(&options).servers(&s).start();
    let ask = |source: &str, command: &str| {
        let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let mut session = client::connect(source.parse().unwrap(), to).unwrap();
        let _ = session.write_all(format!("{command}\n").as_bytes());
        let mut reply = Vec::new();
        let _ = session.read_to_end(&mut reply); // a reset is as good as an end
        String::from_utf8(reply).unwrap()
    };
    assert_eq!(ask("127.0.0.1", "acl 2 deny 127.0.0.0 255.255.255.252"), "");
    assert_eq!(ask("127.0.0.1", "control_acl 2"), "2\n");
    assert_eq!(ask("127.0.0.1", "mode"), "", "it is in force at once");
    assert_eq!(ask("127.0.0.9", "mode"), MODE);
    assert_eq!(pen.visit(), "S0", "clients have a list of their own");
}

/// An address of this machine that is none of loopback, if it has one.
fn own_address() -> Option<Ipv4Addr> {
    let addresses = nix::ifaddrs::getifaddrs().unwrap().filter_map(|interface| interface.address);
    let mut own = addresses.filter_map(|address| Some(address.as_sockaddr_in()?.ip()));
    own.find(|address| !address.is_loopback())
}

/// pen(1), CONTROL PORT: commands that name a file are carried out only if they come over a Unix socket or from a
/// loopback address. Other commands are carried out for everybody who is let in.
#[test]
fn files_are_named_from_this_machine_alone() {
    only_ours!("it lets everybody write its files");
    let Some(address) = own_address() else {
        eprintln!("this machine has loopback addresses only: skipped");
        return;
    };
    let s = webs(1);
    let (port, files) = (free_port(), Scratch::new());
    let config = files.write("pen.cfg", "blacklist 7\n");
    let control = format!("127.0.0.1:{port}");
    let options: Vec<&str> = as_root().iter().copied().chain(["-C", &control, "-F", &config]).collect();
    let _pen = Pen::with(&options).servers(&s).start();
    let ask = |source: Ipv4Addr, command: &str| {
        let mut session = client::connect(source.into(), ([127, 0, 0, 1], port).into()).unwrap();
        session.write_all(format!("{command}\n").as_bytes()).unwrap();
        hear(&mut session)
    };
    let (new, more) = (files.file("new"), files.write("more", "blacklist 8\n"));
    for command in [
        format!("write {new}"),
        "write".to_owned(),
        format!("check {config}"),
        "diff".to_owned(),
        format!("include {more}"),
        format!("log {new}"),
        format!("web_stats {new}"),
        format!("geoip {config}"),
        format!("begin\ntimeout 3\ninclude {more}\nend"),
        format!("begin\ntimeout 3\nlog {new}\nend"),
    ] {
        let reply = ask(address, &command);
        assert!(reply.starts_with("error: ") && reply.contains("loopback"), "{command}: {reply:?}");
    }
    assert_eq!(files.names(), ["more", "pen.cfg"]);
    assert_eq!(files.read("pen.cfg"), "blacklist 7\n");
    for (command, reply) in [("blacklist", "7\n"), ("timeout", "5\n"), ("log", ""), ("reload", "ok\n")] {
        assert_eq!(ask(address, command), reply, "{command}");
    }
    assert_eq!(ask(address, "blacklist 9"), "9\n");
    assert_eq!(ask(Ipv4Addr::new(127, 0, 0, 9), &format!("write {new}")), "");
    assert!(files.read("new").contains("\nblacklist 9\n"));
}

/// penctl(1), SECURITY: users of other machines name no files; nor do they by way of pen itself, whose connections come
/// from this machine.
#[test]
fn pen_is_no_way_to_its_own_control_port() {
    only_ours!("it sends clients there");
    let s = webs(1);
    let port = free_port();
    let options: Vec<String> =
        as_root().iter().map(|it| it.to_string()).chain(["-C".into(), port.to_string()]).collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let pen = Pen::with(&options).servers(&s).start();
    let ask = |command: &str| {
        let mut session = tcp(port);
        session.write_all(format!("{command}\n").as_bytes()).unwrap();
        hear(&mut session)
    };
    for host in ["127.0.0.1", "127.0.0.2", "0.0.0.0", "::ffff:127.0.0.1"] {
        let reply = ask(&format!("server 0 address {host} port {port}"));
        assert!(reply.starts_with("error: ") && reply.contains("is the control port"), "{host}: {reply}");
    }
    let reply = ask(&format!("emergency localhost:{port}"));
    assert!(reply.starts_with("error: ") && reply.contains("is the control port"), "{reply}");
    assert_eq!(pen.visit(), "S0");
}

/// A web page whose name has come to mean 127.0.0.1 can make a browser send this.
#[test]
fn a_browser_commands_nothing() {
    only_ours!("it carries it out");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    let scratch = Scratch::new();
    let file = scratch.file("written");
    let request = format!("write {file} HTTP/1.1\r\nHost: it\r\n\r\n");
    assert_eq!(pen.send(request.as_bytes()), "error: this is not a web server\n");
    assert!(!Path::new(&file).exists());
}

/// pen(1), CONTROL PORT: each change goes to the messages, and none of them can be made to look like another.
#[test]
fn messages_tell_what_was_changed() {
    only_ours!("it tells less, and everything as it came");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    let told = |line: &str| assert!(pen.stderr().contains(line), "{line}: {}", pen.stderr());
    assert_eq!(pen.ask("blacklist 7 # \u{202e}\u{1b}[2J"), "7\n");
    told(": control: blacklist 7 # \\u{202e}\\u{1b}[2J: in force now");
    assert_eq!(pen.batch(&["blacklist 8", "hash", "server 0 blacklist 5"]), "8\n");
    for line in ["- blacklist 7", "+ blacklist 8", "+ hash", "+ server 0 blacklist 5"] {
        told(&format!(": control: {line}\n"));
    }
    pen.tell("no timeout");
    told(": control: do_cmd: ignoring command starting with 'no timeout'\n");
    assert_eq!(pen.ask("\u{1b}[2J"), "do_cmd: ignoring command starting with '\\u{1b}[2J'\n");
}

/// pen(1), CONTROL PORT: the reply comes when the command is in effect, which may be at once.
#[test]
fn nothing_is_waited_for_needlessly() {
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    let begin = Instant::now();
    for _ in 0..20 {
        pen.tell("no hash");
    }
    // Names that the system knows by itself take no time either.
    for _ in 0..10 {
        assert_eq!(pen.ask("emergency localhost:9"), "localhost:9\n");
        pen.tell("no emergency");
    }
    assert!(begin.elapsed() < SOON / 2, "{:?}", begin.elapsed());
}

/// pen(1), -C: as root only for a user that is named; pen itself runs all the same.
#[test]
fn root_gets_no_control_port_without_a_user() {
    needs_root!();
    let s = webs(1);
    let port = free_port();
    let pen = Pen::with(&["-C", &format!("127.0.0.1:{port}")]).servers(&s).start();
    assert_eq!(pen.visit(), "S0");
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
    assert!(pen.stderr().contains("-u"), "{}", pen.stderr());
}

/// pen(1), -C: a port alone is one of every address.
#[test]
fn a_port_alone_is_one_of_every_address() {
    let s = webs(1);
    let port = free_port();
    let options: Vec<String> =
        as_root().iter().map(|it| it.to_string()).chain(["-C".into(), port.to_string()]).collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let _pen = Pen::with(&options).servers(&s).start();
    let mut session = TcpStream::connect((Ipv4Addr::new(127, 0, 0, 5), port)).unwrap();
    session.write_all(b"control\n").unwrap();
    assert_eq!(hear(&mut session), format!("{port}\n"));
    let mut session = tcp(port);
    session.write_all(b"pid\n").unwrap();
    assert_eq!(hear(&mut session), format!("{}\n", _pen.pid));
}

/// pen(1), -C: nobody but the user of -u (and root) can connect to a Unix socket, and it goes with pen.
#[test]
fn a_unix_socket_belongs_to_the_user_alone() {
    only_ours!("it leaves the socket to the umask and to root");
    needs_root!();
    let s = webs(1);
    let directory = Scratch::new();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let path = directory.file("ctl");
    let mut pen = Pen::with(&["-u", "nobody", "-C", &path]).servers(&s).start();
    let found = std::fs::metadata(&path).unwrap();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    assert_eq!((found.permissions().mode() & 0o777, found.uid()), (0o600, nobody.uid.as_raw()));
    let mut session = UnixStream::connect(&path).unwrap();
    session.write_all(b"mode\n").unwrap();
    assert_eq!(hear(&mut session), MODE);
    assert_eq!(pen.end_with(Signal::SIGTERM), Some(0));
    assert!(!std::path::Path::new(&path).exists());
}

/// A socket that nobody answers on is replaced, one that somebody answers on is not, and no other file ever is.
#[test]
fn only_a_dead_socket_is_replaced() {
    only_ours!("it removes whatever has the path");
    let s = webs(1);
    let directory = Scratch::new();
    let path = directory.file("ctl");
    let options: Vec<&str> = as_root().iter().copied().chain(["-C", &path]).collect();
    let start = || Pen::with(&options).servers(&s);

    drop(UnixListener::bind(&path).unwrap());
    let pen = start().start();
    let mut session = UnixStream::connect(&path).unwrap();
    session.write_all(b"mode\n").unwrap();
    assert_eq!(hear(&mut session), MODE);

    let second = start().run();
    assert!(second.code() == 1 && second.stderr.contains(&path), "{second:?}");
    let mut session = UnixStream::connect(&path).unwrap();
    session.write_all(b"mode\n").unwrap();
    assert_eq!(hear(&mut session), MODE, "the first one's socket is gone");
    drop(pen);

    directory.write("ctl", "precious");
    let refused = start().run();
    assert!(refused.code() == 1 && refused.stderr.contains(&path), "{refused:?}");
    assert_eq!(directory.read("ctl"), "precious");
}

/// A start that fails leaves no control socket behind.
#[test]
fn a_start_that_fails_leaves_no_socket() {
    only_ours!("its sockets stay in any case");
    let directory = Scratch::new();
    let path = directory.file("ctl");
    for more in [["-u", "nosuchuser"], ["-l", "/no/such/directory/log"]] {
        let options: Vec<&str> = as_root().iter().copied().chain(["-C", &path]).chain(more).collect();
        let ended = Pen::with(&options).servers(["127.0.0.1:9"]).run();
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert!(!std::path::Path::new(&path).exists(), "{more:?}");
    }
}

/// The reply to a change comes when every worker uses the new settings, however long one takes.
#[test]
fn a_change_is_confirmed_when_every_worker_has_made_it() {
    only_ours!("it has one process");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).workers(3).controlled().start();
    let stopped = Pid::from_raw(pen.workers()[1]);
    kill(stopped, Signal::SIGSTOP).unwrap();
    let mut session = pen.control();
    session.write_all(b"blacklist 7\n").unwrap();
    session.patience(Duration::from_millis(700));
    let mut room = [0; 16];
    assert!(session.read(&mut room).is_err(), "confirmed although a worker knows nothing of it");
    assert_eq!(pen.ask("mode"), MODE, "questions do not wait for it");
    kill(stopped, Signal::SIGCONT).unwrap();
    assert_eq!(hear(&mut session), "7\n");
}

/// The same if that worker dies instead: its successor has the new settings.
#[test]
fn a_change_is_confirmed_when_the_worker_that_had_not_made_it_is_dead() {
    only_ours!("it has one process");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).workers(2).controlled().start();
    let stopped = Pid::from_raw(pen.workers()[0]);
    kill(stopped, Signal::SIGSTOP).unwrap();
    let mut session = pen.control();
    session.write_all(b"acl 1 deny 127.0.0.9\n").unwrap();
    let asked = became_true(Duration::from_millis(500), || false);
    assert!(asked.is_none());
    kill(stopped, Signal::SIGKILL).unwrap();
    assert_eq!(hear(&mut session), "");
    assert_eq!(pen.ask("client_acl 1"), "1\n");
    wait_until("the successor is there", || pen.workers().len() == 2);
    for _ in 0..20 {
        assert_eq!(pen.visit_from("127.0.0.9"), "closed");
    }
}

/// pen(1), CONTROL: lines between `begin` and `end` are carried out together or not at all.
#[test]
fn a_batch_is_carried_out_as_a_whole() {
    only_ours!("it takes one line");
    let s = webs(2);
    let pen = Pen::with(&[]).servers(&s[..1]).controlled().start();
    let second = format!("server 1 address 127.0.0.1 port {}", s[1].port());
    assert_eq!(pen.batch(&["blacklist 7", &second, "# a comment", "roundrobin", "tracking"]), "7\n0\n");
    assert_eq!(pen.visits(2), "S1 S0");
    let reply = pen.batch(&["blacklist 9", "server 1 weight x"]);
    assert!(reply.starts_with("error: control:2: "), "{reply}");
    for bad in ["nonsense", "servers", "no nonsense"] {
        assert!(pen.batch(&["blacklist 9", bad]).starts_with("error: control:2: "), "{bad}");
    }
    let all = pen.batch(&["servers", "tcp_nodelay", "foo", "mode", "timeout x"]);
    let expected = [
        "error: control:5: timeout must be ",
        "error: control:1: servers cannot be in a batch; send it by itself",
        "error: control:3: do_cmd: ignoring command starting with 'foo'",
    ];
    assert!(expected.iter().all(|line| all.contains(line)), "{all}");
    assert_eq!(pen.ask("blacklist"), "7\n");
    let mut cut_off = pen.control();
    cut_off.write_all(b"begin\nblacklist 9\n").unwrap();
    cut_off.end();
    assert!(hear(&mut cut_off).starts_with("error: "));
    assert_eq!(pen.ask("blacklist"), "7\n");
}

/// However much is wrong with a batch, the answer and the messages are for people to read.
#[test]
fn of_very_many_mistakes_a_hundred_are_told() {
    only_ours!("it takes one line");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    let mistakes: Vec<String> = (0..50_000).map(|number| format!("x{number}")).collect();
    let mistakes: Vec<&str> = mistakes.iter().map(String::as_str).collect();
    let reply = pen.batch(&mistakes);
    assert!(reply.ends_with("error: and 49900 more\n") && reply.lines().count() == 101, "{reply}");
    assert!(pen.stderr().lines().count() < 200);
}

/// pen(1), ACCESS LISTS: a list has 65536 entries at most. Whoever fills the lists again and again keeps nobody from
/// being served, and pen does not grow by it.
#[test]
fn long_lists_are_bounded_and_hold_nobody_up() {
    only_ours!("it takes one line");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).workers(2).controlled().start();
    let entries = |from: u32, count: u32| -> Vec<String> {
        let entry = |number| format!("acl 9 deny {}", Ipv4Addr::from_bits(number));
        (from..from + count).map(entry).collect()
    };
    let send = |lines: &[String]| pen.batch(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    for part in 0..2 {
        assert_eq!(send(&entries(part << 15, 1 << 15)), "");
    }
    let memory = processes::memory_kib(&pen.family());
    let more = entries(1 << 17, 1 << 15);
    std::thread::scope(|scope| {
        let senders: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..2 {
                        let reply = send(&more);
                        assert!(reply.starts_with("error: control: access list 9 has more than"), "{reply}");
                    }
                })
            })
            .collect();
        while senders.iter().any(|sender| !sender.is_finished()) {
            assert_eq!(pen.visit(), "S0");
            assert_eq!(pen.ask("mode"), MODE);
        }
    });
    let grown = processes::memory_kib(&pen.family()).saturating_sub(memory);
    assert!(grown < 100 * 1024, "{grown} KiB more");
    assert!(pen.ask("acl 9 permit 192.0.2.1").starts_with("error: access list 9 has more than"));
    assert_eq!(pen.batch(&["no acl 9", "acl 9 permit 192.0.2.1"]), "");
}

/// Access lists hold on while other things change, also in a worker that has missed changes, of lists among them.
#[test]
fn lists_hold_on_while_other_things_change() {
    only_ours!("it has one process");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).workers(2).controlled().start();
    let refused = |client: &str| assert!((0..8).all(|_| pen.visit_from(client) == "closed"), "{client}");
    assert_eq!(pen.batch(&["acl 1 deny 127.0.0.9", "client_acl 1"]), "1\n");
    assert_eq!(pen.ask("blacklist 7"), "7\n");
    refused("127.0.0.9");
    let stopped = Pid::from_raw(pen.workers()[0]);
    kill(stopped, Signal::SIGSTOP).unwrap();
    let mut sessions: Vec<UnixStream> = Vec::new();
    for round in 0..20 {
        let mut session = pen.control();
        let command =
            if round == 15 { "acl 1 deny 127.0.0.8\n".into() } else { format!("blacklist {round}\n") };
        session.write_all(command.as_bytes()).unwrap();
        sessions.push(session);
    }
    wait_until("all changes are made", || pen.ask("blacklist") == "19\n");
    kill(stopped, Signal::SIGCONT).unwrap();
    sessions.iter_mut().for_each(|session| drop(hear(session)));
    assert!(pen.workers().contains(&stopped.as_raw()));
    refused("127.0.0.8");
    refused("127.0.0.9");
    assert_eq!(pen.visit(), "S0");
}

/// Whoever waits for a change when pen is told to end gets to know that it was not made.
#[test]
fn a_change_that_pen_does_not_live_to_make_is_refused() {
    only_ours!("it makes one at a time");
    let s = webs(1);
    let mut pen = Pen::with(&[]).servers(&s).controlled().start();
    let resolver: Vec<i32> =
        processes::children(pen.pid).into_iter().filter(|pid| !pen.workers().contains(pid)).collect();
    assert_eq!(resolver.len(), 1);
    kill(Pid::from_raw(resolver[0]), Signal::SIGSTOP).unwrap();
    let mut session = pen.control();
    session.write_all(b"server 1 address some.name.invalid port 80\n").unwrap();
    let mut second = pen.control();
    second.write_all(b"acl 1 deny 127.0.0.9\n").unwrap();
    wait_until("both have been read", || pen.ask("limits").len() > 1);
    pen.signal(Signal::SIGTERM);
    for session in [&mut session, &mut second] {
        assert_eq!(hear(session), "error: pen is about to end; nothing is changed\n");
    }
    pen.wait_for_end();
}

/// The process that looks names up may die while somebody waits for a name: he is told, and the next one is asked.
#[test]
fn a_change_outlives_the_process_that_looks_names_up() {
    only_ours!("it asks by itself");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    let resolver = || -> Option<i32> {
        processes::children(pen.pid).into_iter().find(|pid| !pen.workers().contains(pid))
    };
    let first = resolver().unwrap();
    kill(Pid::from_raw(first), Signal::SIGSTOP).unwrap();
    let mut session = pen.control();
    session.write_all(b"server 1 address localhost port 80\n").unwrap();
    let mut second = pen.control();
    second.write_all(b"blacklist 7\n").unwrap();
    assert_eq!(pen.ask("mode"), MODE);
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    assert!(hear(&mut session).starts_with("error: unknown or invalid address [localhost]"));
    assert_eq!(hear(&mut second), "7\n");
    let third = format!("server 1 address localhost port {}", s[0].port());
    assert_eq!(pen.ask(&third), "");
    assert!(resolver().is_some_and(|now| now != first));
}

/// While connections run to their end after QUIT, questions are answered and changes refused.
#[test]
fn while_it_ends_pen_answers_and_changes_nothing() {
    only_ours!("QUIT kills it");
    let g = greeters(1);
    let mut pen = Pen::with(&["-X"]).servers(&g).controlled().start();
    let held = pen.hold();
    pen.signal(Signal::SIGQUIT);
    wait_until("nobody listens any more", || TcpStream::connect(pen.address).is_err());
    assert_eq!(pen.ask("mode"), MODE);
    // Those that found out whether anybody listens may have been accepted.
    wait_until("one connection is left", || pen.ask("servers").contains(" conn 1 "));
    assert!(pen.ask("blacklist 7").starts_with("error: "));
    assert!(held.echoes());
    pen.tell("exit");
    pen.wait_for_end_within(SOON);
}

/// What a user of the control port asks for does not stay when he goes before the answer.
#[test]
fn sessions_leave_nothing_behind() {
    only_ours!("it has no bounds");
    let s = webs(1);
    let pen = Pen::with(&[]).servers(&s).controlled().start();
    assert_eq!(pen.ask("mode"), MODE);
    let open = || std::fs::read_dir(format!("/proc/{}/fd", pen.pid)).unwrap().count();
    let before = open();
    for round in 0..200 {
        let mut session = pen.control();
        let _ = session.write_all(if round % 2 == 0 { b"status\n" } else { b"blacklist 8\n" });
        drop(session);
    }
    wait_until("all descriptors are closed", || open() <= before);
    assert!(std::fs::metadata(pen.scratch.file("ctl")).unwrap().file_type().is_socket());
}
