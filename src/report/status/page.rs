//! The statistics as a page of HTML, and its file: pen(1) `-w`.
//!
//! Title, order of the first three tables, their columns and colours, and every cell on a line of its own: that is
//! the classic's page, and how scripts have read it so far. What is new stands after it: the workers and the servers'
//! states. Columns that only some pens have are the last of their table.

use std::fmt::{self, Display, Write as _};
use std::io;
use std::path::Path;

use super::{Snapshot, WorkerRow, lost_by};
use crate::shared::workers::Lost;
use crate::sys::textfile;

const HEAD: &str = "\
<!DOCTYPE html>
<html lang=\"en\">
<head>
<meta charset=\"utf-8\">
<title>Pen status page</title>
</head>
<body>
<h1>Pen status page</h1>
";

const SERVERS: [&str; 11] = [
    "server",
    "address",
    "status",
    "port",
    "connections",
    "max soft",
    "max hard",
    "sent",
    "received",
    "weight",
    "prio",
];

const CLIENTS: [&str; 7] = ["client", "address", "age(secs)", "last server", "connects", "sent", "received"];

const CONNECTIONS: [&str; 7] =
    ["connection", "downfd", "upfd", "pending data down", "pending data up", "client", "server"];

const WORKERS: [&str; 12] = [
    "worker",
    "pid",
    "state",
    "connections",
    "pending",
    "accepted",
    "restarts",
    "heartbeat age(secs)",
    "settings",
    "TLS full",
    "TLS resumed",
    "TLS failed",
];

/// More of each worker, where clients can be turned away for what they send.
const REFUSALS: [&str; 3] = ["PROXY refused", "HTTP bad", "HTTP slow"];

/// More of each worker, where there are datagrams; then a column for every way to lose one.
const TRAFFIC: [&str; 4] = ["flows", "evicted", "datagrams up", "datagrams down"];

/// The whole page.
pub(super) fn html(snapshot: &Snapshot) -> String {
    let mut page = Page(HEAD.to_owned());
    page.line(format_args!("{}<p>", snapshot.headline()));
    page.columns(&SERVERS);
    for (row, _) in &snapshot.servers {
        page.row(&[
            &row.number,
            &row.address,
            &row.status,
            &row.port,
            &row.connections,
            &row.soft,
            &row.hard,
            &row.sent,
            &row.received,
            &row.weight,
            &row.prio,
        ]);
    }
    page.end();

    page.line(format_args!("<h2>Active clients</h2>"));
    page.line(format_args!("Max number of clients: {}<p>", snapshot.clients_max));
    page.columns(&CLIENTS);
    for row in &snapshot.clients {
        page.row(&[
            &row.number,
            &row.address,
            &row.age,
            &row.server,
            &row.connects,
            &row.sent,
            &row.received,
        ]);
    }
    page.end();
    page.paragraph(snapshot.clients_left_out());

    page.line(format_args!("<h2>Active connections</h2>"));
    page.line(format_args!(
        "Number of connections: {} max, {} used, {} last<p>",
        snapshot.connections_max, snapshot.connections_used, snapshot.connections_last
    ));
    page.columns(&CONNECTIONS);
    for row in &snapshot.connections {
        page.row(&[
            &row.number,
            &row.down_fd,
            &row.up_fd,
            &row.pending_down,
            &row.pending_up,
            &row.client,
            &row.server,
        ]);
    }
    page.end();
    page.paragraph(snapshot.connections_left_out());

    page.line(format_args!("<h2>Workers</h2>"));
    page.line(format_args!("{}<p>", snapshot.workers_line()));
    let with_datagrams = snapshot.datagrams.is_some();
    let refusals = if snapshot.with_refusals { &REFUSALS[..] } else { &[] };
    let lost = Lost::ALL.map(|why| format!("lost: {}", lost_by(why)));
    let lost = lost.each_ref().map(String::as_str);
    let (traffic, lost) = if with_datagrams { (&TRAFFIC[..], &lost[..]) } else { (&[][..], &[][..]) };
    page.columns(&[&WORKERS[..], refusals, traffic, lost].concat());
    for row in &snapshot.workers {
        page.row(&worker(row, snapshot.with_refusals, with_datagrams));
    }
    page.end();

    page.line(format_args!("<h2>Server states</h2>"));
    let datagrams = if with_datagrams { &["datagrams sent", "datagrams received"][..] } else { &[] };
    page.columns(&[&["server", "state"], datagrams].concat());
    for (row, state) in &snapshot.servers {
        let mut cells: Vec<&dyn Display> = vec![&row.number, state];
        if with_datagrams {
            cells.extend([&row.datagrams_sent, &row.datagrams_received].map(|it| it as &dyn Display));
        }
        page.row(&cells);
    }
    page.end();

    if let Some(datagrams) = &snapshot.datagrams {
        page.line(format_args!("<h2>Datagrams</h2>"));
        for line in datagrams.lines() {
            page.paragraph(Some(Escaped(&line).to_string()));
        }
    }
    page.line(format_args!("</body>\n</html>"));
    page.0
}

