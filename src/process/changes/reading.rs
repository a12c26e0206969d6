//! From the text of a change to settings, or to what is wrong with it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::{CONTROL, ONLY_LOCAL, Text};
use crate::model::address::Host;
use crate::model::command::CommandError;
use crate::model::config::{self, At, Fault, Reading, Rejected, Warning};
use crate::model::listen::Listen;
use crate::model::reply;
use crate::model::settings::{LogDestination, Settings};
use crate::model::tls::{TlsSettings, Trust};
use crate::process::master::Master;
use crate::sys::reason::words;
use crate::sys::textfile;

/// Why a text does not become settings.
pub(super) enum Unread {
    /// In words for the one who sent this one line.
    Line(String),
    /// All that is wrong, and what was skipped.
    Text(Vec<String>, Vec<At<Warning>>),
}

impl From<Rejected> for Unread {
    fn from(rejected: Rejected) -> Self {
        Unread::Text(rejected.faults.iter().map(ToString::to_string).collect(), rejected.warnings)
    }
}

impl Unread {
    /// A single line needs no place, and keeps the classic's words where those are known.
    pub(super) fn of_line(rejected: Rejected) -> Self {
        let told = |fault: &At<Fault>| match &fault.what {
            // The classic has no word for it.
            what if is_unknown_no(what) => String::new(),
            Fault::Command(why) if fault.line.is_none() => reply::refused(why),
            what if fault.line.is_none() => reply::error(what),
            _ => reply::error(fault),
        };
        Unread::Line(rejected.faults.iter().map(told).collect())
    }
}

impl Master<'_> {
    /// New settings on top of those in force.
    pub(super) fn read_text(&self, text: &Text, local: bool) -> Result<Reading, Unread> {
        let settings = &self.state.settings;
        // Who has the usual file read again names none: what it includes goes with it.
        let load = |path: &Path| match local || text.reads_again() {
            true => textfile::read_regular(path).and_then(config::decode),
            false => Err(io::Error::new(io::ErrorKind::PermissionDenied, ONLY_LOCAL)),
        };
        let reading = match text {
            Text::File(path) => {
                let text = textfile::read_regular(path).and_then(config::decode).map_err(|error| {
                    let place = if self.state.launch.jail.is_some() { " in the jail" } else { "" };
                    let problem = format!("cannot read {}{place}: {}", path.display(), words(&error));
                    Unread::Text(vec![problem], Vec::new())
                })?;
                config::read(settings, &path.display().to_string(), &text, load).map_err(Unread::from)?
            }
            Text::Batch(text) => match config::read_batch(settings, CONTROL, text, load) {
                Ok(reading) => match mistakes_in_batch(&reading.warnings) {
                    (mistakes, _) if mistakes.is_empty() => reading,
                    (mistakes, others) => return Err(Unread::Text(mistakes, others)),
                },
                Err(Rejected { faults, warnings }) => {
                    let (mistakes, others) = mistakes_in_batch(&warnings);
                    let faults = faults.iter().map(ToString::to_string);
                    return Err(Unread::Text(faults.chain(mistakes).collect(), others));
                }
            },
            Text::Again => config::read(settings, CONTROL, "", load).map_err(Unread::from)?,
            Text::Command(line) => {
                config::read_command(settings, CONTROL, line, load).map_err(|rejected| {
                    // Its answer is empty.
                    for fault in rejected.faults.iter().filter(|fault| is_unknown_no(&fault.what)) {
                        self.state.messages.note(format_args!("{CONTROL}: {}", fault.what));
                    }
                    Unread::of_line(rejected)
                })?
            }
        };
        if !local
            && !text.reads_again()
            && let Some(what) = names_a_file(settings, &reading.settings)
        {
            return Err(Unread::Line(reply::error(format_args!("{what}: {ONLY_LOCAL}"))));
        }
        Ok(reading)
    }
}

/// A file goes on without a line that means nothing, as ever; who sends a batch waits, and can mend it. What is wrong
/// with it, and the other warnings.
fn mistakes_in_batch(warnings: &[At<Warning>]) -> (Vec<String>, Vec<At<Warning>>) {
    let (mut mistakes, mut others) = (Vec::new(), Vec::new());
    for warning in warnings {
        match &warning.what {
            Warning::Skipped(_) => mistakes.push(warning.to_string()),
            Warning::Misplaced(word) => {
                let what = format!("{word} cannot be in a batch; send it by itself");
                mistakes.push(At { file: warning.file.clone(), line: warning.line, what }.to_string());
            }
            Warning::Notice(_) | Warning::Remark(_) => others.push(warning.clone()),
        }
    }
    (mistakes, others)
}

fn is_unknown_no(fault: &Fault) -> bool {
    matches!(fault, Fault::Command(CommandError::Unknown(words)) if words.starts_with("no "))
}

