//! The objects of `log_format json`, as whoever reads the log gets them.

use serde_json::Value;

use super::pen::Builder;
use super::{Pen, Scratch, wait_until};
use nix::sys::signal::Signal;

/// A log, in a directory of its own.
pub struct Objects(Scratch);

impl Objects {
    pub fn new() -> Self {
        Objects(Scratch::new())
    }

    /// A pen that writes it.
    pub fn of(&self, pen: Builder) -> Builder {
        pen.option("-l").option(&self.file()).option("-O").option("log_format json")
    }

    pub fn file(&self) -> String {
        self.0.file("log")
    }

    /// What is there now.
    pub fn now(&self) -> Vec<Value> {
        let text = self.0.read("log");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// What is there as soon as there are so many.
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Value> {
        wait_until("the log has its objects", || self.0.read("log").matches('\n').count() >= count);
        self.now()
    }

    /// The only one that there is, also when pen has ended.
    #[track_caller]
    pub fn only(&self, pen: Pen) -> Value {
        let [object] = <[Value; 1]>::try_from(self.exactly(1, pen)).unwrap();
        object
    }

    /// As soon as there are so many; and when pen has ended there are no more.
    #[track_caller]
    pub fn exactly(&self, count: usize, mut pen: Pen) -> Vec<Value> {
        self.wait_for(count);
        pen.end_with(Signal::SIGTERM);
        let all = self.now();
        assert_eq!(all.len(), count, "{all:#?}");
        all
    }
}

/// Why it is over.
pub fn ended(object: &Value) -> &str {
    object["ended"].as_str().unwrap_or_else(|| panic!("nothing ended: {object}"))
}

/// The same of all.
pub fn all_ended(objects: &[Value]) -> Vec<&str> {
    objects.iter().map(ended).collect()
}

/// This field of all of them, as text.
pub fn all<'a>(objects: &'a [Value], field: &str) -> Vec<&'a str> {
    objects.iter().map(|object| object[field].as_str().unwrap_or("none")).collect()
}

/// Those of an event.
pub fn of_event(objects: Vec<Value>, event: &str) -> Vec<Value> {
    objects.into_iter().filter(|object| object["event"] == event).collect()
}
