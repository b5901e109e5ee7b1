//! A line to the API server that can be cut.

use std::path::PathBuf;
use std::sync::Arc;

use e2e::cluster::Cluster;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub struct Proxy {
    cut: Arc<watch::Sender<bool>>,
    kubeconfig: PathBuf,
}

impl Proxy {
    /// A line of its own for a user.
    pub async fn start(cluster: &Cluster, user: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, server) = (listener.local_addr().unwrap().port(), cluster.port());
        let text = std::fs::read_to_string(cluster.kubeconfig_of(user).unwrap()).unwrap();
        let text = text.replace(&format!("127.0.0.1:{server}"), &format!("127.0.0.1:{port}"));
        let kubeconfig = cluster
            .kubeconfig()
            .with_file_name(format!("proxy-{port}.kubeconfig"));
        std::fs::write(&kubeconfig, text).unwrap();
        let (cut, _) = watch::channel(false);
        let cut = Arc::new(cut);
        let line = cut.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut cut = line.subscribe();
                tokio::spawn(async move {
                    if *cut.borrow() {
                        return;
                    }
                    let Ok(mut server) = TcpStream::connect(("127.0.0.1", server)).await else {
                        return;
                    };
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = cut.wait_for(|cut| *cut) => {}
                    }
                });
            }
        });
        Proxy { cut, kubeconfig }
    }

    /// Ends every connection, and lets no new one through until it is joined again.
    pub fn cut(&self) {
        self.cut.send_replace(true);
    }

    pub fn join(&self) {
        self.cut.send_replace(false);
    }

    pub async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options)
            .await
            .unwrap();
        Client::try_from(config).unwrap()
    }
}
