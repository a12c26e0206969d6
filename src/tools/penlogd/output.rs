//! Where the consolidated log goes: a file, or whatever standard output is.
//!
//! A regular file is written to at once. What makes its writers wait (a pipe, a terminal) is written to as far as it has
//! room, so that a reader who is slow, or is not there, never keeps penlogd from its socket: lines wait for him up to a
//! limit. What cannot be written and what has no room is counted and dropped.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::process::owned_path::identity;
use crate::sys::logfile;
use crate::sys::reason::words;
use crate::sys::wait::{self, Interest};

/// Bytes that wait for a reader: twice as much as ever leaves the consolidator at once.
const BACKLOG: usize = if cfg!(test) { 1 << 20 } else { 32 << 20 };

/// At most this many bytes at a time to what makes its writers wait: PIPE_BUF, for which a pipe that can be written to has
/// room.
const PIPE_CHUNK: usize = 4096;

/// How long the end waits for a reader.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What lines are written to.
pub(super) trait Sink: Write {
    /// Does it take [`PIPE_CHUNK`] bytes without making anybody wait?
    fn has_room(&self) -> bool;
}

impl Sink for File {
    fn has_room(&self) -> bool {
        let ready = wait::until_ready(&[(self.as_fd(), Interest::WRITE)], Duration::ZERO);
        // Then the write says what is wrong.
        ready.map_or(true, |ready| ready[0])
    }
}

/// Writes lines, whole ones, in their order.
#[derive(Debug)]
pub(super) struct Output<S = File> {
    sink: S,
    /// May it make its writers wait?
    is_slow: bool,
    /// Whole lines, from the beginning of the first that is not written whole.
    pending: Vec<u8>,
    /// So many bytes of them are written.
    written: usize,
    /// The last write ended within a line that was dropped then: the next begins a new one.
    torn: bool,
    lost: u64,
    /// What the last loss was for.
    reason: Option<ErrorKind>,
    said: String,
}

/// Opens that file for appending, as a log.
pub(super) fn open(path: &Path) -> Result<File, String> {
    logfile::open(path).map_err(|error| format!("cannot open the log {}: {}", path.display(), words(&error)))
}

impl Output<File> {
    /// Goes on from where the file ends.
    pub(super) fn new(file: File) -> Self {
        let is_slow = is_slow(&file);
        Output::to(file, is_slow)
    }

    /// From now on lines go to this file. What has been taken is written to the old one before, as far as that takes it.
    pub(super) fn replace(&mut self, file: File) {
        self.write();
        let is_same = match (self.sink.metadata(), file.metadata()) {
            (Ok(old), Ok(new)) => identity(&old) == identity(&new),
            _ => false,
        };
        if !is_same {
            // A line is in one of the files whole.
            self.written = self.line_begin();
            self.torn = false;
        }
        self.is_slow = is_slow(&file);
        self.sink = file;
        self.write();
    }

    /// Waits for the reader for a moment; what is not written then is lost.
    pub(super) fn finish(&mut self) {
        let end = Instant::now() + LAST_WORDS;
        self.write();
        while self.waits() {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || wait::until_ready(&[(self.sink.as_fd(), Interest::WRITE)], left).is_err() {
                return self.drop_pending(ErrorKind::WouldBlock, "nobody reads it");
            }
            self.write();
        }
    }
}

impl AsFd for Output<File> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sink.as_fd()
    }
}

fn is_slow(file: &File) -> bool {
    let waits = |about: Metadata| about.file_type().is_fifo() || about.file_type().is_socket();
    file.is_terminal() || file.metadata().is_ok_and(waits)
}

impl<S: Sink> Output<S> {
    fn to(sink: S, is_slow: bool) -> Self {
        Output {
            sink,
            is_slow,
            pending: Vec::new(),
            written: 0,
            torn: false,
            lost: 0,
            reason: None,
            said: String::new(),
        }
    }

