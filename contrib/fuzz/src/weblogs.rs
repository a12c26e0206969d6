//! What penlogd(1) makes of datagrams, and the requests in lines of web servers.

use std::net::SocketAddr;

use pen::model::time::Moment;
use pen::weblogs::consolidation::{Consolidator, Limits};
use pen::weblogs::datagram::{PIECE, RECORD_MAX};
use pen::weblogs::request::{self, BeyondAscii};

/// Between two datagrams.
const END: u8 = 0xfe;

/// One more datagram after each of these would say nothing new.
const MOST_DATAGRAMS: usize = 300;

/// Datagrams, each behind a byte that says who sent it, how long after the one before, and whether it is as long as a piece
/// of a line. Whatever they are, whole lines come out, and nothing waits for ever.
pub fn penlogd(input: &[u8]) {
    let small = Limits { entries: 3, wait: 300_000, lines: 4, bytes: 3000 };
    for limits in [Limits::default(), small, Limits { wait: 0, ..small }, Limits { entries: 0, ..small }] {
        consolidate(input, limits);
    }
}

fn consolidate(input: &[u8], limits: Limits) {
    let (mut consolidator, mut now, mut out) = (Consolidator::new(limits), Moment(1), Vec::new());
    let mut datagrams = 0;
    for packet in input.split(|&byte| byte == END).take(MOST_DATAGRAMS) {
        let Some((&how, text)) = packet.split_first() else { continue };
        let from = SocketAddr::from(([127, 0, 0, 1 + (how & 1)], 5000 + u16::from(how >> 1 & 1)));
        let mut datagram = text.to_vec();
        if how & 0x80 != 0 {
            datagram.resize(PIECE, b'a');
        }
        now = now.plus_micros(u64::from(how >> 2 & 0x1f) * 50_000);
        while let Some(deadline) = consolidator.deadline().filter(|&deadline| deadline <= now) {
            consolidator.tick(deadline, &mut out);
            assert!(consolidator.deadline().is_none_or(|next| next > deadline), "it is not over");
        }
        consolidator.take(from, &datagram, now, &mut out);
        datagrams += 1;
        assert!(consolidator.deadline().is_none_or(|next| next > now), "it should have been written");
    }
    consolidator.flush(&mut out);
    assert_eq!(consolidator.deadline(), None);

    assert!(out.is_empty() || out.ends_with(b"\n"));
    let lines = out.iter().filter(|&&byte| byte == b'\n').count() as u64;
    assert!(out.iter().all(|&byte| matches!(byte, b'\n' | b'\t') || !byte.is_ascii_control()));
    let counts = *consolidator.counts();
    assert_eq!(lines, counts.matched + counts.unmatched);
    assert!(lines + counts.entries + counts.duplicates + counts.broken <= datagrams);
    assert!(counts.waited <= lines && counts.hurried <= counts.unmatched && counts.evicted <= counts.entries);
    let lost = consolidator.take_losses().iter().map(|loss| loss.datagrams).sum::<u64>();
    assert_eq!(lost, counts.lost_entries + counts.lost_lines);
}

/// A line of a web server's log.
pub fn web_line(input: &[u8]) {
    let from = SocketAddr::from(([127, 0, 0, 1], 5000));
    let mut alone = Vec::new();
    let mut consolidator = Consolidator::new(Limits { wait: 0, ..Limits::default() });
    consolidator.take(from, &[b" ", input].concat(), Moment(1), &mut alone);

    let Some(range) = request::find(input) else {
        assert!(input.iter().filter(|&&byte| byte == b'"').count() < 2);
        assert!(alone.is_empty() || input.len() == PIECE - 1);
        return;
    };
    assert!(input[range.start - 1] == b'"' && input[range.end] == b'"');
    assert!(!input[..range.start - 1].contains(&b'"'));
    let quoted = &input[range];

    let mut logged = Vec::new();
    request::as_pen_logs(quoted, BeyondAscii::Kept, &mut logged);
    assert!(logged.len() <= quoted.len());
    assert!(!logged.iter().any(u8::is_ascii_control));
    let mut dotted = Vec::new();
    request::as_pen_logs(quoted, BeyondAscii::Dotted, &mut dotted);
    let expected = logged.iter().map(|&byte| if byte.is_ascii() { byte } else { b'.' });
    assert!(expected.eq(dotted.iter().copied()));

    // As Apache would write what pen logs, it is the same request.
    let escape = |&byte: &u8| match byte {
        b'"' | b'\\' => vec![b'\\', byte],
        b' '..=b'~' => vec![byte],
        _ => format!("\\x{byte:02x}").into_bytes(),
    };
    let line =
        [b"c \"".to_vec(), logged.iter().flat_map(escape).collect(), b"\" 200 \"agent\"".to_vec()].concat();
    let again = request::find(&line).map(|range| &line[range]);
    let mut read = Vec::new();
    request::as_pen_logs(again.unwrap_or_default(), BeyondAscii::Kept, &mut read);
    assert_eq!(read, logged);

    // A record of the request makes it the line of its client.
    if !logged.is_empty() && !logged.starts_with(b" ") && logged.len() < RECORD_MAX - 100 {
        let mut with_record = Vec::new();
        let record = [b"+ client 127.0.0.1 ", &logged[..], b"\n"].concat();
        consolidator.take(from, &record, Moment(1), &mut with_record);
        consolidator.take(from, &line, Moment(1), &mut with_record);
        assert!(with_record.starts_with(b"client \"") && consolidator.counts().matched == 1);
    }
}
