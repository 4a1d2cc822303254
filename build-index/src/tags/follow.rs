//! The link of a tag, as it follows the record.

use backend::{Condition, ETag, Entry, Error, List, layout};

use super::record::{Record, Standing};
use super::{FAILURES, Inner, Place, ROUNDS, Written};
use crate::error::Failure;

/// Links of one tag that are listed at a time when it is removed.
const LINKS_AT_A_TIME: usize = 1000;

impl Inner {
    /// Lets the link say what a record of ours says, and notes in the record that it does. Where a
    /// newer record is there by then, its link is looked after instead.
    pub(super) async fn follow(
        &self,
        place: &Place<'_>,
        record: Record,
        etag: Option<ETag>,
    ) -> Result<(), Failure> {
        let mut failures = 0;
        let mut removed = false;
        let (mut record, mut etag) = (record, etag);
        for round in 0..ROUNDS {
            let link = self.link(place).await?;
            let followed = match record.standing(&link) {
                Standing::NoRecord | Standing::InStep if record.pending.is_none() => return Ok(()),
                Standing::NoRecord | Standing::InStep => Ok(()),
                Standing::Behind if record.tombstone => {
                    if let Some((newer, tag)) = self.newer(place, etag.as_ref()).await? {
                        (record, etag) = (newer, Some(tag));
                        continue;
                    }
                    removed = true;
                    self.remove_folder(place).await
                }
                Standing::Behind => self.write_link(place, &record, link.condition()).await,
                // The link of a newer record; only that one says what may be written over it.
                Standing::ChangedOutside => {
                    match self.newer(place, etag.as_ref()).await? {
                        Some((newer, tag)) => (record, etag) = (newer, Some(tag)),
                        None => return Ok(()),
                    }
                    continue;
                }
            };
            let settled = match followed {
                Ok(()) => {
                    // This is the second look at the record: it fails where a newer one is there.
                    let condition = etag.clone().map_or(Condition::IfAbsent, Condition::IfMatch);
                    self.write(place, &record.settled(), condition).await
                }
                Err(error) if error.is_precondition() => Ok(Written::Perhaps),
                Err(error) => Err(error),
            };
            match settled {
                Ok(Written::Yes(_)) => return Ok(()),
                Ok(Written::Perhaps) => {
                    if let Some((newer, tag)) = self.newer(place, etag.as_ref()).await? {
                        (record, etag) = (newer, Some(tag));
                        if removed {
                            self.restore(place, &record).await?;
                        }
                    }
                }
                Err(error) if !error.is_permanent() && failures < FAILURES => failures += 1,
                Err(error) => return Err(error.into()),
            }
            self.pause(round).await;
        }
        Err(place.contended())
    }

    /// Writes the link of a newer record which this writer may have removed: storage removes
    /// whatever is there by then.
    async fn restore(&self, place: &Place<'_>, record: &Record) -> Result<(), Failure> {
        match self.write_link(place, record, Condition::IfAbsent).await {
            Err(error) if !error.is_precondition() => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Returns the record where it is not the one of this tag any more.
    async fn newer(
        &self,
        place: &Place<'_>,
        than: Option<&ETag>,
    ) -> Result<Option<(Record, ETag)>, Failure> {
        Ok(match self.record(place).await? {
            Some((Some(record), etag)) if Some(&etag) != than => Some((record, etag)),
            Some(_) | None => None,
        })
    }

    /// Writes the link of a tag that was not removed.
    async fn write_link(
        &self,
        place: &Place<'_>,
        record: &Record,
        condition: Condition,
    ) -> Result<(), Error> {
        let Some(digest) = record.current() else {
            return Ok(());
        };
        let index = layout::tag_index_link(place.repository, place.tag, &digest);
        self.storage.put(&index, layout::link_to(&digest)).await?;
        let bytes = layout::link_to(&digest);
        self.storage.put_if(&place.link, bytes, condition).await?;
        Ok(())
    }

    /// Removes all that docker-registry has of a tag: it takes a folder for a tag. The link goes
    /// last, so that nothing else is left where it is gone.
    async fn remove_folder(&self, place: &Place<'_>) -> Result<(), Error> {
        let folder = layout::tags(place.repository).folder(place.tag.as_str());
        let Ok(folder) = folder else {
            return self.storage.delete(&place.link).await;
        };
        loop {
            let list = List::objects(folder.clone(), LINKS_AT_A_TIME);
            let listing = self.storage.list(&list).await?;
            for entry in &listing.entries {
                match entry {
                    Entry::Object(key) if *key != place.link => self.storage.delete(key).await?,
                    Entry::Object(_) | Entry::Folder(_) => {}
                }
            }
            if !listing.more {
                return self.storage.delete(&place.link).await;
            }
        }
    }
}