    /// Takes whole lines, and leaves nothing of them. Writes what can be written now.
    pub(super) fn take(&mut self, lines: &mut Vec<u8>) {
        self.make_room();
        let room = BACKLOG.saturating_sub(self.pending.len() - self.written);
        if self.is_slow && lines.len() > room {
            // What has been written meanwhile makes room, too.
            self.write();
            self.make_room();
        }
        let room = BACKLOG.saturating_sub(self.pending.len() - self.written);
        match self.is_slow && lines.len() > room {
            true => {
                let fitting = memchr::memrchr(b'\n', &lines[..room]).map_or(0, |last| last + 1);
                self.pending.extend_from_slice(&lines[..fitting]);
                self.lose(&lines[fitting..], ErrorKind::WouldBlock, "nobody reads it");
            }
            false if self.pending.is_empty() => std::mem::swap(&mut self.pending, lines),
            false => self.pending.extend_from_slice(lines),
        }
        lines.clear();
        self.write();
    }

    /// Writes what can be written now.
    pub(super) fn write(&mut self) {
        while self.waits() {
            if self.is_slow && !self.sink.has_room() {
                return;
            }
            let rest = &self.pending[self.written..];
            let chunk = match (self.torn, self.is_slow) {
                (true, _) => b"\n",
                (false, true) => &rest[..chunk_of(rest)],
                (false, false) => rest,
            };
            match self.sink.write(chunk) {
                Ok(0) => self.drop_pending(ErrorKind::WriteZero, "nothing can be written"),
                Ok(_) if self.torn => self.torn = false,
                Ok(length) => self.written += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.is_slow => return,
                Err(error) => self.drop_pending(error.kind(), &words(&error)),
            }
        }
        self.pending.clear();
        self.written = 0;
    }

    /// Is there something that is not written?
    pub(super) fn waits(&self) -> bool {
        self.written < self.pending.len()
    }

    /// Lines that were not written, or not whole, since the start.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// Why the last ones were not.
    pub(super) fn reason(&self) -> &str {
        &self.said
    }

    /// Where the line begins that is being written, or the next.
    fn line_begin(&self) -> usize {
        memchr::memrchr(b'\n', &self.pending[..self.written]).map_or(0, |last| last + 1)
    }

    /// What has been written whole goes, once that is worth moving the rest.
    fn make_room(&mut self) {
        if self.written >= BACKLOG / 2 {
            let begin = self.line_begin();
            self.pending.drain(..begin);
            self.written -= begin;
        }
    }

    fn drop_pending(&mut self, kind: ErrorKind, said: &str) {
        self.torn |= self.line_begin() < self.written;
        let pending = std::mem::take(&mut self.pending);
        self.lose(&pending[self.written..], kind, said);
        self.pending = pending;
        self.pending.clear();
        self.written = 0;
    }

    fn lose(&mut self, lines: &[u8], kind: ErrorKind, said: &str) {
        self.lost += memchr::memchr_iter(b'\n', lines).count() as u64;
        // At every write to a full disk: the same again.
        if self.reason != Some(kind) {
            self.reason = Some(kind);
            said.clone_into(&mut self.said);
        }
    }
}

