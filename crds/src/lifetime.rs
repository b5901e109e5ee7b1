//! How long a snapshot or a fork is kept, and how much it may hold.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::quantity::Bytes;
use crate::rules;

/// How long the data is kept: exactly one of `ttl`, `expireTime` and `noExpiry`. When it ends, the data is freed; the
/// object stays, with the condition `Expired`, so that a pipeline that owns it does not make it anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = &rules::LIFETIME_ONE_OF)]
#[x_kube(validation = &rules::LIFETIME_NO_EXPIRY)]
#[x_kube(validation = &rules::LIFETIME_TTL)]
#[x_kube(validation = &rules::LIFETIME_END)]
pub struct Lifetime {
    /// Kept for this long after it was made: `90m`, `24h`, `7d`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Duration>,
    /// Kept until this time (RFC 3339), before the year 9999.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expire_time: Option<Time>,
    /// `true`: kept until its object is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_expiry: Option<bool>,
}

impl Lifetime {
    /// Kept until its object is deleted.
    pub fn no_expiry() -> Self {
        Lifetime {
            no_expiry: Some(true),
            ..Default::default()
        }
    }

    /// Kept for this long after it was made.
    pub fn ttl(ttl: std::time::Duration) -> Self {
        Lifetime {
            ttl: Some(Duration(ttl)),
            ..Default::default()
        }
    }
}

/// How much a timeline may hold; what is not named is not limited. A write beyond it fails with EDQUOT.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Quota {
    /// Most bytes of file data: `1Gi`, `500M`, or a whole number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<Bytes>,
    /// Most files, directories and links.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inodes: Option<u64>,
}
