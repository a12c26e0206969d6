//! Messages with descriptors between processes of one family: SOCK_SEQPACKET pairs and sealed memory.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    self as ns, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
};

/// Most descriptors that one message carries; the kernel takes no more than 253.
pub const MOST_DESCRIPTORS: usize = 32;

/// Two connected ends, non-blocking and close-on-exec. Messages keep their borders.
///
/// # Errors
/// No descriptors.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    Ok(ns::socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

/// Sends one message and copies of the descriptors.
///
/// # Errors
/// `WouldBlock` when the other end has not read enough of the earlier ones; `BrokenPipe` when it is gone.
pub fn send(to: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    ns::sendmsg::<UnixAddr>(to.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one message into `room`: its length (0: the other end is gone) and the descriptors, close-on-exec.
///
/// # Errors
/// `WouldBlock` when there is none; `InvalidData` when it did not fit.
#[allow(unsafe_code)]
pub fn receive(from: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut control = nix::cmsg_space!([RawFd; MOST_DESCRIPTORS]);
    let mut slices = [IoSliceMut::new(room)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = ns::recvmsg::<UnixAddr>(from.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let mut descriptors = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            for fd in raw {
                // SAFETY: recvmsg has just made this descriptor for us, nobody else owns it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    if message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok((message.bytes, descriptors))
}

/// Memory with these bytes that nobody can change any more, to be sent as a descriptor.
///
/// # Errors
/// No memory, no descriptor.
pub fn sealed(bytes: &[u8]) -> io::Result<OwnedFd> {
    let memory = memfd_create(c"pen-settings", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    let seals =
        SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file.into())
}

/// All bytes of such memory. Several processes may read the same at once: nobody's place in it is moved.
///
/// # Errors
/// pread(2)'s; `UnexpectedEof` if it is not sealed and has shrunk meanwhile.
pub fn unseal(memory: OwnedFd) -> io::Result<Vec<u8>> {
    let file = File::from(memory);
    let length = usize::try_from(file.metadata()?.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}
