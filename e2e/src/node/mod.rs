//! A real one-node Kubernetes: etcd, API server, controllers, scheduler, kubelet, containerd and pods, in namespaces of its
//! own, with the stock sidecars and the chart as they are.
//!
//! [`enter`] starts the calling test anew as the main program of such namespaces (see `e2e/node/run`), and there
//! [`Node::start`] starts the cluster. Everything ends with the test, also with one that is killed.

mod config;
pub mod images;
mod programs;
mod space;
mod watch;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cluster::pki::Pki;
use crate::cluster::{Failure, tail};
pub use programs::Programs;
pub use space::Space;
pub use watch::{eventually, say, timed};

/// Name of the node, as the examples have it.
pub const NODE: &str = "node-1";

/// Where the namespace of the chart is.
pub const SYSTEM: &str = "anabranch-system";

/// Says to the test that it runs inside, and in which folder.
const FOLDER: &str = "ANABRANCH_NODE_FOLDER";
const GROUP: &str = "ANABRANCH_NODE_GROUP";

/// Longest wait for a part to be ready.
const START_WAIT: Duration = Duration::from_secs(120);

/// True in the process that [`enter`] has started.
pub fn inside() -> bool {
    std::env::var_os(FOLDER).is_some()
}

/// Why a node cannot run here; none when it can.
pub fn missing() -> Option<String> {
    if let Err(failure) = Programs::find() {
        return Some(failure.to_string());
    }
    if !rustix::process::geteuid().is_root() {
        return Some("a node needs root".into());
    }
    if !Path::new("/dev/fuse").exists() {
        return Some("there is no /dev/fuse".into());
    }
    let groups = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/cgroup.controllers"];
    if !groups.iter().any(|path| Path::new(path).exists()) {
        return Some("there are no control groups in /sys/fs/cgroup".into());
    }
    let spaces = Command::new("unshare")
        .args([
            "--mount", "--net", "--pid", "--ipc", "--fork", "ip", "link", "add", "type", "bridge",
        ])
        .output();
    match spaces {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "no namespaces with a bridge can be made: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(failure) => Some(format!("unshare: {failure}")),
    }
}

/// Runs the test of this name of the calling program inside a node's namespaces, and waits for its end.
///
/// # Errors
/// When it fails, or cannot be started.
pub fn enter(test: &str) -> Result<(), Failure> {
    let folder = tempfile::Builder::new()
        .prefix("anabranch-node.")
        .tempdir()?
        .keep();
    let group = format!("anabranch-node-{}", std::process::id());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("node/run");
    let mut command = Command::new(script);
    command
        .arg(&folder)
        .arg(&group)
        .arg(std::env::current_exe()?)
        .args(["--exact", test, "--nocapture"])
        .env(FOLDER, &folder)
        .env(GROUP, &group)
        .stdin(Stdio::piped());
    // A signal of the terminal ends this process, and with it, by the end of the input, the rest.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn()?;
    let input = child.stdin.take();
    let status = child.wait()?;
    drop(input);
    if status.success() {
        return Ok(());
    }
    Err(format!("what ran in the node ended with {status}; its output is above").into())
}

/// A running node. What it started ends with its namespaces.
pub struct Node {
    programs: Programs,
    folder: PathBuf,
    running: Mutex<BTreeMap<&'static str, Child>>,
}