/// The command by which `after` names a file, or a Unix socket, that `before` does not.
fn names_a_file(before: &Settings, after: &Settings) -> Option<&'static str> {
    let new_log = matches!(&after.log, Some(LogDestination::File(_))) && before.log != after.log;
    let new_page = after.web_stats.is_some() && before.web_stats != after.web_stats;
    let new_countries = after.geoip.is_some() && before.geoip != after.geoip;
    let path_is_new = |listen: &Listen| listen.spec.path().is_some() && !before.listen.contains(listen);
    let new_listener = after.listen.iter().any(path_is_new);
    let named = |file: fn(&TlsSettings) -> &Option<PathBuf>| {
        file(&after.tls).is_some() && file(&before.tls) != file(&after.tls)
    };
    let new_authority = files_of_trust(after).difference(&files_of_trust(before)).next().is_some();
    let known = paths_of_servers(before);
    let new_server = paths_of_servers(after).difference(&known).next().is_some();
    [
        ("log", new_log),
        ("web_stats", new_page),
        ("geoip", new_countries),
        ("listen", new_listener),
        ("server", new_server),
        ("ssl_certificate", named(|tls| &tls.certificate)),
        ("ssl_key", named(|tls| &tls.key)),
        ("ssl_ca_file", named(|tls| &tls.ca_file)),
        ("ssl_ca_path", named(|tls| &tls.ca_path)),
        ("ssl_sni_path", named(|tls| &tls.sni_path)),
        ("ssl_ocsp_response", named(|tls| &tls.ocsp_response)),
        ("server tls", new_authority),
    ]
    .into_iter()
    .find_map(|(command, named)| named.then_some(command))
}

/// The Unix sockets that connections are made to.
fn paths_of_servers(settings: &Settings) -> BTreeSet<&Path> {
    let hosts = settings.targets().filter_map(|(_, spec)| spec.host.as_ref());
    hosts
        .filter_map(|host| match host {
            Host::Path(path) => Some(path.as_path()),
            Host::Ip(_) | Host::Name(_) => None,
        })
        .collect()
}

/// The files with authorities for servers.
fn files_of_trust(settings: &Settings) -> BTreeSet<&Path> {
    let trusts = settings.servers.iter().filter_map(|spec| Some(&spec.tls.as_ref()?.trust));
    trusts
        .filter_map(|trust| match trust {
            Trust::File(path) => Some(path.as_path()),
            Trust::System | Trust::Nobody => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tls::ServerTls;

    #[test]
    fn files_are_named_by_log_page_and_database() {
        let before = Settings::default();
        let named = |change: fn(&mut Settings)| {
            let mut after = before.clone();
            change(&mut after);
            names_a_file(&before, &after)
        };
        assert_eq!(named(|_| {}), None);
        assert_eq!(named(|it| it.log = Some("/l".parse().unwrap())), Some("log"));
        assert_eq!(named(|it| it.log = Some("host:9".parse().unwrap())), None);
        assert_eq!(named(|it| it.web_stats = Some("/w".into())), Some("web_stats"));
        assert_eq!(named(|it| it.geoip = Some("/g".into())), Some("geoip"));
        assert_eq!(named(|it| it.listen = Listen::tcp("/l")), Some("listen"));
        assert_eq!(named(|it| it.listen = Listen::tcp("127.0.0.1:80")), None);
        assert_eq!(named(|it| it.servers = vec!["/s".parse().unwrap()]), Some("server"));
        assert_eq!(named(|it| it.emergency = Some("/s".parse().unwrap())), Some("server"));
        assert_eq!(named(|it| it.tls.certificate = Some("/c".into())), Some("ssl_certificate"));
        assert_eq!(named(|it| it.tls.ocsp_response = Some("/o".into())), Some("ssl_ocsp_response"));
        let tls = |trust| Some(ServerTls { trust, name: None });
        let mut after = Settings { servers: vec!["a:1".parse().unwrap()], ..before.clone() };
        after.servers[0].tls = tls(Trust::System);
        assert_eq!(names_a_file(&before, &after), None);
        after.servers[0].tls = tls(Trust::File("/ca".into()));
        assert_eq!(names_a_file(&before, &after), Some("server tls"));
        assert_eq!(named(|it| it.abuse = Some("127.0.0.1:80".parse().unwrap())), None);
        let with = Settings { servers: vec!["/s".parse().unwrap()], ..Settings::default() };
        let moved = Settings { emergency: Some("/s".parse().unwrap()), ..with.clone() };
        assert_eq!(names_a_file(&with, &moved), None, "it was named by somebody who may");
        let with = Settings { listen: Listen::tcp("/l"), ..Settings::default() };
        let listening = |specs: &[&str]| {
            let listen = specs.iter().flat_map(|spec| Listen::tcp(spec)).collect();
            Settings { listen, ..Settings::default() }
        };
        assert_eq!(names_a_file(&with, &listening(&["8001", "/l"])), None);
        assert_eq!(names_a_file(&with, &listening(&["/l", "/m"])), Some("listen"));
        let with = Settings { web_stats: Some("/w".into()), ..Settings::default() };
        assert_eq!(names_a_file(&with, &Settings::default()), None, "to write none any more is harmless");
    }
}
