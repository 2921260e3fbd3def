//! Performs an engine's actions at once, one at a time, in an order drawn from a seed.

#![expect(clippy::print_stdout, reason = "CANOPY_TRACE asks for the trace of a case")]

use super::disk::{Disk, block_of, content};
use super::server::{ROOT, Server};
use api::SentCommit;
use model::{BlockHash, Blocklist, Commit, ContentHash, Epoch, InstanceId};
use rand::rngs::ChaCha8Rng;
use rand::{Rng, RngExt, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;
use sync_engine::Engine;
use sync_engine::io::{
    Action, Activity, ActivityKind, Blocklists, DeleteGuard, EngineState, Environment, Event, Job, JobId, LocalStep,
    Reply, Request, RequestError, RequestId, Write,
};

/// How many events one run may take before it counts as endless.
const MAX_EVENTS: usize = 20_000;

#[derive(Default)]
pub(crate) struct Lists(BTreeMap<ContentHash, (Arc<Blocklist>, bool)>);

impl Blocklists for Lists {
    fn find(&self, content: &ContentHash) -> Option<(Arc<Blocklist>, bool)> {
        self.0.get(content).cloned()
    }
}

enum Work {
    Job(JobId, Job),
    Request(RequestId, Request),
}

/// One device without concurrency.
pub(crate) struct Device {
    pub engine: Engine,
    pub disk: Disk,
    lists: Lists,
    work: Vec<Work>,
    now: u64,
    random: ChaCha8Rng,
    pub activity: Vec<Activity>,
    /// Percent of requests that are lost, and of replies.
    pub loss: u32,
    pub commits: usize,
    /// Moves into the parking place.
    pub moves_parked: usize,
}

pub(crate) fn fresh_state() -> EngineState {
    EngineState { guard: DeleteGuard::Off, ..EngineState::linked(InstanceId([1; 16]), Epoch(1), ROOT) }
}

impl Device {
    pub(crate) fn new(seed: u64, name: &str) -> Self {
        let mut device = Self {
            engine: Engine::new(fresh_state(), Vec::new(), name.to_owned()),
            disk: Disk::default(),
            lists: Lists::default(),
            work: Vec::new(),
            now: 0,
            random: ChaCha8Rng::seed_from_u64(seed),
            activity: Vec::new(),
            loss: 0,
            commits: 0,
            moves_parked: 0,
        };
        device.event(Event::Started);
        device
    }

    pub(crate) fn event(&mut self, event: Event) {
        self.now += 1;
        if std::env::var("CANOPY_TRACE").is_ok() {
            println!("{} {event:?}", self.now);
        }
        let random = &mut self.random;
        let mut bytes = || {
            let mut bytes = [0; 16];
            random.fill_bytes(&mut bytes);
            bytes
        };
        let mut environment =
            Environment { now: self.now, today: "2026-11-23", random: &mut bytes, blocklists: &self.lists };
        for action in self.engine.handle(event, &mut environment) {
            if std::env::var("CANOPY_TRACE").is_ok() {
                println!("    {action:?}");
            }
            match action {
                Action::Persist(writes) => {
                    for write in writes {
                        if let Write::Blocklist { content, blocks, remote } = write {
                            let known = self.lists.0.get(&content).is_some_and(|(_, remote)| *remote);
                            self.lists.0.insert(content, (Arc::new(blocks), remote || known));
                        }
                    }
                }
                Action::Job(id, job) => self.work.push(Work::Job(id, job)),
                Action::Send(id, request) => self.work.push(Work::Request(id, request)),
                Action::Report(activity) => self.activity.push(activity),
            }
        }
    }

    /// Runs until nothing is left to do, and returns how many events that took.
    pub(crate) fn settle(&mut self, server: &mut Server) -> usize {
        self.event(Event::Command(sync_engine::io::Command::Flush));
        for events in 0..MAX_EVENTS {
            if self.work.is_empty() {
                if self.engine.flushed() {
                    return events;
                }
                let at = self.engine.next_wake().unwrap_or_else(|| panic!("stuck: {:#?}", self.engine.trees().dirty()));
                self.now = self.now.max(at);
                self.event(Event::Woken);
                continue;
            }
            let next = self.random.random_range(0..self.work.len());
            match self.work.swap_remove(next) {
                Work::Job(id, job) => {
                    if let Job::Apply(steps) = &job {
                        let parks = |step: &&LocalStep| matches!(step, LocalStep::Move { to, .. } if to.as_bytes().starts_with(b".syncline/"));
                        self.moves_parked += steps.iter().filter(parks).count();
                    }
                    let result = self.disk.run(&job);
                    self.event(Event::JobDone(id, result));
                }
                Work::Request(id, request) => self.request(server, id, request),
            }
        }
        panic!("no end after {MAX_EVENTS} events; out of sync: {:#?}", self.dirty_rows());
    }

    pub(crate) fn dirty_rows(&self) -> Vec<String> {
        let trees = self.engine.trees();
        trees.dirty().iter().map(|id| format!("{id:?} {:?}", trees.row(id))).collect()
    }

    fn request(&mut self, server: &mut Server, id: RequestId, request: Request) {
        let lost = Err(RequestError::Unreachable("lost".to_owned()));
        if self.random.random_ratio(self.loss, 100) {
            return self.event(Event::Replied(id, lost));
        }
        let reply = self.answer(server, request);
        let reply = if self.random.random_ratio(self.loss, 100) { lost } else { Ok(reply) };
        self.event(Event::Replied(id, reply));
    }

    fn answer(&mut self, server: &mut Server, request: Request) -> Reply {
        match request {
            Request::Server => Reply::Server(api::ServerReply {
                instance: InstanceId([1; 16]),
                epoch: Epoch(1),
                version: String::new(),
            }),
            Request::Changes(request) | Request::News(request) => Reply::Changes(server.changes(&request, 7)),
            Request::Missing(request) => Reply::Missing(server.missing(&request)),
            Request::Commit(commit) => {
                self.commits += 1;
                Reply::Commit(server.commit(&whole(&commit)))
            }
            Request::Changeset { blocks, commit, .. } => {
                let mut read = Vec::new();
                let mut changed = Vec::new();
                for source in &blocks {
                    let bytes = self.disk.entries.get(&source.path).map(|entry| &entry.data);
                    match bytes {
                        Some(super::disk::Data::File(bytes)) if block_of(bytes) == Some(source.hash) => {
                            read.push((source.hash, bytes.clone()));
                        }
                        _ => changed.push(source.hash),
                    }
                }
                if !changed.is_empty() {
                    return Reply::SourceChanged { blocks: changed };
                }
                server.blocks.extend(read);
                self.commits += usize::from(commit.is_some());
                Reply::Changeset { outcome: commit.map(|commit| server.commit(&whole(&commit))) }
            }
            Request::Shift { .. } => Reply::Shifted { made: Vec::new() },
            Request::Announce(_) => Reply::Announced,
            Request::Coming(_) => Reply::Coming(api::ComingReply { files: Vec::new() }),
            Request::Fetch { blocks, .. } | Request::Prefetch { blocks, .. } => {
                let mut written: Vec<BlockHash> = Vec::new();
                for block in blocks {
                    let bytes = server.blocks[&block.hash].clone();
                    for target in block.to {
                        self.disk.temps.insert(target.temp, bytes.clone());
                    }
                    written.push(block.hash);
                }
                Reply::Fetched { written, unavailable: Vec::new(), disk: None }
            }
        }
    }

    /// Disk and server show the same, and the trees agree with both (I5, I6).
    pub(crate) fn assert_converged(&self, server: &Server) {
        let mut expected = BTreeMap::new();
        for (id, node) in &server.nodes {
            expected.insert(server.path_of(*id), node.body.clone());
        }
        let mut seen = BTreeMap::new();
        for (path, entry) in &self.disk.entries {
            use super::disk::Data;
            let body = match &entry.data {
                Data::Directory => model::Body::Directory,
                Data::Symlink(target) => model::Body::Symlink { target: target.clone() },
                Data::File(bytes) => {
                    let content = content(bytes, entry.executable, entry.mtime);
                    let blocks = super::disk::blocklist(bytes);
                    model::Body::File {
                        blocks,
                        size: content.size,
                        executable: content.executable,
                        mtime: content.mtime,
                    }
                }
            };
            // The server names in NFC; the disk keeps the user's bytes.
            let names = path.components().map(|name| model::Name::parse_bytes(name).expect("synced").to_string());
            seen.insert(names.collect::<Vec<_>>().join("/"), body);
        }
        assert_eq!(seen, expected, "disk (left) and server (right) differ");
        super::server::validate(&server.nodes).expect("a valid tree");
        server.assert_journal_folds();
    }

    pub(crate) fn conflicts(&self) -> usize {
        self.activity.iter().filter(|activity| activity.kind == ActivityKind::Conflict).count()
    }
}

/// Files here have one block at most: too few for an edit to keep any.
fn whole(commit: &SentCommit) -> Commit {
    commit.whole().expect("names all its blocks")
}
