//! Numbers of bytes as people write them: `1Gi`, `500M`, `1073741824`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What is allowed where a number of bytes stands, for messages.
pub const ALLOWED: &str = "a whole number of bytes, or a number with one of k M G T P E (powers of 1000) or Ki Mi Gi Ti Pi Ei (powers of 1024), such as 500M or 1.5Gi";

/// The same as a regular expression for texts (a whole number may also be written without quotes).
pub const PATTERN: &str = r"^[0-9]{1,19}(\.[0-9]{1,9})?([kMGTPE]|[KMGTPE]i)?$";

/// The largest number of bytes, and the largest number that an API server keeps exactly. Texts that say more are read
/// as this one, so that an object that an API server took ([`PATTERN`]) is never unreadable.
pub const MAX: u64 = i64::MAX as u64;

const UNITS: [(&str, u64); 12] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
];

/// A number of bytes, exact. Shown in the largest unit that divides it (`1Gi`, `1500M`, `12345`).
///
/// Reads integers and texts. A fraction of a byte counts as a whole one, as in Kubernetes (`0.1Ki` is 103 bytes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

/// Why a text is not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a number of bytes: {why}; allowed: {ALLOWED}")]
pub struct BytesError {
    /// What was written.
    pub text: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for Bytes {
    type Err = BytesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = |why| {
            Err(BytesError {
                text: text.chars().take(64).collect(),
                why,
            })
        };
        let number_end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let (number, suffix) = text.split_at(number_end);
        let unit = match UNITS.iter().find(|(name, _)| *name == suffix) {
            Some((_, unit)) => *unit,
            None if suffix.is_empty() => 1,
            None if number.is_empty() => return fail("it does not start with a digit"),
            None => return fail("the unit is unknown"),
        };
        let (whole, fraction) = match number.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (number, None),
        };
        if number.is_empty() && !text.is_empty() {
            return fail("it does not start with a digit");
        }
        if whole.is_empty() || whole.len() > 19 {
            return fail("it must have 1 to 19 digits before the point");
        }
        let Ok(whole) = whole.parse::<u64>() else {
            return fail("it has more than one point");
        };
        let mut bytes = u128::from(whole) * u128::from(unit);
        if let Some(fraction) = fraction {
            if fraction.is_empty() || fraction.len() > 9 {
                return fail("it must have 1 to 9 digits after the point");
            }
            let Ok(digits) = fraction.parse::<u32>() else {
                return fail("it has more than one point");
            };
            let scale = 10u128.pow(fraction.len() as u32);
            bytes += (u128::from(digits) * u128::from(unit)).div_ceil(scale);
        }
        Ok(Bytes(u64::try_from(bytes).unwrap_or(MAX).min(MAX)))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = |units: &[(&'static str, u64)]| {
            units
                .iter()
                .rev()
                .find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit))
                .copied()
        };
        match exact(&UNITS[..6]).or_else(|| exact(&UNITS[6..])) {
            Some((name, unit)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A number of bytes for people, rounded to three digits: `12.3Mi`, `0`, `1000Gi`. Not to be read back.
pub fn human(bytes: u64) -> String {
    for (name, unit) in UNITS[..6].iter().rev() {
        if bytes >= *unit {
            let value = bytes as f64 / *unit as f64;
            let digits = if value < 9.995 {
                2
            } else if value < 99.95 {
                1
            } else {
                0
            };
            let mut text = format!("{value:.digits$}");
            if text.contains('.') {
                text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
            }
            return text + name;
        }
    }
    bytes.to_string()
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(ALLOWED)
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Bytes, E> {
                if value > MAX {
                    return Err(E::custom(BytesError {
                        text: value.to_string(),
                        why: "it is too large",
                    }));
                }
                Ok(Bytes(value))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Bytes, E> {
                u64::try_from(value).map(Bytes).map_err(|_| {
                    E::custom(BytesError {
                        text: value.to_string(),
                        why: "it is negative",
                    })
                })
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Bytes, E> {
                value.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> Cow<'static, str> {
        "Bytes".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "pattern": PATTERN,
            "minimum": 0,
            "maxLength": 32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("1073741824", 1 << 30),
            ("1Gi", 1 << 30),
            ("1.5Gi", 3 << 29),
            ("500M", 500_000_000),
            ("1k", 1000),
            ("0.1Ki", 103),
            ("7Ei", 7 << 60),
            ("9223372036854775807", MAX),
            ("0000000000000000001Ki", 1024),
            ("8Ei", MAX),
            ("9999999999999999999E", MAX),
        ] {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)), "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong_and_what_is_allowed() {
        for (text, why) in [
            ("", "before the point"),
            ("Gi", "start with a digit"),
            ("-1", "start with a digit"),
            ("1gb", "unit"),
            ("1 Gi", "unit"),
            ("1e9", "unit"),
            ("1.Gi", "after the point"),
            ("1.2.3", "more than one point"),
            ("99999999999999999999", "before the point"),
            ("１Gi", "start with a digit"),
        ] {
            let error = text.parse::<Bytes>().unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert!(
                error.contains("allowed: a whole number of bytes"),
                "{error}"
            );
        }
    }

    #[test]
    fn shows_exactly_what_it_reads() {
        for bytes in [
            0,
            1,
            1000,
            1023,
            1024,
            1500,
            1 << 30,
            3 << 29,
            1_500_000,
            MAX,
            MAX - 1,
            5_000_000_000,
        ] {
            assert_eq!(Bytes(bytes).to_string().parse::<Bytes>(), Ok(Bytes(bytes)));
        }
        assert_eq!(Bytes(1 << 30).to_string(), "1Gi");
        assert_eq!(Bytes(500_000_000).to_string(), "500M");
        assert_eq!(Bytes(12345).to_string(), "12345");
    }

    #[test]
    fn rounds_for_people() {
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1Ki"),
            (12_900_000, "12.3Mi"),
            (1 << 30, "1Gi"),
            ((1 << 40) - 1, "1024Gi"),
            (1536, "1.5Ki"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
