//! The program pen(1): from its command line to [`Launch`] and [`Settings`].
//!
//! Options come first, in their order, with the commands of `-O` among them; then the file of `-F`; then the operands,
//! which take the first servers' places whatever the file says. All that is wrong is collected: a start names it and
//! ends, `--check` adds what else it finds. Starting is not done here but in [`startup`].

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use crate::model::address::ServerSpec;
use crate::model::apply::{Action, MAX_DEBUG};
use crate::model::command::{Command, Notice};
use crate::model::config::{self, At, Loader, Reader, Warning};
use crate::model::ids::{MAX_CLIENTS, MAX_CONNECTIONS, MAX_SERVERS, MAX_WORKERS};
use crate::model::listen::Listen;
use crate::model::number::{self, LARGEST};
use crate::model::settings::{Launch, Settings, file_name};
use crate::model::time::Seconds;
use crate::model::tls::VerifyClient;
use crate::process::{complain, startup};
use crate::sys::reason::words;
use crate::sys::signal::{self, Signal};
use crate::sys::tls::library_name;
use crate::tools::cli::answer;
use crate::tools::options::{self, Arguments, Effect, Given, Kind, USAGE};

/// Runs pen with the arguments of this process.
pub fn main() -> ExitCode {
    // A write beyond RLIMIT_FSIZE fails then, like one to a full disk, instead of killing the process. (SIGPIPE is
    // ignored already: see std::io.)
    if let Err(error) = signal::ignore(&[Signal::SIGXFSZ]) {
        complain(format_args!("cannot ignore SIGXFSZ: {}", words(&error)));
    }
    let arguments = match options::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => return wrong_usage(&[error.to_string()]),
    };
    if arguments.has(Effect::Help) {
        return answer(&options::help());
    }
    if arguments.has(Effect::Version) {
        return answer(&format!("pen {} with {}\n", env!("CARGO_PKG_VERSION"), library_name()));
    }
    let request = Request::read(&arguments, &|path| std::fs::read(path).and_then(config::decode));
    // A check says what is wrong, and nothing else.
    if !request.launch.check {
        answer(&request.replies);
    }
    for notice in &request.notices {
        complain(notice);
    }
    if request.launch.check {
        return startup::check(&request.launch, &request.settings, request.problems);
    }
    match request.problems.as_slice() {
        [] => startup::run(request.launch, request.settings),
        problems if arguments.operands.is_empty() && request.settings.listen.is_empty() => {
            wrong_usage(problems)
        }
        problems => {
            complain_of(problems);
            ExitCode::FAILURE
        }
    }
}

fn complain_of(problems: &[String]) {
    for problem in problems {
        complain(problem);
    }
}

fn wrong_usage(problems: &[String]) -> ExitCode {
    complain_of(problems);
    let _ = writeln!(io::stderr(), "{USAGE}");
    ExitCode::FAILURE
}

/// What a command line asks for.
#[derive(Debug)]
pub struct Request {
    /// What is fixed from the start on.
    pub launch: Launch,
    /// What can change later. Only without `problems` they are whole.
    pub settings: Settings,
    /// The answers to questions, for standard output.
    pub replies: String,
    /// What the administrator should know, without `pen:` in front.
    pub notices: Vec<String>,
    /// What makes a start impossible; under `--check` also what a start would only mention and skip.
    pub problems: Vec<String>,
}

impl Request {
    /// Carries out options, configuration file and operands. Files are read through `loader`.
    pub fn read(arguments: &Arguments, loader: Loader<'_>) -> Request {
        let mut assembly = Assembly {
            launch: Launch::default(),
            reader: Reader::new(Settings::default(), loader),
            notices: Vec::new(),
            problems: Vec::new(),
        };
        assembly.launch.arguments = arguments.words.clone();
        // Wherever it stands: options before it, the file and the operands say where to listen.
        assembly.settings().udp = arguments.has(Effect::Udp);
        for given in &arguments.options {
            if let Err(problem) = assembly.option(given) {
                assembly.problems.push(problem);
            }
            assembly.collect_faults();
        }
        if let Some(path) = assembly.launch.config.clone() {
            assembly.file(&path, loader(&path));
            assembly.collect_faults();
        }
        assembly.operands(&arguments.operands);
        assembly.finish()
    }
}

