//! What is fetched before it is committed, and what is told of an upload.

use crate::build::{ROOT, at_root, name, path, print};
use crate::ordering::refused;
use crate::script::{Script, state};
use api::{ComingFile, ComingReply, ErrorCode};
use model::block::block_len;
use model::{BLOCK_SIZE, BlockHash, Blocklist, Body, Change, JournalEntry, Mtime, NodeId, Position, Timestamp};
use sync_engine::Tuning;
use sync_engine::io::{
    Action, Event, Fingerprint, Found, HashResult, Hint, Job, JobResult, Reply, Request, RequestError, RequestId,
};
use sync_engine::tree::FileContent;

const NODE: NodeId = NodeId([0x77; 16]);
const BLOCKS: u8 = 5;

fn blocks() -> Vec<BlockHash> {
    (1..=BLOCKS).map(|n| BlockHash([n; 32])).collect()
}

fn size() -> u64 {
    u64::from(BLOCKS) * BLOCK_SIZE
}

fn coming() -> ComingFile {
    ComingFile { node: NODE, parent: ROOT.root(), size: size(), blocks: blocks() }
}

fn created(position: u64) -> JournalEntry {
    let body = Body::File { blocks: Blocklist(blocks()), size: size(), executable: false, mtime: Mtime(7) };
    let change = Change::Create { parent: ROOT.root(), name: name("large"), body };
    JournalEntry { position: Position(position), node: NODE, change, device: None, time: Timestamp(0) }
}

/// A device with nothing in its folder, at rest and swept.
fn at_rest(tuning: Tuning) -> Script {
    let mut script = Script::start_tuned(state(), tuning);
    script.answer_changes(Vec::new());
    script.answer_scans(&[]);
    sweep(&mut script);
    script
}

fn sweep(script: &mut Script) {
    let (id, _) = script.job(|job| matches!(job, Job::CleanTemps { .. })).expect("old temporary files are removed");
    script.tell(Event::JobDone(id, JobResult::Cleaned));
}

/// The device hears that something comes, and asks what.
fn hear(script: &mut Script, files: Vec<ComingFile>) {
    script.tell(Event::Coming(ROOT));
    let asked = script.request(|request| matches!(request, Request::Coming(_)).then_some(()));
    script.reply(asked.expect("asks what is coming").0, Ok(Reply::Coming(ComingReply { files })));
}

fn prefetch(script: &mut Script) -> Option<(RequestId, Vec<BlockHash>)> {
    script.request(|request| match request {
        Request::Prefetch { blocks, .. } => Some(blocks.iter().map(|block| block.hash).collect()),
        _ => None,
    })
}

fn give(script: &mut Script, id: RequestId, written: Vec<BlockHash>, unavailable: Vec<BlockHash>) {
    script.reply(id, Ok(Reply::Fetched { written, unavailable, disk: None }));
}

fn give_all(script: &mut Script) {
    while let Some((id, asked)) = prefetch(script) {
        give(script, id, asked, Vec::new());
    }
}

fn fetch(script: &mut Script) -> Option<Vec<BlockHash>> {
    let asked = script.request(|request| match request {
        Request::Fetch { blocks, .. } => Some(blocks.iter().map(|block| block.hash).collect()),
        _ => None,
    });
    asked.map(|(_, blocks)| blocks)
}

fn commit_is_read(script: &mut Script) {
    script.tell(Event::StreamOpened);
    script.answer_changes(vec![created(2)]);
}

fn installs(script: &mut Script) -> bool {
    script.job(|job| matches!(job, Job::Prepare(temps) if temps.len() == 1)).is_some()
}

#[test]
fn what_came_before_the_commit_is_not_fetched_again() {
    let mut script = at_rest(Tuning::default());
    hear(&mut script, vec![coming()]);
    give_all(&mut script);
    assert!(!installs(&mut script), "nothing appears before it is committed");
    commit_is_read(&mut script);
    assert_eq!(fetch(&mut script), None);
    assert!(installs(&mut script));
}

#[test]
fn what_did_not_come_before_the_commit_is_fetched_then() {
    let mut script = at_rest(Tuning::default());
    hear(&mut script, vec![coming()]);
    let (first, asked) = prefetch(&mut script).expect("fetches");
    let (second, under_way) = prefetch(&mut script).expect("fetches beside it");
    give(&mut script, first, vec![asked[0]], asked[1..].to_vec());
    while let Some((id, asked)) = prefetch(&mut script) {
        give(&mut script, id, Vec::new(), asked);
    }
    commit_is_read(&mut script);
    let rest: Vec<BlockHash> = blocks().into_iter().filter(|b| *b != asked[0] && !under_way.contains(b)).collect();
    assert_eq!(fetch(&mut script), Some(rest.clone()), "what is under way already counts");
    assert!(!installs(&mut script));
    // The request from before the commit ends without what it was for.
    give(&mut script, second, Vec::new(), under_way.clone());
    assert_eq!(fetch(&mut script), Some(under_way));
}

