//! The pid file: `-p` of pen(1) and penlogd(1).
//!
//! It holds the number of the daemon (of pen: the master) without a line end, and is locked for as long as that lives:
//! whether a file that is there means a running program is then no guess. Files without a lock may be those of older versions, so the
//! number in them is looked at as well.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::process::owned_path::{OwnedPath, identity};
use crate::sys::reason::words;
use crate::sys::{fork, lockfile, signal};

/// The pid file of this process: locked and, in the end, removed.
#[derive(Debug)]
pub struct PidFile {
    /// Holds the lock.
    _file: File,
    _path: OwnedPath,
}

/// Why there is no pid file.
#[derive(Debug, thiserror::Error)]
pub enum PidFileError {
    /// Another process of this program has it.
    #[error("pid file {} belongs to a running {program}{}", path.display(), number(*pid))]
    Taken {
        /// The file.
        path: PathBuf,
        /// What is running.
        program: &'static str,
        /// Which process that is, if the file says so.
        pid: Option<i32>,
    },
    /// A folder, a link, a device.
    #[error("pid file {} is not a regular file; remove it or name another with -p", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// The system says no.
    #[error("cannot write the pid file {}: {}", path.display(), words(.reason))]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
}

fn number(pid: Option<i32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

impl PidFile {
    /// Makes the file, or takes over a stale one, and writes this process's number into it. `program`: what this process and
    /// others like it are called.
    ///
    /// # Errors
    ///
    /// See [`PidFileError`]. A file that was there is as it was, then.
    pub fn claim(path: &Path, program: &'static str) -> Result<Self, PidFileError> {
        claim(path, program, |pid| is_called(pid, program))
    }
}

fn claim(path: &Path, program: &'static str, is_one: impl Fn(i32) -> bool) -> Result<PidFile, PidFileError> {
    let unwritable = |reason| PidFileError::Unwritable { path: path.to_path_buf(), reason };
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(PidFileError::NotAFile { path: path.to_path_buf() });
    }
    let mut file = loop {
        let mut file = lockfile::open(path).map_err(unwritable)?;
        let taken = |pid| PidFileError::Taken { path: path.to_path_buf(), program, pid };
        if !lockfile::try_lock(&file).map_err(unwritable)? {
            return Err(taken(written_pid(&mut file)));
        }
        match written_pid(&mut file) {
            Some(pid) if pid != fork::own_pid() && is_one(pid) => return Err(taken(Some(pid))),
            _ => {}
        }
        // Its last owner may have removed it after it was opened here: then nobody would ever see this lock.
        let opened = file.metadata().map_err(unwritable)?;
        if fs::symlink_metadata(path).is_ok_and(|found| identity(&found) == identity(&opened)) {
            break file;
        }
    };
    let owned_path = OwnedPath::of(path).map_err(unwritable)?;
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", fork::own_pid()))
        .map_err(unwritable)?;
    Ok(PidFile { _file: file, _path: owned_path })
}

fn written_pid(file: &mut File) -> Option<i32> {
    let mut text = String::new();
    file.rewind().ok()?;
    // No pid is longer, whatever else the file may be.
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok().filter(|&pid| pid > 0)
}

/// Is that a process of that name? Numbers are used again, so that one lives is not enough.
fn is_called(pid: i32, program: &str) -> bool {
    signal::process_exists(pid)
        && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == program)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A folder that goes with the test.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("pen-pidfile-{}-{name}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Folder(path)
        }

        fn pidfile(&self) -> PathBuf {
            self.0.join("pid")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn it_holds_the_number_alone_and_goes_in_the_end() {
        let folder = Folder::new("plain");
        let held = PidFile::claim(&folder.pidfile(), "pen").unwrap();
        assert_eq!(fs::read_to_string(folder.pidfile()).unwrap(), std::process::id().to_string());
        let mode = fs::metadata(folder.pidfile()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o644, 0, "more than 0644: {mode:o}");
        drop(held);
        assert!(!folder.pidfile().exists());
    }

    #[test]
    fn a_locked_file_is_not_taken_and_its_owner_is_named() {
        let folder = Folder::new("locked");
        let held = PidFile::claim(&folder.pidfile(), "pen").unwrap();
        let error = PidFile::claim(&folder.pidfile(), "pen").unwrap_err().to_string();
        let expected = format!("belongs to a running pen (pid {})", std::process::id());
        assert!(error.ends_with(&expected), "{error}");
        drop(held);
        PidFile::claim(&folder.pidfile(), "pen").unwrap();
    }

    #[test]
    fn a_stale_file_is_replaced_whatever_it_holds() {
        let folder = Folder::new("stale");
        for stale in
            ["999999999", "", "rubbish", "-1", "0", "12345678901234567890123456789012345678901234567890"]
        {
            fs::write(folder.pidfile(), stale).unwrap();
            let _held = PidFile::claim(&folder.pidfile(), "pen").unwrap();
            assert_eq!(fs::read_to_string(folder.pidfile()).unwrap(), std::process::id().to_string());
        }
    }

    #[test]
    fn an_unlocked_file_of_a_running_pen_is_not_taken() {
        let folder = Folder::new("older");
        fs::write(folder.pidfile(), "1").unwrap();
        let error = claim(&folder.pidfile(), "pen", |pid| pid == 1).unwrap_err();
        assert!(matches!(error, PidFileError::Taken { pid: Some(1), .. }));
        assert_eq!(fs::read_to_string(folder.pidfile()).unwrap(), "1");
        // A process that is not a pen was given the number since.
        claim(&folder.pidfile(), "pen", |_| false).unwrap();
    }

    #[test]
    fn links_folders_and_missing_folders_are_refused() {
        let folder = Folder::new("strange");
        let victim = folder.0.join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, folder.pidfile()).unwrap();
        assert!(matches!(PidFile::claim(&folder.pidfile(), "pen"), Err(PidFileError::NotAFile { .. })));
        assert!(lockfile::open(&folder.pidfile()).is_err(), "a link was followed");
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(matches!(PidFile::claim(&folder.0, "pen"), Err(PidFileError::NotAFile { .. })));
        let missing = folder.0.join("no/such");
        assert!(matches!(PidFile::claim(&missing, "pen"), Err(PidFileError::Unwritable { .. })));
    }

    #[test]
    fn a_file_that_somebody_else_put_there_stays() {
        let folder = Folder::new("other");
        let held = PidFile::claim(&folder.pidfile(), "pen").unwrap();
        let other = folder.0.join("other");
        fs::write(&other, "1").unwrap();
        fs::rename(&other, folder.pidfile()).unwrap();
        drop(held);
        assert_eq!(fs::read_to_string(folder.pidfile()).unwrap(), "1");
    }
}
