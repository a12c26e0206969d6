//! penlogd(1), HOWTO: what is printed there, carried out as it is printed.
//!
//! Only directories are others: what would be in /run and /var/log is in a directory of the story's own, and the programs
//! are those that have just been built. The addresses and ports are the printed ones, in networks made for the purpose.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::network::Network;
use crate::support::programs::Running;
use crate::support::tls::has_program;
use crate::support::{
    Ending, SOON, Scratch, became_true, client, free_port, let_pass, needs_root, only_ours, pen, processes,
    udp, wait_for, wait_until,
};

/// The machine of pen and penlogd, as the manual has it, and the web servers.
const PEN: &str = "10.0.0.1";
const FIRST: &str = "10.0.0.2";
const SECOND: &str = "10.0.0.3";

/// Where penlogd listens, as the manual has it.
const PORT: u16 = 9514;

/// What so many requests may take on a busy machine.
const LONG: Duration = Duration::from_secs(90);

fn howto() -> String {
    let manual = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("man/penlogd.1")).unwrap();
    manual.split_once("\n.Sh HOWTO\n").unwrap().1.split("\n.Sh ").next().unwrap().to_owned()
}

/// What is displayed in this part of the HOWTO: commands for a shell, or lines of a configuration.
#[track_caller]
fn printed<const N: usize>(part: &str) -> [String; N] {
    let howto = howto();
    let text = howto.split_once(&format!("\n.Ss {part}\n")).expect("there is this part").1;
    let text = format!("\n{}", text.split("\n.Ss ").next().unwrap());
    let displays = text.split("\n.Bd -literal").skip(1).map(|display| {
        let (_, lines) = display.split_once('\n').unwrap();
        lines.split("\n.Ed").next().unwrap().replace("\\e", "\\")
    });
    displays.collect::<Vec<_>>().try_into().expect("so much is displayed in this part")
}

/// The directory of the programs under test.
fn programs() -> PathBuf {
    pen::program().parent().unwrap().to_owned()
}

/// The machines of the HOWTO, and some for clients.
struct Site {
    balancer: Network,
    first: Network,
    second: Network,
    clients: Vec<(String, Network)>,
    files: Scratch,
    marker: String,
}

impl Site {
    /// With so many clients. None, and a message: a program is missing, or networks cannot be made here.
    fn new(clients: usize, needed: &[&str]) -> Option<Self> {
        if !needed.iter().all(|program| has_program(program)) {
            return None;
        }
        let balancer = Network::alone()?;
        balancer.ip("link set lo up");
        let site = Site {
            first: balancer.neighbour("first", FIRST, PEN),
            second: balancer.neighbour("second", SECOND, PEN),
            clients: (0..clients)
                .map(|number| {
                    let address = format!("192.0.2.{}", number + 7);
                    let network = balancer.neighbour(&format!("client{number}"), &address, PEN);
                    (address, network)
                })
                .collect(),
            balancer,
            files: Scratch::new(),
            marker: processes::marker(),
        };
        for directory in ["run", "log"] {
            fs::create_dir(site.files.file(directory)).unwrap();
        }
        Some(site)
    }

    /// What is printed, with the directories of this story.
    fn placed(&self, text: &str) -> String {
        text.replace("/var/log/", &self.files.file("log/"))
            .replace("/run/", &self.files.file("run/"))
            .replace("/usr/local/bin", programs().to_str().unwrap())
    }

    /// Has a shell carry these commands out, on this machine.
    #[track_caller]
    fn shell(&self, machine: &Network, commands: &str) {
        let commands = self.placed(commands);
        let output = || OpenOptions::new().create(true).append(true).open(self.files.file("output")).unwrap();
        let path = format!("{}:{}", programs().display(), std::env::var("PATH").unwrap());
        let (name, value) = self.marker.split_once('=').unwrap();
        let mut shell = Command::new("sh");
        shell.args(["-e", "-c", &commands]).env("PATH", path).env(name, value).current_dir(self.files.path());
        shell.stdin(Stdio::null()).stdout(output()).stderr(output());
        let status = machine.inside(|| shell.status()).unwrap();
        assert!(status.success(), "{commands}\n{status}: {}", self.said());
    }