#[test]
fn what_has_not_arrived_is_asked_for_again_at_the_next_word_and_not_before() {
    let mut script = at_rest(Tuning::default());
    hear(&mut script, vec![coming()]);
    while let Some((id, asked)) = prefetch(&mut script) {
        give(&mut script, id, Vec::new(), asked);
    }
    script.tell(Event::Woken);
    assert_eq!(prefetch(&mut script), None);
    script.tell(Event::Coming(ROOT));
    assert!(prefetch(&mut script).is_some());
}

#[test]
fn a_word_that_comes_while_the_answer_is_on_its_way_is_not_lost() {
    let mut script = at_rest(Tuning::default());
    hear(&mut script, vec![coming()]);
    let mut under_way = Vec::new();
    while let Some(asked) = prefetch(&mut script) {
        under_way.push(asked);
    }
    script.tell(Event::Coming(ROOT));
    for (id, asked) in under_way {
        give(&mut script, id, Vec::new(), asked);
    }
    assert!(prefetch(&mut script).is_some());
}

#[test]
fn an_upload_that_is_never_committed_leaves_nothing_behind() {
    let mut script = at_rest(Tuning::default());
    hear(&mut script, vec![coming()]);
    give_all(&mut script);
    while !script.actions.iter().any(|action| matches!(action, Action::Job(_, Job::CleanTemps { .. }))) {
        script.wake();
    }
    sweep(&mut script);
    commit_is_read(&mut script);
    assert!(!installs(&mut script), "what was swept away does not count");
}

#[test]
fn a_failed_request_for_what_is_coming_is_tried_again_and_ends_nothing() {
    let mut script = at_rest(Tuning::default());
    hear(&mut script, vec![coming()]);
    let (id, _) = prefetch(&mut script).expect("fetches");
    script.reply(id, Err(RequestError::Unreachable("lost".to_owned())));
    script.wake();
    script.answer_changes(vec![created(2)]);
    let fetched = fetch(&mut script).expect("it is fetched");
    assert!(fetched.contains(&blocks()[0]));
}

#[test]
fn what_is_not_wanted_here_is_not_fetched() {
    let elsewhere = ComingFile { parent: NodeId([0x99; 16]), ..coming() };
    let short = ComingFile { size: BLOCK_SIZE, ..coming() };
    for file in [elsewhere, short] {
        let mut script = at_rest(Tuning::default());
        hear(&mut script, vec![file.clone()]);
        assert_eq!(prefetch(&mut script), None, "{file:?}");
    }
    let mut script = at_rest(Tuning { prefetch: false, ..Tuning::default() });
    script.tell(Event::Coming(ROOT));
    assert!(script.request(|request| matches!(request, Request::Coming(_)).then_some(())).is_none());
}

/// The user puts a file of so many blocks into the folder. Whether it is announced.
fn announces(tuning: Tuning, blocks: u64) -> Option<ComingFile> {
    let mut script = at_rest(tuning);
    let list = Blocklist((0..blocks).map(|n| BlockHash([u8::try_from(n).unwrap_or(0) + 1; 32])).collect());
    let size = blocks * BLOCK_SIZE;
    assert_eq!(block_len(size, blocks - 1), BLOCK_SIZE);
    let print = Fingerprint { size, ..print(11, size) };
    let found = Found { name: b"new".as_slice().into(), kind: sync_engine::io::FileKind::File, print, target: None };
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"new".as_slice().into() }]));
    script.answer_scans(&[found]);
    let (id, job) = script.job(|job| matches!(job, Job::Hash(_))).expect("the file is read");
    let Job::Hash(tasks) = job else { unreachable!("asked for") };
    let content = FileContent { hash: list.content_hash(), size, executable: false, mtime: Mtime(7) };
    let result = HashResult::Hashed { content, blocks: list };
    script.tell(Event::JobDone(id, JobResult::Hashed(vec![(tasks[0].node, result)])));
    assert_eq!(at_root("new").parent, ROOT.root());
    let announced = script.request(|request| match request {
        Request::Announce(request) => Some(request.file.clone()),
        _ => None,
    });
    announced.map(|(_, file)| file)
}

#[test]
fn a_large_new_file_is_announced_with_its_upload_and_a_small_one_is_not() {
    let file = announces(Tuning::default(), 3).expect("is announced");
    assert_eq!((file.parent, file.size, file.blocks.len()), (ROOT.root(), 3 * BLOCK_SIZE, 3));
    assert_eq!(announces(Tuning::default(), 1), None);
    assert_eq!(announces(Tuning { prefetch: false, ..Tuning::default() }, 3), None);
}

