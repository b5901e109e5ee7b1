//! What to do for a Bucket.

use crds::conditions::{Reason, State};
use crds::{Bucket, DeletionPolicy, Kind, ObjectKey, names};

use super::{source, timeline};
use crate::action::{Action, Settings};
use crate::id::Id;
use crate::observed::{ImportState, Timeline};
use crate::owner::{self, engine_name, merged};
use crate::plan::{Draft, World, in_use, invalid, lost, name_taken, source_changed, uid};

pub(crate) fn plan(bucket: &Bucket, key: &ObjectKey, world: &World<'_>) -> Draft {
    let found = timeline(key, world.observed);
    if bucket.metadata.deletion_timestamp.is_some() {
        return delete(bucket, found, world);
    }
    if let Some(state) = invalid(bucket) {
        return Draft::new(state);
    }
    match found {
        Some(timeline) => keep(bucket, key, timeline, world),
        None => create(bucket, key, world),
    }
}

fn create(bucket: &Bucket, key: &ObjectKey, world: &World<'_>) -> Draft {
    if bucket
        .status
        .as_ref()
        .is_some_and(|status| status.timeline.is_some())
    {
        return Draft::new(lost("the timeline of the bucket"));
    }
    let name = engine_name(Kind::Bucket, &key.namespace, &key.name, None);
    if let Some(other) = world.observed.timeline_named(&name) {
        let (state, wait) = name_taken(
            &name,
            owner::key_of(&other.settings.labels).as_ref(),
            world.peers,
        );
        let mut draft = Draft::new(state);
        draft.waits.extend(wait);
        return draft;
    }
    let mut draft = Draft::new(State::Reconciling(
        Reason::Creating,
        "the timeline is being made".to_owned(),
    ));
    let id = Id::derive(
        Kind::Bucket,
        &uid(&bucket.metadata, key),
        None,
        bucket.metadata.generation.unwrap_or_default(),
    );
    let import = bucket.spec.source.is_some().then_some("pending");
    draft.actions.push(Action::CreateRoot {
        id,
        name,
        settings: settings(bucket, key, import, &Settings::default()),
    });
    if let Some(source) = &bucket.spec.source {
        draft.actions.push(Action::Import {
            timeline: id,
            source: source.clone(),
        });
    }
    draft
}

fn keep(bucket: &Bucket, key: &ObjectKey, timeline: &Timeline, world: &World<'_>) -> Draft {
    let found = &timeline.settings;
    let (made_from, asked_for) = (owner::source_of(&found.labels), source(bucket));
    // A Bucket without a source may take over data that was retained, whatever it was made from.
    let takes_over = owner::is_retained(&found.labels) && asked_for.is_empty();
    if made_from != asked_for && !takes_over {
        return Draft::new(source_changed(made_from, &asked_for));
    }
    let import = world.observed.imports.get(&timeline.id);
    let complete = found
        .labels
        .get(names::LABEL_IMPORT)
        .is_some_and(|import| import == "complete")
        || import.is_some_and(|import| import.state == ImportState::Done);
    let label =
        bucket
            .spec
            .source
            .is_some()
            .then_some(if complete { "complete" } else { "pending" });
    let mut draft = Draft::new(State::Ready(Reason::Available, String::new()));
    let wanted = settings(bucket, key, label, found);
    if *found != wanted {
        draft.state = State::Reconciling(
            Reason::Updating,
            "the settings are being changed".to_owned(),
        );
        draft.actions.push(Action::UpdateSettings {
            timeline: timeline.id,
            settings: wanted,
        });
    }
    if let Some(source) = bucket.spec.source.as_ref().filter(|_| !complete) {
        let progress = match import {
            Some(import) => {
                let of = |total: Option<String>| {
                    total.map_or_else(String::new, |total| format!(" of {total}"))
                };
                format!(
                    "{}{} files, {}{}",
                    import.files,
                    of(import.total_files.map(|total| total.to_string())),
                    crds::quantity::human(import.bytes),
                    of(import.total_bytes.map(crds::quantity::human))
                )
            }
            None => {
                draft.actions.push(Action::Import {
                    timeline: timeline.id,
                    source: source.clone(),
                });
                "it begins".to_owned()
            }
        };
        draft.state = State::Reconciling(
            Reason::Importing,
            format!("imports {}: {progress}", source.describe()),
        );
    }
    draft
}

fn delete(bucket: &Bucket, found: Option<&Timeline>, world: &World<'_>) -> Draft {
    let mut draft = Draft::new(State::Reconciling(
        Reason::Deleting,
        "the data is being freed".to_owned(),
    ));
    let retain = bucket.spec.deletion_policy == Some(DeletionPolicy::Retain);
    let Some(timeline) =
        found.filter(|timeline| !(retain && owner::is_retained(&timeline.settings.labels)))
    else {
        draft.released = true;
        return draft;
    };
    if let Some(pod) = draft.unmount(world.observed, timeline.id) {
        draft.state = in_use("the bucket", &pod);
        return draft;
    }
    if world
        .observed
        .imports
        .get(&timeline.id)
        .is_some_and(|import| import.state == ImportState::Running)
    {
        draft.actions.push(Action::CancelImport {
            timeline: timeline.id,
        });
    }
    let mut settings = Settings {
        protected: false,
        ..timeline.settings.clone()
    };
    if retain {
        draft.state = State::Reconciling(
            Reason::Deleting,
            "the data is kept in the store (deletionPolicy Retain)".to_owned(),
        );
        settings
            .labels
            .insert(names::LABEL_RETAINED.to_owned(), "true".to_owned());
        draft.actions.push(Action::UpdateSettings {
            timeline: timeline.id,
            settings,
        });
        return draft;
    }
    if timeline.settings.protected {
        draft.actions.push(Action::UpdateSettings {
            timeline: timeline.id,
            settings,
        });
    }
    draft.actions.push(Action::DeleteTimeline {
        timeline: timeline.id,
    });
    draft
}

/// The settings that the timeline should have.
fn settings(bucket: &Bucket, key: &ObjectKey, import: Option<&str>, found: &Settings) -> Settings {
    let mut labels = owner::labels(key, &uid(&bucket.metadata, key), None, &source(bucket));
    if let Some(import) = import {
        labels.insert(names::LABEL_IMPORT.to_owned(), import.to_owned());
    }
    let quota = bucket.spec.quota.as_ref();
    let retain = bucket
        .spec
        .history
        .as_ref()
        .and_then(|history| history.retain);
    Settings {
        read_only: false,
        protected: false,
        quota_bytes: quota.and_then(|quota| quota.bytes).map(|bytes| bytes.0),
        quota_inodes: quota.and_then(|quota| quota.inodes),
        retain: retain.map(|retain| retain.0).unwrap_or_default(),
        labels: merged(&found.labels, &labels),
    }
}
