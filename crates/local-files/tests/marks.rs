//! The marks by which a folder says what is kept off it.

#![expect(clippy::unwrap_used, reason = "a test that fails panics")]

mod support;

use local_files::fs::Fs;
use local_files::jobs::run_job;
use model::NodeId;
use std::collections::BTreeSet;
use std::fs;
use support::{Folder, Meddled, NODE, broken};
use sync_engine::io::{Job, JobResult, RootState, StepError};

/// What the folder is marked to lack.
fn marks(folder: &Folder) -> BTreeSet<NodeId> {
    match run_job(&folder.disk, &Job::Settle) {
        JobResult::Settled { root: RootState::Present, result } => result.unwrap().excluded,
        other => panic!("{other:?}"),
    }
}

fn mark(fs: &dyn Fs, nodes: &[NodeId]) -> Result<(), StepError> {
    match run_job(fs, &Job::MarkExcluded(nodes.iter().copied().collect())) {
        JobResult::Marked { root: RootState::Present, result } => result,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_folder_remembers_what_it_is_marked_to_lack() {
    let folder = Folder::new();
    let (one, other) = (NodeId([1; 16]), NodeId([0xf2; 16]));
    assert_eq!(marks(&folder), BTreeSet::new());
    assert_eq!(mark(&folder.disk, &[]), Ok(()));
    assert!(!folder.path(".syncline/excluded").exists(), "where nothing is excluded nothing is made");
    assert_eq!(mark(&folder.disk, &[one, other]), Ok(()));
    assert_eq!(marks(&folder), BTreeSet::from([one, other]));
    assert_eq!(mark(&folder.disk, &[other]), Ok(()));
    fs::write(folder.path(".syncline/excluded/notes"), "no mark").unwrap();
    assert_eq!(marks(&folder), BTreeSet::from([other]));
    assert_eq!(mark(&folder.disk, &[]), Ok(()));
    assert_eq!(marks(&folder), BTreeSet::new());
}

#[test]
fn marks_that_cannot_be_made_durable_are_not_made() {
    let folder = Folder::new();
    let fs = Meddled::new(&folder.disk, |operation, _| if operation == "sync" { Err(broken()) } else { Ok(()) });
    assert!(matches!(mark(&fs, &[NODE]), Err(StepError::Failed(_))));
}
