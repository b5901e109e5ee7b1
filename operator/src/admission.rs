//! What is installed beside the definitions of the kinds: what the API server refuses by itself, and who may do what.

/// The ValidatingAdmissionPolicy and its binding: what rules in the definitions cannot say.
pub const POLICY: &str = include_str!("../admission.yaml");
/// The accounts of the operator and the node agents, with their roles.
pub const ROLES: &str = include_str!("../rbac.yaml");
