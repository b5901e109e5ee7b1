//! Leader election by a Lease: of several operators one works, and another takes over when it has ended or hangs.
//!
//! The rule is that of Kubernetes' own controllers: the holder renews; whoever sees a lease unrenewed for its whole duration,
//! by its own clock, may take it; a holder that could not renew for two thirds of the duration stops working before anybody
//! may take it. Writes carry the version of the Lease, so that of two at one moment one wins.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::Instant;

/// A candidate.
pub struct Candidate {
    /// The leases of the operator's namespace.
    pub leases: Api<Lease>,
    /// Name of the lease.
    pub name: String,
    /// Who this is; no two processes have the same.
    pub identity: String,
    /// How long a lease lasts without a renewal, at least 3 s.
    pub lasts: Duration,
}

/// What was last seen of a lease of somebody else.
pub(super) struct Seen {
    renewed: Option<Timestamp>,
    holder: Option<String>,
    since: Instant,
}

impl Candidate {
    pub(super) fn pause(&self) -> Duration {
        self.lasts / 6
    }

    /// Waits until this candidate leads. `heard` is told after each attempt whether the API server answered.
    pub async fn acquire(&self, heard: impl Fn(bool)) {
        let mut seen: Option<Seen> = None;
        loop {
            // Longer than a lease lasts, no answer is worth waiting for.
            match tokio::time::timeout(self.lasts, self.attempt(&mut seen)).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => heard(true),
                Ok(Err(failure)) => {
                    heard(false);
                    tracing::warn!(%failure, "cannot read or take the leader lease")
                }
                Err(_) => {
                    heard(false);
                    tracing::warn!("no answer about the leader lease")
                }
            }
            tokio::time::sleep(self.pause()).await;
        }
    }

    /// Takes the lease from whoever has it, and waits until that one has stopped: it does when it next looks at its lease, or
    /// when it cannot. For an end of everything; a candidate that wants to lead waits its turn ([`Candidate::acquire`]).
    ///
    /// # Errors
    /// Those of the API server.
    pub async fn seize(&self) -> Result<(), kube::Error> {
        let mut lease = self.leases.get(&self.name).await?;
        let found = lease.spec.take().unwrap_or_default();
        let lasts = found.lease_duration_seconds.unwrap_or_default();
        lease.spec = Some(self.spec(MicroTime(Timestamp::now()), Some((&found, false))));
        let params = PostParams::default();
        self.leases.replace(&self.name, &params, &lease).await?;
        tokio::time::sleep(Duration::from_secs(lasts.try_into().unwrap_or_default())).await;
        Ok(())
    }

    /// Renews for as long as that works; returns when this candidate leads no more, before anybody else may.
    pub async fn keep(&self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.pause()).await;
            let deadline = renewed + self.lasts * 2 / 3;
            match tokio::time::timeout_at(deadline, self.attempt(&mut None)).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(failure)) => tracing::warn!(%failure, "cannot renew the leader lease"),
                Err(_) => return,
            }
            if Instant::now() >= deadline.max(renewed + self.pause()) {
                return;
            }
        }
    }

    /// Gives the lease up, so that another need not wait for its end. Who gets no answer within a third of a lease leaves it.
    pub async fn resign(&self) {
        if tokio::time::timeout(self.lasts / 3, self.give_up())
            .await
            .is_err()
        {
            tracing::warn!("no answer about giving the leader lease up; another waits for its end");
        }
    }

    async fn give_up(&self) {
        let Ok(Some(mut lease)) = self.leases.get_opt(&self.name).await else {
            return;
        };
        let Some(spec) = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(&self.identity))
        else {
            return;
        };
        spec.holder_identity = None;
        spec.lease_duration_seconds = Some(1);
        if let Err(failure) = self
            .leases
            .replace(&self.name, &PostParams::default(), &lease)
            .await
        {
            tracing::warn!(%failure, "cannot give the leader lease up; another waits for its end");
        }
    }

    /// Takes or renews the lease when it is free or ours. True when it is ours now.
    pub(super) async fn attempt(&self, seen: &mut Option<Seen>) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.leases.get_opt(&self.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(now, None)),
            };
            return settled(self.leases.create(&PostParams::default(), &lease).await);
        };
        let found = lease.spec.unwrap_or_default();
        let ours = found.holder_identity.as_deref() == Some(&self.identity);
        if !ours
            && found
                .holder_identity
                .as_deref()
                .is_some_and(|holder| !holder.is_empty())
        {
            let renewed = found.renew_time.as_ref().map(|time| time.0);
            let same = seen
                .as_ref()
                .filter(|seen| seen.renewed == renewed && seen.holder == found.holder_identity);
            let lasts = Duration::from_secs(
                found
                    .lease_duration_seconds
                    .unwrap_or_default()
                    .try_into()
                    .unwrap_or_default(),
            );
            match same {
                Some(seen) if seen.since.elapsed() >= lasts => {}
                Some(_) => return Ok(false),
                None => {
                    *seen = Some(Seen {
                        renewed,
                        holder: found.holder_identity,
                        since: Instant::now(),
                    });
                    return Ok(false);
                }
            }
        }
        lease.spec = Some(self.spec(now, Some((&found, ours))));
        settled(
            self.leases
                .replace(&self.name, &PostParams::default(), &lease)
                .await,
        )
    }

    fn spec(&self, now: MicroTime, before: Option<(&LeaseSpec, bool)>) -> LeaseSpec {
        let (acquired, transitions) = match before {
            Some((found, true)) => (found.acquire_time.clone(), found.lease_transitions),
            Some((found, false)) => (
                None,
                Some(
                    found
                        .lease_transitions
                        .unwrap_or_default()
                        .saturating_add(1),
                ),
            ),
            None => (None, Some(0)),
        };
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(self.lasts.as_secs()).ok(),
            acquire_time: acquired.or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: transitions,
            ..LeaseSpec::default()
        }
    }
}

/// A write that somebody else's came before was not ours.
fn settled(answer: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match answer {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}
