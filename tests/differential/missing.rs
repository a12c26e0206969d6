//! What the classic does and this version does not, yet. Each entry is tried: it must be refused, with a message that
//! says so. The entry goes when the capability comes.

use std::fmt;

use crate::pen;
use crate::stage::{Program, Stage};

/// What scenarios can need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// `-C`.
    Control,
    /// The program penctl.
    Penctl,
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Capability::Control => "the control port",
            Capability::Penctl => "penctl",
        })
    }
}

/// Something that is not there.
pub struct Missing {
    /// Its name as a test, which says what is missing.
    name: &'static str,
    /// What scenarios that need it say they need.
    pub capability: Option<Capability>,
    /// The numbers of the compatibility cases that come with it, unless scenarios have them already.
    pub cases: &'static [&'static str],
    /// How it is asked for: each of these commands, with `-O`.
    probes: &'static [&'static str],
}

/// All that is missing.
pub static MISSING: &[Missing] = &[
    Missing { name: "not_in_this_version_idlers", capability: None, cases: &[], probes: &["idlers 3"] },
    Missing {
        name: "not_in_this_version_direct_server_return",
        capability: None,
        cases: &[],
        probes: &["dsr_if lo", "dsr_ip 127.0.0.1", "tarpit_acl 1"],
    },
];

impl Missing {
    /// As a test.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What is missing, for people.
    pub fn what(&self) -> String {
        let what = self.name.trim_start_matches("not_in_this_version_").replace('_', " ");
        match self.cases {
            [] => format!("not in this version: {what}"),
            cases => format!("not in this version: {what} (cases {})", cases.join(" ")),
        }
    }

    /// Is it refused, as long as it is missing? Else all that is wrong.
    pub fn check(&self, ours: &Program) -> Result<(), Vec<String>> {
        let faults: Vec<String> =
            self.probes.iter().filter_map(|command| refused(ours, &["-O", command]).err()).collect();
        if faults.is_empty() {
            return Ok(());
        }
        let way_out = "if it is there now, take this entry out of tests/differential/missing.rs".to_owned();
        Err(faults.into_iter().chain([way_out]).collect())
    }
}

/// Does ours end at once, and say that it cannot do this?
fn refused(ours: &Program, options: &[&str]) -> Result<(), String> {
    let stage = Stage::new(ours.clone(), 1);
    let listen = format!("127.0.0.1:{}", crate::support::free_port());
    let words: Vec<&str> =
        ["-f"].iter().chain(options).chain(&[listen.as_str(), "127.0.0.1:9"]).copied().collect();
    let told = options.join(" ");
    let ended = pen::bare(&stage, &words).map_err(|runs| format!("{told}: it {runs}"))?;
    if ended.status.code() != Some(1) {
        return Err(format!("{told}: {}, not exit 1", ended.how()));
    }
    let clear = |line: &str| line.starts_with("pen: ") && line.contains("is not available in this version");
    match ended.stderr.lines().any(clear) {
        true => Ok(()),
        false => Err(format!("{told}: it does not say that this is not available: {:?}", ended.stderr)),
    }
}
