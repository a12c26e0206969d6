//! Numbers that nobody else has.

use std::hash::{BuildHasher, RandomState};

use super::clock;

/// A number that is most likely another one with every call, in every process: for telling apart, and no secret.
pub fn number() -> u32 {
    // The keys of the hash are the kernel's, but the same in all processes that were forked from one that has used them.
    RandomState::new().hash_one((std::process::id(), clock::now().0)) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn numbers_do_not_repeat() {
        let numbers: BTreeSet<u32> = (0..1000).map(|_| super::number()).collect();
        assert!(numbers.len() > 990);
    }
}
