//! Giving up what a balancer does not need: root, groups, the file system, new privileges.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, Gid, Uid};

use crate::sys::capabilities::{self, NET_ADMIN, Sets};
use crate::sys::reason::words;

/// A user to become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The name in the user data base.
    pub name: String,
    uid: Uid,
    gid: Gid,
}

/// What is left of root's rights in a process that is not root's any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// CAP_NET_ADMIN: connecting from addresses that are not this machine's (`transparent`).
    NetAdmin,
}

impl Kept {
    fn capabilities(self) -> u64 {
        match self {
            Kept::Nothing => 0,
            Kept::NetAdmin => NET_ADMIN,
        }
    }
}

/// Why privileges could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// chroot(2) or chdir(2).
    #[error("cannot enter the jail {path}: {}{}", words(.reason), way_out(.reason))]
    Jail {
        /// The jail.
        path: String,
        /// Why not.
        reason: io::Error,
    },
    /// One of setgroups(2), setgid(2), setuid(2).
    #[error("cannot become user {name}: {}{}", words(.reason), way_out(.reason))]
    User {
        /// Whom.
        name: String,
        /// Why not.
        reason: io::Error,
    },
    /// The way back was still open.
    #[error("cannot give up root for user {name}: the system let it be taken back")]
    StillRoot {
        /// The user.
        name: String,
    },
    /// capset(2).
    #[error("cannot give up capabilities: {}", words(.0))]
    Capabilities(io::Error),
    /// prctl(2).
    #[error("cannot renounce new privileges: {}", words(.0))]
    Renounce(io::Error),
}

fn way_out(reason: &io::Error) -> &'static str {
    match reason.kind() {
        io::ErrorKind::PermissionDenied => "; start it as root, or leave the option out",
        _ => "",
    }
}

impl User {
    /// The user of that name, if there is one.
    ///
    /// # Errors
    ///
    /// The user data base cannot be read.
    pub fn find(name: &str) -> io::Result<Option<User>> {
        let entry = nix::unistd::User::from_name(name)?;
        Ok(entry.map(|entry| User { name: entry.name, uid: entry.uid, gid: entry.gid }))
    }

    /// Makes this user the owner of the path of a Unix socket that this process has just bound.
    ///
    /// # Errors
    ///
    /// This process is neither root nor that user; or something else has taken the path.
    pub fn take_socket(&self, path: &Path) -> io::Result<()> {
        // Held first, then looked at, then changed: whoever may write in its folder could exchange it in between.
        let socket =
            nix::fcntl::open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let found = nix::sys::stat::fstat(&socket)?;
        let is_socket = found.st_mode & libc::S_IFMT == libc::S_IFSOCK;
        if !is_socket || found.st_uid != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::other("another file has taken its place"));
        }
        let (owner, group) = (Some(self.uid), Some(self.gid));
        Ok(nix::unistd::fchownat(&socket, "", owner, group, AtFlags::AT_EMPTY_PATH)?)
    }

    /// Makes this user the owner of a socket that this process has, as if it had opened it: the kernel lets sockets of
    /// one user alone share a port.
    ///
    /// # Errors
    ///
    /// This process is neither root nor that user.
    pub fn own_descriptor(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        Ok(nix::unistd::fchown(socket, Some(self.uid), None)?)
    }

    /// Becomes this user, with its group and no others, for good. Unless that is root, the capabilities that are kept
    /// are all that is left.
    ///
    /// # Errors
    ///
    /// This process is neither root nor that user already; it does not have what is to be kept; or root could be had
    /// back.
    pub fn assume(&self, kept: Kept) -> Result<(), PrivilegeError> {
        let failed =
            |errno: nix::Error| PrivilegeError::User { name: self.name.clone(), reason: errno.into() };
        if nix::unistd::geteuid().is_root() {
            nix::unistd::setgroups(&[]).map_err(failed)?;
        }
        nix::unistd::setgid(self.gid).map_err(failed)?;
        if self.uid.is_root() {
            nix::unistd::setuid(self.uid).map_err(failed)?;
        } else {
            // While it still may.
            capabilities::empty_bounding_set();
            nix::sys::prctl::set_keepcaps(kept != Kept::Nothing).map_err(failed)?;
            nix::unistd::setuid(self.uid).map_err(failed)?;
            keep_only(kept)?;
            nix::sys::prctl::set_keepcaps(false).map_err(failed)?;
            if nix::unistd::setuid(Uid::from_raw(0)).is_ok() {
                return Err(PrivilegeError::StillRoot { name: self.name.clone() });
            }
        }
        Ok(())
    }
}

/// Makes this directory the root of the file system, and enters it.
///
/// # Errors
///
/// There is no such directory, or this process is not root.
pub fn enter_jail(path: &Path) -> Result<(), PrivilegeError> {
    nix::unistd::chroot(path)
        .and_then(|()| nix::unistd::chdir("/"))
        .map_err(|errno| PrivilegeError::Jail { path: path.display().to_string(), reason: errno.into() })
}

