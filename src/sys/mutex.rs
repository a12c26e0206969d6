//! A mutex that processes share and that survives the death of its holder: pthread's, robust.
//!
//! Who takes it after a holder has died gets [`Previous::Died`], repairs what it guards, and then says so with
//! [`RobustMutex::mark_consistent`]. Dying before that is no harm either: the next one is told the same.
#![allow(unsafe_code)]

use std::cell::UnsafeCell;
use std::io;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};

/// How the previous holder left the mutex.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Previous {
    /// It unlocked.
    Unlocked,
    /// It died while it held the mutex.
    Died,
}

/// The mutex itself; it must lie in memory that is shared across fork and never moves.
#[repr(C)]
pub struct RobustMutex {
    inner: UnsafeCell<libc::pthread_mutex_t>,
}

// SAFETY: pthread mutexes are made for being used from several threads through one address; nothing else touches
// `inner`.
unsafe impl Sync for RobustMutex {}

impl std::fmt::Debug for RobustMutex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RobustMutex")
    }
}

impl RobustMutex {
    /// How long a waiter sleeps before it looks for itself whether the mutex is free.
    const LOOK_AGAIN: Duration = Duration::from_millis(10);

    /// A bounded wait tries this often. Long beside the time that a holder needs, short beside what people notice.
    const BETWEEN_TRIES: Duration = Duration::from_micros(200);

    /// Makes it ready for use, unlocked: robust, shared between processes, error-checking.
    ///
    /// # Safety
    /// Nobody uses the mutex yet, and it stays where it is until its memory is unmapped by all.
    ///
    /// # Errors
    /// When the C library has no such mutexes.
    pub unsafe fn init(&self) -> io::Result<()> {
        let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: the pointer is to storage for an attribute object, which this call initialises.
        check(unsafe { libc::pthread_mutexattr_init(attributes.as_mut_ptr()) })?;
        let attributes = attributes.as_mut_ptr();
        // SAFETY: initialised above, as for the following three.
        check(unsafe { libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED) })?;
        // SAFETY: as above.
        check(unsafe { libc::pthread_mutexattr_setrobust(attributes, libc::PTHREAD_MUTEX_ROBUST) })?;
        // SAFETY: as above. Error-checking, so that unlocking what one does not hold is an error, not undefined.
        check(unsafe { libc::pthread_mutexattr_settype(attributes, libc::PTHREAD_MUTEX_ERRORCHECK) })?;
        // SAFETY: the caller promises that nobody uses the mutex yet; the attributes are initialised.
        let made = unsafe { libc::pthread_mutex_init(self.inner.get(), attributes) };
        // SAFETY: initialised above, and not used after this.
        check(unsafe { libc::pthread_mutexattr_destroy(attributes) })?;
        check(made)
    }

    /// Takes the mutex, however long that takes.
    ///
    /// Who waits looks again every 10 ms. The kernel wakes one waiter when the mutex becomes free; if
    /// that one is killed before it has it, and somebody else takes it meanwhile, nobody wakes the next.
    ///
    /// # Errors
    /// None as long as nobody writes over the mutex: `ENOTRECOVERABLE` would mean that somebody unlocked it after
    /// [`Previous::Died`] without [`RobustMutex::mark_consistent`], `EDEADLK` that the caller holds it already.
    #[inline]
    pub fn lock(&self) -> io::Result<Previous> {
        // SAFETY: `init` came first (its caller hands out no reference before); the memory stays mapped while
        // `self` is borrowed.
        match unsafe { libc::pthread_mutex_trylock(self.inner.get()) } {
            libc::EBUSY => self.lock_patiently(),
            result => taken(result),
        }
    }

    #[cold]
    fn lock_patiently(&self) -> io::Result<Previous> {
        loop {
            let until = soon(Self::LOOK_AGAIN);
            // SAFETY: as for `lock`; `until` lives across the call.
            match unsafe { lock_until(self.inner.get(), &until) } {
                libc::ETIMEDOUT => {}
                result => return taken(result),
            }
        }
    }

    /// Takes the mutex if that is possible within `wait`, by the monotonic clock. None: it was not.
    ///
    /// # Errors
    /// As for [`RobustMutex::lock`]; a caller that holds it already waits in vain.
    pub fn lock_within(&self, wait: Duration) -> io::Result<Option<Previous>> {
        // Not pthread_mutex_timedlock: that one's deadline is a wall time, and setting the clock back would prolong
        // the wait by as much.
        let begun = Instant::now();
        loop {
            // SAFETY: as for `lock`.
            match unsafe { libc::pthread_mutex_trylock(self.inner.get()) } {
                libc::EBUSY if begun.elapsed() < wait => std::thread::sleep(Self::BETWEEN_TRIES),
                libc::EBUSY => return Ok(None),
                result => return taken(result).map(Some),
            }
        }
    }

    /// After [`Previous::Died`]: what the mutex guards is in order again.
    ///
    /// # Errors
    /// When the caller does not hold it, or its previous holder had not died.
    pub fn mark_consistent(&self) -> io::Result<()> {
        // SAFETY: as for `lock`.
        check(unsafe { libc::pthread_mutex_consistent(self.inner.get()) })
    }

    /// Lets go.
    ///
    /// # Errors
    /// When the caller does not hold it.
    #[inline]
    pub fn unlock(&self) -> io::Result<()> {
        // SAFETY: as for `lock`; an error-checking mutex refuses everybody but its holder.
        check(unsafe { libc::pthread_mutex_unlock(self.inner.get()) })
    }
}

