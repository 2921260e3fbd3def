//! An engine whose server sends a journal that no server should: cycles, orphans, two nodes of one name,
//! changes of nodes that are not there.
//!
//! The bytes are a small program, so that a fuzzer need not find sixteen equal bytes to name a node twice:
//! four bytes are an entry (what, which node, which parent, which name), and seven ids and names go round.

use crate::Verdict;
use api::{ChangesReply, NamespaceChanges, ServerReply};
use model::{
    Blocklist, Body, Change, ContentHash, Cursor, Epoch, InstanceId, JournalEntry, Mtime, Name, NamespaceId, NodeId,
    Position, Role, Timestamp,
};
use std::sync::Arc;
use sync_engine::Engine;
use sync_engine::io::{
    Action, Blocklists, Command, DeleteGuard, DirectoryListing, DirectoryScan, EngineState, Environment, Event,
    Fingerprint, Job, JobId, JobResult, Reply, Request, RequestError, RequestId, RootState, ScanTarget, Settled,
    StepError,
};

const ROOT: NamespaceId = NamespaceId([0xaa; 16]);
/// Entries that are read of one input.
const ENTRIES: usize = 64;
/// Events after which the engine has had its say: it may wait for what never comes, but not spin.
const EVENTS: usize = 150;
const NAMES: [&str; 7] = ["a", "b", "A", "\u{e9}", ".syncline2", "c (conflicted copy x 2026-11-23)", "nul.txt"];

/// The engine neither panics nor hangs, and its trees stay whole.
pub fn hostile_journal(bytes: &[u8]) -> Verdict {
    let entries: Vec<JournalEntry> = bytes.chunks_exact(4).take(ENTRIES).zip(1..).map(entry).collect();
    let understood = !entries.is_empty();
    let mut device = Device::new(entries);
    device.run();
    Verdict::of(understood)
}

/// The state of a device that has read nothing yet.
pub(crate) fn fresh_state() -> EngineState {
    EngineState { guard: DeleteGuard::Off, ..EngineState::linked(InstanceId([1; 16]), Epoch(1), ROOT) }
}

fn entry((bytes, position): (&[u8], u64)) -> JournalEntry {
    let [what, node, parent, name] = *bytes else { unreachable!("chunks of four") };
    let body = || match what / 8 % 4 {
        0 => Body::Directory,
        1 => Body::File { blocks: Blocklist(Vec::new()), size: 0, executable: what > 127, mtime: Mtime(what.into()) },
        2 => Body::Symlink { target: "target".to_owned() },
        _ => Body::Mount,
    };
    let named = Name::parse(NAMES[usize::from(name) % NAMES.len()]).expect("legal");
    let change = match what % 4 {
        0 => Change::Create { parent: id(parent), name: named, body: body() },
        1 => Change::Move { parent: id(parent), name: named },
        2 => Change::Edit { body: body() },
        _ => Change::Delete,
    };
    JournalEntry { position: Position(position), node: id(node), change, device: None, time: Timestamp(0) }
}

/// Seven ids go round: the root's, and six others.
fn id(byte: u8) -> NodeId {
    match byte % 7 {
        0 => ROOT.root(),
        number => NodeId([number; 16]),
    }
}

/// The blocks of the empty file, the only one here.
struct Lists;

impl Blocklists for Lists {
    fn find(&self, _: &ContentHash) -> Option<(Arc<Blocklist>, bool)> {
        Some((Arc::new(Blocklist(Vec::new())), true))
    }
}

/// A device with an empty folder whose disk refuses every step.
pub(crate) struct Device {
    engine: Engine,
    journal: Vec<JournalEntry>,
    now: u64,
    drawn: u8,
    waiting: Vec<Event>,
}

impl Device {
    fn new(journal: Vec<JournalEntry>) -> Self {
        Self::with(Engine::new(fresh_state(), Vec::new(), "laptop".to_owned()), journal)
    }

    pub(crate) fn with(engine: Engine, journal: Vec<JournalEntry>) -> Self {
        Self { engine, journal, now: 0, drawn: 0, waiting: vec![Event::Started, Event::Command(Command::Flush)] }
    }

    /// Gives the engine its events until it is quiet, or has had its share.
    pub(crate) fn run(&mut self) {
        for _ in 0..EVENTS {
            let event = if self.waiting.is_empty() {
                let Some(at) = self.engine.next_wake() else { return };
                self.now = self.now.max(at);
                Event::Woken
            } else {
                self.waiting.remove(0)
            };
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        self.now += 1;
        let drawn = &mut self.drawn;
        let mut random = || {
            *drawn = drawn.wrapping_add(1);
            [*drawn, 0xd1, 0xce, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        };
        let mut environment =
            Environment { now: self.now, today: "2026-11-23", random: &mut random, blocklists: &Lists };
        for action in self.engine.handle(event, &mut environment) {
            match action {
                Action::Job(id, job) => self.waiting.push(perform(id, job)),
                Action::Send(id, request) => {
                    let event = self.answer(id, request);
                    self.waiting.push(event);
                }
                Action::Persist(_) | Action::Report(_) => {}
            }
        }
    }

    fn answer(&self, id: RequestId, request: Request) -> Event {
        let reply = match request {
            Request::Changes(request) | Request::News(request) => Ok(Reply::Changes(self.changes(&request.cursor))),
            Request::Server => Ok(Reply::Server(ServerReply {
                instance: InstanceId([1; 16]),
                epoch: Epoch(1),
                version: String::new(),
            })),
            _ => Err(RequestError::Unreachable("it only ever talks".to_owned())),
        };
        Event::Replied(id, reply)
    }

    fn changes(&self, cursor: &Cursor) -> ChangesReply {
        let namespaces = cursor.iter().map(|(namespace, position)| {
            let entries = match *namespace {
                ROOT => self.journal.iter().filter(|entry| entry.position > *position).cloned().collect(),
                _ => Vec::new(),
            };
            let head = entries.last().map_or(*position, |entry: &JournalEntry| entry.position);
            NamespaceChanges { namespace: *namespace, role: Some(Role::Owner), entries, head }
        });
        ChangesReply { namespaces: namespaces.collect() }
    }
}

fn perform(id: JobId, job: Job) -> Event {
    let root = RootState::Present;
    let result = match job {
        Job::Scan(targets) => {
            JobResult::Scanned { root, directories: targets.into_iter().map(empty_directory).collect() }
        }
        Job::Hash(_) => JobResult::Hashed(Vec::new()),
        Job::Apply(steps) => {
            JobResult::Applied { root, results: vec![Err(StepError::Failed("refused".to_owned())); steps.len()] }
        }
        Job::Prepare(temps) => JobResult::Prepared { root, files: Ok(vec![None; temps.len()]) },
        Job::Probe { .. } => JobResult::Probed { present: Vec::new(), begun: Vec::new() },
        Job::CleanTemps { .. } => JobResult::Cleaned,
        Job::MarkExcluded(_) => JobResult::Marked { root, result: Ok(()) },
        Job::Settle => JobResult::Settled { root: RootState::Present, result: Ok(Settled::default()) },
    };
    Event::JobDone(id, result)
}

fn empty_directory(target: ScanTarget) -> DirectoryScan {
    let print = Fingerprint { device: 1, inode: 1, birth: None, size: 0, mtime: Mtime(0), ctime: 0, executable: false };
    DirectoryScan { target, result: Ok(DirectoryListing { print, entries: Vec::new(), unreadable: Vec::new() }) }
}
