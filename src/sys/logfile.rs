//! Opening a log for appending, whatever kind of file it is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens or makes (mode 0644) a file that every write(2) appends to. Close-on-exec; never waits, neither here nor
/// in a write: a FIFO that nobody reads is opened all the same, and takes what its buffer holds.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    match options.open(path) {
        // A FIFO without a reader. Opened for reading too, it has one; Linux allows that.
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            options.read(true).create(false).open(path)
        }
        opened => opened,
    }
}