/// The clock that [`lock_until`] goes by.
#[cfg(target_env = "gnu")]
const CLOCK: ClockId = ClockId::CLOCK_MONOTONIC;
#[cfg(not(target_env = "gnu"))]
const CLOCK: ClockId = ClockId::CLOCK_REALTIME;

/// pthread_mutex_clocklock(3) by the monotonic clock: since glibc 2.30, and not in the libc crate.
///
/// # Safety
/// As for pthread_mutex_timedlock(3).
#[cfg(target_env = "gnu")]
unsafe fn lock_until(mutex: *mut libc::pthread_mutex_t, until: &libc::timespec) -> libc::c_int {
    unsafe extern "C" {
        fn pthread_mutex_clocklock(
            mutex: *mut libc::pthread_mutex_t,
            clock: libc::clockid_t,
            until: *const libc::timespec,
        ) -> libc::c_int;
    }
    // SAFETY: the declaration is that of <pthread.h>; the rest is the caller's promise.
    unsafe { pthread_mutex_clocklock(mutex, libc::CLOCK_MONOTONIC, until) }
}

/// Elsewhere by wall time: setting the clock back makes this one wait longer.
///
/// # Safety
/// As for pthread_mutex_timedlock(3).
#[cfg(not(target_env = "gnu"))]
unsafe fn lock_until(mutex: *mut libc::pthread_mutex_t, until: &libc::timespec) -> libc::c_int {
    // SAFETY: the caller's promise.
    unsafe { libc::pthread_mutex_timedlock(mutex, until) }
}

/// This long from now, by that clock.
fn soon(length: Duration) -> libc::timespec {
    let now = clock_gettime(CLOCK).map_or(Duration::ZERO, Duration::from);
    *TimeSpec::from(now + length).as_ref()
}

fn check(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[inline]
fn taken(result: libc::c_int) -> io::Result<Previous> {
    match result {
        0 => Ok(Previous::Unlocked),
        libc::EOWNERDEAD => Ok(Previous::Died),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mutex on the heap, never freed; robustness counts the death of a thread as it does that of a process.
    fn mutex() -> &'static RobustMutex {
        // SAFETY: all zero bytes are a valid mutex, statically initialised.
        let inner = UnsafeCell::new(unsafe { std::mem::zeroed() });
        let mutex: &'static RobustMutex = Box::leak(Box::new(RobustMutex { inner }));
        // SAFETY: nobody else knows it, and a leaked box stays.
        unsafe { mutex.init() }.unwrap();
        mutex
    }

    #[test]
    fn locks_and_unlocks() {
        let mutex = mutex();
        assert_eq!(mutex.lock().unwrap(), Previous::Unlocked);
        assert_eq!(mutex.lock().unwrap_err().raw_os_error(), Some(libc::EDEADLK));
        mutex.unlock().unwrap();
        assert!(mutex.unlock().is_err(), "not held any more");
    }

    #[test]
    fn the_death_of_the_holder_is_reported_once_repaired() {
        let mutex = mutex();
        std::thread::spawn(|| mutex.lock().unwrap()).join().unwrap();
        assert_eq!(mutex.lock().unwrap(), Previous::Died);
        mutex.mark_consistent().unwrap();
        mutex.unlock().unwrap();
        assert_eq!(mutex.lock().unwrap(), Previous::Unlocked);
        mutex.unlock().unwrap();
    }

    #[test]
    fn death_during_repair_is_reported_to_the_next() {
        let mutex = mutex();
        for _ in 0..3 {
            std::thread::spawn(|| mutex.lock().unwrap()).join().unwrap();
        }
        assert_eq!(mutex.lock_within(Duration::ZERO).unwrap(), Some(Previous::Died));
        mutex.mark_consistent().unwrap();
        mutex.unlock().unwrap();
    }

    #[test]
    fn a_bounded_wait_ends() {
        let mutex = mutex();
        mutex.lock().unwrap();
        let other = std::thread::spawn(|| mutex.lock_within(Duration::from_millis(10)).unwrap());
        assert_eq!(other.join().unwrap(), None);
        mutex.unlock().unwrap();
    }
}
