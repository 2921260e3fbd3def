//! Coming to rest, and what must hold then.

use super::{Checked, Moment, World, violation};
use crate::disk::{RootIs, Thing, content_hash, lock};
use crate::ghost::Fate;
use crate::journal::Folded;
use model::{Body, ContentHash, Name, NodeId, limits};
use std::collections::{BTreeMap, BTreeSet};
use sync_engine::Engine;
use sync_engine::io::{Command, LocalPath};
use sync_engine::status::Phase;

/// Rounds of "look at everything again" in which all must come to agree. One device's work can cause
/// another's, and that one's a third's.
const ROUNDS: u32 = 12;
/// Virtual time for one round: some of the longest pauses between two tries.
const ROUND_MS: u64 = 20 * 60_000;
/// Events that one device may take in a round: more is a loop.
const ROUND_EVENTS: u64 = 20_000;
/// Problems that are asked for.
const PROBLEMS: usize = 10_000;

/// A tree by the names of its paths, as server and devices must agree on it.
pub type Expected = BTreeMap<String, Item>;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    Folder,
    File { content: ContentHash, executable: bool },
    Link(String),
}

impl World {
    /// Ends all faults, lets everything come to rest, and checks what must hold then.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn quiesce(&mut self) -> Checked<()> {
        self.trace.note(self.now, "quiesce");
        self.calm = true;
        self.server.up = true;
        self.server
            .end_clean_up()
            .map_err(|error| violation(format!("the clean-up fails in fair weather: {error}")))?;
        for number in 0..self.devices.len() {
            self.calm_down(number)?;
        }
        self.come_to_rest()?;
        self.check_all()?;
        self.cover("came to rest");
        self.calm = false;
        Ok(())
    }

    fn calm_down(&mut self, number: usize) -> Checked<()> {
        let device = self.devices[number].disk.clone();
        lock(&self.users).end(number, &mut lock(&device));
        lock(&device).full = false;
        if lock(&device).root != RootIs::Mounted {
            self.mount(number, RootIs::Mounted);
        }
        if self.devices[number].partitioned_until > self.now {
            self.reconnect(number);
        }
        self.start(number)?;
        if self.devices[number].engine.as_ref().is_some_and(|engine| engine.state().paused) {
            self.command(number, Command::Resume)?;
        }
        self.watch(number);
        Ok(())
    }

    /// Asks all devices to look at everything until nothing changes any more.
    ///
    /// # Errors
    /// The rule that is broken; I17 and I5 when it does not come to rest or not to agreement.
    pub fn come_to_rest(&mut self) -> Checked<()> {
        let mut difference = String::new();
        for _ in 0..ROUNDS {
            let (heads, stuck) = (self.heads(), self.contents_with_problems());
            self.confirm_deletions()?;
            for number in 0..self.devices.len() {
                if self.is_reachable(number) {
                    self.command(number, Command::Flush)?;
                }
            }
            self.finish_round()?;
            // What is held may lie where a problem keeps the trees apart: then all seem to agree.
            let held = (0..self.devices.len()).any(|number| self.is_reachable(number) && self.holds_deletions(number));
            match self.compare_all() {
                Ok(()) if held => {}
                // A file whose reading failed just before the faults ended is read in the next round.
                Ok(()) if heads == self.heads() && stuck.is_superset(&self.contents_with_problems()) => return Ok(()),
                Ok(()) => {}
                Err(error) => difference = error,
            }
        }
        Err(violation(format!("I5: no agreement after {ROUNDS} rounds: {difference}")))
    }

    pub(super) fn is_reachable(&self, number: usize) -> bool {
        self.devices[number].is_up() && self.devices[number].partitioned_until != u64::MAX
    }

    fn heads(&self) -> Vec<(NodeId, u64)> {
        let roots: BTreeSet<_> = self.devices.iter().map(|device| device.linked.root).collect();
        let shared = self.devices.iter().flat_map(|device| device.database.state.cursor.keys().copied());
        roots.into_iter().chain(shared).map(|one| (one.root(), self.server.journals.head(one).0)).collect()
    }

    fn finish_round(&mut self) -> Checked<()> {
        let mut end = self.now + ROUND_MS;
        let first = self.moments;
        loop {
            let due = self.queue.first_key_value().map(|((at, _), _)| *at);
            if self.is_at_rest() {
                return Ok(());
            }
            if due.is_none_or(|at| at > end) && self.confirm_deletions()? {
                end = self.now + ROUND_MS;
                continue;
            }
            if due.is_none_or(|at| at > end) {
                return Err(violation(format!("I17: not at rest after {ROUND_MS} ms: {}", self.unrest())));
            }
            if self.moments - first > ROUND_EVENTS {
                return Err(violation(format!("I17: {ROUND_EVENTS} events without coming to rest: {}", self.unrest())));
            }
            if let Some(moment) = self.next_moment()? {
                self.happen(moment)?;
            }
        }
    }

    /// Whether every reachable client has done all that it knew of, and nothing is on its way.
    fn is_at_rest(&self) -> bool {
        let idle = |number: usize| {
            let device = &self.devices[number];
            device.busy == 0 && device.engine.as_ref().is_some_and(Engine::flushed)
        };
        let still = |moment: &Moment| match moment {
            Moment::Wake { .. } | Moment::NextStep | Moment::Connect { .. } => true,
            Moment::Job { device, .. }
            | Moment::Feed { device, .. }
            | Moment::Depart { device, .. }
            | Moment::Land { device, .. }
            | Moment::Hints { device, .. }
            | Moment::Arrive { device, .. } => !self.is_reachable(*device),
            Moment::Start { .. }
            | Moment::Relink { .. }
            | Moment::Resurface { .. }
            | Moment::Space { .. }
            | Moment::ServerUp => false,
        };
        (0..self.devices.len()).all(|number| !self.is_reachable(number) || idle(number))
            && self.queue.values().all(still)
    }

    fn unrest(&self) -> String {
        let mut text = String::new();
        for device in &self.devices {
            let Some(engine) = &device.engine else { continue };
            text += &format!(
                "\n  device {}: flushed {} busy {} {:?} next wake {:?} problems {:?}",
                device.number,
                engine.flushed(),
                device.busy,
                engine.status(),
                engine.next_wake().map(|at| at.saturating_sub(self.now)),
                engine.problems(5)
            );
            for (id, row) in &device.database.rows {
                let local = row.local.as_ref().map(|local| &local.place);
                let agreed = row.synced.as_ref().map(|synced| &synced.place);
                let remote = row.remote.as_ref().map(|remote| &remote.place);
                let content = row.local.as_ref().and_then(|local| local.seen.content());
                let synced = row.synced.as_ref().map(|synced| &synced.content);
                if local != agreed || agreed != remote || content.as_ref() != synced {
                    text += &format!("\n    {id:?}: {row:?}");
                }
            }
        }
        text
    }

    fn compare_all(&self) -> Result<(), String> {
        (0..self.devices.len()).filter(|number| self.is_reachable(*number)).try_for_each(|number| self.compare(number))
    }

    /// Compares a device's disk with what the server shows its account (I5).
    fn compare(&self, number: usize) -> Result<(), String> {
        let device = &self.devices[number];
        let Some(engine) = &device.engine else { return Ok(()) };
        if let phase @ (Phase::RootMissing | Phase::RootReplaced | Phase::Unlinked | Phase::Offline { .. }) =
            engine.status().phase
        {
            return Err(format!("device {number} is {phase:?}"));
        }
        let mut here = self.disk_tree(number);
        let mut there = self.server_tree(number)?;
        let problems = self.paths_with_problems(number)?;
        // A folder that is kept off the device stays for as long as it holds what cannot leave it.
        let holds_problem = |path: &String| {
            let mut below = problems.range(format!("{path}/")..);
            below.next().and_then(|problem| problem.strip_prefix(path)).is_some_and(|rest| rest.starts_with('/'))
        };
        let excluded = |path: &String| {
            let node = LocalPath::from_bytes(path.as_bytes()).and_then(|path| engine.locate(&path)?.node);
            node.is_some_and(|node| engine.trees().is_excluded(node))
        };
        here.retain(|path, item| *item != Item::Folder || !holds_problem(path) || !excluded(path));
        for problem in problems.iter().filter(|problem| here.contains_key(*problem)) {
            // What cannot leave the disk keeps its name, and whoever is to get that on the server waits.
            there.retain(|path, _| here.contains_key(path) || !is_alike_or_below(path, problem));
        }
        for problem in problems {
            let below = |path: &String| path.strip_prefix(&problem).is_some_and(|rest| rest.starts_with('/'));
            here.retain(|path, _| *path != problem && !below(path));
            there.retain(|path, _| *path != problem && !below(path));
        }
        if here == there {
            return Ok(());
        }
        let (mut more_here, mut more_there) = (here.clone(), there.clone());
        more_here.retain(|path, item| there.get(path) != Some(item));
        more_there.retain(|path, item| here.get(path) != Some(item));
        Err(format!(
            "device {number} has {:?}, the server {:?}, problems {:?}",
            self.describe(&more_here),
            self.describe(&more_there),
            engine.problems(20)
        ))
    }

    /// Where there are problems, on the disk and, which may be elsewhere, on the server.
    fn paths_with_problems(&self, number: usize) -> Result<BTreeSet<String>, String> {
        let device = &self.devices[number];
        let Some(engine) = &device.engine else { return Ok(BTreeSet::new()) };
        let nodes = self.nodes_of(number)?;
        let on_server = |node| path_in(&nodes, device.linked.root.root(), node, &BTreeSet::new());
        let mut paths = BTreeSet::new();
        for problem in engine.problems(PROBLEMS) {
            let Some(path) = LocalPath::from_bytes(problem.path.as_bytes()) else { continue };
            paths.extend(normal(&path));
            let node = engine.locate(&path).and_then(|location| location.node);
            paths.extend(node.and_then(on_server));
        }
        for node in waiting_for_problems(engine) {
            paths.extend(engine.trees().local_path(node).and_then(|path| normal(&path)));
            paths.extend(on_server(node));
        }
        Ok(paths)
    }

    /// A tree as lines: `folder/`, `file = text`, `file* = text` if it is executable, `link -> target`.
    #[must_use]
    pub fn describe(&self, tree: &Expected) -> Vec<String> {
        let users = lock(&self.users);
        let line = |(path, item): (&String, &Item)| match item {
            Item::Folder => format!("{path}/"),
            Item::Link(target) => format!("{path} -> {target}"),
            Item::File { content, executable: false } => format!("{path} = {}", users.ghost.text(content)),
            Item::File { content, executable: true } => format!("{path}* = {}", users.ghost.text(content)),
        };
        tree.iter().map(line).collect()
    }

    /// What is on a device's disk, by names in NFC. What cannot be a name at all is left out.
    #[must_use]
    pub fn disk_tree(&self, number: usize) -> Expected {
        let things = lock(&self.devices[number].disk).tree();
        let items = things.into_iter().filter_map(|(path, thing)| {
            let item = match thing {
                Thing::Directory => Item::Folder,
                Thing::File { bytes, executable } => Item::File { content: content_hash(&bytes), executable },
                Thing::Symlink(target) => Item::Link(String::from_utf8_lossy(&target).into_owned()),
            };
            Some((normal(&path)?, item))
        });
        items.collect()
    }

    /// All nodes that a device's account sees, as one tree: a mount has the id of what it shows.
    fn nodes_of(&self, number: usize) -> Result<BTreeMap<NodeId, Folded>, String> {
        let mut nodes = BTreeMap::new();
        for (namespace, _) in self.server.memberships(self.devices[number].linked.identity.account)? {
            let fold = self.server.journals.fold(namespace);
            nodes.extend(fold.nodes().iter().map(|(id, node)| (*id, node.clone())));
        }
        Ok(nodes)
    }

    /// What the server shows a device's account, less what the device excludes.
    ///
    /// # Errors
    /// When the store fails.
    pub fn server_tree(&self, number: usize) -> Result<Expected, String> {
        let device = &self.devices[number];
        let nodes = self.nodes_of(number)?;
        let root = device.linked.root.root();
        // A client that runs may know more than it has written down.
        let state = device.engine.as_ref().map_or(&device.database.state, Engine::state);
        let excluded = &state.excluded;
        let mut tree = Expected::new();
        for (id, node) in &nodes {
            let Some(path) = path_in(&nodes, root, *id, excluded) else { continue };
            let item = match &node.body {
                Body::Directory | Body::Mount => Item::Folder,
                Body::File { blocks, executable, .. } => {
                    Item::File { content: blocks.content_hash(), executable: *executable }
                }
                Body::Symlink { target } => Item::Link(target.clone()),
            };
            tree.insert(path, item);
        }
        Ok(tree)
    }

    /// What must hold when all has come to rest.
    fn check_all(&mut self) -> Checked<()> {
        self.server.check_nodes().map_err(violation)?;
        self.server.check_blocks().map_err(violation)?;
        let counts = self.count_contents()?;
        let mut users = lock(&self.users);
        let on_disks = self.contents_on_disks();
        let stuck = self.contents_with_problems();
        for content in users.ghost.live() {
            match counts.get(&content) {
                None if stuck.contains(&content) => {}
                None => {
                    let text = users.ghost.text(&content);
                    let here = on_disks.contains(&content);
                    return Err(violation(format!("I1: `{text}` is lost (still on a disk: {here})")));
                }
                Some(count) if *count > 1 && !users.ghost.may_be_twice(&content) => {
                    let text = users.ghost.text(&content);
                    return Err(violation(format!("I4: `{text}` is there {count} times")));
                }
                Some(_) => {}
            }
        }
        for content in counts.keys() {
            // What took its place may have a problem, and wait on its device.
            let waits = || users.ghost.with_successors(*content).iter().any(|next| stuck.contains(next));
            if !users.ghost.may_return(content) && !waits() {
                let text = users.ghost.text(content);
                let fate = users.ghost.fate(content);
                return Err(violation(format!("I2: `{text}` is back, which was {fate:?}")));
            }
            if users.ghost.fate(content).is_some_and(|fate| matches!(fate, Fate::Deleted { .. })) {
                *users.ghost.met.entry("move beat delete").or_default() += 1;
            }
        }
        let twice = counts.iter().filter(|(_, count)| **count > 1).map(|(content, _)| *content).collect();
        let present = counts.into_keys().chain(on_disks).collect();
        users.ghost.agreed(&present, &twice, &stuck);
        Ok(())
    }

    /// How often each content is in the server's trees.
    pub(super) fn count_contents(&self) -> Checked<BTreeMap<ContentHash, u32>> {
        let mut namespaces = BTreeSet::new();
        for device in &self.devices {
            let memberships = self.server.memberships(device.linked.identity.account).map_err(violation)?;
            namespaces.extend(memberships.into_iter().map(|(namespace, _)| namespace));
        }
        let mut counts = BTreeMap::new();
        for namespace in namespaces {
            for node in self.server.journals.fold(namespace).nodes().values() {
                if let Body::File { blocks, .. } = &node.body {
                    *counts.entry(blocks.content_hash()).or_default() += 1;
                }
            }
        }
        Ok(counts)
    }

    fn contents_on_disks(&self) -> BTreeSet<ContentHash> {
        let contents = |device: &super::Device| lock(&device.disk).contents_below(&LocalPath::root());
        self.devices.iter().flat_map(contents).collect()
    }

    /// Contents that a device shows as not syncable, with a reason.
    fn contents_with_problems(&self) -> BTreeSet<ContentHash> {
        let mut contents = BTreeSet::new();
        for device in &self.devices {
            let Some(engine) = &device.engine else { continue };
            let problems = engine.problems(PROBLEMS).into_iter();
            let problems = problems.filter_map(|problem| LocalPath::from_bytes(problem.path.as_bytes()));
            let waiting = waiting_for_problems(engine).into_iter().filter_map(|node| engine.trees().local_path(node));
            for path in problems.chain(waiting) {
                contents.extend(lock(&device.disk).contents_below(&path));
            }
        }
        contents
    }
}

