//! What a session of the control port asks for: bytes, as they come, to one [`Request`].
//!
//! | | ends with | then |
//! |---|---|---|
//! | a command | CR, LF, NUL or the end of the stream; or a pause, which the caller measures | what follows is ignored |
//! | a batch: lines between `begin` and `end` | the line `end` | what follows is ignored |
//!
//! How the bytes are cut into pieces makes no difference. Pure: no socket, no clock. What is held is what came, up to
//! the limits below, and never what somebody announced.
//! Not here: what a command means ([`crate::model::command`]), how long a client has ([`super::ControlPort`]).

use crate::model::config;

/// The longest line, in bytes without its end. The classic read that much at once.
pub const LONGEST_LINE: usize = 4095;

/// The largest batch, in bytes, the lines `begin` and `end` not counted.
pub const LARGEST_BATCH: usize = 1024 * 1024;

/// What a session asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// One line, without its end. Empty and comment lines too.
    Command(String),
    /// All lines between `begin` and `end`, each with its end: to be carried out together, or not at all.
    Batch(String),
}

/// Why what a client sends is no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The only line.
    #[error("the command is longer than {LONGEST_LINE} bytes")]
    LongCommand,
    /// Only comments may be anything.
    #[error("the command is not UTF-8")]
    NotText,
    /// Web pages can make a browser send it, and say what stands before and in the path.
    #[error("this is not a web server")]
    Http,
    /// A line of a batch, counted from 1 after `begin`.
    #[error("line {0} is longer than {LONGEST_LINE} bytes; nothing is changed")]
    LongLine(usize),
    /// All lines of a batch.
    #[error("the batch is larger than {LARGEST_BATCH} bytes; nothing is changed; include a file instead")]
    LargeBatch,
    /// Only comments may be anything. Says which line.
    #[error("{0}; nothing is changed")]
    BatchNotText(String),
    /// The stream, or the client's time, ended first.
    #[error("the batch does not end with end; nothing is changed")]
    NoEnd,
}

/// A request, or why there is none; None while more has to come.
pub type Verdict = Option<Result<Request, Refusal>>;

/// Reads one request.
#[derive(Debug, Default)]
pub struct RequestReader {
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// In the first line; holds it so far.
    First(Vec<u8>),
    /// Behind the word `begin`: the rest of that line means nothing.
    Begun,
    /// In a batch.
    Batch(Batch),
    /// All has been said.
    Done,
}

#[derive(Debug, Default)]
struct Batch {
    /// The lines that have ended, with their ends.
    text: Vec<u8>,
    /// How many these are.
    lines: usize,
    /// The line that has not ended.
    line: Vec<u8>,
}

impl Default for Stage {
    fn default() -> Self {
        Stage::First(Vec::new())
    }
}

impl RequestReader {
    /// Takes the next piece of the stream. Pieces after the verdict are ignored.
    pub fn push(&mut self, piece: &[u8]) -> Verdict {
        let mut rest = piece;
        while !rest.is_empty() {
            let verdict = match &mut self.stage {
                Stage::First(line) => match take(line, &mut rest, |byte| matches!(byte, b'\r' | b'\n' | 0)) {
                    Some(b'\n') if is_word(line, b"begin") => self.enter(Stage::Batch(Batch::default())),
                    Some(_) if is_word(line, b"begin") => self.enter(Stage::Begun),
                    Some(_) => Some(command(line)),
                    None => (line.len() > LONGEST_LINE).then_some(Err(Refusal::LongCommand)),
                },
                Stage::Begun => match rest.iter().position(|&byte| byte == b'\n') {
                    Some(end) => {
                        rest = &rest[end + 1..];
                        self.enter(Stage::Batch(Batch::default()))
                    }
                    None => return None,
                },
                Stage::Batch(batch) => batch.push(&mut rest),
                Stage::Done => return None,
            };
            if verdict.is_some() {
                self.stage = Stage::Done;
                return verdict;
            }
        }
        None
    }

