//! Capabilities, root's rights one by one: capabilities(7).
#![allow(unsafe_code)]

use std::io;

/// CAP_NET_ADMIN: the only one that pen ever keeps.
pub(super) const NET_ADMIN: u64 = 1 << 12;

/// _LINUX_CAPABILITY_VERSION_3: sets of 64 bits, in two halves.
const VERSION: u32 = 0x2008_0522;

/// No kernel has more: its sets are of 64 bits.
const MOST: libc::c_ulong = 64;

/// The sets of this process: a bit for each capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sets {
    /// What counts now.
    pub(super) effective: u64,
    /// What may be made to count.
    pub(super) permitted: u64,
    /// What a program that is executed may be given. The ambient set is always a part of this and of the permitted one.
    pub(super) inheritable: u64,
}

impl Sets {
    /// Exactly these, and none for programs that are executed.
    pub(super) fn exactly(capabilities: u64) -> Self {
        Sets { effective: capabilities, permitted: capabilities, inheritable: 0 }
    }
}

/// The kernel's `__user_cap_header_struct`; process 0 is the one that calls.
#[repr(C)]
struct Header {
    version: u32,
    pid: libc::c_int,
}

/// The kernel's `__user_cap_data_struct`: 32 capabilities, of which there are two.
#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// What this process has.
///
/// # Errors
/// capget(2)'s: the kernel is older than 2.6.26.
pub(super) fn current() -> io::Result<Sets> {
    let mut header = Header { version: VERSION, pid: 0 };
    let mut halves = [Half::default(); 2];
    // SAFETY: both live until the call returns, in the layout of that version, whose data are two halves.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let [low, high] = halves;
    let joined = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
    Ok(Sets {
        effective: joined(low.effective, high.effective),
        permitted: joined(low.permitted, high.permitted),
        inheritable: joined(low.inheritable, high.inheritable),
    })
}

/// Makes these the sets of this process: all at once, or none.
///
/// # Errors
/// They hold one that is not permitted now.
pub(super) fn set(sets: Sets) -> io::Result<()> {
    let mut header = Header { version: VERSION, pid: 0 };
    let half = |shift: u32| Half {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let halves = [half(0), half(32)];
    // SAFETY: as above; the data are only read.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
    if result != 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Empties the bounding set, as far as this process may: what no program that it executes can be given.
pub(super) fn empty_bounding_set() {
    for capability in 0..MOST {
        // SAFETY: numbers alone; one that the kernel does not know is an error, as one that may not be dropped is.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_what_is_there() {
        // Of this thread alone: capset(2) knows nothing of processes.
        let made = std::thread::spawn(|| {
            let before = current().unwrap();
            set(Sets::exactly(before.permitted & NET_ADMIN)).unwrap();
            (before, current().unwrap())
        });
        let (before, after) = made.join().unwrap();
        assert_eq!(after, Sets::exactly(before.permitted & NET_ADMIN));
        assert_eq!(before.effective & !before.permitted, 0);
    }

    #[test]
    fn what_is_not_permitted_cannot_be_had() {
        let refused = std::thread::spawn(|| {
            set(Sets::exactly(0)).unwrap();
            set(Sets::exactly(NET_ADMIN))
        });
        assert_eq!(refused.join().unwrap().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
