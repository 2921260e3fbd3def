//! What a power failure did to the disk is no edit and no deletion by the user.

use crate::build::{A, B, ROOT, agreed_file, at_root, blocks, entry, file, found, found_file, name, path, print};
use crate::script::{Rows, Script, hash, state};
use model::{Body, Change, CommitOutcome, Mtime, Operation, Position, Timestamp};
use sync_engine::io::{
    ActivityKind, Durable, EngineState, Event, FileKind, Fingerprint, Found, HashResult, Hint, Job, JobId, JobResult,
    LocalStep, Reply, Request, RootState, Settled,
};
use sync_engine::status::Phase;
use sync_engine::tree::Seen;

/// The change time of all files here, in nanoseconds, is 7.
const BEFORE: i64 = 0;
/// Later than any file system's clock tick after that.
const AFTER: i64 = 10_000_000_000;

fn durable(boot: u8, until: i64) -> Durable {
    Durable { boot: [boot; 16], until }
}

/// A device with the file `a` in sync starts in this run of the operating system and finds these entries. In the
/// first one, all that changed until then was durable.
fn starts(boot: u8, until: i64, found: &[Found]) -> Script {
    let mut script = begins(boot, until);
    script.answer_changes(Vec::new());
    script.answer_scans(found);
    script
}

/// The same, before it has heard from the server and looked at the disk.
fn begins(boot: u8, until: i64) -> Script {
    let state = EngineState { durable: Some(durable(1, until)), ..state() };
    let mut script = Script::begin(state, vec![(A, agreed_file(&at_root("a"), "bytes", 11))]);
    script.learn("bytes");
    script.settle(Ok(Settled { durable: durable(boot, until), ..Settled::default() }));
    script
}

fn reads(script: &mut Script, bytes: &str) {
    let (id, _) = script.job(|job| matches!(job, Job::Hash(_))).expect("it is read again");
    let hashed = HashResult::Hashed { content: file(bytes), blocks: blocks(bytes) };
    script.tell(Event::JobDone(id, JobResult::Hashed(vec![(A, hashed)])));
}

/// What the server is told, when all has settled that needs a moment.
fn told(script: &mut Script) -> Vec<Operation> {
    while let Some(at) = script.engine.next_wake().filter(|at| *at < 10_000) {
        script.now = at;
        script.tell(Event::Woken);
        script.answer_scans(&[]);
    }
    script.commit().map(|(_, commit)| commit.operations).unwrap_or_default()
}

fn fetches(script: &mut Script) -> bool {
    script.request(|request| matches!(request, Request::Fetch { .. }).then_some(())).is_some()
}

const fn cut_off(size: u64) -> Fingerprint {
    print(11, size)
}

#[test]
fn a_file_that_it_took_comes_back() {
    let mut script = starts(2, BEFORE, &[]);
    assert!(told(&mut script).is_empty(), "its absence is no deletion");
    assert!(fetches(&mut script));
}

#[test]
fn a_file_that_it_emptied_is_filled_again() {
    let mut script = starts(2, BEFORE, &[found_file("a", cut_off(0))]);
    reads(&mut script, "");
    assert!(fetches(&mut script));
    assert!(told(&mut script).is_empty(), "it is no edit");
}

/// While a download was installed there was something to look at, and an empty file was sent meanwhile.
#[test]
fn nothing_is_planned_with_what_it_may_have_emptied_until_that_is_decided() {
    let mut script = begins(2, BEFORE);
    let create = Change::Create { parent: ROOT.root(), name: name("d"), body: Body::Directory };
    script.answer_changes(vec![entry(2, B, create)]);
    script.answer_scans(&[found_file("a", cut_off(0))]);
    let (making, _) = script.job(|job| matches!(job, Job::Apply(_))).expect("a folder is made");
    script.tell(Event::Hints(vec![Hint::Entry { directory: path(""), name: b"new".as_slice().into() }]));
    reads(&mut script, "");
    assert!(script.commit().is_none(), "there is something to look at first");
    let results = vec![Ok(Some(print(12, 0)))];
    script.tell(Event::JobDone(making, JobResult::Applied { root: RootState::Present, results }));
    script.answer_scans(&[found_file("a", cut_off(0)), found("d", FileKind::Directory, print(12, 0))]);
    assert!(fetches(&mut script));
    assert!(told(&mut script).is_empty(), "it is no edit");
}

#[test]
fn a_file_that_it_put_back_to_an_earlier_version_gets_the_later_one_again() {
    let mut script = starts(2, BEFORE, &[found_file("a", print(11, 5))]);
    script.learn("early");
    reads(&mut script, "early");
    assert!(fetches(&mut script));
    assert!(told(&mut script).is_empty(), "under the same times nothing else tells them apart");
}

