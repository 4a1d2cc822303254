//! Names of tags and of repositories, by pages, in byte order.
//!
//! Storage lists folders in the order of their names with a slash behind, so that `a-b` and `a.b`
//! come before `a`. Whoever meets such a name looks whether what it begins with is there too, and
//! nothing has to be listed whole to be sorted.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use backend::{Entry, Key, List, Prefix, layout};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use oci::{RepositoryName, Tag};

use crate::error::Failure;
use crate::repositories::Repositories;
use crate::storage::Storage;
use crate::tags::Tags;

/// Entries listed at a time.
const LISTED: usize = 500;
/// Look-ups made at a time: tags that docker-registry removed take a while each, see
/// [`Tags::read`].
const LOOKED_UP: usize = 64;
/// Most folders that one request looks into.
const MAX_FOLDERS: usize = 5000;

/// Lists of names. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    storage: Storage,
    repositories: Repositories,
    tags: Tags,
    /// A page ends early, but does not end the list, when it took this long.
    patience: Duration,
}

/// Names in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page<T> {
    pub(crate) names: Vec<T>,
    /// Where the next page begins; `None` at the end.
    pub(crate) next: Option<String>,
}

impl Names {
    pub(crate) const fn new(
        storage: Storage,
        repositories: Repositories,
        tags: Tags,
        patience: Duration,
    ) -> Self {
        Self {
            storage,
            repositories,
            tags,
            patience,
        }
    }