    /// Nothing will follow.
    pub fn end(&mut self) -> Verdict {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::First(line) if !is_word(&line, b"begin") => Some(command(&line)),
            Stage::First(_) | Stage::Begun => Some(Err(Refusal::NoEnd)),
            Stage::Batch(batch) if is_word(&batch.line, b"end") => Some(batch.finish()),
            Stage::Batch(_) => Some(Err(Refusal::NoEnd)),
            Stage::Done => None,
        }
    }

    /// Is there a command that could be complete, although its line has not ended?
    pub fn can_settle(&self) -> bool {
        matches!(&self.stage, Stage::First(line) if !line.is_empty() && !is_word(line, b"begin"))
    }

    /// Nothing has followed for a while: a command is taken as complete, for clients that send no line end and wait.
    /// A batch is not.
    pub fn settle(&mut self) -> Verdict {
        if self.can_settle() { self.end() } else { None }
    }
}

impl RequestReader {
    fn enter(&mut self, stage: Stage) -> Verdict {
        self.stage = stage;
        None
    }
}

impl Batch {
    fn push(&mut self, rest: &mut &[u8]) -> Verdict {
        let ended = take(&mut self.line, rest, |byte| byte == b'\n').is_some();
        if self.line.len() - usize::from(self.line.ends_with(b"\r")) > LONGEST_LINE {
            return Some(Err(Refusal::LongLine(self.lines + 1)));
        }
        if !ended {
            return None;
        }
        if is_word(&self.line, b"end") {
            return Some(std::mem::take(self).finish());
        }
        self.text.append(&mut self.line);
        self.text.push(b'\n');
        self.lines += 1;
        (self.text.len() > LARGEST_BATCH).then_some(Err(Refusal::LargeBatch))
    }

    fn finish(self) -> Result<Request, Refusal> {
        let text = config::decode(self.text).map_err(|error| Refusal::BatchNotText(error.to_string()))?;
        Ok(Request::Batch(text))
    }
}

/// Moves what is before the end of the line, or all if there is no end, from `rest` to `line`; takes the end away and
/// says which it was.
fn take(line: &mut Vec<u8>, rest: &mut &[u8], is_end: impl Fn(u8) -> bool) -> Option<u8> {
    let end = rest.iter().position(|&byte| is_end(byte));
    let (before, after) = rest.split_at(end.unwrap_or(rest.len()));
    line.extend_from_slice(before);
    *rest = after.get(1..).unwrap_or_default();
    after.first().copied()
}

/// Is that word alone on the line, but for blanks and a comment?
fn is_word(line: &[u8], word: &[u8]) -> bool {
    let mut words = line.split(|byte| matches!(byte, b' ' | b'\t' | b'\r')).filter(|word| !word.is_empty());
    words.next() == Some(word) && words.next().is_none_or(|next| next.starts_with(b"#"))
}

/// Is it the first line of an HTTP request? Its method and path are up to a web page whose name has come to mean this
/// machine: `write /path HTTP/1.1` must not be taken for a command.
fn is_http(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let version = words.next_back().and_then(|last| last.strip_prefix(b"HTTP/"));
    version.is_some_and(|it| it.iter().all(|byte| b"0123456789.".contains(byte))) && words.count() >= 2
}

