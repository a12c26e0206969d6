//! The scenarios. The number of a compatibility case is in the name of the scenario that plays it.

mod choosing;
mod commands;
mod control;
mod deaths;
mod files;
mod http;
mod limits;
mod lists;
mod logs;
mod relaying;
mod signals;
mod start;
mod tls;
mod udp;
mod weblogs;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

use crate::missing::Capability;
use crate::stage::{Program, Stage, Transcript};

/// Something that is played with either pen.
pub struct Scenario {
    pub name: &'static str,
    play: fn(&Stage),
    /// How many workers ours has; it is played once for each number.
    pub workers: &'static [u32],
    /// What ours must be able to do.
    pub needs: &'static [Capability],
    /// Must it be root?
    pub root: bool,
    /// Does it take some seconds?
    pub slow: bool,
}

/// A scenario without commands at run time.
const fn scenario(name: &'static str, play: fn(&Stage)) -> Scenario {
    Scenario { name, play, workers: &[1], needs: &[], root: false, slow: false }
}

/// A scenario with a control port.
const fn controlled(name: &'static str, play: fn(&Stage)) -> Scenario {
    Scenario { needs: &[Capability::Control], ..scenario(name, play) }
}

impl Scenario {
    /// What is seen must not depend on the number of workers.
    const fn with_two_workers_too(self) -> Self {
        Scenario { workers: &[1, 2], ..self }
    }

    const fn needing_root(self) -> Self {
        Scenario { root: true, ..self }
    }

    const fn slow(self) -> Self {
        Scenario { slow: true, ..self }
    }

    /// Plays it with this pen. An error is the message of a panic.
    pub fn play(&self, program: &Program, workers: u32) -> Result<Transcript, String> {
        for _ in 0..10 {
            let (transcript, panic) = self.play_once(program, workers);
            if transcript.spoiled {
                continue;
            }
            let Some(panic) = panic else { return Ok(transcript) };
            if PORT_TAKEN.iter().any(|words| panic.contains(words)) {
                continue;
            }
            let seen = transcript.observations.into_iter();
            let seen: Vec<_> = seen.map(|seen| format!("{:?}: {:?}", seen.label, seen.text)).collect();
            return Err(format!("{panic}; seen so far: {}", seen.join(", ")));
        }
        Err("it dies of itself again and again".to_owned())
    }

    fn play_once(&self, program: &Program, workers: u32) -> (Transcript, Option<String>) {
        let stage = Stage::new(program.clone(), workers);
        PANIC.set(Some(None));
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.play)(&stage)));
        let panic = PANIC.take().flatten();
        (stage.into_transcript(), outcome.err().map(|_| panic.unwrap_or_default()))
    }
}

/// A pen that should have started says one of these when another program was quicker with the port that was free before.
const PORT_TAKEN: [&str; 2] = ["Address already in use", "can't bind local address"];

thread_local! {
    /// Some while a scenario is played by this thread: the message of its panic, if there was one.
    static PANIC: RefCell<Option<Option<String>>> = const { RefCell::new(None) };
}

/// Keeps the message for the outcome of this thread's scenario. False: there is none.
pub fn keep_panic(panic: &PanicHookInfo<'_>) -> bool {
    PANIC.with_borrow_mut(|kept| match kept {
        Some(kept) => {
            let place = panic.location().map(|place| format!("{}:{}: ", place.file(), place.line()));
            let payload = panic.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or(payload.downcast_ref::<String>().map(String::as_str));
            let message = text.unwrap_or("a panic").to_owned();
            *kept = Some(place.unwrap_or_default() + &message);
            true
        }
        None => false,
    })
}

/// All of them.
pub fn all() -> Vec<Scenario> {
    let files: [fn() -> Vec<Scenario>; 15] = [
        start::scenarios,
        choosing::scenarios,
        lists::scenarios,
        limits::scenarios,
        relaying::scenarios,
        http::scenarios,
        logs::scenarios,
        control::scenarios,
        commands::scenarios,
        files::scenarios,
        signals::scenarios,
        deaths::scenarios,
        tls::scenarios,
        udp::scenarios,
        weblogs::scenarios,
    ];
    files.into_iter().flat_map(|file| file()).collect()
}
