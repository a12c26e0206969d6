//! `log_format json`: each flow of datagrams has one object when it is over.

use nix::sys::signal::Signal;

use crate::support::objects::{Objects, all_ended, ended};
use crate::support::udp::{UdpServer, echoes};
use crate::support::{Pen, only_ours, wait_until};

/// A pen for datagrams, with one worker.
fn pen(objects: &Objects, options: &[&str], servers: &[&UdpServer]) -> Pen {
    objects.of(Pen::with(options)).servers(servers).workers(1).controlled().udp().start()
}

/// udp_timeout
#[test]
fn an_object_says_all_that_is_known_of_a_flow() {
    only_ours!("it has no log_format");
    let (s, objects) = (echoes(1), Objects::new());
    let pen = pen(&objects, &["-O", "udp_timeout 1"], &[&s[0]]);
    let client = pen.udp_from("127.0.0.7");
    assert_eq!(client.ask("one"), "S0");
    assert_eq!(client.ask("three"), "S0");
    let object = objects.only(pen);
    let number = |field: &str| object[field].as_u64();
    assert_eq!((&object["protocol"], &object["event"]), (&"udp".into(), &"connection".into()));
    assert_eq!((&object["client"], number("client_port")), (&"127.0.0.7".into(), Some(client.port().into())));
    assert_eq!((number("server"), number("server_port")), (Some(0), Some(s[0].port().into())));
    assert_eq!((number("datagrams_up"), number("datagrams_down")), (Some(2), Some(2)));
    assert_eq!((number("bytes_up"), number("bytes_down")), (Some(8), Some(8 + 6)));
    assert_eq!((&object["chosen"], number("attempts")), (&"round_robin".into(), Some(1)));
    assert!(number("connect_us").is_some() && number("duration_us") >= Some(1_000_000), "{object}");
    assert_eq!(ended(&object), "idle_timeout");
}

/// udp_timeout … replies: it is over with its answer.
#[test]
fn a_question_with_its_answer_is_over() {
    only_ours!("it has no log_format");
    let (s, objects) = (echoes(1), Objects::new());
    let pen = pen(&objects, &["-O", "udp_timeout 30 replies 1"], &[&s[0]]);
    assert_eq!(pen.udp().ask("one"), "S0");
    assert_eq!(ended(&objects.only(pen)), "replied");
}

/// close
#[test]
fn a_command_ends_a_flow() {
    only_ours!("it has no log_format");
    let (s, objects) = (echoes(1), Objects::new());
    let pen = pen(&objects, &[], &[&s[0]]);
    let client = pen.udp();
    assert_eq!(client.ask("one"), "S0");
    pen.ask("close 0");
    assert_eq!(ended(&objects.only(pen)), "closed_by_command");
}

/// -x
#[test]
fn a_flow_makes_room_for_another() {
    only_ours!("it has no log_format");
    let (s, objects) = (echoes(1), Objects::new());
    let pen = pen(&objects, &["-x", "50"], &[&s[0]]);
    let clients: Vec<_> = (0..51).map(|_| pen.udp()).collect();
    clients.iter().for_each(|client| assert_eq!(client.ask("one"), "S0"));
    let first = objects.wait_for(1);
    assert_eq!(
        (all_ended(&first), first[0]["client_port"].as_u64()),
        (vec!["evicted"], Some(clients[0].port().into()))
    );
    assert_eq!(objects_at_the_end(&objects, pen), 51);
}

fn objects_at_the_end(objects: &Objects, mut pen: Pen) -> usize {
    pen.end_with(Signal::SIGTERM);
    let all = objects.now();
    assert_eq!(all_ended(&all).last(), Some(&"shutdown"), "{all:#?}");
    all.len()
}

/// ICMP says that a server is not there (any more).
#[test]
fn a_server_is_lost_or_never_was_there() {
    only_ours!("it has no log_format");
    let (absent, objects) = (UdpServer::absent("A"), Objects::new());
    let logged = pen(&objects, &["-b", "60"], &[&absent]);
    logged.udp().send("one");
    let object = objects.only(logged);
    assert_eq!((ended(&object), object["attempts"].as_u64()), ("connect_failed", Some(1)));
    assert_eq!((object.get("server"), object["datagrams_up"].as_u64()), (None, Some(1)));

    let (mut s, objects) = (echoes(1), Objects::new());
    let logged = pen(&objects, &["-b", "60"], &[&s[0]]);
    let client = logged.udp();
    assert_eq!(client.ask("one"), "S0");
    s[0].down();
    client.send("two");
    let object = objects.only(logged);
    assert_eq!((ended(&object), object["server"].as_u64()), ("server_lost", Some(0)));

    // The next one has it: that is the flow's.
    let (s, absent, objects) = (echoes(1), UdpServer::absent("A"), Objects::new());
    let logged = pen(&objects, &["-O", "udp_timeout 30 replies 1"], &[&s[0], &absent]);
    assert_eq!(logged.udp().ask("one"), "S0");
    let object = objects.only(logged);
    assert_eq!((&object["chosen"], object["attempts"].as_u64()), (&"failover".into(), Some(2)));
}

/// listen: where a client's datagrams came in is no more.
#[test]
fn a_flow_ends_with_its_listener() {
    only_ours!("it has no log_format");
    let (s, objects) = (echoes(1), Objects::new());
    let pen = pen(&objects, &[], &[&s[0]]);
    let client = pen.udp();
    assert_eq!(client.ask("one"), "S0");
    let other = crate::support::free_port();
    pen.ask(&format!("listen udp 127.0.0.1:{other}"));
    pen.ask(&format!("no listen udp {}", pen.listen));
    assert_eq!(ended(&objects.wait_for(1)[0]), "listener_closed");
}

/// Clients that get no flow are counted, and have no object: whoever makes up addresses does not fill the disk.
#[test]
fn a_client_without_a_flow_has_no_object() {
    only_ours!("it has no log_format");
    let (s, objects) = (echoes(1), Objects::new());
    let options = ["-O", "acl 1 deny 127.0.0.9", "-O", "acl 1 permit 0.0.0.0/0", "-O", "client_acl 1"];
    let pen = pen(&objects, &options, &[&s[0]]);
    pen.udp_from("127.0.0.9").send("one");
    assert_eq!(pen.udp().ask("one"), "S0");
    assert_eq!(objects_at_the_end(&objects, pen), 1);
}

/// The master tells of what a worker that was killed had.
#[test]
fn flows_of_a_dead_worker_are_told_by_the_master() {
    only_ours!("it has no log_format");
    let (s, objects) = (echoes(1), Objects::new());
    let pen = pen(&objects, &[], &[&s[0]]);
    let clients: Vec<_> = (1..=5).map(|last| pen.udp_from(&format!("127.0.0.{last}"))).collect();
    clients.iter().for_each(|client| assert_eq!(client.ask("one"), "S0"));
    pen.kill_workers();
    let all = objects.wait_for(5);
    assert_eq!(all_ended(&all), ["worker_died"; 5]);
    for object in &all {
        assert_eq!((&object["protocol"], object["bytes_down"].as_u64()), (&"udp".into(), Some(6)));
        assert_eq!((&object["chosen"], object.get("datagrams_up")), (&"round_robin".into(), None));
    }
    let mut clients: Vec<&str> = all.iter().map(|object| object["client"].as_str().unwrap()).collect();
    clients.sort_unstable();
    assert_eq!(clients, ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"]);
    wait_until("there is a worker", || pen.workers().len() == 1);
}
