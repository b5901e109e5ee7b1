//! `anabranch-csi node`.
//!
//! Order of the start: the store; the mounts of the predecessor, whose programs wait; then everything that may ask for
//! something. The end goes backwards, and leaves the mounts with the keeper for the successor.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use csi_driver::agent::inline::InlineForks;
use csi_driver::agent::modify;
use csi_driver::agent::node::{self, News, Parts, Settings};
use csi_driver::agent::retention;
use csi_driver::agent::scrub;
use csi_driver::csi::{self, Driver};
use csi_driver::grpc;
use csi_driver::mounts::{Mounts, MountsHost, Options as MountOptions};
use csi_driver::owner::{Context, Failure, Host, Server};
use operator::cluster::http::{self, Health};
use operator::cluster::metrics::Metrics;
use operator::cluster::signals;
use operator::owner::key_of;
use storage_engine::{Engine, GcSchedule, Options};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::failed;

/// Between two looks for the keeper.
const KEEPER_PAUSE: Duration = Duration::from_secs(1);
/// How long running commands and calls may take at the end.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Name of this node, as the API server has it.
    #[arg(long, env = "NODE_NAME")]
    node: String,
    /// Namespace of the operator.
    #[arg(long, env = "POD_NAMESPACE", default_value = "anabranch-system")]
    namespace: String,
    /// Name of this pod.
    #[arg(long, env = "POD_NAME")]
    identity: Option<String>,
    /// The data directory of the store.
    #[arg(long)]
    data: PathBuf,
    /// Where the kubelet and the sidecars find the driver. Without it, nothing is mounted on this node.
    #[arg(long, value_name = "unix:///PATH", requires = "keeper_dir")]
    csi_socket: Option<String>,
    /// The kubelet's directory: volumes are mounted below it, and nowhere else.
    #[arg(long, default_value = "/var/lib/kubelet")]
    kubelet_dir: PathBuf,
    /// Directory of the keeper, which runs by itself and is waited for.
    #[arg(long)]
    keeper_dir: Option<PathBuf>,
    /// A directory of this node below which sources of buckets may lie. Without one, none may.
    #[arg(long = "import-root")]
    import_roots: Vec<PathBuf>,
    /// How long the lease of this agent lasts without a renewal, in seconds.
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u64).range(2..=3600))]
    lease_seconds: u64,
    /// Days between two scrubs, which read the whole store and say what is damaged. 0: never.
    #[arg(long, default_value_t = 7)]
    scrub_days: u64,
    /// MiB that a scrub reads each second, at most.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    scrub_rate: u64,
    /// Address of /metrics, /healthz and /readyz.
    #[arg(long, default_value = "0.0.0.0:8081")]
    listen: std::net::SocketAddr,
}

pub async fn run(arguments: Arguments) -> i32 {
    let mut end = signals::end();
    let listener = match tokio::net::TcpListener::bind(arguments.listen).await {
        Ok(listener) => listener,
        Err(failure) => return failed("cannot listen for /metrics", &failure),
    };
    let (metrics, health) = (Metrics::new("node"), Arc::new(Health::default()));
    tokio::spawn(http::serve(listener, health.clone(), metrics.clone()));
    let client = match kube::Client::try_default().await {
        Ok(client) => client,
        Err(failure) => return failed("cannot reach the API server", &failure),
    };
    let engine = match open(arguments.data.clone()).await {
        Ok(engine) => engine,
        Err(failure) => return failed("cannot open the store", &failure),
    };
    let mounts = match (&arguments.csi_socket, &arguments.keeper_dir) {
        (Some(_), Some(directory)) => {
            match take_over(directory.clone(), engine.clone(), &mut end).await {
                Some(Ok(mounts)) => Some(mounts),
                Some(Err(failure)) => return failed("cannot take the mounts over", &failure),
                None => return close(None, engine).await,
            }
        }
        _ => None,
    };
    let (told, news) = mpsc::unbounded_channel();
    let scrubs = told.clone();
    // One end for the signal, and for a part that cannot go on.
    let (stop, stopped) = watch::channel(false);
    let stop = Arc::new(stop);
    tokio::spawn({
        let stop = stop.clone();
        async move {
            let _ = end.wait_for(|end| *end).await;
            stop.send_replace(true);
        }
    });
    let host: Arc<dyn Host> = Arc::new(MountsHost::new(
        mounts.clone(),
        {
            let told = told.clone();
            move || {
                let _ = told.send(News::Store);
            }
        },
        || {
            Err(Failure::owner(
                "this store belongs to a node of a cluster; end its pod to end it",
            ))
        },
    ));
    let context = Context {
        engine: engine.clone(),
        data: arguments.data.clone(),
        host: host.clone(),
    };
    let begun = Server::start(&arguments.data, context)
        .and_then(|server| retention::keep(engine.clone()).map(|()| server));
    let server = match begun {
        Ok(server) => server,
        Err(failure) => return failed("cannot serve the store's commands", &failure),
    };
    let serving = match (&arguments.csi_socket, &mounts) {
        (Some(socket), Some(mounts)) => {
            let forks = InlineForks::new(
                client.clone(),
                engine.clone(),
                &arguments.node,
                tokio::runtime::Handle::current(),
            );
            let driver = Driver::new(csi::Options {
                engine: engine.clone(),
                mounts: mounts.clone(),
                node: arguments.node.clone(),
                kubelet_directory: arguments.kubelet_dir.clone(),
                forks: Arc::new(forks),
                mounted: Arc::new(move |timeline| {
                    if let Some(key) = key_of(&timeline.settings.labels) {
                        let _ = told.send(News::Of(key));
                    }
                }),
            });
            match driver {
                Ok(driver) => {
                    modify::follow(client.clone(), driver.clone());
                    Some(serve(driver, socket.clone(), stop, stopped.clone()))
                }
                Err(failure) => return failed("cannot serve volumes", &failure),
            }
        }
        _ => None,
    };
    if arguments.scrub_days > 0 {
        let schedule = scrub::Schedule {
            every: Duration::from_secs(arguments.scrub_days.saturating_mul(24 * 3600)),
            rate: arguments.scrub_rate << 20,
        };
        let kept = scrub::keep(
            engine.clone(),
            &arguments.data,
            schedule,
            metrics.clone(),
            scrubs,
        );
        if let Err(failure) = kept {
            return failed("cannot scrub the store", &failure);
        }
    }
    let settings = Settings {
        identity: arguments.identity.unwrap_or_else(|| arguments.node.clone()),
        node: arguments.node,
        namespace: arguments.namespace,
        lease_lasts: Duration::from_secs(arguments.lease_seconds),
        import_roots: arguments.import_roots,
    };
    let parts = Parts {
        client,
        engine: engine.clone(),
        host,
        metrics,
        health,
        news,
    };
    let outcome = node::run(parts, settings, stopped).await;
    let served = match serving {
        Some(serving) => match tokio::time::timeout(GRACE, serving).await {
            Ok(Ok(Err(failure))) => Some(failure),
            _ => None,
        },
        None => None,
    };
    let _ = tokio::task::spawn_blocking(move || server.stop(GRACE)).await;
    let closed = close(mounts, engine).await;
    match (outcome, served) {
        (Err(failure), _) => failed("cannot go on", &failure),
        (Ok(()), Some(failure)) => failed("cannot serve volumes", &failure),
        (Ok(()), None) => closed,
    }
}

