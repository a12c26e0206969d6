//! From arguments to serving: one list, in order, once.
//!
//! 1. names are looked up, the listeners are opened, the user is looked up, the database of countries, certificates and
//!    keys are loaded (all may need root, or the world outside the jail)
//! 2. the limit of descriptors is raised; a start that could not serve a single connection ends here, and one that could
//!    not do what `transparent` promises
//! 3. to the background; from here on whoever started pen waits for the outcome
//! 4. the process that looks up names from now on is forked, outside the jail
//! 5. into the jail, then away from root, for good: all that can be kept is the capability that `transparent` needs,
//!    by the master and the workers
//! 6. the log and the pid file are opened: inside the jail, as the user
//! 7. the shared region is made
//! 8. the master forks the workers and serves
//!
//! A failure on the way leaves nothing behind: what was made goes when it is dropped.

use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;

use crate::model::address::{Host, ListenSpec, Port, SocketAddress};
use crate::model::ids::Target;
use crate::model::listen::Protocol;
use crate::model::settings::{Launch, Settings};
use crate::model::time::Moment;
use crate::policy::acl::AccessLists;
use crate::process::background::{self, Detached, StartupNotifier};
use crate::process::check::unwritable;
use crate::process::descriptors::Descriptors;
use crate::process::listeners::{Listeners, Place, check_clashes};
use crate::process::listening::{ListenError, StreamListener};
use crate::process::lookups::{NAMES_TIME, unresolved_line};
use crate::process::master::{Master, MasterState, Role, SIGNALS};
use crate::process::names::{Answer, Question, ResolvedNames, ResolvedServers, questions};
use crate::process::pidfile::PidFile;
use crate::process::resolver::{self, ResolverProcess, Spawned};
use crate::process::tls::{Loaded, Tls};
use crate::process::worker;
use crate::process::{PEN, complain};
use crate::report::log;
use crate::report::messages::Messages;
use crate::shared::region::{Geometry, Phase, Region};
use crate::sys::geoip::Database;
use crate::sys::privileges::{self, Kept, User};
use crate::sys::reason::words;
use crate::sys::signal::{self, Signals};
use crate::sys::tls::{Material, Notes, TicketKeys, library_name};
use crate::sys::{clock, fork, socket, wait};

pub use crate::process::check::check;

/// What can be done in the place where pen was started, as whoever started it.
struct Prepared {
    names: ResolvedNames,
    servers: ResolvedServers,
    listeners: Listeners,
    control: Option<StreamListener>,
    user: Option<User>,
    kept: Kept,
    countries: Option<Database>,
    tls: (Loaded, Notes),
    tickets: Rc<TicketKeys>,
    descriptors: Descriptors,
    workers: u32,
    warnings: Vec<String>,
}

/// Starts pen: returns in the foreground parent when it is running
/// (or has failed), in the master when it has ended.
pub fn run(launch: Launch, settings: Settings) -> ExitCode {
    let core_wanted = settings.abort_on_error;
    match start(launch, settings) {
        Ok(status) => status,
        Err(reason) => {
            complain(&reason);
            if core_wanted {
                fork::abort_with_core();
            }
            ExitCode::FAILURE
        }
    }
}

fn start(launch: Launch, settings: Settings) -> Result<ExitCode, String> {
    if !launch.foreground {
        // A daemon that kept what a script had open would keep its locks and its pipes, too.
        fork::close_inherited();
    }
    let prepared = prepare(&launch, &settings).inspect_err(|reason| {
        if !launch.foreground {
            Messages::syslog(settings.debug).error(format_args!("{reason}"));
        }
    })?;
    // Signals that come before there are handlers wait for them.
    signal::block_all().map_err(|error| format!("cannot hold signals back: {}", words(&error)))?;
    if launch.foreground {
        let messages = Messages::stderr(settings.debug);
        return Ok(become_master(launch, settings, prepared, StartupNotifier::Foreground, messages));
    }
    match background::detach(PEN)
        .map_err(|error| format!("cannot go to the background: {}", words(&error)))?
    {
        Detached::WaitingParent(parent) => {
            let Prepared { mut listeners, mut control, .. } = prepared;
            // If the daemon has died silently, its Unix sockets go here.
            Ok(match parent.wait() {
                Ok(()) => {
                    listeners.disown();
                    control.iter_mut().for_each(StreamListener::disown);
                    ExitCode::SUCCESS
                }
                Err(reason) => {
                    complain(&reason);
                    ExitCode::FAILURE
                }
            })
        }
        Detached::Daemon(notifier) => {
            let messages = Messages::syslog(settings.debug);
            for warning in &prepared.warnings {
                messages.error(format_args!("{warning}"));
            }
            Ok(become_master(launch, settings, prepared, notifier, messages))
        }
    }
}

