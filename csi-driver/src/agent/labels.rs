//! Labels of timelines and snapshots in the engine, beside those of `crds::names`.

use std::collections::BTreeMap;

use storage_engine::Epoch;

/// Who asked for it, where no object did: [`COMMAND`].
pub const MADE_BY: &str = "anabranch.dev/made-by";
/// The command line.
pub const COMMAND: &str = "command";
/// When it goes away by itself, as an epoch: for what was made by command.
pub const EXPIRES: &str = "anabranch.dev/expires";

/// When something that was made by command goes away.
pub(crate) fn expires(labels: &BTreeMap<String, String>) -> Option<Epoch> {
    labels.get(EXPIRES)?.parse().ok().map(Epoch)
}
