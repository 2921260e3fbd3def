//! Files that a program has open for writing while a change from elsewhere is to replace or remove them.

use crate::build::{A, agreed_file, at_root, entry, found_file, path, print};
use crate::script::{Script, hash, state};
use model::Change;
use sync_engine::io::{Event, Hint, Job, JobResult, RootState, StepError};

#[test]
fn a_change_from_elsewhere_waits_until_the_file_is_closed() {
    let here = || [found_file("a", print(11, 5))];
    let mut script = Script::at_rest(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))], &here());
    script.take();
    script.tell(Event::StreamOpened);
    script.answer_changes(vec![entry(2, A, Change::Delete)]);
    let apply = |script: &mut Script| script.job(|job| matches!(job, Job::Apply(_)));
    let (mut id, _) = apply(&mut script).expect("it goes here too");
    for _ in 0..2 {
        let results = vec![Err(StepError::InUse)];
        script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results }));
        script.answer_scans(&here());
        assert!(apply(&mut script).is_none(), "not at once");
        let problems = script.engine.problems(9);
        assert!(problems.len() == 1 && problems[0].reason.contains("has the file open"), "{problems:?}");
        script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
        script.answer_scans(&here());
        hash(&mut script, "bytes");
        (id, _) = apply(&mut script).expect("when the program has closed it");
    }
    script.tell(Event::JobDone(id, JobResult::Applied { root: RootState::Present, results: vec![Ok(None)] }));
    script.answer_scans(&[]);
    assert!(script.engine.trees().row(A).is_none());
    assert!(script.engine.problems(9).is_empty());
}