async fn open(data: PathBuf) -> Result<Engine, Failure> {
    let open = move || {
        let options = Options {
            gc: Some(GcSchedule::default()),
            ..Options::default()
        };
        Engine::open(data, options).map_err(Failure::from)
    };
    blocking(open).await?
}

/// Takes the mounts of the predecessor over, as soon as the keeper answers; nothing when the end comes first.
async fn take_over(
    directory: PathBuf,
    engine: Engine,
    end: &mut watch::Receiver<bool>,
) -> Option<Result<Mounts, Failure>> {
    let options = MountOptions {
        start_keeper: false,
        ..MountOptions::new(directory)
    };
    loop {
        let (options, engine) = (options.clone(), engine.clone());
        let started = blocking(move || Mounts::start(options, engine)).await;
        let mounts = match started {
            Ok(Ok(mounts)) => mounts,
            Ok(Err(failure)) => {
                tracing::warn!(%failure, "waits for the keeper");
                tokio::select! {
                    () = tokio::time::sleep(KEEPER_PAUSE) => continue,
                    _ = end.wait_for(|end| *end) => return None,
                }
            }
            Err(failure) => return Some(Err(failure)),
        };
        let taken = {
            let mounts = mounts.clone();
            blocking(move || mounts.take_over()).await
        };
        return Some(match taken {
            Ok(Ok(taken)) => {
                let served = taken.iter().filter(|one| one.outcome.is_ok()).count();
                tracing::info!(
                    served,
                    given_up = taken.len() - served,
                    "took the mounts over"
                );
                Ok(mounts)
            }
            Ok(Err(failure)) => Err(failure.into()),
            Err(failure) => Err(failure),
        });
    }
}

/// Serves the driver. A socket that cannot be served ends the process: a node without its volumes is of no use.
fn serve(
    driver: Driver,
    socket: String,
    stop: Arc<watch::Sender<bool>>,
    mut stopped: watch::Receiver<bool>,
) -> JoinHandle<Result<(), grpc::ServeError>> {
    tokio::spawn(async move {
        tracing::info!(socket, "serves volumes");
        let until = async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let served = grpc::serve(driver, &socket, until).await;
        stop.send_replace(true);
        served
    })
}

/// Leaves the mounts to the successor and closes the store.
async fn close(mounts: Option<Mounts>, engine: Engine) -> i32 {
    let end = move || {
        if let Some(mounts) = mounts {
            mounts.leave();
        }
        engine.close().map_err(Failure::from)
    };
    match blocking(end).await.and_then(|closed| closed) {
        Ok(()) => 0,
        Err(failure) => failed(
            "cannot close the store in order; the next start recovers it",
            &failure,
        ),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::new("Internal", format!("a thread ended unexpectedly: {error}")))
}
