//! `du` and `check`.

use storage_engine::TimelineInfo;

use crate::owner::context::Context;
use crate::owner::failure::{Failure, Outcome};
use crate::owner::name::{Found, Name, split_engine_name};
use crate::owner::output::{Event, Output, Progress};
use crate::owner::report::{CheckEnd, Reference, UsageRow, UsageTotals};

pub(super) fn du(
    context: &Context,
    names: &[Name],
    namespace: Option<&str>,
    output: &mut dyn Output,
) -> Outcome {
    let timelines = if names.is_empty() {
        in_namespace(context, namespace)
    } else {
        named(context, names)?
    };
    output.begin(&serde_json::json!({}))?;
    let mut totals = UsageTotals::default();
    for info in timelines {
        context.host.sync(info.id)?;
        let usage = match context.engine.usage(info.id) {
            Ok(usage) => usage,
            // Deleted since it was listed.
            Err(e) if names.is_empty() && e.kind() == storage_engine::ErrorKind::NotFound => {
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        totals.logical_bytes += usage.logical_bytes;
        totals.divergent_bytes += usage.divergent_bytes;
        output.row(&UsageRow {
            timeline: Reference::timeline(&info),
            logical_bytes: usage.logical_bytes,
            allocated_bytes: usage.allocated_bytes,
            shared_bytes: usage.shared_bytes,
            divergent_bytes: usage.divergent_bytes,
            inodes: usage.inodes,
        })?;
    }
    output.end(&totals)
}

fn named(context: &Context, names: &[Name]) -> Outcome<Vec<TimelineInfo>> {
    let mut all = Vec::new();
    for name in names {
        match name.resolve(&context.engine)? {
            Found::Timeline(info, None) => all.push(info),
            Found::Timeline(_, Some(_)) => {
                return Err(Failure::usage(format!(
                    "{name}: du counts the present: leave the @ away"
                )));
            }
            Found::Snapshot(_) => {
                return Err(Failure::usage(format!(
                    "{name} is a snapshot, which has no bytes of its own"
                ))
                .then("`anabranch get snapshots -o wide` shows its size."));
            }
        }
    }
    Ok(all)
}

/// The timelines of a namespace, or all, in the order of their names.
pub(super) fn in_namespace(context: &Context, namespace: Option<&str>) -> Vec<TimelineInfo> {
    let mut all = context.engine.timelines();
    all.retain(|info| {
        namespace.is_none_or(|wanted| {
            split_engine_name(&info.name).is_some_and(|(_, own, _)| own == wanted)
        })
    });
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Verifies the whole store, after everything on mounts is in it.
pub(super) fn check(context: &Context, output: &mut dyn Output) -> Outcome {
    for info in context.engine.timelines() {
        context.host.sync(info.id)?;
    }
    let mut gone: Outcome = Ok(());
    let report = context.engine.check(|progress| {
        let what = format!(
            "checking ({})",
            format!("{:?}", progress.phase).to_lowercase()
        );
        let event = Event::Progress(Progress {
            what,
            items: progress.done,
            total_items: progress.total,
            ..Progress::default()
        });
        if gone.is_ok() {
            gone = output.event(event);
        }
    })?;
    gone?;
    output.begin(&serde_json::json!({"epoch": report.epoch, "position": report.position}))?;
    for finding in &report.findings {
        let mut row =
            serde_json::to_value(finding).map_err(|e| Failure::new("Internal", e.to_string()))?;
        if let Some(fields) = row.as_object_mut() {
            fields.insert("text".to_owned(), finding.to_string().into());
        }
        output.row(&row)?;
    }
    output.end(&CheckEnd {
        sound: report.is_sound(),
        errors: report.errors,
        notes: report.notes,
        omitted: report.omitted,
        counts: serde_json::to_value(report.counts)
            .map_err(|e| Failure::new("Internal", e.to_string()))?,
        text: report.to_string(),
    })?;
    if report.is_sound() {
        return Ok(());
    }
    Err(Failure::new(
        "Damaged",
        format!("the store is damaged: {} errors", report.errors),
    )
    .then("The lines above name what is affected; everything else can be read."))
}