fn prepare(launch: &Launch, settings: &Settings) -> Result<Prepared, String> {
    let mut warnings = Vec::new();
    let mut warn = |line: String| {
        complain(&line);
        warnings.push(line);
    };
    let mut names = look_up_in_time(settings, resolver::look_up, clock::now);
    let places = places(settings, &names).map_err(|problems| one_line_each(&problems))?;
    let control = match &launch.control {
        Some(_) if let Some(reason) = control_refused(launch) => {
            warn(reason.to_string());
            None
        }
        Some(spec) => Some(control_address(spec, &mut names)?),
        None => None,
    };
    check_control_clash(&places, control.as_ref())?;
    let servers = names
        .resolve_servers(settings, &places, control.as_ref())
        .map_err(|errors| one_line_each(&errors.iter().map(ToString::to_string).collect::<Vec<_>>()))?;
    for (name, reason) in &servers.unresolved {
        warn(unresolved_line(name, reason));
    }
    if !servers.is_usable() && !settings.dummy {
        return Err(servers.why_unusable());
    }
    // Counted once: what tells how many processors there are may be out of reach in the jail.
    let workers = worker_count(settings);
    let room = make_room_for_listeners(settings, 0);
    let listeners = Listeners::open(places, settings.listen_queue, workers, room);
    let listeners = listeners.map_err(|error| error.to_string())?;
    let user = launch.user.as_deref().map(find_user).transpose()?;
    if let Some(jail) = &launch.jail {
        check_jail(jail)?;
    }
    let control = control.map(|address| StreamListener::open_control(address, user.as_ref())).transpose();
    let control = control.map_err(|error| error.to_string())?;
    let kept = privileges_needed(launch, settings)?;
    let countries = load_countries(settings)?;
    let tickets = make_ticket_keys()?;
    let tls = Loaded::at_start(launch, settings, &tickets)?;
    tls.1.clone().lines().into_iter().for_each(&mut warn);
    let descriptors =
        provide_descriptors(socket::count_descriptors(), listeners.sockets(), launch, settings)?;
    if let Some(line) = descriptors.shortage(settings.conn_max) {
        warn(line);
    }
    // Whoever starts a daemon sees no message of it: what can be told before is.
    if !changes_place(launch)
        && let Some(line) = unwritable_page(settings)
    {
        warn(line);
    }
    Ok(Prepared {
        names,
        servers,
        listeners,
        control,
        user,
        kept,
        countries,
        tls,
        tickets,
        descriptors,
        workers,
        warnings,
    })
}

/// Asks for the names in the settings, one after another. Name servers that do not answer must not hold up a start
/// for ever: names of servers that are not asked for in time are left to the resolver process.
fn look_up_in_time(
    settings: &Settings,
    look_up: impl Fn(&Question) -> Answer,
    now: impl Fn() -> Moment,
) -> ResolvedNames {
    let end = now().plus(NAMES_TIME);
    let listens_on = |name: &String| {
        settings.listen.iter().any(|listen| matches!(&listen.spec.host, Host::Name(host) if host == name))
    };
    let mut names = ResolvedNames::default();
    for question in questions(settings) {
        let late = match &question {
            Question::Host(name) => !listens_on(name) && now() >= end,
            Question::Service(..) => false,
        };
        let answer = match late {
            true => Answer::Unknown("the name servers are slow".to_string()),
            false => look_up(&question),
        };
        names.learn(question, answer);
    }
    names
}

/// Asks for every name in the settings, one after another.
pub(super) fn look_up_all(settings: &Settings) -> ResolvedNames {
    let mut names = ResolvedNames::default();
    for question in questions(settings) {
        let answer = resolver::look_up(&question);
        names.learn(question, answer);
    }
    names
}