/// From now on neither this process nor its children gain privileges by executing a file. Unless it is root's, the
/// capabilities that are kept are all that it has.
///
/// # Errors
///
/// It does not have what is to be kept; or the kernel is older than 3.5.
pub fn renounce(kept: Kept) -> Result<(), PrivilegeError> {
    if !is_root() {
        capabilities::empty_bounding_set();
        keep_only(kept)?;
    }
    let failed = |errno: nix::Error| PrivilegeError::Renounce(errno.into());
    nix::sys::prctl::set_no_new_privs().map_err(failed)?;
    // The kernel denies core files to a process that changed its user, or has got capabilities with its program; USR2
    // promises one. Who lacks a capability that is kept cannot trace this process all the same.
    nix::sys::prctl::set_dumpable(true).map_err(failed)
}

fn keep_only(kept: Kept) -> Result<(), PrivilegeError> {
    capabilities::set(Sets::exactly(kept.capabilities())).map_err(PrivilegeError::Capabilities)
}

/// Makes sure that this process can use what is to be kept.
///
/// # Errors
///
/// `PermissionDenied`: it was not given that.
pub fn claim(kept: Kept) -> io::Result<()> {
    let sets = capabilities::current()?;
    // A file that gives a capability (setcap) may leave it to the program when to use it.
    capabilities::set(Sets { effective: sets.effective | kept.capabilities(), ..sets })
}

/// Is this process root?
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Could this process open `path` for writing, making it if there is none? Touches nothing.
///
/// # Errors
///
/// It could not, and why.
pub fn check_writable(path: &Path) -> io::Result<()> {
    let file = match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            return access(folder, AccessFlags::W_OK | AccessFlags::X_OK);
        }
        other => other?,
    };
    if file.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    access(path, AccessFlags::W_OK)
}

fn access(path: &Path, how: AccessFlags) -> io::Result<()> {
    Ok(nix::unistd::faccessat(nix::fcntl::AT_FDCWD, path, how, AtFlags::AT_EACCESS)?)
}

/// Lets a process have that many open descriptors, or as many as the system allows. Never lowers a limit. `pid`: which
/// process; none: this one. Returns how many it may have now.
///
/// # Errors
///
/// The process is gone, or belongs to somebody else.
pub fn raise_descriptor_limit(pid: Option<i32>, wanted: u64) -> io::Result<u64> {
    let pid = pid.unwrap_or(0);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    prlimit(pid, None, Some(&mut limit))?;
    if limit.rlim_cur >= wanted {
        return Ok(limit.rlim_cur);
    }
    let more = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
    if prlimit(pid, Some(&more), None).is_ok() {
        return Ok(wanted);
    }
    // Only root may raise the hard limit, and not even root beyond fs.nr_open.
    limit.rlim_cur = limit.rlim_max.min(wanted);
    prlimit(pid, Some(&limit), None)?;
    Ok(limit.rlim_cur)
}

fn prlimit(pid: i32, new: Option<&libc::rlimit>, old: Option<&mut libc::rlimit>) -> io::Result<()> {
    let new = new.map_or(std::ptr::null(), std::ptr::from_ref);
    let old = old.map_or(std::ptr::null_mut(), std::ptr::from_mut);
    // SAFETY: each pointer is null or comes from a reference that lives until the call returns.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, new, old) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_alone() {
        let root = User::find("root").unwrap().unwrap();
        assert_eq!((root.uid.as_raw(), root.name.as_str()), (0, "root"));
        assert_eq!(User::find("no-such-user-here").unwrap(), None);
    }

    #[test]
    fn limits_are_raised_and_never_lowered() {
        let now = raise_descriptor_limit(None, 0).unwrap();
        assert!(now > 0);
        assert_eq!(raise_descriptor_limit(None, 1).unwrap(), now);
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(raise_descriptor_limit(Some(own), now).unwrap(), now);
    }

    #[test]
    fn a_limit_beyond_what_the_system_allows_is_granted_as_far_as_possible() {
        let granted = raise_descriptor_limit(None, u64::MAX / 2).unwrap();
        assert!(granted < u64::MAX / 2);
        assert_eq!(raise_descriptor_limit(None, 0).unwrap(), granted);
    }

    #[test]
    fn writable_means_that_the_file_or_its_folder_is() {
        let folder = std::env::temp_dir();
        check_writable(&folder.join("pen-no-such-file")).unwrap();
        check_writable(Path::new("pen-no-such-file")).unwrap();
        assert!(check_writable(&folder).is_err());
        assert!(check_writable(Path::new("/no/such/folder/file")).is_err());
    }

    #[test]
    fn only_root_enters_jails() {
        if is_root() {
            return; // It would lock this test program in.
        }
        let error = enter_jail(Path::new("/")).unwrap_err().to_string();
        assert!(error.contains("start it as root"), "{error}");
    }
}
