//! Which blobs the swarm used lately: how many an origin takes part in has a bound, how many are
//! in storage has none.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Notify;
use torrent::SwarmName;

/// Blobs that an origin takes part in at a time.
const MAX_BLOBS: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

/// Blobs by use.
#[derive(Debug)]
pub struct Recent {
    state: Mutex<State>,
    is_over: Notify,
}

#[derive(Debug)]
struct State {
    by_use: LruCache<SwarmName, ()>,
    surplus: Vec<SwarmName>,
}

impl Default for Recent {
    fn default() -> Self {
        Self::new(MAX_BLOBS)
    }
}

impl Recent {
    #[must_use]
    pub fn new(max_blobs: NonZeroUsize) -> Self {
        Self {
            state: Mutex::new(State {
                by_use: LruCache::new(max_blobs),
                surplus: Vec::new(),
            }),
            is_over: Notify::new(),
        }
    }

    /// Notes that a blob is used.
    pub fn touch(&self, name: &SwarmName) {
        let mut state = self.state.lock();
        if let Some((pushed_out, ())) = state.by_use.push(*name, ())
            && pushed_out != *name
        {
            state.surplus.push(pushed_out);
            self.is_over.notify_one();
        }
    }

    /// Waits until there are too many, and returns those that were used least recently.
    pub async fn surplus(&self) -> Vec<SwarmName> {
        loop {
            self.is_over.notified().await;
            let surplus = {
                let mut state = self.state.lock();
                let mut surplus = std::mem::take(&mut state.surplus);
                // Some may be in use again.
                surplus.retain(|name| !state.by_use.contains(name));
                surplus
            };
            if !surplus.is_empty() {
                return surplus;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_least_recently_used_are_let_go() {
        let recent = Recent::new(NonZeroUsize::new(2).unwrap());
        let names: Vec<_> = (0..4).map(|fill| SwarmName::Source([fill; 32])).collect();
        for at in [0, 1, 0, 1] {
            recent.touch(&names[at]);
        }
        assert!(recent.surplus().now_or_never().is_none());
        recent.touch(&names[2]);
        recent.touch(&names[3]);
        recent.touch(&names[1]);
        assert_eq!(
            recent.surplus().now_or_never(),
            Some(vec![names[0], names[2]])
        );
        assert!(recent.surplus().now_or_never().is_none());
    }
}
