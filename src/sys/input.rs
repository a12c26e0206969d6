//! Standard input, read without waiting where others may read it, too.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

/// Where the system shows it.
const OWN: &str = "/proc/self/fd/0";

/// Standard input.
#[derive(Debug)]
pub struct Input {
    file: File,
    unnamed: bool,
}

impl Input {
    /// Takes it.
    ///
    /// # Errors
    ///
    /// Out of descriptors.
    pub fn open() -> io::Result<Self> {
        let given = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        if !given.metadata()?.file_type().is_fifo() {
            return Ok(Input { file: given, unnamed: false });
        }
        // pipe(7) has them all in one file system, which nobody sees.
        let unnamed = fs::read_link(OWN).is_ok_and(|name| name.as_os_str().as_bytes().starts_with(b"pipe:"));
        // Another process that reads the same pipe (the logger that a web server is about to end) may be faster, and read(2)
        // would wait then. O_NONBLOCK on the descriptor that was given would be that process's, too: opened again it is ours.
        // Somebody else's pipe, or no /proc: it is read as it is.
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        Ok(Input { file: options.open(OWN).unwrap_or(given), unnamed })
    }

    /// Is it a pipe that nobody else can ever open? What is written to it when all have gone who read it now is lost.
    pub fn is_unnamed_pipe(&self) -> bool {
        self.unnamed
    }

    /// Reads what is there; 0 is the end.
    ///
    /// # Errors
    ///
    /// `WouldBlock`, `Interrupted`: nothing has been read. Else it cannot be read from any more.
    pub fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.file.read(room)
    }
}

impl AsFd for Input {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
