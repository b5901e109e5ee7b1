//! Conditions of the objects, written so that kstatus (and with it `kubectl wait`, Flux and Argo CD) reads them rightly.
//!
//! An object is in one [`State`] at a time. kstatus reads it as follows:
//!
//! | state | conditions | kstatus |
//! |---|---|---|
//! | ready | `Ready=True` | Current |
//! | reconciling | `Ready=False`, `Reconciling=True` | InProgress |
//! | stalled | `Ready=False`, `Stalled=True` | Failed |
//! | expired | `Expired=True` alone | Current |
//!
//! `Reconciling` and `Stalled` are there only while they are true. An expired object has no `Ready` condition at all: it
//! reached the end that its spec asked for, which kstatus would read from `Ready=False` as never finished, so that a
//! pipeline that waits for it would hang; and `Ready=True` would say that there is data.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// Type of the condition that says whether the object can be used.
pub const READY: &str = "Ready";
/// Type of the condition that is there while work goes on or something is awaited.
pub const RECONCILING: &str = "Reconciling";
/// Type of the condition that is there while only a change by somebody can help.
pub const STALLED: &str = "Stalled";
/// Type of the condition that is there when the lifetime has ended and the data was freed.
pub const EXPIRED: &str = "Expired";

/// Why an object is in its state. Shown in CamelCase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The data is there and can be used.
    Available,
    /// The lifetime has ended; the data is kept because the object is protected.
    Protected,
    /// The timeline or snapshot is being made.
    Creating,
    /// The source is being imported.
    Importing,
    /// Settings are being changed, or forks of a set added or removed.
    Updating,
    /// Another object that this one needs is not there or not ready yet.
    WaitingForSource,
    /// `at` lies in the future.
    WaitingForTime,
    /// The name in the engine is in use by an object that is being deleted.
    WaitingForName,
    /// No node can hold the bucket at the moment.
    WaitingForNode,
    /// The namespace of the source does not allow it to be forked from here.
    NotGranted,
    /// The node that held the data is gone.
    NodeLost,
    /// The object is to be deleted or has expired, and a pod still has it mounted.
    InUse,
    /// The data is being freed.
    Deleting,
    /// The last attempt failed and is made again by itself.
    Retrying,
    /// The spec does not hold to the rules.
    Invalid,
    /// A field that cannot be changed was changed.
    ImmutableFieldChanged,
    /// The name in the engine is in use by something that this object does not own.
    NameTaken,
    /// The source has expired, is its own ancestor, or will never be there.
    SourceUnavailable,
    /// The instant asked for is no longer readable.
    OutOfRetention,
    /// The import failed and needs somebody's help.
    ImportFailed,
    /// The data that this object had is no longer in the store.
    DataLost,
    /// The store refused, and needs somebody's help.
    Failed,
    /// The `ttl` has passed.
    TtlElapsed,
    /// The `expireTime` has passed.
    ExpireTimePassed,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Reason; 24] = [
        Reason::Available,
        Reason::Protected,
        Reason::Creating,
        Reason::Importing,
        Reason::Updating,
        Reason::WaitingForSource,
        Reason::WaitingForTime,
        Reason::WaitingForName,
        Reason::WaitingForNode,
        Reason::NotGranted,
        Reason::NodeLost,
        Reason::InUse,
        Reason::Deleting,
        Reason::Retrying,
        Reason::Invalid,
        Reason::ImmutableFieldChanged,
        Reason::NameTaken,
        Reason::SourceUnavailable,
        Reason::OutOfRetention,
        Reason::ImportFailed,
        Reason::DataLost,
        Reason::Failed,
        Reason::TtlElapsed,
        Reason::ExpireTimePassed,
    ];

    /// As it stands in a condition.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Available => "Available",
            Reason::Protected => "Protected",
            Reason::Creating => "Creating",
            Reason::Importing => "Importing",
            Reason::Updating => "Updating",
            Reason::WaitingForSource => "WaitingForSource",
            Reason::WaitingForTime => "WaitingForTime",
            Reason::WaitingForName => "WaitingForName",
            Reason::WaitingForNode => "WaitingForNode",
            Reason::NotGranted => "NotGranted",
            Reason::NodeLost => "NodeLost",
            Reason::InUse => "InUse",
            Reason::Deleting => "Deleting",
            Reason::Retrying => "Retrying",
            Reason::Invalid => "Invalid",
            Reason::ImmutableFieldChanged => "ImmutableFieldChanged",
            Reason::NameTaken => "NameTaken",
            Reason::SourceUnavailable => "SourceUnavailable",
            Reason::OutOfRetention => "OutOfRetention",
            Reason::ImportFailed => "ImportFailed",
            Reason::DataLost => "DataLost",
            Reason::Failed => "Failed",
            Reason::TtlElapsed => "TtlElapsed",
            Reason::ExpireTimePassed => "ExpireTimePassed",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The one state that an object is in, with the reason and a sentence for people: what is, and what would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It can be used, and nothing is left to do.
    Ready(Reason, String),
    /// It is being worked on, or waits for something that may come by itself.
    Reconciling(Reason, String),
    /// Nothing goes on until somebody changes something; the message says what.
    Stalled(Reason, String),
    /// Its lifetime has ended and its data was freed.
    Expired(Reason, String),
}

impl State {
    /// Why it is in this state.
    pub fn reason(&self) -> Reason {
        match self {
            State::Ready(reason, _)
            | State::Reconciling(reason, _)
            | State::Stalled(reason, _)
            | State::Expired(reason, _) => *reason,
        }
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        match self {
            State::Ready(_, message)
            | State::Reconciling(_, message)
            | State::Stalled(_, message)
            | State::Expired(_, message) => message,
        }
    }

