//! Power cuts under the whole store: the engine and RocksDB on a strict file system.

use std::sync::Arc;

use storage_engine::fs::RealFileSystem;

use crate::fuse::Server;
use crate::rng::Rng;
use crate::run::{data, number, seed};
use crate::world::{FLUSH_OFTEN, World};

/// Steps of one store, at about half of which power is lost.
const STEPS: u64 = 60;

/// Whether a FUSE file system can be mounted; otherwise it is told, and a failure where all must be run.
fn can_mount() -> bool {
    let there = std::path::Path::new("/dev/fuse").exists();
    if !there {
        println!("NOT RUN: power cuts under the whole store: there is no /dev/fuse");
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "there is no /dev/fuse"
        );
    }
    there
}

#[test]
fn power_cuts_under_the_whole_store_lose_nothing() {
    if !can_mount() {
        return;
    }
    let wanted = number("ANABRANCH_CUTS").unwrap_or(200);
    let first = seed();
    println!("seeds from {first}, {wanted} power cuts");
    let mut server = Server::start();
    let mut cuts = 0;
    let mut seed = first;
    while cuts < wanted {
        cuts += store(&mut server, seed, wanted - cuts).unwrap_or_else(|why| {
            panic!("{why}\nrepeat with ANABRANCH_SEED={seed} ANABRANCH_CUTS={wanted}")
        });
        seed += 1;
    }
    println!("{cuts} power cuts of {} stores", seed - first);
}

/// One store from its making to its end; gives the number of cuts.
fn store(server: &mut Server, seed: u64, most: u64) -> Result<u64, String> {
    let mut rng = Rng::new(seed);
    let mut world = World::new(FLUSH_OFTEN);
    let at = data(&server.mount(0)?);
    let mut cuts = 0;
    for step in 0..STEPS {
        let armed = cuts < most && rng.chance(50);
        if armed {
            world.watch();
            server.arm(0, rng.below(40), seed + step)?;
        }
        let done = match &world.engine {
            None => world.open(&at, Arc::new(RealFileSystem)),
            Some(_) if rng.chance(6) => world.close(),
            Some(_) => (0..1 + rng.below(3)).try_for_each(|_| world.random_step(&mut rng)),
        };
        done.map_err(|e| format!("step {step}: {:?}: {e}", e.kind()))?;
        if armed {
            let disk = server.cut(0)?;
            let after = world.after_power_loss();
            look(server, disk, after, &mut rng).map_err(|why| {
                format!(
                    "power was lost in step {step}: {why}\nafter {:?}",
                    world.trace
                )
            })?;
            cuts += 1;
        }
    }
    world.close().map_err(|e| format!("closing: {e}"))?;
    server.unmount(0)?;
    Ok(cuts)
}

/// What is left must be one of the states that it may be, and can be worked with.
fn look(server: &mut Server, disk: usize, mut world: World, rng: &mut Rng) -> Result<(), String> {
    let at = data(&server.mount(disk)?);
    let broken = |e: storage_engine::Error| format!("{:?}: {e}", e.kind());
    world
        .open(&at, Arc::new(RealFileSystem))
        .map_err(|e| format!("it cannot be opened: {}", broken(e)))?;
    world.verify()?;
    world.forget_past();
    for _ in 0..3 {
        world.random_step(rng).map_err(broken)?;
    }
    world.verify()?;
    world.close().map_err(broken)?;
    server.unmount(disk)
}
