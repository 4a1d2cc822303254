//! Bytes of a blob from whichever origin can give them: where one fails in the middle, the next
//! goes on from there, and the client sees nothing of it.

use std::io;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use registry::{ByteStream, Error};

/// Origins that may have a blob, the best first.
#[async_trait]
pub(crate) trait Sources: Send + Sync + 'static {
    /// Returns how many there are.
    fn count(&self) -> usize;

    /// Starts to read bytes from one of them.
    async fn open(&self, source: usize, range: Range<u64>) -> Result<ByteStream, Error>;
}

/// How long a source may be silent before the next one is asked.
const PATIENCE: Duration = Duration::from_secs(10);

/// Times that each source is asked while no byte comes.
const ROUNDS: usize = 2;

struct Relay<S> {
    sources: S,
    /// What is still to come.
    range: Range<u64>,
    current: Option<ByteStream>,
    source: usize,
    /// Failures since the last byte.
    failures: usize,
}

/// Reads a range. Returns when the first source has answered, so that absence and failure are
/// known before anything is sent.
pub(crate) async fn relay<S: Sources>(sources: S, range: Range<u64>) -> Result<ByteStream, Error> {
    let mut relay = Relay {
        sources,
        range,
        current: None,
        source: 0,
        failures: 0,
    };
    relay.connect().await?;
    let parts = stream::unfold(Some(relay), |relay| async move {
        let mut relay = relay?;
        match relay.next().await {
            Ok(Some(bytes)) => Some((Ok(bytes), Some(relay))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Box::pin(parts))
}

impl<S: Sources> Relay<S> {
    /// Finds a source that answers. Absence is believed where all that answered say so.
    async fn connect(&mut self) -> Result<(), Error> {
        let mut absent = None;
        let mut failed = None;
        while self.failures < self.sources.count() * ROUNDS {
            let opening = self.sources.open(self.source, self.range.clone());
            let opened = tokio::time::timeout(PATIENCE, opening).await;
            match opened.unwrap_or_else(|_| Err(Error::Unavailable("an origin is silent".into()))) {
                Ok(stream) => {
                    self.current = Some(stream);
                    return Ok(());
                }
                Err(error @ Error::BlobUnknown { .. }) => absent = Some(error),
                Err(error) => {
                    tracing::debug!(source = self.source, %error, "an origin cannot serve a blob");
                    failed = Some(error);
                }
            }
            self.turn();
        }
        let none = || Error::Unavailable("no origin is known".into());
        Err(failed.or(absent).unwrap_or_else(none))
    }

    fn turn(&mut self) {
        self.current = None;
        self.failures += 1;
        self.source = (self.source + 1) % self.sources.count().max(1);
    }

    async fn next(&mut self) -> io::Result<Option<bytes::Bytes>> {
        while !self.range.is_empty() {
            let Some(stream) = &mut self.current else {
                self.connect().await.map_err(io::Error::other)?;
                continue;
            };
            match tokio::time::timeout(PATIENCE, stream.next()).await {
                Ok(Some(Ok(bytes))) if !bytes.is_empty() => {
                    self.range.start += bytes.len() as u64;
                    self.failures = 0;
                    return Ok(Some(bytes));
                }
                Ok(Some(Ok(_))) => {}
                broken => {
                    let left_bytes = self.range.end - self.range.start;
                    let source = self.source;
                    match broken {
                        Ok(Some(Err(error))) => {
                            tracing::warn!(source, left_bytes, %error, "an origin broke off");
                        }
                        Ok(_) => tracing::warn!(source, left_bytes, "an origin ended early"),
                        Err(_) => tracing::warn!(source, left_bytes, "an origin went silent"),
                    }
                    self.turn();
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use oci::Digest;

    use super::*;

    /// What a source does when it is asked.
    #[derive(Clone, Copy)]
    enum Habit {
        Whole,
        /// Breaks off after so many bytes of each answer.
        Breaks(u64),
        /// Ends its answer after so many bytes.
        Ends(u64),
        /// Goes silent after so many bytes.
        Stalls(u64),
        Absent,
        Down,
        Silent,
    }

    struct Fakes(Vec<Habit>);

    fn byte_at(offset: u64) -> u8 {
        u8::try_from(offset % 251).unwrap()
    }

    #[async_trait]
    impl Sources for Fakes {
        fn count(&self) -> usize {
            self.0.len()
        }

        async fn open(&self, source: usize, range: Range<u64>) -> Result<ByteStream, Error> {
            let part = |count: u64| {
                let end = range.end.min(range.start.saturating_add(count));
                let bytes: Vec<_> = (range.start..end)
                    .map(|offset| Ok(Bytes::from(vec![byte_at(offset)])))
                    .collect();
                stream::iter(bytes)
            };
            Ok(match self.0[source] {
                Habit::Whole => Box::pin(part(u64::MAX)),
                Habit::Breaks(count) => {
                    let error = io::Error::from(io::ErrorKind::ConnectionReset);
                    Box::pin(part(count).chain(stream::iter([Err(error)])))
                }
                Habit::Ends(count) => Box::pin(part(count)),
                Habit::Stalls(count) => Box::pin(part(count).chain(stream::pending())),
                Habit::Absent => {
                    return Err(Error::BlobUnknown {
                        repository: "a".parse().unwrap(),
                        digest: Digest::sha256(b""),
                    });
                }
                Habit::Down => return Err(Error::Unavailable("down".into())),
                Habit::Silent => std::future::pending().await,
            })
        }
    }

    /// Returns whether the range comes whole; the bytes that come are right in any case.
    async fn comes_whole(habits: &[Habit]) -> bool {
        let range = 1000..2000;
        let mut stream = relay(Fakes(habits.to_vec()), range.clone()).await.unwrap();
        let mut offset = range.start;
        while let Some(bytes) = stream.next().await {
            let Ok(bytes) = bytes else {
                return false;
            };
            for byte in bytes {
                assert_eq!(byte, byte_at(offset));
                offset += 1;
            }
        }
        offset == range.end
    }

    #[tokio::test(start_paused = true)]
    async fn another_origin_goes_on() {
        use Habit::{Absent, Breaks, Down, Ends, Silent, Stalls, Whole};
        for first in [
            Breaks(10),
            Ends(10),
            Stalls(10),
            Breaks(0),
            Absent,
            Down,
            Silent,
            Whole,
        ] {
            assert!(comes_whole(&[first, Whole]).await);
        }
        // Alone, one that breaks off is asked again as long as it moves on.
        assert!(comes_whole(&[Breaks(10)]).await);
        assert!(comes_whole(&[Ends(999), Down]).await);
        // Nobody has the rest: the stream ends with an error, and it ends.
        assert!(!comes_whole(&[Breaks(0), Ends(0)]).await);
    }

    #[tokio::test(start_paused = true)]
    async fn absence_is_believed_where_nobody_failed() {
        use Habit::{Absent, Down, Silent};
        let first = async |habits: &[Habit]| relay(Fakes(habits.to_vec()), 0..10).await.err();
        assert!(matches!(
            first(&[Absent, Absent]).await,
            Some(Error::BlobUnknown { .. })
        ));
        for habits in [&[Absent, Down][..], &[Silent, Absent], &[Down], &[]] {
            assert!(matches!(first(habits).await, Some(Error::Unavailable(_))));
        }
    }
}
