//! Tags: what they name, and who changes that.
//!
//! The record of a tag is the truth. It is written only where it still is what the writer read, so
//! that of several writers one wins, and everybody sees the same one. The link that docker-registry
//! reads follows the record; a link that says something which no record explains was changed by
//! docker-registry, and counts as the next version.
//!
//! For that a record says what the link held before, until it is known that the link has followed:
//! a link which holds that is late, not changed. A writer that finds such a record brings its link
//! in step before it writes its own, so a link never holds anything older than that.

mod follow;
mod record;

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use api::build_index::WriteId;
use backend::{Condition, ETag, Error, Key, layout};
use lru::LruCache;
use oci::{Digest, RepositoryName, Tag};
use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use crate::error::Failure;
use crate::flights::{Flights, Lost};
use crate::locks::Locks;
use crate::metrics::Metrics;
use crate::storage::Storage;
use record::{Link, MAX_RECORD_BYTES, Record, Seen, Standing};

/// Rounds in which others may get in the way of one writer or reader.
const ROUNDS: u32 = 64;
/// Failures of storage that one writer gets over.
const FAILURES: u32 = 4;
/// Longest pause between two rounds.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// How long a link must be gone to be taken for removed by docker-registry.
const GONE_FOR: Duration = Duration::from_millis(500);
/// Tags removed by docker-registry for which that is remembered.
const REMEMBERED_GONE: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// Longest content of a link in bytes: a sha512 digest and a line end.
const MAX_LINK_BYTES: u64 = 137;

/// The tags of all repositories. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Tags(std::sync::Arc<Inner>);

#[derive(Debug)]
struct Inner {
    storage: Storage,
    metrics: Metrics,
    /// How long a read may take that others wait for too.
    read_wait: Duration,
    flights: Flights<(RepositoryName, Tag), Result<Option<Digest>, Failure>>,
    turns: Locks,
    /// Tags whose link was gone long enough, each with the record that it was gone under. Who may not
    /// write cannot note that in the record.
    gone: Mutex<LruCache<(RepositoryName, Tag), ETag>>,
    /// Whether this process may write; where not, reads leave what they find as it is.
    writes: bool,
    /// Names this process among all that ever wrote.
    process: u128,
    numbers: AtomicU64,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is there, with this version.
    Made(u64),
    /// It was made before, and others have written since.
    Overtaken,
}

/// What became of a record that was to be written.
enum Written {
    Yes(ETag),
    /// Somebody else was quicker, or this one was and its answer was lost.
    Perhaps,
}

/// Where one tag stands in storage.
struct Place<'a> {
    repository: &'a RepositoryName,
    tag: &'a Tag,
    record: Key,
    link: Key,
}

impl<'a> Place<'a> {
    fn new(repository: &'a RepositoryName, tag: &'a Tag) -> Self {
        Self {
            repository,
            tag,
            record: layout::tag_record(repository, tag),
            link: layout::tag_link(repository, tag),
        }
    }

    fn contended(&self) -> Failure {
        Failure::Contended(format!("tag {} of {}", self.tag, self.repository))
    }
}

impl Tags {
    /// `process` is random, so that no other process has the same. Where `writes` is not set
    /// another process writes all tags, and nobody here may.
    pub(crate) fn new(
        storage: Storage,
        metrics: Metrics,
        read_wait: Duration,
        process: u128,
        writes: bool,
    ) -> Self {
        Self(std::sync::Arc::new(Inner {
            storage,
            metrics,
            read_wait,
            flights: Flights::default(),
            turns: Locks::default(),
            gone: Mutex::new(LruCache::new(REMEMBERED_GONE)),
            writes,
            process,
            numbers: AtomicU64::new(0),
        }))
    }

