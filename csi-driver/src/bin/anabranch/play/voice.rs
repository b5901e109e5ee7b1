//! What play says: a line when something changed, never the same twice.

use std::collections::BTreeMap;

use crds::conditions::{Reason, State};
use crds::{Object, ObjectKey};
use csi_driver::agent::Pass;
use csi_driver::agent::objects::{ObjectExt, Objects, short_name};

use crate::progress::ProgressLine;
use crate::screen::{count, size};

/// Says what changes.
pub struct Voice {
    said: BTreeMap<ObjectKey, (String, String)>,
    complaints: Vec<String>,
    summary: String,
    progress: ProgressLine,
}

impl Voice {
    pub fn new() -> Self {
        Self {
            said: BTreeMap::new(),
            complaints: Vec::new(),
            summary: String::new(),
            progress: ProgressLine::new(),
        }
    }

    /// A line for people.
    pub fn line(&mut self, text: &str) {
        self.progress.clear();
        // Output that nobody reads is no reason to stop serving.
        let _ = crate::screen::line(text);
    }

    /// Shows how far imports are.
    pub fn progress(&mut self, all: &[csi_driver::owner::Progress]) {
        match all.first() {
            Some(progress) => self.progress.show(progress),
            None => self.progress.clear(),
        }
    }

    /// Says what is wrong with manifests, when that is new.
    pub fn complaints(&mut self, now: &[String]) {
        if self.complaints == now {
            return;
        }
        let new: Vec<String> = now
            .iter()
            .filter(|text| !self.complaints.contains(text))
            .cloned()
            .collect();
        for text in &new {
            self.progress.clear();
            eprintln!("anabranch: {text}");
        }
        if now.is_empty() {
            self.line("the manifests are valid again");
        }
        self.complaints = now.to_vec();
    }

    /// Says the states that have changed.
    pub fn states(&mut self, pass: &Pass, objects: &Objects) {
        for key in &pass.removed {
            self.said.remove(key);
            self.line(&format!("{:<28} deleted", short_name(key)));
        }
        for (key, state) in &pass.states {
            let Some(object) = objects.get(key) else {
                continue;
            };
            let word = state.word().to_owned();
            let text = words(object, state);
            // How far an import is has a line of its own.
            let importing = matches!(state, State::Reconciling(Reason::Importing, _));
            let now = (
                word,
                if importing {
                    String::new()
                } else {
                    text.clone()
                },
            );
            if self.said.get(key) != Some(&now) {
                self.said.insert(key.clone(), now);
                self.line(&format!("{:<28} {text}", short_name(key)));
            }
        }
    }

    /// Says the sum of it all, when that is new.
    pub fn summary(&mut self, text: String) {
        if self.summary != text {
            self.summary.clone_from(&text);
            self.line(&text);
        }
    }
}

fn words(object: &Object, state: &State) -> String {
    match (state, object) {
        (State::Ready(reason, message), _) if *reason != Reason::Available => {
            format!("ready: {message}")
        }
        (State::Ready(..), Object::Fork(fork)) => match fork.spec.count {
            Some(count) => format!("ready ({count} forks)"),
            None => "ready".to_owned(),
        },
        (State::Ready(..), Object::Bucket(bucket)) => {
            match bucket
                .status
                .as_ref()
                .and_then(|status| status.import.as_ref())
                .filter(|import| import.complete)
            {
                Some(import) => format!(
                    "ready (imported {}, {})",
                    count(import.files, "file", "files"),
                    size(import.bytes)
                ),
                None => "ready".to_owned(),
            }
        }
        (State::Ready(..), Object::Snapshot(snapshot)) => {
            match snapshot.status.as_ref().and_then(|status| status.epoch) {
                Some(epoch) => format!("ready (epoch {epoch})"),
                None => "ready".to_owned(),
            }
        }
        (State::Stalled(Reason::Protected, _), _) if object.is_being_deleted() => {
            "Protected: its document is gone, and it stays because it is protected; put the document back, and to delete it, take it away again with `protected: false`"
                .to_owned()
        }
        (State::Expired(_, message), _) => format!("expired: {message}"),
        (State::Reconciling(reason, message) | State::Stalled(reason, message), _) => {
            format!("{reason}: {message}")
        }
    }
}
