//! What went wrong with datagrams and lines, told rarely: anybody can send what is malformed, as much as he likes.
//!
//! The first news are told at once, what comes within a minute after that in one line when it is over. All counts are told
//! when somebody asks (USR1). Pure: callers bring counts and time, and have the answer written.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use crate::model::time::{Moment, Seconds};
use crate::weblogs::consolidation::{Counts, Loss};
use crate::weblogs::datagram::Malformed;

/// Most senders of lost datagrams that one line names.
const SENDERS: usize = 16;

/// All that is counted.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    /// What came of the datagrams.
    pub(super) counts: Counts,
    /// Datagrams that the system dropped before penlogd saw them.
    pub(super) dropped: u64,
    /// Lines that could not be written.
    pub(super) unwritten: u64,
    /// Why the last of them could not.
    pub(super) reason: String,
}

/// Remembers what has been told, and when.
#[derive(Debug)]
pub(super) struct Report {
    interval: Seconds,
    told_at: Option<Moment>,
    told: Tally,
    losses: BTreeMap<(bool, IpAddr), u64>,
    /// Lost datagrams of senders that there was no room for.
    others: u64,
}

impl Report {
    /// News at most that often.
    pub(super) fn new(interval: Seconds) -> Self {
        Report { interval, told_at: None, told: Tally::default(), losses: BTreeMap::new(), others: 0 }
    }

    /// Whose datagrams were lost.
    pub(super) fn note(&mut self, losses: Vec<Loss>) {
        for Loss { from, records, datagrams } in losses {
            let sender = (records, from);
            match self.losses.len() < SENDERS || self.losses.contains_key(&sender) {
                true => {
                    let lost = self.losses.entry(sender).or_default();
                    *lost = lost.saturating_add(datagrams);
                }
                false => self.others = self.others.saturating_add(datagrams),
            }
        }
    }

    /// Is there something that was not told?
    pub(super) fn has_news(&self, tally: &Tally) -> bool {
        let known = &self.told;
        !self.losses.is_empty()
            || self.others > 0
            || troubles(&known.counts) != troubles(&tally.counts)
            || known.dropped != tally.dropped
            || known.unwritten != tally.unwritten
    }

    /// When news can be told that cannot now.
    pub(super) fn deadline(&self, tally: &Tally) -> Option<Moment> {
        let told_at = self.told_at?;
        self.has_news(tally).then(|| told_at.plus(self.interval))
    }

    /// The news, if it is time for them.
    pub(super) fn news(&mut self, tally: &Tally, now: Moment) -> Option<String> {
        let is_time = self.told_at.is_none_or(|told_at| now >= told_at.plus(self.interval));
        (is_time && self.has_news(tally)).then(|| self.tell(tally, now))
    }

    /// The news at once: there will be no other time.
    pub(super) fn last_news(&mut self, tally: &Tally, now: Moment) -> Option<String> {
        self.has_news(tally).then(|| self.tell(tally, now))
    }

    fn tell(&mut self, tally: &Tally, now: Moment) -> String {
        let mut parts = Vec::new();
        let mut tell = |count: u64, what: &str| {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        };
        for (kind, words) in TOLD {
            let count = tally.counts.malformed(kind) - self.told.counts.malformed(kind);
            tell(count, &format!("{words} dropped"));
        }
        for ((records, from), count) in std::mem::take(&mut self.losses) {
            let program = if records { "pen" } else { "penlog" };
            tell(count, &format!("datagrams of {program} at {from} lost"));
        }
        tell(std::mem::take(&mut self.others), "datagrams of others lost");
        tell(
            tally.dropped - self.told.dropped,
            "datagrams dropped by the system, which had no room for them",
        );
        let difference = |count: fn(&Counts) -> u64| count(&tally.counts) - count(&self.told.counts);
        tell(difference(|counts| counts.broken), "long lines dropped, of which pieces were missing");
        tell(difference(|counts| counts.cut), "lines cut at 64 KiB");
        tell(difference(|counts| counts.hurried), "lines written before their time, because too many waited");
        let unwritten = tally.unwritten - self.told.unwritten;
        tell(unwritten, &format!("lines lost, because the log takes no more: {}", tally.reason));
        self.told = tally.clone();
        self.told_at = Some(now);
        parts.join("; ")
    }
}

/// The malformed datagrams that are worth a message, and what they are called. The others are what a pen that works as
/// it should sends for some clients.
const TOLD: [(Malformed, &str); 4] = [
    (Malformed::Record, "malformed records of pen"),
    (Malformed::Server, "records of pen whose server is no address"),
    (Malformed::Mark, "malformed marks of penlog"),
    (Malformed::Line, "lines without a request in quotes"),
];

