//! Replays every input under `fuzz/corpus`: what once broke a parser does not again.
//!
//! `seeds` are the inputs that a fuzzer begins with. `FUZZ_WRITE_SEEDS=1` writes them; without it, the
//! test says which are not there.

mod seeds;

use fuzzing::{TARGETS, Verdict};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus")
}

fn inputs(target: &str) -> Vec<PathBuf> {
    let listing = fs::read_dir(corpus().join(target)).expect("every target has a folder in the corpus");
    let mut paths: Vec<PathBuf> = listing.map(|entry| entry.expect("lists").path()).collect();
    paths.sort();
    paths
}

#[test]
fn every_input_of_the_corpus_is_survived() {
    for (target, harness) in TARGETS {
        let mut met: BTreeMap<Verdict, usize> = BTreeMap::new();
        for path in inputs(target) {
            println!("{}", path.display());
            *met.entry(harness(&fs::read(&path).expect("reads"))).or_default() += 1;
        }
        assert!(met.contains_key(&Verdict::Understood), "{target}: no input is understood: {met:?}");
    }
}

#[test]
fn every_seed_is_in_the_corpus() {
    let write = std::env::var_os("FUZZ_WRITE_SEEDS").is_some();
    let mut lacking = Vec::new();
    for (target, name, bytes) in seeds::all() {
        let path = corpus().join(target).join(format!("seed-{name}"));
        if write {
            fs::create_dir_all(path.parent().expect("lies in a folder")).expect("makes");
            fs::write(&path, &bytes).expect("writes");
        }
        if fs::read(&path).ok() != Some(bytes) {
            lacking.push(path);
        }
    }
    assert!(lacking.is_empty(), "run this test with FUZZ_WRITE_SEEDS=1 and commit {lacking:?}");
}

#[test]
fn every_folder_of_the_corpus_has_a_target_and_every_target_a_program() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let folders: BTreeSet<String> = fs::read_dir(corpus())
        .expect("lists")
        .map(|entry| entry.expect("lists").file_name().into_string().expect("text"))
        .collect();
    assert_eq!(folders, targets);
    let programs = corpus().join("../fuzz_targets");
    for target in targets {
        let program = fs::read_to_string(programs.join(format!("{target}.rs"))).expect("has a program");
        assert!(program.contains(&format!("{target}(bytes)")), "{target}: its program runs something else");
    }
}
