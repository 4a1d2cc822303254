//! The driver's view of the trackers: which are there, whose blob is whose, who has which credits.

use std::sync::Arc;

use swarm::Message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use torrent::SwarmName;

use crate::cluster::Cluster;
use crate::node::TrackerStatus;

/// All trackers, by their index in the configuration.
#[derive(Debug)]
pub(crate) struct Sessions {
    cluster: Arc<dyn Cluster>,
    list: Vec<Session>,
    /// Slots of an origin that no tracker has.
    spare: u16,
    /// Tracker that gets the next slot.
    next: usize,
}

#[derive(Debug)]
struct Session {
    addr: Arc<str>,
    queue: Option<(mpsc::Sender<Message>, CancellationToken)>,
    /// Slots that this tracker has and did not grant yet.
    credits: u16,
    /// Whether it was tried at least once.
    tried: bool,
}

impl Sessions {
    pub(crate) fn new(cluster: Arc<dyn Cluster>) -> Self {
        let trackers = cluster.trackers().into_iter();
        let list = trackers.map(|addr| Session {
            addr,
            queue: None,
            credits: 0,
            tried: false,
        });
        Self {
            list: list.collect(),
            cluster,
            spare: 0,
            next: 0,
        }
    }

    pub(crate) fn addrs(&self) -> Vec<Arc<str>> {
        let list = self.list.iter();
        list.map(|session| Arc::clone(&session.addr)).collect()
    }

    pub(crate) fn status(&self) -> Vec<TrackerStatus> {
        let list = self.list.iter();
        list.map(|session| TrackerStatus {
            addr: Arc::clone(&session.addr),
            is_up: session.queue.is_some(),
        })
        .collect()
    }

    pub(crate) fn count_up(&self) -> usize {
        let list = self.list.iter();
        list.filter(|session| session.queue.is_some()).count()
    }

    /// Returns whether there is no session, and every tracker was tried.
    pub(crate) fn all_down(&self) -> bool {
        let mut list = self.list.iter();
        list.all(|session| session.queue.is_none() && session.tried)
    }

    /// Returns the tracker of a blob: the first of its ring order with a session.
    pub(crate) fn route(&self, name: &SwarmName) -> Option<usize> {
        if self.count_up() == 0 {
            return None;
        }
        let order = self.cluster.tracker_order(name);
        order.into_iter().find(|tracker| {
            self.list
                .get(*tracker)
                .is_some_and(|one| one.queue.is_some())
        })
    }

    pub(crate) fn up(
        &mut self,
        tracker: usize,
        queue: mpsc::Sender<Message>,
        cut: CancellationToken,
    ) {
        if let Some(session) = self.list.get_mut(tracker) {
            session.queue = Some((queue, cut));
            session.tried = true;
        }
    }

    /// Notes that a tracker is not there; its slots are free for others.
    pub(crate) fn down(&mut self, tracker: usize) {
        if let Some(session) = self.list.get_mut(tracker) {
            session.queue = None;
            session.tried = true;
            self.spare = self
                .spare
                .saturating_add(std::mem::take(&mut session.credits));
        }
    }

    /// Sends to a tracker. A session whose queue is full is cut.
    pub(crate) fn send(&self, tracker: usize, message: Message) {
        let session = self.list.get(tracker);
        if let Some((queue, cut)) = session.and_then(|session| session.queue.as_ref())
            && queue.try_send(message).is_err()
        {
            cut.cancel();
        }
    }

    /// Notes that a tracker granted a slot.
    pub(crate) fn granted(&mut self, tracker: usize) {
        if let Some(session) = self.list.get_mut(tracker) {
            session.credits = session.credits.saturating_sub(1);
        }
    }

    /// Gives slots to the trackers in turn; returns how many each gets.
    pub(crate) fn give(&mut self, count: u16) -> Vec<(usize, u16)> {
        self.spare = self.spare.saturating_add(count);
        let up: Vec<usize> = (0..self.list.len())
            .filter(|tracker| self.list[*tracker].queue.is_some())
            .collect();
        if up.is_empty() || self.spare == 0 {
            return Vec::new();
        }
        let mut given = vec![0_u16; up.len()];
        for _ in 0..std::mem::take(&mut self.spare) {
            let turn = self.next % up.len();
            self.next = turn + 1;
            given[turn] += 1;
        }
        let given = up.into_iter().zip(given);
        let given: Vec<_> = given.filter(|(_, slots)| *slots > 0).collect();
        for (tracker, slots) in &given {
            let credits = &mut self.list[*tracker].credits;
            *credits = credits.saturating_add(*slots);
        }
        given
    }
}

#[cfg(test)]
mod tests {
    use oci::Digest;
    use torrent::Peer;

    use super::*;

    #[derive(Debug)]
    struct Fixed;

    impl Cluster for Fixed {
        fn trackers(&self) -> Vec<Arc<str>> {
            vec!["a:1".into(), "b:1".into(), "c:1".into()]
        }

        fn tracker_order(&self, _name: &SwarmName) -> Vec<usize> {
            vec![1, 0, 2]
        }

        fn owners(&self, _name: &SwarmName) -> Vec<Peer> {
            Vec::new()
        }
    }

    #[test]
    fn a_blob_belongs_to_the_first_tracker_that_is_there() {
        let name = SwarmName::Blob(Digest::sha256(b"a"));
        let mut sessions = Sessions::new(Arc::new(Fixed));
        assert_eq!(sessions.route(&name), None);
        assert!(!sessions.all_down(), "nobody was tried");
        let (queue, _outgoing) = mpsc::channel(1);
        let cut = CancellationToken::new();
        sessions.up(0, queue.clone(), cut.clone());
        assert_eq!(sessions.route(&name), Some(0));
        sessions.up(1, queue, cut);
        assert_eq!(sessions.route(&name), Some(1));
        sessions.down(1);
        sessions.down(0);
        sessions.down(2);
        assert_eq!((sessions.route(&name), sessions.all_down()), (None, true));
    }

    #[test]
    fn slots_are_shared_out_and_come_back() {
        let mut sessions = Sessions::new(Arc::new(Fixed));
        assert!(sessions.give(6).is_empty(), "nobody is there");
        let (queue, _outgoing) = mpsc::channel(1);
        let cut = CancellationToken::new();
        sessions.up(0, queue.clone(), cut.clone());
        assert_eq!(sessions.give(0), [(0, 6)]);
        sessions.up(2, queue, cut);
        assert_eq!(sessions.give(3), [(0, 1), (2, 2)]);
        sessions.granted(0);
        // What the lost tracker did not grant goes to the other.
        sessions.down(0);
        assert_eq!(sessions.give(0), [(2, 6)]);
    }
}