#[test]
fn a_file_that_it_tore_stays_beside_what_the_server_has() {
    let mut script = starts(2, BEFORE, &[found_file("a", cut_off(3))]);
    reads(&mut script, "byt");
    let aside = |job: &Job| matches!(job, Job::Apply(steps) if matches!(steps[..], [LocalStep::Move { .. }]));
    assert!(script.job(aside).is_some(), "nobody knows whether a user made it");
}

#[test]
fn an_edit_just_before_it_that_the_disk_kept_is_an_edit() {
    let print = Fingerprint { mtime: Mtime(8), ctime: 8, ..print(11, 5) };
    let mut script = starts(2, BEFORE, &[found_file("a", print)]);
    reads(&mut script, "mine!");
    assert!(matches!(told(&mut script)[..], [Operation::Edit { node: A, .. }]));
}

/// A device with an edit of the file `a` that it has not sent starts after a power failure and finds this.
fn starts_with_an_edit(edited: &str, found: &[Found]) -> Script {
    let mut row = agreed_file(&at_root("a"), "bytes", 11);
    let size = edited.len() as u64;
    if let Some(local) = &mut row.local {
        (local.seen, local.print) = (Seen::File(Some(file(edited))), print(12, size));
    }
    let state = EngineState { durable: Some(durable(1, BEFORE)), ..state() };
    let mut script = Script::begin(state, vec![(A, row)]);
    script.learn("bytes");
    script.learn(edited);
    script.settle(Ok(Settled { durable: durable(2, BEFORE), ..Settled::default() }));
    script.answer_changes(Vec::new());
    script.answer_scans(found);
    script
}

/// When this run of the operating system began: after a change before the power failed, and long before now.
const BEGAN: i64 = 100_000_000_000;
const LOST: i64 = 90_000_000_000;
const SINCE: i64 = 200_000_000_000;
const NOW: i64 = 300_000_000_000;

const fn changed_at(time: i64, size: u64) -> Fingerprint {
    Fingerprint { mtime: Mtime(time), ctime: time, ..print(11, size) }
}

/// What the database of a device holds on which a file `a` has been in sync for long.
fn long_in_sync(bytes: &str) -> (EngineState, Rows) {
    let state = EngineState { durable: Some(durable(1, AFTER)), ..state() };
    (state, vec![(A, agreed_file(&at_root("a"), bytes, 11))])
}

/// Such a device starts in another run of the operating system.
fn starts_long_after(found: &[Found]) -> Script {
    starts_again(long_in_sync("bytes"), found)
}

fn starts_again((state, rows): (EngineState, Rows), found: &[Found]) -> Script {
    let mut script = Script::begin(state, rows);
    script.learn("bytes");
    script.learn("");
    let settled = Settled { durable: durable(2, NOW), began: Some(BEGAN), ..Settled::default() };
    script.settle(Ok(settled));
    script.answer_changes(Vec::new());
    script.answer_scans(found);
    script
}

fn edits_a(script: &mut Script) -> bool {
    matches!(told(script)[..], [Operation::Edit { node: A, .. }])
}

fn refilled(script: &Script) -> bool {
    script.reported(ActivityKind::Refilled)
}

/// The file was saved, and the power failed before anybody had seen that: all devices got an empty file.
#[test]
fn an_edit_that_nobody_saw_and_that_it_emptied_comes_back() {
    let mut script = starts_long_after(&[found_file("a", changed_at(LOST, 0))]);
    reads(&mut script, "");
    assert!(fetches(&mut script));
    assert!(refilled(&script), "its user is told");
    assert!(told(&mut script).is_empty(), "it is no edit");
}

/// Its user may have made it so: that stays, too.
#[test]
fn an_edit_that_nobody_saw_and_of_which_it_left_zeros_stays_beside() {
    let mut script = starts_long_after(&[found_file("a", changed_at(LOST, 7))]);
    reads(&mut script, "\0\0\0\0\0\0\0");
    let aside = |job: &Job| matches!(job, Job::Apply(steps) if matches!(steps[..], [LocalStep::Move { .. }]));
    assert!(script.job(aside).is_some());
}

#[test]
fn an_edit_that_nobody_saw_and_of_which_it_kept_something_is_an_edit() {
    let mut script = starts_long_after(&[found_file("a", changed_at(LOST, 3))]);
    reads(&mut script, "edi");
    assert!(edits_a(&mut script));
}

#[test]
fn a_file_that_its_user_emptied_since_the_start_is_empty() {
    let mut script = starts_long_after(&[found_file("a", changed_at(SINCE, 0))]);
    reads(&mut script, "");
    assert!(edits_a(&mut script));
}

