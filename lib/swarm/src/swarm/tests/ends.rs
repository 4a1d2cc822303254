//! Downloads that end without the blob, and those that do not.

use super::*;

/// §7.3: a tracker that knows of nobody who could help ends what no neighbour helps, and only that.
#[test]
fn a_download_that_nobody_can_help_ends() {
    let failed = |reason: &str| {
        Input::Tracker(Message::Handout {
            name: name(1),
            status: HandoutStatus::Failed(reason.into()),
            peers: Vec::new(),
        })
    };
    let description = complete(name(1), 4 * MIB);
    for (helps, whole) in [(true, true), (false, true), (true, false), (false, false)] {
        let mut alone = Alone::new(agent(1));
        // Else it waits a little for an origin that comes back.
        alone.swarm.config.policy.helpless = Micros(0);
        alone.begin(description, whole);
        let (reader, range) = (ReaderId(1), 0..4 * MIB);
        alone.tell(Input::Read {
            name: name(1),
            reader,
            range,
        });
        let conn = alone.meet(agent(2));
        let have: &[u32] = if helps { &[0] } else { &[] };
        alone.link(conn, description, have);
        let outputs = alone.tell(failed("no origin"));
        let ends = outputs
            .iter()
            .any(|output| matches!(output, Output::Failed { .. }));
        assert_eq!(ends, !helps, "{helps} {whole}");
    }
}

/// §8.1: what was revoked is not what is being asked for now.
#[test]
fn an_old_revocation_does_not_end_a_new_download() {
    let mut alone = Alone::new(agent(1));
    let download = Input::Download {
        name: name(1),
        priority: Priority::Stream,
        whole: true,
    };
    alone.tell(download);
    alone.tell(Input::Tracker(Message::Revoke {
        name: name(1),
        generation: Some(Generation(1)),
        reason: "another digest".into(),
    }));
    assert!(alone.swarm.torrents.contains_key(&name(1)));
}

fn download() -> Input {
    Input::Download {
        name: name(1),
        priority: Priority::Stream,
        whole: true,
    }
}

fn nothing() -> Message {
    Message::Bitfield {
        name: name(1),
        description: None,
        have: Vec::new(),
    }
}

fn resolves(outputs: &[Output]) -> bool {
    let mut outputs = outputs.iter();
    outputs.any(|output| matches!(output, Output::Resolve { .. }))
}

fn announces(outputs: &[Output]) -> Vec<AnnounceEvent> {
    let entries = outputs.iter().filter_map(|output| match output {
        Output::Announce(entry) => Some(entry.event),
        _ => None,
    });
    entries.collect()
}

/// §7.10: what an origin said of a blob before it was asked for again does not count.
#[test]
fn an_absence_answers_the_question_it_was_asked() {
    let mut alone = Alone::new(agent(1));
    alone.tell(Input::TrackersUp(false));
    let conn = alone.meet(origin(2));
    let (name, peers) = (name(1), vec![origin(2)]);
    for again in [false, true] {
        let mut outputs = alone.tell(download());
        let peers = peers.clone();
        outputs.extend(alone.tell(Input::Owners { name, peers }));
        let asked = sent(&outputs);
        let [(_, Message::Ping { token }), (_, Message::Bitfield { .. })] = asked[..] else {
            panic!("{asked:?}");
        };
        if !again {
            alone.hear(conn, Message::Pong { token });
            alone.tell(Input::Remove { name });
            continue;
        }
        alone.hear(conn, nothing());
        assert!(alone.swarm.torrents.contains_key(&name), "too early");
        alone.hear(conn, Message::Pong { token });
        let outputs = alone.hear(conn, nothing());
        let ends = |output: &Output| {
            let absent = &Failure::Absent;
            matches!(output, Output::Failed { failure, .. } if failure == absent)
        };
        assert!(outputs.iter().any(ends), "{outputs:?}");
        assert!(sent(&outputs).is_empty(), "that would be a question");
    }
}

/// Whoever asked while storage was read may have pushed the blob after the read began.
#[test]
fn storage_is_asked_again_for_who_asked_late() {
    let mut alone = Alone::new(origin(1));
    alone.drain();
    let conns = [2, 3].map(|number| alone.meet(agent(number)));
    assert!(resolves(&alone.hear(conns[0], nothing())));
    assert!(!resolves(&alone.hear(conns[1], nothing())));
    let absent = || Input::Resolved {
        name: name(1),
        found: crate::Found::Absent,
    };
    let first = alone.tell(absent());
    assert_eq!(sent(&first), [(conns[0], nothing())]);
    assert!(resolves(&first));
    // No tracker asked: it would take this for the answer to what it asks next.
    assert_eq!(announces(&first), []);
    assert_eq!(sent(&alone.tell(absent())), [(conns[1], nothing())]);
}

/// A push through this origin ends while storage is still being asked.
#[test]
fn what_was_pushed_meanwhile_is_here() {
    let mut alone = Alone::new(origin(1));
    alone.drain();
    let conn = alone.meet(agent(2));
    alone.hear(conn, nothing());
    let description = complete(name(1), MIB);
    alone.tell(Input::Seed { description });
    let outputs = alone.tell(Input::Resolved {
        name: name(1),
        found: crate::Found::Absent,
    });
    let unserved = true;
    let here = [AnnounceEvent::Complete { unserved }];
    assert_eq!(announces(&outputs), here);
    let said = sent(&outputs);
    let is_described = |message: &Message| {
        let Message::Bitfield { description, .. } = message else {
            return false;
        };
        description.is_some()
    };
    assert!(
        said.iter().any(|(_, message)| is_described(message)),
        "{said:?}"
    );
}