    /// Returns what a tag names now, by a read of storage that begins after this was called. Those
    /// who ask at the same time share reads.
    pub(crate) async fn resolve(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Digest>, Failure> {
        self.0.metrics.resolves.inc();
        let key = (repository.clone(), tag.clone());
        let this = self.clone();
        let read = {
            let key = key.clone();
            move || {
                let (this, (repository, tag)) = (this.clone(), key.clone());
                async move {
                    this.0.metrics.resolve_reads.inc();
                    let wait = this.0.read_wait;
                    let reading = this.read(&repository, &tag);
                    let read = tokio::time::timeout(wait, reading).await;
                    read.unwrap_or(Err(Failure::Timeout(wait.as_secs())))
                }
            }
        };
        let answer = self.0.flights.ask(&key, read).await;
        answer.unwrap_or_else(|Lost| Err(Failure::Internal("a read was lost".into())))
    }

    /// Returns what a tag names, by a read of its own.
    pub(crate) async fn read(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
    ) -> Result<Option<Digest>, Failure> {
        let place = Place::new(repository, tag);
        for _ in 0..ROUNDS {
            let seen = self.0.look(&place).await?;
            match seen.standing() {
                Standing::NoRecord => return Ok(seen.current()),
                Standing::InStep | Standing::Behind => {
                    self.0.finish_abandoned(&place, &seen).await;
                    return Ok(seen.current());
                }
                Standing::ChangedOutside => {
                    if !self.0.is_settled_outside(&place, &seen).await? {
                        continue;
                    }
                    self.0.record_outside(&place, &seen).await;
                    return Ok(seen.link.digest());
                }
            }
        }
        Err(place.contended())
    }

    /// Lets a tag name a manifest. Where `write` was made before, it is not made again, whatever was
    /// written since.
    pub(crate) async fn put(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
        write: Option<WriteId>,
    ) -> Result<Change, Failure> {
        let digest = *digest;
        let is_there = move |seen: &Seen| {
            let record = seen.record.as_ref();
            record.is_some_and(|record| record.current() == Some(digest))
        };
        let changed = self.change((repository, tag), Some(digest), write, is_there);
        let changed = changed.await?;
        changed.ok_or_else(|| Failure::Internal("a tag was neither put nor there".into()))
    }

    /// Removes a tag, where `only` is given only if it names that. Returns whether it did. As for
    /// [`Self::put`], `write` is not made twice.
    pub(crate) async fn delete(
        &self,
        repository: &RepositoryName,
        tag: &Tag,
        only: Option<&Digest>,
        write: Option<WriteId>,
    ) -> Result<bool, Failure> {
        let only = only.copied();
        let is_another = move |seen: &Seen| only.is_some() && seen.current() != only;
        let changed = self.change((repository, tag), None, write, is_another);
        Ok(changed.await?.is_some())
    }

    /// Waits for the turn of a tag and makes a change to its end, even where whoever asked for it
    /// leaves: a write that was let go could still arrive after the next one.
    async fn change(
        &self,
        (repository, tag): (&RepositoryName, &Tag),
        digest: Option<Digest>,
        write: Option<WriteId>,
        is_done: impl Fn(&Seen) -> bool + Send + Sync + 'static,
    ) -> Result<Option<Change>, Failure> {
        let turn = self.0.turns.turn((repository, tag)).await;
        let (this, repository, tag) = (self.clone(), repository.clone(), tag.clone());
        let changing = tokio::spawn(async move {
            let place = Place::new(&repository, &tag);
            let changed = this.0.change(&place, digest, write, is_done).await;
            drop(turn);
            changed
        });
        let changed = changing.await;
        changed.unwrap_or_else(|error| Err(Failure::Internal(error.to_string())))
    }
}

impl Inner {
    /// Writes the next record of a tag, and lets the link follow, unless that `is_done`. Returns
    /// `None` where what is to be removed is not there.
    async fn change(
        &self,
        place: &Place<'_>,
        digest: Option<Digest>,
        write: Option<WriteId>,
        is_done: impl Fn(&Seen) -> bool,
    ) -> Result<Option<Change>, Failure> {
        let writer = match write {
            Some(write) => write.to_string(),
            None => format!("{:032x}-{}", self.process, self.number()),
        };
        let mut failures = 0;
        for round in 0..ROUNDS {
            let seen = self.in_step(place).await?;
            // First of all: the answer to an earlier round may have been lost.
            if let Some(record) = seen.record.as_ref().filter(|_| seen.is_by(&writer)) {
                self.follow(place, record.clone(), seen.etag).await?;
                self.metrics.tags_written.inc();
                return Ok(Some(Change::Made(record.version)));
            }
            if seen.is_after(&writer) {
                return Ok(Some(Change::Overtaken));
            }
            if is_done(&seen) {
                return Ok(digest.map(|_| Change::Made(seen.version())));
            }
            let Some(next) = Record::next(&seen, digest, &writer) else {
                return Ok(None);
            };
            match self.write(place, &next, seen.condition()).await {
                Ok(Written::Yes(etag)) => {
                    let version = next.version;
                    self.follow(place, next, Some(etag)).await?;
                    self.metrics.tags_written.inc();
                    return Ok(Some(Change::Made(version)));
                }
                Ok(Written::Perhaps) => {
                    self.metrics.tag_conflicts.inc();
                }
                Err(error) if !error.is_permanent() && failures < FAILURES => failures += 1,
                Err(error) => return Err(error.into()),
            }
            self.pause(round).await;
        }
        Err(place.contended())
    }

