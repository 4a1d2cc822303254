//! The graph that handouts make.

use std::collections::VecDeque;

use super::*;

type Graph = BTreeMap<PeerId, BTreeSet<PeerId>>;

/// Lets the agents join one after another and adds what they are named to the graph.
fn join_all(harness: &mut Harness, agents: &[Peer], graph: &mut Graph) {
    for agent in agents {
        harness.connect(agent);
        harness.join(agent, name(1));
        let handouts = harness.handouts(agent);
        let [(HandoutStatus::Known(_), peers)] = &handouts[..] else {
            panic!("{handouts:?}");
        };
        graph.entry(agent.id).or_default();
        assert!(!peers.contains(&agent.id), "it was named to itself");
        assert!(peers.iter().all(|peer| graph.contains_key(peer)));
        for peer in peers {
            assert!(graph.get_mut(&agent.id).unwrap().insert(*peer));
            assert!(graph.get_mut(peer).unwrap().insert(agent.id));
        }
    }
}

fn seeded(seed: u64) -> Harness {
    let mut harness = Harness::new(seed);
    harness.connect(&origin(1));
    harness.seed(&origin(1), name(1));
    harness
}

/// Returns the distance of the farthest, and how many were reached.
fn reach(graph: &Graph) -> (usize, usize) {
    let start = *graph.keys().next().unwrap();
    let mut distance = BTreeMap::from([(start, 0)]);
    let mut queue = VecDeque::from([start]);
    while let Some(id) = queue.pop_front() {
        for next in &graph[&id] {
            if !distance.contains_key(next) {
                distance.insert(*next, distance[&id] + 1);
                queue.push_back(*next);
            }
        }
    }
    (*distance.values().max().unwrap(), distance.len())
}

/// §7.3.
#[test]
fn the_graph_is_connected_small_and_nearly_regular() {
    for seed in 0..8 {
        let mut harness = seeded(seed);
        let agents: Vec<Peer> = (1..=600).map(agent).collect();
        let mut graph = Graph::new();
        join_all(&mut harness, &agents, &mut graph);
        let (farthest, reached) = reach(&graph);
        assert_eq!(reached, 600, "seed {seed}");
        // A chain in time would be 50 long.
        assert!(farthest <= 6, "seed {seed}: {farthest}");
        let degrees: Vec<usize> = graph.values().map(BTreeSet::len).collect();
        assert!(
            degrees.iter().all(|degree| (3..=16).contains(degree)),
            "{degrees:?}"
        );
        let links: usize = degrees.iter().sum();
        assert!(
            (11 * 600..=12 * 600).contains(&links),
            "seed {seed}: {links}"
        );
    }
}

#[test]
fn zones_keep_to_themselves_and_stay_linked() {
    for seed in 0..4 {
        let mut harness = seeded(seed);
        let zones = ["a", "b", "c"];
        let agents: Vec<Peer> = (0..300)
            .map(|number| agent_in(zones[number as usize % 3], number + 1))
            .collect();
        let zone_of: BTreeMap<PeerId, Arc<str>> = agents
            .iter()
            .map(|agent| (agent.id, Arc::clone(&agent.zone)))
            .collect();
        let mut graph = Graph::new();
        join_all(&mut harness, &agents, &mut graph);
        assert_eq!(reach(&graph).1, 300, "seed {seed}");
        let links: usize = graph.values().map(BTreeSet::len).sum();
        let inside: usize = graph
            .iter()
            .map(|(id, peers)| {
                let same = peers.iter().filter(|peer| zone_of[*peer] == zone_of[id]);
                same.count()
            })
            .sum();
        assert!(inside * 10 > links * 7, "seed {seed}: {inside} of {links}");
        assert!(inside < links);
    }
}

#[test]
fn peers_that_know_each_other_meet_again() {
    let mut harness = seeded(1);
    let agents: Vec<Peer> = (1..=200).map(agent).collect();
    join_all(&mut harness, &agents, &mut Graph::new());
    let newcomer = agent(1_000);
    harness.connect(&newcomer);
    // The first ones have their sixteen links.
    let known: Vec<PeerId> = agents[100..]
        .iter()
        .step_by(20)
        .map(|agent| agent.id)
        .collect();
    let message = Message::Announce {
        entries: vec![Announce {
            name: name(1),
            event: AnnounceEvent::Join { sixteenths: 0 },
            description: None,
        }],
        connected: known.clone(),
        credits: 0,
    };
    harness.say(&newcomer, message);
    let (_, named) = harness.handouts(&newcomer).remove(0);
    assert_eq!(named.len(), 6);
    assert!(known.iter().all(|peer| named.contains(peer)), "{named:?}");
}

#[test]
fn a_complete_peer_is_named_where_there_is_one() {
    let mut harness = seeded(1);
    let agents: Vec<Peer> = (1..=200).map(agent).collect();
    join_all(&mut harness, &agents, &mut Graph::new());
    let seeders = &agents[150..155];
    for seeder in seeders {
        let event = AnnounceEvent::Complete { unserved: false };
        harness.announce(seeder, name(1), event, None);
    }
    for number in 1_000..1_010 {
        harness.connect(&agent(number));
        harness.join(&agent(number), name(1));
        let (_, named) = harness.handouts(&agent(number)).remove(0);
        assert!(
            seeders.iter().any(|peer| named.contains(&peer.id)),
            "{named:?}"
        );
    }
}

#[test]
fn the_dead_are_not_named_and_the_starving_find_the_living() {
    for seed in 0..4 {
        let mut harness = seeded(seed);
        let agents: Vec<Peer> = (1..=200).map(agent).collect();
        let mut graph = Graph::new();
        join_all(&mut harness, &agents, &mut graph);
        let (dead, living) = agents.split_at(120);
        for agent in dead {
            harness.disconnect(agent);
            graph.remove(&agent.id);
        }
        for peers in graph.values_mut() {
            peers.retain(|peer| dead.iter().all(|dead| dead.id != *peer));
        }
        for agent in living {
            harness.announce(agent, name(1), AnnounceEvent::Starving, None);
            let handouts = harness.handouts(agent);
            let [(HandoutStatus::Known(_), peers)] = &handouts[..] else {
                panic!("seed {seed}: {handouts:?}");
            };
            let [peer] = peers[..] else {
                panic!("one more peer: {peers:?}");
            };
            assert!(!graph[&agent.id].contains(&peer), "it is a neighbour");
            graph.get_mut(&agent.id).unwrap().insert(peer);
            graph.get_mut(&peer).unwrap().insert(agent.id);
        }
        assert_eq!(reach(&graph).1, 80, "seed {seed}");
        assert!(graph.values().all(|peers| peers.len() <= 24));
    }
}

#[test]
fn everybody_is_told_to_somebody_even_where_all_are_full() {
    let policy = Policy {
        max_degree: 2,
        named_peers: 2,
        ..Policy::default()
    };
    let mut harness = Harness::with(3, policy);
    harness.connect(&origin(1));
    harness.seed(&origin(1), name(1));
    let agents: Vec<Peer> = (1..=50).map(agent).collect();
    let mut graph = Graph::new();
    join_all(&mut harness, &agents, &mut graph);
    assert_eq!(reach(&graph).1, 50);
}
