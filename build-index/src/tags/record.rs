//! The record of a tag, and how it stands to the link that docker-registry reads and writes.

use std::time::{Duration, SystemTime};

use backend::{Condition, ETag};
use bytes::Bytes;
use oci::Digest;
use serde::{Deserialize, Serialize};

/// Most bytes of a record.
pub(super) const MAX_RECORD_BYTES: u64 = 4096;
/// Changes whose names are kept in a record after they were overwritten.
const MAX_BEFORE: usize = 16;
/// A writer that has not finished after so long is gone, or its answer is lost.
const ABANDONED_AFTER: Duration = Duration::from_secs(10);

/// What is true of a tag since its last change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// What the tag names; where it was removed, what it named.
    pub(super) digest: Digest,
    /// Counts the changes.
    pub(super) version: u64,
    /// Whether the tag was removed.
    #[serde(default)]
    pub(super) tombstone: bool,
    /// Names the change. Who finds its own name here knows that it has written.
    pub(super) writer: String,
    /// When it was made: milliseconds since 1970, by the writer's clock. For people.
    pub(super) time: u64,
    /// Names the changes before, the last one first. Who finds its own name here knows that it has
    /// written, and that others have written since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) before: Vec<String>,
    /// Present until it is known that the link follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pending: Option<Pending>,
}

/// A link that may not have followed its record yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pending {
    /// What the link held before; absent where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<Digest>,
}

/// The link that docker-registry follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Link {
    Absent,
    To(Digest, ETag),
    /// It does not hold a digest.
    Damaged,
}

/// Record and link, as they were seen at about the same time.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Absent also where it cannot be understood.
    pub(super) record: Option<Record>,
    /// Present wherever there is an object.
    pub(super) etag: Option<ETag>,
    pub(super) link: Link,
}

/// How the link stands to the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is no record: the link is all there is.
    NoRecord,
    /// The link says what the record says.
    InStep,
    /// The link will, or would have to, follow the record.
    Behind,
    /// Somebody changed the link who does not write records.
    ChangedOutside,
}

impl Record {
    /// Makes the record that follows what was seen. `digest` is absent for a tag to be removed.
    ///
    /// Returns `None` where what is removed was not there.
    pub(super) fn next(seen: &Seen, digest: Option<Digest>, writer: &str) -> Option<Self> {
        let before = seen.current();
        Some(Self {
            digest: digest.or(before)?,
            version: seen.version().saturating_add(1),
            tombstone: digest.is_none(),
            writer: writer.to_owned(),
            time: now(),
            before: seen.writers().take(MAX_BEFORE).cloned().collect(),
            pending: Some(Pending { from: before }),
        })
    }

    /// Returns what the tag names.
    pub(super) fn current(&self) -> Option<Digest> {
        (!self.tombstone).then_some(self.digest)
    }

    /// Returns how a link stands to this record.
    pub(super) fn standing(&self, link: &Link) -> Standing {
        let held = match link {
            // Nobody means that; it was cut off while it was written.
            Link::Damaged => return Standing::Behind,
            Link::Absent | Link::To(..) => link.digest(),
        };
        if held == self.current() {
            return Standing::InStep;
        }
        match &self.pending {
            Some(pending) if pending.from == held => Standing::Behind,
            Some(_) | None => Standing::ChangedOutside,
        }
    }

    /// Returns the record of the same change, whose link has followed.
    pub(super) fn settled(&self) -> Self {
        Self {
            pending: None,
            ..self.clone()
        }
    }

    /// Returns whether the writer did not come to the end, as far as clocks can tell.
    pub(super) fn is_abandoned(&self) -> bool {
        let age = now().checked_sub(self.time).map(Duration::from_millis);
        self.pending.is_some() && age.is_none_or(|age| age > ABANDONED_AFTER)
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        serde_json::to_vec(self)
            .expect("a record is plain data")
            .into()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Link {
    pub(super) const fn digest(&self) -> Option<Digest> {
        match self {
            Self::To(digest, _) => Some(*digest),
            Self::Absent | Self::Damaged => None,
        }
    }

    /// Returns what must hold for a write after this was seen.
    pub(super) fn condition(&self) -> Condition {
        match self {
            Self::Absent => Condition::IfAbsent,
            Self::To(_, etag) => Condition::IfMatch(etag.clone()),
            Self::Damaged => Condition::Any,
        }
    }
}

impl Seen {
    pub(super) fn standing(&self) -> Standing {
        let record = self.record.as_ref();
        record.map_or(Standing::NoRecord, |record| record.standing(&self.link))
    }

    /// Returns what the tag names, provided that nothing was changed outside.
    pub(super) fn current(&self) -> Option<Digest> {
        match &self.record {
            Some(record) => record.current(),
            None => self.link.digest(),
        }
    }

    /// Returns who wrote, the last one first, as far as it is remembered.
    fn writers(&self) -> impl Iterator<Item = &String> {
        let record = self.record.iter();
        record.flat_map(|record| std::iter::once(&record.writer).chain(&record.before))
    }

    pub(super) fn version(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.version)
    }

    /// Returns what must hold for the next record to be written.
    pub(super) fn condition(&self) -> Condition {
        match &self.etag {
            Some(etag) => Condition::IfMatch(etag.clone()),
            None => Condition::IfAbsent,
        }
    }

    /// Returns whether this change was made, and others after it.
    pub(super) fn is_after(&self, writer: &str) -> bool {
        self.writers().skip(1).any(|before| before == writer)
    }

    /// Returns whether this change is the last one.
    pub(super) fn is_by(&self, writer: &str) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| record.writer == writer)
    }
}

pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::sha256(text.as_bytes())
    }

    fn record(current: Option<&str>, pending: Option<Option<&str>>) -> Record {
        Record {
            digest: digest(current.unwrap_or("gone")),
            version: 7,
            tombstone: current.is_none(),
            writer: "w".into(),
            time: now(),
            before: vec!["v".into(); MAX_BEFORE],
            pending: pending.map(|from| Pending {
                from: from.map(digest),
            }),
        }
    }

    #[test]
    fn records_survive_their_json() {
        for record in [
            record(Some("a"), None),
            record(Some("a"), Some(None)),
            record(None, Some(Some("b"))),
        ] {
            let bytes = record.to_bytes();
            assert!(bytes.len() as u64 <= MAX_RECORD_BYTES);
            assert_eq!(Record::from_bytes(&bytes), Some(record));
        }
        assert_eq!(Record::from_bytes(b"{}"), None);
    }

    #[test]
    fn a_link_that_nobody_here_wrote_was_changed_outside() {
        use Standing::{Behind, ChangedOutside, InStep, NoRecord};
        let cases = [
            (Some(record(Some("a"), None)), Some("a"), InStep),
            (Some(record(Some("a"), None)), Some("b"), ChangedOutside),
            (Some(record(Some("a"), None)), None, ChangedOutside),
            (Some(record(Some("a"), Some(None))), None, Behind),
            (Some(record(Some("a"), Some(Some("b")))), Some("b"), Behind),
            (Some(record(Some("a"), Some(Some("b")))), Some("a"), InStep),
            (
                Some(record(Some("a"), Some(Some("b")))),
                None,
                ChangedOutside,
            ),
            (Some(record(None, None)), None, InStep),
            (Some(record(None, None)), Some("a"), ChangedOutside),
            (Some(record(None, Some(Some("a")))), Some("a"), Behind),
            (None, Some("a"), NoRecord),
            (None, None, NoRecord),
        ];
        for (record, link, expected) in cases {
            let link = link.map_or(Link::Absent, |link| Link::To(digest(link), ETag::new("x")));
            let seen = Seen {
                record,
                etag: None,
                link,
            };
            assert_eq!(seen.standing(), expected, "{seen:?}");
        }
        let damaged = Seen {
            record: Some(record(Some("a"), None)),
            etag: None,
            link: Link::Damaged,
        };
        assert_eq!(damaged.standing(), Behind);
    }

    #[test]
    fn a_change_counts_on_and_remembers_what_the_link_held() {
        let mut seen = Seen {
            record: Some(record(Some("a"), None)),
            etag: Some(ETag::new("e")),
            link: Link::To(digest("a"), ETag::new("l")),
        };
        let next = Record::next(&seen, Some(digest("b")), "me").unwrap();
        assert_eq!((next.version, next.current()), (8, Some(digest("b"))));
        assert_eq!(next.pending.as_ref().unwrap().from, Some(digest("a")));
        assert!(!seen.is_after("w") && seen.is_after("v"));
        assert_eq!((&*next.before[0], next.before.len()), ("w", MAX_BEFORE));
        let gone = Record::next(&seen, None, "me").unwrap();
        assert_eq!((gone.version, gone.current()), (8, None));
        seen.record = None;
        assert_eq!(
            Record::next(&seen, Some(digest("b")), "me")
                .unwrap()
                .version,
            1
        );
        seen.link = Link::Absent;
        assert_eq!(Record::next(&seen, None, "me"), None);
    }

    #[test]
    fn writers_are_given_time() {
        let mut record = record(Some("a"), Some(None));
        assert!(!record.is_abandoned());
        record.time -= 60_000;
        assert!(record.is_abandoned());
        record.pending = None;
        assert!(!record.is_abandoned());
    }
}