/// The database of `geoip`, if there is one.
pub(super) fn load_countries(settings: &Settings) -> Result<Option<Database>, String> {
    settings.geoip.as_deref().map(Database::load).transpose().map_err(|error| error.to_string())
}

/// The keys for session tickets. TLS may be turned on later, when there are workers that must have them.
pub(super) fn make_ticket_keys() -> Result<Rc<TicketKeys>, String> {
    let keys = TicketKeys::create();
    keys.map(Rc::new).map_err(|error| format!("cannot make keys for session tickets: {}", words(&error)))
}

/// Raises the limit of descriptors. An error if not a single connection could be served.
pub(super) fn provide_descriptors(
    open: u64,
    sockets: usize,
    launch: &Launch,
    settings: &Settings,
) -> Result<Descriptors, String> {
    let descriptors = Descriptors::provide(open, sockets, launch, settings)
        .map_err(|error| format!("cannot learn the limit of descriptors: {}", words(&error)))?;
    descriptors.suffice_for_one()?;
    Ok(descriptors)
}

/// Does it end where, or as somebody for whom, paths and rights are not what they are now?
fn changes_place(launch: &Launch) -> bool {
    launch.jail.is_some() || launch.user.is_some()
}

/// The line that tells that the status page could not be written from here, as this user. That may change while pen
/// runs, so it is no reason not to start.
pub(super) fn unwritable_page(settings: &Settings) -> Option<String> {
    settings.web_stats.as_deref().and_then(|path| unwritable("status page", path))
}

/// Where to listen; or all that is wrong with that.
pub(super) fn places(settings: &Settings, names: &ResolvedNames) -> Result<Vec<Place>, Vec<String>> {
    if settings.listen.is_empty() {
        return Err(vec!["there is no address to listen on; give [host:]port or a path".to_string()]);
    }
    names.places(settings).map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

/// How many sockets clients are to come to.
pub(super) fn sockets(settings: &Settings) -> usize {
    let workers = worker_count(settings) as usize;
    let sockets = settings.listen.iter().map(|listen| match listen.protocol {
        Protocol::Tcp => 1,
        Protocol::Udp => workers,
    });
    sockets.sum()
}

/// Groups for many workers may be more sockets than a process could open: raises its limit, as far as that is permitted,
/// for those that are not `present`. How many there can be so that it can still do all else.
pub(super) fn make_room_for_listeners(settings: &Settings, present: usize) -> usize {
    // A line to each worker, and a few files and sessions.
    const FEW: u64 = 16;
    let others = socket::count_descriptors() + u64::from(worker_count(settings)) + FEW;
    let more = sockets(settings).saturating_sub(present) as u64;
    let granted = privileges::raise_descriptor_limit(None, others + more).unwrap_or(others + more);
    usize::try_from(granted.saturating_sub(others)).unwrap_or(usize::MAX)
}

/// Is the control port out of the listeners' way?
pub(super) fn check_control_clash(places: &[Place], control: Option<&SocketAddress>) -> Result<(), String> {
    let Some(control) = control else { return Ok(()) };
    let control = Place { protocol: Protocol::Tcp, address: control.clone() };
    check_clashes(&[control], places).map_err(|(_, error)| ListenError::Control(Box::new(error)).to_string())
}

/// Several problems as one message: each has the name of the program before it.
fn one_line_each(problems: &[String]) -> String {
    problems.join("\npen: ")
}

/// Why there is no control port although one is asked for: commands would be carried out with all rights.
pub(super) fn control_refused(launch: &Launch) -> Option<&'static str> {
    (privileges::is_root() && launch.user.is_none()).then_some(
        "the control port (-C) is not opened for root; name a user with -u (-u root, if it must be root)",
    )
}

/// Where the control port is.
pub(super) fn control_address(spec: &ListenSpec, names: &mut ResolvedNames) -> Result<SocketAddress, String> {
    let host = match &spec.host {
        Host::Name(name) => Some(Question::Host(name.clone())),
        Host::Ip(_) | Host::Path(_) => None,
    };
    let service = match &spec.port {
        Port::Service(name) => Some(Question::Service(name.clone(), Some(Protocol::Tcp))),
        Port::Number(_) | Port::Listeners => None,
    };
    for question in host.into_iter().chain(service) {
        if !names.knows(&question) {
            let answer = resolver::look_up(&question);
            names.learn(question, answer);
        }
    }
    names.listen_address(Protocol::Tcp, spec).map_err(|error| format!("control port: {error}"))
}

