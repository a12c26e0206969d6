//! The lines that mergelogs(1) reads and writes.

use pen::weblogs::merging::line::{PenLine, WebLine};
use pen::weblogs::merging::recent::{PenLog, Span};
use pen::weblogs::merging::{Line, Merger, stamp};

/// pen's log; lines that are not pen's are left out.
struct Log<'a>(std::slice::Split<'a, u8, fn(&u8) -> bool>);

impl PenLog for Log<'_> {
    fn next(&mut self) -> Option<PenLine<'_>> {
        self.0.find_map(PenLine::read)
    }
}

/// pen's log, an empty line, and the log of a web server that pen calls `s`.
pub fn merge(input: &[u8]) {
    let (pen, web) = match input.windows(2).position(|two| two == b"\n\n") {
        Some(at) => (&input[..at], &input[at + 2..]),
        None => (&input[..0], input),
    };
    for span in [Span::Jitter(0), Span::Jitter(600), Span::Whole] {
        let mut merger = Merger::new(span, 0);
        let server = merger.server(b"s");
        let is_end: fn(&u8) -> bool = |&byte| byte == b'\n';
        let mut log = Log(pen.split(is_end));
        for text in web.split(is_end) {
            let Ok(parts) = WebLine::read(text) else { continue };
            let Some(time) = stamp::read(&text[parts.time.clone()]) else { continue };
            let mut out = Vec::new();
            let line = Line { text, parts: &parts, time, server };
            merger.write(line, &mut log, &mut out);
            check(&out, time);
        }
    }
}

/// One line, that says the same when it is read again, and does nothing to a terminal.
fn check(out: &[u8], time: i64) {
    let line = out.strip_suffix(b"\n").expect("a line");
    assert!(!line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t'), "{}", line.escape_ascii());
    let parts = WebLine::read(line).expect("what was a line is one");
    assert_eq!(stamp::read(&line[parts.time]), Some(time));
}
