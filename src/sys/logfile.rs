//! Opening a log for appending, whatever kind of file it is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Opens or makes (mode 0644) a file that every write(2) appends to. Close-on-exec; never waits, neither here nor
/// in a write: a FIFO takes what its buffer holds whether somebody reads it or not, and keeps that for the next reader.
pub fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let opened = options.open(path);
    let is_fifo = match &opened {
        Ok(file) => file.metadata()?.file_type().is_fifo(),
        // A FIFO without a reader.
        Err(error) => error.raw_os_error() == Some(libc::ENXIO),
    };
    if !is_fifo {
        return opened;
    }
    // Opened for reading too, it has a reader for as long as it is open, whoever comes and goes; Linux allows that.
    options.read(true).create(false).open(path)
}
