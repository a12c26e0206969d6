//! What a change would change, in words: `diff`, and the messages about a batch.

use super::Change;
use crate::model::apply::Action;
use crate::model::ids::{Target, WorkerId};
use crate::model::render::{self, Difference, Subject};
use crate::model::settings::Settings;
use crate::process::master::Master;
use crate::process::startup::worker_count;

impl Master<'_> {
    /// What would be different, a command a line: with `-` those in force, with `+` those to come, and behind `#` the
    /// connections that it is about.
    pub(super) fn differences(&self, change: &Change) -> String {
        let (before, after) = (&self.state.settings, &change.reading.settings);
        let mut text = String::new();
        for difference in render::differences(before, after) {
            let touched = self.touched(&difference, before, after);
            let lines = difference.before.iter().map(|line| ('-', line));
            let lines: Vec<_> = lines.chain(difference.after.iter().map(|line| ('+', line))).collect();
            let last = lines.len() - 1;
            for (number, (sign, line)) in lines.into_iter().enumerate() {
                let remark = if number == last { touched.as_str() } else { "" };
                text += &format!("{sign} {line}{remark}\n");
            }
        }
        for action in &change.reading.actions {
            if let Action::Shun(server, length) = action {
                let live = self.state.region.ledger().load(Target::Server(*server));
                text += &format!("+ server {server} blacklist {length}{}\n", remark(live, " stay"));
            }
        }
        text
    }

    /// The remark about connections, if a difference touches some.
    fn touched(&self, difference: &Difference, before: &Settings, after: &Settings) -> String {
        let region = self.state.region;
        let open = region.workers().connections();
        let (touched, how) = match difference.what {
            Subject::Server(target) => {
                let place = |settings: &Settings| {
                    let spec = settings.targets().find(|(it, _)| *it == target);
                    spec.map(|(_, spec)| (spec.host.clone(), spec.port.clone()))
                };
                let moves = place(before) != place(after);
                (region.ledger().load(target), if moves { " stay where they are until they end" } else { "" })
            }
            Subject::Listener if difference.before.is_some() => (open, " stay"),
            Subject::IdleTimeout => (open, ", measured by it at once"),
            Subject::Workers => {
                let (now, then) = (self.state.workers, worker_count(after));
                let views = (then..now.max(then)).map(|worker| region.workers().view(WorkerId(worker)));
                (views.map(|view| view.connections).sum(), " of workers that go stay until they end")
            }
            Subject::Listener | Subject::List(_) | Subject::Other(_) => (0, ""),
        };
        remark(touched, how)
    }
}

/// What stands behind a line that so many connections are touched by; nothing if none is.
fn remark(connections: u32, how: &str) -> String {
    match connections {
        0 => String::new(),
        1 => format!(" # 1 connection{how}"),
        _ => format!(" # {connections} connections{how}"),
    }
}
