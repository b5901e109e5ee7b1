//! Metrics, in Prometheus' text format.
//!
//! | metric | unit | labels | stability |
//! |---|---|---|---|
//! | `anabranch_<component>_looks_total` | looks at an object | `kind`, `result`: `ok`, `gone`, `conflict`, `refused`, `unavailable`, `store`, `action`, `panicked` | stable |
//! | `anabranch_<component>_look_duration_seconds` | seconds | `kind` | stable |
//! | `anabranch_<component>_queue_depth` | objects due or being looked at | | stable |
//! | `anabranch_<component>_objects` | objects followed | | stable |
//! | `anabranch_<component>_scrub_bytes_total` | bytes of the store read by scrubs | | stable (node) |
//! | `anabranch_<component>_scrub_damaged_places` | damaged places that the last scrub found | | stable (node) |
//! | `anabranch_<component>_scrub_finished_timestamp_seconds` | Unix time at which the last scrub ended, 0 before the first | | stable (node) |
//! | `anabranch_<component>_watch_restarts_total` | watches that were begun anew by a list | `kind` | stable |
//! | `anabranch_<component>_unreadable_total` | objects that could not be read, each once | `kind` | stable |
//! | `anabranch_<component>_leader` | 1 while it leads | | stable (operator) |

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use crds::Kind;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The metrics of one component, `operator` or `node`.
pub struct Metrics {
    registry: Registry,
    looks: Family<[(&'static str, &'static str); 2], Counter>,
    durations: Family<[(&'static str, &'static str); 1], Histogram>,
    watch_restarts: Family<[(&'static str, String); 1], Counter>,
    unreadable: Family<[(&'static str, String); 1], Counter>,
    /// Objects due or being looked at.
    pub queue_depth: Gauge<i64, AtomicI64>,
    /// Objects followed.
    pub objects: Gauge<i64, AtomicI64>,
    /// 1 while this process leads.
    pub leader: Gauge<i64, AtomicI64>,
    /// Bytes of the store read by scrubs.
    pub scrub_bytes: Counter,
    /// Damaged places that the last scrub found.
    pub scrub_damaged: Gauge<i64, AtomicI64>,
    /// When the last scrub ended, in Unix seconds.
    pub scrub_finished: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// Fresh metrics.
    pub fn new(component: &str) -> Arc<Self> {
        let mut registry = Registry::with_prefix(format!("anabranch_{component}"));
        let metrics = Metrics {
            looks: Family::default(),
            // From 1 ms to 16 s.
            durations: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 2.0, 15))
            }),
            watch_restarts: Family::default(),
            unreadable: Family::default(),
            queue_depth: Gauge::default(),
            objects: Gauge::default(),
            leader: Gauge::default(),
            scrub_bytes: Counter::default(),
            scrub_damaged: Gauge::default(),
            scrub_finished: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("looks", "Looks at an object", metrics.looks.clone());
        registry.register(
            "look_duration_seconds",
            "How long a look at an object takes",
            metrics.durations.clone(),
        );
        registry.register(
            "queue_depth",
            "Objects due or being looked at",
            metrics.queue_depth.clone(),
        );
        registry.register("objects", "Objects followed", metrics.objects.clone());
        registry.register(
            "leader",
            "1 while this process leads",
            metrics.leader.clone(),
        );
        if component == "operator" {
            registry.register(
                "watch_restarts",
                "Watches that were begun anew by a list",
                metrics.watch_restarts.clone(),
            );
            registry.register(
                "unreadable",
                "Objects that could not be read, each once",
                metrics.unreadable.clone(),
            );
        }
        if component == "node" {
            registry.register(
                "scrub_bytes",
                "Bytes of the store read by scrubs",
                metrics.scrub_bytes.clone(),
            );
            registry.register(
                "scrub_damaged_places",
                "Damaged places that the last scrub found",
                metrics.scrub_damaged.clone(),
            );
            registry.register(
                "scrub_finished_timestamp_seconds",
                "When the last scrub ended",
                metrics.scrub_finished.clone(),
            );
        }
        Arc::new(Metrics {
            registry,
            ..metrics
        })
    }

    /// Notes a look at an object.
    pub fn looked(&self, kind: Kind, result: &'static str, took: Duration) {
        self.looks
            .get_or_create(&[("kind", kind.as_str()), ("result", result)])
            .inc();
        self.durations
            .get_or_create(&[("kind", kind.as_str())])
            .observe(took.as_secs_f64());
    }

    /// Notes that the watch of a kind was begun anew by a list.
    pub fn watch_restarted(&self, kind: &str) {
        self.watch_restarts
            .get_or_create(&[("kind", kind.to_owned())])
            .inc();
    }

    /// How often the watch of a kind was begun anew by a list.
    pub fn watch_restarts(&self, kind: &str) -> u64 {
        self.watch_restarts
            .get_or_create(&[("kind", kind.to_owned())])
            .get()
    }

    /// Notes an object of a kind that cannot be read.
    pub fn unreadable(&self, kind: &str) {
        self.unreadable
            .get_or_create(&[("kind", kind.to_owned())])
            .inc();
    }

    /// How many objects of a kind could not be read.
    pub fn unreadable_total(&self, kind: &str) -> u64 {
        self.unreadable
            .get_or_create(&[("kind", kind.to_owned())])
            .get()
    }

    /// Notes how many objects are due or being looked at, and how many are followed.
    pub fn stands(&self, due: usize, followed: usize) {
        let number = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.queue_depth.set(number(due));
        self.objects.set(number(followed));
    }

    /// How many looks at objects of all kinds ended like this.
    pub fn looks(&self, result: &'static str) -> u64 {
        Kind::ALL
            .iter()
            .map(|kind| {
                self.looks
                    .get_or_create(&[("kind", kind.as_str()), ("result", result)])
                    .get()
            })
            .sum()
    }

    /// All of them as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a text does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
