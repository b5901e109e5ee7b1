//! Sizes and the parameters of storage classes and volume attributes classes.

use std::collections::BTreeMap;
use std::time::Duration;

use storage_engine::Quota;

use super::error::{Code, CsiError, Result};

/// Sizes that a caller would take, in bytes; zero is no bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Range {
    /// At least.
    pub required: u64,
    /// At most.
    pub limit: u64,
}

impl Range {
    /// The numbers of the wire.
    ///
    /// # Errors
    /// `InvalidArgument` (negative), `OutOfRange` (at least more than at most).
    pub fn new(required: i64, limit: i64) -> Result<Range> {
        let bytes = |number: i64| {
            u64::try_from(number)
                .map_err(|_| CsiError::invalid(format!("a size of {number} bytes is negative")))
        };
        let range = Range {
            required: bytes(required)?,
            limit: bytes(limit)?,
        };
        if range.limit != 0 && range.required > range.limit {
            return Err(CsiError::new(
                Code::OutOfRange,
                format!("at least {required} bytes are asked for and at most {limit}"),
            ));
        }
        Ok(range)
    }

    /// The quota that this makes: what is required, or else the limit, or none.
    pub(super) fn quota(self) -> Option<u64> {
        [self.required, self.limit]
            .into_iter()
            .find(|bytes| *bytes != 0)
    }

    /// Whether a volume with this quota is what was asked for.
    pub(super) fn allows(self, quota: Option<u64>) -> bool {
        match quota {
            Some(bytes) => bytes >= self.required && (self.limit == 0 || bytes <= self.limit),
            None => self.required == 0 && self.limit == 0,
        }
    }
}

/// Prefix of what the sidecars add about the objects that a request comes from.
const OF_SIDECARS: &str = "csi.storage.k8s.io/";

/// What a storage class can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Parameters {
    /// `bytes`: the quota, in place of the requested size.
    pub bytes: Option<u64>,
    /// `inodes`: how many files and directories the volume may hold.
    pub inodes: Option<u64>,
    /// `retain`: how far back every instant stays readable.
    pub retain: Option<Duration>,
    /// `verifiedReads`: every read of a read-only mount is verified, too; nothing is passed through to the kernel.
    pub verified_reads: Option<bool>,
}

impl Parameters {
    /// Reads the parameters of a storage class.
    ///
    /// # Errors
    /// `InvalidArgument`, naming the parameter and what is allowed.
    pub fn of_class(given: &BTreeMap<String, String>) -> Result<Parameters> {
        Self::read(given, &["inodes", "retain", "verifiedReads"])
    }

    /// Reads the mutable parameters of a volume attributes class.
    ///
    /// # Errors
    /// As [`Parameters::of_class`].
    pub fn mutable(given: &BTreeMap<String, String>) -> Result<Parameters> {
        Self::read(given, &["bytes", "inodes", "retain"])
    }

    /// Reads the attributes of an ephemeral volume, those that name its source left out.
    ///
    /// # Errors
    /// As [`Parameters::of_class`].
    pub fn ephemeral(given: &BTreeMap<String, String>) -> Result<Parameters> {
        Self::read(given, &["bytes", "inodes", "verifiedReads"])
    }

    fn read(given: &BTreeMap<String, String>, allowed: &[&str]) -> Result<Parameters> {
        let mut read = Parameters::default();
        for (name, value) in given {
            let bad =
                |why: &str| CsiError::invalid(format!("parameter {name}: {value:?} is not {why}"));
            match name.as_str() {
                _ if name.starts_with(OF_SIDECARS) => {}
                "bytes" if allowed.contains(&"bytes") => {
                    read.bytes =
                        Some(whole(value).ok_or_else(|| bad("a number of bytes such as 1Gi"))?);
                }
                "inodes" if allowed.contains(&"inodes") => {
                    read.inodes = Some(value.parse().map_err(|_| bad("a whole number"))?);
                }
                "retain" if allowed.contains(&"retain") => {
                    read.retain = Some(
                        value
                            .parse::<crds::duration::Duration>()
                            .map(|d| d.0)
                            .map_err(|_| bad("a duration such as 1h30m"))?,
                    );
                }
                "verifiedReads" if allowed.contains(&"verifiedReads") => {
                    read.verified_reads = Some(value.parse().map_err(|_| bad("true or false"))?);
                }
                _ => {
                    return Err(CsiError::invalid(format!(
                        "there is no parameter {name}; these are: {}",
                        allowed.join(", ")
                    )));
                }
            }
        }
        Ok(read)
    }
}

/// Whether these could be the mutable parameters of a volume.
///
/// # Errors
/// `InvalidArgument`, naming the parameter and what is allowed.
pub fn check_mutable(given: &BTreeMap<String, String>) -> Result<()> {
    Parameters::mutable(given).map(drop)
}

/// A Kubernetes quantity of whole bytes.
fn whole(text: &str) -> Option<u64> {
    text.parse::<crds::quantity::Bytes>()
        .ok()
        .map(|bytes| bytes.0)
}

/// What a volume with this quota is said to hold, in bytes; 0 is "not known", the interface's word for no limit.
pub(super) fn capacity(quota: Quota) -> u64 {
    quota.bytes.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_checked_against_both_bounds() {
        assert_eq!(Range::new(-1, 0).unwrap_err().code, Code::InvalidArgument);
        assert_eq!(Range::new(2, 1).unwrap_err().code, Code::OutOfRange);
        let range = Range::new(10, 20).unwrap();
        assert_eq!(range.quota(), Some(10));
        assert!(range.allows(Some(20)) && !range.allows(Some(21)) && !range.allows(None));
        assert!(Range::default().allows(None) && Range::default().allows(Some(5)));
        assert_eq!(Range::new(0, 7).unwrap().quota(), Some(7));
    }

    #[test]
    fn an_unknown_parameter_is_refused_with_those_there_are() {
        let given = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let error = Parameters::of_class(&given("bytes", "1Gi")).unwrap_err();
        assert_eq!(
            error.message,
            "there is no parameter bytes; these are: inodes, retain, verifiedReads"
        );
        assert_eq!(
            Parameters::mutable(&given("bytes", "1Gi")).unwrap().bytes,
            Some(1 << 30)
        );
        assert!(Parameters::of_class(&given("inodes", "-1")).is_err());
        let verified = |value| Parameters::of_class(&given("verifiedReads", value));
        assert_eq!(verified("true").unwrap().verified_reads, Some(true));
        assert!(verified("yes").is_err());
        assert!(Parameters::mutable(&given("verifiedReads", "true")).is_err());
        assert!(Parameters::of_class(&given("csi.storage.k8s.io/pvc/name", "x")).is_ok());
    }
}
