//! Connections of a worker that has died: what the log is told of them. `log_format json`.
//!
//! Only what their slots know is left: neither the client's port nor its TLS, nor what belongs to single requests.

use crate::model::ids::{ConnId, WorkerId};
use crate::model::record::{ChosenServer, ConnectionRecord, Ended};
use crate::model::time::Moment;
use crate::process::master::Master;
use crate::report::log::RequestLog;
use crate::shared::slots::{About, ConnectionView};
use crate::sys::clock;

impl Master<'_> {
    /// A worker has ended. What it has not told the log itself is told now, before its slots are freed.
    pub(super) fn log_left_behind(&self, worker: WorkerId, now: Moment) {
        let Some(sink) = &self.state.log else {
            return;
        };
        let mut log = match sink.try_clone() {
            Ok(sink) => RequestLog::new(Some(sink)),
            Err(_) => return,
        };
        log.set_format(self.state.settings.log_format);
        if !log.wants_records() {
            return;
        }
        // A slot without a state was for a client who had not been accepted.
        let left = self.state.region.slots().untold(worker).filter(|(_, view, _)| view.state != 0);
        for slot in left {
            self.log_one_left_behind(&mut log, worker, slot, now);
        }
        let lost = log.flush();
        if lost > 0 {
            self.state.messages.note(format_args!(
                "the log takes no more: {lost} lines of connections that worker {worker} had are lost"
            ));
        }
    }

    fn log_one_left_behind(
        &self,
        log: &mut RequestLog,
        worker: WorkerId,
        (conn, view, about): (ConnId, ConnectionView, About),
        now: Moment,
    ) {
        let region = self.state.region;
        let address = view.server.and_then(|target| region.servers().definition(target)?.address);
        let server = match (view.server, &address, about.chosen) {
            (Some(target), Some(address), Some(chosen)) => Some(ChosenServer { target, address, chosen }),
            _ => None,
        };
        let client = view.client.and_then(|client| region.clients().view(client));
        let duration = now.micros_since(view.started);
        log.connection(&ConnectionRecord {
            protocol: about.protocol,
            worker,
            conn,
            // Another client may have that record by now.
            client: client.filter(|it| it.short_tag == about.client_tag).map(|client| client.address),
            server,
            attempts: about.attempts.into(),
            began: clock::wall_micros().before(duration),
            connected_after: None,
            duration,
            up: view.up,
            down: view.down,
            datagrams: None,
            ended: Ended::WorkerDied,
            tls: None,
        });
    }
}
