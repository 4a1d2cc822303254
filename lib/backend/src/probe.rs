//! Whether a store keeps its word about conditional writes.
//!
//! Tags are right because of compare-and-set. Some stores ignore `If-Match`, some check it and
//! write in two steps, between which others write too. Neither says so, hence they are tried.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use rand::TryRng as _;
use rand::rngs::SysRng;

use crate::{Backend, Condition, Error, Key};

/// Writers that race.
const WRITERS: usize = 16;
/// Races for an absent object, and as many for one that is there. A store that loses one race in
/// three is found out with a chance of 96 %.
const ROUNDS: usize = 8;

/// What a store does with the condition of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// Of those who write at the same time one is told that it wrote, and it did.
    Atomic,
    /// They are checked, but several writers may pass at the same time.
    Racy,
    /// They are not looked at, or not known.
    Ignored,
}

/// Finds out what the store does with conditions, by objects under `shoal/v1/probe/` that are
/// removed afterwards.
///
/// # Errors
/// A failure of the store.
pub async fn conditions(backend: &Arc<dyn Backend>) -> Result<Conditions, Error> {
    let number = SysRng
        .try_next_u64()
        .map_err(|error| Error::Unavailable(error.to_string()))?;
    let key = Key::new(format!("shoal/v1/probe/{number:016x}"))
        .expect("digits make a short, plain segment");
    let found = find_out(backend, &key).await;
    backend.delete(&key).await?;
    found
}

async fn find_out(backend: &Arc<dyn Backend>, key: &Key) -> Result<Conditions, Error> {
    let first = match backend.put(key, "0".into(), Condition::IfAbsent).await {
        // A store that does not know the header says so.
        Err(Error::Refused { .. }) => return Ok(Conditions::Ignored),
        put => put?,
    };
    let second = backend.put(key, "1".into(), Condition::Any).await?;
    for stale in [Condition::IfAbsent, Condition::IfMatch(first)] {
        match backend.put(key, "2".into(), stale).await {
            Err(Error::Precondition { .. }) => {}
            Err(Error::Refused { .. }) | Ok(_) => return Ok(Conditions::Ignored),
            Err(error) => return Err(error),
        }
    }
    let mut version = second;
    for round in 0..ROUNDS {
        if !has_one_winner(backend, key, round, &Condition::IfMatch(version)).await? {
            return Ok(Conditions::Racy);
        }
        backend.delete(key).await?;
        if !has_one_winner(backend, key, round, &Condition::IfAbsent).await? {
            return Ok(Conditions::Racy);
        }
        version = backend.stat(key).await?.etag;
    }
    Ok(Conditions::Atomic)
}

/// Lets writers race; returns whether exactly one was told that it wrote, and that one did.
async fn has_one_winner(
    backend: &Arc<dyn Backend>,
    key: &Key,
    round: usize,
    condition: &Condition,
) -> Result<bool, Error> {
    let writers = (0..WRITERS).map(|writer| {
        let (backend, key, condition) = (Arc::clone(backend), key.clone(), condition.clone());
        let content = Bytes::from(format!("{round} {writer}"));
        // In tasks: they shall be at it on several threads.
        tokio::spawn(async move {
            match backend.put(&key, content.clone(), condition).await {
                Ok(_) => Ok(Some(content)),
                Err(Error::Precondition { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
    });
    let mut winners = Vec::new();
    for outcome in join_all(writers).await {
        match outcome {
            Ok(Ok(winner)) => winners.extend(winner),
            Ok(Err(error)) => return Err(error),
            Err(error) => return Err(Error::Unavailable(error.to_string())),
        }
    }
    let [winner] = &winners[..] else {
        return Ok(false);
    };
    let (content, _) = backend.read(key, 64).await?;
    Ok(content == *winner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryBackend;

    #[tokio::test]
    async fn memory_is_atomic() {
        let backend: Arc<dyn Backend> = Arc::new(MemoryBackend::new());
        assert_eq!(conditions(&backend).await.unwrap(), Conditions::Atomic);
    }
}
