//! `gc`.

use storage_engine::{GcOptions, GcReport, KeptBy};

use crate::owner::context::Context;
use crate::owner::failure::Outcome;
use crate::owner::output::Output;
use crate::owner::report::{GcEnd, GcRow};

/// Collects, after everything on mounts is in the store; tells what is kept why.
pub(super) fn gc(context: &Context, dry_run: bool, full: bool, output: &mut dyn Output) -> Outcome {
    for info in context.engine.timelines() {
        context.host.sync(info.id)?;
    }
    let report = context.engine.gc(GcOptions {
        dry_run,
        explain: true,
        objects: !dry_run,
        full,
        ..GcOptions::default()
    })?;
    output.begin(&serde_json::json!({"dryRun": dry_run}))?;
    for kept in &report.kept {
        output.row(&GcRow {
            by: kept.by.clone(),
            bytes: kept.bytes,
            pieces: kept.pieces,
            text: reason(&kept.by),
        })?;
    }
    output.end(&end(&report))
}

fn reason(by: &KeptBy) -> String {
    match by {
        KeptBy::Snapshot { name, .. } => format!("shown by {name}"),
        KeptBy::Timeline { name, .. } => format!("read through by {name}"),
        KeptBy::Retention { name, .. } => format!("within the retention of {name}"),
        KeptBy::Reader => "being read".to_owned(),
    }
}

fn end(report: &GcReport) -> GcEnd {
    GcEnd {
        timelines: report.timelines,
        dropped_timelines: report.dropped_timelines,
        versions: report.versions,
        bytes: report.bytes,
        returned_bytes: report.returned_bytes,
        objects: report.objects,
        compacted: report.compacted,
        kept_bytes: report.kept.iter().map(|k| k.bytes).sum(),
    }
}
