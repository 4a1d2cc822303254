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
    /// Slots of an origin at each tracker. They do not go from one tracker to another: each blob has
    /// one tracker, and slots that came to one without blobs would never come back.
    share: u16,
}

#[derive(Debug)]
struct Session {
    addr: Arc<str>,
    queue: Option<(mpsc::Sender<Message>, CancellationToken)>,
    /// Slots that this tracker granted and that did not come back yet.
    granted: u16,
    /// Whether it was tried at least once.
    tried: bool,
}

impl Sessions {
    pub(crate) fn new(cluster: Arc<dyn Cluster>) -> Self {
        let trackers = cluster.trackers().into_iter();
        let list = trackers.map(|addr| Session {
            addr,
            queue: None,
            granted: 0,
            tried: false,
        });
        Self {
            list: list.collect(),
            cluster,
            share: 0,
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

    /// Notes that a tracker is there; returns how many slots of an origin it gets.
    pub(crate) fn up(
        &mut self,
        tracker: usize,
        queue: mpsc::Sender<Message>,
        cut: CancellationToken,
    ) -> u16 {
        if let Some(session) = self.list.get_mut(tracker) {
            session.queue = Some((queue, cut));
            session.tried = true;
            session.granted = 0;
        }
        self.share
    }

    /// Notes that a tracker is not there, and with it what it granted.
    pub(crate) fn down(&mut self, tracker: usize) {
        if let Some(session) = self.list.get_mut(tracker) {
            session.queue = None;
            session.tried = true;
            session.granted = 0;
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
            session.granted = session.granted.saturating_add(1);
        }
    }

    /// Takes slots: the first ones are the share of every tracker, later ones were granted and come
    /// back to whom the most are missing. Returns how many each tracker gets. Those that a tracker
    /// granted which is not there any more come back to nobody.
    pub(crate) fn give(&mut self, count: u16) -> Vec<(usize, u16)> {
        let is_first = self.share == 0;
        if is_first {
            self.share = count;
        }
        let mut given = vec![0_u16; self.list.len()];
        for (tracker, session) in self.list.iter().enumerate() {
            if is_first && session.queue.is_some() {
                given[tracker] = count;
            }
        }
        for _ in 0..if is_first { 0 } else { count } {
            let sessions = self.list.iter_mut().enumerate();
            let lacking = sessions.filter(|(_, session)| session.granted > 0);
            let Some((tracker, session)) = lacking.max_by_key(|(_, session)| session.granted)
            else {
                break;
            };
            session.granted -= 1;
            given[tracker] += 1;
        }
        let given = given.into_iter().enumerate();
        given.filter(|(_, slots)| *slots > 0).collect()
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
    fn every_tracker_has_slots_and_gets_back_what_it_granted() {
        let mut sessions = Sessions::new(Arc::new(Fixed));
        let (queue, _outgoing) = mpsc::channel(1);
        let cut = CancellationToken::new();
        assert_eq!(sessions.up(0, queue.clone(), cut.clone()), 0);
        assert_eq!(sessions.give(6), [(0, 6)], "that is the share");
        // Who comes later has as many: no other one may ever have one to spare.
        assert_eq!(sessions.up(2, queue.clone(), cut.clone()), 6);
        for _ in 0..3 {
            sessions.granted(2);
        }
        sessions.granted(0);
        assert_eq!(sessions.give(2), [(2, 2)]);
        assert_eq!(
            sessions.give(3),
            [(0, 1), (2, 1)],
            "no more than were granted"
        );
        // What a lost tracker granted comes back to nobody: it has its share when it is back.
        sessions.granted(0);
        sessions.down(0);
        assert!(sessions.give(1).is_empty());
        assert_eq!(sessions.up(0, queue, cut), 6);
    }
}
