//! The control port itself: who may use it, how commands arrive, what hostile users can do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::backend::{greeters, webs};
use crate::support::control::{Session, hear};
use crate::support::{Pen, SOON, Scratch, became_true, client, free_port, needs_root, only_ours, wait_until};

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
        // Not a wait for something: the pieces are to be apart.
        std::thread::sleep(Duration::from_millis(20));
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
    assert_eq!(hear(&mut session), format!("{}\n", _pen.master));
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
    assert_eq!(pen.ask("blacklist"), "7\n");
    let mut cut_off = pen.control();
    cut_off.write_all(b"begin\nblacklist 9\n").unwrap();
    cut_off.end();
    assert!(hear(&mut cut_off).starts_with("error: "));
    assert_eq!(pen.ask("blacklist"), "7\n");
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
    assert!(pen.ask("servers").contains("conn 1"));
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
    let open = || std::fs::read_dir(format!("/proc/{}/fd", pen.master)).unwrap().count();
    let before = open();
    for round in 0..200 {
        let mut session = pen.control();
        let _ = session.write_all(if round % 2 == 0 { b"status\n" } else { b"blacklist 8\n" });
        drop(session);
    }
    wait_until("all descriptors are closed", || open() <= before);
    assert!(std::fs::metadata(pen.scratch.file("ctl")).unwrap().file_type().is_socket());
}
