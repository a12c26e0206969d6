//! Which datagrams leave together: equal-sized neighbours for one peer as a train, which passes through the kernel as one.
//!
//! A train costs a fraction of what its datagrams cost one by one. It is no promise: some ways take none (a device
//! without checksums, datagrams larger than its packets), and then they go alone.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use crate::shared::workers::Lost;
use crate::sys::datagram::{self, Arrival, BATCH, Departure};
use crate::sys::socket;

/// Most bytes of a train: those of the largest datagram over IPv4.
const LONGEST: usize = 65_507;

/// Most bytes that are put together before they are sent, for one piece and one call instead of several. More are not
/// copied for that.
pub(super) const JOINED: usize = 16 * 1024;

/// A datagram, or a train of them as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message<'a> {
    /// All its bytes.
    pub(super) bytes: &'a [u8],
    /// The length of each of its datagrams but the last; not less than that of `bytes` if it is one alone.
    pub(super) segment: usize,
}

/// Where messages go from a socket, and in which form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    pub(super) socket: BorrowedFd<'a>,
    /// None: the socket is connected.
    pub(super) to: Option<SocketAddr>,
    /// From which of this machine's addresses; none: the system's choice.
    pub(super) from: Option<IpAddr>,
    /// Comes before each datagram.
    pub(super) header: &'a [u8],
}

/// The messages that leave as one: so many of the first of some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Train {
    pub(super) messages: usize,
    /// None: it is one datagram.
    pub(super) segment: Option<u16>,
}

impl<'a> Message<'a> {
    /// None at all.
    pub(super) const NONE: Self = Message { bytes: &[], segment: 0 };

    /// One datagram.
    pub(super) fn alone(bytes: &'a [u8]) -> Self {
        Message { bytes, segment: bytes.len() }
    }

    /// How many datagrams it is. One without bytes is one, too.
    pub(super) fn count(&self) -> usize {
        if self.is_alone() { 1 } else { self.bytes.len().div_ceil(self.segment) }
    }

    /// Its datagrams.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let alone = self.is_alone().then_some(self.bytes);
        let several = if self.is_alone() { &[] } else { self.bytes };
        alone.into_iter().chain(several.chunks(self.segment.max(1)))
    }

    /// Its first datagram, and what is left of it.
    pub(super) fn split_first(&self) -> (&'a [u8], Option<Message<'a>>) {
        if self.is_alone() {
            return (self.bytes, None);
        }
        let (first, rest) = self.bytes.split_at(self.segment);
        (first, Some(Message { bytes: rest, segment: self.segment }))
    }

    /// Its last datagram.
    pub(super) fn last(&self) -> &'a [u8] {
        let start = if self.is_alone() { 0 } else { (self.count() - 1) * self.segment };
        self.bytes.get(start..).unwrap_or_default()
    }

    pub(super) fn is_alone(&self) -> bool {
        self.segment == 0 || self.segment >= self.bytes.len()
    }
}

impl<'a> From<Arrival<'a>> for Message<'a> {
    fn from(Arrival { bytes, segment, .. }: Arrival<'a>) -> Self {
        Message { bytes, segment }
    }
}