#[test]
fn a_file_that_its_user_emptied_before_the_disk_was_synced_last_is_empty() {
    let mut script = starts_long_after(&[found_file("a", changed_at(AFTER - 3_000_000_000, 0))]);
    reads(&mut script, "");
    assert!(edits_a(&mut script), "what was durable is what its user left");
}

#[test]
fn an_emptied_file_that_got_another_name_since_the_start_comes_back() {
    let renamed = Fingerprint { ctime: SINCE, ..changed_at(LOST, 0) };
    let mut script = starts_long_after(&[found_file("a", renamed)]);
    reads(&mut script, "");
    assert!(fetches(&mut script) && told(&mut script).is_empty(), "nobody wrote into it");
}

/// A machine whose clock needs power starts with an old time.
#[test]
fn a_change_from_the_future_is_one_from_before_the_start() {
    let mut script = starts_long_after(&[found_file("a", changed_at(NOW + 60_000_000_000, 0))]);
    reads(&mut script, "");
    assert!(fetches(&mut script) && told(&mut script).is_empty());
}

#[test]
fn an_emptied_file_that_was_empty_or_is_new_is_left_alone() {
    let mut script = starts_again(long_in_sync(""), &[found_file("a", changed_at(LOST, 7))]);
    reads(&mut script, "\0\0\0\0\0\0\0");
    assert!(edits_a(&mut script), "there was nothing to lose");
    let (state, _) = long_in_sync("");
    let mut script = starts_again((state, Vec::new()), &[found_file("new", changed_at(LOST, 0))]);
    hash(&mut script, "");
    assert!(matches!(told(&mut script)[..], [Operation::Create { .. }]));
}

#[test]
fn it_can_be_emptied_again_when_it_is_known_what_the_power_failure_did() {
    let mut script = starts_long_after(&[found_file("a", print(11, 5))]);
    assert_eq!(script.engine.state().durable, Some(durable(2, NOW)), "everything was looked at");
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", changed_at(LOST, 0))]);
    reads(&mut script, "");
    assert!(edits_a(&mut script), "whatever its times");
}

/// A client that was killed in the middle of its first look sent the empty file at the next.
#[test]
fn an_emptied_file_is_doubted_at_each_start_until_that_is_decided() {
    let lost = Fingerprint { ctime: LOST, ..print(11, 0) };
    let emptied = [found_file("a", lost)];
    let mut script = starts_long_after(&emptied);
    assert_eq!(script.engine.state().durable, Some(durable(1, AFTER)), "as long as it is not read");
    // Something is to be looked at, so that nothing is decided yet.
    script.tell(Event::Hints(vec![Hint::Entry { directory: path(""), name: b"new".as_slice().into() }]));
    reads(&mut script, "");
    assert!(!fetches(&mut script), "there is something to look at first");
    script.now += 10_000;
    script.tell(Event::Woken);
    let (state, rows) = long_in_sync("bytes");
    let (state, rows) = script.database(state, rows);
    assert_eq!(rows[0].1.local.as_ref().map(|local| local.print), Some(lost), "it was seen");
    let mut script = starts_again((state, rows), &emptied);
    reads(&mut script, "");
    assert!(fetches(&mut script) && told(&mut script).is_empty(), "it is no edit");
}

/// The server got an empty file in place of what had been in sync.
#[test]
fn an_unsent_edit_that_it_emptied_is_filled_with_what_was_in_sync() {
    let mut script = starts_with_an_edit("edited", &[found_file("a", print(12, 0))]);
    reads(&mut script, "");
    assert!(fetches(&mut script));
    assert!(told(&mut script).is_empty(), "it is no edit");
    let mut script = starts_with_an_edit("edited", &[]);
    assert!(told(&mut script).is_empty(), "its absence is no deletion");
    assert!(fetches(&mut script));
}

#[test]
fn an_unsent_edit_of_which_the_disk_kept_something_is_an_edit() {
    for kept in ["edited", "edi"] {
        let mut script = starts_with_an_edit("edited", &[found_file("a", print(12, kept.len() as u64))]);
        reads(&mut script, kept);
        assert!(matches!(told(&mut script)[..], [Operation::Edit { node: A, .. }]), "{kept}");
    }
}

#[test]
fn a_file_that_its_user_emptied_before_it_is_empty() {
    let mut script = starts_with_an_edit("", &[found_file("a", print(12, 0))]);
    assert!(matches!(told(&mut script)[..], [Operation::Edit { node: A, .. }]));
}