#[test]
fn what_the_disk_has_no_room_for_is_not_asked_for_is_told_and_is_tried_again() {
    let mut script = at_rest(Tuning::default());
    script.tell(Event::StreamOpened);
    script.answer_changes(vec![created(2)]);
    for _ in 0..3 {
        let (id, _) = script.job(|job| matches!(job, Job::Probe { .. })).expect("it looks at what is there");
        script.tell(Event::JobDone(id, JobResult::NoRoom));
        assert_eq!(fetch(&mut script), None);
        let problems = script.engine.problems(9);
        assert_eq!(
            problems.iter().map(|problem| (problem.path.as_str(), problem.reason.as_str())).collect::<Vec<_>>(),
            [("large", "the disk is full")]
        );
        while script.actions.iter().all(|action| !matches!(action, Action::Job(_, Job::Probe { .. }))) {
            script.wake();
        }
    }
    let (id, _) = script.job(|job| matches!(job, Job::Probe { .. })).expect("it looks again");
    script.tell(Event::JobDone(id, JobResult::Probed { present: Vec::new(), begun: Vec::new() }));
    assert!(fetch(&mut script).is_some());
}

/// The next download: who asks, and for what.
fn next_fetch(script: &mut Script) -> (RequestId, Vec<BlockHash>) {
    let asked = script.request(|request| match request {
        Request::Fetch { blocks, .. } => Some(blocks.iter().map(|block| block.hash).collect()),
        _ => None,
    });
    asked.expect("it is fetched")
}

fn nothing_is_there(script: &mut Script) {
    let (id, _) = script.job(|job| matches!(job, Job::Probe { .. })).expect("it looks at what is there");
    script.tell(Event::JobDone(id, JobResult::Probed { present: Vec::new(), begun: Vec::new() }));
}

/// The answer counted for whatever was being fetched of the file by then. Its bytes were in another temporary file, and
/// the file appeared with zeros in their place.
#[test]
fn an_answer_counts_for_the_version_that_it_was_asked_for_and_no_other() {
    let mut script = at_rest(Tuning { prefetch: false, ..Tuning::default() });
    commit_is_read(&mut script);
    nothing_is_there(&mut script);
    let old: Vec<(RequestId, Vec<BlockHash>)> = (0..3).map(|_| next_fetch(&mut script)).collect();

    let mut edited = blocks();
    edited[4] = BlockHash([9; 32]);
    let body = Body::File { blocks: Blocklist(edited), size: size(), executable: false, mtime: Mtime(8) };
    let edit = JournalEntry { position: Position(3), change: Change::Edit { body }, ..created(3) };
    script.tell(Event::StreamOpened);
    script.answer_changes(vec![edit]);
    nothing_is_there(&mut script);
    let mut new = vec![next_fetch(&mut script)];
    for (id, written) in old {
        give(&mut script, id, written, Vec::new());
    }
    assert_eq!(new[0].1, blocks()[..2], "the first blocks of both");
    while new.len() < 3 {
        new.push(next_fetch(&mut script));
    }
    assert_eq!(fetch(&mut script), None, "each block is asked for once");
    while let Some((id, written)) = new.pop() {
        assert!(!installs(&mut script), "{} answers are still to come", new.len() + 1);
        give(&mut script, id, written, Vec::new());
    }
    assert!(installs(&mut script));
}

/// The file that it was about to put blocks into was removed under it, and made again without them.
#[test]
fn nothing_is_put_into_a_temporary_file_while_old_ones_are_removed() {
    let mut script = Script::start_tuned(state(), Tuning { prefetch: false, ..Tuning::default() });
    script.answer_changes(Vec::new());
    script.answer_scans(&[]);
    let is_cleaning = |action: &Action| matches!(action, Action::Job(_, Job::CleanTemps { .. }));
    assert!(script.actions.iter().any(is_cleaning));
    commit_is_read(&mut script);
    assert!(script.job(|job| matches!(job, Job::Probe { .. })).is_none());
    sweep(&mut script);
    assert!(script.job(|job| matches!(job, Job::Probe { .. })).is_some());
}

/// It was asked for again at once, and again, for as long as the device had not heard that it is out of the folder.
#[test]
fn what_the_server_denies_is_not_asked_for_again_before_the_journal_was_read() {
    let mut script = at_rest(Tuning { prefetch: false, ..Tuning::default() });
    commit_is_read(&mut script);
    nothing_is_there(&mut script);
    for _ in 0..3 {
        let (id, _) = next_fetch(&mut script);
        script.reply(id, refused(ErrorCode::Forbidden));
    }
    assert_eq!(fetch(&mut script), None);
    script.answer_changes(Vec::new());
    assert_eq!(fetch(&mut script), None);
    script.wake();
    assert!(fetch(&mut script).is_some(), "and then it is tried again");
}
