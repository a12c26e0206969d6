//! The one lock: around client look-up, server choice and reservation.
//!
//! It is robust. Whoever takes it after a holder has died rebuilds what that one may have left half-done before doing
//! anything else (see [`crate::shared::clients`]), so a [`Guard`] always means tables that are in order. It is held
//! for well under a microsecond and never across a system call; the repair, and growing a table, are the exceptions.
#![forbid(unsafe_code)]

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::model::ids::WorkerId;
use crate::shared::clients;
use crate::shared::region::Region;
use crate::sys::mutex::{Previous, RobustMutex};

/// The lock's part of the header.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Lock {
    pub(super) mutex: RobustMutex,
    /// 0 nobody, [`MASTER`], or a worker's number + 1. A hint: written after locking, cleared before unlocking.
    holder: AtomicU32,
    _reserved: AtomicU32,
    repairs: AtomicU64,
}
const _: () = assert!(size_of::<Lock>() == 64);

const MASTER: u32 = u32::MAX;

/// The lock is held, by the caller.
#[derive(Debug)]
#[must_use]
pub struct Guard<'a> {
    region: &'a Region,
    /// pthread wants the unlock from the thread that locked.
    _not_send: PhantomData<*const ()>,
}

/// The lock could not be had in time: its holder is stopped or stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    /// The worker that has it, as far as that was noted.
    pub holder: Option<WorkerId>,
}

impl std::error::Error for Busy {}

impl std::fmt::Display for Busy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.holder {
            Some(worker) => write!(f, "the shared tables are locked by worker {worker}; try again"),
            None => write!(f, "the shared tables are locked; try again"),
        }
    }
}

impl Region {
    /// For how long the master waits for the lock at a time.
    pub const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

    /// Takes the lock for a worker. The caller must not hold it already.
    ///
    /// It cannot fail while the mutex is intact, see [`RobustMutex::lock`]. If somebody has written over it nothing
    /// can be balanced any more: the process says so and exits with status 1.
    #[inline]
    pub fn lock(&self, worker: WorkerId) -> Guard<'_> {
        match self.header().lock.mutex.lock() {
            Ok(previous) => self.locked(worker.0.saturating_add(1), previous),
            Err(error) => {
                eprintln!("pen: the lock of the shared tables is damaged ({error}); restart pen");
                std::process::exit(1)
            }
        }
    }

    /// Takes the lock for the master, which must never hang because a worker does.
    ///
    /// # Errors
    /// [`Busy`] if it was not to be had within `wait`.
    pub fn lock_within(&self, wait: Duration) -> Result<Guard<'_>, Busy> {
        match self.header().lock.mutex.lock_within(wait) {
            Ok(Some(previous)) => Ok(self.locked(MASTER, previous)),
            Ok(None) | Err(_) => Err(Busy { holder: self.lock_holder() }),
        }
    }

    #[inline]
    fn locked(&self, holder: u32, previous: Previous) -> Guard<'_> {
        let lock = &self.header().lock;
        lock.holder.store(holder, Relaxed);
        if previous == Previous::Died {
            // No guard yet: should the repair panic the mutex stays locked, and the next one is told to repair.
            clients::repair(self);
            lock.mutex
                .mark_consistent()
                .expect("this process holds the mutex and was told that its owner died");
        }
        Guard { region: self, _not_send: PhantomData }
    }

    /// How often the tables were repaired so far: a worker had died with the lock, or one had gone mad.
    pub fn repairs(&self) -> u64 {
        self.header().lock.repairs.load(Relaxed)
    }

    pub(super) fn repaired(&self) {
        self.header().lock.repairs.fetch_add(1, Relaxed);
    }

    pub(super) fn lock_holder(&self) -> Option<WorkerId> {
        match self.header().lock.holder.load(Relaxed) {
            0 | MASTER => None,
            worker => Some(WorkerId(worker - 1)),
        }
    }

    /// A dead worker is not a holder to look for.
    pub(super) fn forget_holder(&self, worker: WorkerId) {
        let dead = worker.0.saturating_add(1);
        let _ = self.header().lock.holder.compare_exchange(dead, 0, Relaxed, Relaxed);
    }
}

impl Guard<'_> {
    pub(super) fn region(&self) -> &Region {
        self.region
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        if std::thread::panicking() {
            // Tables that a panic has left half-changed are for the next holder to repair: dying with the lock says so.
            return;
        }
        let lock = &self.region.header().lock;
        lock.holder.store(0, Relaxed);
        // Refused only if the mutex was written over, which the next `lock` reports.
        let _ = lock.mutex.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::region::Geometry;

    #[test]
    fn a_panic_with_the_lock_is_a_death_with_the_lock() {
        let region = Region::create(Geometry { clients: 4, connections: 1 }).unwrap();
        std::thread::scope(|scope| {
            let holder = scope.spawn(|| {
                let _guard = region.lock(WorkerId(1));
                panic!("half-way");
            });
            assert!(holder.join().is_err());
        });
        drop(region.lock_within(Duration::ZERO).unwrap());
        assert_eq!(region.repairs(), 1);
    }
}
