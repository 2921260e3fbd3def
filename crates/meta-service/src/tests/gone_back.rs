//! A database that was put back to an older state under a server that runs.

use super::*;
use api::{ApiError, ChangesReply, ChangesRequest, ErrorCode};
use metadata_store::{Reading, Transaction};
use model::{Cursor, Epoch};
use std::path::Path;
use tempfile::TempDir;

/// A database in a folder, which can be copied, and exchanged for such a copy.
struct Exchanged {
    folder: TempDir,
    present: Mutex<SqliteStore>,
    /// The folder of a copy that was put back.
    copy: Mutex<Option<TempDir>>,
}

impl Exchanged {
    fn new() -> Arc<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let present = Mutex::new(open(folder.path()));
        Arc::new(Self { folder, present, copy: Mutex::default() })
    }

    /// Nobody writes meanwhile, and the log belongs to the database.
    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a folder");
        for entry in std::fs::read_dir(self.folder.path()).expect("reads") {
            let entry = entry.expect("reads");
            std::fs::copy(entry.path(), copy.path().join(entry.file_name())).expect("copies");
        }
        copy
    }

    fn put_back(&self, copy: TempDir) {
        *self.present.lock().expect("no panic") = open(copy.path());
        *self.copy.lock().expect("no panic") = Some(copy);
    }
}

fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(&folder.join("meta.db")).expect("opens")
}

impl MetadataStore for Exchanged {
    fn transact(&self, work: &mut dyn FnMut(&dyn Transaction) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.present.lock().expect("no panic").transact(work)
    }
    fn read(&self, work: &mut dyn FnMut(&dyn Reading) -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.present.lock().expect("no panic").read(work)
    }
}

/// A service whose database was copied after one folder was made, and put back after another one.
fn after_the_second_folder_is_lost() -> (Bench, Person) {
    let store = Exchanged::new();
    let bench = Bench::over(store.clone());
    let me = bench.user("a@x");
    bench.mkdir(&me, me.root, me.root.root(), "before");
    let copy = store.copy();
    bench.mkdir(&me, me.root, me.root.root(), "after");
    store.put_back(copy);
    (bench, me)
}

fn ask(bench: &Bench, person: &Person, epoch: Epoch, cursor: Cursor) -> Result<ChangesReply, ApiError> {
    let request = ChangesRequest { instance: bench.server().instance, epoch, cursor };
    bench.service.changes(person.who, &request)
}

fn refusal(bench: &Bench, person: &Person, cursor: Cursor) -> (ErrorCode, bool) {
    let error = ask(bench, person, bench.server().epoch, cursor).expect_err("no answer");
    (error.code, error.retry_after_ms.is_some())
}

const COMES_AGAIN: (ErrorCode, bool) = (ErrorCode::Unavailable, true);

/// Devices were told that their positions are of another epoch, or, if they lagged behind, got the older journal for
/// the whole one.
#[test]
fn nothing_is_told_from_a_database_that_lacks_what_was_seen_in_it() {
    let (bench, me) = after_the_second_folder_is_lost();
    for position in 0..=2 {
        let cursor = Cursor::from([(me.root, Position(position))]);
        assert_eq!(refusal(&bench, &me, cursor), COMES_AGAIN, "at {position}");
    }
    let again = create(bench.new_node(), me.root.root(), "again", empty_file());
    let refused = bench.service.commit(me.who, bench.draft(me.root, Position(1), vec![again])).expect_err("refused");
    assert_eq!(refused.code, ErrorCode::Unavailable, "as commits are");
}

/// Its members were told that they are none any more.
#[test]
fn a_share_that_the_older_database_does_not_know_is_not_taken_for_withdrawn() {
    let store = Exchanged::new();
    let bench = Bench::over(store.clone());
    let (me, guest) = (bench.user("a@x"), bench.user("b@x"));
    let folder = bench.mkdir(&me, me.root, me.root.root(), "team");
    let copy = store.copy();
    let share = bench.share(&me, folder, &guest, Role::Editor);
    bench.mkdir(&me, share, share.root(), "in it");
    store.put_back(copy);
    let cursor = Cursor::from([(share, Position(1))]);
    assert_eq!(refusal(&bench, &guest, cursor), COMES_AGAIN);
}

#[test]
fn who_left_a_share_is_told_so() {
    let bench = Bench::new();
    let (me, other, guest) = (bench.user("a@x"), bench.user("b@x"), bench.user("c@x"));
    let folder = bench.mkdir(&me, me.root, me.root.root(), "team");
    let share = bench.share(&me, folder, &other, Role::Viewer);
    bench.mkdir(&me, share, share.root(), "in it");
    let reply = ask(&bench, &guest, bench.server().epoch, Cursor::from([(share, Position(1))])).expect("answers");
    assert_eq!(reply.namespaces[0].role, None);
}

/// Raised by another process, as `syncline admin raise-epoch` does it: this one need not be started again.
#[test]
fn in_a_new_epoch_the_older_database_is_the_truth() {
    let (bench, me) = after_the_second_folder_is_lost();
    let old = bench.server().epoch;
    let epoch = bench.service.bump_epoch().expect("rises");
    let from_start = || Cursor::from([(me.root, Position::START)]);
    let told = ask(&bench, &me, old, from_start()).expect_err("another epoch");
    assert_eq!(told.code, ErrorCode::EpochChanged);
    let reply = ask(&bench, &me, epoch, from_start()).expect("answers");
    assert_eq!((reply.namespaces[0].entries.len(), reply.namespaces[0].head), (1, Position(1)));
    bench.mkdir(&me, me.root, me.root.root(), "again");
    let reply = ask(&bench, &me, epoch, from_start()).expect("answers");
    assert_eq!(reply.namespaces[0].head, Position(2));
}
