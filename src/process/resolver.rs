//! Looking up names while clients are served: a process of its own asks, for getaddrinfo(3) blocks and may not
//! find its files in a jail.
//!
//! It is forked before the jail is entered, without privileges, and knows nothing of clients. One question is under
//! way at a time; a message each way, text:
//!
//! | asked | answered |
//! |---|---|
//! | `h` and a host name | `a` and an address |
//! | `t`, `u`, `s` and the name of a service of TCP, of UDP, of either | `p` and a port |
//! | any of these | `?` and the reason |

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::model::listen::Protocol;
use crate::process::names::{Answer, Question};
use crate::sys::reason::words;
use crate::sys::{fork, message, resolve, wait};

/// Longer than any name (255 bytes) or reason.
const LARGEST: usize = 1024;

/// The master's side.
#[derive(Debug)]
pub struct Resolver {
    pid: i32,
    channel: OwnedFd,
    waiting: BTreeSet<Question>,
    asked: Option<Question>,
}

/// The side of the process that looks names up.
#[derive(Debug)]
pub struct ResolverProcess {
    channel: OwnedFd,
    parent: i32,
}

/// Which of the two this is, after [`spawn`].
#[derive(Debug)]
pub enum Spawned {
    /// The process that called.
    Parent(Resolver),
    /// The new one. It drops what it must not keep, and calls [`ResolverProcess::serve`].
    Child(ResolverProcess),
}

/// Starts the process. Signals must be blocked; it leaves them so, and ends when its parent does.
///
/// # Errors
///
/// Out of processes or descriptors.
pub fn spawn() -> io::Result<Spawned> {
    let (ours, theirs) = message::pair()?;
    let parent = fork::own_pid();
    Ok(match fork::fork()? {
        fork::Forked::Parent(pid) => Spawned::Parent(Resolver::new(pid, ours)),
        fork::Forked::Child => Spawned::Child(ResolverProcess { channel: theirs, parent }),
    })
}

impl Resolver {
    fn new(pid: i32, channel: OwnedFd) -> Self {
        Resolver { pid, channel, waiting: BTreeSet::new(), asked: None }
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Asks these after what it was asked before; each is under way at most once.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn ask(&mut self, questions: impl IntoIterator<Item = Question>) -> io::Result<()> {
        for question in questions {
            if self.asked.as_ref() != Some(&question) {
                self.waiting.insert(question);
            }
        }
        self.send_next()
    }

    /// Asks nothing else any more, but for what it has been asked already.
    pub fn keep_only(&mut self, questions: &BTreeSet<Question>) {
        self.waiting.retain(|question| questions.contains(question));
    }

    /// Is that question not answered yet?
    pub fn is_pending(&self, question: &Question) -> bool {
        self.asked.as_ref() == Some(question) || self.waiting.contains(question)
    }

    /// The next answer; `Ok(None)`: nothing now.
    ///
    /// # Errors
    ///
    /// It is gone.
    pub fn receive(&mut self) -> io::Result<Option<(Question, Answer)>> {
        let mut room = [0; LARGEST];
        let length = match message::receive(self.channel.as_fd(), &mut room) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((length, _)) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let question = self.asked.take();
        self.send_next()?;
        Ok(question.map(|question| (question, decode_answer(&room[..length]))))
    }

    fn send_next(&mut self) -> io::Result<()> {
        if self.asked.is_some() {
            return Ok(());
        }
        if let Some(question) = self.waiting.pop_first() {
            // The channel is empty: this cannot be too much for it.
            message::send(self.channel.as_fd(), &encode_question(&question), &[])?;
            self.asked = Some(question);
        }
        Ok(())
    }
}

/// Readable when there is an answer.
impl AsFd for Resolver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

impl ResolverProcess {
    /// Answers until the master is gone.
    pub fn serve(self) {
        if fork::end_with_parent(self.parent).is_err() {
            return;
        }
        // Any error means that nobody listens any more.
        while self.serve_one(look_up).is_ok() {}
    }

