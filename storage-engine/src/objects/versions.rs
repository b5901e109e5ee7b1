//! Listing versions.

use crate::error::Result;
use crate::files::types::Time;

use super::Objects;
use super::history::Past;
use super::list::{Bounds, MAX_PAGE};
use super::types::{ObjectVersion, VersionsPage, VersionsRequest};
use super::walk::Walker;

impl Objects<'_> {
    /// Lists all versions that objects had within the history that is kept, deletions included, in the
    /// byte order of keys and of one key the newest first. The oldest one may have begun before that
    /// history. Of a past state: that state's versions. Each one listed can be read by its number while it
    /// is in the history or still there at its start. The open epoch is closed, so what is listed is
    /// final. Cost: all versions of what is listed, and of names that were there once.
    ///
    /// # Errors
    /// `InvalidArgument` for a token of another list, or an empty delimiter.
    pub fn list_versions(&self, request: &VersionsRequest) -> Result<VersionsPage> {
        let bounds = Bounds::new(
            &request.prefix,
            request.delimiter.as_deref(),
            request.start_after.as_deref(),
            request.token.as_deref(),
        )?;
        let max = request.max.min(MAX_PAGE);
        let mut page = VersionsPage::default();
        let from = match (&bounds.after, bounds.number) {
            // The key itself has more versions.
            (Some(key), Some(_)) => Some(key.as_bytes().to_vec()),
            (after, _) => bounds.from(after.as_deref()),
        };
        let Some(from) = from else {
            return Ok(page);
        };
        let _lease = self.lease_history();
        let eras = self.eras()?;
        let past = Past {
            index: &self.volume.inner().index,
            eras: &eras,
        };
        let mut walker = Walker::new(&past, past.root(), bounds.prefix, &from)?;
        let mut count = 0;
        let mut token = None;
        while let Some((key, spans)) = walker.next()? {
            let versions = past.versions(&spans, key.ends_with('/'))?;
            let Some(newest) = versions.last().map(|(epoch, _)| *epoch) else {
                continue;
            };
            if let Some(common) = bounds.common(&key) {
                if count >= max {
                    page.next = token;
                    return Ok(page);
                }
                walker.skip(common.as_bytes())?;
                token = Some(bounds.token(common, None));
                page.common_prefixes.push(common.to_owned());
                count += 1;
                continue;
            }
            let resumed = bounds
                .number
                .filter(|_| bounds.after.as_deref() == Some(key.as_str()));
            for (epoch, identity) in versions.into_iter().rev() {
                if resumed.is_some_and(|number| epoch.0 >= number) {
                    continue;
                }
                if count >= max {
                    page.next = token;
                    return Ok(page);
                }
                token = Some(bounds.token(&key, Some(epoch.0)));
                count += 1;
                page.versions.push(match identity {
                    Some(identity) => ObjectVersion {
                        key: key.clone(),
                        version: epoch,
                        latest: epoch == newest,
                        deleted: false,
                        size: identity.size,
                        etag: identity.etag,
                        modified: identity.modified,
                    },
                    None => ObjectVersion {
                        key: key.clone(),
                        version: epoch,
                        latest: epoch == newest,
                        deleted: true,
                        size: 0,
                        etag: String::new(),
                        modified: Time::from_nanos(epoch.0),
                    },
                });
            }
        }
        Ok(page)
    }
}
