//! The catalog against the log.

use std::collections::HashMap;

use crate::catalog::Catalog;

use super::log::key_place;
use super::report::FindingKind;
use super::{Check, Cut};

impl Check<'_> {
    /// The catalog in memory is what the newest rows of the log say.
    pub(super) fn compare_catalog(&mut self, cut: &Cut, rows: &HashMap<Vec<u8>, Vec<u8>>) {
        let mut logged = Catalog::default();
        for (key, value) in rows {
            if let Err(e) = logged.load(key, value) {
                self.findings.error(
                    FindingKind::Catalog,
                    key_place("catalog", key),
                    e.to_string(),
                );
            }
        }
        for (id, record) in &cut.catalog.timelines {
            if logged.timelines.get(id) != Some(record) {
                self.findings.error(
                    FindingKind::Catalog,
                    key_place("catalog", &[b"t", &id.0[..]].concat()),
                    format!("timeline {} is not what the log says", record.name),
                );
            }
        }
        for (id, record) in &cut.catalog.snapshots {
            if logged.snapshots.get(id) != Some(record) {
                self.findings.error(
                    FindingKind::Catalog,
                    key_place("catalog", &[b"s", &id.0[..]].concat()),
                    format!("snapshot {} is not what the log says", record.name),
                );
            }
        }
        for (id, record) in &cut.catalog.segments {
            if logged.segments.get(id) != Some(record) {
                self.findings.error(
                    FindingKind::Catalog,
                    key_place("catalog", &[b"g", &id.0[..]].concat()),
                    format!("what it knows of segment {id} is not what the log says"),
                );
            }
        }
        for record in logged.timelines.values() {
            if !cut.catalog.timelines.contains_key(&record.id) {
                self.findings.error(
                    FindingKind::Catalog,
                    key_place("catalog", &[b"t", &record.id.0[..]].concat()),
                    format!("the log has timeline {}, the index has not", record.name),
                );
            }
        }
        for record in logged.snapshots.values() {
            if !cut.catalog.snapshots.contains_key(&record.id) {
                self.findings.error(
                    FindingKind::Catalog,
                    key_place("catalog", &[b"s", &record.id.0[..]].concat()),
                    format!("the log has snapshot {}, the index has not", record.name),
                );
            }
        }
    }
}
