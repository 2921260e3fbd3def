//! Turns what scans see into the local tree.
//!
//! Looking at the disk happens in rounds. A round begins with the directories that hints (or a start)
//! named, follows new folders downwards, and ends when nothing is left to look at. What has vanished
//! from its place is only *missing* during a round: it may turn up elsewhere, and then it has moved. What
//! is still missing at the end is believed to be deleted. A directory that could not be read makes
//! nothing missing, and a round in which the root was not itself is thrown away.

mod departed;
mod failed;
mod ids;
mod look;
mod problems;
mod same;
mod unplaced;

use crate::io::{
    DirectoryListing, DirectoryScan, Extent, FileKind, Fingerprint, Found, LocalPath, ScanError, ScanTarget,
};
use crate::tree::{Local, PARKED, Place, Remote, Seen};
use crate::trees::Trees;
use departed::Departed;
use failed::Failed;
use ids::Ids;
use look::{Look, merge, shows};
use model::name::RESERVED_NAME;
use model::{BLOCK_SIZE, Name, NameKey, NamespaceId, NodeId, limits};
use problems::{MOUNTED, Problems};
use same::{is_renumbered, may_be_edited, same_file};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use unplaced::Unplaced;

/// Directories in one scan job: keeps a job short, so that other local work gets its turn.
const DIRECTORIES_PER_SCAN: usize = 64;
/// Deleted nodes whose inodes are remembered until the server knows of the deletion.
const MAX_DEPARTED: usize = 20_000;

/// No server's node: the parent of what is missing and whose place another one has taken, until the round ends.
const LIMBO: NodeId = NodeId([0xfe; 16]);

/// An entry without a node, to be settled when it is known who it is.
#[derive(Debug, Clone)]
struct Newcomer {
    folder: NodeId,
    name: Name,
    found: Found,
    /// Whether the place where its inode was last seen has been looked at in this round.
    old_place_checked: bool,
}

/// The part of the engine that keeps the local tree in step with the disk.
#[derive(Debug, Default)]
pub struct Observer {
    /// For the next round.
    next: BTreeMap<NodeId, Look>,
    /// Of the round that is under way.
    round: BTreeMap<NodeId, Look>,
    /// Directories of the scan that is under way whose folders are to be looked at as well.
    deep: BTreeSet<LocalPath>,
    newcomers: Vec<Newcomer>,
    missing: BTreeSet<NodeId>,
    /// Nodes that are missing and whose place another one has taken: the namespace they were in.
    homes: BTreeMap<NodeId, NamespaceId>,
    /// Nodes that left in rounds that ended since the engine last asked.
    left: BTreeSet<NodeId>,
    /// By device and inode.
    departed: BTreeMap<(u64, u64), Departed>,
    /// Files whose bytes must tell whether they are the deleted node beside them, on a file system without
    /// birth times.
    doubtful: BTreeMap<NodeId, NodeId>,
    /// Nodes that the server is being told of, and does not know yet as far as we know.
    told: BTreeSet<NodeId>,
    /// [`Trees::turns`] when those of the departed that nobody may be any more were last looked for; `None`
    /// when other nodes are told of since.
    departed_as_of: Option<u64>,
    /// Nodes that a step has put where they are and no scan has seen there: the file system may spell their
    /// names in another way.
    unconfirmed: BTreeSet<NodeId>,
    /// By device and inode.
    unplaced: BTreeMap<(u64, u64), Unplaced>,
    /// By folder.
    failed: BTreeMap<NodeId, Failed>,
    /// Rounds that have begun.
    begun: u64,
    /// The last round that was finished.
    finished: u64,
    in_round: bool,
    /// Items that cannot be in the tree at all.
    problems: Problems,
    ids: Ids,
}

impl Observer {
    /// A step has put the node where the tree has it.
    pub fn has_been_put(&mut self, id: NodeId, name: &Name) {
        // Only what is not ASCII has more than one normal form.
        if !name.as_str().is_ascii() {
            self.unconfirmed.insert(id);
        }
    }