    /// What the programs that a shell has started have said.
    fn said(&self) -> String {
        self.files.read("output")
    }

    /// Starts pen and penlogd as is printed.
    fn begin(&self) {
        let [commands] = printed("pen and penlogd");
        self.shell(&self.balancer, &commands);
        self.balancer.inside(|| {
            wait_until("both are there", || udp::bound(PORT) && processes::listening(80));
        });
    }

    /// An nginx that writes to a FIFO, as is printed.
    fn nginx_and_fifo(&self) -> Running {
        let [commands, line] = printed("nginx, through a FIFO");
        self.shell(&self.first, &commands);
        self.nginx(&self.first, &line)
    }

    /// pen and penlogd, with an nginx that writes to a FIFO and an Apache that writes to a pipe.
    fn begin_with_fifo_and_pipe(&self) -> [Running; 2] {
        self.begin();
        let [line] = printed("Apache");
        [self.nginx_and_fifo(), self.apache(&self.second, &line)]
    }

    /// An nginx with this line of the manual. Every line of its log is also in its file `truth`.
    fn nginx(&self, machine: &Network, line: &str) -> Running {
        let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let paths = paths.map(|path| format!("{path}_temp_path SCRATCH/{path};\n")).concat();
        let line = self.placed(line);
        let configuration = format!(
            "http {{\n{paths}{line}\naccess_log SCRATCH/truth combined;\n\
             keepalive_requests 1000000; large_client_header_buffers 4 32k; merge_slashes off;\n\
             server {{ listen 80; location / {{ return 200 'hello'; }} }}\n}}\n"
        );
        machine.inside(|| Running::nginx(&configuration, &[80]))
    }

    /// An Apache with this line of the manual. Every line of its log is also in its file `truth`.
    fn apache(&self, machine: &Network, line: &str) -> Running {
        let line = self.placed(line);
        // The formats are Debian's.
        let configuration = format!(
            "ServerRoot SCRATCH\nDefaultRuntimeDir SCRATCH\nPidFile SCRATCH/pid\nErrorLog SCRATCH/error.log\n\
             LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so\n\
             LoadModule dir_module /usr/lib/apache2/modules/mod_dir.so\n\
             LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so\n\
             ServerName {SECOND}\nListen 80\nUser nobody\nGroup nogroup\nMaxKeepAliveRequests 0\nKeepAliveTimeout 60\n\
             LimitRequestLine 32000\nMergeSlashes off\nDocumentRoot SCRATCH/pages\nFallbackResource /page\n\
             LogFormat \"%h %l %u %t \\\"%r\\\" %>s %O \\\"%{{Referer}}i\\\" \\\"%{{User-Agent}}i\\\"\" combined\n\
             LogFormat \"%h %l %u %t \\\"%r\\\" %>s %O\" common\n\
             {line}\nCustomLog SCRATCH/truth combined\n"
        );
        machine.inside(|| {
            Running::start(&configuration, &[80], |files, configuration| {
                fs::create_dir(files.file("pages")).unwrap();
                fs::write(files.file("pages/page"), "hello\n").unwrap();
                let mut command = Command::new("apache2");
                command.args(["-DFOREGROUND", "-f", configuration]);
                command
            })
        })
    }

    /// wrk on the machine of this client, which makes exactly so many requests, of addresses that are its own.
    fn wrk(&self, client: usize, count: usize) -> Wrk {
        let (address, machine) = &self.clients[client];
        let script = self.files.write(&format!("wrk{client}.lua"), WRK);
        let output = self.files.file(&format!("wrk{client}"));
        let answered = self.files.file(&format!("wrk{client}-answered"));
        let mut command = Command::new("wrk");
        command.args([
            "--threads",
            "1",
            "--connections",
            "8",
            "--duration",
            "1h",
            "--timeout",
            "1m",
            "-s",
            &script,
        ]);
        command.args([&format!("http://{PEN}/"), "--", address, &count.to_string(), &answered]);
        command.stdout(File::create(&output).unwrap()).stderr(File::create(&output).unwrap());
        let child = machine.inside(|| command.spawn()).unwrap();
        Wrk { child, output, answered, count }
    }

