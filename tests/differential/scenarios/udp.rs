//! Datagrams. The classic has them with its default event engine.

use std::net::Ipv6Addr;
use std::time::Duration;

use super::{Scenario, scenario};
use crate::pen::Pen;
use crate::stage::Stage;
use crate::support::SOON;
use crate::support::udp::{UdpClient, UdpServer};

/// A client that hears what comes from the address that it asks, and nothing else.
fn client(pen: &Pen<'_>) -> UdpClient {
    UdpClient::new(pen.address.ip(), pen.address)
}

/// What the client hears next.
fn heard(client: &UdpClient) -> String {
    client.hear_within(SOON).unwrap_or_else(|| SILENCE.to_owned())
}

/// The same where the classic says nothing, for which nobody waits long.
fn heard_from_ours(t: &Stage, client: &UdpClient) -> String {
    let patience = if t.program.classic { Duration::from_secs(1) } else { SOON };
    client.hear_within(patience).unwrap_or_else(|| SILENCE.to_owned())
}

const SILENCE: &str = "silence";

/// So many datagrams from one client, one after the other.
fn asked(client: &UdpClient, count: usize) -> String {
    let ask = |number| {
        client.send(format!("{number}"));
        heard(client)
    };
    (1..=count).map(ask).collect::<Vec<_>>().join(", ")
}

/// A datagram from each of so many clients, one after the other.
fn asked_by(pen: &Pen<'_>, count: usize) -> String {
    (0..count).map(|_| asked(&client(pen), 1)).collect::<Vec<_>>().join(", ")
}

pub fn scenarios() -> Vec<Scenario> {
    vec![
        scenario("case_135_datagrams_round_robin", |t| {
            let s = t.echoes(2);
            let pen = t.pen(&["-U", "-r"]).epoll().servers(&s).start();
            t.note("six clients", asked_by(&pen, 6));
        })
        .with_two_workers_too(),
        scenario("case_136_a_clients_datagrams_stay_with_a_server", |t| {
            for options in [&["-U"][..], &["-U", "-r"]] {
                let s = t.echoes(2);
                let pen = t.pen(options).epoll().servers(&s).start();
                t.note(options.join(" "), asked(&client(&pen), 4));
                let got = s.iter().map(|server| server.heard().len().to_string());
                t.note(format!("{}: got by each", options.join(" ")), got.collect::<Vec<_>>().join(" "));
            }
        })
        .with_two_workers_too(),
        scenario("case_137_many_answers_to_a_datagram", |t| {
            let server = UdpServer::answering("S0", |question| {
                (1..=3).for_each(|number| question.reply(format!("answer {number}").as_bytes()));
            });
            t.name(server.port(), "S0");
            let pen = t.pen(&["-U"]).epoll().servers([&server]).start();
            let client = client(&pen);
            client.send("?");
            t.note("answers", [(); 3].map(|()| heard(&client)).join(", "));
        })
        .with_two_workers_too(),
        scenario("case_138_more_clients_than_slots", |t| {
            let s = t.echoes(2);
            let pen = t.pen(&["-U", "-x", "3"]).epoll().servers(&s).start();
            let clients: Vec<UdpClient> = (0..8).map(|_| client(&pen)).collect();
            let answers: Vec<String> = clients.iter().map(|client| asked(client, 1)).collect();
            t.note("eight clients", answers.join(", "));
        })
        .with_two_workers_too(),
        scenario("case_139_an_empty_datagram", |t| {
            let s = t.echoes(1);
            let pen = t.pen(&["-U"]).epoll().servers(&s).start();
            let client = client(&pen);
            t.note("before", asked(&client, 1));
            client.send("");
            t.note("to an empty one", heard_from_ours(t, &client));
            client.send("2");
            t.note("after", heard_from_ours(t, &client));
            let got: Vec<String> =
                s[0].heard().iter().map(|it| format!("{} bytes", it.bytes.len())).collect();
            t.note("the server got", got.join(", "));
        })
        .with_two_workers_too(),
        scenario("case_139b_a_client_over_ipv6_and_a_server_over_ipv4", |t| {
            let s = t.echoes(1);
            let pen = t.pen(&["-U"]).epoll().listen("::1:PORT").servers(&s).start();
            let localhost = Ipv6Addr::LOCALHOST.into();
            let client = UdpClient::new(localhost, (localhost, pen.address.port()).into());
            client.send("1");
            t.note("answer", heard_from_ours(t, &client));
        })
        .with_two_workers_too(),
        scenario("datagrams_that_are_long", |t| {
            let server = UdpServer::answering("S0", |question| {
                question.reply(format!("{} bytes", question.bytes.len()).as_bytes());
            });
            t.name(server.port(), "S0");
            let pen = t.pen(&["-U"]).epoll().servers([&server]).start();
            for length in [1_472, 32_768, 32_769, 65_507] {
                let client = client(&pen);
                client.send(vec![b'x'; length]);
                t.note(length, heard(&client));
            }
        }),
        scenario("a_first_datagram_that_is_empty", |t| {
            let s = t.echoes(1);
            let pen = t.pen(&["-U"]).epoll().servers(&s).start();
            let client = client(&pen);
            client.send("");
            t.note("answer", heard_from_ours(t, &client));
        }),
    ]
}
