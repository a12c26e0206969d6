//! Files that must not outlive the process that made them: the pid file, the path of a Unix socket.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

/// A file that goes when this value is dropped: by the process that owns it, and if it still is the same file. In
/// every other process (a child that drops what it inherited) dropping does nothing.
#[derive(Debug)]
pub struct OwnedPath {
    path: PathBuf,
    identity: (u64, u64),
    owner: Option<u32>,
}

impl OwnedPath {
    /// The file that is there now, owned by this process.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn of(path: &Path) -> io::Result<Self> {
        let identity = identity(&fs::symlink_metadata(path)?);
        Ok(OwnedPath { path: path.to_path_buf(), identity, owner: Some(process::id()) })
    }

    /// From now on the file belongs to this process, which a child of the former owner calls.
    pub fn adopt(&mut self) {
        self.owner = Some(process::id());
    }

    /// This process leaves the file to the one that adopted it.
    pub fn disown(&mut self) {
        self.owner = None;
    }
}

impl Drop for OwnedPath {
    fn drop(&mut self) {
        if self.owner != Some(process::id()) {
            return;
        }
        // In a jail the path leads elsewhere or nowhere, and somebody may have put a file of his own there.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| identity(&found) == self.identity) {
            // It may lie in a folder in which only root may write: then it stays, and the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What makes a file this file and not another one of the same name.
pub fn identity(file: &fs::Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fresh(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pen-owned-path-{}-{name}", process::id()));
        fs::write(&path, "x").unwrap();
        path
    }

    #[test]
    fn the_file_goes_with_its_owner() {
        let path = fresh("goes");
        drop(OwnedPath::of(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_was_left_or_belongs_to_another_process_stays() {
        let path = fresh("stays");
        let mut left = OwnedPath::of(&path).unwrap();
        left.disown();
        drop(left);
        let mut foreign = OwnedPath::of(&path).unwrap();
        foreign.owner = Some(1);
        drop(foreign);
        assert!(path.exists());
        let mut adopted = OwnedPath::of(&path).unwrap();
        adopted.owner = Some(1);
        adopted.adopt();
        drop(adopted);
        assert!(!path.exists());
    }

    #[test]
    fn another_file_of_the_same_name_stays() {
        let path = fresh("replaced");
        let owned_path = OwnedPath::of(&path).unwrap();
        // Made before the old one goes, so it cannot be given the same inode.
        let other = fresh("replacement");
        fs::rename(&other, &path).unwrap();
        drop(owned_path);
        assert!(path.exists());
        fs::remove_file(&path).unwrap();
    }
}
