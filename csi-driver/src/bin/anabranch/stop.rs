//! `anabranch stop`.

use std::io;
use std::time::{Duration, Instant};

use clap::Args;
use csi_driver::owner::output::Collected;
use csi_driver::owner::{Client, Command, Failure, Outcome};

use crate::screen::line;
use crate::session::{Format, Session};

/// Between two looks whether the owner has ended.
const LOOK: Duration = Duration::from_millis(50);

/// Ends the owner of the store as if it had been interrupted, and waits until it has unmounted everything.
#[derive(Args)]
pub struct Stop {
    /// How long to wait for its end in seconds; 0 does not wait.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    wait: u64,
    #[command(flatten)]
    format: Format,
}

impl Stop {
    pub fn run(&self, session: &Session) -> Outcome {
        let Some(client) = Client::connect(session.data())? else {
            return Err(Failure::owner(format!(
                "nobody owns the store in {}",
                session.data().display()
            )));
        };
        let owner = client.owner();
        let wait = Duration::from_secs(self.wait);
        client.run(
            &Command::Stop { wait },
            &mut io::empty(),
            &mut Collected::default(),
        )?;
        let deadline = Instant::now() + wait;
        while runs(owner) {
            if wait.is_zero() {
                return self.say(owner, "is ending");
            }
            if Instant::now() >= deadline {
                return Err(Failure::owner(format!(
                    "process {owner} has not ended within {} s",
                    self.wait
                ))
                .then("Its output says what it waits for."));
            }
            std::thread::sleep(LOOK);
        }
        self.say(owner, "has ended")
    }

    fn say(&self, owner: u32, what: &str) -> Outcome {
        if self.format.json() {
            return line(&format!(
                "{{\"process\": {owner}, \"ended\": {}}}",
                what == "has ended"
            ));
        }
        line(&format!("process {owner} {what}"))
    }
}

/// Whether a process runs. One that has ended stays listed until its parent has asked for its status.
fn runs(process: u32) -> bool {
    match std::fs::read_to_string(format!("/proc/{process}/stat")) {
        Ok(stat) => !stat
            .rsplit(") ")
            .next()
            .is_some_and(|rest| rest.starts_with('Z')),
        Err(_) => false,
    }
}
