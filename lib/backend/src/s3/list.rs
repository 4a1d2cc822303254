//! Listing a bucket as a folder is listed.

use super::S3Backend;
use super::failure::Failure;
use crate::{Entry, Error, Key, List, Listing, Prefix};

/// Most names in one answer of the store.
const MAX_NAMES: usize = 1000;
/// Sorts after everything that a folder holds.
const LAST: char = '\u{10ffff}';

impl S3Backend {
    pub(super) async fn list_pages(&self, list: List) -> Result<Listing, Error> {
        let limit = list.limit.max(1);
        let mut entries: Vec<Entry> = Vec::new();
        let mut after = list.after.clone();
        loop {
            // One more than is wanted tells whether there is more.
            let wanted = limit + 1 - entries.len();
            let (mut page, more) = self.page(&list, after.as_deref(), wanted).await?;
            let last = page.last().map(|text| text.as_str().to_owned());
            entries.append(&mut page);
            if entries.len() > limit {
                entries.truncate(limit);
                return Ok(Listing {
                    entries,
                    more: true,
                });
            }
            match (more, last) {
                (true, Some(last)) => after = Some(last),
                (true | false, _) => {
                    return Ok(Listing {
                        entries,
                        more: false,
                    });
                }
            }
        }
    }

    /// Returns entries after a text, in byte order, and whether there may be more. A page is empty
    /// only at the end.
    async fn page(
        &self,
        list: &List,
        after: Option<&str>,
        wanted: usize,
    ) -> Result<(Vec<Entry>, bool), Error> {
        let mut token = None;
        loop {
            let _turn = self.limits.request().await;
            let count = i32::try_from(wanted.min(MAX_NAMES)).unwrap_or(i32::MAX);
            let start = after.map(|after| self.path(&past(list, after)));
            let answer = self
                .client
                .list_objects_v2()
                .bucket(&*self.bucket)
                .prefix(self.path(list.prefix.as_str()))
                .set_delimiter(list.folders.then(|| "/".to_owned()))
                .set_start_after(start.filter(|_| token.is_none()))
                .set_continuation_token(token)
                .max_keys(count)
                .send()
                .await
                .map_err(|error| Failure::of(&error).into_list_error(&list.prefix))?;
            let folders = answer.common_prefixes().iter().filter_map(|folder| {
                let text = folder.prefix()?.strip_prefix(&*self.prefix)?;
                Some(Entry::Folder(Prefix::new(text).ok()?))
            });
            // What is not named as Shoal or docker-registry name things is not ours.
            let objects = answer.contents().iter().filter_map(|object| {
                let text = object.key()?.strip_prefix(&*self.prefix)?;
                Some(Entry::Object(Key::new(text).ok()?))
            });
            let mut entries: Vec<Entry> = folders.chain(objects).collect();
            entries.retain(|entry| after.is_none_or(|after| entry.as_str() > after));
            entries.sort_by(|one, other| one.as_str().cmp(other.as_str()));
            let more = answer.is_truncated().unwrap_or_default();
            token = answer.next_continuation_token;
            if !more || !entries.is_empty() || token.is_none() {
                return Ok((entries, more));
            }
        }
    }
}

/// Returns where the store has to start. A folder that was listed already is skipped whole.
fn past(list: &List, after: &str) -> String {
    if !list.folders {
        return after.to_owned();
    }
    let inner = after.strip_prefix(list.prefix.as_str());
    match inner.and_then(|inner| inner.split_once('/')) {
        Some((folder, _)) => format!("{}{folder}/{LAST}", list.prefix),
        None => after.to_owned(),
    }
}
