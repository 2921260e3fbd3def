//! Short campaigns of fixed seeds, and the promise that a seed means one history.

use simulation::campaign::{Options, run};
use simulation::world::{replay, run_seed};

#[test]
fn a_seed_gives_the_same_history_every_time() {
    for seed in 1..=30 {
        let (first, second) = (run_seed(seed, false), run_seed(seed, false));
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!(first.history, second.history, "seed {seed}");
    }
}

#[test]
fn a_recorded_history_replays_to_the_same_trace() {
    for seed in 1..=30 {
        let first = run_seed(seed, false);
        let again = replay(&first.history, false);
        assert_eq!(first.trace_hash, again.trace_hash, "seed {seed}");
    }
}

#[test]
fn a_history_survives_being_stored() {
    let history = run_seed(3, false).history;
    let text = serde_json::to_string(&history).expect("serializes");
    assert_eq!(serde_json::from_str::<simulation::history::History>(&text).expect("reads"), history);
}

#[test]
fn fixed_seeds_are_clean() {
    let options = Options { first_seed: 1, seeds: Some(150), ..Options::default() };
    let report = run(&options);
    assert!(report.is_clean(), "{report}");
}

/// Histories that once broke a rule, each named after its cause.
#[test]
fn stored_histories_stay_clean() {
    let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut stored: Vec<_> =
        std::fs::read_dir(corpus).expect("a folder").map(|entry| entry.expect("reads").path()).collect();
    stored.sort();
    for path in stored {
        let text = std::fs::read_to_string(&path).expect("reads");
        let outcome = replay(&serde_json::from_str(&text).expect("a history"), false);
        assert_eq!(outcome.violation, None, "{}", path.display());
    }
}
