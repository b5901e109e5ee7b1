//! Events: what a person must know of an object, told once when it begins.

use crds::conditions::{Reason, State};
use crds::{Object, names};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

use super::write::answered;

/// Longest note that the API server takes.
const NOTE_MAX: usize = 1000;

/// Tells events.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Events of a component (`anabranch-operator`, `anabranch-node`) in an instance: the name of the pod.
    pub fn new(client: Client, component: &str, instance: &str) -> Self {
        let reporter = Reporter {
            controller: component.to_owned(),
            instance: Some(instance.to_owned()),
        };
        Events {
            recorder: Recorder::new(client, reporter),
        }
    }

    /// Tells that an object came into another state than before. What is only on its way, or as it
    /// should be, is not told: it stands in the status, and a burst of forks would be a burst of events.
    pub async fn state(&self, before: &Object, state: &State) {
        let known = crate::decide::conditions(before).iter().any(|condition| {
            condition.reason == state.reason().as_str()
                && condition.observed_generation == before.metadata().generation
        });
        let Some(type_) = weight(state).filter(|_| !known) else {
            return;
        };
        self.tell(before, type_, state.word(), "Reconcile", state.message())
            .await;
    }

    /// Tells one event of an object of ours.
    pub async fn tell(
        &self,
        object: &Object,
        type_: EventType,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let metadata = object.metadata();
        let reference = ObjectReference {
            api_version: Some(names::API_VERSION.to_owned()),
            kind: Some(object.kind().as_str().to_owned()),
            name: metadata.name.clone(),
            namespace: metadata.namespace.clone(),
            uid: metadata.uid.clone(),
            ..ObjectReference::default()
        };
        self.tell_of(&reference, type_, reason, action, note).await;
    }

    /// Tells one event of any object.
    pub async fn tell_of(
        &self,
        object: &ObjectReference,
        type_: EventType,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let note: String = note.chars().take(NOTE_MAX).collect();
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(note).filter(|note| !note.is_empty()),
            action: action.to_owned(),
            secondary: None,
        };
        // An event is a courtesy: nothing waits for it. Into a namespace that is going away none can be told.
        if let Err(failure) = answered(self.recorder.publish(&event, object)).await {
            tracing::debug!(%failure, object = object.name, reason, "cannot tell an event");
        }
    }
}

/// How a state is told; not at all when it needs nobody.
fn weight(state: &State) -> Option<EventType> {
    match state {
        State::Expired(..) => Some(EventType::Normal),
        State::Stalled(..)
        | State::Reconciling(Reason::WaitingForNode | Reason::InUse | Reason::Retrying, _) => {
            Some(EventType::Warning)
        }
        State::Ready(..) | State::Reconciling(..) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_may_have_to_do_something_about_is_told() {
        let of = |state: fn(Reason, String) -> State, reason| {
            weight(&state(reason, String::new())).map(|type_| type_ == EventType::Warning)
        };
        for reason in [Reason::WaitingForNode, Reason::InUse, Reason::Retrying] {
            assert_eq!(of(State::Reconciling, reason), Some(true), "{reason:?}");
        }
        assert_eq!(of(State::Reconciling, Reason::WaitingForSource), None);
        assert_eq!(of(State::Stalled, Reason::NotGranted), Some(true));
        assert_eq!(of(State::Expired, Reason::TtlElapsed), Some(false));
        assert_eq!(of(State::Ready, Reason::Available), None);
    }
}