    /// Looks at everything: at a start, after lost events, on request.
    pub fn look_at_everything(&mut self, trees: &Trees) {
        self.look(trees.root(), Look { extent: Extent::All, deep: true });
        self.look(PARKED, Look { extent: Extent::All, deep: false });
    }

    /// Looks at a directory and all below it.
    pub fn look_below(&mut self, trees: &Trees, directory: &LocalPath) {
        match trees.at_path(directory) {
            Some(folder) => self.look(folder, Look { extent: Extent::All, deep: true }),
            None => self.look_at_nearest(trees, directory),
        }
    }

    /// Looks at one entry of a directory.
    pub fn look_at(&mut self, trees: &Trees, directory: &LocalPath, name: &[u8]) {
        if directory.is_root() && name == RESERVED_NAME.as_bytes() {
            return;
        }
        match trees.at_path(directory) {
            Some(folder) => self.look_at_name(folder, name),
            None => self.look_at_nearest(trees, directory),
        }
    }

    /// Looks at one entry of a known folder.
    pub fn look_at_name(&mut self, folder: NodeId, name: &[u8]) {
        self.look(folder, Look { extent: Extent::Names(BTreeSet::from([name.into()])), deep: false });
    }

    /// Synced nodes that were found gone since this was last called. Some may only have moved: their other
    /// half is on its way.
    pub fn take_left(&mut self) -> BTreeSet<NodeId> {
        std::mem::take(&mut self.left)
    }

    /// The next round: [`Self::finished_round`] reaches it when all that there is to look at now has been.
    #[must_use]
    pub const fn next_round(&self) -> u64 {
        self.begun + 1
    }

    /// The last round that was finished.
    #[must_use]
    pub const fn finished_round(&self) -> u64 {
        self.finished
    }

    /// Whether a round is under way.
    #[must_use]
    pub const fn in_round(&self) -> bool {
        self.in_round
    }

