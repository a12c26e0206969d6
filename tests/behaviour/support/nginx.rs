//! nginx as a web server.

use std::fmt::{self, Display};

use super::programs::Running;
use super::tls::has_program;
use super::{free_port, wait_until};

/// A running nginx. It displays as `127.0.0.1:PORT`, as pen's command line wants it.
pub struct Nginx {
    running: Running,
    port: u16,
}

impl Nginx {
    /// With these directives in its `server`, in which `PORT` is replaced by a free port, and lines like this in its access
    /// log. None, and a message: there is no nginx.
    pub fn start(format: &str, server: &str) -> Option<Self> {
        if !has_program("nginx") {
            return None;
        }
        let port = free_port();
        let server = server.replace("PORT", &port.to_string());
        let bodies = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path SCRATCH/{name};"))
            .concat();
        let configuration = format!(
            "http {{\n\
                 {bodies}\n\
                 log_format seen '{format}';\n\
                 access_log SCRATCH/access seen;\n\
                 keepalive_requests 100000;\n\
                 server {{\n{server}\n}}\n\
             }}\n"
        );
        Some(Nginx { running: Running::nginx(&configuration, &[port]), port })
    }

    /// The lines of its access log once there are so many.
    #[track_caller]
    pub fn log(&self, count: usize) -> Vec<String> {
        let lines = || self.running.files.read("access").lines().map(str::to_owned).collect::<Vec<_>>();
        wait_until("the access log has its lines", || lines().len() >= count);
        lines()
    }
}

impl Display for Nginx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "127.0.0.1:{}", self.port)
    }
}
