//! What failed, and when it is tried again.

use std::collections::BTreeMap;
use std::time::Duration;

use crds::conditions::{Reason, State};
use crds::{ObjectKey, conditions};
use jiff::Timestamp;

/// What helps against a failure. Whoever applies the actions translates the errors of the engine and of the system to this,
/// once and exhaustively.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Time: the disk is full for the moment, something is busy, the process is going down.
    Retry,
    /// Somebody must change something: a source that is not there, a mount point in use, a refused permission.
    NeedsHelp,
    /// An import that somebody must help.
    Import,
    /// The instant asked for is no longer readable.
    OutOfRetention,
    /// The name or id is in use by something else.
    NameTaken,
    /// The source is gone.
    SourceGone,
    /// The timeline or snapshot is protected.
    Protected,
}

/// The last failure of one object's actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What helps.
    pub kind: FailureKind,
    /// A sentence for people: what was tried, why it failed, what would help.
    pub message: String,
    /// The generation of the spec that was being applied.
    pub generation: Option<i64>,
    /// How often in a row it has failed, at least 1.
    pub attempts: u32,
    /// When it failed last.
    pub last: Timestamp,
}

/// First pause after a failure that time may help.
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Longest pause, and the pause where somebody must help: they may do so without a change of the object.
const PAUSE_MAX: Duration = Duration::from_secs(30);

impl Failure {
    /// When the next attempt is due: after 0.5 s, doubled with each attempt up to 30 s; after 30 s where somebody must help.
    pub fn next(&self) -> Timestamp {
        let pause = match self.kind {
            FailureKind::Retry => {
                let doubled = 1u32
                    .checked_shl(self.attempts.saturating_sub(1))
                    .unwrap_or(u32::MAX);
                PAUSE_FIRST.saturating_mul(doubled).min(PAUSE_MAX)
            }
            _ => PAUSE_MAX,
        };
        self.last.checked_add(pause).unwrap_or(Timestamp::MAX)
    }

    /// The state of an object that this keeps from being what it should.
    pub fn state(&self) -> State {
        let reason = match self.kind {
            FailureKind::Retry => {
                return State::Reconciling(Reason::Retrying, self.message.clone());
            }
            FailureKind::NeedsHelp => Reason::Failed,
            FailureKind::Import => Reason::ImportFailed,
            FailureKind::OutOfRetention => Reason::OutOfRetention,
            FailureKind::NameTaken => Reason::NameTaken,
            FailureKind::SourceGone => Reason::SourceUnavailable,
            FailureKind::Protected => Reason::Protected,
        };
        State::Stalled(reason, self.message.clone())
    }
}

/// The last failure of each object; kept in memory only.
#[derive(Clone, Debug, Default)]
pub struct Failures(BTreeMap<ObjectKey, Failure>);

impl Failures {
    /// Notes that an action for an object failed.
    pub fn note(
        &mut self,
        key: &ObjectKey,
        generation: Option<i64>,
        kind: FailureKind,
        message: &str,
        now: Timestamp,
    ) {
        let before = self
            .0
            .get(key)
            .filter(|before| before.generation == generation);
        let attempts = before.map_or(0, |before| before.attempts).saturating_add(1);
        let failure = Failure {
            kind,
            message: message.to_owned(),
            generation,
            attempts,
            last: now,
        };
        self.0.insert(key.clone(), failure);
    }

    /// Only the failure of one object.
    pub fn just(&self, key: &ObjectKey) -> Self {
        Failures(
            self.0
                .get_key_value(key)
                .map(|(key, failure)| (key.clone(), failure.clone()))
                .into_iter()
                .collect(),
        )
    }

    /// Notes that all actions of an object's plan were done.
    pub fn clear(&mut self, key: &ObjectKey) {
        self.0.remove(key);
    }

    /// The failure that stands in the way of this generation of an object.
    pub fn of(&self, key: &ObjectKey, generation: Option<i64>) -> Option<&Failure> {
        self.0
            .get(key)
            .filter(|failure| failure.generation == generation)
    }
}

/// Whether conditions say that somebody's help is needed.
pub(crate) fn stalled(
    conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition],
) -> Option<&str> {
    conditions::find(conditions, conditions::STALLED)
        .filter(|condition| condition.status == "True")
        .map(|condition| condition.reason.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_begin_anew_with_a_new_spec() {
        let key = ObjectKey::new(crds::Kind::Bucket, "default", "b");
        let now = Timestamp::from_second(100).unwrap();
        let mut failures = Failures::default();
        let mut pauses = Vec::new();
        for _ in 0..40 {
            failures.note(&key, Some(1), FailureKind::Retry, "disk full", now);
            pauses.push(
                failures
                    .of(&key, Some(1))
                    .unwrap()
                    .next()
                    .duration_since(now)
                    .as_millis(),
            );
        }
        assert_eq!(
            pauses[..8],
            [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
        );
        assert!(pauses[8..].iter().all(|pause| *pause == 30_000));
        assert_eq!(failures.of(&key, Some(2)), None);
        failures.note(&key, Some(2), FailureKind::Retry, "disk full", now);
        assert_eq!(failures.of(&key, Some(2)).unwrap().attempts, 1);
        failures.clear(&key);
        assert_eq!(failures.of(&key, Some(2)), None);
    }
}