    /// curl on the machine of this client, with these arguments behind those that all have. `PEN` in them is pen, with
    /// a path that is this client's own.
    #[track_caller]
    fn curl(&self, client: usize, arguments: &[&str]) {
        let (address, machine) = &self.clients[client];
        let mut command = Command::new("curl");
        command.args([
            "--silent",
            "--show-error",
            "--max-time",
            "25",
            "--globoff",
            "--path-as-is",
            "-o",
            "/dev/null",
        ]);
        command.args(arguments.iter().map(|word| word.replace("PEN", &format!("http://{PEN}/{address}"))));
        let output = machine.inside(|| command.output()).unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// All lines that penlogd has written, whatever its logs are called now.
    fn log(&self) -> Vec<String> {
        let directory = self.files.path().join("log/penlogd");
        let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let logs = names.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("access.log"));
        let text: String = logs.map(|path| String::from_utf8(fs::read(path).unwrap()).unwrap()).collect();
        text.lines().map(str::to_owned).collect()
    }

    /// Waits until penlogd has written as many lines as the web servers have, so many, and compares them: each line is
    /// there exactly once, unchanged but for the client, which is the one whose address begins the path.
    #[track_caller]
    fn compare(&self, servers: &[&Running], count: usize) {
        let truth = || servers.iter().flat_map(|server| own_log(server)).collect::<Vec<_>>();
        wait_for("the web servers have logged all", LONG, || truth().len() >= count);
        if became_true(SOON, || self.log().len() >= count).is_none() {
            eprintln!("only {} of {count} lines\n{}", self.log().len(), self.said());
        }
        let mut lines: BTreeMap<String, (usize, usize)> = BTreeMap::new();
        for line in truth() {
            let (seen_by_server, rest) = line.split_once(' ').unwrap();
            assert_eq!(seen_by_server, PEN, "{line}");
            let client = rest.split('/').find(|part| part.starts_with("192.0.2."));
            let line = format!("{} {rest}", client.expect("the path tells the client"));
            lines.entry(line).or_default().0 += 1;
        }
        for line in self.log() {
            lines.entry(line).or_default().1 += 1;
        }
        let wrong: Vec<_> = lines.iter().filter(|(_, (expected, found))| expected != found).collect();
        assert!(
            wrong.is_empty(),
            "{} of {count} lines are not as often in the log as they should be: {:?}\n{}",
            wrong.len(),
            &wrong[..wrong.len().min(20)],
            self.said()
        );
        assert_eq!(lines.values().map(|(expected, _)| expected).sum::<usize>(), count, "requests were made");
    }

    /// The processes with this name that a shell has started.
    fn named(&self, name: &str) -> Vec<i32> {
        let family = processes::family(&self.marker).into_iter();
        family.filter(|&pid| is(pid, name)).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let family = || processes::family(&self.marker);
        for pid in family() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        if became_true(SOON, || family().is_empty()).is_none() {
            processes::kill_all(&family());
        }
    }
}

/// What a web server has itself written down.
fn own_log(server: &Running) -> Vec<String> {
    server.files.read("truth").lines().map(str::to_owned).collect()
}

/// Makes as many requests as it is told to, all of them different, and then no more. (That wrk has not got.) There is a file
/// when all are answered.
const WRK: &str = "\
function init(words)
    client = words[1]; limit = tonumber(words[2]); file = words[3]; begun = 0; made = 0; answered = 0
end
function delay() if begun == limit then return 1e9 end begun = begun + 1; return 0 end
function request() made = made + 1; return wrk.format('GET', '/' .. client .. '/' .. made) end
function response()
    answered = answered + 1
    if answered == limit then io.open(file, 'w'):close() end