    /// Whether there is anything to look at.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.next.is_empty() && !self.in_round
    }

    /// Directories that are still to be looked at.
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.next.len() + self.round.len()
    }

    /// What is on disk and cannot be in the tree, with the reason.
    #[must_use]
    pub const fn problems(&self) -> &Problems {
        &self.problems
    }

    /// The next directories to scan, in this round or, if none is under way, the next.
    pub fn next_targets(&mut self, trees: &Trees) -> Vec<ScanTarget> {
        if !self.in_round {
            if self.next.is_empty() {
                return Vec::new();
            }
            self.in_round = true;
            self.begun += 1;
            self.round = std::mem::take(&mut self.next);
            // Left by a round that was not finished.
            self.missing.extend(trees.local_children(LIMBO));
        }
        let mut targets = Vec::new();
        while targets.len() < DIRECTORIES_PER_SCAN {
            let Some((folder, look)) = self.round.pop_first() else { break };
            if let Some(directory) = trees.local_path(folder) {
                if look.deep {
                    self.deep.insert(directory.clone());
                }
                targets.push(ScanTarget { directory, extent: look.extent });
            }
        }
        targets
    }

    /// Throws the round away and begins again: its results cannot be believed.
    pub fn abandon(&mut self, trees: &Trees) {
        self.round.clear();
        self.newcomers.clear();
        self.missing.clear();
        self.homes.clear();
        self.deep.clear();
        self.failed.clear();
        self.in_round = false;
        self.look_at_everything(trees);
    }

    /// Takes the results of one scan job.
    pub fn scanned(&mut self, trees: &mut Trees, scans: Vec<DirectoryScan>, random: &mut dyn FnMut() -> [u8; 16]) {
        for scan in scans {
            let deep = self.deep.remove(&scan.target.directory);
            let Some(folder) = trees.at_path(&scan.target.directory) else { continue };
            match scan.result {
                Ok(listing) if is_this_folder(trees, folder, &listing.print) => {
                    self.take_listing(trees, folder, &scan.target, &listing, deep, random);
                }
                // Another folder lies at that path by now; the folder around it says which.
                Ok(_) => self.look_at_parent(trees, &scan.target.directory),
                Err(ScanError::Gone) => self.look_at_parent(trees, &scan.target.directory),
                Err(ScanError::Unreadable(reason)) => {
                    self.look_failed(folder, Look { extent: scan.target.extent, deep });
                    self.problems.report_folder(folder, format!("the folder cannot be read: {reason}"));
                }
            }
        }
        if self.round.is_empty() {
            self.settle(trees, random);
        }
    }

    fn take_listing(
        &mut self,
        trees: &mut Trees,
        folder: NodeId,
        target: &ScanTarget,
        listing: &DirectoryListing,
        deep: bool,
        random: &mut dyn FnMut() -> [u8; 16],
    ) {
        if self.is_foreign(trees, folder, &listing.print) {
            return;
        }
        self.problems.clear(trees, folder, &target.extent);
        self.look_succeeded(folder, &target.extent);
        let unreadable: BTreeSet<&[u8]> = listing.unreadable.iter().map(|(name, _)| &**name).collect();
        for (name, reason) in &listing.unreadable {
            self.problems.report(folder, name, reason.clone());
            self.look_failed(folder, Look { extent: Extent::Names(BTreeSet::from([name.clone()])), deep });
        }
        let mut matched = BTreeSet::new();
        for found in ids::in_order(&listing.entries) {
            let Some(name) = self.acceptable(folder, found) else {
                // What cannot be synced any more is there all the same: nobody deleted it.
                let child = child_named(trees, folder, &found.name);
                let is_it = |child: &NodeId| trees.local(*child).is_some_and(|was| same_kind(&was.seen, found.kind));
                matched.extend(child.filter(is_it));
                continue;
            };
            let matched_child = if folder == PARKED {
                Some(self.take_parked(trees, &name, found, random))
            } else {
                self.take_entry(trees, folder, target, listing, name, found, deep, random)
            };
            matched.extend(matched_child);
        }
        let is_absent = |child: &NodeId| {
            let name = trees.local(*child).map(|local| Box::from(Trees::disk_name(&local)));
            name.is_some_and(|name: Box<[u8]>| !matched.contains(child) && !unreadable.contains(&*name))
        };
        let absent: Vec<NodeId> = match &target.extent {
            Extent::All => trees.local_children(folder).filter(is_absent).collect(),
            // A look at a few names in a large folder costs what the names cost, not the folder.
            Extent::Names(names) => {
                names.iter().filter_map(|name| child_named(trees, folder, name)).filter(is_absent).collect()
            }
        };
        let (respelled, absent): (Vec<NodeId>, Vec<NodeId>) =
            absent.into_iter().partition(|child| target.extent != Extent::All && self.unconfirmed.contains(child));
        if !respelled.is_empty() {
            self.add_to_round(folder, Look { extent: Extent::All, deep: false });
        }
        for child in &absent {
            self.unconfirmed.remove(child);
        }
        let freed = absent.iter().filter_map(|child| Some(trees.local(*child)?.place.name.key()));
        if target.extent != Extent::All && self.problems.any_is_called(folder, freed) {
            self.add_to_round(folder, Look { extent: Extent::All, deep: false });
        }
        self.missing.extend(absent);
    }

    /// Takes an entry with a legal name. Returns the child that it is, if it is one.
    #[expect(clippy::too_many_arguments, reason = "one entry in all its context; a struct would be used once")]
    fn take_entry(
        &mut self,
        trees: &mut Trees,
        folder: NodeId,
        target: &ScanTarget,
        listing: &DirectoryListing,
        name: Name,
        found: &Found,
        deep: bool,
        random: &mut dyn FnMut() -> [u8; 16],
    ) -> Option<NodeId> {
        let key = name.key();
        let Some(child) = trees.local_child(folder, &key) else {
            self.meet(trees, Newcomer { folder, name, found: found.clone(), old_place_checked: false }, random);
            return trees.local_child(folder, &key);
        };
        let local = trees.local(child)?;
        if Trees::disk_name(&local) != &*found.name {
            let other_spelling_exists = listing.entries.iter().any(|entry| *entry.name == *Trees::disk_name(&local));
            if other_spelling_exists {
                self.problems.report(
                    folder,
                    &found.name,
                    format!(
                        "its name differs from `{}` only in case or in how accents are written; rename one of them",
                        local.place.name
                    ),
                );
                return None;
            }
            if !shows(&target.extent, Trees::disk_name(&local)) {
                // Whether the known spelling is still there decides, and this scan did not look.
                let spellings = BTreeSet::from([found.name.clone(), Trees::disk_name(&local).into()]);
                self.add_to_round(folder, Look { extent: Extent::Names(spellings), deep });
                return Some(child);
            }
        }
        // Another file under another spelling: the known one may turn up elsewhere.
        let respelled = Trees::disk_name(&local) != &*found.name && !same_file(&local, &found.print);
        if respelled || !same_kind(&local.seen, found.kind) || self.is_another(trees, child, &local, found) {
            self.missing.insert(child);
            self.newcomers.push(Newcomer { folder, name, found: found.clone(), old_place_checked: false });
            return None;
        }
        let other_device = found.kind == FileKind::Directory && found.print.device != local.print.device;
        if other_device && !is_renumbered(&local, &found.print, &listing.print) {
            self.problems.report(folder, &found.name, MOUNTED.to_owned());
            return Some(child);
        }
        self.missing.remove(&child);
        self.unconfirmed.remove(&child);
        self.check_former_owner(trees, child, found);
        self.update(trees, child, &local, folder, name, found);
        if local.print.inode != found.print.inode {
            self.doubt(trees, child);
        }
        if found.kind == FileKind::Directory && (deep || !same_file(&local, &found.print)) {
            self.add_to_round(child, Look { extent: Extent::All, deep: true });
        }
        Some(child)
    }

    /// The same place and kind: the same node, whatever happened to it there (an editor that saves by
    /// replacing the file keeps the file's identity).
    fn update(&self, trees: &mut Trees, child: NodeId, local: &Local, folder: NodeId, name: Name, found: &Found) {
        let seen = match (&local.seen, found.kind) {
            (Seen::File(Some(content)), FileKind::File) if local.print == found.print => Seen::File(Some(*content)),
            _ => seen(found),
        };
        let renamed = Trees::disk_name(local) != &*found.name;
        let place = if renamed { Place { parent: folder, name } } else { local.place.clone() };
        let disk_name = if renamed { spelling(&place.name, &found.name) } else { local.disk_name.clone() };
        trees.set_local(child, Some(Local { place, seen, print: found.print, disk_name }));
    }

    /// An entry under a known name that may be another node: another folder, of which the known one may
    /// have moved out of the way, or a synced file that was moved over another. (An editor's temporary
    /// file, never synced, that replaces the file is an edit of the file.)
    fn is_another(&self, trees: &Trees, child: NodeId, local: &Local, found: &Found) -> bool {
        if same_file(local, &found.print) {
            return false;
        }
        let is_known = |other: NodeId| self.is_shared(trees, other) || self.unplaced(trees, found).is_some();
        let moved_over = |other: NodeId| other != child && is_known(other);
        match found.kind {
            FileKind::Directory => found.print.device == local.print.device,
            FileKind::File | FileKind::Symlink | FileKind::Other => {
                let Place { parent, name } = &local.place;
                self.previous(trees, *parent, name, found).is_some_and(moved_over)
            }
        }
    }

    /// The node that was last seen with this entry's inode, if nothing speaks against it being the same
    /// file: inodes are reused. Where the server has the node, the client may have put it, and was ended before it
    /// knew; what was written into it since then speaks for nobody else.
    fn previous(&self, trees: &Trees, folder: NodeId, name: &Name, found: &Found) -> Option<NodeId> {
        if let Some(one) = self.unplaced(trees, found) {
            return Some(one.node());
        }
        let is_there = |remote: &Remote| remote.place.parent == folder && remote.place.name.key() == name.key();
        let may_be_put = |node: NodeId| trees.remote(node).is_some_and(|remote| is_there(&remote));
        let is_same = |node: NodeId, local: &Local| {
            same_kind(&local.seen, found.kind)
                && (same_file(local, &found.print) || may_be_edited(local, &found.print) && may_be_put(node))
        };
        let inode = (found.print.device, found.print.inode);
        match trees.by_inode(inode.0, inode.1) {
            Some(candidate) => {
                trees.local(candidate).is_some_and(|local| is_same(candidate, &local)).then_some(candidate)
            }
            None => self.departed.get(&inode).filter(|gone| is_same(gone.node, &gone.local)).map(|gone| gone.node),
        }
    }

    fn formerly(&self, trees: &Trees, newcomer: &Newcomer) -> Option<NodeId> {
        self.previous(trees, newcomer.folder, &newcomer.name, &newcomer.found)
    }

    /// An entry under a new name: a new node at once, unless its inode was known elsewhere.
    fn meet(&mut self, trees: &mut Trees, newcomer: Newcomer, random: &mut dyn FnMut() -> [u8; 16]) {
        if self.formerly(trees, &newcomer).is_some() {
            self.newcomers.push(newcomer);
        } else {
            self.create(trees, newcomer, random);
        }
    }

    fn create(&mut self, trees: &mut Trees, newcomer: Newcomer, random: &mut dyn FnMut() -> [u8; 16]) {
        let id = self.ids.next(newcomer.found.kind, self.begun, random);
        self.check_former_owner(trees, id, &newcomer.found);
        self.put(trees, id, newcomer);
        self.doubt(trees, id);
    }

    /// Puts a node where an entry was found.
    fn put(&mut self, trees: &mut Trees, id: NodeId, newcomer: Newcomer) {
        let Newcomer { folder, name, found, .. } = newcomer;
        let disk_name = spelling(&name, &found.name);
        let local = Local { place: Place { parent: folder, name }, seen: seen(&found), print: found.print, disk_name };
        trees.set_local(id, Some(local));
        if found.kind == FileKind::Directory {
            self.add_to_round(id, Look { extent: Extent::All, deep: true });
        }
    }

    /// An entry of the parking place: named by its node, or left there by a rename that a crash cut short.
    fn take_parked(
        &mut self,
        trees: &mut Trees,
        name: &Name,
        found: &Found,
        random: &mut dyn FnMut() -> [u8; 16],
    ) -> NodeId {
        let named = name.as_str().parse().ok().filter(|id| *id != trees.root() && *id != PARKED && *id != LIMBO);
        let id = self.previous(trees, PARKED, name, found).or(named).unwrap_or_else(|| NodeId(random()));
        let local = trees.local(id);
        let known =
            local.as_ref().is_some_and(|local| same_kind(&local.seen, found.kind) && same_file(local, &found.print));
        if known || local.is_none() {
            let place = Place { parent: PARKED, name: name.clone() };
            self.missing.remove(&id);
            trees.set_local(id, Some(Local { place, seen: seen(found), print: found.print, disk_name: None }));
        }
        id
    }

    /// What the round has collected is put together: moves first, then what is new, and at the very end
    /// what is gone.
    fn settle(&mut self, trees: &mut Trees, random: &mut dyn FnMut() -> [u8; 16]) {
        self.merge_newcomers();
        self.newcomers.retain(|newcomer| trees.has_local(newcomer.folder));
        let mut pending = Vec::new();
        for mut newcomer in std::mem::take(&mut self.newcomers) {
            match self.formerly(trees, &newcomer) {
                Some(old) if !trees.has_local(old) || self.is_gone(trees, old) || newcomer.old_place_checked => {
                    pending.push((newcomer, Some(old)));
                }
                Some(old) => {
                    self.check_old_place(trees, old);
                    newcomer.old_place_checked = true;
                    self.newcomers.push(newcomer);
                }
                None => pending.push((newcomer, None)),
            }
        }
        if !self.round.is_empty() {
            self.newcomers.extend(pending.into_iter().map(|(newcomer, _)| newcomer));
            return;
        }
        self.place_newcomers(trees, pending, random);
        if self.round.is_empty() {
            self.end_round(trees);
        }
    }

    /// A directory that was looked at twice in the round showed its newcomers twice: the later look
    /// counts. Placed twice, the second would drive the first, itself, out of its place.
    fn merge_newcomers(&mut self) {
        let mut merged: Vec<Newcomer> = Vec::new();
        let mut known: BTreeMap<(NodeId, Box<[u8]>), usize> = BTreeMap::new();
        for newcomer in std::mem::take(&mut self.newcomers) {
            match known.entry((newcomer.folder, newcomer.found.name.clone())) {
                Entry::Vacant(entry) => {
                    entry.insert(merged.len());
                    merged.push(newcomer);
                }
                Entry::Occupied(entry) => {
                    let earlier = &mut merged[*entry.get()];
                    let same = earlier.found.print.inode == newcomer.found.print.inode;
                    let old_place_checked = newcomer.old_place_checked || (same && earlier.old_place_checked);
                    *earlier = Newcomer { old_place_checked, ..newcomer };
                }
            }
        }
        self.newcomers = merged;
    }

    fn place_newcomers(
        &mut self,
        trees: &mut Trees,
        pending: Vec<(Newcomer, Option<NodeId>)>,
        random: &mut dyn FnMut() -> [u8; 16],
    ) {
        let mut moved = Vec::new();
        let mut fresh = Vec::new();
        let mut matched = BTreeSet::new();
        for (newcomer, old) in pending {
            match old {
                Some(old) if !matched.contains(&old) && self.has_moved(trees, old, &newcomer) => {
                    matched.insert(old);
                    let departed = self.departed(trees, old, &newcomer.found).map(|gone| gone.local.clone());
                    let unplaced = self.place(trees, &newcomer);
                    let local = trees.local(old).or(departed).or(unplaced);
                    moved.push((newcomer, old, local));
                }
                _ => fresh.push(newcomer),
            }
        }
        // Off their old places first, so that nodes can take each other's.
        for old in matched {
            self.missing.remove(&old);
            trees.set_local(old, None);
        }
        // A folder that moved may have been the place of a newcomer; the order of arrival puts outer
        // folders first, and what has no folder any more is found again by the folder's own scan.
        for (newcomer, old, local) in moved {
            self.free_name(trees, newcomer.folder, &newcomer.name.key());
            let unchanged = local.filter(|local| same_content(local, &newcomer.found));
            self.put(trees, old, newcomer);
            if let (Some(before), Some(mut now)) = (unchanged, trees.local(old)) {
                now.seen = before.seen;
                trees.set_local(old, Some(now));
            }
        }
        for newcomer in fresh {
            if self.waits_for_its_old_place(trees, &newcomer) || self.take_back(trees, &newcomer) {
                continue;
            }
            self.free_name(trees, newcomer.folder, &newcomer.name.key());
            if trees.has_local(newcomer.folder) {
                self.create(trees, newcomer, random);
            }
        }
    }

    /// The place where an entry was seen last cannot be read at the moment. Who it is, and what became of the one
    /// whose place it may have taken, is open until the two places are looked at again.
    fn waits_for_its_old_place(&mut self, trees: &Trees, newcomer: &Newcomer) -> bool {
        let Newcomer { folder, name, found, .. } = newcomer;
        let open = |old: NodeId| !self.is_gone(trees, old) && self.place_may_yet_be_seen(trees, old);
        if !self.formerly(trees, newcomer).is_some_and(open) {
            return false;
        }
        if let Some(there) = trees.local_child(*folder, &name.key()) {
            self.missing.remove(&there);
        }
        let again = Extent::Names(BTreeSet::from([found.name.clone()]));
        self.look_failed(*folder, Look { extent: again, deep: false });
        true
    }

    /// What looked like another node in the place of a known one was none: the known one changed.
    fn take_back(&mut self, trees: &mut Trees, newcomer: &Newcomer) -> bool {
        let Newcomer { folder, name, found, .. } = newcomer;
        let Some(there) = trees.local_child(*folder, &name.key()).filter(|id| self.missing.contains(id)) else {
            return false;
        };
        let Some(local) = trees.local(there).filter(|local| same_kind(&local.seen, found.kind)) else {
            return false;
        };
        self.missing.remove(&there);
        self.update(trees, there, &local, *folder, name.clone(), found);
        if found.kind == FileKind::Directory {
            self.add_to_round(there, Look { extent: Extent::All, deep: true });
        }
        true
    }

    /// Whoever is missing from a place gives it up when another one is found there. It may still turn up
    /// elsewhere in this round.
    pub(crate) fn free_name(&mut self, trees: &mut Trees, folder: NodeId, key: &NameKey) {
        let Some(there) = trees.local_child(folder, key) else { return };
        let (Some(mut local), Ok(name)) = (trees.local(there), Name::parse(&there.to_string())) else {
            return;
        };
        self.homes.insert(there, trees.namespace_below(folder));
        self.missing.insert(there);
        local.place = Place { parent: LIMBO, name };
        trees.set_local(there, Some(local));
    }

    /// The namespace of a node's place, or of the place that it lost in this round.
    fn home(&self, trees: &Trees, id: NodeId) -> Option<NamespaceId> {
        let lost = std::iter::once(id).chain(trees.local_ancestors(id)).find_map(|above| self.homes.get(&above));
        match lost {
            Some(namespace) => Some(*namespace),
            None => trees.local(id).map(|local| trees.namespace_below(local.place.parent)),
        }
    }

    fn end_round(&mut self, trees: &mut Trees) {
        self.forget_returned(trees);
        let any_missing = !self.missing.is_empty();
        for id in std::mem::take(&mut self.missing) {
            let gone = self.remember(trees, id);
            remove_from_disk_tree(trees, id);
            for (device, inode) in gone {
                if let Some(new) = trees.by_inode(device, inode) {
                    self.doubt(trees, new);
                }
            }
        }
        if any_missing {
            self.problems.forget_vanished(trees);
        }
        self.homes.clear();
        if self.failed.is_empty() {
            self.unplaced.clear();
        }
        self.in_round = false;
        self.finished = self.begun;
    }

    /// Whether a node is known to be no longer where the tree has it.
    fn is_gone(&self, trees: &Trees, id: NodeId) -> bool {
        self.missing.contains(&id) || trees.local_ancestors(id).any(|above| self.missing.contains(&above))
    }

    /// Whether a node that turned up in `folder` is the same node there. Between namespaces nothing moves:
    /// what arrives is new there, and what left is deleted here.
    fn has_moved(&self, trees: &Trees, id: NodeId, newcomer: &Newcomer) -> bool {
        let folder = newcomer.folder;
        let Some(local) = trees.local(id) else {
            let namespace = trees.namespace_below(folder);
            let departed = self.departed(trees, id, &newcomer.found);
            return departed.is_some_and(|gone| gone.namespace == namespace)
                || self.unplaced(trees, &newcomer.found).is_some_and(|one| one.is_in(namespace));
        };
        self.is_gone(trees, id)
            && folder != id
            && !trees.local_ancestors(folder).any(|above| above == id)
            && (local.place.parent == PARKED || self.home(trees, id) == Some(trees.namespace_below(folder)))
    }

    /// Looks at where an entry's inode was seen last: what is gone from there may be this entry, changed.
    fn check_former_owner(&mut self, trees: &Trees, id: NodeId, found: &Found) {
        if let Some(owner) = trees.by_inode(found.print.device, found.print.inode).filter(|owner| *owner != id)
            && trees.local(owner).is_some_and(|local| !same_file(&local, &found.print))
        {
            self.check_old_place(trees, owner);
        }
    }

    fn check_old_place(&mut self, trees: &Trees, id: NodeId) {
        if let Some(local) = trees.local(id) {
            let name: Box<[u8]> = Trees::disk_name(&local).into();
            self.add_to_round(local.place.parent, Look { extent: Extent::Names(BTreeSet::from([name])), deep: false });
        }
    }

    /// Whether the directory lies on another file system than before: something was mounted or unmounted
    /// there, and what it shows says nothing about our files.
    fn is_foreign(&mut self, trees: &Trees, folder: NodeId, print: &Fingerprint) -> bool {
        let foreign = trees.local(folder).is_some_and(|local| local.print.device != print.device);
        if foreign {
            self.problems.report_folder(folder, MOUNTED.to_owned());
        }
        foreign
    }

    /// The entry's name, if the entry is something that can be synced; a problem otherwise.
    fn acceptable(&mut self, folder: NodeId, found: &Found) -> Option<Name> {
        let reason = match (found.kind, &found.target) {
            (FileKind::Other, _) => "sockets, pipes and devices are not synced".to_owned(),
            (FileKind::File, _) if found.print.size > limits::FILE_BLOCKS as u64 * BLOCK_SIZE => {
                "the file is too large".to_owned()
            }
            (FileKind::Symlink, Some(target)) if !is_legal_target(target) => {
                "the link's target is too long or not valid UTF-8".to_owned()
            }
            _ => match Name::parse_bytes(&found.name) {
                Ok(name) => return Some(name),
                Err(error) => error.to_string(),
            },
        };
        self.problems.report(folder, &found.name, reason);
        None
    }

    fn look_at_parent(&mut self, trees: &Trees, directory: &LocalPath) {
        if let Some((parent, name)) = directory.split()
            && let Some(folder) = trees.at_path(&parent)
        {
            self.add_to_round(folder, Look { extent: Extent::Names(BTreeSet::from([name.into()])), deep: false });
        }
    }

    /// A directory that is not known yet is found by looking at the nearest known one above it.
    fn look_at_nearest(&mut self, trees: &Trees, directory: &LocalPath) {
        let mut at = directory.clone();
        while let Some((parent, name)) = at.split() {
            if let Some(folder) = trees.at_path(&parent) {
                // It may turn out to be a known folder under a new name, in which something has changed.
                let extent = Extent::Names(BTreeSet::from([name.into()]));
                self.look(folder, Look { extent, deep: true });
                return;
            }
            at = parent;
        }
    }

    fn look(&mut self, folder: NodeId, look: Look) {
        merge(&mut self.next, folder, look);
    }

    fn add_to_round(&mut self, folder: NodeId, look: Look) {
        merge(&mut self.round, folder, look);
    }
}

