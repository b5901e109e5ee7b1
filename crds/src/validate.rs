//! What an API server would refuse, said without one.
//!
//! Two layers, as in the API server: the schema (types, ranges, patterns, required and unknown fields) by
//! [`schema::check_object`], and the [rules] here. Every rule is evaluated, so that one reading shows
//! everything that is wrong.

use std::fmt;

use kube::ResourceExt;
use serde::Serialize;

use crate::rules::{self, FieldRule};
use crate::{Bucket, BucketFork, BucketSnapshot, Lifetime, names, schema};

/// One thing that is wrong with an object: where, what, and what is allowed instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The field, from the root of the object: `spec.source.bucket`, `metadata.labels[app]`; empty for the whole object.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What is allowed.
    pub allowed: String,
    /// The rule that does not hold, when it is one of [`crate::rules`].
    pub rule: Option<&'static FieldRule>,
}

impl FieldError {
    /// An error that is not of a rule.
    pub(crate) fn new(path: &str, message: impl Into<String>, allowed: impl Into<String>) -> Self {
        FieldError {
            path: path.to_owned(),
            message: message.into(),
            allowed: allowed.into(),
            rule: None,
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if !self.allowed.is_empty() {
            write!(f, "; allowed: {}", self.allowed)?;
        }
        Ok(())
    }
}

/// An object that can be held to its schema and rules.
pub trait Validate {
    /// Everything that an API server would refuse when the object is created. Empty when it is valid.
    ///
    /// Costs one serialisation of the object and a walk through its schema: tens of microseconds.
    fn validate(&self) -> Vec<FieldError>;

    /// Everything that an API server would refuse when `old` is replaced by `new`: what [`Validate::validate`] says of
    /// `new`, and changes of what cannot be changed.
    fn validate_update(old: &Self, new: &Self) -> Vec<FieldError>;
}

struct Checks(Vec<FieldError>);

impl Checks {
    fn of<T: Serialize>(kind: &str, object: &T) -> Self {
        let mut errors = Vec::new();
        match serde_json::to_value(object) {
            Ok(value) => schema::check_object(kind, &value, &mut errors),
            Err(error) => errors.push(FieldError::new("", error.to_string(), "")),
        }
        Checks(errors)
    }

    /// Notes a rule that does not hold; the error is at the field named, below the scope of the rule.
    fn rule(&mut self, rule: &'static FieldRule, field: &str, holds: bool) {
        if !holds {
            let path = match (rule.scope, field) {
                (scope, "") => scope.to_owned(),
                ("", field) => field.to_owned(),
                (scope, field) => format!("{scope}.{field}"),
            };
            self.0.push(FieldError {
                path,
                message: rule.message.to_owned(),
                allowed: rule.allowed.to_owned(),
                rule: Some(rule),
            });
        }
    }

    fn lifetime(&mut self, lifetime: &Lifetime) {
        let said = [
            lifetime.ttl.is_some(),
            lifetime.expire_time.is_some(),
            lifetime.no_expiry.is_some(),
        ];
        self.rule(&rules::LIFETIME_ONE_OF, "", count(&said) == 1);
        self.rule(
            &rules::LIFETIME_NO_EXPIRY,
            "noExpiry",
            lifetime.no_expiry != Some(false),
        );
        self.rule(
            &rules::LIFETIME_TTL,
            "ttl",
            lifetime.ttl.is_none_or(|ttl| !ttl.0.is_zero()),
        );
        let end = lifetime.expire_time.as_ref();
        self.rule(
            &rules::LIFETIME_END,
            "expireTime",
            end.is_none_or(|end| end.0.as_second() < crate::time::YEAR_9999),
        );
    }
}

fn count(said: &[bool]) -> usize {
    said.iter().filter(|said| **said).count()
}

impl Validate for Bucket {
    fn validate(&self) -> Vec<FieldError> {
        let mut checks = Checks::of(names::KIND_BUCKET, self);
        checks.rule(
            &rules::BUCKET_NAME,
            "metadata.name",
            self.name_any().len() <= names::NAME_MAX,
        );
        if let Some(source) = &self.spec.source {
            checks.rule(
                &rules::IMPORT_SOURCE_ONE_OF,
                "",
                source.directory.is_some() != source.tar.is_some(),
            );
        }
        checks.0
    }

    fn validate_update(old: &Self, new: &Self) -> Vec<FieldError> {
        let mut checks = Checks(new.validate());
        checks.rule(
            &rules::BUCKET_SOURCE_IMMUTABLE,
            "source",
            old.spec.source == new.spec.source,
        );
        checks.rule(
            &rules::BUCKET_NODE_IMMUTABLE,
            "node",
            old.spec.node == new.spec.node,
        );
        checks.0
    }
}

impl Validate for BucketSnapshot {
    fn validate(&self) -> Vec<FieldError> {
        let mut checks = Checks::of(names::KIND_SNAPSHOT, self);
        checks.rule(
            &rules::SNAPSHOT_NAME,
            "metadata.name",
            self.name_any().len() <= names::NAME_MAX,
        );
        let source = &self.spec.source;
        checks.rule(
            &rules::SNAPSHOT_SOURCE_ONE_OF,
            "",
            source.bucket.is_some() != source.fork.is_some(),
        );
        // An `at` that is no time cannot be read into the type at all.
        checks.lifetime(&self.spec.lifetime);
        checks.0
    }

    fn validate_update(old: &Self, new: &Self) -> Vec<FieldError> {
        let mut checks = Checks(new.validate());
        checks.rule(
            &rules::SNAPSHOT_SOURCE_IMMUTABLE,
            "source",
            old.spec.source == new.spec.source,
        );
        checks.0
    }
}

impl Validate for BucketFork {
    fn validate(&self) -> Vec<FieldError> {
        let mut checks = Checks::of(names::KIND_FORK, self);
        let name = self.name_any();
        checks.rule(
            &rules::FORK_NAME,
            "metadata.name",
            name.len() + suffix_len(self.spec.count) <= names::NAME_MAX,
        );
        let source = &self.spec.source;
        let itself = source.fork.as_deref() == Some(name.as_str());
        checks.rule(&rules::FORK_NOT_OF_ITSELF, "spec.source.fork", !itself);
        let said = [
            source.bucket.is_some(),
            source.snapshot.is_some(),
            source.fork.is_some(),
        ];
        checks.rule(&rules::FORK_SOURCE_ONE_OF, "", count(&said) == 1);
        let of_its_own = source.namespace.is_none() || said[0] || said[1];
        checks.rule(&rules::FORK_SOURCE_NAMESPACE, "namespace", of_its_own);
        checks.lifetime(&self.spec.lifetime);
        checks.0
    }

    fn validate_update(old: &Self, new: &Self) -> Vec<FieldError> {
        let mut checks = Checks(new.validate());
        checks.rule(
            &rules::FORK_SOURCE_IMMUTABLE,
            "source",
            old.spec.source == new.spec.source,
        );
        checks.rule(
            &rules::FORK_COUNT_FORM,
            "count",
            old.spec.count.is_some() == new.spec.count.is_some(),
        );
        checks.0
    }
}

/// Length of the longest `-<index>` of a set; `-1` stands for the index of none, as in the CEL rule.
fn suffix_len(count: Option<u32>) -> usize {
    match count {
        None => 0,
        Some(count) => 1 + (i64::from(count) - 1).to_string().len(),
    }
}
