//! Texts that no caller with good intentions sends.
#![allow(missing_docs)]

const PLAIN: &[&str] = &[
    "",
    ".",
    "..",
    "/",
    "//",
    "../..",
    "../../etc/passwd",
    "/etc/passwd",
    "/proc/self/environ",
    "/proc/self/root",
    "/dev/zero",
    "~",
    "$HOME",
    "$(reboot)",
    "`reboot`",
    "; reboot",
    "| cat",
    "&& true",
    "%00",
    "%2e%2e%2f",
    "..%2f..%2f",
    "..\\..\\",
    "C:\\",
    "\0",
    "a\0b",
    "\n",
    "a\nb",
    "\r\n\r\n",
    "\t",
    "\u{1b}[2J",
    "\u{202e}",
    "\u{feff}",
    "ä",
    "\u{0}\u{0}",
    "'",
    "\"",
    "' or 1=1 --",
    "{}",
    "[]",
    "null",
    "-1",
    "1e309",
    "NaN",
    "18446744073709551616",
    "vol-",
    "snap-",
    "group-",
    "vol",
    "volume/x",
    "volumesnapshot/x",
    "groupsnapshot/x",
    "bucket/default/base",
    "fork/default/x",
    "ephemeral/x",
    "file:///etc/passwd",
    "unix:///x",
    "http://127.0.0.1/",
    "${jndi:ldap://x}",
    "<script>",
    "%s%s%s%n",
    "*",
    "?",
    "[a-z]",
    "!",
    "#",
];

/// More than 200: traversals, encodings, controls, wrong lengths, and near misses of each real id.
pub fn hostile(real: &[&str]) -> Vec<String> {
    let mut all: Vec<String> = PLAIN.iter().map(|text| (*text).to_owned()).collect();
    for length in [
        1, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1024, 4096, 65536,
    ] {
        all.push("a".repeat(length));
        for prefix in ["vol-", "snap-", "group-"] {
            all.push(format!("{prefix}{}", "0".repeat(length)));
        }
        all.push("../".repeat(length / 3));
        all.push("\u{1f4a9}".repeat(length / 4));
    }
    for real in real {
        // One character changed at each place, and the whole with something around it.
        for at in 0..real.len() {
            for with in ["g", "/", "\0", "A"] {
                let mut text = (*real).to_owned();
                text.replace_range(at..=at, with);
                all.push(text);
            }
        }
        for around in [" ", "/", "\n", "\0", ".", "%20"] {
            all.push(format!("{around}{real}"));
            all.push(format!("{real}{around}"));
        }
        all.push(real.to_uppercase());
        // The digits of one kind of id as another kind.
        if let Some((_, digits)) = real.split_once('-') {
            for prefix in ["vol-", "snap-", "group-", ""] {
                all.push(format!("{prefix}{digits}"));
            }
        }
    }
    all.sort();
    all.dedup();
    all.retain(|text| !real.contains(&text.as_str()));
    all
}
