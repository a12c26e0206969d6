//! Reading a whole file in a process that must not wait.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// All bytes of a regular file. Everything else is refused: a FIFO's writer may never come, a device may never end.
///
/// # Errors
///
/// It is no regular file, or cannot be read.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_and_devices_are_not() {
        let path = std::env::temp_dir().join(format!("pen-textfile-{}", std::process::id()));
        std::fs::write(&path, "blacklist 3\n").unwrap();
        assert_eq!(read_regular(&path).unwrap(), b"blacklist 3\n");
        std::fs::remove_file(&path).unwrap();
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read_regular(&path).is_err());
        std::fs::remove_file(&path).unwrap();
        assert!(read_regular(Path::new("/dev/zero")).is_err());
        assert_eq!(read_regular(Path::new("/")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        assert_eq!(read_regular(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
