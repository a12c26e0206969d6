//! Memory that bytes pass through. None of it belongs to an idle connection.

use crate::policy::http::Outgoing;
use crate::sys::socket::Pipe;

/// What one read(2) of a copying relay takes at most, in bytes.
pub const SCRATCH: usize = 64 * 1024;

/// Bytes without use behind it. What a TLS library allocates next, and copies into from here, would else lie a whole
/// number of pages and some bytes further: some processors need 25 times as long to copy over such a distance.
const GAP: usize = 1024;

/// The size of a pipe, in bytes: larger ones save next to nothing. The system's default limit for all pipes of an
/// unprivileged user is 64 MiB.
pub const PIPE: usize = 256 * 1024;

/// Buffers and pipes that are kept for the next connection that needs one.
const KEPT: usize = 16;

/// Most pipes that one worker has, idle ones included. Each takes two descriptors.
pub const MOST_PIPES: usize = 128;

/// One worker's scratch buffer and its pools.
#[derive(Debug)]
pub struct RelayBuffers {
    /// Everything is read into this and written on at once: [`SCRATCH`] bytes, with some room behind them.
    pub scratch: Vec<u8>,
    /// What goes out instead of what came in, where that is not the same.
    pub outgoing: Outgoing,
    /// For what a peer did not take.
    pub pool: BufferPool,
    /// For large flows.
    pub pipes: PipePool,
}

impl RelayBuffers {
    /// Everything empty; `pipes` is the most pipes to have.
    pub fn new(pipes: usize) -> Self {
        let mut scratch = Vec::with_capacity(SCRATCH + GAP);
        scratch.resize(SCRATCH, 0);
        RelayBuffers {
            scratch,
            outgoing: Outgoing::default(),
            pool: BufferPool { idle: Vec::new() },
            pipes: PipePool { idle: Vec::new(), open: 0, most: pipes.min(MOST_PIPES) },
        }
    }
}

/// Buffers of [`SCRATCH`] bytes for what a peer did not take at once.
#[derive(Debug)]
pub struct BufferPool {
    idle: Vec<Vec<u8>>,
}

impl BufferPool {
    /// An empty buffer.
    pub fn empty(&mut self) -> Vec<u8> {
        self.idle.pop().unwrap_or_default()
    }

    /// A buffer with these bytes in it.
    pub fn keep(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut buffer = self.empty();
        buffer.extend_from_slice(bytes);
        buffer
    }

    /// A buffer is not needed any more.
    pub fn give_back(&mut self, mut buffer: Vec<u8>) {
        if self.idle.len() < KEPT {
            buffer.clear();
            self.idle.push(buffer);
        }
    }
}

/// Pipes, opened when first needed.
#[derive(Debug)]
pub struct PipePool {
    idle: Vec<Pipe>,
    open: usize,
    most: usize,
}

impl PipePool {
    /// An empty pipe. `None`: there are too many already, or the system gives none: copy.
    pub fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        if self.open >= self.most {
            return None;
        }
        match Pipe::new(PIPE) {
            Ok(pipe) => {
                self.open += 1;
                Some(pipe)
            }
            Err(_) => {
                // No more than there are now: asking again for every flow would cost more than it brings.
                self.most = self.open;
                None
            }
        }
    }

    /// An empty pipe is not needed any more.
    pub fn give_back(&mut self, pipe: Pipe) {
        if self.idle.len() < KEPT {
            self.idle.push(pipe);
        } else {
            self.open -= 1;
        }
    }

    /// A pipe with bytes in it is dropped with its connection.
    pub fn lose(&mut self, pipe: Pipe) {
        drop(pipe);
        self.open -= 1;
    }

    /// How many pipes exist.
    pub fn open(&self) -> usize {
        self.open
    }
}