/// How many datagrams these are.
pub(super) fn count(messages: &[Message<'_>]) -> u64 {
    messages.iter().map(|message| message.count() as u64).sum()
}

/// How many bytes.
pub(super) fn bytes(messages: &[Message<'_>]) -> usize {
    messages.iter().map(|message| message.bytes.len()).sum()
}

/// How many of the first of these messages can leave as one. `messages` is not empty.
pub(super) fn first_train(messages: &[Message<'_>]) -> Train {
    let alone = Train { messages: 1, segment: None };
    let Some((first, others)) = messages.split_first() else {
        return alone;
    };
    let size = first.segment.min(first.bytes.len());
    let Some(segment) = u16::try_from(size).ok().filter(|&segment| segment > 0) else {
        return alone;
    };
    let (mut taken, mut datagrams, mut bytes) = (1, first.count(), first.bytes.len());
    for next in others {
        // Only the last datagram of a train may be shorter than the others.
        let closed = !bytes.is_multiple_of(size);
        let fits = if next.is_alone() { next.bytes.len() <= size } else { next.segment == size };
        let (more, longer) = (datagrams + next.count(), bytes + next.bytes.len());
        if closed || !fits || next.bytes.is_empty() || more > BATCH || longer > LONGEST {
            break;
        }
        (taken, datagrams, bytes) = (taken + 1, more, longer);
    }
    Train { messages: taken, segment: (datagrams > 1).then_some(segment) }
}

/// Sends messages and tells what became of them, of those together that have shared it. `trains`: the way takes them;
/// false once it has turned out not to. `joined` is room that is used over and over.
pub(super) fn send<'a>(
    way: Way<'_>,
    messages: &[Message<'a>],
    trains: &mut bool,
    joined: &mut Vec<u8>,
    mut told: impl FnMut(&[Message<'a>], io::Result<()>),
) {
    if let [message] = messages
        && message.is_alone()
    {
        let pieces = [IoSlice::new(way.header), IoSlice::new(message.bytes)];
        let departure = way.departure(&pieces, None);
        return datagram::send_all(way.socket, &[departure], |_, result| told(messages, result));
    }
    if !*trains || !way.header.is_empty() {
        return messages.iter().for_each(|message| send_apart(way, message, &mut told));
    }
    let first = first_train(messages);
    if first.messages == messages.len() && bytes(messages) <= JOINED {
        let pieces = [IoSlice::new(join(messages, joined))];
        let departure = Departure { to: way.to, from: way.from, pieces: &pieces, segment: first.segment };
        datagram::send_all(way.socket, &[departure], |_, result| match result {
            Err(error) if first.segment.is_some() && datagram::refuses_trains(&error) => *trains = false,
            result => told(messages, result),
        });
        if !*trains {
            messages.iter().for_each(|message| send_apart(way, message, &mut told));
        }
        return;
    }
    let slices: Vec<IoSlice<'_>> = messages.iter().map(|message| IoSlice::new(message.bytes)).collect();
    let mut departures = Vec::with_capacity(messages.len());
    let mut starts = Vec::with_capacity(messages.len());
    let mut next = 0;
    while next < messages.len() {
        let train = first_train(&messages[next..]);
        let end = next + train.messages;
        let Way { to, from, .. } = way;
        departures.push(Departure { to, from, pieces: &slices[next..end], segment: train.segment });
        starts.push((next, end));
        next = end;
    }
    let mut refused = Vec::new();
    datagram::send_all(way.socket, &departures, |index, result| {
        let (Some(departure), Some(&(start, end))) = (departures.get(index), starts.get(index)) else {
            return;
        };
        match result {
            Err(error) if departure.segment.is_some() && datagram::refuses_trains(&error) => {
                refused.push((start, end))
            }
            result => told(&messages[start..end], result),
        }
    });
    for (start, end) in refused {
        *trains = false;
        messages[start..end].iter().for_each(|message| send_apart(way, message, &mut told));
    }
}

/// Their bytes, together.
fn join<'j>(messages: &[Message<'j>], joined: &'j mut Vec<u8>) -> &'j [u8] {
    if let [message] = messages {
        return message.bytes;
    }
    joined.clear();
    messages.iter().for_each(|message| joined.extend_from_slice(message.bytes));
    joined
}

/// Sends a message's datagrams one by one.
fn send_apart<'a>(
    way: Way<'_>,
    message: &Message<'a>,
    told: &mut impl FnMut(&[Message<'a>], io::Result<()>),
) {
    let datagrams: Vec<Message<'a>> = message.datagrams().map(Message::alone).collect();
    let pieces: Vec<[IoSlice<'_>; 2]> =
        datagrams.iter().map(|datagram| [IoSlice::new(way.header), IoSlice::new(datagram.bytes)]).collect();
    let departures: Vec<Departure<'_>> = pieces.iter().map(|pieces| way.departure(pieces, None)).collect();
    datagram::send_all(way.socket, &departures, |index, result| {
        if let Some(datagram) = datagrams.get(index) {
            told(std::slice::from_ref(datagram), result);
        }
    });
}

impl Way<'_> {
    /// `pieces`: the header, and a datagram.
    fn departure<'p>(&self, pieces: &'p [IoSlice<'p>; 2], segment: Option<u16>) -> Departure<'p> {
        let pieces = if self.header.is_empty() { &pieces[1..] } else { &pieces[..] };
        Departure { to: self.to, from: self.from, pieces, segment }
    }
}

/// Why a datagram could not be sent.
pub(super) fn loss(error: &io::Error) -> Lost {
    if error.kind() == io::ErrorKind::WouldBlock || socket::is_exhaustion(error) {
        Lost::NoRoom
    } else if datagram::is_too_long(error) {
        Lost::TooLong
    } else {
        Lost::Unreachable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What leaves together of messages of these lengths, each alone or a train of datagrams of a length: how many
    /// messages, and the length of a train's datagrams.
    fn trains(lengths: &[(usize, usize)]) -> Vec<(usize, Option<u16>)> {
        let bytes = vec![0; 70_000];
        let messages: Vec<Message<'_>> =
            lengths.iter().map(|&(length, segment)| Message { bytes: &bytes[..length], segment }).collect();
        let mut left = &messages[..];
        let mut found = Vec::new();
        while !left.is_empty() {
            let Train { messages, segment } = first_train(left);
            found.push((messages, segment));
            left = &left[messages..];
        }
        found
    }

    fn alone(lengths: &[usize]) -> Vec<(usize, Option<u16>)> {
        trains(&lengths.iter().map(|&length| (length, length)).collect::<Vec<_>>())
    }

    #[test]
    fn neighbours_of_one_length_leave_together_and_a_shorter_one_ends_that() {
        assert_eq!(alone(&[64]), [(1, None)]);
        assert_eq!(alone(&[64, 64, 64]), [(3, Some(64))]);
        assert_eq!(alone(&[64, 64, 63, 63, 64]), [(3, Some(64)), (1, None), (1, None)]);
        assert_eq!(alone(&[64, 65, 65]), [(1, None), (2, Some(65))]);
    }

    #[test]
    fn datagrams_without_bytes_go_alone() {
        assert_eq!(alone(&[0, 0, 5, 0, 5, 5]), [(1, None), (1, None), (1, None), (1, None), (2, Some(5))]);
    }

    #[test]
    fn trains_are_coupled_if_their_datagrams_are_of_one_length_and_none_is_in_between_that_is_shorter() {
        assert_eq!(trains(&[(640, 64), (128, 64), (64, 64)]), [(3, Some(64))]);
        assert_eq!(trains(&[(650, 64), (64, 64)]), [(1, Some(64)), (1, None)]);
        assert_eq!(trains(&[(640, 64), (650, 65)]), [(1, Some(64)), (1, Some(65))]);
        assert_eq!(trains(&[(64, 64), (640, 63)]), [(1, None), (1, Some(63))]);
    }

    #[test]
    fn a_train_has_64_datagrams_and_65507_bytes_at_most() {
        assert_eq!(alone(&[10; 130]), [(64, Some(10)), (64, Some(10)), (2, Some(10))]);
        assert_eq!(trains(&[(600, 10), (40, 10), (10, 10)]), [(2, Some(10)), (1, None)]);
        assert_eq!(alone(&[30_000; 3]), [(2, Some(30_000)), (1, None)]);
        assert_eq!(alone(&[65_507, 1]), [(1, None), (1, None)]);
    }

    #[test]
    fn a_message_has_its_datagrams() {
        let lengths = |length: usize, segment| {
            let bytes = vec![0; length];
            let message = Message { bytes: &bytes, segment };
            let (first, rest) = message.split_first();
            let all: Vec<usize> = message.datagrams().map(<[u8]>::len).collect();
            assert_eq!((all.len(), all[0]), (message.count(), first.len()));
            assert_eq!(rest.map_or(0, |rest| rest.count()), all.len() - 1);
            assert_eq!(message.last().len(), *all.last().unwrap());
            all
        };
        assert_eq!(lengths(0, 0), [0]);
        assert_eq!(lengths(5, 5), [5]);
        assert_eq!(lengths(5, 9), [5]);
        assert_eq!(lengths(5, 0), [5]);
        assert_eq!(lengths(5, 2), [2, 2, 1]);
    }
}
