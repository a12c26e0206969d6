//! A log that is rotated while clients make requests.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::Signal;

use super::{Pen, Scratch, client, wait_until};

/// How often it is rotated: one file more is there then.
pub const ROTATIONS: usize = 20;

const CLIENTS: usize = 6;

/// A client, and how many requests it has made.
pub struct Client {
    number: usize,
    pub requests: usize,
}

impl Client {
    pub fn address(&self) -> String {
        address(self.number)
    }

    /// What it has asked for.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        (0..self.requests).map(|number| path(self.number, number))
    }
}

fn address(client: usize) -> String {
    format!("127.0.0.{}", client + 2)
}

fn path(client: usize, number: usize) -> String {
    format!("/client{client}/{number}/end")
}

/// Rotates the log of a pen, which is the file `log` of this directory, while several clients make requests, one after the
/// other each, to servers S0 and so on; then ends the pen, which writes what is left. The directory has nothing but these
/// files.
#[track_caller]
pub fn rotate_under_load(pen: &mut Pen, files: &Scratch) -> Vec<Client> {
    let done = AtomicBool::new(false);
    let made: Vec<AtomicUsize> = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
    let all = || made.iter().map(|made| made.load(Ordering::Relaxed)).sum::<usize>();
    let serving = &*pen;
    std::thread::scope(|scope| {
        for (client, made) in made.iter().enumerate() {
            let done = &done;
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    let number = made.load(Ordering::Relaxed);
                    let stream = serving.connect_from(&address(client));
                    let answer = client::request(stream, &path(client, number));
                    assert!(answer.starts_with('S'), "{answer}");
                    made.store(number + 1, Ordering::Relaxed);
                }
            });
        }
        let result = std::panic::catch_unwind(|| {
            for rotation in 0..ROTATIONS {
                let before = all();
                wait_until("there is some load", || all() > before + 20);
                fs::rename(files.file("log"), files.file(&format!("log.{rotation}"))).unwrap();
                serving.signal(Signal::SIGHUP);
                wait_until("the log is opened anew", || files.names().contains(&"log".to_owned()));
            }
        });
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    pen.end_with(Signal::SIGTERM);
    let names = files.names();
    assert_eq!(names.len(), ROTATIONS + 1, "{names:?}");
    made.into_iter()
        .enumerate()
        .map(|(number, made)| Client { number, requests: made.into_inner() })
        .collect()
}