/// What waits for something that has a problem, to get its name or its folder: it is where it was.
fn waiting_for_problems(engine: &Engine) -> Vec<NodeId> {
    let problems = engine.problems(PROBLEMS).into_iter();
    let located = problems.filter_map(|problem| engine.locate(&LocalPath::from_bytes(problem.path.as_bytes())?)?.node);
    let stuck: BTreeSet<NodeId> = located.collect();
    let trees = engine.trees();
    let waits = |node: &NodeId| {
        let mut chain = std::iter::successors(Some(*node), |at| trees.waits_for(*at)).take(limits::TREE_DEPTH);
        chain.any(|at| stuck.contains(&at))
    };
    trees.dirty().iter().filter(waits).collect()
}

/// The path of a node, unless it or a folder around it is excluded.
fn path_in(nodes: &BTreeMap<NodeId, Folded>, root: NodeId, id: NodeId, excluded: &BTreeSet<NodeId>) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    let mut at = id;
    while at != root {
        if excluded.contains(&at) || names.len() > nodes.len() {
            return None;
        }
        let node = nodes.get(&at)?;
        names.push(node.name.as_str());
        at = node.parent;
    }
    names.reverse();
    Some(names.join("/"))
}

/// Whether the server takes the names of the paths, or of a folder around the first one, for the same.
fn is_alike_or_below(path: &str, other: &str) -> bool {
    let keys = |path: &str| -> Vec<_> {
        path.split('/').filter_map(|name| Name::parse(name).ok()).map(|name| name.key()).collect()
    };
    keys(path).starts_with(&keys(other))
}

fn normal(path: &LocalPath) -> Option<String> {
    let names: Result<Vec<Name>, _> = path.components().map(Name::parse_bytes).collect();
    let names = names.ok()?;
    Some(names.iter().map(Name::as_str).collect::<Vec<_>>().join("/"))
}
