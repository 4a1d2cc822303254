//! Who reads: what readers tell the driver, merged so that it never piles up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use swarm::{Input, ReaderId};
use tokio::sync::{Notify, Semaphore};

/// Readers of a node. There is at most one note per reader.
#[derive(Debug)]
pub(crate) struct Readers {
    pub(crate) permits: Arc<Semaphore>,
    next: AtomicU64,
    notes: Mutex<BTreeMap<ReaderId, Note>>,
    noted: Notify,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Note {
    /// It has taken everything before this offset.
    At(u64),
    Ended,
}

impl Readers {
    pub(crate) fn new(max_readers: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(max_readers)),
            next: AtomicU64::new(0),
            notes: Mutex::default(),
            noted: Notify::new(),
        }
    }

    pub(crate) fn next_id(&self) -> ReaderId {
        ReaderId(self.next.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn at(&self, reader: ReaderId, position: u64) {
        let before = self.notes.lock().insert(reader, Note::At(position));
        if before.is_none() {
            self.noted.notify_one();
        }
    }

    pub(crate) fn end(&self, reader: ReaderId) {
        self.notes.lock().insert(reader, Note::Ended);
        self.noted.notify_one();
    }

    /// Waits until a reader noted something.
    pub(crate) async fn noted(&self) {
        self.noted.notified().await;
    }

    /// Takes the notes, as the swarm wants them.
    pub(crate) fn take(&self) -> Vec<Input> {
        let notes = std::mem::take(&mut *self.notes.lock());
        notes
            .into_iter()
            .map(|(reader, note)| match note {
                Note::At(position) => Input::ReadAt { reader, position },
                Note::Ended => Input::ReadDone { reader },
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_last_note_of_a_reader_counts() {
        let readers = Readers::new(1);
        let (one, two) = (readers.next_id(), readers.next_id());
        readers.at(one, 1);
        readers.at(two, 5);
        readers.at(one, 2);
        readers.end(two);
        readers.noted().await;
        let notes = readers.take();
        let [
            Input::ReadAt { reader, position },
            Input::ReadDone { reader: done },
        ] = notes.as_slice()
        else {
            panic!("{notes:?}")
        };
        assert_eq!((*reader, *position, *done), (one, 2, two));
        assert!(readers.take().is_empty());
    }
}
