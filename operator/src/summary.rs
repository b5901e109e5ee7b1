//! What the columns of `get` show.

use crds::conditions::State;
use crds::quantity::human;
use crds::{Summary, Usage};
use jiff::Timestamp;

use crate::observed::Mount;
use crate::plan::{Options, second};

/// A summary of what every kind has.
pub(crate) fn summary(
    state: &State,
    source: String,
    usage: Option<&Usage>,
    mounts: &[crds::Mount],
) -> Summary {
    let message = state.message();
    Summary {
        source: (!source.is_empty()).then_some(source),
        state: Some(state.word().to_owned()),
        message: (!message.is_empty()).then(|| message.to_owned()),
        size: usage.map(|usage| human(usage.logical_bytes)),
        divergent: usage.map(|usage| human(usage.divergent_bytes)),
        shared: usage.map(|usage| human(usage.shared_bytes)),
        mounted: mounted(mounts),
        expires: None,
        forks: None,
    }
}

/// Where something is mounted: the place, or how many there are.
pub(crate) fn mounted(mounts: &[crds::Mount]) -> Option<String> {
    match mounts {
        [] => None,
        [mount] => Some(match (&mount.pod, &mount.node) {
            // Where the kubelet has it tells nobody anything.
            (_, Some(node)) => node.clone(),
            (Some(pod), None) => pod.clone(),
            (None, None) => mount.path.clone(),
        }),
        mounts => Some(format!("{} places", mounts.len())),
    }
}

/// When something expires: the time, `never` or `expired`; nothing while that is not known.
pub(crate) fn expires(
    lifetime: &crds::Lifetime,
    end: Option<Timestamp>,
    expired: bool,
) -> Option<String> {
    match end {
        _ if expired => Some("expired".to_owned()),
        Some(end) => Some(second(end).0.to_string()),
        None if lifetime.no_expiry == Some(true) => Some("never".to_owned()),
        // A ttl beyond the last timestamp, or one that has not begun.
        None => None,
    }
}

/// A mount in a status.
pub(crate) fn mount(mount: &Mount, item: Option<&str>, options: &Options) -> crds::Mount {
    crds::Mount {
        item: item.map(str::to_owned),
        node: options.node.clone(),
        pod: mount.pod.clone(),
        path: mount.path.clone(),
        read_only: mount.read_only,
    }
}
