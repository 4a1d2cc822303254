//! Pages of what is in a folder, in the order of object stores.
//!
//! Their order is that of whole keys: `a-b/x` comes before `a/x`, because `-` is less than `/`.
//! A folder therefore sorts as its name with a slash.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use super::is_absent;
use crate::{Entry, Error, Key, List, Listing, Prefix};

/// Returns one page. Keeps no more names in memory than the page has, per level of folders.
pub(super) fn page(root: &Path, list: &List) -> Result<Listing, Error> {
    let limit = list.limit.max(1);
    let mut page = Page {
        root,
        after: list.after.as_deref().unwrap_or_default(),
        folders: list.folders,
        // One more than asked for tells whether there is more.
        limit: limit.saturating_add(1),
        entries: Vec::new(),
    };
    page.visit(list.prefix.as_str())
        .map_err(|source| Error::Io {
            operation: "list",
            path: root.join(list.prefix.as_str()),
            source,
        })?;
    let mut entries = page.entries;
    let more = entries.len() > limit;
    entries.truncate(limit);
    Ok(Listing { entries, more })
}

struct Page<'a> {
    root: &'a Path,
    after: &'a str,
    folders: bool,
    limit: usize,
    entries: Vec<Entry>,
}

impl Page<'_> {
    fn visit(&mut self, prefix: &str) -> io::Result<()> {
        let mut last: Option<String> = None;
        while self.entries.len() < self.limit {
            let want = self.limit - self.entries.len();
            let batch = self.batch(prefix, last.as_deref(), want)?;
            let full = batch.len() == want;
            for text in batch {
                if let Some(folder) = text.strip_suffix('/') {
                    if !self.folders {
                        self.visit(&text)?;
                    } else if holds_anything(&self.root.join(folder))?
                        && let Ok(folder) = Prefix::new(text.as_str())
                    {
                        self.entries.push(Entry::Folder(folder));
                    }
                } else if let Ok(key) = Key::new(text.as_str()) {
                    self.entries.push(Entry::Object(key));
                }
                last = Some(text);
                if self.entries.len() == self.limit {
                    return Ok(());
                }
            }
            if !full {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Returns the first `want` names in a folder that come after `last`, and hold or are
    /// something after the page's start.
    fn batch(&self, prefix: &str, last: Option<&str>, want: usize) -> io::Result<BTreeSet<String>> {
        let mut batch = BTreeSet::new();
        for_each_name(&self.root.join(prefix), |name, is_folder| {
            let slash = if is_folder { "/" } else { "" };
            let text = format!("{prefix}{name}{slash}");
            let holds_more = is_folder && !self.folders && self.after.starts_with(&text);
            let wanted = (text.as_str() > self.after || holds_more)
                && last.is_none_or(|last| text.as_str() > last);
            if wanted {
                batch.insert(text);
                if batch.len() > want {
                    batch.pop_last();
                }
            }
        })?;
        Ok(batch)
    }
}

fn holds_anything(folder: &Path) -> io::Result<bool> {
    let mut inner = Vec::new();
    let mut found = false;
    for_each_name(folder, |name, is_folder| {
        if !is_folder {
            found = true;
        } else if !found {
            inner.push(name.to_owned());
        }
    })?;
    if found {
        return Ok(true);
    }
    for name in inner {
        if holds_anything(&folder.join(name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Calls `visit` with each name in a folder that can be part of a key, and whether it is a
/// folder. Never where there is no folder.
fn for_each_name(folder: &Path, mut visit: impl FnMut(&str, bool)) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if Key::new(name).is_err() {
            continue;
        }
        let mut kind = entry.file_type()?;
        if kind.is_symlink() {
            // Follows links, as reading does.
            match fs::metadata(entry.path()) {
                Ok(metadata) => kind = metadata.file_type(),
                Err(error) if is_absent(&error) => continue,
                Err(error) => return Err(error),
            }
        }
        if kind.is_dir() || kind.is_file() {
            visit(name, kind.is_dir());
        }
    }
    Ok(())
}
