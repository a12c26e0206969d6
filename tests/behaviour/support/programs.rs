//! Programs that others use beside pen, at work.

use std::collections::BTreeSet;
use std::fs::File;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::tls::has_program;
use super::{SOON, Scratch, became_true, processes, udp, wait_until};

/// A program that runs until this is dropped. Its configuration and all its files are in `files`.
pub struct Running {
    child: Child,
    pub files: Scratch,
}

impl Running {
    /// `SCRATCH` in the configuration stands for its directory. It is there when it listens on all these ports, by TCP or
    /// UDP.
    pub fn start(config: &str, ports: &[u16], command: impl FnOnce(&Scratch, &str) -> Command) -> Self {
        let files = Scratch::new();
        let config = files.write("conf", config.replace("SCRATCH", files.path().to_str().unwrap()));
        let mut command = command(&files, &config);
        command.stdin(Stdio::null());
        command.stdout(File::create(files.file("stdout")).unwrap());
        command.stderr(File::create(files.file("stderr")).unwrap());
        let child = command.spawn().expect("the program can be run");
        let mut running = Running { child, files };
        wait_until("the program listens", || {
            let ended = running.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {command:?}: {}", running.files.read("stderr"));
            ports.iter().all(|&port| processes::listening(port) || udp::bound(port))
        });
        running
    }

    /// Its process; there may be children.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Kills it, with all that it has started: nothing is finished, and nobody is told.
    pub fn kill(self) {
        let mut family = BTreeSet::from([self.pid()]);
        let mut fresh: Vec<i32> = family.iter().copied().collect();
        while let Some(pid) = fresh.pop() {
            fresh.extend(processes::children(pid).into_iter().filter(|&child| family.insert(child)));
        }
        processes::kill_all(&family);
        wait_until("it is dead", || family.iter().all(|&pid| !processes::alive(pid)));
    }

    /// HAProxy with this configuration, behind times for everything.
    pub fn haproxy(config: &str, ports: &[u16]) -> Self {
        let defaults = "defaults\n timeout connect 10s\n timeout client 20s\n timeout server 20s\n";
        Self::start(&format!("{defaults}{config}"), ports, |_, config| {
            let mut command = Command::new("haproxy");
            command.args(["-db", "-f", config]);
            command
        })
    }

    /// nginx with this configuration beside what it needs anyway. One with [`NGINX_STREAM`] has that first.
    pub fn nginx(config: &str, ports: &[u16]) -> Self {
        let user = if nix::unistd::geteuid().is_root() { "user root;\n" } else { "" };
        let common = "pid SCRATCH/pid;\nerror_log SCRATCH/error.log;\nevents {}\n";
        let (module, config) = match config.strip_prefix(NGINX_STREAM) {
            Some(config) => (NGINX_STREAM, config),
            None => ("", config),
        };
        Self::start(&format!("{module}{user}{common}{config}"), ports, |files, config| {
            let mut command = Command::new("nginx");
            let log = files.file("error.log");
            command.args(["-g", "daemon off; worker_processes 1;", "-p", files.path().to_str().unwrap()]);
            command.args(["-e", &log, "-c", config]);
            command
        })
    }
}

/// The module for streams.
pub const NGINX_STREAM: &str = "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\n";

/// Is there a HAProxy? Says so if not.
pub fn has_haproxy() -> bool {
    has_program("haproxy")
}

/// Is there an nginx with its module for streams? Says so if not.
pub fn has_nginx_stream() -> bool {
    let module = std::path::Path::new("/usr/lib/nginx/modules/ngx_stream_module.so").exists();
    if !module {
        eprintln!("not told: nginx's module for streams is not installed");
    }
    module && has_program("nginx")
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not KILL: what it has started would be left.
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
        if became_true(SOON, || self.child.try_wait().is_ok_and(|status| status.is_some())).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