fn worker(row: &WorkerRow, with_refusals: bool, with_datagrams: bool) -> Vec<&dyn Display> {
    let mut cells: Vec<&dyn Display> = vec![
        &row.number,
        &row.pid,
        &row.state,
        &row.connections,
        &row.pending,
        &row.accepted,
        &row.restarts,
        &row.heartbeat,
        &row.settings,
        &row.handshakes.full,
        &row.handshakes.resumed,
        &row.handshakes.failed,
    ];
    if with_refusals {
        cells.extend(
            [&row.refusals.proxy, &row.refusals.bad, &row.refusals.slow].map(|it| it as &dyn Display),
        );
    }
    if with_datagrams {
        let traffic = &row.traffic;
        cells.extend(
            [&traffic.flows, &traffic.evicted, &traffic.up, &traffic.down].map(|it| it as &dyn Display),
        );
        cells.extend(traffic.lost.iter().map(|it| it as &dyn Display));
    }
    cells
}

/// The page as far as it is written.
struct Page(String);

impl Page {
    /// Markup, as it is.
    fn line(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("a String takes every write");
        self.0.push('\n');
    }

    fn paragraph(&mut self, text: Option<String>) {
        if let Some(text) = text {
            self.line(format_args!("<p>{text}</p>"));
        }
    }

    /// Begins a table.
    fn columns(&mut self, names: &[&str]) {
        self.line(format_args!("<table bgcolor=\"#c0c0c0\">\n<tr>"));
        for name in names {
            self.line(format_args!("<td bgcolor=\"#80f080\">{name}</td>"));
        }
        self.line(format_args!("</tr>"));
    }

    fn row(&mut self, cells: &[&dyn Display]) {
        self.line(format_args!("<tr>"));
        for cell in cells {
            self.line(format_args!("<td>{}</td>", Escaped(cell)));
        }
        self.line(format_args!("</tr>"));
    }

    /// Ends a table.
    fn end(&mut self) {
        self.line(format_args!("</table>"));
    }
}

/// A value as HTML text: nothing in it can be taken for markup.
struct Escaped<'a>(&'a dyn Display);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escaping<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Escaping<'_, '_> {
            fn write_str(&mut self, part: &str) -> fmt::Result {
                for char in part.chars() {
                    match char {
                        '&' => self.0.write_str("&amp;")?,
                        '<' => self.0.write_str("&lt;")?,
                        '>' => self.0.write_str("&gt;")?,
                        '"' => self.0.write_str("&quot;")?,
                        '\'' => self.0.write_str("&#39;")?,
                        char => self.0.write_char(char)?,
                    }
                }
                Ok(())
            }
        }
        write!(Escaping(f), "{}", self.0)
    }
}

