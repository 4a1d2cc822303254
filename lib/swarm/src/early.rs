//! Requests that came before the grant that allows them: a tracker sends it to both ends, and what
//! the agent asks then may overtake what the origin is told. The grant pays for them when it comes;
//! else it would wait for requests that nobody makes, and hold its slot meanwhile.

use std::collections::BTreeMap;

use torrent::{PeerId, SwarmName};

use crate::time::{Micros, Time};

/// How long before its grant a request may come.
const WINDOW: Micros = Micros::from_millis(100);
/// Agents, of one blob each, whose requests are remembered.
const MAX_AGENTS: usize = 1_024;
/// Requests of each: more than a grant allows.
const MAX_REQUESTS: usize = 32;

/// Requests that nothing paid for, by blob and agent.
#[derive(Debug, Default)]
pub(crate) struct Early(BTreeMap<(SwarmName, PeerId), Requests>);

#[derive(Debug)]
struct Requests {
    /// The piece each named, if it did.
    pieces: Vec<Option<u32>>,
    /// When the last one came.
    last: Time,
}

impl Early {
    /// Notes a request for this piece, or for any.
    pub(crate) fn note(&mut self, now: Time, of: (SwarmName, PeerId), piece: Option<u32>) {
        if self.0.len() >= MAX_AGENTS {
            self.0.retain(|_, requests| requests.is_recent(now));
        }
        if self.0.len() >= MAX_AGENTS && !self.0.contains_key(&of) {
            return;
        }
        let requests = self.0.entry(of).or_insert_with(|| Requests {
            pieces: Vec::new(),
            last: now,
        });
        if !requests.is_recent(now) {
            requests.pieces.clear();
        }
        requests.last = now;
        if requests.pieces.len() < MAX_REQUESTS {
            requests.pieces.push(piece);
        }
    }

    /// Returns what a grant of `count` requests, or of `pieces`, still allows.
    pub(crate) fn pay(
        &mut self,
        now: Time,
        of: (SwarmName, PeerId),
        count: u16,
        mut pieces: Vec<u32>,
    ) -> (u16, Vec<u32>) {
        let Some(mut requests) = self.0.remove(&of).filter(|one| one.is_recent(now)) else {
            return (count, pieces);
        };
        let early = &mut requests.pieces;
        let left = if pieces.is_empty() {
            let paid = early.len().min(usize::from(count));
            early.drain(..paid);
            count - u16::try_from(paid).unwrap_or(count)
        } else {
            pieces.retain(
                |piece| match early.iter().position(|one| *one == Some(*piece)) {
                    Some(at) => {
                        early.swap_remove(at);
                        false
                    }
                    None => true,
                },
            );
            u16::try_from(pieces.len()).unwrap_or(count)
        };
        if !early.is_empty() {
            self.0.insert(of, requests);
        }
        (left, pieces)
    }
}

impl Requests {
    fn is_recent(&self, now: Time) -> bool {
        self.last + WINDOW >= now
    }
}