/// A command line, half read.
struct Assembly<'a> {
    launch: Launch,
    reader: Reader<'a>,
    notices: Vec<String>,
    problems: Vec<String>,
}

impl Assembly<'_> {
    fn settings(&mut self) -> &mut Settings {
        &mut self.reader.reading.settings
    }

    fn option(&mut self, given: &Given) -> Result<(), String> {
        let name = given.option.name();
        match given.option.kind {
            Kind::Works(effect) => self.carry_out(effect, &name, given),
            Kind::Obsolete(reason) => {
                self.notice(format!("{name} has no effect: {reason}"));
                Ok(())
            }
            Kind::Refused(reason) => Err(format!("{name} cannot be used: {reason}")),
        }
    }

    fn carry_out(&mut self, effect: Effect, name: &str, given: &Given) -> Result<(), String> {
        let value = &given.value;
        match effect {
            Effect::TurnOn(switch) => {
                self.settings().apply(Command::Switch(switch, true));
            }
            Effect::AbuseServer => self.settings().abuse = Some(parsed(name, value)?),
            Effect::Blacklist => self.settings().blacklist = Seconds(count(name, value, 0, LARGEST)?),
            Effect::CaDirectory => self.settings().tls.ca_path = Some(file(name, value)?),
            Effect::CaFile => self.settings().tls.ca_file = Some(file(name, value)?),
            Effect::Certificate => self.settings().tls.certificate = Some(file(name, value)?),
            Effect::Check => self.launch.check = true,
            Effect::ClientsMax => self.clients_max(name, value)?,
            Effect::Command => {
                let command = text(name, value)?;
                self.reader.command(name, command);
            }
            Effect::Config => self.launch.config = Some(path(name, value)?),
            Effect::ConnMax => self.conn_max(name, value)?,
            Effect::Control => self.launch.control = Some(parsed(name, value)?),
            Effect::Debug => {
                let level = self.settings().debug.saturating_add(given.times);
                self.settings().debug = level.min(MAX_DEBUG);
            }
            Effect::EmergencyServer => self.settings().emergency = Some(parsed(name, value)?),
            Effect::ExitCommand => self.launch.exit_enabled = true,
            Effect::Foreground => self.launch.foreground = true,
            Effect::Forgetful => self.settings().forgetful = true,
            // These have been answered, or taken into account, before anything else is done.
            Effect::Help | Effect::Udp | Effect::Version => {}
            Effect::Http => self.settings().http.headers = true,
            Effect::Jail => self.launch.jail = Some(path(name, value)?),
            Effect::Key => self.settings().tls.key = Some(file(name, value)?),
            Effect::ListenQueue => {
                self.settings().listen_queue = self.raised(name, value, "listen_queue", 50)?;
            }
            Effect::Log => self.settings().log = Some(parsed(name, value)?),
            Effect::MultiAccept => {
                self.settings().multi_accept = self.raised(name, value, "multi_accept", 1)?;
            }
            Effect::Pidfile => self.launch.pidfile = Some(path(name, value)?),
            Effect::Protocol => self.protocol(name, text(name, value)?)?,
            Effect::RequireCertificate => self.settings().tls.verify_client = VerifyClient::Require,
            Effect::Timeout => self.settings().timeout = Seconds(count(name, value, 1, LARGEST)?),
            Effect::Tracking => self.settings().tracking = Seconds(count(name, value, 0, LARGEST)?),
            Effect::User => self.launch.user = Some(text(name, value)?.to_owned()),
            Effect::WebStats => self.settings().web_stats = Some(file(name, value)?),
            Effect::Workers => self.settings().workers = Some(count(name, value, 1, MAX_WORKERS)?),
        }
        Ok(())
    }

    /// The classic kept its table if the number was not positive.
    fn clients_max(&mut self, name: &str, value: &OsStr) -> Result<(), String> {
        let given = text(name, value)?;
        if number::integer(given).is_some_and(|number| number < 1) {
            let clients = self.settings().clients_max;
            self.notice(format!(
                "{name} must be at least 1, {given} is ignored; {clients} clients are remembered"
            ));
            return Ok(());
        }
        self.settings().clients_max = count(name, value, 1, MAX_CLIENTS)?;
        Ok(())
    }

    /// The classic took its default for 0 and for what is no number.
    fn conn_max(&mut self, name: &str, value: &OsStr) -> Result<(), String> {
        let given = text(name, value)?;
        if matches!(number::integer(given), None | Some(0)) {
            let default = Settings::default().conn_max;
            self.notice(format!("{name} must be a number from 1 on, not {given:?}; {default} is used"));
            self.settings().conn_max = default;
            return Ok(());
        }
        self.settings().conn_max = count(name, value, 1, MAX_CONNECTIONS)?;
        Ok(())
    }

    /// The classic never took it for more than what not to speak, of what is no longer spoken anyway.
    fn protocol(&mut self, name: &str, given: &str) -> Result<(), String> {
        match given {
            "ssl23" => {}
            "ssl2" | "ssl3" | "tls1" => self.notice(format!(
                "{name} {given} has no effect: TLS 1.2 or newer is used; the command ssl_min_version sets another floor"
            )),
            other => return Err(format!("protocol version {other} not known")),
        }
        Ok(())
    }

    fn raised(&mut self, name: &str, value: &OsStr, what: &'static str, min: u32) -> Result<u32, String> {
        let (number, below) =
            number::raised(name, text(name, value)?, min..=LARGEST).map_err(|error| error.to_string())?;
        if below {
            self.notice(Notice::Bumped(what, min).to_string());
        }
        Ok(number)
    }

    /// A file that does not exist is no reason not to start, as ever; one that cannot be read is.
    fn file(&mut self, path: &Path, text: io::Result<String>) {
        let name = path.display().to_string();
        match text {
            Ok(text) => self.reader.file(&name, &text),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let what = Warning::Skipped(format!("{}; going on without it", words(&error)));
                self.reader.reading.warnings.push(At { file: name, line: None, what });
            }
            Err(error) => self.problems.push(format!("cannot read {name}: {}", words(&error))),
        }
    }

    fn operands(&mut self, operands: &[OsString]) {
        let mut operands = operands.iter();
        // Where `listen` has been used the first operand means nothing.
        if let Some(first) = operands.next()
            && self.settings().listen.is_empty()
        {
            match parsed::<crate::model::address::ListenSpec>("the address to listen on", first) {
                Ok(listen) => {
                    self.launch.operand = Some(listen.clone());
                    let protocol = self.settings().protocol();
                    self.settings().listen = vec![Listen { protocol, spec: listen }];
                }
                Err(problem) => self.problems.push(problem),
            }
        }
        if operands.len() > MAX_SERVERS as usize {
            self.problems.push(format!("too many servers; there can be {MAX_SERVERS}"));
            return;
        }
        for (number, operand) in operands.enumerate() {
            let server: ServerSpec = match parsed(&format!("server {number}"), operand) {
                Ok(server) => server,
                Err(problem) => {
                    self.problems.push(problem);
                    ServerSpec::unset()
                }
            };
            match self.settings().servers.get_mut(number) {
                // These are the file's to say: an operand has no word for them.
                Some(place) => {
                    let (sni, tls) = (std::mem::take(&mut place.sni), place.tls.take());
                    *place = ServerSpec { acl: place.acl, sni, tls, proxy: place.proxy, ..server };
                }
                None => self.settings().servers.push(server),
            }
        }
    }

    fn finish(mut self) -> Request {
        // What is missing because it was not understood has been named already.
        if self.problems.is_empty() {
            self.reader.settle();
            self.collect_faults();
            let problems = self.settings().problems();
            self.problems.extend(problems.iter().map(ToString::to_string));
        }
        let reading = self.reader.reading;
        for warning in reading.warnings {
            match warning.what {
                Warning::Skipped(_) | Warning::Misplaced(_) if self.launch.check => {
                    self.problems.push(warning.to_string())
                }
                _ => self.notices.push(warning.to_string()),
            }
        }
        self.notices.extend(reading.settings.remarks().iter().map(ToString::to_string));
        for action in reading.actions {
            match action {
                Action::Shun(server, length) => self.launch.shunned.push((server, length)),
                // They are read in any case.
                Action::Restaple => {}
                Action::Include(_) | Action::Operate(_) => unreachable!("the reader leaves none of these"),
            }
        }
        self.launch.places = reading.places;
        Request {
            launch: self.launch,
            settings: reading.settings,
            replies: reading.replies,
            notices: self.notices,
            problems: self.problems,
        }
    }

    fn collect_faults(&mut self) {
        self.problems.extend(self.reader.faults.drain(..).map(|fault| fault.to_string()));
    }

    fn notice(&mut self, notice: String) {
        if !self.notices.contains(&notice) {
            self.notices.push(notice);
        }
    }
}