    /// Returns what is seen of a tag once its link is in step, so that a record may be written.
    async fn in_step(&self, place: &Place<'_>) -> Result<Seen, Failure> {
        for round in 0..ROUNDS {
            let seen = self.look(place).await?;
            match seen.standing() {
                Standing::NoRecord | Standing::InStep => return Ok(seen),
                Standing::Behind => {
                    if let Some(record) = seen.record.clone() {
                        self.follow(place, record, seen.etag).await?;
                    }
                }
                Standing::ChangedOutside => {
                    if self.is_settled_outside(place, &seen).await? {
                        self.adopt(place, &seen).await?;
                    }
                }
            }
            self.pause(round).await;
        }
        Err(place.contended())
    }

    /// Looks again, in the order that tells: while the record stayed the same, a link was there
    /// that it does not explain. A writer here writes its record before its link.
    ///
    /// A link that is gone is given some time, once: a writer that removed the tag before it was
    /// written again may have come late, and puts it back.
    async fn is_settled_outside(&self, place: &Place<'_>, seen: &Seen) -> Result<bool, Failure> {
        let key = || (place.repository.clone(), place.tag.clone());
        let is_gone = seen.link == Link::Absent;
        if is_gone && self.gone.lock().get(&key()) != seen.etag.as_ref() {
            tokio::time::sleep(GONE_FOR).await;
        }
        let link = self.link(place).await?;
        let record = self.record(place).await?;
        let same_record = record.map(|(_, etag)| etag) == seen.etag;
        let is_settled = same_record && link.digest() == seen.link.digest();
        if let Some(etag) = seen.etag.clone().filter(|_| is_settled && is_gone) {
            self.gone.lock().put(key(), etag);
        }
        Ok(is_settled)
    }

    /// Records what was changed outside. Where somebody else writes meanwhile, that is the record.
    async fn adopt(&self, place: &Place<'_>, seen: &Seen) -> Result<(), Failure> {
        let writer = format!("outside-{:032x}-{}", self.process, self.number());
        let Some(next) = Record::next(seen, seen.link.digest(), &writer) else {
            return Ok(());
        };
        let next = next.settled();
        let written = self.write(place, &next, seen.condition()).await?;
        if let Written::Yes(_) = written {
            self.metrics.tags_changed_outside.inc();
            let (repository, tag) = (place.repository, place.tag);
            let (digest, version) = (next.current(), next.version);
            tracing::info!(%repository, %tag, ?digest, version, "a tag was changed by another registry");
        }
        Ok(())
    }

