//! `--check`: would this start? Every problem is named, nothing is changed.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use crate::model::address::SocketAddress;
use crate::model::listen::Protocol;
use crate::model::settings::{Launch, LogDestination, Settings};
use crate::process::complain;
use crate::process::listeners::{Listener, Place, check_clashes};
use crate::process::listening::StreamListener;
use crate::process::startup::{
    check_control_clash, check_jail, control_address, control_refused, find_user, load_countries,
    look_up_all, make_ticket_keys, places, privileges_needed, provide_descriptors, sockets,
};
use crate::process::tls::Loaded;
use crate::report::log;
use crate::sys::privileges::{self, Kept};
use crate::sys::reason::words;
use crate::sys::socket;
use crate::sys::tls::Material;

/// `--check`: resolves and loads everything, names every problem on stderr, changes nothing. `problems`: what was
/// found wrong before.
pub fn check(launch: &Launch, settings: &Settings, problems: Vec<String>) -> ExitCode {
    let mut problems = problems;
    find_problems(launch, settings, &mut problems);
    // The same mistake may have been found by the parser.
    let mut told: Vec<String> = Vec::new();
    for problem in problems {
        if !told.contains(&problem) {
            complain(&problem);
            told.push(problem);
        }
    }
    if told.is_empty() {
        return match writeln!(std::io::stdout(), "ok") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        };
    }
    ExitCode::FAILURE
}

fn find_problems(launch: &Launch, settings: &Settings, problems: &mut Vec<String>) {
    let mut names = look_up_all(settings);
    let mut control = None;
    if let Some(spec) = &launch.control {
        match (control_refused(launch), control_address(spec, &mut names)) {
            (Some(reason), _) => problems.push(reason.to_string()),
            (None, Err(problem)) => problems.push(problem),
            (None, Ok(address)) => {
                problems.extend(
                    StreamListener::check_control(address.clone()).err().map(|error| error.to_string()),
                );
                control = Some(address);
            }
        }
    }
    // Without an address the parser has complained already.
    if !settings.listen.is_empty() {
        match places(settings, &names) {
            Ok(places) => {
                match names.resolve_servers(settings, &places, control.as_ref()) {
                    Ok(servers) => {
                        let names = servers.unresolved.iter();
                        problems.extend(names.map(|(name, reason)| format!("server {name}: {reason}")));
                        if servers.unresolved.is_empty() && !servers.is_usable() && !settings.dummy {
                            problems.push(servers.why_unusable());
                        }
                    }
                    Err(errors) => problems.extend(errors.iter().map(ToString::to_string)),
                }
                problems.extend(check_clashes(&places, &[]).err().map(|(_, error)| error.to_string()));
                problems.extend(check_control_clash(&places, control.as_ref()).err());
                // A pen that serves there now is why one checks before a restart. A path for datagrams has been named.
                let possible = |place: &Place| {
                    place.protocol == Protocol::Tcp || matches!(place.address, SocketAddress::Inet(_))
                };
                let checked = places.into_iter().filter(possible).map(Listener::check);
                problems.extend(checked.filter_map(Result::err).map(|error| error.to_string()));
            }
            Err(unknown) => problems.extend(unknown),
        }
    }
    let countries = load_countries(settings);
    let tls = make_ticket_keys().and_then(|keys| Loaded::at_start(launch, settings, &keys));
    // A daemon will have standard input, output and error alone; and then there are the listeners, the database, what was
    // read for TLS and the keys for tickets.
    let own = 4 + u64::from(settings.geoip.is_some()) + u64::from(Material::is_needed(settings));
    let open = if launch.foreground { socket::count_descriptors() } else { own };
    let sockets = sockets(settings);
    match provide_descriptors(open + sockets as u64, sockets, launch, settings) {
        // A start goes on with it.
        Ok(descriptors) => descriptors.shortage(settings.conn_max).iter().for_each(complain),
        Err(problem) => problems.push(problem),
    }
    problems.extend(countries.err());
    match tls {
        Ok((_, notes)) => problems.extend(notes.lines()),
        Err(problem) => problems.push(problem),
    }
    problems.extend(privileges_needed(launch, settings).err());
    let user = launch.user.as_deref().map(find_user).transpose();
    let jail = launch.jail.as_deref().map_or(Ok(()), check_jail);
    if let Some(destination @ LogDestination::Network(..)) = &settings.log {
        problems.extend(log::open(destination).err().map(|error| error.to_string()));
    }
    // The files are opened inside the jail, by the user: this process, which ends soon, goes there to see.
    let entered = match (&user, &jail) {
        (Ok(user), Ok(())) => become_what_opens_files(launch, user.as_ref()),
        _ => Err(None),
    };
    problems.extend(user.err());
    problems.extend(jail.err());
    match entered {
        Ok(()) => problems.extend(unwritable_files(launch, settings)),
        Err(problem) => problems.extend(problem),
    }
}

fn become_what_opens_files(launch: &Launch, user: Option<&privileges::User>) -> Result<(), Option<String>> {
    if let Some(jail) = &launch.jail {
        privileges::enter_jail(jail).map_err(|error| Some(error.to_string()))?;
    }
    if let Some(user) = user {
        user.assume(Kept::Nothing).map_err(|error| Some(error.to_string()))?;
    }
    Ok(())
}

fn unwritable_files(launch: &Launch, settings: &Settings) -> Vec<String> {
    let log = match &settings.log {
        Some(LogDestination::File(path)) => Some(path),
        Some(LogDestination::Network(..)) | None => None,
    };
    let files: [(&str, Option<&Path>); 3] = [
        ("log", log.map(AsRef::as_ref)),
        ("pid file", launch.pidfile.as_deref()),
        ("status page", settings.web_stats.as_deref()),
    ];
    let named = files.into_iter().filter_map(|(what, path)| Some((what, path?)));
    named.filter_map(|(what, path)| unwritable(what, path)).collect()
}

/// The line that tells that a file cannot be written from here, as this user; none if it can.
pub(super) fn unwritable(what: &str, path: &Path) -> Option<String> {
    let error = privileges::check_writable(path).err()?;
    Some(format!("cannot write the {what} {}: {}", path.display(), words(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn problems(launch: &Launch, settings: &Settings) -> Vec<String> {
        let mut problems = Vec::new();
        find_problems(launch, settings, &mut problems);
        problems
    }

    #[test]
    fn every_problem_is_named() {
        let launch = Launch { pidfile: Some(PathBuf::from("/no/such/folder/pid")), ..Launch::default() };
        let settings = Settings {
            log: Some(LogDestination::File(PathBuf::from("/no/such/folder/log"))),
            web_stats: Some(PathBuf::from("/")),
            ..Settings::default()
        };
        let found = problems(&launch, &settings);
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].starts_with("cannot write the log /no/such/folder/log: "));
        let launch = Launch {
            user: Some("no-such-user-here".to_string()),
            jail: Some(PathBuf::from("/no/such/jail")),
            ..Launch::default()
        };
        assert_eq!(problems(&launch, &Settings::default()).len(), 2);
    }

    #[test]
    fn what_is_right_is_no_problem() {
        let folder = std::env::temp_dir();
        let launch = Launch { pidfile: Some(folder.join("pen-check-pid")), ..Launch::default() };
        let settings =
            Settings { log: Some(LogDestination::File(folder.join("pen-check-log"))), ..Settings::default() };
        assert_eq!(problems(&launch, &settings), Vec::<String>::new());
        assert!(!folder.join("pen-check-log").exists(), "--check changes nothing");
    }
}
