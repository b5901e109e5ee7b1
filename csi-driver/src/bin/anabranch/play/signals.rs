//! Ctrl-C and its relatives.

use std::sync::mpsc::Sender;

use csi_driver::owner::{Failure, Outcome};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::Wake;

/// The first signal asks for an end, the second one is the end. The closing of the terminal is an end too.
pub fn follow(wake: Sender<Wake>) -> Outcome {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Failure::new("Io", format!("cannot follow signals: {e}")))?;
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            let mut asked = false;
            for signal in signals.forever() {
                if asked {
                    eprintln!("anabranch: ended before everything was unmounted; the next `anabranch play` takes the mounts over");
                    crate::exit::now(u8::try_from(128 + signal).unwrap_or(1));
                }
                asked = true;
                let _ = wake.send(Wake::Stop);
            }
        })
        .map(|_| ())
        .map_err(|e| Failure::new("Io", format!("cannot start a thread: {e}")))
}