impl Node {
    /// Starts it, and waits until it is ready for pods: about 15 s.
    ///
    /// # Errors
    /// When this process is not inside, or a part does not start.
    pub fn start() -> Result<Self, Failure> {
        let folder = PathBuf::from(std::env::var_os(FOLDER).ok_or("not inside of a node")?);
        let group = std::env::var(GROUP)?;
        let node = Node {
            programs: Programs::find()?,
            folder,
            running: Mutex::default(),
        };
        let api = "https://10.96.0.1:443";
        let user = format!("system:node:{NODE}");
        let pki = Pki::make(
            &node.folder,
            &["10.96.0.1", "10.200.0.1"],
            &[(&user, "system:nodes")],
        )?;
        fs::write(
            node.file("admin.kubeconfig"),
            pki.kubeconfig_of(api, "admin"),
        )?;
        fs::write(
            node.file("kubelet.kubeconfig"),
            pki.kubeconfig_of(api, &user),
        )?;
        config::write(&node.folder, &node.programs.debian, &group)?;
        node.spawn_control()?;
        node.wait_for("the API server", || {
            node.kubectl(&["get", "--raw", "/readyz"]).is_ok()
        })?;
        node.spawn_controllers()?;
        node.start_kubelet()?;
        node.wait_for("containerd", || node.ctr(&["version"]).is_ok())?;
        Ok(node)
    }

    /// Waits until pods can run.
    ///
    /// # Errors
    /// When the node is not ready in time.
    pub fn wait_ready(&self) -> Result<(), Failure> {
        let ready = "jsonpath={.status.conditions[?(@.type=='Ready')].status}";
        self.wait_for("the node", || {
            self.kubectl(&["get", "node", NODE, "-o", ready])
                .is_ok_and(|text| text == "True")
        })?;
        self.wait_for("the account of pods", || {
            self.kubectl(&["get", "serviceaccount", "default"]).is_ok()
        })
    }

