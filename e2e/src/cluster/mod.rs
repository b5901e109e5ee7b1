//! A real API server for tests: `kube-apiserver` on `etcd`, and the parts of the controller manager that end what is deleted.
//!
//! Everything runs on free ports of the loopback address, with certificates and tokens of its own, in one temporary
//! folder, and ends with the process that started it, even with one that was killed (see [`guard`]). Who speaks is said by
//! a token; [`Cluster::client`] speaks for any user, which is how a test sees what a role of the chart permits.

pub mod guard;
pub(crate) mod pki;
pub(crate) mod tools;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kube::config::AuthInfo;

use guard::Guarded;
use pki::Pki;
pub use tools::{Tools, helm, missing};

/// What a test that needs a cluster fails with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Longest wait for a part to be ready. A cold machine with busy disks takes 15 s; without that, 4 s.
const START_WAIT: Duration = Duration::from_secs(120);

/// What a cluster has besides its API server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parts {
    /// The controllers that delete: of namespaces, of what is owned by something deleted, and those that bind claims.
    pub controllers: bool,
}

/// A running cluster. Ends when it is dropped.
pub struct Cluster {
    parts: Parts,
    tools: Tools,
    pki: Pki,
    port: u16,
    etcd_port: u16,
    // Dropped in this order: the clients of a server before the server.
    controllers: Mutex<Option<Guarded>>,
    apiserver: Mutex<Option<Guarded>>,
    _etcd: Guarded,
    folder: PathBuf,
    _sweep: Guarded,
}

impl Cluster {
    /// Starts one and waits until it answers: about 5 s.
    ///
    /// # Errors
    /// When a binary is missing, or when a part does not start; then with the end of its log.
    pub async fn start(parts: Parts) -> Result<Self, Failure> {
        let tools = Tools::find()?;
        let folder = tempfile::Builder::new()
            .prefix("anabranch-cluster.")
            .tempdir()?
            .keep();
        let sweep = guard::sweep(&folder)?;
        let pki = Pki::make(&folder, &[], &[])?;
        let (port, etcd_port, peer_port) = (free_port()?, free_port()?, free_port()?);
        let etcd = start_etcd(&tools, &folder, etcd_port, peer_port)?;
        let cluster = Cluster {
            parts,
            tools,
            pki,
            port,
            etcd_port,
            controllers: Mutex::new(None),
            apiserver: Mutex::new(None),
            _etcd: etcd,
            folder,
            _sweep: sweep,
        };
        fs::write(cluster.kubeconfig(), pki_config(&cluster, None))?;
        cluster.start_apiserver().await?;
        if parts.controllers {
            cluster.start_controllers()?;
        }
        Ok(cluster)
    }