    fn serve_one(&self, look_up: impl Fn(&Question) -> Answer) -> io::Result<()> {
        if wait::until_readable(&[self.channel.as_fd()], Duration::from_secs(3600))? != [true] {
            return Ok(());
        }
        let mut room = [0; LARGEST];
        let (length, _) = message::receive(self.channel.as_fd(), &mut room)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let answer = match decode_question(&room[..length]) {
            Some(question) => look_up(&question),
            None => Answer::Unknown("the question makes no sense".to_string()),
        };
        message::send(self.channel.as_fd(), &encode_answer(&answer), &[])
    }
}

/// Asks the system. Blocks.
pub fn look_up(question: &Question) -> Answer {
    match question {
        Question::Host(name) => match resolve::addresses(name).map(|found| found.first().copied()) {
            Ok(Some(address)) => Answer::Address(address),
            Ok(None) => Answer::Unknown("the name has no address".to_string()),
            Err(error) => Answer::Unknown(words(&error)),
        },
        Question::Service(name, protocol) => match resolve::service_port(name, *protocol) {
            Some(port) => Answer::Port(port),
            None => Answer::Unknown("there is no such service".to_string()),
        },
    }
}

fn encode_question(question: &Question) -> Vec<u8> {
    let (kind, name) = match question {
        Question::Host(name) => ('h', name),
        Question::Service(name, Some(Protocol::Tcp)) => ('t', name),
        Question::Service(name, Some(Protocol::Udp)) => ('u', name),
        Question::Service(name, None) => ('s', name),
    };
    cut(format!("{kind}{name}"))
}

fn decode_question(message: &[u8]) -> Option<Question> {
    let text = str::from_utf8(message).ok()?;
    match (text.get(..1)?, text.get(1..)?.to_string()) {
        ("h", name) => Some(Question::Host(name)),
        ("t", name) => Some(Question::Service(name, Some(Protocol::Tcp))),
        ("u", name) => Some(Question::Service(name, Some(Protocol::Udp))),
        ("s", name) => Some(Question::Service(name, None)),
        _ => None,
    }
}

fn encode_answer(answer: &Answer) -> Vec<u8> {
    cut(match answer {
        Answer::Address(address) => format!("a{address}"),
        Answer::Port(port) => format!("p{port}"),
        Answer::Unknown(reason) => format!("?{reason}"),
    })
}

fn decode_answer(message: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(message);
    let (kind, rest) = text.split_at_checked(1).unwrap_or_default();
    let known = match kind {
        "a" => rest.parse().map(Answer::Address).ok(),
        "p" => rest.parse().map(Answer::Port).ok(),
        _ => None,
    };
    known.unwrap_or_else(|| Answer::Unknown(rest.to_string()))
}

/// Cut to what the other side takes. No name that exists is that long.
fn cut(text: String) -> Vec<u8> {
    let mut bytes = text.into_bytes();
    bytes.truncate(LARGEST);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn both_sides() -> (Resolver, ResolverProcess) {
        let (ours, theirs) = message::pair().unwrap();
        (Resolver::new(0, ours), ResolverProcess { channel: theirs, parent: 0 })
    }

    fn host(name: &str) -> Question {
        Question::Host(name.to_string())
    }

    #[test]
    fn questions_are_answered_one_after_another() {
        let (mut resolver, process) = both_sides();
        let service = Question::Service("http".to_string(), None);
        resolver.ask([host("a"), host("b"), service.clone(), host("b")]).unwrap();
        resolver.ask([host("a"), host("b")]).unwrap();
        let answer = |question: &Question| match question {
            Question::Host(name) if name == "a" => Answer::Address("2001:db8::1".parse().unwrap()),
            Question::Host(_) => Answer::Unknown("no such name".to_string()),
            Question::Service(..) => Answer::Port(80),
        };
        assert_eq!(resolver.receive().unwrap(), None);
        for expected in [host("a"), host("b"), service] {
            assert!(resolver.is_pending(&expected));
            process.serve_one(answer).unwrap();
            let answered = resolver.receive().unwrap().unwrap();
            assert_eq!(answered, (expected.clone(), answer(&expected)));
            assert!(!resolver.is_pending(&expected));
        }
        assert_eq!(resolver.receive().unwrap(), None);
    }

    #[test]
    fn each_side_notices_that_the_other_is_gone() {
        let (mut resolver, process) = both_sides();
        drop(process);
        assert!(resolver.receive().is_err());
        assert!(resolver.ask([host("a")]).is_err());
        let (resolver, process) = both_sides();
        drop(resolver);
        assert!(process.serve_one(look_up).is_err());
    }

    #[test]
    fn literal_addresses_and_unknown_services_are_answered_without_a_name_server() {
        assert_eq!(look_up(&host("192.0.2.1")), Answer::Address("192.0.2.1".parse().unwrap()));
        assert!(matches!(
            look_up(&Question::Service("no-such-service".to_string(), None)),
            Answer::Unknown(_)
        ));
    }

    #[test]
    fn an_endless_name_does_no_harm() {
        let (mut resolver, process) = both_sides();
        resolver.ask([host(&"x".repeat(5 * LARGEST))]).unwrap();
        process.serve_one(|_| Answer::Unknown("y".repeat(5 * LARGEST))).unwrap();
        assert!(matches!(resolver.receive().unwrap(), Some((_, Answer::Unknown(_)))));
    }

    proptest! {
        #[test]
        fn questions_and_answers_arrive_as_they_were_meant(name in "\\PC{0,60}", ip: std::net::IpAddr, port: u16) {
            let service = |protocol| Question::Service(name.clone(), protocol);
            let services = [None, Some(Protocol::Tcp), Some(Protocol::Udp)].map(service);
            for question in services.into_iter().chain([Question::Host(name.clone())]) {
                prop_assert_eq!(decode_question(&encode_question(&question)), Some(question));
            }
            for answer in [Answer::Address(ip), Answer::Port(port), Answer::Unknown(name)] {
                prop_assert_eq!(decode_answer(&encode_answer(&answer)), answer);
            }
        }

        #[test]
        fn nonsense_is_no_question_and_no_address(bytes: Vec<u8>) {
            let _ = decode_question(&bytes);
            let _ = decode_answer(&bytes);
        }
    }
}
