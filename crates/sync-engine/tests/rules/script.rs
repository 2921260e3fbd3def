//! An engine that is told event by event what happens.

use crate::build::{ROOT, blocks, file, listing, print, scan};
use api::{ChangesReply, NamespaceChanges, SentCommit};
use model::{Blocklist, Commit, ContentHash, Cursor, Epoch, InstanceId, JournalEntry, NodeId, Position, Role};
use std::collections::BTreeMap;
use std::sync::Arc;
use sync_engine::io::{
    Action, ActivityKind, Blocklists, DeleteGuard, EngineState, Environment, Event, Found, HashResult, Job, JobId,
    JobResult, LocalPath, Reply, Request, RequestError, RequestId, RootState, Settled, StepError, Write,
};
use sync_engine::tree::NodeRow;
use sync_engine::{Engine, Tuning};

/// The blocklists that were persisted.
#[derive(Default)]
struct Lists(BTreeMap<ContentHash, (Arc<Blocklist>, bool)>);

impl Blocklists for Lists {
    fn find(&self, content: &ContentHash) -> Option<(Arc<Blocklist>, bool)> {
        self.0.get(content).cloned()
    }
}

pub(crate) type Rows = Vec<(NodeId, NodeRow)>;

pub(crate) struct Script {
    pub(crate) engine: Engine,
    /// What the engine asked for since [`Script::take`] was last called, in order.
    pub(crate) actions: Vec<Action>,
    pub(crate) now: u64,
    /// The next random bytes.
    drawn: u8,
    /// What the waits are drawn from: none is the hardest case as a rule.
    pub(crate) waits: u64,
    lists: Lists,
}

pub(crate) fn state() -> EngineState {
    EngineState {
        cursor: Cursor::from([(ROOT, Position(1))]),
        roles: BTreeMap::from([(ROOT, Role::Owner)]),
        guard: DeleteGuard::Off,
        ..EngineState::linked(InstanceId([1; 16]), Epoch(1), ROOT)
    }
}

impl Script {
    /// An engine that has just started on these rows, and what its last life left on the disk is durable.
    pub(crate) fn start(state: EngineState, rows: Vec<(NodeId, NodeRow)>) -> Self {
        let mut script = Self::begin(state, rows);
        script.settle(Ok(Settled::default()));
        script
    }

    /// Answers whether what there is was made durable.
    pub(crate) fn settle(&mut self, result: Result<Settled, StepError>) {
        let (id, _) = self.job(|job| *job == Job::Settle).expect("it makes durable what there is");
        self.tell(Event::JobDone(id, JobResult::Settled { root: RootState::Present, result }));
    }

    /// An engine that has just started on these rows.
    pub(crate) fn begin(state: EngineState, rows: Vec<(NodeId, NodeRow)>) -> Self {
        let engine = Engine::new(state, rows, "laptop".to_owned());
        let mut script = Self { engine, actions: Vec::new(), now: 0, drawn: 0, waits: 0, lists: Lists::default() };
        script.tell(Event::Started);
        script
    }

    /// The same without rows, and tuned.
    pub(crate) fn start_tuned(state: EngineState, tuning: Tuning) -> Self {
        let mut engine = Engine::new(state, Vec::new(), "laptop".to_owned());
        engine.tune(tuning);
        let mut script = Self { engine, actions: Vec::new(), now: 0, drawn: 0, waits: 0, lists: Lists::default() };
        script.tell(Event::Started);
        script.settle(Ok(Settled::default()));
        script
    }

