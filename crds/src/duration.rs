//! Lengths of time as people write them: `90m`, `24h`, `1h30m`, `7d`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What is allowed where a length of time stands, for messages.
pub const ALLOWED: &str = "numbers with a unit, one after the other, of ms s m h d w (d is 24h, w is 7d), such as 90m, 24h, 1h30m or 7d";

/// The same as a regular expression.
pub const PATTERN: &str = r"^([0-9]{1,9}(\.[0-9]{1,6})?(ms|s|m|h|d|w)){1,6}$";

/// Units with their length in nanoseconds, the longest first.
const UNITS: [(&str, u64); 6] = [
    ("w", 604_800_000_000_000),
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// The longest length of time; longer ones are read as this one.
pub const MAX: time::Duration = time::Duration::from_secs(999_999_999 * 86_400);

/// A length of time, exact to the nanosecond. Shown in Go's style with days (`1d12h`, `90s` is `1m30s`).
///
/// Everything that [`PATTERN`] lets through can be read, so that an object that an API server took is never unreadable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub time::Duration);

/// Why a text is not a length of time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a length of time: {why}; allowed: {ALLOWED}")]
pub struct DurationError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for Duration {
    type Err = DurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |why| {
            Err(DurationError {
                text: text.chars().take(64).collect(),
                why,
            })
        };
        if text.is_empty() {
            return fail("it is empty");
        }
        let mut rest = text;
        // No overflow: six parts of at most 10^9 weeks are below 2^92 nanoseconds.
        let mut nanos: u128 = 0;
        let mut parts = 0;
        while !rest.is_empty() {
            parts += 1;
            if parts > 6 {
                return fail("it has more than six parts");
            }
            let number_end = rest
                .find(|c: char| !c.is_ascii_digit() && c != '.')
                .unwrap_or(rest.len());
            let (number, tail) = rest.split_at(number_end);
            if number.is_empty() {
                return fail("a number is missing");
            }
            let unit_end = tail
                .find(|c: char| c.is_ascii_digit() || c == '.')
                .unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_end);
            if unit.is_empty() {
                return fail("a unit is missing");
            }
            let Some((_, unit)) = UNITS.iter().find(|(name, _)| *name == unit) else {
                return fail("the unit is unknown");
            };
            let (whole, fraction) = match number.split_once('.') {
                Some((whole, fraction)) => (whole, Some(fraction)),
                None => (number, None),
            };
            if whole.is_empty() || whole.len() > 9 {
                return fail("a number must have 1 to 9 digits before the point");
            }
            let Ok(whole) = whole.parse::<u64>() else {
                return fail("a number has more than one point");
            };
            nanos += u128::from(whole) * u128::from(*unit);
            if let Some(fraction) = fraction {
                if fraction.is_empty() || fraction.len() > 6 {
                    return fail("a number must have 1 to 6 digits after the point");
                }
                let Ok(digits) = fraction.parse::<u32>() else {
                    return fail("a number has more than one point");
                };
                nanos += u128::from(digits) * u128::from(*unit) / 10u128.pow(fraction.len() as u32);
            }
            rest = tail;
        }
        let nanos = nanos.min(MAX.as_nanos());
        let seconds = (nanos / 1_000_000_000) as u64;
        Ok(Duration(time::Duration::new(
            seconds,
            (nanos % 1_000_000_000) as u32,
        )))
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, unit) in &UNITS[1..4] {
            let count = rest / u128::from(*unit);
            if count > 0 {
                write!(f, "{count}{name}")?;
                rest %= u128::from(*unit);
            }
        }
        let (seconds, nanos) = (rest / 1_000_000_000, rest % 1_000_000_000);
        match nanos {
            0 if seconds > 0 => write!(f, "{seconds}s"),
            0 => Ok(()),
            // Six digits after the point of a millisecond are nanoseconds.
            _ => {
                if seconds > 0 {
                    write!(f, "{seconds}s")?;
                }
                let (millis, nanos) = (nanos / 1_000_000, nanos % 1_000_000);
                match nanos {
                    0 => write!(f, "{millis}ms"),
                    _ => write!(
                        f,
                        "{millis}.{}ms",
                        format!("{nanos:06}").trim_end_matches('0')
                    ),
                }
            }
        }
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": PATTERN, "maxLength": 64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    #[test]
    fn reads_what_people_write() {
        for (text, seconds) in [
            ("0s", 0),
            ("1h", HOUR),
            ("24h", 24 * HOUR),
            ("7d", 7 * 24 * HOUR),
            ("2w", 14 * 24 * HOUR),
            ("1h30m", 5400),
            ("1.5h", 5400),
            ("90m", 5400),
            ("1d12h", 36 * HOUR),
        ] {
            assert_eq!(
                text.parse::<Duration>(),
                Ok(Duration(time::Duration::from_secs(seconds))),
                "{text}"
            );
        }
        assert_eq!(
            "250ms".parse::<Duration>(),
            Ok(Duration(time::Duration::from_millis(250)))
        );
    }

    #[test]
    fn says_what_is_wrong_and_what_is_allowed() {
        for (text, why) in [
            ("", "empty"),
            ("24", "unit is missing"),
            ("h", "number is missing"),
            ("-1h", "number is missing"),
            ("1 h", "unit is unknown"),
            ("1y", "unit is unknown"),
            ("1.h", "after the point"),
            (".5h", "before the point"),
            ("1..5h", "point"),
            ("1.2.3h", "point"),
            ("9999999999h", "before the point"),
            ("1s1s1s1s1s1s1s", "six parts"),
        ] {
            let error = text.parse::<Duration>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(error.contains("allowed: numbers with a unit"), "{error}");
        }
    }

    #[test]
    fn shows_exactly_what_it_reads() {
        for (text, shown) in [
            ("0h", "0s"),
            ("24h", "1d"),
            ("90s", "1m30s"),
            ("1w", "7d"),
            ("250ms", "250ms"),
            ("1.000001ms", "1.000001ms"),
            ("1.5s", "1s500ms"),
            ("999999999w", "999999999d"),
            ("999999999d23h", "999999999d"),
        ] {
            let read: Duration = text.parse().unwrap();
            assert_eq!(read.to_string(), shown);
            assert_eq!(shown.parse::<Duration>(), Ok(read), "{text}");
        }
    }
}
