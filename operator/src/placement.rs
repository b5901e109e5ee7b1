//! On which node data is made. Pure: the nodes and what they hold are handed in.

use std::collections::BTreeMap;

/// A node that may hold data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is there and its agent answers.
    Alive {
        /// Whether it takes new buckets: it is ready and not cordoned.
        takes: bool,
    },
    /// Nobody knows yet: its agent was not heard since this operator began. Nothing is decided by that.
    Unsure,
    /// Its agent has not answered for a while; what it holds may come back.
    Silent,
}

/// The nodes with an agent, by name. A node that is not among them is gone, and so is what it held.
pub type Nodes = BTreeMap<String, Standing>;

/// Chooses the node for a bucket: the one that the bucket names, or the one with the fewest buckets. Nodes with equally many
/// are told apart by the bucket's uid, so that buckets made at one moment do not all go to the first.
///
/// # Errors
/// A sentence that says what is waited for.
pub fn choose(
    named: Option<&str>,
    nodes: &Nodes,
    held: &BTreeMap<String, usize>,
    uid: &str,
) -> Result<String, String> {
    if let Some(name) = named {
        return match nodes.get(name) {
            Some(Standing::Alive { .. }) => Ok(name.to_owned()),
            Some(Standing::Silent) => Err(format!(
                "waits for the node {name}, whose agent does not answer"
            )),
            Some(Standing::Unsure) => Err(format!(
                "waits for the node {name}, whose agent was not heard yet"
            )),
            None => Err(format!(
                "waits for the node {name}, which is not there or has no agent"
            )),
        };
    }
    let takes = nodes
        .iter()
        .filter(|(_, standing)| matches!(standing, Standing::Alive { takes: true }));
    let fewest = takes.min_by_key(|(name, _)| {
        let hash = blake3::hash(format!("{name}/{uid}").as_bytes());
        (
            held.get(*name).copied().unwrap_or_default(),
            *hash.as_bytes(),
        )
    });
    fewest.map(|(name, _)| name.clone()).ok_or_else(|| {
        format!("waits for a node that can hold it: of {} nodes with an agent, none is ready, answers and is not cordoned", nodes.len())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Nodes {
        Nodes::from([
            ("a".into(), Standing::Alive { takes: true }),
            ("b".into(), Standing::Alive { takes: true }),
            ("cordoned".into(), Standing::Alive { takes: false }),
            ("silent".into(), Standing::Silent),
        ])
    }

    #[test]
    fn buckets_are_spread_over_the_nodes_that_take_them() {
        let mut held = BTreeMap::new();
        for bucket in 0..100 {
            let node = choose(None, &nodes(), &held, &bucket.to_string()).unwrap();
            *held.entry(node).or_insert(0) += 1;
        }
        assert_eq!(held, BTreeMap::from([("a".into(), 50), ("b".into(), 50)]));
    }

    #[test]
    fn a_bucket_that_names_its_node_waits_for_it() {
        let choose = |name| choose(Some(name), &nodes(), &BTreeMap::new(), "u");
        assert_eq!(choose("a"), Ok("a".into()));
        assert_eq!(choose("cordoned"), Ok("cordoned".into()));
        assert!(choose("silent").unwrap_err().contains("does not answer"));
        assert!(choose("c").unwrap_err().contains("not there"));
    }

    #[test]
    fn without_a_node_it_is_said_what_is_waited_for() {
        let message = choose(None, &Nodes::new(), &BTreeMap::new(), "u").unwrap_err();
        assert!(message.contains("0 nodes"), "{message}");
    }
}