    /// The same, with these entries in the folder and a journal without news.
    pub(crate) fn at_rest(state: EngineState, rows: Vec<(NodeId, NodeRow)>, entries: &[Found]) -> Self {
        let mut script = Self::start(state, rows);
        script.answer_changes(Vec::new());
        script.answer_scans(entries);
        script
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.now += 1;
        let (drawn, waits) = (&mut self.drawn, self.waits);
        let mut random = || {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&waits.to_le_bytes());
            bytes[8] = *drawn;
            *drawn = drawn.wrapping_add(1);
            bytes[15] = 0xee;
            bytes
        };
        let mut environment =
            Environment { now: self.now, today: "2026-11-23", random: &mut random, blocklists: &self.lists };
        let actions = self.engine.handle(event, &mut environment);
        for action in &actions {
            let Action::Persist(writes) = action else { continue };
            for write in writes {
                if let Write::Blocklist { content, blocks, remote } = write {
                    self.lists.0.insert(*content, (Arc::new(blocks.clone()), *remote));
                }
            }
        }
        self.actions.extend(actions);
    }

    /// Lets the clock go on to when the engine wants to be woken.
    pub(crate) fn wake(&mut self) {
        self.now = self.engine.next_wake().expect("the engine waits for something");
        self.tell(Event::Woken);
    }

    /// What was asked for, which is then forgotten.
    pub(crate) fn take(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// Takes the first request of a kind.
    pub(crate) fn request<T>(&mut self, kind: impl Fn(&Request) -> Option<T>) -> Option<(RequestId, T)> {
        let found = self.actions.iter().enumerate().find_map(|(at, action)| match action {
            Action::Send(id, request) => kind(request).map(|wanted| (at, *id, wanted)),
            _ => None,
        });
        let (at, id, wanted) = found?;
        self.actions.remove(at);
        Some((id, wanted))
    }

    pub(crate) fn commit(&mut self) -> Option<(RequestId, Commit)> {
        self.request(|request| match request {
            Request::Commit(commit) => commit.whole(),
            Request::Changeset { commit, .. } => commit.as_ref().and_then(SentCommit::whole),
            _ => None,
        })
    }

    /// The journal named this content before.
    pub(crate) fn learn(&mut self, bytes: &str) {
        let list = blocks(bytes);
        self.lists.0.insert(list.content_hash(), (Arc::new(list), true));
    }

    /// Hands out the blocks that are asked for.
    pub(crate) fn fetch(&mut self) {
        let asked = self.request(|request| match request {
            Request::Fetch { blocks, .. } => Some(blocks.iter().map(|block| block.hash).collect()),
            _ => None,
        });
        let (id, written) = asked.expect("it is fetched");
        self.reply(id, Ok(Reply::Fetched { written, unavailable: Vec::new(), disk: None }));
    }

    pub(crate) fn job(&mut self, kind: impl Fn(&Job) -> bool) -> Option<(JobId, Job)> {
        let at = self.actions.iter().position(|action| matches!(action, Action::Job(_, job) if kind(job)))?;
        match self.actions.remove(at) {
            Action::Job(id, job) => Some((id, job)),
            _ => None,
        }
    }

    /// Answers the question for changes with these entries.
    pub(crate) fn answer_changes(&mut self, entries: Vec<JournalEntry>) {
        let asked = self.request(|request| match request {
            Request::Changes(request) | Request::News(request) => {
                Some(request.cursor.get(&ROOT).copied().unwrap_or_default())
            }
            _ => None,
        });
        let (id, cursor) = asked.expect("the engine asks for changes");
        let head = entries.last().map_or(cursor, |entry| entry.position);
        let part = NamespaceChanges { namespace: ROOT, role: Some(Role::Owner), entries, head };
        self.reply(id, Ok(Reply::Changes(ChangesReply { namespaces: vec![part] })));
    }

    pub(crate) fn reply(&mut self, id: RequestId, reply: Result<Reply, RequestError>) {
        self.tell(Event::Replied(id, reply));
    }

    pub(crate) fn lose(&mut self, id: RequestId) {
        self.reply(id, Err(RequestError::Unreachable("lost".to_owned())));
    }

    /// Answers scans until there are none: these entries are at the root, and all folders are empty.
    pub(crate) fn answer_scans(&mut self, entries: &[Found]) {
        self.answer_scans_by(|directory| if directory.is_root() { entries.to_vec() } else { Vec::new() });
    }

    /// Answers scans until there are none, with what each directory holds.
    pub(crate) fn answer_scans_by(&mut self, entries: impl Fn(&LocalPath) -> Vec<Found>) {
        while let Some((id, Job::Scan(targets))) = self.job(|job| matches!(job, Job::Scan(_))) {
            let look = |directory: &LocalPath| {
                let inode = if directory.is_root() { 0 } else { 9 };
                listing(print(inode, 0), entries(directory))
            };
            let directories = targets
                .iter()
                .map(|target| sync_engine::io::DirectoryScan {
                    target: target.clone(),
                    ..scan("", Ok(look(&target.directory)))
                })
                .collect();
            self.tell(Event::JobDone(id, JobResult::Scanned { root: RootState::Present, directories }));
        }
    }

    /// Whether people were told of something of this kind.
    pub(crate) fn reported(&self, kind: ActivityKind) -> bool {
        self.actions.iter().any(|action| matches!(action, Action::Report(activity) if activity.kind == kind))
    }

    /// What a database holds that began with this and took every write since.
    pub(crate) fn database(&self, mut state: EngineState, rows: Rows) -> (EngineState, Rows) {
        let mut rows: BTreeMap<_, _> = rows.into_iter().collect();
        for action in &self.actions {
            let Action::Persist(writes) = action else { continue };
            for write in writes {
                match write {
                    Write::Node(id, Some(row)) => drop(rows.insert(*id, NodeRow::clone(row))),
                    Write::Node(id, None) => drop(rows.remove(id)),
                    Write::State(new) => state = EngineState::clone(new),
                    Write::Blocklist { .. } => {}
                }
            }
        }
        (state, rows.into_iter().collect())
    }

    /// The rows as a database would have them that took every write before the first action of a kind.
    pub(crate) fn persisted_before(&self, kind: impl Fn(&Action) -> bool) -> (Vec<NodeId>, Option<EngineState>) {
        let at = self.actions.iter().position(kind).expect("it comes");
        let (mut nodes, mut state) = (Vec::new(), None);
        for action in &self.actions[..at] {
            let Action::Persist(writes) = action else { continue };
            for write in writes {
                match write {
                    Write::Node(id, _) => nodes.push(*id),
                    Write::State(new) => state = Some(EngineState::clone(new)),
                    Write::Blocklist { .. } => {}
                }
            }
        }
        (nodes, state)
    }
}

/// Answers that the file that is to be read has these bytes.
pub(crate) fn hash(script: &mut Script, bytes: &str) {
    let (id, job) = script.job(|job| matches!(job, Job::Hash(_))).expect("the file is read");
    let Job::Hash(tasks) = job else { unreachable!("asked for") };
    let hashed = HashResult::Hashed { content: file(bytes), blocks: blocks(bytes) };
    script.tell(Event::JobDone(id, JobResult::Hashed(vec![(tasks[0].node, hashed)])));
}