    /// The programs of it.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Path of a file of the node's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs `kubectl` and gives what it prints.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn kubectl(&self, args: &[&str]) -> Result<String, Failure> {
        run(self.client("kubectl").args(args))
    }

    /// Applies manifests that name their namespaces; those that do not go to `default`.
    ///
    /// # Errors
    /// When `kubectl` fails, with what it said.
    pub fn apply(&self, manifests: &str) -> Result<String, Failure> {
        self.apply_with(&[], manifests)
    }

    /// Applies manifests with arguments of `kubectl` before.
    pub(crate) fn apply_with(&self, before: &[&str], manifests: &str) -> Result<String, Failure> {
        let file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.as_file().write_all(manifests.as_bytes())?;
        let path = file.path().display().to_string();
        self.kubectl(&[before, &["apply", "-f", &path]].concat())
    }

    /// Runs `helm`.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn helm(&self, args: &[&str]) -> Result<String, Failure> {
        let helm = self.programs.helm.clone();
        let mut command = Command::new(helm);
        command
            .env("HOME", &self.folder)
            .env("KUBECONFIG", self.file("admin.kubeconfig"))
            .args(args);
        run(&mut command)
    }

    /// Gives the runtime an image archive.
    ///
    /// # Errors
    /// When it does not take it.
    pub fn import(&self, archive: &Path) -> Result<(), Failure> {
        let path = archive.display().to_string();
        self.ctr(&["-n", "k8s.io", "images", "import", &path])?;
        fs::remove_file(archive)?;
        Ok(())
    }

    /// Runs `ctr`.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub fn ctr(&self, args: &[&str]) -> Result<String, Failure> {
        let mut command = Command::new(self.programs.debian.join("usr/bin/ctr"));
        run(command.args(["-a", "/run/containerd.sock"]).args(args))
    }

    /// Kills the kubelet without warning; pods go on.
    pub fn stop_kubelet(&self) {
        let child = lock(&self.running).remove("kubelet");
        if let Some(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the kubelet.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_kubelet(&self) -> Result<(), Failure> {
        self.spawn(
            "kubelet",
            &self.programs.kubernetes.join("kubelet"),
            &[
                &format!("--config={}", self.file("kubelet.yaml").display()),
                &format!("--kubeconfig={}", self.file("kubelet.kubeconfig").display()),
                &format!("--hostname-override={NODE}"),
                "--node-ip=10.200.0.1",
                "--root-dir=/var/lib/kubelet",
                "--v=2",
            ],
        )
    }

    /// The ends of the logs of its parts.
    pub fn logs(&self) -> String {
        [
            "etcd",
            "apiserver",
            "controllers",
            "scheduler",
            "containerd",
            "kubelet",
        ]
        .map(|name| format!("--- {name}\n{}", tail(&self.file(&format!("{name}.log")))))
        .join("\n")
    }

    fn client(&self, name: &str) -> Command {
        let mut command = Command::new(self.programs.kubernetes.join(name));
        command
            .env("HOME", &self.folder)
            .env("KUBECONFIG", self.file("admin.kubeconfig"));
        command
    }

    fn spawn_control(&self) -> Result<(), Failure> {
        let of = |name: &str| self.file(name).display().to_string();
        self.spawn(
            "containerd",
            &self.programs.debian.join("usr/bin/containerd"),
            &["--config", &of("containerd.toml")],
        )?;
        self.spawn(
            "etcd",
            &self.programs.cluster.etcd,
            &[
                &format!("--data-dir={}", of("etcd")),
                // Without a quota it maps 10 GiB at once, which is more than a test may.
                "--quota-backend-bytes=1073741824",
                "--unsafe-no-fsync",
            ],
        )?;
        self.spawn(
            "apiserver",
            &self.programs.cluster.apiserver,
            &[
                "--etcd-servers=http://127.0.0.1:2379",
                // The port of the service itself: nothing has to translate its address.
                "--secure-port=443",
                "--advertise-address=10.200.0.1",
                "--service-cluster-ip-range=10.96.0.0/16",
                &format!("--cert-dir={}", of("apiserver")),
                &format!("--tls-cert-file={}", of("apiserver.crt")),
                &format!("--tls-private-key-file={}", of("apiserver.key")),
                &format!("--token-auth-file={}", of("tokens.csv")),
                &format!("--service-account-key-file={}", of("accounts.pub")),
                &format!("--service-account-signing-key-file={}", of("accounts.key")),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--kubelet-preferred-address-types=InternalIP",
                "--allow-privileged=true",
                "--profiling=false",
            ],
        )
    }

    fn spawn_controllers(&self) -> Result<(), Failure> {
        let of = |name: &str| self.file(name).display().to_string();
        let kubeconfig = format!("--kubeconfig={}", of("admin.kubeconfig"));
        self.spawn(
            "controllers",
            &self.programs.cluster.controllers,
            &[
                &kubeconfig,
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                "--use-service-account-credentials=true",
                &format!("--service-account-private-key-file={}", of("accounts.key")),
                &format!("--root-ca-file={}", of("ca.crt")),
                &format!("--cert-dir={}", of("controllers")),
                "--kube-api-qps=200",
                "--kube-api-burst=400",
            ],
        )?;
        self.spawn(
            "scheduler",
            &self.programs.kubernetes.join("kube-scheduler"),
            &[
                &kubeconfig,
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                &format!("--cert-dir={}", of("scheduler")),
            ],
        )
    }

    fn spawn(&self, name: &'static str, program: &Path, args: &[&str]) -> Result<(), Failure> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.file(&format!("{name}.log")))?;
        let debian = self.programs.debian.display();
        let path = std::env::var("PATH").unwrap_or_default();
        let child = Command::new(program)
            .args(args)
            .env(
                "PATH",
                format!("{debian}/usr/bin:{debian}/usr/sbin:{path}:/usr/sbin:/sbin"),
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|failure| format!("{}: {failure}", program.display()))?;
        lock(&self.running).insert(name, child);
        Ok(())
    }

    fn wait_for(&self, what: &str, done: impl Fn() -> bool) -> Result<(), Failure> {
        let since = Instant::now();
        while !done() {
            if since.elapsed() > START_WAIT {
                return Err(
                    format!("{what} is not ready after {START_WAIT:?}\n{}", self.logs()).into(),
                );
            }
            sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// Runs a program to its end and gives what it printed.
///
/// # Errors
/// When it fails, with what it said.
pub fn run(command: &mut Command) -> Result<String, Failure> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|failure| format!("{}: {failure}", command.get_program().display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    Err(format!(
        "{} {}: {}: {}{text}",
        command.get_program().display(),
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr),
    )
    .into())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
