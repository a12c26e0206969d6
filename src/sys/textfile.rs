//! Whole files of text, in a process that must not wait.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;

/// No longer file is read, in bytes: ten full access lists take less, and memory for several times that is there.
const MOST: u64 = 64 << 20;

/// All bytes of a regular file. Everything else is refused: a FIFO's writer may never come, a device may never end.
///
/// # Errors
///
/// It is no regular file, cannot be read, or has more than 64 MiB.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let (file, _) = open_regular(path)?;
    let mut bytes = Vec::new();
    // Whatever its length was said to be: it may grow.
    file.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::other("it has more than 64 MiB"));
    }
    Ok(bytes)
}

/// A regular file, to be read, and its length.
///
/// # Errors
///
/// It is no regular file, or cannot be opened.
pub fn open_regular(path: &Path) -> io::Result<(File, u64)> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok((file, metadata.len()))
}

/// Writes a file beside `path` and renames it there: whoever reads `path` sees the old text or the new one. Leaves
/// nothing behind on failure. `mode`: its access rights, else what the umask leaves of 0666.
///
/// # Errors
///
/// What the system says, about the directory as a rule: it must be writable, and `path` the name of a file in it.
pub fn replace(path: &Path, text: &str, mode: Option<u32>) -> io::Result<()> {
    let temporary = temporary_beside(path)?;
    let written = write_new(&temporary, text, mode).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // Whether or not it came to be: there is nothing more to do about it.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// In the same directory, for a rename does not cross file systems; named after this process, for two that write
/// the same file must not meet.
fn temporary_beside(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not the name of a file"));
    };
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.tmp", process::id()));
    Ok(path.with_file_name(hidden))
}

fn write_new(path: &Path, text: &str, mode: Option<u32>) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(mode.unwrap_or(0o666));
    let mut file = match options.open(path) {
        // Left by a process of the same number that was killed at it. Neither O_EXCL nor unlink follows a link.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            options.open(path)?
        }
        opened => opened?,
    };
    if let Some(mode) = mode {
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    file.write_all(text.as_bytes())
}

/// Writes over a regular file that is there, for a directory in which no other can be made. If it fails half-way, half
/// of it is written.
///
/// # Errors
///
/// It is no regular file, or cannot be written.
pub fn overwrite(path: &Path, text: &str) -> io::Result<()> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let mut file = File::options().write(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_devices_are_not() {
        let path = std::env::temp_dir().join(format!("pen-textfile-{}", std::process::id()));
        std::fs::write(&path, "blacklist 3\n").unwrap();
        assert_eq!(read_regular(&path).unwrap(), b"blacklist 3\n");
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read_regular(&path).unwrap_err().to_string(), "it has more than 64 MiB");
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read_regular(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(read_regular(Path::new("/dev/zero")).is_err());
        assert_eq!(read_regular(Path::new("/")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read_regular(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_new_text_replaces_the_old_one_and_leaves_nothing_beside_it() {
        let directory = std::env::temp_dir().join(format!("pen-textfile-replace-{}", process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("it");
        fs::write(temporary_beside(&path).unwrap(), "left by a crash").unwrap();
        for page in ["first", "second"] {
            replace(&path, page, Some(0o644)).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), page);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        // A rename onto a directory fails, after the page was written.
        fs::create_dir(directory.join("taken")).unwrap();
        assert!(replace(&directory.join("taken"), "x", None).is_err());
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 2);
        assert!(replace(&directory.join("missing/it"), "x", None).is_err());
        assert!(replace(Path::new("/"), "x", None).is_err());
        overwrite(&path, "3rd").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "3rd");
        assert!(overwrite(&directory, "x").is_err() && overwrite(&directory.join("none"), "x").is_err());
        fs::remove_dir_all(&directory).unwrap();
    }
}