/// The user to become.
///
/// # Errors
///
/// There is none of that name: why not.
pub fn find_user(name: &str) -> Result<User, String> {
    match User::find(name) {
        Ok(Some(user)) => Ok(user),
        Ok(None) => Err(format!("there is no user called {name}; name another with -u")),
        Err(error) => Err(format!("cannot look up user {name}: {}", words(&error))),
    }
}

/// What of root's rights the settings need all the time. It is certain that this process has that.
pub(super) fn privileges_needed(launch: &Launch, settings: &Settings) -> Result<Kept, String> {
    if !settings.transparent {
        return Ok(Kept::Nothing);
    }
    match privileges::claim(Kept::NetAdmin).and_then(|()| socket::check_foreign()) {
        Ok(()) => Ok(Kept::NetAdmin),
        Err(error) => {
            let place = launch.places.of("transparent").map(|place| format!("{place}: ")).unwrap_or_default();
            Err(format!(
                "{place}transparent needs the capability CAP_NET_ADMIN: {}; start pen as root, or give it this \
                 capability",
                words(&error)
            ))
        }
    }
}

/// Is there a jail to go to?
///
/// # Errors
///
/// There is none: why not.
pub fn check_jail(jail: &Path) -> Result<(), String> {
    match std::fs::metadata(jail) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("the jail {} is not a directory", jail.display())),
        Err(error) => Err(format!("cannot use the jail {}: {}", jail.display(), words(&error))),
    }
}

/// In the process that becomes the master: everything up to the end of its life.
fn become_master(
    launch: Launch,
    settings: Settings,
    prepared: Prepared,
    notifier: StartupNotifier,
    messages: Messages,
) -> ExitCode {
    let Prepared {
        names,
        servers,
        mut listeners,
        mut control,
        user,
        kept,
        countries,
        tls,
        tickets,
        descriptors,
        workers,
        warnings: _,
    } = prepared;
    listeners.adopt();
    control.iter_mut().for_each(StreamListener::adopt);
    let core_wanted = settings.abort_on_error;
    let resolver = match start_resolver(&launch, &servers) {
        Ok(None) => Ok(None),
        Ok(Some(Spawned::Parent(resolver))) => Ok(Some(resolver)),
        Ok(Some(Spawned::Child(process))) => {
            // What it must not keep; nothing else is open yet.
            drop((listeners, control, notifier, messages, countries, tls, tickets));
            if user.is_none_or(|user| user.assume(Kept::Nothing).is_ok()) {
                look_names_up(process);
            }
            fork::exit_now(0)
        }
        Err(error) => Err(format!("cannot start the process that looks up names: {}", words(&error))),
    };
    let steps = || -> Result<_, String> {
        let resolver = resolver?;
        if let Some(jail) = &launch.jail {
            privileges::enter_jail(jail).map_err(|error| error.to_string())?;
        }
        if let Some(user) = &user {
            listeners.give_groups_to(user);
            user.assume(kept).map_err(|error| error.to_string())?;
        }
        privileges::renounce(kept).map_err(|error| error.to_string())?;
        if changes_place(&launch)
            && let Some(line) = unwritable_page(&settings)
        {
            messages.error(format_args!("{line}"));
        }
        if let (Some(path), Some(database)) = (&settings.geoip, &countries) {
            messages.debug(
                1,
                format_args!("countries are looked up in {} ({:?})", path.display(), database.kind()),
            );
        }
        if Material::is_needed(&settings) {
            messages.debug(1, format_args!("TLS is done by {}", library_name()));
        }
        let log = match &settings.log {
            Some(to) => Some(log::open(&names.log_destination(to)).map_err(|error| error.to_string())?),
            None => None,
        };
        let pidfile = launch
            .pidfile
            .as_deref()
            .map(|path| PidFile::claim(path, PEN))
            .transpose()
            .map_err(|error| error.to_string())?;
        let geometry = Geometry { clients: settings.clients_max, connections: settings.conn_max };
        let region = Region::create(geometry).map_err(|error| error.to_string())?;
        region.set_phase(Phase::Serving);
        let table = region.servers();
        table
            .publish_for(
                settings.generation,
                &servers.servers,
                servers.emergency.as_ref(),
                servers.abuse.as_ref(),
            )
            .map_err(|error| error.to_string())?;
        for (server, length) in &launch.shunned {
            table.shun_for(Target::Server(*server), *length, settings.blacklist, clock::now());
        }
        region.workers().set_count(workers);
        let signals = Signals::install(&SIGNALS).and_then(|own| signal::unblock_all().map(|()| own));
        let signals = signals.map_err(|error| format!("cannot hear signals: {}", words(&error)))?;
        let room = wait::bell()
            .map_err(|error| format!("cannot make the bell of the workers: {}", words(&error)))?;
        Ok((resolver, log, pidfile, region, signals, room))
    };
    let (resolver, log, pidfile, region, signals, room) = match steps() {
        Ok(made) => made,
        Err(reason) => {
            drop((listeners, control));
            notifier.failed(&reason, &messages);
            if core_wanted {
                fork::abort_with_core();
            }
            return ExitCode::FAILURE;
        }
    };
    let lists = AccessLists::compile(&settings.acls);
    let (loaded, told) = tls;
    let tls = Tls::new(loaded, told, tickets, &settings);
    let state = MasterState {
        region: &region,
        launch,
        settings,
        names,
        lists,
        listeners: Some(listeners),
        control,
        log,
        messages,
        room,
        resolver,
        pidfile,
        notifier: Some(notifier),
        descriptors,
        workers,
        countries,
        tls,
    };
    match Master::new(state, signals).run() {
        Role::Ended(status) => status,
        Role::Worker(inheritance) => fork::exit_now(worker::run(*inheritance)),
        Role::ResolverProcess(process) => {
            look_names_up(process);
            fork::exit_now(0)
        }
    }
}