/// What is worth a message.
fn troubles(counts: &Counts) -> [u64; 9] {
    let [record, server, mark, line] = TOLD.map(|(kind, _)| counts.malformed(kind));
    let Counts { lost_entries, lost_lines, hurried, cut, broken, .. } = *counts;
    [record, server, mark, line, lost_entries, lost_lines, hurried, cut, broken]
}

/// All that is counted, in lines.
pub(super) fn all(tally: &Tally) -> String {
    let Counts { entries, evicted, duplicates, matched, unmatched, waited, hurried, cut, broken, .. } =
        tally.counts;
    let malformed = |kind| tally.counts.malformed(kind);
    let mut out = String::from("counts since the start");
    // Writing to a string does not fail.
    let _ = write!(out, "\nrecords of pen: {entries} taken, {evicted} forgotten, {duplicates} came twice");
    let _ =
        write!(out, "\nlines: {matched} matched, {unmatched} unmatched, {waited} waited, {hurried} hurried");
    let _ = write!(out, "\nlong lines: {cut} cut, {broken} dropped for missing pieces");
    let _ = write!(
        out,
        "\nmalformed: {} records, {} servers, {} marks, {} lines",
        malformed(Malformed::Record),
        malformed(Malformed::Server),
        malformed(Malformed::Mark),
        malformed(Malformed::Line)
    );
    let _ = write!(
        out,
        "\nwithout use: {} records without text, {} of Unix sockets",
        malformed(Malformed::NoText),
        malformed(Malformed::UnixServer)
    );
    let Counts { lost_entries, lost_lines, .. } = tally.counts;
    let dropped = tally.dropped;
    let _ = write!(
        out,
        "\nlost datagrams: {lost_entries} of pen, {lost_lines} of penlog, {dropped} dropped here"
    );
    let _ = write!(out, "\nlines not written: {}", tally.unwritten);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Seconds = Seconds(60);

    fn at(seconds: u32) -> Moment {
        Moment(5).plus(Seconds(seconds))
    }

    fn tally(hurried: u64, dropped: u64, unwritten: u64) -> Tally {
        let mut counts = Counts::default();
        counts.hurried = hurried;
        Tally { counts, dropped, unwritten, reason: "No space left on device".to_owned() }
    }

    #[test]
    fn without_news_nothing_is_told() {
        let mut report = Report::new(MINUTE);
        let mut counts = Counts::default();
        (counts.entries, counts.evicted) = (1, 2);
        (counts.matched, counts.unmatched, counts.waited) = (3, 4, 5);
        let busy = Tally { counts, ..Tally::default() };
        assert_eq!((report.news(&busy, at(0)), report.deadline(&busy)), (None, None));
        assert_eq!(report.last_news(&busy, at(0)), None);
    }

    #[test]
    fn the_first_news_come_at_once_and_further_ones_when_the_minute_is_over() {
        let mut report = Report::new(MINUTE);
        let text = "1 datagrams dropped by the system, which had no room for them";
        assert_eq!(report.news(&tally(0, 1, 0), at(0)).as_deref(), Some(text));
        assert_eq!(report.deadline(&tally(0, 1, 0)), None);
        assert_eq!(report.news(&tally(0, 2, 0), at(59)), None);
        assert_eq!(report.deadline(&tally(0, 2, 0)), Some(at(60)));
        let text = "4 datagrams dropped by the system, which had no room for them";
        assert_eq!(report.news(&tally(0, 5, 0), at(60)).as_deref(), Some(text));
        let text = "1 lines written before their time, because too many waited; \
                    3 lines lost, because the log takes no more: No space left on device";
        assert_eq!(report.last_news(&tally(1, 5, 3), at(61)).as_deref(), Some(text));
    }

    #[test]
    fn losses_are_added_up_by_sender_as_far_as_there_is_room() {
        let mut report = Report::new(MINUTE);
        let loss = |last: u8, records, datagrams| Loss { from: [10, 0, 0, last].into(), records, datagrams };
        report.note(vec![loss(1, true, 2), loss(1, false, 3)]);
        report.note(vec![loss(1, true, 4)]);
        let told = report.news(&Tally::default(), at(0)).unwrap();
        assert_eq!(told, "3 datagrams of penlog at 10.0.0.1 lost; 6 datagrams of pen at 10.0.0.1 lost");
        report.note((0..=255).map(|last| loss(last, true, 1)).collect());
        let told = report.last_news(&Tally::default(), at(1)).unwrap();
        assert!(told.ends_with("; 240 datagrams of others lost"), "{told}");
    }

    #[test]
    fn all_counts_are_told_in_a_few_lines() {
        let told = all(&tally(7, 8, 9));
        assert!(told.contains(" 7 hurried\n") && told.contains(", 8 dropped here\n"), "{told}");
        assert!(told.ends_with("\nlines not written: 9"), "{told}");
    }
}
