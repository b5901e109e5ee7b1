//! `du`, `check`, `scrub` and `verify`.

use std::ops::ControlFlow;

use storage_engine::{Damage, ErrorKind, Holder, ScrubOptions, TimelineInfo, Usage};

use crate::owner::context::Context;
use crate::owner::failure::{Failure, Outcome};
use crate::owner::name::{Found, Name, split_engine_name};
use crate::owner::output::{Event, Output, Progress};
use crate::owner::report::{CheckEnd, Reference, ScrubEnd, UsageRow, UsageTotals};

pub(super) fn du(
    context: &Context,
    names: &[Name],
    namespace: Option<&str>,
    output: &mut dyn Output,
) -> Outcome {
    let found = if names.is_empty() {
        let all = in_namespace(context, namespace).into_iter();
        all.map(|info| Found::Timeline(info, None)).collect()
    } else {
        named(context, names)?
    };
    output.begin(&serde_json::json!({}))?;
    // Deleted since it was listed.
    let gone = |e: &storage_engine::Error| names.is_empty() && e.kind() == ErrorKind::NotFound;
    let mut there: Vec<(Reference, Holder, Usage)> = Vec::with_capacity(found.len());
    for found in found {
        let (reference, holder, usage) = match &found {
            Found::Timeline(info, _) => {
                context.host.sync(info.id)?;
                (
                    Reference::timeline(info),
                    Holder::Timeline(info.id),
                    context.engine.usage(info.id),
                )
            }
            Found::Snapshot(info) => (
                Reference::snapshot(info),
                Holder::Snapshot(info.id),
                context.engine.snapshot_usage(info.id),
            ),
        };
        match usage {
            Ok(usage) => there.push((reference, holder, usage)),
            Err(e) if gone(&e) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let holders: Vec<Holder> = there.iter().map(|(_, holder, _)| *holder).collect();
    let freed = context.engine.freed_by_deleting(&holders)?;
    let mut totals = UsageTotals::default();
    for ((timeline, holder, usage), freed) in there.into_iter().zip(freed) {
        if matches!(holder, Holder::Timeline(_)) {
            totals.logical_bytes += usage.logical_bytes;
            totals.divergent_bytes += usage.divergent_bytes;
        }
        output.row(&UsageRow {
            timeline,
            logical_bytes: usage.logical_bytes,
            allocated_bytes: usage.allocated_bytes,
            shared_bytes: usage.shared_bytes,
            divergent_bytes: usage.divergent_bytes,
            freed_bytes: freed,
            inodes: usage.inodes,
        })?;
    }
    output.end(&totals)
}

fn named(context: &Context, names: &[Name]) -> Outcome<Vec<Found>> {
    let mut all = Vec::new();
    for name in names {
        match name.resolve(&context.engine)? {
            Found::Timeline(_, Some(_)) => {
                return Err(Failure::usage(format!(
                    "{name}: du counts the present: leave the @ away"
                )));
            }
            found => all.push(found),
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

/// Reads everything that is stored, after everything on mounts is in it.
pub(super) fn scrub(context: &Context, rate: Option<u64>, output: &mut dyn Output) -> Outcome {
    for info in context.engine.timelines() {
        context.host.sync(info.id)?;
    }
    let mut gone: Outcome = Ok(());
    let scrubbed = context.engine.scrub(ScrubOptions { rate }, &mut |now| {
        let event = Event::Progress(Progress {
            what: "scrubbing".to_owned(),
            bytes: now.bytes,
            ..Progress::default()
        });
        gone = output.event(event);
        match gone {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    gone?;
    let report = scrubbed?;
    output.begin(&serde_json::json!({}))?;
    for damage in &report.damage {
        output.row(damage)?;
    }
    let mut text: String = report
        .damage
        .iter()
        .map(|d| format!("{}\n", told(d)))
        .collect();
    text.push_str(&format!(
        "{} bytes read in {:.1} s: {} frames of the log, {} runs of object files, the index; {} damaged places",
        report.bytes,
        report.elapsed.as_secs_f64(),
        report.frames,
        report.runs,
        report.damaged
    ));
    output.end(&ScrubEnd {
        sound: report.is_sound(),
        damaged: report.damaged,
        bytes: report.bytes,
        frames: report.frames,
        runs: report.runs,
        millis: u64::try_from(report.elapsed.as_millis()).unwrap_or(u64::MAX),
        text,
    })?;
    if report.is_sound() {
        return Ok(());
    }
    Err(Failure::new(
        "Damaged",
        format!("the store is damaged in {} places", report.damaged),
    )
    .then("`anabranch check` names every state that is affected; everything else can be read."))
}

/// One damaged place, in a line.
fn told(damage: &Damage) -> String {
    let offset = damage
        .offset
        .map_or_else(String::new, |at| format!(" at offset {at}"));
    let mut text = format!("damaged: {}{offset}: {}", damage.file, damage.what);
    if let Some(timeline) = &damage.timeline {
        text.push_str(&format!("; written by {timeline}"));
    }
    if !damage.paths.is_empty() {
        text.push_str(&format!("; hits {}", damage.paths.join(", ")));
    }
    text
}

/// Proves that the history up to a snapshot is what was written.
pub(super) fn verify(
    context: &Context,
    name: &Name,
    digest: Option<&str>,
    output: &mut dyn Output,
) -> Outcome {
    let Found::Snapshot(info) = name.resolve(&context.engine)? else {
        return Err(Failure::usage(format!("{name} is no snapshot"))
            .then("The present has no digest: take a snapshot of it first."));
    };
    match context.engine.verify(info.id, digest) {
        Ok(verified) => output.begin(&verified),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            Err(Failure::new("Damaged", error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}
