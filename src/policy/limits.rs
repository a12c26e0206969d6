//! Soft and hard limits.
//!
//! Pure: the caller counts, connections that are still being made included, and makes sure that nobody else
//! takes the place between the question and the answer's use.

/// May a server with `load` connections, open or being made, take one more? `known`: the client's last server
/// was this one. Soft 0: no limit. The hard limit counts only above the soft one, and only for known clients.
pub fn admits(load: u32, soft: u32, hard: u32, known: bool) -> bool {
    soft == 0 || load < soft || (known && load < hard)
}

#[cfg(test)]
mod tests {
    use super::admits;

    /// How many connections one client, or many, can hold on a server with these limits.
    fn places(soft: u32, hard: u32, known: bool) -> u32 {
        (0..1000).find(|load| !admits(*load, soft, hard, known)).unwrap_or(u32::MAX)
    }

    #[test]
    fn a_soft_limit_of_0_is_no_limit_whatever_the_hard_one_says() {
        assert_eq!(places(0, 0, false), u32::MAX);
        assert_eq!(places(0, 3, false), u32::MAX);
        assert!(admits(u32::MAX, 0, 3, true));
    }

    #[test]
    fn new_clients_stop_at_the_soft_limit() {
        assert_eq!(places(1, 0, false), 1);
        assert_eq!(places(2, 9, false), 2);
    }

    #[test]
    fn known_clients_stop_at_the_hard_limit() {
        assert_eq!(places(1, 3, true), 3);
        assert!(!admits(u32::MAX, 1, u32::MAX, true));
    }

    #[test]
    fn a_hard_limit_below_the_soft_one_takes_nothing_away() {
        assert_eq!(places(4, 2, true), 4);
        assert_eq!(places(4, 0, true), 4);
    }
}
