//! Memory that nobody can change any more: filled once, sealed for ever, mapped for reading.
//!
//! A file that is cut short while it is mapped kills whoever reads beyond its new end, with SIGBUS; one that is
//! written to changes under its readers. The seals of a memfd keep everybody from both, its maker too, so that the
//! mapping can be lent out as a slice, and a descriptor of it can be given to other processes.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{Mmap, MmapOptions};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::memory;

/// What must be sealed before the memory is lent out.
const UNCHANGING: SealFlag =
    SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_WRITE);

/// A sealed copy of the next `length` bytes of `source`, or of what there is before its end. The descriptor is
/// close-on-exec; `name` is what /proc/self/maps shows.
///
/// # Errors
/// No memory, no descriptor; what reading says; `EFBIG` if the file size limit of the process is below `length`.
pub fn copy(name: &str, source: impl Read, length: u64) -> io::Result<OwnedFd> {
    memory::check_file_limit(length)?;
    let mut file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    io::copy(&mut source.take(length), &mut file)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(UNCHANGING | SealFlag::F_SEAL_SEAL))?;
    Ok(file.into())
}

/// A mapping of sealed memory. It outlives the descriptor, and forks.
#[derive(Debug)]
pub struct Mapping(Mmap);

impl Mapping {
    /// Maps all of it.
    ///
    /// # Errors
    /// `InvalidData` if it is not sealed; no memory.
    #[allow(unsafe_code)]
    pub fn of(memory: BorrowedFd<'_>) -> io::Result<Self> {
        // Only memfds have seals.
        let seals = fcntl(memory.as_fd(), FcntlArg::F_GET_SEALS)
            .map_or(SealFlag::empty(), SealFlag::from_bits_retain);
        if !seals.contains(UNCHANGING) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the memory is not sealed"));
        }
        // Private, because kernels before 6.7 refuse a shared mapping of what is sealed against writing.
        // SAFETY: the slice that is lent out never changes or goes: the kernel keeps the seals, found just now, which
        // forbid everybody to write to the file and to cut it, and they cannot be taken off.
        let map = unsafe { MmapOptions::new().map_copy_read_only(&memory) }?;
        Ok(Mapping(map))
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn what_is_sealed_is_mapped_and_stays_as_it_is() {
        let memory = copy("test", &b"what there is"[..], 9).unwrap();
        let mapping = Mapping::of(memory.as_fd()).unwrap();
        let file = File::from(memory);
        assert!(file.write_at(b"W", 0).is_err());
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(100).is_err());
        drop(file);
        assert_eq!(mapping.as_ref(), b"what ther");
    }

    #[test]
    fn a_source_may_be_shorter_than_was_thought() {
        let memory = copy("test", &b"abc"[..], 1000).unwrap();
        assert_eq!(Mapping::of(memory.as_fd()).unwrap().as_ref(), b"abc");
        let memory = copy("test", io::empty(), 1000).unwrap();
        assert_eq!(Mapping::of(memory.as_fd()).unwrap().as_ref(), b"");
    }

    #[test]
    fn what_somebody_could_change_is_not_mapped() {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = File::from(memfd_create("test", flags).unwrap());
        file.set_len(1000).unwrap();
        let refused =
            |file: &File| Mapping::of(file.as_fd()).unwrap_err().kind() == io::ErrorKind::InvalidData;
        assert!(refused(&file));
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE)).unwrap();
        assert!(refused(&file));
        fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW)).unwrap();
        assert!(!Mapping::of(file.as_fd()).unwrap().as_ref().is_empty());
        assert!(refused(&File::open("/proc/self/exe").unwrap()));
        assert!(refused(&File::open("/dev/zero").unwrap()));
    }
}
