//! What heads get, and what becomes of what they have already.

use std::ops::Range;

use crate::model::address::ClientAddress;
use crate::model::http::{Existing, HttpSettings};

use super::Survey;
use super::field::{self, Field, Ours};

/// What heads get, for one client.
#[derive(Debug)]
pub struct HeadRules {
    existing: Existing,
    /// What follows the headers of a request that has none of ours: our lines, and the blank one.
    ending: String,
    /// Where ours are in it, in the order of [`Ours`]. Nowhere: not wanted.
    lines: [Line; 3],
}

/// Where a line of [`HeadRules::ending`] is, and in it the value.
#[derive(Debug, Default)]
struct Line {
    whole: Range<usize>,
    value: Range<usize>,
}

/// What becomes of a header.
#[derive(Debug)]
pub(super) enum Fate<'a> {
    Stays,
    Goes,
    /// It takes in the earlier headers of its name, and our entry.
    Grows(Ours, &'a [u8]),
}

impl HeadRules {
    /// `secured`: the client has come by TLS.
    pub fn new(settings: &HttpSettings, client: &ClientAddress, secured: bool) -> Self {
        let scheme = if secured { "https" } else { "http" };
        let address = match client {
            ClientAddress::Inet(ip, _) => ip.to_canonical().to_string(),
            ClientAddress::Unix => "unknown".to_owned(),
        };
        let (node, rest) = match address.contains(':') {
            true => ("for=\"[", "]\";proto="),
            false => ("for=", ";proto="),
        };
        let mut ending = String::with_capacity(192);
        let lines = [
            push_line(&mut ending, "X-Forwarded-For", &[&address]),
            push_line(&mut ending, "X-Forwarded-Proto", &[scheme]),
            match settings.forwarded {
                true => push_line(&mut ending, "Forwarded", &[node, &address, rest, scheme]),
                false => Line::default(),
            },
        ];
        ending.push_str("\r\n");
        HeadRules { existing: settings.existing, ending, lines }
    }

    /// What follows the headers of a request that has none of ours.
    pub(super) fn ending(&self) -> &[u8] {
        self.ending.as_bytes()
    }

    /// `number`: which header it is, the first being 1.
    pub(super) fn fate(&self, name: &str, number: usize, survey: &Survey) -> Fate<'_> {
        let ours = match field::recognise(name) {
            Some((Field::Ours(ours), _)) => ours,
            Some((Field::Upgrade, _)) if survey.drops_upgrade => return Fate::Goes,
            _ => return Fate::Stays,
        };
        let Line { whole, value } = self.line(ours);
        match self.existing {
            Existing::Keep => Fate::Stays,
            // Not being told of this client, the list remains that of whoever wrote it.
            Existing::Append if whole.is_empty() => Fate::Stays,
            Existing::Append if is_list(ours) && survey.last(ours) == Some(number) => {
                Fate::Grows(ours, self.text(value))
            }
            Existing::Append | Existing::Replace => Fate::Goes,
        }
    }

    /// Appends our lines, but for what the head has already, and the blank line.
    pub(super) fn add_missing(&self, survey: &Survey, out: &mut Vec<u8>) {
        for ours in Ours::ALL {
            let stays = match self.existing {
                Existing::Keep => true,
                Existing::Append => is_list(ours),
                Existing::Replace => false,
            };
            if !stays || survey.last(ours).is_none() {
                out.extend_from_slice(self.text(&self.line(ours).whole));
            }
        }
        out.extend_from_slice(b"\r\n");
    }

    fn line(&self, ours: Ours) -> &Line {
        &self.lines[ours as usize]
    }

    fn text(&self, range: &Range<usize>) -> &[u8] {
        self.ending.as_bytes().get(range.clone()).unwrap_or_default()
    }
}

/// It can take one more entry. The scheme goes with the last entry of the lists.
fn is_list(ours: Ours) -> bool {
    ours != Ours::Proto
}

/// Appends a header.
fn push_line(text: &mut String, name: &str, value: &[&str]) -> Line {
    let start = text.len();
    text.push_str(name);
    text.push_str(": ");
    let value_start = text.len();
    value.iter().for_each(|part| text.push_str(part));
    let value = value_start..text.len();
    text.push_str("\r\n");
    Line { whole: start..text.len(), value }
}
