//! The node agent as a program.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::cluster::{Cluster, free_port};

use crate::support::{NODE, SYSTEM};

/// A running agent. Killed when it is dropped.
pub struct Agent {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Agent {
    /// Starts one on a data directory below `place`; what it logs is appended to a file there.
    pub fn start(cluster: &Cluster, node: &str, place: &Path, import_roots: &[&Path]) -> Self {
        Self::with(cluster, node, place, import_roots, &[])
    }

    /// The same with volumes: with a keeper, a socket and a kubelet's directory below `place`.
    pub fn with_volumes(cluster: &Cluster, node: &str, place: &Path, roots: &[&Path]) -> Self {
        let path = |name: &str| place.join(name).to_str().unwrap().to_owned();
        let volumes = [
            format!("--csi-socket=unix://{}", path("csi.sock")),
            format!("--kubelet-dir={}", path("kubelet")),
            format!("--keeper-dir={}", path("keeper")),
        ];
        Self::with(cluster, node, place, roots, &volumes)
    }

    fn with(
        cluster: &Cluster,
        node: &str,
        place: &Path,
        import_roots: &[&Path],
        more: &[String],
    ) -> Self {
        let port = free_port().unwrap();
        let log = place.join(format!("{node}.log"));
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_anabranch-csi"));
        command
            .args([
                "--log-format",
                "text",
                "node",
                "--node",
                node,
                "--namespace",
                SYSTEM,
                "--lease-seconds",
                "3",
            ])
            .arg("--data")
            .arg(place.join(node))
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(more)
            .env("KUBECONFIG", cluster.kubeconfig_of(NODE).unwrap())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file);
        for root in import_roots {
            command.arg("--import-root").arg(root);
        }
        Agent {
            child: command.spawn().unwrap(),
            port,
            log,
        }
    }

    /// Waits until it has read what is placed on its node.
    pub async fn ready(&mut self) {
        let began = Instant::now();
        while !self
            .get("/readyz")
            .is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < Duration::from_secs(60),
                "the agent is not ready ({ended:?}):\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// How many objects it has looked at since it began.
    pub fn looks(&self) -> u64 {
        let text = self.get("/metrics").unwrap();
        let counts = text
            .lines()
            .filter(|line| line.starts_with("anabranch_node_looks_total"));
        counts
            .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
            .sum()
    }

    /// As the kernel does when memory is short.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// As Kubernetes does when a pod ends.
    pub fn stop(mut self) {
        let pid = self.child.id();
        let status = Command::new("kill")
            .args(["-TERM", &pid.to_string()])
            .status()
            .unwrap();
        assert!(status.success());
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}:\n{}", self.log());
    }

    /// Waits for an end by itself, and gives what it logged.
    pub fn ended(mut self) -> String {
        let status = self.child.wait().unwrap();
        assert!(!status.success());
        self.log()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let end: Vec<_> = log.lines().rev().take(40).collect();
            eprintln!(
                "--- the agent's log\n{}",
                end.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
    }
}
