//! The statistics as text: one block of lines for each thing, in the classic's form.

use super::{ClientRow, ConnectionRow, ServerRow, Snapshot, WorkerRow, losses};
use crate::shared::workers::{Refusals, Traffic};

/// One message after another. Those that describe a thing end in a line break, so that an empty line follows them.
pub(super) fn blocks(snapshot: &Snapshot) -> Vec<String> {
    let mut blocks = vec![snapshot.headline()];
    let with_datagrams = snapshot.datagrams.is_some();
    blocks.extend(snapshot.servers.iter().map(|(row, _)| server(row, with_datagrams)));
    blocks.push(format!("Max number of clients: {}", snapshot.clients_max));
    blocks.push("Active clients:".into());
    blocks.extend(snapshot.clients.iter().map(client));
    blocks.extend(snapshot.clients_left_out());
    blocks.push(format!("Max number of connections: {}", snapshot.connections_max));
    blocks.push("Active connections:".into());
    blocks.extend(snapshot.connections.iter().map(connection));
    blocks.extend(snapshot.connections_left_out());
    blocks.push(snapshot.workers_line());
    blocks.push("Workers:".into());
    let workers = snapshot.workers.iter();
    blocks.extend(workers.map(|row| worker(row, snapshot.with_refusals, with_datagrams)));
    blocks.extend(snapshot.datagrams.iter().flat_map(|datagrams| datagrams.lines()));
    blocks
}

fn server(row: &ServerRow, with_datagrams: bool) -> String {
    let mut block = format!(
        "Server {} status:\naddress {}\n{}\nport {}\n{} connections ({} soft, {} hard)\n\
         {} sent, {} received\n",
        row.number,
        row.address,
        row.status,
        row.port,
        row.connections,
        row.soft,
        row.hard,
        row.sent,
        row.received
    );
    if with_datagrams {
        block += &format!("datagrams {} sent, {} received\n", row.datagrams_sent, row.datagrams_received);
    }
    block
}

fn client(row: &ClientRow) -> String {
    format!(
        "Client {} status:\naddress {}\nlast used {}\nlast server {}\nconnects  {}\nsent  {}\n\
         received  {}\n",
        row.number, row.address, row.age, row.server, row.connects, row.sent, row.received
    )
}

fn connection(row: &ConnectionRow) -> String {
    format!(
        "Connection {} status:\ndownfd = {}, upfd = {}\npending data {} down, {} up\n\
         client {}, server {}\n",
        row.number, row.down_fd, row.up_fd, row.pending_down, row.pending_up, row.client, row.server
    )
}

fn worker(row: &WorkerRow, with_refusals: bool, with_datagrams: bool) -> String {
    let mut block = format!(
        "Worker {} status:\npid {}, {}\n{} connections, {} pending, {} accepted\n\
         {} restarts, heartbeat {} seconds ago, settings {}\nTLS handshakes {} full, {} resumed, {} failed\n",
        row.number,
        row.pid,
        row.state,
        row.connections,
        row.pending,
        row.accepted,
        row.restarts,
        row.heartbeat,
        row.settings,
        row.handshakes.full,
        row.handshakes.resumed,
        row.handshakes.failed
    );
    if with_refusals {
        let Refusals { proxy, bad, slow } = row.refusals;
        block += &format!("{proxy} PROXY headers refused, {bad} bad requests, {slow} slow requests\n");
    }
    if with_datagrams {
        let Traffic { flows, evicted, up, down, .. } = row.traffic;
        block += &format!(
            "{flows} flows, {evicted} evicted\ndatagrams {up} up, {down} down\ndatagrams lost {}\n",
            losses(&row.traffic)
        );
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::status::tests::snapshot;

    #[test]
    fn the_text_has_the_classics_blocks_and_then_the_workers() {
        assert_eq!(
            blocks(&snapshot()),
            [
                "Time 2026-11-22 07:08:36, 1 servers, 0 current",
                "Server 0 status:\naddress 127.0.0.1\n1795331283\nport 9001\n2 connections (5 soft, 9 hard)\n\
                 18 sent, 39 received\ndatagrams 8 sent, 6 received\n",
                "Server -1 status:\naddress ::1\n1795331283\nport 9001\n2 connections (5 soft, 9 hard)\n\
                 18 sent, 39 received\ndatagrams 8 sent, 6 received\n",
                "Max number of clients: 2048",
                "Active clients:",
                "Client 3 status:\naddress 127.0.0.7\nlast used 12\nlast server 1\nconnects  4\nsent  78\n\
                 received  36\n",
                "Max number of connections: 500",
                "Active connections:",
                "Connection 7 status:\ndownfd = 11, upfd = 12\npending data 6 down, 5 up\nclient 3, server -3\n",
                "Number of workers: 1, shared tables repaired 0 times",
                "Workers:",
                "Worker 0 status:\npid 4711, ready\n1 connections, 0 pending, 9 accepted\n\
                 1 restarts, heartbeat 0 seconds ago, settings 2\n\
                 TLS handshakes 5 full, 3 resumed, 1 failed\n\
                 7 PROXY headers refused, 4 bad requests, 2 slow requests\n\
                 31 flows, 30 evicted\ndatagrams 29 up, 28 down\n\
                 datagrams lost 21 no server, 22 no room, 23 too long, 24 unreachable, 25 no PROXY header\n",
                "Listening: udp 127.0.0.1:53, tcp 53",
                "Flows: 41 begun, 40 evicted; datagrams: 39 up, 38 down",
                "Datagrams lost: 1 no server, 2 no room, 3 too long, 4 unreachable, 5 no PROXY header",
            ]
        );
    }
}
