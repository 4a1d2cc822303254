//! Jobs of which one must not begin before another ended, though nobody waits for either.

use tokio::sync::watch;

/// Jobs that take their turns, in the order in which they asked for one.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    last: Option<Earlier>,
}

/// The place of one job. Dropping it, also unused, lets the next one go on.
#[derive(Debug)]
pub(crate) struct Turn {
    before: Earlier,
    _end: watch::Sender<()>,
}

/// Everything that took its turn before a certain moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Earlier(Option<watch::Receiver<()>>);

impl Turns {
    pub(crate) fn take(&mut self) -> Turn {
        let (end, ended) = watch::channel(());
        let before = self.last.replace(Earlier(Some(ended)));
        Turn {
            before: before.unwrap_or_default(),
            _end: end,
        }
    }

    /// Returns what a job must wait for that comes after all others so far, but takes no turn.
    pub(crate) fn so_far(&self) -> Earlier {
        self.last.clone().unwrap_or_default()
    }
}

impl Turn {
    /// Waits until it is this job's turn.
    pub(crate) async fn come(&mut self) {
        std::mem::take(&mut self.before).ended().await;
    }
}

impl Earlier {
    /// Waits until all of it has ended.
    pub(crate) async fn ended(mut self) {
        if let Some(ended) = &mut self.0 {
            // Nothing is ever sent: the channel closes with the turn.
            let _ = ended.changed().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn one_after_the_other() {
        let mut turns = Turns::default();
        assert!(
            turns.so_far().ended().now_or_never().is_some(),
            "nobody is there"
        );
        let (mut first, mut second) = (turns.take(), turns.take());
        let after_both = turns.so_far();
        assert!(first.come().now_or_never().is_some());
        let mut waiting = Box::pin(second.come());
        assert!(waiting.as_mut().now_or_never().is_none());
        drop(first);
        assert!(waiting.now_or_never().is_some());
        assert!(after_both.clone().ended().now_or_never().is_none());
        drop(second);
        assert!(after_both.ended().now_or_never().is_some());
    }
}
