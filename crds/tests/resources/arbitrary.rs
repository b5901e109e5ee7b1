//! Whatever the text: read or refused, never a panic.

use crds::manifest;
use proptest::prelude::*;

/// Texts that look like manifests: pieces of them in any order, and any characters between.
fn any_text() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "apiVersion: anabranch.dev/v1alpha1\n",
        "kind: BucketFork\n",
        "kind: Bucket\n",
        "metadata: {name: a}\n",
        "metadata:\n  name: a\n",
        "spec:\n",
        "spec: {}\n",
        "  source: {bucket: b}\n",
        "  lifetime: {ttl: 1h}\n",
        "  count: 3\n",
        "---\n",
        "--- ",
        "...\n",
        "---",
        "%YAML 1.2\n",
        "- ",
        "? ",
        ": ",
        "&a ",
        "*a",
        "<<: *a\n",
        "!!str ",
        "!x ",
        "|\n",
        ">-\n  ",
        "'",
        "\"",
        "{",
        "}",
        "[",
        "]",
        ",",
        "#",
        "\n",
        " ",
        "\t",
        "\r\n",
        "null",
        "~",
        "1e999",
        "0x1F",
        "-",
        "é",
        "\u{feff}",
        "\u{2028}",
        "\0",
        "9223372036854775808",
        ".inf",
    ]);
    let part =
        prop_oneof![6 => pieces.prop_map(str::to_owned), 1 => any::<String>(), 1 => "[ -~]{0,8}"];
    prop::collection::vec(part, 0..30).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever the text: no panic, every error has its place in it, and its documents are counted.
    #[test]
    fn any_text_is_read_or_refused_in_place(text in any_text()) {
        let lines = text.split('\n').count() + text.matches(['\r', '\u{2028}', '\u{2029}', '\u{85}']).count();
        for (index, document) in manifest::parse(&text).into_iter().enumerate() {
            prop_assert_eq!(document.index, index + 1);
            prop_assert!((1..=lines + 1).contains(&document.line));
            if let Err(errors) = document.result {
                prop_assert!(!errors.is_empty());
                for error in errors {
                    prop_assert!((1..=lines + 1).contains(&error.line), "{}", error);
                    prop_assert!(!error.message.is_empty());
                }
            }
        }
        manifest::load([("a", text.as_str()), ("b", text.as_str())]);
    }

    /// Texts of the newtypes: what their patterns let through can be read, and is shown as something that reads the same.
    #[test]
    fn patterns_and_readers_agree(
        bytes in "[0-9]{1,20}(\\.[0-9]{1,10})?([kMGTPEKi]|[KMGTPE]i|)",
        time in "([0-9]{1,10}(\\.[0-9]{1,7})?(ms|s|m|h|d|w|y)){1,7}",
        free in "[0-9a-zA-Z. -]{0,6}",
    ) {
        let pattern = |pattern: &str, text: &str| regex::Regex::new(pattern).unwrap().is_match(text);
        for text in [&bytes, &free] {
            let read = text.parse::<crds::Bytes>();
            prop_assert_eq!(read.is_ok(), pattern(crds::quantity::PATTERN, text), "{}", text);
            if let Ok(read) = read {
                prop_assert_eq!(read.to_string().parse(), Ok(read));
            }
        }
        for text in [&time, &free] {
            let read = text.parse::<crds::Duration>();
            prop_assert_eq!(read.is_ok(), pattern(crds::duration::PATTERN, text), "{}", text);
            if let Ok(read) = read {
                prop_assert_eq!(read.to_string().parse(), Ok(read));
            }
        }
    }

    /// What the pattern of `at` lets through is read, but for days that no calendar has and times before 1970.
    #[test]
    fn the_pattern_of_at_and_its_reader_agree(
        year in 1970u32..2500, month in 0u32..15, day in 0u32..33, hour in 0u32..26, minute in 0u32..62, second in 0u32..62,
        tail in "(\\.[0-9]{0,10})?(Z|z|[+-][0-2][0-9]:[0-6][0-9]|)",
    ) {
        let text = format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{tail}");
        let pattern = regex::Regex::new(crds::time::AT_PATTERN).unwrap().is_match(&text);
        let read = text.parse::<crds::At>();
        prop_assert!(pattern || read.is_err(), "{} is read and not in the pattern", text);
        if pattern && (1..=12).contains(&month) && (1..=28).contains(&day) && year > 1970 {
            prop_assert!(read.is_ok(), "{:?}", read);
        }
    }
}
