//! What the disk has already is not fetched.

use crate::build::{A, B, ROOT, agreed_file, at_root, blocks, entry, found_file, name, path, print};
use crate::script::{Script, state};
use model::{Body, Change, Mtime};
use sync_engine::io::{BlockSource, Job, Request};

#[test]
fn a_file_that_the_disk_has_elsewhere_is_copied_however_small_it_is() {
    let mut script = Script::start(state(), vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
    script.learn("bytes");
    let body = Body::File { blocks: blocks("bytes"), size: 5, executable: false, mtime: Mtime(7) };
    let copy = Change::Create { parent: ROOT.root(), name: name("b"), body };
    script.answer_changes(vec![entry(2, B, copy)]);
    script.answer_scans(&[found_file("a", print(11, 5))]);

    let (_, probe) = script.job(|job| matches!(job, Job::Probe { .. })).expect("it is looked what is there");
    let Job::Probe { reuse, .. } = probe else { unreachable!("asked for") };
    let there = BlockSource { hash: blocks("bytes").0[0], len: 5, path: path("a"), offset: 0 };
    assert_eq!(reuse, [(0, there)]);
    assert!(script.request(|request| matches!(request, Request::Fetch { .. }).then_some(())).is_none());
}
