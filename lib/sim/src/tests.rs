//! The built-in scenarios, each with what it expects.

use super::*;

/// Runs a scenario with a seed and checks what it expects.
fn check(name: &str, seed: u64) -> Report {
    let scenario = scenario(name).expect(name);
    let report = run(&scenario, seed);
    if let Err(wrong) = report.check(&scenario) {
        panic!("{wrong}\n{report:#?}");
    }
    report
}

#[test]
fn fifty_agents_share_a_blob() {
    let report = check("share", 1);
    assert_eq!((report.completed, report.peers), (50, 52));
    assert!(report.egress_ratio >= 1.0, "{report:#?}");
}

#[test]
fn agents_that_stay_complete_in_spite_of_loss_and_damage() {
    for seed in 1..=3 {
        let report = check("churn", seed);
        assert!(report.completed >= 40, "{report:#?}");
    }
}

#[test]
fn a_tracker_that_dies_is_survived() {
    check("kill-tracker", 1);
    check("restart-tracker", 1);
    check("two-trackers", 1);
}

#[test]
fn agents_do_without_a_tracker() {
    check("no-tracker", 1);
    check("never-a-tracker", 1);
}

#[test]
fn an_origin_that_dies_is_survived() {
    check("kill-origin", 1);
    check("lose-origin", 1);
}

#[test]
fn a_growing_blob_is_shared_while_it_grows() {
    let report = check("growing", 1);
    // It was not downloaded after it was hashed, but meanwhile.
    assert!(report.p50_s < report.ideal_s * 1.3, "{report:#?}");
}

#[test]
fn a_lone_agent_gets_what_its_link_allows() {
    check("lone", 1);
}

#[test]
fn blobs_of_all_sizes_are_shared() {
    check("layers", 1);
}

#[test]
fn zones_and_slow_agents_are_served() {
    check("zones", 1);
    check("slow", 1);
}

#[test]
fn parts_are_read_in_time() {
    let report = check("parts", 1);
    assert_eq!(report.completed, 20);
    // Only what is read is fetched: 12 MiB of 256, in pieces, by each agent.
    let most = 20.0 * 24.0 / 256.0;
    assert!(report.egress_ratio < most, "{report:#?}");
}

#[test]
fn peers_that_hold_back_do_not_make_readers_wait() {
    for seed in 1..=3 {
        let report = check("parts-held-back", seed);
        assert_eq!(report.completed, 16);
    }
}

#[test]
fn downloads_of_what_cannot_be_had_end() {
    for name in ["absent", "unreadable", "revoked"] {
        let report = check(name, 1);
        assert_eq!(report.completed, 0);
    }
}

#[test]
fn a_seed_gives_one_run_and_another_seed_another() {
    let scenario = scenario("churn").unwrap();
    let [one, same, other] = [7, 7, 8].map(|seed| run(&scenario, seed));
    assert_eq!(one, same);
    assert_ne!(one.trace_hash, other.trace_hash);
}

#[test]
fn scenarios_survive_json() {
    for name in scenarios() {
        let scenario = scenario(&name).unwrap();
        let json = serde_json::to_string(&scenario).unwrap();
        assert_eq!(serde_json::from_str::<Scenario>(&json).unwrap(), scenario);
    }
    assert!(scenario("no such scenario").is_none());
}

#[test]
fn a_failed_run_tells_how_to_run_it_again() {
    let mut scenario = scenario("lone").unwrap();
    scenario.limit_ms = 20;
    let report = run(&scenario, 5);
    assert_eq!(report.stuck, 1);
    let wrong = report.check(&scenario).unwrap_err();
    assert!(wrong.ends_with("shoal sim run lone --seed 5"), "{wrong}");
}
