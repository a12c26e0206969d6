//! The control port, as penctl and scripts use it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Pen, SOON, processes, wait_until};

/// A connection to a control port, of either kind.
pub trait Session: Read + Write + Send {
    /// Nothing more will be sent.
    fn end(&self);
    /// Reads give up after this.
    fn patience(&self, time: Duration);
}

impl Session for UnixStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }

    fn patience(&self, time: Duration) {
        self.set_read_timeout(Some(time)).unwrap();
    }
}

impl Session for TcpStream {
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }

    fn patience(&self, time: Duration) {
        self.set_read_timeout(Some(time)).unwrap();
    }
}

/// All that comes until the end; panics if that does not come in time.
pub fn hear(session: &mut dyn Session) -> String {
    session.patience(SOON);
    let mut reply = Vec::new();
    session.read_to_end(&mut reply).expect("the control port ends its reply");
    String::from_utf8(reply).unwrap()
}

impl Pen {
    /// The answer to a first question; none yet, or never.
    pub(super) fn ask_at_start(&self) -> Option<()> {
        let mut session = UnixStream::connect(self.scratch.file("ctl")).ok()?;
        session.set_read_timeout(Some(SOON)).unwrap();
        session.write_all(b"mode\n").ok()?;
        let mut reply = Vec::new();
        session.read_to_end(&mut reply).ok()?;
        (!reply.is_empty()).then_some(())
    }

    /// Connects to the control port of a pen that was built with [`super::pen::Builder::controlled`].
    #[track_caller]
    pub fn control(&self) -> UnixStream {
        UnixStream::connect(self.scratch.file("ctl")).expect("there is a control port")
    }

    /// Sends a command, with its line end, and returns the whole reply.
    #[track_caller]
    pub fn ask(&self, command: &str) -> String {
        self.send(format!("{command}\n").as_bytes())
    }

    /// Sends several commands as one batch.
    #[track_caller]
    pub fn batch(&self, lines: &[&str]) -> String {
        self.send(format!("begin\n{}\nend\n", lines.join("\n")).as_bytes())
    }

    /// Sends these bytes and returns the whole reply.
    #[track_caller]
    pub fn send(&self, bytes: &[u8]) -> String {
        let mut session = self.control();
        session.write_all(bytes).unwrap();
        hear(&mut session)
    }

    /// A command that changes something and has nothing to say.
    #[track_caller]
    pub fn tell(&self, command: &str) {
        assert_eq!(self.ask(command), "", "{command}");
    }

    /// Changes the settings with a batch while the only worker is stopped, and does something before it goes on. So it
    /// learns of both at once.
    #[track_caller]
    pub fn change_unseen<T>(&self, lines: &[impl AsRef<str>], meanwhile: impl FnOnce() -> T) -> T {
        let worker = self.workers()[0];
        let changes = || self.stderr().matches("in force now").count();
        let before = changes();
        kill(Pid::from_raw(worker), Signal::SIGSTOP).unwrap();
        wait_until("it is stopped", || processes::stat(worker).is_some_and(|stat| stat.state == 'T'));
        let mut session = self.control();
        let lines: String = lines.iter().map(|line| format!("{}\n", line.as_ref())).collect();
        session.write_all(format!("begin\n{lines}end\n").as_bytes()).unwrap();
        wait_until("the master has changed its settings", || changes() > before);
        let result = meanwhile();
        kill(Pid::from_raw(worker), Signal::SIGCONT).unwrap();
        assert_eq!(hear(&mut session), "");
        result
    }
}