/// Takes a node and all below it out of the local tree.
fn remove_from_disk_tree(trees: &mut Trees, id: NodeId) {
    for below in trees.local_subtree(id) {
        trees.set_local(below, None);
    }
    trees.set_local(id, None);
}

fn seen(found: &Found) -> Seen {
    match found.kind {
        FileKind::Directory => Seen::Directory,
        FileKind::Symlink => {
            let target = found.target.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
            Seen::Symlink(target.unwrap_or_default().into())
        }
        FileKind::File | FileKind::Other => Seen::File(None),
    }
}

fn same_kind(seen: &Seen, kind: FileKind) -> bool {
    matches!(
        (seen, kind),
        (Seen::Directory, FileKind::Directory)
            | (Seen::File(_), FileKind::File)
            | (Seen::Symlink(_), FileKind::Symlink)
    )
}

/// The child that has this name on the disk, in exactly this spelling.
fn child_named(trees: &Trees, folder: NodeId, name: &[u8]) -> Option<NodeId> {
    let key = Name::parse_bytes(name).ok()?.key();
    let child = trees.local_child(folder, &key)?;
    trees.local(child).is_some_and(|local| Trees::disk_name(&local) == name).then_some(child)
}

/// Whether the listing is of the folder that the tree has there. On another file system it is for
/// [`Observer::is_foreign`] to say.
fn is_this_folder(trees: &Trees, folder: NodeId, print: &Fingerprint) -> bool {
    trees.local(folder).is_none_or(|local| {
        local.seen == Seen::Directory && (local.print.device != print.device || same_file(&local, print))
    })
}

/// Whether a file that moved has its bytes unchanged beyond doubt. A rename sets the change time, and so
/// does an edit that keeps size and time, so a file is read again; a folder has no bytes.
fn same_content(local: &Local, found: &Found) -> bool {
    local.print == found.print
}

/// The disk's spelling, where it is not the name itself.
fn spelling(name: &Name, disk: &[u8]) -> Option<Box<[u8]>> {
    (name.as_str().as_bytes() != disk).then(|| disk.into())
}

fn is_legal_target(target: &[u8]) -> bool {
    !target.is_empty() && target.len() <= limits::SYMLINK_BYTES && std::str::from_utf8(target).is_ok()
}