    /// Records what a reader found changed outside. Its answer is true whether or not that can be
    /// done.
    async fn record_outside(&self, place: &Place<'_>, seen: &Seen) {
        // Whoever has the turn will see it too.
        let Some(_turn) = self.turn_of_reader(place) else {
            return;
        };
        let recorded = async {
            let again = self.look(place).await?;
            if again.etag == seen.etag && again.link.digest() == seen.link.digest() {
                self.adopt(place, &again).await?;
            }
            Ok::<_, Failure>(())
        };
        if let Err(error) = recorded.await {
            let (repository, tag) = (place.repository, place.tag);
            tracing::warn!(%repository, %tag, %error, "cannot record a tag changed by another registry");
        }
    }

    /// Ends what a writer began that is gone. A reader's answer does not depend on it.
    async fn finish_abandoned(&self, place: &Place<'_>, seen: &Seen) {
        let is_abandoned = |seen: &Seen| seen.record.as_ref().is_some_and(Record::is_abandoned);
        if !is_abandoned(seen) {
            return;
        }
        let Some(_turn) = self.turn_of_reader(place) else {
            return;
        };
        let followed = async {
            let seen = self.look(place).await?;
            match seen.record {
                Some(record) if record.is_abandoned() => {
                    self.follow(place, record, seen.etag).await
                }
                Some(_) | None => Ok(()),
            }
        };
        if let Err(error) = followed.await {
            let (repository, tag) = (place.repository, place.tag);
            tracing::warn!(%repository, %tag, %error, "cannot finish what another writer began");
        }
    }

    /// Returns the turn in which a reader may write; `None` where it may not, or need not.
    fn turn_of_reader(&self, place: &Place<'_>) -> Option<OwnedMutexGuard<()>> {
        let key = (place.repository, place.tag);
        self.writes.then(|| self.turns.try_turn(key))?
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    async fn look(&self, place: &Place<'_>) -> Result<Seen, Failure> {
        let (record, link) = tokio::try_join!(self.record(place), self.link(place))?;
        let (record, etag) = record.unzip();
        Ok(Seen {
            record: record.flatten(),
            etag,
            link,
        })
    }

    /// Returns the record and its tag; no record where it cannot be understood.
    async fn record(&self, place: &Place<'_>) -> Result<Option<(Option<Record>, ETag)>, Failure> {
        let read = self.storage.read(&place.record, MAX_RECORD_BYTES).await?;
        Ok(read.map(|(bytes, stat)| {
            let record = Record::from_bytes(&bytes);
            if record.is_none() {
                let key = &place.record;
                tracing::warn!(%key, "the record of a tag cannot be understood; its link counts");
            }
            (record, stat.etag)
        }))
    }

    async fn link(&self, place: &Place<'_>) -> Result<Link, Failure> {
        let read = self.storage.read(&place.link, MAX_LINK_BYTES).await;
        Ok(match read {
            Ok(Some((bytes, stat))) => match layout::parse_link(&bytes) {
                Some(digest) => Link::To(digest, stat.etag),
                None => Link::Damaged,
            },
            Ok(None) => Link::Absent,
            Err(Error::TooLarge { .. }) => Link::Damaged,
            Err(error) => return Err(error.into()),
        })
    }

    async fn write(
        &self,
        place: &Place<'_>,
        record: &Record,
        condition: Condition,
    ) -> Result<Written, Error> {
        let bytes = record.to_bytes();
        match self.storage.put_if(&place.record, bytes, condition).await {
            Ok(etag) => Ok(Written::Yes(etag)),
            Err(error) if error.is_precondition() => Ok(Written::Perhaps),
            Err(error) => Err(error),
        }
    }

    /// Waits a little before the next round, each writer for another time.
    async fn pause(&self, round: u32) {
        let salt = self.number();
        let spread = (self.process ^ u128::from(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15)) % 4;
        let spread = u32::try_from(spread).unwrap_or(0) + 1;
        let pause = Duration::from_millis(1 << round.min(6)) * spread;
        tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
    }
}

#[cfg(test)]
mod tests;