    /// Returns at most `limit` tags of a repository that come after `last`.
    pub(crate) async fn tags(
        &self,
        repository: &RepositoryName,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Page<Tag>, Failure> {
        let deadline = Instant::now() + self.patience;
        let mut names: Vec<Tag> = Vec::new();
        let mut after = last.map(str::to_owned);
        loop {
            let page = self.candidates(repository, after.as_deref()).await?;
            let is_first_and_empty = last.is_none() && after.is_none() && page.names.is_empty();
            if is_first_and_empty && !self.repositories.exists(repository).await? {
                return Err(Failure::NameUnknown(repository.clone()));
            }
            let looked_at = stream::iter(page.names).map(|tag| async move {
                let current = self.tags.read(repository, &tag).await?;
                Ok::<_, Failure>(current.map(|_| tag))
            });
            let mut looked_at = std::pin::pin!(looked_at.buffered(LOOKED_UP));
            while let Some(tag) = looked_at.try_next().await? {
                let Some(tag) = tag else { continue };
                if names.len() == limit {
                    let next = names.last().map(Tag::to_string).or(after);
                    return Ok(Page { names, next });
                }
                names.push(tag);
            }
            if page.next.is_none() || Instant::now() > deadline {
                let next = page.next;
                return Ok(Page { names, next });
            }
            after = page.next;
        }
    }

    /// Returns tags of a repository that come after `after`, and some that have been removed.
    pub(crate) async fn candidates(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
    ) -> Result<Page<Tag>, Failure> {
        let (recorded, linked) = tokio::try_join!(
            self.recorded(repository, after),
            self.linked(repository, after)
        )?;
        // What comes after the end of a part may stand before other names of the rest.
        let ends = [&recorded.next, &linked.next].into_iter().flatten();
        let next = ends.min().cloned();
        let mut names: BTreeSet<String> = recorded.names.into_iter().chain(linked.names).collect();
        if let Some(next) = &next {
            let _ = names.split_off(&format!("{next}\0"));
        }
        let names = names.iter().filter_map(|name| name.parse().ok()).collect();
        Ok(Page { names, next })
    }

    /// Returns tags that have a record.
    async fn recorded(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
    ) -> Result<Page<String>, Failure> {
        let folder = layout::tag_records(repository);
        let mut list = List::objects(folder.clone(), LISTED);
        if let Some(after) = after {
            list = list.after(format!("{}{after}", folder.as_str()));
        }
        let listing = self.storage.list(&list).await?;
        let name = |entry: &Entry| match entry {
            Entry::Object(key) => Key::strip(key, &folder).map(str::to_owned),
            Entry::Folder(_) => None,
        };
        let names: Vec<_> = listing.entries.iter().filter_map(name).collect();
        let next = names.last().filter(|_| listing.more).cloned();
        Ok(Page { names, next })
    }

    /// Returns tags that docker-registry knows.
    async fn linked(
        &self,
        repository: &RepositoryName,
        after: Option<&str>,
    ) -> Result<Page<String>, Failure> {
        let folder = layout::tags(repository);
        let page = self.folders(&folder, after, LISTED).await?;
        let mut begins = HashSet::new();
        let mut names = BTreeSet::new();
        for name in page.names {
            for begin in beginnings(&name) {
                if after.is_none_or(|after| begin > after) {
                    begins.insert(begin.to_owned());
                }
            }
            if after.is_none_or(|after| name.as_str() > after) {
                names.insert(name);
            }
        }
        begins.retain(|begin| !names.contains(begin) && begin.parse::<Tag>().is_ok());
        let looked_up = stream::iter(begins).map(|begin| async {
            let Ok(inner) = folder.folder(&begin) else {
                return Ok(None);
            };
            let listing = self.storage.list(&List::objects(inner, 1)).await?;
            Ok::<_, Failure>((!listing.entries.is_empty()).then_some(begin))
        });
        let mut looked_up = std::pin::pin!(looked_up.buffer_unordered(LOOKED_UP));
        while let Some(begin) = looked_up.try_next().await? {
            names.extend(begin);
        }
        // What is listed later comes after all of these.
        let last = names.last().cloned();
        let next = if page.next.is_some() { last } else { None };
        Ok(Page {
            names: names.into_iter().collect(),
            next,
        })
    }

    /// Returns at most `limit` names of repositories that come after `last`.
    pub(crate) async fn repositories(
        &self,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Page<RepositoryName>, Failure> {
        let walk = Walk {
            names: self,
            last: last.unwrap_or_default().to_owned(),
            found: Vec::new(),
            limit,
            looked_into: 0,
            deadline: Instant::now() + self.patience,
        };
        walk.run().await
    }

    /// Returns the names of folders in a folder, in the order of storage: all that come after
    /// `after` in byte order, and perhaps some more.
    async fn folders(
        &self,
        folder: &Prefix,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Page<String>, Failure> {
        let mut list = List::folders(folder.clone(), limit);
        if let Some(after) = after {
            list = list.after(format!("{}{after}", folder.as_str()));
        }
        let listing = self.storage.list(&list).await?;
        let last = listing.entries.last();
        let next = last.and_then(|last| last.as_str().strip_prefix(folder.as_str()));
        let next = next.filter(|_| listing.more).map(str::to_owned);
        let name = |entry: &Entry| match entry {
            Entry::Folder(inner) => Some(inner.name().to_owned()),
            Entry::Object(_) => None,
        };
        let names = listing.entries.iter().filter_map(name).collect();
        Ok(Page { names, next })
    }
}

/// A walk through the folders of all repositories.
struct Walk<'a> {
    names: &'a Names,
    /// Only what comes after this is of interest.
    last: String,
    found: Vec<RepositoryName>,
    limit: usize,
    looked_into: usize,
    deadline: Instant,
}

/// A folder on the way.
struct Level {
    /// The name that a repository in this folder would have.
    name: String,
    /// Folders in it that are to be visited, the next one last.
    inner: Vec<String>,
    /// Where to list on; `None` at the end.
    position: Option<String>,
    /// The one visited before.
    before: String,
}

impl Walk<'_> {
    async fn run(mut self) -> Result<Page<RepositoryName>, Failure> {
        let began = self.last.clone();
        let mut levels = vec![self.level(String::new())];
        while let Some(level) = levels.last_mut() {
            if self.found.len() > self.limit {
                self.found.truncate(self.limit);
                let next = self.found.last().map(RepositoryName::to_string);
                return Ok(self.end(next));
            }
            if let Some(inner) = level.inner.pop() {
                let before = std::mem::replace(&mut level.before, inner.clone());
                let parent = level.name.clone();
                for begin in beginnings(&inner) {
                    // Where the one before begins with it too, it was looked at already.
                    let is_known = before
                        .strip_prefix(begin)
                        .is_some_and(|rest| rest.starts_with(['-', '.']));
                    if !is_known {
                        self.visit(&join(&parent, begin)).await?;
                    }
                }
                let name = join(&parent, &inner);
                if name.parse::<RepositoryName>().is_err() {
                    continue;
                }
                self.visit(&name).await?;
                let is_late = self.looked_into > MAX_FOLDERS || Instant::now() > self.deadline;
                // At least one step further, or the next page would be the same.
                let reached = name.as_str().max(&self.last);
                if is_late && reached > began.as_str() {
                    let next = Some(reached.to_owned());
                    return Ok(self.end(next));
                }
                let within = format!("{name}/");
                if self.last < within || self.last.starts_with(&within) {
                    levels.push(self.level(name));
                }
            } else if let Some(position) = level.position.take() {
                let folder = folder_of(&level.name)?;
                let position = (!position.is_empty()).then_some(position);
                let list = self.names.folders(&folder, position.as_deref(), LISTED);
                let page = list.await?;
                level.inner = page.names;
                level.inner.reverse();
                level.position = page.next;
                self.looked_into += 1;
            } else {
                levels.pop();
            }
        }
        Ok(self.end(None))
    }

    /// Makes the level of a folder that was not listed yet.
    fn level(&self, name: String) -> Level {
        let rest = if name.is_empty() {
            Some(self.last.as_str())
        } else {
            self.last.strip_prefix(&format!("{name}/"))
        };
        let first = rest.and_then(|rest| rest.split('/').next());
        Level {
            inner: Vec::new(),
            position: Some(first.unwrap_or_default().to_owned()),
            before: String::new(),
            name,
        }
    }

    /// Takes a name where it is that of a repository and was not passed yet.
    async fn visit(&mut self, name: &str) -> Result<(), Failure> {
        if name <= self.last.as_str() {
            return Ok(());
        }
        let Ok(repository) = name.parse::<RepositoryName>() else {
            return Ok(());
        };
        self.looked_into += 1;
        if self.names.repositories.exists(&repository).await? {
            name.clone_into(&mut self.last);
            self.found.push(repository);
        }
        Ok(())
    }

    fn end(self, next: Option<String>) -> Page<RepositoryName> {
        Page {
            names: self.found,
            next,
        }
    }
}

/// Returns what a name may begin with that sorts behind it as a folder.
fn beginnings(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices(['-', '.'])
        .map(|(at, _)| &name[..at])
        .filter(|begin| !begin.is_empty())
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}/{name}")
    }
}

fn folder_of(name: &str) -> Result<Prefix, Failure> {
    let repositories = layout::repositories();
    if name.is_empty() {
        return Ok(repositories);
    }
    let folder = repositories.folder(name);
    folder.map_err(|error| Failure::Internal(error.to_string()))
}

#[cfg(test)]
mod tests;
