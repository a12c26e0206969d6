//! Memory that stays shared across fork: one memfd, mapped whole.
//!
//! The file is sparse: what nobody has touched costs address space only. The mapping is never moved, resized or
//! lent out as a slice, so an address in it is good for as long as it lives, in every process that inherited it.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;

use memmap2::{Advice, MmapOptions, MmapRaw};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};

/// A shared mapping of zeroed memory, and the file behind it.
#[derive(Debug)]
pub struct SharedMemory {
    map: MmapRaw,
    file: File,
}

impl SharedMemory {
    /// Reserves `length` bytes, all zero. The descriptor is close-on-exec; `name` is what /proc/self/maps shows.
    ///
    /// # Errors
    /// What the system says; `EFBIG` if the file size limit of the process (`ulimit -f`) is below `length`.
    pub fn create(name: &str, length: usize) -> io::Result<Self> {
        check_file_limit(length as u64)?;
        let file = File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
        file.set_len(length as u64)?;
        let map = MmapOptions::new().len(length).map_raw(&file)?;
        // A core file would hold all of the reserve, touched or not.
        map.advise(Advice::DontDump)?;
        Ok(SharedMemory { map, file })
    }

    /// Where it starts: on a page of its own.
    pub fn start(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).expect("a mapping is never at address 0")
    }

    /// Its length in bytes.
    pub fn length(&self) -> usize {
        self.map.len()
    }

    /// How many bytes of real memory it takes by now.
    pub fn footprint(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * 512)
    }
}

/// May this process have files of this length? To be asked before one is made: growing a file past the limit would not
/// fail but kill the process, with SIGXFSZ.
///
/// # Errors
/// `EFBIG` if it may not.
pub(super) fn check_file_limit(length: u64) -> io::Result<()> {
    let (limit, _) = getrlimit(Resource::RLIMIT_FSIZE)?;
    if limit < length {
        return Err(io::Error::from_raw_os_error(libc::EFBIG));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_costs_nothing_until_touched() {
        let memory = SharedMemory::create("test", 1 << 30).unwrap();
        assert_eq!(memory.length(), 1 << 30);
        assert_eq!(memory.start().addr().get() % 4096, 0);
        assert_eq!(memory.footprint().unwrap(), 0);
    }

    #[test]
    fn a_reserve_beyond_all_files_is_an_error() {
        assert!(SharedMemory::create("test", usize::MAX / 2).is_err());
    }
}
