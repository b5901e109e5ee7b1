//! Tests of the custom resources from outside: generated files, examples, rules against CEL, manifests.

mod files;
mod manifests;
mod rules;