/// As many whole lines as a pipe takes at once, so that others who write to it do not get in between; of a line that is
/// longer a part.
fn chunk_of(lines: &[u8]) -> usize {
    match lines.get(..PIPE_CHUNK) {
        None => lines.len(),
        Some(head) => memchr::memrchr(b'\n', head).map_or(PIPE_CHUNK, |last| last + 1),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};
    use std::os::fd::OwnedFd;

    use proptest::prelude::*;

    use super::*;

    /// Takes at most `at_once` bytes a time and `room` in all; then it is full, or nobody reads.
    #[derive(Debug)]
    struct Narrow {
        taken: Vec<u8>,
        room: usize,
        at_once: usize,
        when_full: ErrorKind,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let length = bytes.len().min(self.room).min(self.at_once);
            if length == 0 {
                return Err(self.when_full.into());
            }
            self.room -= length;
            self.taken.extend_from_slice(&bytes[..length]);
            Ok(length)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Sink for Narrow {
        fn has_room(&self) -> bool {
            self.room > 0
        }
    }

    fn disk(room: usize) -> Output<Narrow> {
        let when_full = ErrorKind::StorageFull;
        Output::to(Narrow { taken: Vec::new(), room, at_once: usize::MAX, when_full }, false)
    }

    fn pipe(room: usize, at_once: usize) -> Output<Narrow> {
        let when_full = ErrorKind::WouldBlock;
        Output::to(Narrow { taken: Vec::new(), room, at_once, when_full }, true)
    }

    fn take<S: Sink>(output: &mut Output<S>, lines: &str) {
        let mut lines = lines.as_bytes().to_vec();
        output.take(&mut lines);
        assert!(lines.is_empty());
    }

    #[test]
    fn a_full_disk_loses_lines_and_counts_them_and_a_torn_one_is_ended() {
        let mut output = disk(6);
        take(&mut output, "one\ntwo\nthree\n");
        assert_eq!((output.lost(), output.waits()), (2, false));
        take(&mut output, "four\n");
        assert_eq!(output.lost(), 3);
        output.sink.room = 100;
        take(&mut output, "five\n");
        assert_eq!(output.sink.taken, b"one\ntw\nfive\n");
        assert_eq!(output.lost(), 3);
        assert_eq!(output.reason(), words(&ErrorKind::StorageFull.into()));
    }

    #[test]
    fn what_a_reader_has_no_room_for_waits_and_is_written_in_order() {
        let mut output = pipe(6, 4);
        take(&mut output, "one\ntwo\n");
        assert!(output.waits());
        take(&mut output, "three\n");
        output.sink.room = 100;
        output.write();
        assert_eq!((output.sink.taken.as_slice(), output.lost()), (&b"one\ntwo\nthree\n"[..], 0));
    }

    #[test]
    fn what_waits_for_a_reader_is_bounded() {
        let mut output = pipe(10_000, 4096);
        let lines = format!("{}\n", "x".repeat(99)).repeat(1000);
        for _ in 0..100 {
            take(&mut output, &lines);
        }
        assert!(output.pending.len() <= BACKLOG + BACKLOG / 2 && output.pending.capacity() < 4 * BACKLOG);
        output.sink.room = usize::MAX;
        output.write();
        assert_eq!(output.sink.taken.len() as u64 / 100 + output.lost(), 100_000);
        assert!(output.sink.taken.ends_with(b"x\n") && output.reason() == "nobody reads it");
    }

    #[test]
    fn pipes_get_whole_lines_as_far_as_they_take_them_at_once() {
        let lines = format!("{}\n", "x".repeat(1499)).repeat(3);
        assert_eq!(chunk_of(lines.as_bytes()), 3000);
        assert_eq!(chunk_of(&[b'x'; 5000]), PIPE_CHUNK);
        assert_eq!(chunk_of(b"x\ny\n"), 4);
    }

    #[test]
    fn a_line_that_was_begun_is_written_anew_to_another_file() {
        let path = std::env::temp_dir().join(format!("penlogd-output-{}", std::process::id()));
        let (mut reader, writer) = io::pipe().unwrap();
        let mut output = Output::new(File::from(OwnedFd::from(writer)));
        let lines: Vec<String> =
            ('a'..='z').map(|letter| format!("{}\n", letter.to_string().repeat(10_000))).collect();
        lines.iter().for_each(|line| take(&mut output, line));
        assert!(output.waits() && output.line_begin() < output.written, "{}", output.written);
        output.replace(open(&path).unwrap());
        assert!(!output.waits());
        drop(output);
        let mut piped = String::new();
        reader.read_to_string(&mut piped).unwrap();
        let whole = piped.matches('\n').count();
        assert!(!piped.ends_with('\n'));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), lines[whole..].concat());
        std::fs::remove_file(path).unwrap();
    }

    proptest! {
        #[test]
        fn every_line_is_written_whole_or_counted(
            lines in proptest::collection::vec("[a-z]{0,30}", 1..40),
            rooms in proptest::collection::vec(0usize..60, 1..40),
            at_once in 1usize..20,
            full in any::<bool>(),
        ) {
            let mut output = if full { disk(0) } else { pipe(0, at_once) };
            output.sink.at_once = at_once;
            for (number, line) in lines.iter().enumerate() {
                output.sink.room += rooms[number % rooms.len()];
                take(&mut output, &format!("{line}\n"));
            }
            output.sink.room = usize::MAX;
            take(&mut output, "end\n");
            let text = String::from_utf8(output.sink.taken.clone()).unwrap();
            prop_assert!(text.ends_with("end\n"));
            if full {
                // A part of a lost line has an end of its own.
                let whole = text.lines().count();
                prop_assert!(whole as u64 + output.lost() > lines.len() as u64);
            } else {
                prop_assert_eq!(text, lines.join("\n") + "\nend\n");
                prop_assert_eq!(output.lost(), 0);
            }
        }
    }
}
