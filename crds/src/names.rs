//! Every name of the product that other programs see, in one place.
//!
//! They are part of the public interface: a name that was released is never given another meaning.

/// API group of all the kinds.
pub const GROUP: &str = "anabranch.dev";
/// Version of the kinds.
pub const VERSION: &str = "v1alpha1";
/// What stands in `apiVersion:` of a manifest: group and version.
pub const API_VERSION: &str = "anabranch.dev/v1alpha1";
/// Name of the CSI driver.
pub const DRIVER: &str = "csi.anabranch.dev";
/// Category of all the kinds: `kubectl get anabranch` lists them together.
pub const CATEGORY: &str = "anabranch";

/// Kind of a dataset with a root timeline.
pub const KIND_BUCKET: &str = "Bucket";
/// Kind of a named, durable pin on a timeline at an epoch.
pub const KIND_SNAPSHOT: &str = "BucketSnapshot";
/// Kind of a writable timeline started at a cutoff of another.
pub const KIND_FORK: &str = "BucketFork";
/// The kinds, in the order in which they depend on each other.
pub const KINDS: [&str; 3] = [KIND_BUCKET, KIND_SNAPSHOT, KIND_FORK];

/// Finalizer that stands on an object while the engine holds data for it.
pub const FINALIZER: &str = "anabranch.dev/data";

/// Annotation by which an object takes over data of an earlier object of its name: the uid of that one, or [`ADOPT_ANY`].
pub const ANNOTATION_ADOPT: &str = "anabranch.dev/adopt";
/// Whatever earlier object it was.
pub const ADOPT_ANY: &str = "any";
/// Label of an engine timeline or snapshot: the uid of the object that owns it.
pub const LABEL_OWNER: &str = "anabranch.dev/owner";
/// Label of an engine timeline or snapshot: the kind of the object that owns it.
pub const LABEL_KIND: &str = "anabranch.dev/kind";
/// Label of an engine timeline or snapshot: the namespace of the object that owns it.
pub const LABEL_NAMESPACE: &str = "anabranch.dev/namespace";
/// Label of an engine timeline or snapshot: the name of the object that owns it.
pub const LABEL_NAME: &str = "anabranch.dev/name";
/// Label of an engine timeline: `true` where every read of a mount is verified, and nothing is passed through to the kernel.
pub const LABEL_VERIFIED_READS: &str = "anabranch.dev/verified-reads";
/// Label of an engine timeline: the index of the item of a set that it is (decimal); absent without `count`.
pub const LABEL_INDEX: &str = "anabranch.dev/index";
/// Label of an engine timeline or snapshot: what it was made from, in one line.
pub const LABEL_SOURCE: &str = "anabranch.dev/source";
/// Label of a bucket's engine timeline with a source: `pending` until all of the source is in it, then `complete`.
pub const LABEL_IMPORT: &str = "anabranch.dev/import";
/// Label of a bucket's engine timeline: `true` when its Bucket is gone and the data was kept (`deletionPolicy: Retain`).
pub const LABEL_RETAINED: &str = "anabranch.dev/retained";

/// Label of a BucketFork that a claim asked for by `dataSourceRef`: the uid of the claim.
pub const LABEL_CLAIM: &str = "anabranch.dev/claim";
/// Label of a BucketFork that is a pod's inline volume: a hash of the volume's id (32 hexadecimal digits).
pub const LABEL_INLINE: &str = "anabranch.dev/inline-volume";

/// Label of a node, and key of a volume's topology: the name of the node that holds a volume's data.
pub const TOPOLOGY_NODE: &str = "topology.csi.anabranch.dev/node";
/// Prefix of the id of a volume; the engine's id of its timeline follows (32 hexadecimal digits).
pub const VOLUME_ID_PREFIX: &str = "vol-";

/// Namespace of an object whose manifest names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Longest name of an object, and of an item of a set (`<name>-<index>`), in bytes: the limit of a label's value,
/// so that volumes and pods can be selected by the name of their bucket or fork.
pub const NAME_MAX: usize = 63;
/// Most forks in one BucketFork (`count`): the status of each stands in the object, and an object has at most about 1 MiB.
pub const COUNT_MAX: u32 = 1000;
