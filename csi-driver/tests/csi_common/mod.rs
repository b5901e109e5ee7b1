//! A driver of its own for each test: store, keeper, mounts, and the socket served in this process.
#![allow(dead_code, missing_docs)]

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use csi_driver::csi::{
    AccessMode, Capability, CreateVolume, Driver, EngineForks, Options, Range, Volume,
};
use csi_driver::grpc;
use csi_driver::mounts::Mounts;
use storage_engine::Engine;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::support::Place;

pub struct Node {
    pub driver: Driver,
    pub engine: Engine,
    pub mounts: Mounts,
    pub kubelet: PathBuf,
    pub place: Place,
    served: Option<(Runtime, oneshot::Sender<()>)>,
}

impl Node {
    pub fn new(name: &str) -> Node {
        Node::in_place(Place::new(name))
    }

    /// In a folder that stays, with the mounts that an earlier one left there.
    pub fn at(root: PathBuf) -> Node {
        let node = Node::in_place(Place::at(root));
        for taken in node.mounts.take_over().unwrap() {
            if let Err(error) = &taken.outcome {
                // One that was being made when its maker was killed: the same call makes it.
                assert!(error.to_string().contains("was not finished"), "{error}");
            }
        }
        node
    }

    fn in_place(place: Place) -> Node {
        let kubelet = place.path("kubelet");
        fs::create_dir_all(kubelet.join("pods")).unwrap();
        fs::create_dir_all(kubelet.join("plugins")).unwrap();
        let engine = place.engine();
        let mounts = place.mounts(&engine);
        let driver = Driver::new(Options {
            engine: engine.clone(),
            mounts: mounts.clone(),
            node: "node-1".into(),
            kubelet_directory: kubelet.clone(),
            forks: Arc::new(EngineForks::new(engine.clone(), mounts.clone())),
            mounted: Arc::new(|_| {}),
        })
        .unwrap();
        Node {
            driver,
            engine,
            mounts,
            kubelet,
            place,
            served: None,
        }
    }

    /// Serves the socket until the end of the test; returns the endpoint.
    pub fn serve(&mut self) -> String {
        let runtime = Runtime::new().unwrap();
        let endpoint = format!("unix://{}", self.place.path("csi.sock").display());
        let (stop, stopped) = oneshot::channel();
        let (driver, own) = (self.driver.clone(), endpoint.clone());
        runtime.spawn(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            grpc::serve(driver, &own, stopped).await.unwrap();
        });
        let socket = self.place.path("csi.sock");
        while std::os::unix::net::UnixStream::connect(&socket).is_err() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.served = Some((runtime, stop));
        endpoint
    }

    pub fn runtime(&self) -> &Runtime {
        &self.served.as_ref().unwrap().0
    }

    pub fn path(&self, below: &str) -> String {
        self.kubelet.join(below).to_str().unwrap().to_owned()
    }

    pub fn end(mut self) {
        if let Some((runtime, stop)) = self.served.take() {
            let _ = stop.send(());
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
        self.mounts
            .shut_down(std::time::Duration::from_secs(5))
            .unwrap();
        // A thread of a mount that had users may still have it when the process ends.
        self.engine.close().unwrap();
    }
}

pub fn writer() -> Capability {
    Capability {
        access: AccessMode::SingleNodeWriter,
        block: false,
        fs_type: String::new(),
        flags: Vec::new(),
        group: None,
    }
}

pub fn create(name: &str) -> CreateVolume {
    CreateVolume {
        name: name.into(),
        range: Range::new(1 << 30, 0).unwrap(),
        capabilities: vec![writer()],
        ..CreateVolume::default()
    }
}

pub fn volume(node: &Node, name: &str) -> Volume {
    node.driver.create_volume(&create(name)).unwrap()
}