/// In the process that looks up names: its whole life. It keeps nothing of what the master has kept.
fn look_names_up(process: ResolverProcess) {
    if privileges::renounce(Kept::Nothing).is_ok() {
        process.serve();
    }
}

/// Starts the process that looks up names, if one may be needed later. It stays outside the jail.
fn start_resolver(launch: &Launch, servers: &ResolvedServers) -> io::Result<Option<Spawned>> {
    if servers.unresolved.is_empty() && launch.config.is_none() && launch.control.is_none() {
        return Ok(None);
    }
    resolver::spawn().map(Some)
}

/// How many workers these settings ask for.
pub(super) fn worker_count(settings: &Settings) -> u32 {
    let processors = || std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    settings.workers.unwrap_or_else(processors).clamp(1, crate::model::ids::MAX_WORKERS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::listen::Listen;
    use crate::model::time::Seconds;

    #[test]
    fn users_and_jails_that_do_not_exist_are_named() {
        assert!(find_user("no-such-user-here").unwrap_err().contains("no-such-user-here"));
        assert!(check_jail(Path::new("/no/such/jail")).unwrap_err().contains("/no/such/jail"));
        assert!(check_jail(Path::new("/dev/null")).unwrap_err().contains("not a directory"));
        check_jail(Path::new("/")).unwrap();
    }

    #[test]
    fn slow_name_servers_do_not_hold_up_the_start_for_ever() {
        let settings = Settings {
            listen: ["8001", "z.listen:80"].map(Listen::tcp).concat(),
            servers: (0..100).map(|n| format!("name{n:02}:80").parse().unwrap()).collect(),
            ..Settings::default()
        };
        let time = std::cell::Cell::new(Moment(0));
        let asked = std::cell::RefCell::new(Vec::new());
        let slow = |question: &Question| {
            time.set(time.get().plus(Seconds(10)));
            asked.borrow_mut().push(question.clone());
            Answer::Address([127, 0, 0, 1].into())
        };
        let names = look_up_in_time(&settings, slow, || time.get());
        let host = |name: &str| Question::Host(name.to_string());
        assert_eq!(*asked.borrow(), ["name00", "name01", "name02", "z.listen"].map(host));
        assert!(names.knows(&host("name02")) && !names.knows(&host("name03")));
    }

    #[test]
    fn there_is_at_least_one_worker() {
        assert_eq!(worker_count(&Settings { workers: Some(7), ..Settings::default() }), 7);
        assert!(worker_count(&Settings::default()) >= 1);
    }
}
