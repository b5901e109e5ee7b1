//! Where the programs are: in the cache that `e2e/setup cluster` fills, by version.

use std::env;
use std::path::{Path, PathBuf};

use super::Failure;

/// The module that Kubernetes is built from; its version stands there once.
const MODULE: &str = include_str!("../../cluster/kubernetes/go.mod");

/// The module that helm is built from.
const HELM_MODULE: &str = include_str!("../../cluster/helm/go.mod");

/// The programs of a cluster.
#[derive(Clone, Debug)]
pub struct Tools {
    /// `kube-apiserver`.
    pub apiserver: PathBuf,
    /// `kube-controller-manager`.
    pub controllers: PathBuf,
    /// `etcd`.
    pub etcd: PathBuf,
}

impl Tools {
    /// Finds them.
    ///
    /// # Errors
    /// Says which one is missing, and what to do.
    pub fn find() -> Result<Self, Failure> {
        let cache = cache()?.join("tools");
        let kubernetes = cache
            .join(format!(
                "kubernetes-{}",
                version(MODULE, "k8s.io/kubernetes")?
            ))
            .join("bin");
        let tools = Tools {
            apiserver: kubernetes.join("kube-apiserver"),
            controllers: kubernetes.join("kube-controller-manager"),
            etcd: cache.join("etcd/usr/bin/etcd"),
        };
        for tool in [&tools.apiserver, &tools.controllers, &tools.etcd] {
            there(tool)?;
        }
        Ok(tools)
    }
}

/// Why tests that need a cluster cannot run here; none when they can. In continuous integration that is a failure.
///
/// # Errors
/// In continuous integration (`CI=true`), what is missing.
pub fn missing(test: &str) -> Result<Option<String>, Failure> {
    let Err(failure) = Tools::find() else {
        return Ok(None);
    };
    let sentence = format!("not run: {test}: {failure}");
    if env::var("CI").is_ok_and(|ci| ci == "true") {
        return Err(sentence.into());
    }
    Ok(Some(sentence))
}

pub(crate) fn there(tool: &Path) -> Result<(), Failure> {
    if tool.exists() {
        return Ok(());
    }
    Err(format!(
        "{} is missing; `e2e/setup cluster node` makes it",
        tool.display()
    )
    .into())
}

/// Path of `helm`.
///
/// # Errors
/// When it is not there.
pub fn helm() -> Result<PathBuf, Failure> {
    let version = version(HELM_MODULE, "helm.sh/helm/v4")?;
    let helm = cache()?.join(format!("tools/helm-{version}/bin/helm"));
    there(&helm)?;
    Ok(helm)
}

/// The version that a module asks for of another: `1.36.3`.
pub(crate) fn version(module: &'static str, of: &str) -> Result<&'static str, Failure> {
    module
        .lines()
        .map(|line| line.trim_start_matches("require").trim())
        .find_map(|line| line.strip_prefix(of)?.strip_prefix(" v"))
        .and_then(|rest| rest.split_whitespace().next())
        .ok_or_else(|| format!("no version of {of} in e2e/cluster").into())
}

pub(crate) fn cache() -> Result<PathBuf, Failure> {
    if let Some(cache) = env::var_os("ANABRANCH_CACHE") {
        return Ok(cache.into());
    }
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(base) => PathBuf::from(base),
        None => {
            PathBuf::from(env::var_os("HOME").ok_or("there is neither ANABRANCH_CACHE nor HOME")?)
                .join(".cache")
        }
    };
    Ok(base.join("anabranch"))
}