    /// A client that may do everything.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn admin(&self) -> Result<kube::Client, Failure> {
        Ok(kube::Client::try_from(self.config("admin")?)?)
    }

    /// A client of a user, with the groups that the API server would give it; a service account is
    /// `system:serviceaccount:<namespace>:<name>`.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn client(&self, user: &str) -> Result<kube::Client, Failure> {
        Ok(kube::Client::try_from(self.config(user)?)?)
    }

    /// The configuration of a client: the administrator, who speaks for the user.
    fn config(&self, user: &str) -> Result<kube::Config, Failure> {
        let mut config = kube::Config::new(format!("https://127.0.0.1:{}", self.port).parse()?);
        config.root_cert = Some(vec![self.pki.ca_der.clone()]);
        config.read_timeout = Some(Duration::from_secs(300));
        let mut auth = AuthInfo {
            token: Some(self.pki.token("admin").to_owned().into()),
            ..AuthInfo::default()
        };
        if user != "admin" {
            auth.impersonate = Some(user.to_owned());
            auth.impersonate_groups = Some(pki::groups(user));
        }
        config.auth_info = auth;
        Ok(config)
    }

    /// Path of a kubeconfig of the administrator, for programs.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// Port of the loopback address on which the API server answers: for a proxy in front of it.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Port of the loopback address on which etcd answers, without encryption.
    pub fn etcd_port(&self) -> u16 {
        self.etcd_port
    }

    /// Path of a kubeconfig that speaks for a user, for programs.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_of(&self, user: &str) -> Result<PathBuf, Failure> {
        let path = self
            .folder
            .join(format!("{}.kubeconfig", user.replace(':', ".")));
        fs::write(&path, pki_config(self, Some(user)))?;
        Ok(path)
    }

    /// Kills the API server without warning.
    pub fn stop_apiserver(&self) {
        drop(lock(&self.apiserver).take());
    }

    /// Starts the API server on the address and the data that it had, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_apiserver(&self) -> Result<(), Failure> {
        let folder = &self.folder;
        let of = |name: &str| folder.join(name).display().to_string();
        let args = [
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
            "--bind-address=127.0.0.1".into(),
            format!("--secure-port={}", self.port),
            "--endpoint-reconciler-type=none".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            format!("--cert-dir={}", of("apiserver")),
            format!("--tls-cert-file={}", of("apiserver.crt")),
            format!("--tls-private-key-file={}", of("apiserver.key")),
            format!("--token-auth-file={}", of("tokens.csv")),
            format!("--service-account-key-file={}", of("accounts.pub")),
            format!("--service-account-signing-key-file={}", of("accounts.key")),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            "--authorization-mode=Node,RBAC".into(),
            // Pods of tests have no service account, and no kubelet asks for one.
            "--disable-admission-plugins=ServiceAccount".into(),
            "--allow-privileged=true".into(),
            "--profiling=false".into(),
        ];
        let log = folder.join("apiserver.log");
        let server = Guarded::start(&self.tools.apiserver, &args, &log)?;
        *lock(&self.apiserver) = Some(server);
        let client = self.admin()?;
        let ready = async || {
            let request = http_get("/readyz")?;
            Ok::<bool, Failure>(
                client
                    .request_text(request)
                    .await
                    .is_ok_and(|body| body == "ok"),
            )
        };
        let since = Instant::now();
        while !ready().await? {
            if since.elapsed() > START_WAIT {
                return Err(format!(
                    "the API server is not ready after {START_WAIT:?}: {}",
                    tail(&log)
                )
                .into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    fn start_controllers(&self) -> Result<(), Failure> {
        let kubeconfig = self.kubeconfig().display().to_string();
        let of = |name: &str| self.folder.join(name).display().to_string();
        let controllers = [
            "namespace-controller",
            "garbage-collector-controller",
            "persistentvolume-binder-controller",
            "persistentvolume-protection-controller",
            "persistentvolumeclaim-protection-controller",
        ];
        let args = [
            format!("--kubeconfig={kubeconfig}"),
            format!("--controllers={}", controllers.join(",")),
            "--leader-elect=false".into(),
            "--bind-address=127.0.0.1".into(),
            "--secure-port=0".into(),
            format!("--cert-dir={}", of("controllers")),
            // The defaults are for clusters whose API server others need too.
            "--kube-api-qps=200".into(),
            "--kube-api-burst=400".into(),
        ];
        let log = self.folder.join("controllers.log");
        *lock(&self.controllers) = Some(Guarded::start(&self.tools.controllers, &args, &log)?);
        Ok(())
    }

    /// What the parts of the cluster wrote, the end of it: for the message of a test that failed.
    pub fn logs(&self) -> String {
        ["etcd.log", "apiserver.log", "controllers.log"]
            .map(|name| format!("--- {name}\n{}", tail(&self.folder.join(name))))
            .join("\n")
    }

    /// What the cluster has.
    pub fn parts(&self) -> Parts {
        self.parts
    }
}

fn pki_config(cluster: &Cluster, user: Option<&str>) -> String {
    let server = format!("https://127.0.0.1:{}", cluster.port);
    cluster.pki.kubeconfig(&server, user)
}

fn start_etcd(tools: &Tools, folder: &Path, port: u16, peer_port: u16) -> Result<Guarded, Failure> {
    let args = [
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls=http://127.0.0.1:{port}"),
        format!("--advertise-client-urls=http://127.0.0.1:{port}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}"),
        format!("--initial-cluster=default=http://127.0.0.1:{peer_port}"),
        // Without a quota it maps 10 GiB at once, which is more than a test may.
        "--quota-backend-bytes=1073741824".into(),
        "--unsafe-no-fsync".into(),
    ];
    Guarded::start(&tools.etcd, &args, &folder.join("etcd.log"))
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>, Failure> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A port that nobody listens on at the moment.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The last lines of a file.
pub(crate) fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().rev().take(25).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