    /// Whether the object can be used.
    pub fn is_ready(&self) -> bool {
        matches!(self, State::Ready(..))
    }

    /// The word for the column `Status`: the reason, or `Expired`.
    pub fn word(&self) -> &'static str {
        match self {
            State::Expired(..) => EXPIRED,
            State::Ready(Reason::Available, _) => READY,
            other => other.reason().as_str(),
        }
    }

    /// Writes the state into the conditions, for this generation of the spec. Conditions of types that are not ours stay.
    /// The time of transition of a condition changes only with its status.
    pub fn write(&self, conditions: &mut Vec<Condition>, generation: Option<i64>, now: Time) {
        let (ready, other) = match self {
            State::Ready(..) => (Some("True"), None),
            State::Reconciling(..) => (Some("False"), Some(RECONCILING)),
            State::Stalled(..) => (Some("False"), Some(STALLED)),
            State::Expired(..) => (None, Some(EXPIRED)),
        };
        let wanted = |type_: &str| match ready {
            Some(status) if type_ == READY => Some(status),
            _ if other == Some(type_) => Some("True"),
            _ => None,
        };
        conditions.retain(|condition| {
            let ours = [READY, RECONCILING, STALLED, EXPIRED].contains(&condition.type_.as_str());
            !ours || wanted(&condition.type_).is_some()
        });
        for type_ in [READY, RECONCILING, STALLED, EXPIRED] {
            let Some(status) = wanted(type_) else {
                continue;
            };
            let found = conditions
                .iter_mut()
                .find(|condition| condition.type_ == type_);
            let since = match &found {
                Some(condition) if condition.status == status => {
                    condition.last_transition_time.clone()
                }
                _ => now.clone(),
            };
            let condition = Condition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: self.reason().as_str().to_owned(),
                message: self.message().to_owned(),
                observed_generation: generation,
                last_transition_time: since,
            };
            match found {
                Some(found) => *found = condition,
                None => conditions.push(condition),
            }
        }
    }
}

/// The condition of a type.
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether the condition of a type is there and true.
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|condition| condition.status == "True")
}

/// What kstatus makes of an object (`InProgress`, `Failed`, `Current`, `Terminating`), by the rules that it has for any kind.
pub fn kstatus(
    generation: Option<i64>,
    observed_generation: Option<i64>,
    being_deleted: bool,
    conditions: &[Condition],
) -> &'static str {
    if being_deleted {
        return "Terminating";
    }
    if let (Some(generation), Some(observed)) = (generation, observed_generation)
        && generation != observed
    {
        return "InProgress";
    }
    if is_true(conditions, RECONCILING) {
        return "InProgress";
    }
    if is_true(conditions, STALLED) {
        return "Failed";
    }
    match find(conditions, READY) {
        Some(ready) if ready.status == "True" => "Current",
        Some(_) => "InProgress",
        None => "Current",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    #[test]
    fn every_state_reads_in_kstatus_as_the_table_says() {
        let text = String::new;
        for (state, read) in [
            (State::Ready(Reason::Available, text()), "Current"),
            (State::Reconciling(Reason::Importing, text()), "InProgress"),
            (State::Stalled(Reason::NameTaken, text()), "Failed"),
            (State::Expired(Reason::TtlElapsed, text()), "Current"),
        ] {
            let mut conditions = Vec::new();
            // Whatever was there before.
            State::Stalled(Reason::Failed, text()).write(&mut conditions, Some(1), at(0));
            State::Reconciling(Reason::Creating, text()).write(&mut conditions, Some(1), at(0));
            state.write(&mut conditions, Some(2), at(1));
            assert_eq!(
                kstatus(Some(2), Some(2), false, &conditions),
                read,
                "{conditions:?}"
            );
            assert_eq!(kstatus(Some(3), Some(2), false, &conditions), "InProgress");
            assert_eq!(is_true(&conditions, READY), state.is_ready());
            assert!(
                conditions
                    .iter()
                    .all(|condition| condition.observed_generation == Some(2))
            );
        }
    }

    #[test]
    fn the_time_of_transition_changes_only_with_the_status() {
        let mut conditions = Vec::new();
        State::Reconciling(Reason::Creating, "one".into()).write(&mut conditions, Some(1), at(1));
        State::Reconciling(Reason::Importing, "two".into()).write(&mut conditions, Some(1), at(2));
        let reconciling = find(&conditions, RECONCILING).unwrap();
        assert_eq!(
            (
                reconciling.last_transition_time.clone(),
                reconciling.message.as_str()
            ),
            (at(1), "two")
        );
        State::Ready(Reason::Available, "three".into()).write(&mut conditions, Some(1), at(3));
        assert_eq!(
            find(&conditions, READY).unwrap().last_transition_time,
            at(3)
        );
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn conditions_of_others_stay() {
        let mut conditions = Vec::new();
        State::Ready(Reason::Available, String::new()).write(&mut conditions, None, at(1));
        conditions[0].type_ = "example.com/Theirs".into();
        State::Expired(Reason::TtlElapsed, String::new()).write(&mut conditions, None, at(2));
        let types: Vec<_> = conditions
            .iter()
            .map(|condition| condition.type_.as_str())
            .collect();
        assert_eq!(types, ["example.com/Theirs", EXPIRED]);
    }

    #[test]
    fn reasons_are_camel_case_and_different() {
        let mut seen = std::collections::BTreeSet::new();
        for reason in Reason::ALL {
            assert!(seen.insert(reason.as_str()));
            assert!(reason.as_str().chars().all(|c| c.is_ascii_alphabetic()));
            assert_eq!(format!("{reason:?}"), reason.as_str());
        }
    }
}
