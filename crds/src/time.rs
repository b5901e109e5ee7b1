//! Instants: epochs of the engine, and the `at:` of a source.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Position in the engine's history, in Unix nanoseconds. Written as a decimal text: it does not fit into the numbers
/// that JavaScript and jq keep exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The instant of the epoch, as close as a timestamp can say it.
    pub fn timestamp(self) -> Timestamp {
        Timestamp::from_nanosecond(i128::from(self.0)).unwrap_or(Timestamp::MAX)
    }

    /// The epoch of an instant; instants before 1970 are epoch 0, those after 2554 the last epoch.
    pub fn of(time: Timestamp) -> Self {
        Epoch(u64::try_from(time.as_nanosecond().max(0)).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A text that is not an epoch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an epoch; allowed: a decimal number of Unix nanoseconds")]
pub struct EpochError(pub String);

impl FromStr for Epoch {
    type Err = EpochError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(epoch) if digits => Ok(Epoch(epoch)),
            _ => Err(EpochError(text.chars().take(64).collect())),
        }
    }
}

impl Serialize for Epoch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Epoch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Epoch {
    fn schema_name() -> Cow<'static, str> {
        "Epoch".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[0-9]{1,20}$", "maxLength": 20 })
    }
}

/// What is allowed in `at:`, for messages.
pub const AT_ALLOWED: &str = "an RFC 3339 time such as 2026-01-31T12:00:00Z, or an epoch: Unix nanoseconds as a quoted decimal number";

/// The same as a regular expression. The times that it lets through and that are none (the 31st of February) are refused
/// by a CEL rule.
pub const AT_PATTERN: &str = r"^([0-9]{1,19}|[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9]))$";

/// A past instant of a timeline: a time or an epoch. Keeps the text as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct At {
    text: String,
    epoch: Epoch,
}

impl At {
    /// The epoch meant: itself, or the one of the time.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl From<Epoch> for At {
    fn from(epoch: Epoch) -> Self {
        At {
            text: epoch.to_string(),
            epoch,
        }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text that is neither a time nor an epoch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither a time nor an epoch: {why}; allowed: {AT_ALLOWED}")]
pub struct AtError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub why: String,
}

impl FromStr for At {
    type Err = AtError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |why: String| {
            Err(AtError {
                text: text.chars().take(64).collect(),
                why,
            })
        };
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            return match text.parse() {
                Ok(epoch) if text.len() <= 19 => Ok(At {
                    text: text.to_owned(),
                    epoch,
                }),
                _ => fail("a number of 1 to 19 digits is expected".to_owned()),
            };
        }
        if !rfc3339(text.as_bytes()) {
            return fail("the form is another".to_owned());
        }
        match text.parse::<Timestamp>() {
            Ok(time) if time.as_second() >= YEAR_9999 => {
                fail("it is after the year 9998".to_owned())
            }
            Ok(time) if time.as_nanosecond() >= 0 => Ok(At {
                text: text.to_owned(),
                epoch: Epoch::of(time),
            }),
            Ok(_) => fail("it is before 1970".to_owned()),
            Err(error) => fail(error.to_string()),
        }
    }
}

/// The first second of the year 9999: the last times of the calendar are none of ours.
pub(crate) const YEAR_9999: i64 = 253_370_764_800;

/// Whether a text has the form of an RFC 3339 time as API servers take it: with capital letters. The date is not looked at.
pub(crate) fn is_rfc3339(text: &str) -> bool {
    rfc3339(text.as_bytes())
}

/// Whether a text has the form of [`AT_PATTERN`]'s time.
fn rfc3339(text: &[u8]) -> bool {
    let digits = |form: &[u8], text: &[u8]| {
        form.len() == text.len()
            && form.iter().zip(text).all(|(form, byte)| match form {
                b'0' => byte.is_ascii_digit(),
                b'+' => matches!(byte, b'+' | b'-'),
                other => byte == other,
            })
    };
    let Some((head, tail)) = text.split_at_checked(19) else {
        return false;
    };
    // A leap second is no instant of the engine; the other ranges are checked with the date.
    if !digits(b"0000-00-00T00:00:00", head) || head.ends_with(b"60") {
        return false;
    }
    let zone = match tail.strip_prefix(b".") {
        None => tail,
        Some(fraction) => {
            let count = fraction
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            if !(1..=9).contains(&count) {
                return false;
            }
            &fraction[count..]
        }
    };
    zone == b"Z" || (digits(b"+00:00", zone) && zone[1..3] < b"24"[..] && zone[4..] < b"60"[..])
}

impl Serialize for At {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for At {
    fn schema_name() -> Cow<'static, str> {
        "At".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": AT_PATTERN, "maxLength": 40 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_reads_times_and_epochs_and_keeps_the_text() {
        for (text, epoch) in [
            ("1970-01-01T00:00:01Z", 1_000_000_000),
            ("1970-01-01T01:00:01.5+01:00", 1_500_000_000),
            ("1764183335000000000", 1_764_183_335_000_000_000),
            ("0", 0),
        ] {
            let at: At = text.parse().unwrap();
            assert_eq!(at.epoch(), Epoch(epoch));
            assert_eq!(serde_json::to_value(&at).unwrap(), text);
        }
    }

    #[test]
    fn at_says_what_is_allowed() {
        for text in [
            "",
            "yesterday",
            "2026-01-31",
            "2026-01-31 12:00:00Z",
            "2026-01-31T12:00Z",
            "2026-02-31T12:00:00Z",
            "2026-01-31T25:00:00Z",
            "1969-12-31T23:59:59Z",
            "-1",
            "99999999999999999999",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00+24:00",
            "2026-01-31T12:00:00+01:60",
            "2026-01-31T12:00:60Z",
            "2026-01-31T12:00:00é",
        ] {
            let error = text.parse::<At>().unwrap_err().to_string();
            assert!(error.contains("allowed: an RFC 3339 time"), "{error}");
        }
    }

    #[test]
    fn epoch_is_a_decimal_text() {
        let epoch = Epoch(1_764_183_335_000_000_001);
        assert_eq!(serde_json::to_value(epoch).unwrap(), "1764183335000000001");
        assert_eq!(
            serde_json::from_str::<Epoch>("\"1764183335000000001\"").unwrap(),
            epoch
        );
        assert!("+1".parse::<Epoch>().is_err());
        assert_eq!(Epoch::of(epoch.timestamp()), epoch);
    }
}
