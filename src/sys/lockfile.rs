//! Files that a running process keeps locked.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a file for reading and writing, making it (mode 0644) if there is none. A symbolic link is not followed.
///
/// # Errors
///
/// It is a link, or may not be opened or made.
pub fn open(path: &Path) -> io::Result<File> {
    // O_NONBLOCK: a FIFO there must not stop the start. It has no meaning for regular files.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .custom_flags(flags)
        .open(path)
}

/// Locks the file for as long as any descriptor from this open is left, in this process or in children. False:
/// somebody else has it locked.
///
/// # Errors
///
/// The file system has no locks.
pub fn try_lock(file: &File) -> io::Result<bool> {
    // SAFETY: flock(2) on a descriptor that `file` keeps open.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    match result {
        0 => Ok(true),
        _ => match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            error => Err(error),
        },
    }
}
