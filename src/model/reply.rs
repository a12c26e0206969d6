//! The words of replies on the control port that mean a failure: one home for pen, which says them, and for penctl(1),
//! which tells by them whether a command was carried out.
//!
//! Failures of our own begin with `error: `. Those that pen 0.34.1 had a line for keep it, because scripts look for it.
//! Not here: the answers of commands that succeed ([`super::apply`], `report`). None of them begins like a failure,
//! unless the name of a file does.

use std::fmt::Display;

use super::command::CommandError;
use super::ids::ConnId;
use super::number;

/// What every failure begins with that the classic had no line for.
const ERROR: &str = "error: ";

/// What the classic's replies to lines begin with that it could make nothing of.
const IGNORING: &str = "do_cmd: ignoring ";

/// What the classic said of an address that `source` could not use. Ours puts [`ERROR`] before it.
const SOURCE: &str = "unable to set source address to '";

/// `exit`, and pen runs without `-X`.
pub const EXIT_NOT_ENABLED: &str = "Exit is not enabled; restart with -X flag\n";

/// `status`, and the classic has no file to write it to. Ours needs none.
pub const NO_STATUS: &str = "Unable to create webstats\n";

/// How much of a reply [`is_failure`] needs: what comes later changes nothing.
pub const DECISIVE: usize = 64;

/// A command failed: one line, whatever is in the reason. What is unprintable is shown as escapes ([`push_printable`]).
pub fn error(reason: impl Display) -> String {
    line(ERROR, &reason.to_string())
}

/// A line that is not a command, or not a whole one: in the classic's words where it had any.
pub fn refused(why: &CommandError) -> String {
    if why.is_ignorable() { line("", &why.to_string()) } else { error(why) }
}

/// `connection N` or `close N`, and there is no connection of that number.
pub fn out_of_range(connection: ConnId) -> String {
    format!("Connection {connection} out of range\n")
}

/// Does this reply mean that the command failed? Its first [`DECISIVE`] bytes are enough.
pub fn is_failure(reply: &str) -> bool {
    let out_of_range = || {
        let (number, rest) = reply.strip_prefix("Connection ")?.split_once(' ')?;
        (number::integer(number).is_some() && rest.starts_with("out of range\n")).then_some(())
    };
    [ERROR, IGNORING, SOURCE, EXIT_NOT_ENABLED, NO_STATUS].iter().any(|words| reply.starts_with(words))
        || out_of_range().is_some()
}

fn line(before: &str, text: &str) -> String {
    let mut line = before.to_owned();
    text.chars().for_each(|char| push_printable(&mut line, char));
    line.push('\n');
    line
}

/// Appends a character; an escape (`\n`, `\u{1b}`) for one that ends a line, moves a cursor, turns the direction of what
/// follows, or cannot be seen.
pub fn push_printable(text: &mut String, char: char) {
    // These Debug escapes, too: they delimit literals.
    if matches!(char, '"' | '\'' | '\\') {
        text.push(char);
    } else {
        text.extend(char.escape_debug());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::command::Command;
    use crate::model::settings::Settings;

    fn refusal(command: &str) -> String {
        match Command::parse(command) {
            Err(why) => refused(&why),
            Ok(parsed) => panic!("{command}: {parsed:?}"),
        }
    }

    #[test]
    fn errors_are_one_line_whatever_is_in_the_reason() {
        assert_eq!(error("no such file"), "error: no such file\n");
        assert_eq!(error("a\nok\r\n\tb\0\u{1b}[2J"), "error: a\\nok\\r\\n\\tb\\0\\u{1b}[2J\n");
        assert_eq!(error("\u{202e}é \u{2028}"), "error: \\u{202e}é \\u{2028}\n");
        assert_eq!(error(r#"it's "\""#), "error: it's \"\\\"\n");
        assert_eq!(error(""), "error: \n");
    }

    #[test]
    fn the_classics_failures_keep_their_words() {
        assert_eq!(refusal("foo bar"), "do_cmd: ignoring command starting with 'foo'\n");
        assert_eq!(refusal("BLACKLIST"), "do_cmd: ignoring command starting with 'BLACKLIST'\n");
        assert_eq!(refusal("tcp_fastclose"), "do_cmd: ignoring tcp_fastclose without argument\n");
        assert_eq!(out_of_range(ConnId(999)), "Connection 999 out of range\n");
        assert_eq!(
            refusal("blacklist x"),
            "error: blacklist must be a number from 0 to 2147483647, not \"x\"\n"
        );
    }

    #[test]
    fn all_failures_are_known_as_failures_by_their_beginning() {
        let long = "x".repeat(4000);
        for reply in [
            error("x"),
            error(""),
            error(&long),
            refusal("foo"),
            refusal(&long),
            refusal("no foo"),
            refusal("tcp_fastclose"),
            refusal("timeout 0"),
            refusal("source www"),
            refusal(&format!("source {long}")),
            out_of_range(ConnId(u32::MAX)),
            EXIT_NOT_ENABLED.to_owned(),
            NO_STATUS.to_owned(),
            // The classic's.
            "Connection -2147483648 out of range\n".to_owned(),
            "unable to set source address to 'www'".to_owned(),
        ] {
            assert!(is_failure(&reply), "{reply}");
            assert!(is_failure(&reply[..reply.len().min(DECISIVE)]), "{reply}");
        }
    }

    #[test]
    fn answers_are_no_failures() {
        for reply in [
            "",
            "ok\n",
            "30\n",
            "/var/log/errors\n",
            "errors: 5\n",
            "error\n",
            "no hash no roundrobin no stubborn no weight no prio\n",
            "0 addr 127.0.0.1 port 9001 conn 0 max 10 hard 20 weight 2 prio 1 sx 18 rx 39\n",
            "127.0.0.1 connects 3 sx 78 rx 36\n",
            "Connection 0:\nstate = 2\ndownfd = 8, upfd = 9\nclient = 0, server = 1\npend = 0\n",
            "Connection 0:\nstate = 2\nout of range\n",
            "Connection 1\n2 out of range\n",
            "Connection 1 is out of range\n",
            "Forcibly closing connection 0\n",
            "Socket 8 belongs to connection -1\n",
            "Idle timeout: 9 seconds\n",
            "Idlers: 0/0\n",
            "tarpit_acl = -1",
            "<html><head><title>Pen status page</title></head>\nerror: not at the beginning\n",
            "+ server 0 max 5\n",
        ] {
            assert!(!is_failure(reply), "{reply}");
        }
    }

    #[test]
    fn no_answer_to_a_question_looks_like_a_failure() {
        let mut settings = Settings::default();
        for question in [
            "mode",
            "blacklist",
            "timeout",
            "tracking",
            "debug",
            "idle_timeout",
            "idlers",
            "tarpit_acl",
            "client_acl",
            "control_acl",
            "workers",
            "log",
            "listen",
            "web_stats",
            "conn_max",
            "clients_max",
        ] {
            let command = Command::parse(question).unwrap().unwrap().command;
            let reply = settings.apply(command).reply;
            assert!(!is_failure(&reply), "{question}: {reply}");
        }
    }

    proptest! {
        #[test]
        fn what_follows_the_beginning_changes_nothing(reply in r"(error: |Connection |do_cmd: )?\PC{0,200}") {
            let mut end = reply.len().min(DECISIVE);
            while !reply.is_char_boundary(end) {
                end -= 1;
            }
            prop_assert_eq!(is_failure(&reply), is_failure(&reply[..end]));
        }
    }
}
