//! What the API server refuses by itself beyond the rules in the definitions: a ValidatingAdmissionPolicy.

/// The policy and its binding, as the chart installs them.
pub const POLICY: &str = include_str!("../admission.yaml");
