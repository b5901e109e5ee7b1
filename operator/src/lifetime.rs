//! When data is freed.

use crds::Lifetime;
use crds::conditions::Reason;
use jiff::Timestamp;

/// How a lifetime stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It goes on, until a time when that is known: a `ttl` begins when the data is made.
    Lives(Option<Timestamp>),
    /// It has ended.
    Ended {
        /// When that was found out first.
        since: Timestamp,
        /// `TtlElapsed` or `ExpireTimePassed`.
        reason: Reason,
        /// A sentence for people.
        message: String,
    },
}

/// Decides how a lifetime stands now. `created`: when the data was made; `expired`: when it was found out before that the
/// lifetime had ended, which no later change of the lifetime undoes, because the data is gone.
pub fn decide(
    lifetime: &Lifetime,
    created: Option<Timestamp>,
    expired: Option<Timestamp>,
    now: Timestamp,
) -> Standing {
    let end = end(lifetime, created);
    let reason = match lifetime.ttl {
        Some(_) => Reason::TtlElapsed,
        None => Reason::ExpireTimePassed,
    };
    let again = "delete the object and make it again to start anew";
    match (expired, end) {
        (Some(since), _) => {
            let message = match (lifetime.ttl, &lifetime.expire_time) {
                (Some(ttl), _) => {
                    format!("the ttl of {ttl} ended, and the data was freed; {again}")
                }
                (None, Some(time)) => format!(
                    "expireTime {} passed, and the data was freed; {again}",
                    time.0
                ),
                (None, None) => format!(
                    "the lifetime ended before it was changed, and the data was freed; {again}"
                ),
            };
            Standing::Ended {
                since,
                reason,
                message,
            }
        }
        (None, Some(end)) if end <= now => {
            let message = match lifetime.ttl {
                Some(ttl) => format!("the ttl of {ttl} ended at {end}; {again}"),
                None => format!("expireTime {end} passed; {again}"),
            };
            Standing::Ended {
                since: now,
                reason,
                message,
            }
        }
        (None, end) => Standing::Lives(end),
    }
}

/// When a lifetime ends; none for never, and for a `ttl` of what is not made yet.
pub fn end(lifetime: &Lifetime, created: Option<Timestamp>) -> Option<Timestamp> {
    match (&lifetime.ttl, &lifetime.expire_time) {
        // Beyond the last timestamp is never.
        (Some(ttl), _) => created?.checked_add(ttl.0).ok(),
        (None, Some(time)) => Some(time.0),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn lifetimes_end_when_they_say() {
        let ttl = Lifetime::ttl(Duration::from_secs(10));
        let until = Lifetime {
            expire_time: Some(at(110).into()),
            ..Default::default()
        };
        let ever = Lifetime::no_expiry();
        let long = Lifetime {
            ttl: Some("999999999d".parse().unwrap()),
            ..Default::default()
        };
        let lives = |until: Option<i64>| Standing::Lives(until.map(at));
        for (lifetime, created, now, standing) in [
            (&ttl, None, 1_000, lives(None)),
            (&ttl, Some(100), 109, lives(Some(110))),
            (&until, None, 109, lives(Some(110))),
            (&until, Some(100), 109, lives(Some(110))),
            (&ever, Some(100), 1_000_000, lives(None)),
            (&long, Some(100), 1_000_000, lives(None)),
        ] {
            assert_eq!(
                decide(lifetime, created.map(at), None, at(now)),
                standing,
                "{lifetime:?}"
            );
        }
        for (lifetime, created, reason) in [
            (&ttl, Some(100), Reason::TtlElapsed),
            (&until, None, Reason::ExpireTimePassed),
        ] {
            let Standing::Ended {
                since,
                reason: found,
                ..
            } = decide(lifetime, created.map(at), None, at(110))
            else {
                panic!("{lifetime:?} lives");
            };
            assert_eq!((since, found), (at(110), reason));
        }
    }

    #[test]
    fn what_has_expired_stays_expired_whatever_the_lifetime_says_now() {
        for lifetime in [
            Lifetime::no_expiry(),
            Lifetime::ttl(Duration::from_secs(1_000_000)),
        ] {
            let standing = decide(&lifetime, Some(at(0)), Some(at(50)), at(60));
            assert!(matches!(standing, Standing::Ended { since, .. } if since == at(50)));
        }
    }
}