end
";

struct Wrk {
    child: Child,
    output: String,
    answered: String,
    count: usize,
}

impl Wrk {
    /// Ends it when all its requests have been answered, which may be some time after the web servers have logged them, and
    /// looks whether they were answered well.
    #[track_caller]
    fn end(mut self) {
        wait_for("wrk has all answers", LONG, || fs::exists(&self.answered).unwrap());
        let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
        let mut status = None;
        wait_until("wrk ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        let said = fs::read_to_string(&self.output).unwrap();
        let summary = format!(" {} requests in ", self.count);
        assert!(
            said.contains(&summary) && !said.contains("Non-2xx") && !said.contains("Socket errors"),
            "{said}"
        );
    }
}

impl Drop for Wrk {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Nothing is displayed that no story carries out.
#[test]
fn every_display_of_the_howto_has_its_story() {
    let stories = include_str!("weblogs.rs");
    let howto = howto();
    let displays: Vec<_> =
        howto.split("\n.Ss ").skip(1).filter(|part| part.contains("\n.Bd -literal")).collect();
    assert!(displays.len() > 4, "{displays:?}");
    for part in displays {
        let name = part.lines().next().unwrap();
        assert!(stories.contains(&format!("printed(\"{name}\")")), "{name}");
    }
}

/// Ten thousand requests of four clients to two nginx: each is in the one log once, whole, with its client's address.
#[test]
fn two_nginx_and_ten_thousand_requests() {
    needs_root!();
    only_ours!("it does not tell penlogd of requests from several processes");
    let Some(site) = Site::new(4, &["nginx", "wrk"]) else { return };
    let [line] = printed("nginx, by syslog");
    let servers = [site.nginx(&site.first, &line), site.nginx(&site.second, &line)];
    site.begin();
    let wrks: Vec<Wrk> = (0..4).map(|client| site.wrk(client, 2500)).collect();
    site.compare(&[&servers[0], &servers[1]], 10_000);
    wrks.into_iter().for_each(Wrk::end);
    for server in &servers {
        let count = own_log(server).len();
        assert!(count > 1000, "both are at work: {count}");
    }
}

/// nginx through a FIFO and Apache through a pipe, with wrk.
#[test]
fn nginx_through_a_fifo_and_apache_through_a_pipe() {
    needs_root!();
    only_ours!("its options are others");
    let Some(site) = Site::new(3, &["nginx", "apache2", "wrk"]) else { return };
    let [nginx, apache] = site.begin_with_fifo_and_pipe();
    let wrks: Vec<Wrk> = (0..3).map(|client| site.wrk(client, 1000)).collect();
    site.compare(&[&nginx, &apache], 3000);
    wrks.into_iter().for_each(Wrk::end);
    for server in [&nginx, &apache] {
        assert!(!own_log(server).is_empty(), "both are at work");
    }
}

/// The other way: pen and the web servers write files, and mergelogs makes one of them.
#[test]
fn files_that_are_merged() {
    needs_root!();
    only_ours!("its options are others");
    let Some(site) = Site::new(2, &["nginx", "wrk"]) else { return };
    let servers = [site.nginx(&site.first, ""), site.nginx(&site.second, "")];
    let [start, merge] = printed("From files, later");
    site.shell(&site.balancer, &start);
    let wrks: Vec<Wrk> = (0..2).map(|client| site.wrk(client, 1000)).collect();
    let requests = || servers.iter().map(|server| own_log(server).len()).sum::<usize>();
    wait_for("the web servers have logged all", LONG, || requests() >= 2000);
    wrks.into_iter().for_each(Wrk::end);
    wait_until("pen has logged all", || site.files.read("log/pen/pen.log").lines().count() == 2000);
    fs::create_dir(site.files.file("log/penlogd")).unwrap();
    for (file, from) in [
        ("pen.log", site.files.file("log/pen/pen.log")),
        ("first.log", servers[0].files.file("truth")),
        ("second.log", servers[1].files.file("truth")),
    ] {
        fs::copy(from, site.files.path().join("log/penlogd").join(file)).unwrap();
    }
    site.shell(&site.balancer, &format!("cd /var/log/penlogd\n{merge}"));
    site.compare(&[&servers[0], &servers[1]], 2000);
}

/// Requests that are logged in other words than they were made in, and longer ones than a datagram holds.
#[test]
fn odd_requests_of_curl() {
    needs_root!();
    only_ours!("it knows neither escapes nor long requests");
    let Some(site) = Site::new(2, &["nginx", "apache2", "curl"]) else { return };
    let [nginx, apache] = site.begin_with_fifo_and_pipe();
    let long = format!("PEN/long/{}", "x".repeat(6000));
    let longer = format!("PEN/long/{}", "x".repeat(6001));
    let odd: [&[&str]; 11] = [
        &["PEN/plain"],
        &["PEN/quoted\"and\"/\\back\\slash\\\"/\\x22"],
        &["PEN/\u{e5}\u{e4}\u{f6}/%0a%0d%22"],
        &["PEN/agent", "--user-agent", "forged\" 200 5 \"GET /x\" \\"],
        &["PEN/posted", "--data-binary", "GET /x HTTP/1.1\r\n\r\n"],
        &["PEN/head", "--head"],
        &["PEN/old", "--http1.0"],
        &["PEN/options", "-X", "OPTIONS"],
        &[&long],
        &[&longer],
        &["PEN/referer", "--referer", &"r".repeat(3000)],
    ];
    for arguments in odd {
        for client in 0..2 {
            site.curl(client, arguments);
        }
    }
    site.compare(&[&nginx, &apache], 2 * odd.len());
    for server in [&nginx, &apache] {
        assert_eq!(own_log(server).len(), odd.len(), "each client has a server of its own");
    }
}

impl Site {
    /// Requests of this client, each with a connection of its own, until it is told to stop. Returns how many there were.
    fn visits(&self, number: usize, done: &AtomicBool) -> usize {
        let (address, machine) = &self.clients[number];
        machine.inside(|| {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let to = SocketAddr::new(PEN.parse().unwrap(), 80);
                let stream = client::connect(address.parse().unwrap(), to).unwrap();
                let answer = client::request(stream, &format!("/{address}/{count}"));
                assert!(answer.starts_with("hello"), "{answer}");
                count += 1;
            }
            count
        })
    }

