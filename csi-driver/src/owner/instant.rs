//! Instants and durations as people write them, and as we print them.

use jiff::{SignedDuration, Timestamp};
use storage_engine::Epoch;

use super::failure::{Failure, Outcome};

/// Reads an instant: an epoch (decimal Unix nanoseconds), an RFC 3339 time, or `-10m` for ten minutes
/// before `now`.
pub fn parse_instant(text: &str, now: Epoch) -> Outcome<Epoch> {
    if let Some(ago) = text.strip_prefix('-') {
        let nanos = u64::try_from(parse_duration(ago)?.as_nanos()).unwrap_or(u64::MAX);
        return Ok(Epoch(now.0.saturating_sub(nanos)));
    }
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text
            .parse()
            .map(Epoch)
            .map_err(|_| Failure::usage(format!("{text} is too large for an epoch")));
    }
    let time: Timestamp = text.parse().map_err(|_| {
        Failure::usage(format!(
            "{text:?} is not an instant: write an RFC 3339 time (2026-01-31T12:00:00Z), an epoch in Unix nanoseconds, or -10m"
        ))
    })?;
    u64::try_from(time.as_nanosecond())
        .map(Epoch)
        .map_err(|_| Failure::usage(format!("{text} is before 1970")))
}

/// Reads a duration: whole numbers with the units d, h, m, s, ms, as in `1h30m`.
pub fn parse_duration(text: &str) -> Outcome<std::time::Duration> {
    let wrong = || {
        Failure::usage(format!(
            "{text:?} is not a duration: write for example 30s, 10m, 1h30m or 7d"
        ))
    };
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
        rest = &rest[digits..];
        let unit = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let millis: u64 = match &rest[..unit] {
            "d" => 86_400_000,
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return Err(wrong()),
        };
        total = number
            .checked_mul(millis)
            .and_then(|n| total.checked_add(n))
            .ok_or_else(wrong)?;
        rest = &rest[unit..];
    }
    if total == 0 {
        Err(wrong())
    } else {
        Ok(std::time::Duration::from_millis(total))
    }
}

/// An epoch as an RFC 3339 time in UTC with all its nanoseconds, for programs.
pub fn rfc3339(epoch: Epoch) -> String {
    timestamp(epoch).map_or_else(|| epoch.to_string(), |t| format!("{t:.9}"))
}

/// An epoch as an RFC 3339 time in UTC with milliseconds, for people.
pub fn readable(epoch: Epoch) -> String {
    timestamp(epoch).map_or_else(|| epoch.to_string(), |t| format!("{t:.3}"))
}

/// A duration as people say it: `3m20s`, `5h`, `12d`.
pub fn age(since: Epoch, now: Epoch) -> String {
    brief(std::time::Duration::from_nanos(
        now.0.saturating_sub(since.0),
    ))
}

/// A duration in its two largest units.
pub fn brief(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    let (d, h, m, s) = (
        seconds / 86_400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    );
    match (d, h, m, s) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, 0) => format!("{m}m"),
        (0, 0, m, s) if m < 10 => format!("{m}m{s}s"),
        (0, 0, m, _) => format!("{m}m"),
        (0, h, 0, _) => format!("{h}h"),
        (0, h, m, _) => format!("{h}h{m}m"),
        (d, 0, ..) => format!("{d}d"),
        (d, h, ..) if d < 10 => format!("{d}d{h}h"),
        (d, ..) => format!("{d}d"),
    }
}

/// The present instant by the wall clock.
pub fn now() -> Epoch {
    use storage_engine::Clock;
    Epoch(storage_engine::SystemClock.now())
}

fn timestamp(epoch: Epoch) -> Option<Timestamp> {
    Timestamp::UNIX_EPOCH
        .checked_add(SignedDuration::from_nanos(i64::try_from(epoch.0).ok()?))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Epoch = Epoch(1_800_000_000_123_456_789);

    #[test]
    fn an_instant_is_an_epoch_a_time_or_an_age() {
        assert_eq!(
            parse_instant("1800000000000000001", NOW).unwrap(),
            Epoch(1_800_000_000_000_000_001)
        );
        assert_eq!(parse_instant(&rfc3339(NOW), NOW).unwrap(), NOW);
        assert_eq!(
            parse_instant("1970-01-01T00:00:01+00:00", NOW).unwrap(),
            Epoch(1_000_000_000)
        );
        assert_eq!(
            parse_instant("-1m", NOW).unwrap(),
            Epoch(NOW.0 - 60_000_000_000)
        );
        for wrong in [
            "",
            "yesterday",
            "1969-01-01T00:00:00Z",
            "-",
            "-5",
            "99999999999999999999999",
        ] {
            assert_eq!(
                parse_instant(wrong, NOW).unwrap_err().reason,
                "Usage",
                "{wrong}"
            );
        }
    }

    #[test]
    fn durations_add_up_and_ages_are_short() {
        assert_eq!(parse_duration("1h30m").unwrap().as_secs(), 5400);
        assert_eq!(parse_duration("7d").unwrap().as_secs(), 604_800);
        for wrong in ["", "5", "h", "1y", "0s", "1h-1m"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(age(Epoch(0), Epoch(200_000_000_000)), "3m20s");
        assert_eq!(age(Epoch(5), Epoch(0)), "0s");
        assert_eq!(brief(std::time::Duration::from_secs(90_000)), "1d1h");
    }

    #[test]
    fn times_are_printed_in_utc() {
        assert_eq!(rfc3339(Epoch(1)), "1970-01-01T00:00:00.000000001Z");
        assert_eq!(readable(Epoch(1_500_000_000)), "1970-01-01T00:00:01.500Z");
    }
}
