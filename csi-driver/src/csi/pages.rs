//! Listings in pages. A token is the id that the last page ended with, so a page is right whatever was made or deleted
//! in between.

use super::error::{Code, CsiError, Result};

/// One page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries.
    pub entries: Vec<T>,
    /// Where the next page begins; empty at the end.
    pub next: String,
}

/// The page of at most `most` entries (0: all) after `token`. `entries` are sorted by id; `parse` reads an id.
pub(super) fn page<T, I: Ord>(
    entries: Vec<(I, T)>,
    most: i32,
    token: &str,
    parse: impl FnOnce(&str) -> Option<I>,
    show: impl FnOnce(&I) -> String,
) -> Result<Page<T>> {
    let most = usize::try_from(most)
        .map_err(|_| CsiError::invalid(format!("max_entries is {most}, which is negative")))?;
    let after = match token {
        "" => None,
        token => Some(parse(token).ok_or_else(|| {
            CsiError::new(
                Code::Aborted,
                "the starting token is none of ours; list from the beginning",
            )
        })?),
    };
    let mut rest = entries
        .into_iter()
        .filter(|(id, _)| after.as_ref().is_none_or(|after| id > after));
    let most = if most == 0 { usize::MAX } else { most };
    let mut entries = Vec::new();
    let mut last = None;
    for (id, entry) in rest.by_ref().take(most) {
        entries.push(entry);
        last = Some(id);
    }
    let more = rest.next().is_some();
    Ok(Page {
        entries,
        next: last
            .filter(|_| more)
            .map(|id| show(&id))
            .unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_put_together_are_the_whole_and_a_foreign_token_is_refused() {
        let all: Vec<(u32, u32)> = (0..10).map(|n| (n, n * n)).collect();
        let ask =
            |most, token: &str| page(all.clone(), most, token, |t| t.parse().ok(), u32::to_string);
        let (mut token, mut seen) = (String::new(), Vec::new());
        loop {
            let page = ask(3, &token).unwrap();
            seen.extend(page.entries);
            token = page.next;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(seen, (0..10).map(|n| n * n).collect::<Vec<u32>>());
        assert_eq!(ask(0, "").unwrap().entries.len(), 10);
        assert_eq!(ask(3, "foreign").unwrap_err().code, Code::Aborted);
        assert_eq!(ask(-1, "").unwrap_err().code, Code::InvalidArgument);
    }
}
