//! What a power failure leaves: some prefix of the names' history, and of the bytes what was synced or
//! a part of it.
//!
//! Names follow one another in order, as a journalling file system keeps them. The bytes of a file that
//! was not synced are there, cut short, or those of an earlier moment; never others of the same length
//! under the same times, which no program could notice.

use super::{Author, Backup, Body, Disk, Image, Ino, Inode, ROOT};
use crate::chance::Chance;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use sync_engine::io::LocalPath;

/// Images kept between two syncs; older ones are merged into the durable one.
const MAX_IMAGES: usize = 64;

/// What lies between the last sync and now.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The states of the disk since the last sync; the first is what that sync made durable.
    images: Vec<Image>,
    /// Files whose bytes are durable, and at which version.
    synced: BTreeMap<u64, u64>,
    failures: u64,
    /// When the present run of the operating system began, by the wall clock.
    began: i64,
}

/// By how much the clock after a restart may differ from the one before, in nanoseconds. Users here are at work as soon
/// as the power is back, so it counts as having come back so much before it failed.
const CLOCK_SLACK_NS: i64 = 5_000_000_000;

impl Past {
    /// When the present run of the operating system began.
    pub(super) const fn began(&self) -> i64 {
        self.began
    }

    /// How often the power has failed.
    pub(super) const fn failures(&self) -> u64 {
        self.failures
    }
}

impl Disk {
    /// Makes everything durable.
    pub(super) fn settle(&mut self) {
        if !self.habits.may_lose_power {
            return;
        }
        self.crash.images = vec![self.inodes.clone()];
        self.crash.synced = self.inodes.values().map(|inode| (inode.made, inode.version)).collect();
    }

    /// Makes one file's bytes durable.
    pub(super) fn settle_file(&mut self, ino: Ino) {
        if !self.habits.may_lose_power {
            return;
        }
        let Some(inode) = self.inodes.get(&ino) else { return };
        self.crash.synced.insert(inode.made, inode.version);
        // Syncing a file brings its names and its bytes to every state that the disk may fall back to.
        for image in &mut self.crash.images {
            if image.get(&ino).is_some_and(|then| then.made == inode.made) {
                image.insert(ino, inode.clone());
            }
        }
    }

    /// Notes the present state as one that a power failure may leave.
    pub(super) fn remember(&mut self) {
        if !self.habits.may_lose_power {
            return;
        }
        if self.crash.images.len() >= MAX_IMAGES {
            self.crash.images.remove(0);
        }
        self.crash.images.push(self.inodes.clone());
    }

    /// The power fails: the disk is what it was at some moment since the last sync, with torn files. The client has
    /// noted what is `durable`.
    pub fn lose_power(&mut self, chance: &mut Chance, durable: Option<i64>) {
        self.crash.failures += 1;
        self.crash.began = self.now_ns - CLOCK_SLACK_NS;
        self.open.clear();
        self.hints.clear();
        let Some(image) = chance.pick(&self.crash.images).cloned() else { return };
        self.inodes = image;
        self.keep_reachable();
        let unsynced: Vec<Ino> = self.inodes.keys().copied().filter(|ino| !self.is_synced(*ino)).collect();
        for ino in unsynced {
            self.tear(ino, chance);
        }
        // Where the clock went back, times do not tell when a file changed.
        let now = self.now_ns;
        self.forgive(|inode| durable.is_none_or(|durable| inode.ctime < durable) || inode.ctime > now);
        self.settle();
        self.check_after_crash();
    }

    /// Whether a power failure took all bytes of the file there, and nobody wrote into it since.
    #[must_use]
    pub fn is_emptied(&self, path: &LocalPath) -> bool {
        self.resolve(path).ok().and_then(|ino| self.inodes.get(&ino)).is_some_and(|inode| inode.emptied)
    }

    /// No client can know any more which files a power failure emptied.
    pub fn forgive_emptied(&mut self) {
        self.forgive(|_| true);
    }

    /// The wall clock was set.
    pub fn clock_jumped(&mut self, by_ns: i64) {
        self.crash.began = self.crash.began.saturating_add(by_ns);
        if by_ns < 0 {
            self.forgive_emptied();
        }
    }

    fn forgive(&mut self, whom: impl Fn(&Inode) -> bool) {
        for image in self.crash.images.iter_mut().chain([&mut self.inodes]) {
            for inode in image.values_mut().filter(|inode| inode.emptied && whom(inode)) {
                Arc::make_mut(inode).emptied = false;
            }
        }
    }

    /// Whether the power has ever failed.
    #[must_use]
    pub const fn has_lost_power(&self) -> bool {
        self.crash.failures() > 0
    }

    /// All files as they are now.
    #[must_use]
    pub fn backup(&self) -> Backup {
        Backup(self.inodes.clone())
    }

    /// Puts all files back. A backup program writes them anew: they have their old times of modification,
    /// and change times of today.
    pub fn restore(&mut self, backup: &Backup) {
        self.open.clear();
        self.hints.clear();
        self.inodes = backup.0.clone();
        self.keep_reachable();
        let now = self.tick();
        for inode in self.inodes.values_mut() {
            Arc::make_mut(inode).ctime = now;
        }
        self.settle();
    }

    fn is_synced(&self, ino: Ino) -> bool {
        let inode = self.inodes.get(&ino);
        inode.and_then(|inode| self.crash.synced.get(&inode.made)) >= inode.map(|inode| &inode.version)
    }

    fn keep_reachable(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut pending = vec![ROOT];
        while let Some(directory) = pending.pop() {
            let Ok(entries) = self.entries(directory) else { continue };
            for entry in entries.values() {
                if reached.insert(entry.ino) {
                    pending.push(entry.ino);
                }
            }
        }
        self.inodes.retain(|ino, _| reached.contains(ino));
    }

    fn tear(&mut self, ino: Ino, chance: &mut Chance) {
        let version = self.next_version();
        let Some(inode) = self.inodes.get_mut(&ino).map(Arc::make_mut) else { return };
        let Body::File(bytes) = &mut inode.body else { return };
        let kept = match chance.below(3) {
            0 => bytes.len(),
            1 => 0,
            _ => chance.index(bytes.len().max(1)),
        };
        if kept < bytes.len() {
            Arc::make_mut(bytes).truncate(kept);
            inode.version = version;
            inode.emptied = kept == 0;
        }
    }

    /// What the client put in place was durable before it was put there: it must not be torn. The
    /// user's own torn files are the user's new state, also where the client had just moved them aside.
    fn check_after_crash(&mut self) {
        let files: Vec<Ino> = self.inodes.keys().copied().collect();
        for ino in files {
            let Some(path) = self.path_of(ino) else { continue };
            let Some(hash) = self.content_of(ino) else { continue };
            let author = self.inodes.get(&ino).map(|inode| inode.author);
            if author == Some(Author::Client) && super::is_own(&path) {
                continue;
            }
            let known = super::lock(&self.known).contains(&hash);
            match author {
                Some(Author::Client) if !known => {
                    self.violations
                        .push(format!("I12: the power failure tore `{path}`, which the client had installed"));
                }
                Some(Author::User) => {
                    super::lock(&self.known).insert(hash);
                }
                Some(Author::Client) | None => {}
            }
        }
    }
}
