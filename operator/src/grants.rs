//! Whether a bucket or snapshot may be forked from another namespace: ReferenceGrants, as the Gateway API defines them.

use crds::{Kind, ObjectKey, names};

/// One ReferenceGrant, as far as it concerns us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The namespace that grants: its own objects may be referred to.
    pub namespace: String,
    /// Who may refer: API group, kind and namespace.
    pub from: Vec<(String, String, String)>,
    /// To what: API group, kind, and name when it is only one.
    pub to: Vec<(String, String, Option<String>)>,
}

/// Whether one of the grants lets forks of this namespace be made from a source.
pub fn allows<'a>(
    grants: impl IntoIterator<Item = &'a Grant>,
    fork_namespace: &str,
    source: &ObjectKey,
) -> bool {
    grants.into_iter().any(|grant| {
        let from = grant.from.iter().any(|(group, kind, namespace)| {
            group == names::GROUP && kind == Kind::Fork.as_str() && namespace == fork_namespace
        });
        let to = grant.to.iter().any(|(group, kind, name)| {
            group == names::GROUP
                && kind == source.kind.as_str()
                && name
                    .as_ref()
                    .is_none_or(|name| name.is_empty() || *name == source.name)
        });
        grant.namespace == source.namespace && from && to
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_allows_what_it_says_and_nothing_else() {
        let group = || names::GROUP.to_owned();
        let grant = |to_kind: &str, name: Option<&str>| Grant {
            namespace: "data".into(),
            from: vec![(group(), "BucketFork".into(), "team".into())],
            to: vec![(group(), to_kind.into(), name.map(str::to_owned))],
        };
        let source = ObjectKey::new(Kind::Snapshot, "data", "v1");
        for (grants, from, allowed) in [
            (vec![grant("BucketSnapshot", None)], "team", true),
            (vec![grant("BucketSnapshot", Some("v1"))], "team", true),
            (
                vec![
                    grant("BucketSnapshot", Some("v2")),
                    grant("BucketSnapshot", Some("v1")),
                ],
                "team",
                true,
            ),
            (vec![], "team", false),
            (vec![grant("BucketSnapshot", None)], "others", false),
            (vec![grant("BucketSnapshot", Some("v2"))], "team", false),
            (vec![grant("Bucket", None)], "team", false),
            (
                vec![Grant {
                    namespace: "other".into(),
                    ..grant("BucketSnapshot", None)
                }],
                "team",
                false,
            ),
            (
                vec![Grant {
                    from: vec![("other.dev".into(), "BucketFork".into(), "team".into())],
                    ..grant("BucketSnapshot", None)
                }],
                "team",
                false,
            ),
        ] {
            assert_eq!(
                allows(&grants, from, &source),
                allowed,
                "{grants:?} from {from}"
            );
        }
    }
}