    /// Has all clients make requests while `work` goes on, and for some lines longer. Returns how many there were.
    fn under_load(&self, work: impl FnOnce()) -> usize {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let visits = (0..self.clients.len()).map(|client| {
                let done = &done;
                scope.spawn(move || self.visits(client, done))
            });
            let visits: Vec<_> = visits.collect();
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                work();
                self.wait_for_more();
            }));
            done.store(true, Ordering::Relaxed);
            let count = visits.into_iter().map(|visits| visits.join().unwrap()).sum();
            outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            count
        })
    }

    /// Waits for some more lines of the log.
    #[track_caller]
    fn wait_for_more(&self) {
        let before = self.log().len();
        wait_for("the log grows", LONG, || self.log().len() > before + 50);
    }
}

/// The log is rotated as it is printed, again and again, while requests are made: each line is in one of the files.
#[test]
fn rotation_under_load_loses_no_line_and_doubles_none() {
    needs_root!();
    only_ours!("it does not wait for what pen tells");
    let Some(site) = Site::new(3, &["nginx"]) else { return };
    let [line] = printed("nginx, by syslog");
    let servers = [site.nginx(&site.first, &line), site.nginx(&site.second, &line)];
    site.begin();
    let [rotation] = printed("Rotation");
    let file = |name: &str| site.files.path().join("log/penlogd").join(name);
    let count = site.under_load(|| {
        for number in 0..10 {
            site.wait_for_more();
            site.shell(&site.balancer, &rotation);
            wait_until("the log is opened anew", || file("access.log").exists());
            fs::rename(file("access.log.1"), file(&format!("access.log.old{number}"))).unwrap();
        }
    });
    site.compare(&[&servers[0], &servers[1]], count);
    for number in 0..10 {
        let old = fs::read_to_string(file(&format!("access.log.old{number}"))).unwrap();
        assert!(!old.is_empty() && old.ends_with('\n'), "half a line: {old}");
    }
}