/// Writes the page to a temporary file beside `path` and renames it there; leaves nothing behind on failure. A web
/// server is to read it, whatever the umask is.
///
/// # Errors
///
/// What the system says, about the directory as a rule: it must be writable, and `path` the name of a file in it.
pub fn write_page(path: &Path, page: &str) -> io::Result<()> {
    textfile::replace(path, page, Some(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::status::tests::snapshot;

    /// The cells of every row of every table, as a script that goes by the tags would find them.
    fn tables(page: &str) -> Vec<Vec<Vec<String>>> {
        let table = |text: &str| -> Vec<Vec<String>> {
            let rows = text.split("</table>").next().unwrap().split("<tr>").skip(1);
            rows.map(|row| {
                let cells = row.lines().filter(|line| line.starts_with("<td"));
                cells.map(|cell| cell.split(['>', '<']).nth(2).unwrap().to_owned()).collect()
            })
            .collect()
        };
        page.split("<table bgcolor=\"#c0c0c0\">").skip(1).map(table).collect()
    }

    #[test]
    fn the_page_keeps_title_order_columns_and_colours() {
        let page = html(&snapshot());
        assert!(page.contains("<title>Pen status page</title>"));
        assert!(
            page.contains("<h1>Pen status page</h1>\nTime 2026-11-22 07:08:36, 1 servers, 0 current<p>\n")
        );
        assert!(page.contains("Number of connections: 500 max, 1 used, 7 last<p>\n"));
        assert!(page.contains("<td bgcolor=\"#80f080\">pending data down</td>\n"));
        let tables = tables(&page);
        let heads: Vec<String> = tables.iter().map(|rows| rows[0].join(",")).collect();
        assert_eq!(
            heads,
            [
                "server,address,status,port,connections,max soft,max hard,sent,received,weight,prio",
                "client,address,age(secs),last server,connects,sent,received",
                "connection,downfd,upfd,pending data down,pending data up,client,server",
                "worker,pid,state,connections,pending,accepted,restarts,heartbeat age(secs),settings,\
                 TLS full,TLS resumed,TLS failed,PROXY refused,HTTP bad,HTTP slow,flows,evicted,datagrams up,\
                 datagrams down,lost: no server,lost: no room,lost: too long,lost: unreachable,\
                 lost: no PROXY header",
                "server,state,datagrams sent,datagrams received",
            ]
        );
        assert_eq!(tables[0][1].join(","), "0,127.0.0.1,1795331283,9001,2,5,9,18,39,3,-4");
        assert_eq!(tables[4][1].join(","), "0,draining,8,6");
        assert_eq!(tables[0][2][0], "-1");
        assert_eq!(tables[1][1].join(","), "3,127.0.0.7,12,1,4,78,36");
        assert_eq!(tables[2][1].join(","), "7,11,12,6,5,3,-3");
        assert_eq!(tables[3][1].join(","), "0,4711,ready,1,0,9,1,0,2,5,3,1,7,4,2,31,30,29,28,21,22,23,24,25");
        assert!(page.ends_with(
            "<h2>Datagrams</h2>\n\
             <p>Listening: udp 127.0.0.1:53, tcp 53</p>\n\
             <p>Flows: 41 begun, 40 evicted; datagrams: 39 up, 38 down</p>\n\
             <p>Datagrams lost: 1 no server, 2 no room, 3 too long, 4 unreachable, 5 no PROXY header</p>\n\
             </body>\n</html>\n"
        ));
    }

    #[test]
    fn nothing_in_a_cell_can_be_taken_for_markup() {
        let mut snapshot = snapshot();
        snapshot.servers[0].0.address = "/run/<script>&\"'.sock".to_owned().into();
        snapshot.datagrams.as_mut().unwrap().listeners = vec!["tcp /run/<b>".into()];
        let page = html(&snapshot);
        assert!(page.contains("<p>Listening: tcp /run/&lt;b&gt;</p>"));
        assert!(page.contains("<td>/run/&lt;script&gt;&amp;&quot;&#39;.sock</td>"));
    }
}
