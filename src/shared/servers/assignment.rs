//! Which row each server of a new list gets.
//!
//! A server is known by its address: it keeps its row, and with that its connections, its totals and its failures,
//! wherever in the list it stands. Pure; done before the lock is taken.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use super::RowId;
use crate::model::address::SocketAddress;

/// A row as the assignment sees it.
#[derive(Debug, Clone, Default)]
pub(super) struct RowState {
    /// The address that moved in last.
    pub(super) address: Option<SocketAddress>,
    /// The position in the list that it has now.
    pub(super) position: Option<usize>,
    /// Connections to it.
    pub(super) load: u32,
}

/// Rows for the positions of a list that have a server, in the same order. `None` as an address: not resolved (yet).
/// `rows` are those that have ever been used; there are `room` in all. A row that is not listed now goes to another
/// address only when there is no unused one, and then one without connections comes first.
pub(super) fn assign(
    positions: &[(usize, Option<SocketAddress>)],
    rows: &[RowState],
    room: usize,
) -> Vec<Option<RowId>> {
    let mut assigned: Vec<Option<usize>> = vec![None; positions.len()];
    let mut taken = vec![false; rows.len()];
    let current: HashMap<usize, usize> =
        rows.iter().enumerate().filter_map(|(row, state)| Some((state.position?, row))).collect();
    let take = |assigned: &mut Option<usize>, row: usize, taken: &mut Vec<bool>| {
        if assigned.is_none() && !std::mem::replace(&mut taken[row], true) {
            *assigned = Some(row);
        }
    };

    // Who stays at its position comes first, so that a server that is listed twice is not mixed up with itself.
    for ((position, address), assigned) in positions.iter().zip(&mut assigned) {
        if let Some(&row) = current.get(position)
            && address.is_some()
            && rows[row].address == *address
        {
            take(assigned, row, &mut taken);
        }
    }
    let mut known: HashMap<&SocketAddress, Vec<usize>> = HashMap::new();
    for (row, state) in rows.iter().enumerate().rev() {
        if let Some(address) = state.address.as_ref().filter(|_| !taken[row]) {
            known.entry(address).or_default().push(row);
        }
    }
    for ((_, address), assigned) in positions.iter().zip(&mut assigned) {
        if assigned.is_none()
            && let Some(row) = address.as_ref().and_then(|address| known.get_mut(address)?.pop())
        {
            take(assigned, row, &mut taken);
        }
    }
    // One whose address is not known now may turn out to be the one before.
    for ((position, address), assigned) in positions.iter().zip(&mut assigned) {
        if let Some(&row) = current.get(position)
            && (address.is_none() || rows[row].address.is_none())
        {
            take(assigned, row, &mut taken);
        }
    }
    let mut old: Vec<usize> =
        (0..rows.len()).filter(|row| !taken[*row] && rows[*row].position.is_none()).collect();
    old.sort_by_key(|row| rows[*row].load);
    let mut fresh = (rows.len()..room).chain(old);
    for assigned in assigned.iter_mut().filter(|assigned| assigned.is_none()) {
        *assigned = fresh.next();
    }
    assigned.into_iter().map(|row| row.map(|row| RowId(row as u32))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(port: u16) -> SocketAddress {
        SocketAddress::Inet(([127, 0, 0, 1], port).into())
    }

    fn row(port: u16, position: Option<usize>, load: u32) -> RowState {
        RowState { address: (port != 0).then(|| at(port)), position, load }
    }

    fn rows_for(list: &[u16], rows: &[RowState], room: usize) -> Vec<Option<u32>> {
        let positions: Vec<_> = list.iter().map(|port| (*port != 0).then(|| at(*port))).enumerate().collect();
        assign(&positions, rows, room).into_iter().map(|row| Some(row?.0)).collect()
    }

    #[test]
    fn a_new_list_gets_rows_in_order() {
        assert_eq!(rows_for(&[80, 81, 0], &[], 8), [Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn a_server_keeps_its_row_at_another_position() {
        let rows = [row(80, Some(0), 1), row(81, Some(1), 1), row(82, Some(2), 0)];
        assert_eq!(rows_for(&[81, 80], &rows, 8), [Some(1), Some(0)]);
        assert_eq!(rows_for(&[81, 83, 82], &rows, 8), [Some(1), Some(3), Some(2)]);
    }

    #[test]
    fn a_server_listed_twice_keeps_both_rows_apart() {
        let rows = [row(80, Some(0), 1), row(80, Some(1), 5)];
        assert_eq!(rows_for(&[80, 80], &rows, 8), [Some(0), Some(1)]);
        assert_eq!(rows_for(&[81, 80, 80], &rows, 8), [Some(2), Some(1), Some(0)]);
    }

    #[test]
    fn a_server_whose_name_means_nothing_now_keeps_its_row_unless_another_has_its_address() {
        let rows = [row(80, Some(0), 1), row(0, Some(1), 0)];
        assert_eq!(rows_for(&[0, 81], &rows, 8), [Some(0), Some(1)]);
        assert_eq!(rows_for(&[0, 80], &rows, 8), [Some(2), Some(0)]);
    }

    #[test]
    fn when_no_unused_row_is_left_the_ones_without_connections_are_first() {
        let rows = [row(80, Some(0), 0), row(81, None, 7), row(82, None, 0)];
        assert_eq!(rows_for(&[90, 91], &rows, 3), [Some(2), Some(1)], "never one that is listed");
        assert_eq!(rows_for(&[90, 91, 92], &rows, 3), [Some(2), Some(1), None]);
    }

    proptest! {
        #[test]
        fn nobody_shares_a_row_and_an_address_that_has_one_does_not_get_another(
            list in prop::collection::vec(0u16..6, 0..10),
            mut rows in prop::collection::vec((0u16..6, any::<bool>(), 0u32..3), 0..16),
        ) {
            let mut positions = 0..list.len();
            let state: Vec<RowState> = rows
                .drain(..)
                .map(|(port, listed, load)| row(port, if listed { positions.next() } else { None }, load))
                .collect();
            let assigned = rows_for(&list, &state, 32);
            let mut seen = std::collections::BTreeSet::new();
            for (port, row) in list.iter().zip(&assigned) {
                let row = row.unwrap() as usize;
                prop_assert!(seen.insert(row), "row {row} twice");
                let has = |state: &&RowState| *port != 0 && state.address == Some(at(*port));
                let same = list.iter().filter(|other| *other == port).count();
                if *port != 0 && state.iter().filter(has).count() >= same {
                    prop_assert_eq!(&state[row].address, &Some(at(*port)));
                }
            }
        }
    }
}