/// Apache starts its loggers anew when it is restarted gracefully; the old ones read what its old processes still write.
#[test]
fn apache_is_restarted_under_load() {
    needs_root!();
    only_ours!("its logger ends while it is written to");
    let Some(site) = Site::new(2, &["apache2"]) else { return };
    let [line] = printed("Apache");
    let apache = site.apache(&site.second, &line);
    site.begin();
    const LARGE: usize = 30_000_000;
    let (address, machine) = &site.clients[0];
    let directory = apache.files.path().join("pages").join(address);
    fs::create_dir(&directory).unwrap();
    File::create(directory.join("large")).unwrap().set_len(LARGE as u64).unwrap();
    let count = site.under_load(|| {
        for number in 0..5 {
            // A download that the old process goes on with. It is in the log at its end.
            let to = SocketAddr::new(PEN.parse().unwrap(), 80);
            let slow = machine.inside(|| client::connect(address.parse().unwrap(), to).unwrap());
            write!(&slow, "GET /{address}/large?{number} HTTP/1.0\r\n\r\n").unwrap();
            assert_eq!(client::read_line(&slow).as_deref(), Some("HTTP/1.1 200 OK\r"));
            let loggers = || processes::children(apache.pid()).into_iter().filter(|&pid| is(pid, "penlog"));
            let before: Vec<i32> = loggers().collect();
            site.wait_for_more();
            kill(Pid::from_raw(apache.pid()), Signal::SIGUSR1).unwrap();
            wait_until("there is a new logger", || loggers().any(|pid| !before.contains(&pid)));
            if number == 4 {
                // Long enough for the old logger to hear nothing any more.
                let_pass(Duration::from_secs(2));
            }
            let (rest, ending) = client::read_all(&slow);
            assert!(ending == Ending::EndOfStream && rest.len() > LARGE, "{ending:?} {}", rest.len());
        }
    });
    site.compare(&[&apache], count + 5);
}

/// Is this the name of the process?
fn is(pid: i32, name: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim() == name
}