#[test]
fn what_it_left_alone_is_in_sync_when_it_was_read() {
    let mut script = starts(2, BEFORE, &[found_file("a", print(11, 5))]);
    reads(&mut script, "bytes");
    assert!(told(&mut script).is_empty() && !fetches(&mut script));
}

/// A client that was killed some seconds after its first start took a user's edits for the power failure's work.
#[test]
fn what_it_did_is_found_out_once() {
    let mut script = starts(2, BEFORE, &[found_file("a", print(11, 5))]);
    assert_eq!(script.engine.state().durable, Some(durable(1, BEFORE)), "as long as it is open");
    reads(&mut script, "bytes");
    assert_eq!(script.engine.state().durable, Some(durable(2, BEFORE)));
}

#[test]
fn what_was_durable_is_not_read_again() {
    let mut script = starts(2, AFTER, &[found_file("a", print(11, 5))]);
    assert!(script.job(|job| matches!(job, Job::Hash(_))).is_none());
    let mut script = starts(2, AFTER, &[]);
    assert!(matches!(told(&mut script)[..], [Operation::Delete { node: A, .. }]), "whoever is missing was deleted");
}

#[test]
fn without_a_new_run_of_the_operating_system_nothing_is_doubted() {
    let mut script = starts(1, BEFORE, &[found_file("a", print(11, 5))]);
    assert!(script.job(|job| matches!(job, Job::Hash(_))).is_none());
    let mut script = starts(1, BEFORE, &[]);
    assert!(matches!(told(&mut script)[..], [Operation::Delete { node: A, .. }]));
}

/// The edit had reached the server; its answer and the edit itself did not outlive the power failure.
#[test]
fn an_edit_in_flight_that_the_disk_lost_comes_back_when_the_server_has_it() {
    let mut script = starts(1, BEFORE, &[found_file("a", print(11, 5))]);
    let edited = Fingerprint { ctime: 8, ..print(11, 5) };
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", edited)]);
    reads(&mut script, "mine!");
    let (_, commit) = script.commit().expect("the edit is sent");
    let rows: Vec<_> = script.engine.trees().rows().collect();
    let state = EngineState { durable: Some(durable(1, BEFORE)), ..script.engine.state().clone() };
    assert_eq!(state.in_flight.as_ref(), Some(&commit));

    let mut script = Script::begin(state, rows);
    script.learn("bytes");
    script.settle(Ok(Settled { durable: durable(2, BEFORE), ..Settled::default() }));
    script.answer_changes(Vec::new());
    let (sent, _) = script.commit().expect("its fate is asked for first");
    script.answer_scans(&[found_file("a", print(11, 5))]);
    let accepted = CommitOutcome::Accepted { head: Position(2), time: Timestamp(0) };
    script.reply(sent, Ok(Reply::Commit(accepted)));
    reads(&mut script, "bytes");
    assert!(fetches(&mut script));
    assert!(told(&mut script).is_empty(), "what came before is no edit of it");
}

/// A device that has looked at a file which was saved, and now syncs the disk.
fn syncs_the_disk() -> (Script, JobId) {
    let mut script = starts(1, BEFORE, &[found_file("a", print(11, 5))]);
    script.tell(Event::Hints(vec![Hint::Closed { directory: path(""), name: b"a".as_slice().into() }]));
    script.answer_scans(&[found_file("a", Fingerprint { ctime: 8, ..print(11, 5) })]);
    reads(&mut script, "bytes");
    let mut synced = None;
    while synced.is_none() {
        script.wake();
        synced = script.job(|job| *job == Job::Settle);
    }
    (script, synced.expect("asked").0)
}

#[test]
fn the_disk_is_synced_after_the_last_change_and_that_is_remembered() {
    let (mut script, syncing) = syncs_the_disk();
    let settled = Settled { durable: durable(1, AFTER), ..Settled::default() };
    script.tell(Event::JobDone(syncing, JobResult::Settled { root: RootState::Present, result: Ok(settled) }));
    assert_eq!(script.engine.state().durable, Some(durable(1, AFTER)));
}

/// The folder was away only while the disk was synced. It counted as missing from then on, and nothing was sent.
#[test]
fn a_folder_that_was_not_there_while_the_disk_was_synced_is_looked_for_again() {
    let (mut script, syncing) = syncs_the_disk();
    let missing = JobResult::Settled { root: RootState::Missing, result: Ok(Settled::default()) };
    script.tell(Event::JobDone(syncing, missing));
    assert_eq!(script.engine.status().phase, Phase::RootMissing);
    script.wake();
    script.answer_scans(&[found_file("a", print(11, 5))]);
    assert_ne!(script.engine.status().phase, Phase::RootMissing);
}