fn command(line: &[u8]) -> Result<Request, Refusal> {
    if line.len() > LONGEST_LINE {
        return Err(Refusal::LongCommand);
    }
    if is_http(line) {
        return Err(Refusal::Http);
    }
    config::decode(line.to_vec()).map(Request::Command).map_err(|_| Refusal::NotText)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a stream asks for if it ends there.
    fn whole(stream: &[u8]) -> Result<Request, Refusal> {
        let mut reader = RequestReader::default();
        reader.push(stream).or_else(|| reader.end()).unwrap()
    }

    fn ask(command: &str) -> Result<Request, Refusal> {
        Ok(Request::Command(command.into()))
    }

    fn batch(text: &str) -> Result<Request, Refusal> {
        Ok(Request::Batch(text.into()))
    }

    const STREAMS: [&[u8]; 12] = [
        b"mode\nblacklist\n",
        b"mode",
        b"mode\r\n",
        b"  mode  ",
        b"mode\0junk",
        b"\nmode\n",
        b"# \xe5\n",
        b"begin\nblacklist 7\nend\n",
        b"begin\r\nblacklist 7\r\n\r\nend",
        b" begin \r ignored\n\n# \xe5\n\tend # of it\nmode\n",
        b"begin\nblacklist 7\n",
        b"beginning\n",
    ];

    #[test]
    fn a_command_ends_at_the_first_line_end_or_with_the_stream() {
        assert_eq!(whole(b"mode\nblacklist\n"), ask("mode"));
        assert_eq!(whole(b"mode\rblacklist\n"), ask("mode"));
        assert_eq!(whole(b"mode\0blacklist\n"), ask("mode"));
        assert_eq!(whole(b"  mode  "), ask("  mode  "));
        for empty in ["", "\n", "\r\nmode", "\0"] {
            assert_eq!(whole(empty.as_bytes()), ask(""));
        }
    }

    #[test]
    fn lines_between_begin_and_end_are_one_request() {
        let text = "blacklist 7\n\nhash\n";
        assert_eq!(whole(format!("begin\n{text}end\nmode\n").as_bytes()), batch(text));
        assert_eq!(whole(format!(" begin\t\n{text}  end  ").as_bytes()), batch(text));
        assert_eq!(whole(b"begin # it\r\nhash\r\nend # of it\r\n"), batch("hash\r\n"));
        assert_eq!(whole(b"begin\nend\n"), batch(""));
        assert_eq!(whole(b"begin\n#end\nend x\nend\n"), batch("#end\nend x\n"));
        assert_eq!(whole(b"begin x\nend\n"), ask("begin x"));
        assert_eq!(whole(b"begin\rhash\nend\n"), batch(""));
        assert_eq!(whole(b"hash\nbegin\nend\n"), ask("hash"));
    }

    #[test]
    fn a_batch_without_its_end_is_refused() {
        for stream in ["begin", "begin\n", "begin\r", "begin\0hash", "begin\nhash\n", "begin\nhash\nen"] {
            assert_eq!(whole(stream.as_bytes()), Err(Refusal::NoEnd), "{stream:?}");
        }
        let text = Refusal::NoEnd.to_string();
        assert_eq!(text, "the batch does not end with end; nothing is changed");
    }

    #[test]
    fn the_cuts_make_no_difference() {
        for stream in STREAMS {
            let expected = whole(stream);
            for cut in 0..=stream.len() {
                let mut reader = RequestReader::default();
                let pieces = [&stream[..cut], &stream[cut..]];
                let verdict = pieces.iter().find_map(|piece| reader.push(piece)).or_else(|| reader.end());
                assert_eq!(verdict, Some(expected.clone()), "{} cut at {cut}", stream.escape_ascii());
            }
        }
    }

    #[test]
    fn a_pause_completes_a_command_and_nothing_else() {
        let mut reader = RequestReader::default();
        assert_eq!(reader.push(b"mode"), None);
        assert!(reader.can_settle());
        assert_eq!(reader.settle(), Some(ask("mode")));
        assert_eq!((reader.push(b"\n"), reader.settle(), reader.end()), (None, None, None));
        for waits in ["", "begin", "begin\n", "begin\nhash\nend"] {
            let mut reader = RequestReader::default();
            assert_eq!(reader.push(waits.as_bytes()), None);
            assert!(!reader.can_settle(), "{waits:?}");
            assert_eq!(reader.settle(), None, "{waits:?}");
            assert!(reader.end().is_some(), "{waits:?}");
        }
        let mut begun = RequestReader::default();
        assert_eq!((begun.push(b"begin"), begun.settle()), (None, None));
        assert_eq!(begun.push(b"ning\n"), Some(ask("beginning")));
    }

    #[test]
    fn requests_of_browsers_are_no_commands() {
        for line in ["POST / HTTP/1.1", "write /tmp/x HTTP/1.1", "exit /%0aexit HTTP/1.0", "a b c HTTP/2"] {
            let whole = whole(format!("{line}\r\nHost: it\r\n\r\nexit\n").as_bytes());
            assert_eq!(whole, Err(Refusal::Http), "{line}");
        }
        for line in ["log HTTP/1.1", "log \"/the HTTP/1.1\"", "log /x # of HTTP/x"] {
            assert_eq!(whole(line.as_bytes()), ask(line));
        }
    }

    #[test]
    fn a_line_may_have_4095_bytes() {
        let longest = "x".repeat(LONGEST_LINE);
        for end in ["", "\n", "\r\n", "\0"] {
            assert_eq!(whole(format!("{longest}{end}").as_bytes()), ask(&longest));
            assert_eq!(whole(format!("{longest}x{end}").as_bytes()), Err(Refusal::LongCommand));
        }
        // Nobody has to send the end of such a line before it is refused, and nothing more of it is kept.
        assert_eq!(RequestReader::default().push(&[b'x'; LONGEST_LINE + 1]), Some(Err(Refusal::LongCommand)));
        for end in ["\n", "\r\n"] {
            let text = format!("\n{longest}{end}");
            assert_eq!(whole(format!("begin\n{text}end").as_bytes()), batch(&text));
            let text = format!("\n{longest}x{end}");
            assert_eq!(whole(format!("begin\n{text}end").as_bytes()), Err(Refusal::LongLine(2)));
        }
        assert_eq!(whole(format!("begin\n{longest}x").as_bytes()), Err(Refusal::LongLine(1)));
    }

    #[test]
    fn a_batch_may_have_a_mebibyte() {
        let line = format!("#{}\n", "x".repeat(1022));
        let largest = line.repeat(LARGEST_BATCH / line.len());
        assert_eq!(largest.len(), LARGEST_BATCH);
        assert_eq!(whole(format!("begin\n{largest}end\n").as_bytes()), batch(&largest));
        assert_eq!(whole(format!("begin\n{largest}\nend\n").as_bytes()), Err(Refusal::LargeBatch));
        let mut reader = RequestReader::default();
        assert_eq!(reader.push(format!("begin\n{largest}").as_bytes()), None);
        assert_eq!(reader.push(b"x\n"), Some(Err(Refusal::LargeBatch)));
        let text = Refusal::LargeBatch.to_string();
        assert!(text.starts_with("the batch is larger than 1048576 bytes; nothing is changed"), "{text}");
    }

    #[test]
    fn only_comments_may_be_in_any_encoding() {
        assert_eq!(whole(b"log /\xe5\n"), Err(Refusal::NotText));
        assert_eq!(whole("log /\u{e5}\n".as_bytes()), ask("log /\u{e5}"));
        assert_eq!(whole(b"mode # \xe5\n"), ask("mode # \u{fffd}"));
        let refusal = whole(b"begin\nhash\nlog /\xe5\nend\n").unwrap_err();
        assert_eq!(refusal.to_string(), "line 2 is not UTF-8; nothing is changed");
        assert_eq!(whole(b"begin\nhash # \xe5\nend\n"), batch("hash # \u{fffd}\n"));
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_ask_for_the_same(
            stream in prop_oneof![
                "(begin\r?\n)?([a-z #]{0,5}(\n|\r\n|\r)){0,4}(end)?\n?",
                r"\PC{0,8}[\r\n]{0,2}\PC{0,8}",
            ],
            sizes in prop::collection::vec(1..6_usize, 1..9),
        ) {
            let (mut reader, mut rest, mut verdict) = (RequestReader::default(), stream.as_bytes(), None);
            for size in sizes.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*size));
                verdict = verdict.or(reader.push(piece));
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(verdict.or_else(|| reader.end()), Some(whole(stream.as_bytes())));
        }
    }
}