/// nginx serves on while there is no penlog, and needs not be told when there is one again.
#[test]
fn nginx_outlives_penlog() {
    needs_root!();
    only_ours!("its options are others");
    let Some(site) = Site::new(1, &["nginx", "curl"]) else { return };
    site.begin();
    let nginx = site.nginx_and_fifo();
    let own = format!("{}/truth", nginx.files.path().display());
    site.curl(0, &["PEN/before"]);
    site.compare(&[&nginx], 1);
    for pid in site.named("penlog") {
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    wait_until("penlog is gone", || site.named("penlog").is_empty());
    site.curl(0, &["PEN/without"]);
    wait_until("nginx says so", || nginx.files.read("error.log").contains("Broken pipe"));
    wait_until("and has served it", || own_log(&nginx).len() == 2);
    // Nobody has written that one down.
    let kept: String =
        own_log(&nginx).iter().filter(|line| !line.contains("/without")).map(|l| format!("{l}\n")).collect();
    fs::write(&own, kept).unwrap();
    let [commands, _] = printed("nginx, through a FIFO");
    site.shell(&site.first, commands.lines().find(|line| line.starts_with("penlog ")).unwrap());
    // When the shell has returned it may not have opened the FIFO yet.
    wait_until("penlog reads again", || {
        site.named("penlog").iter().any(|&pid| processes::has_open(pid, &site.files.file("run/penlog.fifo")))
    });
    site.curl(0, &["PEN/after"]);
    site.compare(&[&nginx], 2);
}

/// With penlog@.socket somebody else holds the FIFO open: nginx does not wait, and what is in it waits for the next penlog.
/// It is open without waiting, as systemd opens it.
#[test]
fn what_is_in_the_fifo_waits_for_the_next_penlog() {
    needs_root!();
    only_ours!("its options are others");
    let Some(site) = Site::new(1, &["nginx", "curl"]) else { return };
    site.begin();
    let [commands, line] = printed("nginx, through a FIFO");
    site.shell(&site.first, commands.lines().find(|line| line.starts_with("mkfifo ")).unwrap());
    let fifo = site.files.file("run/penlog.fifo");
    let held =
        OpenOptions::new().read(true).write(true).custom_flags(nix::libc::O_NONBLOCK).open(&fifo).unwrap();
    let nginx = site.nginx(&site.first, &line);
    let penlog = || {
        let mut command = Command::new(programs().join("penlog"));
        command.args([PEN, &PORT.to_string(), FIRST]).stdin(held.try_clone().unwrap());
        Logger(site.first.inside(|| command.spawn()).unwrap())
    };
    site.curl(0, &["PEN/1"]);
    let first = penlog();
    site.compare(&[&nginx], 1);
    drop(first);
    site.curl(0, &["PEN/2"]);
    site.curl(0, &["PEN/3"]);
    let second = penlog();
    site.compare(&[&nginx], 3);
    site.curl(0, &["PEN/4"]);
    site.compare(&[&nginx], 4);
    drop(second);
}

/// A program that is killed when it is dropped.
struct Logger(Child);

impl Drop for Logger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// TERM under load: what had been received when it came is in the log, also what waits for a word of pen, once.
#[test]
fn what_was_received_before_the_end_is_in_the_log() {
    only_ours!("it stops at once");
    let (files, port) = (Scratch::new(), free_port());
    let log = files.file("log");
    let mut command = Command::new(programs().join("penlogd"));
    command.args(["-f", "-n", "100000", "--wait", "3600", "-l", &log, &port.to_string()]);
    command.stderr(File::create(files.file("stderr")).unwrap());
    let mut penlogd = Logger(command.spawn().unwrap());
    wait_until("it listens", || udp::bound(port));
    let sent = AtomicUsize::new(0);
    let before = std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect(("127.0.0.1", port)).unwrap();
            // Until nobody takes them any more. What waits is less than penlogd keeps back at most.
            for number in 0..60_000 {
                // Nothing is to be lost on the way: it may not have fallen far behind.
                if number % 50 == 0 {
                    wait_until("penlogd keeps up", || udp::unread(port) < 50_000);
                }
                // Every tenth waits, and all others behind it.
                let known = format!("+ 192.0.2.7 127.0.0.1 GET /{number}/ HTTP/1.0\n");
                let line = format!("10.0.0.1 - - [] \"GET /{number}/ HTTP/1.0\" 200 5\n");
                let pieces = [known, line];
                for datagram in &pieces[usize::from(number % 10 == 9)..] {
                    if socket.send(datagram.as_bytes()).is_err() {
                        return;
                    }
                }
                sent.store(number + 1, Ordering::Release);
            }
        });
        wait_until("there is some load", || sent.load(Ordering::Acquire) > 5000);
        let before = sent.load(Ordering::Acquire);
        kill(Pid::from_raw(penlogd.0.id() as i32), Signal::SIGTERM).unwrap();
        wait_until("it has ended", || penlogd.0.try_wait().unwrap().is_some());
        before
    });
    assert_eq!(penlogd.0.wait().unwrap().code(), Some(0), "{}", files.read("stderr"));
    let text = files.read("log");
    assert!(text.ends_with('\n'));
    for (number, line) in text.lines().enumerate() {
        let client = if number % 10 == 9 { "10.0.0.1" } else { "192.0.2.7" };
        assert_eq!(line, format!("{client} - - [] \"GET /{number}/ HTTP/1.0\" 200 5"));
    }
    assert!(text.lines().count() >= before, "{} of {before}: {}", text.lines().count(), files.read("stderr"));
}