fn text<'a>(name: &str, value: &'a OsStr) -> Result<&'a str, String> {
    value.to_str().ok_or_else(|| format!("{name}: {:?} is not UTF-8", value.display().to_string()))
}

fn path(name: &str, value: &OsStr) -> Result<PathBuf, String> {
    match value.is_empty() {
        true => Err(format!("{name}: the name of the file is empty")),
        false => Ok(value.into()),
    }
}

/// A file that the settings name: they travel to the workers as text.
fn file(name: &str, value: &OsStr) -> Result<PathBuf, String> {
    file_name(text(name, value)?).map_err(|error| format!("{name}: {error}"))
}

fn count(name: &str, value: &OsStr, min: u32, max: u32) -> Result<u32, String> {
    number::unsigned(name, text(name, value)?, min..=max).map_err(|error| error.to_string())
}

fn parsed<T: FromStr<Err: ToString>>(name: &str, value: &OsStr) -> Result<T, String> {
    text(name, value)?.parse().map_err(|error: T::Err| format!("{name}: {}", error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::model::address::Drain;
    use crate::model::config::Places;
    use crate::model::ids::ServerId;
    use crate::model::listen::Protocol;
    use crate::model::proxy::ProxySend;
    use crate::model::settings::LogDestination;
    use crate::model::tls::{ServerTls, Trust};

    fn words_of(line: &str) -> Vec<OsString> {
        line.split(' ').filter(|word| !word.is_empty()).map(|word| word.replace('_', " ").into()).collect()
    }

    /// A command line where `_` stands for a space within a word, with these files.
    fn request(line: &str, files: &[(&str, &str)]) -> Request {
        let files: HashMap<_, _> = files.iter().copied().collect();
        let loader = |path: &Path| match files.get(path.to_str().unwrap()) {
            Some(text) => Ok((*text).to_owned()),
            None => Err(io::Error::from_raw_os_error(2)),
        };
        Request::read(&options::parse(words_of(line)).unwrap(), &loader)
    }

    /// Reads a faultless command line.
    fn settings(line: &str) -> Settings {
        let request = request(line, &[]);
        assert_eq!((request.problems, request.notices), (vec![], vec![]), "{line}");
        request.settings
    }

    fn problems(line: &str) -> Vec<String> {
        request(line, &[]).problems
    }

    fn servers(settings: &Settings) -> Vec<String> {
        settings.servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn operands_are_where_to_listen_and_the_servers() {
        let settings = settings("127.0.0.1:8001 a:1:2 b /run/c");
        assert_eq!(settings.listen[0].spec.text, "127.0.0.1:8001");
        assert_eq!(servers(&settings), ["a:1:2", "b", "/run/c"]);
        assert_eq!(settings.generation, 1);
    }

    #[test]
    fn every_working_option_changes_what_it_names_and_nothing_else() {
        let plain = settings("L:80 a");
        type Change = fn(&mut Settings);
        let cases: [(&str, Change); 29] = [
            ("-E c -A a", |s| (s.tls.certificate, s.tls.ca_path) = (Some("c".into()), Some("a".into()))),
            ("-E c", |s| s.tls.certificate = Some("c".into())),
            ("-E c -G g", |s| (s.tls.certificate, s.tls.ca_file) = (Some("c".into()), Some("g".into()))),
            ("-E c -K k", |s| (s.tls.certificate, s.tls.key) = (Some("c".into()), Some("k".into()))),
            ("-L ssl23", |_| {}),
            ("-R", |s| s.tls.verify_client = VerifyClient::Require),
            ("-a", |s| s.ascii = true),
            ("-B b:1", |s| s.abuse = Some("b:1".parse().unwrap())),
            ("-b 31", |s| s.blacklist = Seconds(31)),
            ("-b0", |s| s.blacklist = Seconds(0)),
            ("-c 99", |s| s.clients_max = 99),
            ("-d", |s| s.debug = 1),
            ("-dddd", |s| s.debug = 3),
            ("-e e", |s| s.emergency = Some("e".parse().unwrap())),
            ("-H", |s| s.http.headers = true),
            ("-h", |s| s.hash = true),
            ("-l x.log", |s| s.log = Some(LogDestination::File("x.log".into()))),
            ("-m 7", |s| s.multi_accept = 7),
            ("-N", |s| s.forgetful = true),
            ("-q 51", |s| s.listen_queue = 51),
            ("-r", |s| s.roundrobin = true),
            ("-s", |s| s.stubborn = true),
            ("-T 9", |s| s.tracking = Seconds(9)),
            ("-t 9", |s| s.timeout = Seconds(9)),
            ("-U", |s| (s.udp, s.listen[0].protocol) = (true, Protocol::Udp)),
            ("-W -O server_0_weight_1", |s| (s.weight, s.servers[0].weight) = (true, 0)),
            ("-w w.html", |s| s.web_stats = Some("w.html".into())),
            ("-x 77", |s| s.conn_max = 77),
            ("--workers 4", |s| s.workers = Some(4)),
        ];
        for (option, change) in cases {
            let mut expected = plain.clone();
            change(&mut expected);
            assert_eq!(request(&format!("{option} L:80 a"), &[]).settings, expected, "{option}");
            assert_eq!(request(&format!("L:80 {option} a"), &[]).settings, expected, "{option}");
        }
    }

    #[test]
    fn options_of_the_start_go_into_the_launch() {
        let line = "-f --check -p p -j j -u u -F F -C 7001 -X L:80 a";
        let launch = request(line, &[("F", "")]).launch;
        let expected = Launch {
            foreground: true,
            check: true,
            pidfile: Some("p".into()),
            jail: Some("j".into()),
            user: Some("u".into()),
            config: Some("F".into()),
            control: Some("7001".parse().unwrap()),
            exit_enabled: true,
            operand: Some("L:80".parse().unwrap()),
            arguments: line.split(' ').map(str::to_owned).collect(),
            places: Places::default(),
            shunned: vec![],
        };
        assert_eq!(launch, expected);
    }

    #[test]
    fn the_last_of_a_repeated_option_counts() {
        let settings = settings("-b 1 L:80 -b2 a --blacklist 3");
        assert_eq!(settings.blacklist, Seconds(3));
    }

    #[test]
    fn commands_run_in_the_order_of_the_options() {
        assert!(!settings("-h -O no_hash L:80 a").hash);
        assert!(settings("-O no_hash -h L:80 a").hash);
        assert_eq!(request("-o mode -h -O mode L:80 a", &[]).replies, {
            let rest = "no roundrobin no stubborn no weight no prio\n";
            format!("no hash {rest}hash {rest}")
        });
        assert_eq!(
            problems("-O blacklist_x L:80 a"),
            [r#"-O: blacklist must be a number from 0 to 2147483647, not "x""#]
        );
        assert_eq!(request("-O epoll L:80 a", &[]).notices, ["-O: epoll has no effect: epoll is used"]);
    }

    #[test]
    fn the_file_comes_after_all_options_and_before_the_operands() {
        let file = [("F", "blacklist 7\nserver 0 address x port 1 acl 3\nserver 2 address z\nno hash\nmode")];
        let request = request("-F F L:80 a b -b 5 -h", &file);
        assert_eq!(request.problems, [""; 0]);
        assert_eq!(request.settings.blacklist, Seconds(7));
        assert!(!request.settings.hash);
        assert_eq!(request.replies, "7\nno hash no roundrobin no stubborn no weight no prio\n");
        assert_eq!(servers(&request.settings), ["a", "b", "z"]);
        assert_eq!(request.settings.servers[0].acl.index(), 3);
    }

    #[test]
    fn with_listen_the_first_operand_is_skipped() {
        for line in ["-F F 0:nonsense: b", "-O listen_8001 -F G ignored b", "-Olisten_8001 ignored b"] {
            let request = request(line, &[("F", "listen 8001\nserver 0 address a"), ("G", "")]);
            assert_eq!(request.problems, [""; 0], "{line}");
            assert_eq!(request.settings.listen[0].spec.text, "8001");
            assert_eq!(servers(&request.settings), ["b"]);
        }
        let request = request("-F F", &[("F", "listen 8001\nserver 0 address a")]);
        assert_eq!((request.problems.len(), servers(&request.settings)), (0, vec!["a".to_owned()]));
    }

    #[test]
    fn with_u_whatever_names_no_protocol_is_udp() {
        let listeners =
            |settings: &Settings| settings.listen.iter().map(ToString::to_string).collect::<Vec<_>>();
        for line in ["-U 53 dns1", "53 dns1 -U", "-r 53 -rU dns1", "--udp 53 dns1"] {
            assert_eq!(listeners(&settings(line)), ["udp 53"], "{line}");
        }
        assert_eq!(listeners(&settings("53 dns1")), ["tcp 53"]);
        let file = [("F", "listen 53\nlisten tcp 53")];
        for line in ["-U -F F x dns1", "-F F x dns1 -U"] {
            let request = request(line, &file);
            assert_eq!(
                (request.problems, listeners(&request.settings)),
                (vec![], vec!["udp 53".into(), "tcp 53".into()])
            );
        }
        assert_eq!(listeners(&settings("-O listen_54 -U 53 dns1")), ["udp 54"]);
        assert_eq!(listeners(&request("-F F x dns1", &file).settings), ["tcp 53"]);
        assert_eq!(listeners(&settings("-U -O listen_tcp_53 x dns1")), ["tcp 53"]);
    }

    #[test]
    fn what_there_is_not_for_datagrams_ends_the_start() {
        assert_eq!(
            problems("-U /run/pen.sock a:1"),
            ["UDP needs [host:]port to listen on, not the path /run/pen.sock"]
        );
        let unix = problems("-U 53 /run/dns");
        assert!(unix.len() == 1 && unix[0].starts_with("server 0 is the Unix socket /run/dns"), "{unix:?}");
        assert_eq!(request("-U -H 53 a", &[]).notices, ["http (-H) has no effect without a TCP listener"]);
    }

    #[test]
    fn a_file_that_is_missing_is_mentioned_and_one_that_is_wrong_ends_the_start() {
        let missing = request("-F F L:80 a", &[]);
        assert_eq!(missing.notices, ["F: No such file or directory; going on without it"]);
        assert_eq!(missing.problems, [""; 0]);
        let wrong = request("-F F L:80 a", &[("F", "hash\nblacklist x\nacl x permit ::1")]);
        assert_eq!(
            wrong.problems,
            [
                r#"F:2: blacklist must be a number from 0 to 2147483647, not "x""#,
                r#"F:3: acl must be a number from 0 to 9, not "x""#,
            ]
        );
        let denied = |_: &Path| Err(io::Error::from_raw_os_error(13));
        let request = Request::read(&options::parse(words_of("-F F L:80 a")).unwrap(), &denied);
        assert_eq!(request.problems, ["cannot read F: Permission denied"]);
    }

    #[test]
    fn what_is_skipped_is_a_notice_to_a_start_and_a_problem_to_a_check() {
        let files = [("F", "frob\nepoll")];
        let skipped = "F:1: do_cmd: ignoring command starting with 'frob'";
        let obsolete = "F:2: epoll has no effect: epoll is used";
        let start = request("-F F L:80 a", &files);
        assert_eq!((start.notices, start.problems), (vec![skipped.into(), obsolete.into()], vec![]));
        let check = request("--check -F F L:80 a", &files);
        assert_eq!((check.notices, check.problems), (vec![obsolete.to_owned()], vec![skipped.to_owned()]));
        assert_eq!(request("--check -F G L:80 a", &files).problems.len(), 1);
    }

    #[test]
    fn what_needs_a_running_pen_is_skipped_at_the_start() {
        let request = request("-O servers -F F L:80 a", &[("F", "pid\nhash")]);
        let skipped = |place, word| {
            format!(
                "{place}: {word} is no setting: it must be sent to the control port of a running pen, alone"
            )
        };
        assert_eq!(request.notices, [skipped("-O", "servers"), skipped("F:1", "pid")]);
        assert_eq!((request.problems, request.settings.hash), (vec![], true));
        assert_eq!(problems("--check -O servers L:80 a"), [skipped("-O", "servers")]);
    }

    #[test]
    fn servers_of_the_command_line_can_be_drained_by_the_file() {
        let request = request("-F F -O drain_1_all L:80 a b", &[("F", "drain 0")]);
        let drains: Vec<_> = request.settings.servers.iter().map(|server| server.drain).collect();
        assert_eq!((request.problems, drains), (vec![], vec![Drain::New, Drain::All]));
        assert_eq!(problems("-O drain_1 L:80 a"), ["-O: there is no server 1"]);
    }

    #[test]
    fn all_problems_are_named() {
        let all = problems("-t 0 -b x -C 0 L:0 a:99999 b:1:x c");
        assert_eq!(
            all,
            [
                r#"-t must be a number from 1 to 2147483647, not "0""#,
                r#"-b must be a number from 0 to 2147483647, not "x""#,
                r#"-C: port must be a number from 1 to 65535 or a service name, not "0""#,
                r#"the address to listen on: port must be a number from 1 to 65535 or a service name, not "0""#,
                r#"server 0: port must be a number from 1 to 65535 or a service name, not "99999""#,
                r#"server 1: soft limit must be a number from 0 to 2147483647, not "x""#,
            ]
        );
    }

    #[test]
    fn without_address_or_servers_there_is_nothing_to_start() {
        assert_eq!(problems("").len(), 2);
        assert!(problems("80")[0].starts_with("no servers"));
        assert_eq!(problems("80 -O dummy"), [""; 0]);
        assert_eq!(
            problems("/run/pen.sock a:1 b"),
            ["server 1 (b) needs a port of its own, because pen listens on the Unix socket /run/pen.sock"]
        );
        let many = "x ".repeat(4097);
        assert_eq!(problems(&format!("80 {many}"))[0], "too many servers; there can be 4096");
    }

    #[test]
    fn small_numbers_are_raised_ignored_or_refused_as_ever() {
        for (options, notice, expected) in [
            ("-m 0", "multi_accept bumped to 1", "-m 1"),
            ("-m -3", "multi_accept bumped to 1", "-m 1"),
            ("-q 10", "listen_queue bumped to 50", "-q 50"),
            ("-c 0", "-c must be at least 1, 0 is ignored; 2048 clients are remembered", ""),
            ("-c 9 -c -5", "-c must be at least 1, -5 is ignored; 9 clients are remembered", "-c 9"),
            ("-x 0", r#"-x must be a number from 1 on, not "0"; 500 is used"#, ""),
            ("-x 9 -x abc", r#"-x must be a number from 1 on, not "abc"; 500 is used"#, ""),
        ] {
            let request = request(&format!("{options} L:80 a"), &[]);
            assert_eq!((request.notices, request.problems), (vec![notice.to_owned()], vec![]), "{options}");
            assert_eq!(request.settings, settings(&format!("{expected} L:80 a")), "{options}");
        }
        for options in ["-x -1", "-x 4194305", "-c x", "-m x", "-q 1x", "-T -1", "-t abc", "--workers 0"] {
            let all = problems(&format!("{options} L:80 a"));
            let name = options.split(' ').next().unwrap();
            assert!(all.len() == 1 && all[0].starts_with(name), "{options}: {all:?}");
        }
    }

    #[test]
    fn obsolete_options_say_so_once_and_change_nothing() {
        let request = request("-D -D -Q -n -S 5 -S x -P -ZZ L:80 a", &[]);
        assert_eq!(
            request.notices,
            [
                "-D has no effect: events come from epoll",
                "-Q has no effect: events come from epoll",
                "-n has no effect: sockets never block",
                "-S has no effect: the number of servers needs no announcement",
                "-P has no effect: events come from epoll",
                "-Z has no effect: TLS works around the mistakes of clients by itself",
            ]
        );
        assert_eq!((request.settings, request.problems), (settings("L:80 a"), vec![]));
    }

    #[test]
    fn options_without_their_capability_end_the_start() {
        for option in options::OPTIONS {
            if let Kind::Refused(_) = option.kind {
                let argument = option.value.map(|_| " x").unwrap_or_default();
                let all = problems(&format!("{}{argument} L:80 a", option.name()));
                assert!(all.len() == 1 && all[0].starts_with(&option.name()), "{all:?}");
            }
        }
    }

    #[test]
    fn old_protocols_are_not_spoken_again_for_an_option() {
        assert_eq!(problems("-L foo L:80 a"), ["protocol version foo not known"]);
        let plain = settings("-L ssl23 -E c L:80 a");
        for protocol in ["ssl2", "ssl3", "tls1"] {
            let request = request(&format!("-L {protocol} -E c L:80 a"), &[]);
            let expected = format!(
                "-L {protocol} has no effect: TLS 1.2 or newer is used; the command ssl_min_version sets another floor"
            );
            assert_eq!((request.notices, request.problems), (vec![expected], vec![]));
            assert_eq!(request.settings, plain);
        }
    }

    #[test]
    fn options_of_tls_that_need_another_say_so() {
        let key = request("-K k L:80 a", &[]);
        assert_eq!(key.notices, ["ssl_key has no effect without ssl_certificate (-E)"]);
        assert_eq!((key.problems, key.settings.tls.key), (vec![], Some("k".into())));
        let require = problems("-E c -R L:80 a");
        assert!(require.len() == 1 && require[0].contains("ssl_ca_file (-G)"), "{require:?}");
        assert_eq!(problems("-E c -R -G g L:80 a"), [""; 0]);
        let both = request("-E c -F F L:80 a", &[("F", "ssl_passthrough sni")]).problems;
        assert!(both.len() == 1 && both[0].contains("-E"), "{both:?}");
    }

    #[test]
    fn operands_keep_what_they_have_no_word_for_with_their_places() {
        let file = "server 0 sni none\nserver 1 proxy 2 sni www.example.com tls verify none address x";
        let request = request("-F F L:80 a b", &[("F", file)]);
        assert_eq!(servers(&request.settings), ["a", "b"]);
        let second = &request.settings.servers[1];
        assert_eq!(second.sni, ["www.example.com".parse().unwrap()]);
        assert_eq!(second.tls, Some(ServerTls { trust: Trust::Nobody, name: None }));
        assert_eq!(second.proxy, Some(ProxySend::V2));
        assert_eq!(request.settings.servers[0], "a".parse().unwrap());
    }

    #[test]
    fn servers_that_the_file_blacklists_are_handed_on() {
        let request = request("-F F L:80 a b", &[("F", "server 1 blacklist 60")]);
        assert_eq!(request.launch.shunned, [(ServerId(1), Seconds(60))]);
    }

    #[test]
    fn weights_that_are_all_zero_are_told_of() {
        assert_eq!(request("-W L:80 a b", &[]).notices, ["all servers have weight 0: they count as equal"]);
        assert_eq!(request("-W L:80 a b:::1:2", &[]).notices, [""; 0]);
    }

    #[test]
    fn words_that_are_not_utf_8_are_paths_or_refused() {
        use std::os::unix::ffi::OsStringExt;
        let odd = || OsString::from_vec(b"/a\xff".to_vec());
        let read =
            |words: Vec<OsString>| Request::read(&options::parse(words).unwrap(), &|_| Ok(String::new()));
        for option in ["-p", "-j", "-F"] {
            let request = read(vec![option.into(), odd(), "80".into(), "a".into()]);
            assert_eq!(request.problems, [""; 0], "{option}");
        }
        for option in ["-l", "-w", "-u", "-e", "-O", "-b", "-x", "-L", "-E", "-K", "-G", "-A"] {
            let request = read(vec![option.into(), odd(), "80".into(), "a".into()]);
            assert_eq!(request.problems, [format!("{option}: \"/a\u{fffd}\" is not UTF-8")]);
        }
        assert_eq!(read(vec!["80".into(), odd()]).problems.len(), 1);
        assert_eq!(read(vec![odd(), "a".into()]).problems.len(), 1);
    }
}
