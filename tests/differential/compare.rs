//! Two transcripts, line by line.

use crate::intended::Difference;
use crate::stage::{Observation, Transcript};

/// What came of comparing.
#[derive(Debug, Default)]
pub struct Comparison {
    /// How many observations there were.
    pub observations: usize,
    /// So many of them with the same text.
    pub equal: usize,
    /// Lines in those that are logs.
    pub lines: Lines,
    /// The differences that are as they should be.
    pub intended: Vec<&'static Difference>,
    /// All others, in words.
    pub failures: Vec<String>,
}

/// Lines of logs.
#[derive(Debug, Default)]
pub struct Lines {
    /// All of them.
    pub compared: usize,
    /// Those that differ where that is intended.
    pub intended: usize,
    /// Those that differ otherwise.
    pub unlike: usize,
}

impl Lines {
    /// Adds those of another comparison.
    pub fn add(&mut self, other: &Lines) {
        self.compared += other.compared;
        self.intended += other.intended;
        self.unlike += other.unlike;
    }

    /// Line by line: how many, and how many of them differ.
    fn count(there: &str, here: &str) -> (usize, usize) {
        let (there, here): (Vec<&str>, Vec<&str>) = (there.lines().collect(), here.lines().collect());
        let all = there.len().max(here.len());
        (all, all - there.iter().zip(&here).filter(|(there, here)| there == here).count())
    }
}

impl Comparison {
    /// Adds what another comparison of the same scenario gave.
    pub fn add(&mut self, other: Comparison) {
        self.observations += other.observations;
        self.equal += other.equal;
        self.lines.add(&other.lines);
        self.intended.extend(other.intended);
        self.failures.extend(other.failures);
    }
}

/// Compares, with the intended differences of this scenario. Both sides of each are checked, so that an entry that is
/// no longer true is found.
pub fn compare(classic: &Transcript, ours: &Transcript, intended: &[&'static Difference]) -> Comparison {
    let mut result = Comparison { failures: ours.faults.clone(), ..Comparison::default() };
    let text = |transcript: &Transcript, label: &str| {
        let seen: Option<&Observation> = transcript.observations.iter().find(|seen| seen.label == label);
        seen.map_or_else(|| NOT_OBSERVED.to_owned(), |seen| seen.text.clone())
    };
    let mut labels: Vec<&str> = classic.observations.iter().map(|seen| seen.label.as_str()).collect();
    for seen in &ours.observations {
        if !labels.contains(&seen.label.as_str()) {
            labels.push(&seen.label);
        }
    }
    for label in &labels {
        let (there, here) = (text(classic, label), text(ours, label));
        result.observations += 1;
        if ours.observations.iter().any(|seen| seen.lines && seen.label == *label) {
            let (all, unlike) = Lines::count(&there, &here);
            let meant = intended.iter().any(|difference| difference.label == *label);
            result.lines.compared += all;
            *(if meant { &mut result.lines.intended } else { &mut result.lines.unlike }) += unlike;
        }
        match intended.iter().find(|difference| difference.label == *label) {
            Some(difference) if there == here => {
                let reason = difference.reason;
                result.failures.push(format!("{label}: no longer differs: {here:?} (intended: {reason})"));
            }
            Some(difference) if difference.classic == there && difference.ours == here => {
                result.intended.push(difference);
            }
            Some(difference) => {
                for (who, is, should) in
                    [("the classic", there, difference.classic), ("ours", here, difference.ours)]
                {
                    if is != should {
                        result
                            .failures
                            .push(format!("{label}: {who} gives {is:?}, the table says {should:?}"));
                    }
                }
            }
            None if there == here => result.equal += 1,
            None => result.failures.push(unlike(label, &there, &here)),
        }
    }
    let stale = intended.iter().filter(|difference| !labels.contains(&difference.label));
    result.failures.extend(
        stale.map(|difference| format!("{}: an intended difference that nobody observes", difference.label)),
    );
    result
}

const NOT_OBSERVED: &str = "(not observed)";

/// As many lines say what is wrong.
const MOST_SHOWN: usize = 10;

/// The lines that differ.
fn unlike(label: &str, there: &str, here: &str) -> String {
    if there.lines().count() < 2 && here.lines().count() < 2 {
        return format!("{label}: the classic gives {there:?}, ours {here:?}");
    }
    let (there, here): (Vec<&str>, Vec<&str>) = (there.lines().collect(), here.lines().collect());
    let mut told = format!("{label}:");
    let mut shown = 0;
    for number in 0..there.len().max(here.len()) {
        let (there, here) = (there.get(number), here.get(number));
        if there != here {
            shown += 1;
            if shown > MOST_SHOWN {
                continue;
            }
            let line = |line: Option<&&str>| line.map_or("nothing".to_owned(), |line| format!("{line:?}"));
            told += &format!("\n      line {}: the classic {}, ours {}", number + 1, line(there), line(here));
        }
    }
    if shown > MOST_SHOWN {
        told += &format!("\n      and so do {} more lines", shown - MOST_SHOWN);
    }
    if there == here {
        told += " the line ends differ";
    }
    told
}
