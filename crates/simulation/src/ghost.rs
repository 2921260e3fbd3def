//! The state that exists only in the test: what users have written, and what became of it.
//!
//! Every content that a user writes is unique. A write or deletion at a device supersedes exactly the
//! content that this device held there at that moment, whatever other devices hold.

use crate::disk::{content_hash, lock};
use model::{ContentHash, Name, NameKey};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use sync_engine::io::LocalPath;

/// What became of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nobody replaced or deleted it: it must be somewhere, once.
    Live,
    /// An edit took its place: it must be nowhere.
    Edited,
    /// The device deleted it: it must be nowhere, unless another device moved it meanwhile (policy M).
    Deleted { device: usize },
    /// Nothing is asked of it: copied by the user, torn by a power failure, written into a file that had
    /// just lost its name.
    Free,
}

/// The contents that users wrote.
#[derive(Debug, Default)]
pub struct Ghost {
    fates: BTreeMap<ContentHash, Fate>,
    texts: BTreeMap<ContentHash, String>,
    /// What took a content's place, wherever it did.
    successors: BTreeMap<ContentHash, Vec<ContentHash>>,
    /// What was put where a file had been moved away from, and is taken for a new version of that file.
    stand_ins: BTreeMap<ContentHash, Vec<ContentHash>>,
    /// Which devices moved a content, or a folder around it, since all agreed last.
    moved: BTreeMap<ContentHash, BTreeSet<usize>>,
    /// Which devices gave a content another execute bit: to the others that is an edit like any other.
    touched: BTreeMap<ContentHash, BTreeSet<usize>>,
    /// Contents that lay in a folder when a device excluded it: what that device's user then does with
    /// them is nobody else's business.
    detached: BTreeSet<(usize, ContentHash)>,
    /// Contents whose move no device can have told from a deletion and a new file: another file was there
    /// before anybody looked, or the watcher kept the second half to itself.
    parted: BTreeSet<ContentHash>,
    /// Contents that came into a file in a way after which only its place tells which file it is, and that no
    /// scan has seen yet; with what was there before, by device.
    remade: BTreeMap<(usize, ContentHash), ContentHash>,
    /// What a content replaced that the server does not have yet, by device. A file that parts from what it
    /// replaced parts from all that it was since the server knew it.
    unsent: BTreeMap<(usize, ContentHash), ContentHash>,
    /// Of these, contents that no device has read yet.
    unread: BTreeSet<(usize, ContentHash)>,
    /// Of these, contents whose file got another time of modification, on a file system without birth times, so
    /// that only its place tells which file it is; and that no scan has seen since.
    retimed: BTreeSet<(usize, ContentHash)>,
    /// The same of contents that a device has read.
    stirred: BTreeSet<(usize, ContentHash)>,
    /// Contents whose file was moved and got another time before a scan saw either, on a file system without birth
    /// times: until it is read in its new place it is another file there.
    unproven: BTreeSet<(usize, ContentHash)>,
    /// Contents that users moved and that no scan has seen in their new place yet, by device.
    unseen: BTreeSet<(usize, ContentHash)>,
    /// Where the files came from that users moved since all agreed last, by device and path.
    departed: BTreeMap<(usize, Vec<NameKey>), Vec<ContentHash>>,
    /// Contents that existed while a program was writing, and whether it paused only briefly.
    halfway: BTreeSet<ContentHash>,
    /// Contents that a program wrote into a file that had just been moved aside to be removed: POSIX gives
    /// nobody a way to notice.
    written_aside: BTreeSet<ContentHash>,
    /// All contents that a file ever had.
    pub known: Arc<Mutex<BTreeSet<ContentHash>>>,
    /// Whether something happened after which superseded contents may come back, or come twice.
    pub lenient: bool,
    /// Devices that edited, deleted or moved contents which another device had deleted or edited.
    pub met: BTreeMap<&'static str, u64>,
}

impl Ghost {
    /// Nothing has been written but the empty file.
    #[must_use]
    pub fn new() -> Self {
        let ghost = Self::default();
        lock(&ghost.known).insert(content_hash(b""));
        ghost
    }

    /// The user wrote a whole file where `old` was.
    pub fn wrote(&mut self, device: usize, old: Option<ContentHash>, bytes: &[u8]) {
        let new = content_hash(bytes);
        if old == Some(new) {
            return;
        }
        self.superseded(device, old, new);
        self.add(new, bytes, Fate::Live);
    }

    /// The user gave a file a new content, and with it a new identity: it was written anew beside the old one,
    /// or the file system does not tell a file that changed from another on the same inode.
    pub fn remade(&mut self, device: usize, old: Option<ContentHash>, new: ContentHash) {
        if let Some(old) = old.filter(|old| *old != new) {
            self.remade.insert((device, new), old);
        }
    }

    /// A scan saw a file with this content where it is.
    pub fn seen(&mut self, device: usize, content: ContentHash) {
        self.remade.remove(&(device, content));
        self.retimed.remove(&(device, content));
        self.stirred.remove(&(device, content));
        self.unseen.remove(&(device, content));
    }

    /// A device has read a file with this content.
    pub fn read(&mut self, device: usize, content: ContentHash) {
        self.unread.remove(&(device, content));
        self.unproven.remove(&(device, content));
    }

    /// The server has the content.
    pub fn sent(&mut self, content: ContentHash) {
        self.unsent.retain(|(_, new), _| *new != content);
    }

    /// The user gave a file with this content another time of modification, on a file system without birth
    /// times.
    pub fn retimed(&mut self, device: usize, content: ContentHash) {
        if self.unread.contains(&(device, content)) {
            self.retimed.insert((device, content));
            if self.unseen.contains(&(device, content)) {
                self.parts_from_what_it_replaced(device, content);
            }
        } else if self.unseen.contains(&(device, content)) {
            self.unproven.insert((device, content));
        } else {
            self.stirred.insert((device, content));
        }
    }

    /// Whether a file has this content in a way after which only its place tells which file it is.
    #[must_use]
    pub fn is_remade(&self, device: usize, content: ContentHash) -> bool {
        self.remade.contains_key(&(device, content))
    }

    /// Whether a scan of the device's would tell the ghost something.
    #[must_use]
    pub fn awaits_scan(&self, device: usize) -> bool {
        self.remade.keys().chain(&self.unseen).chain(&self.retimed).chain(&self.stirred).any(|(on, _)| *on == device)
    }

    /// The file with this content left its place before anybody saw it there, or got it in a place where
    /// nobody had seen it yet: what it replaced is gone from the old place, and in the new one is a new file.
    /// So what it replaced was deleted, as far as anybody can tell.
    fn parts_from_what_it_replaced(&mut self, device: usize, content: ContentHash) {
        let mut at = content;
        let mut parts = self.retimed.remove(&(device, content));
        loop {
            let mut old = self.remade.remove(&(device, at));
            parts |= old.is_some();
            if old.is_none() && parts {
                old = self.unsent.remove(&(device, at));
            }
            let Some(old) = old else { return };
            if self.fates.get(&old) == Some(&Fate::Edited) {
                self.fates.insert(old, Fate::Deleted { device });
            }
            at = old;
        }
    }

    /// A file holds this for a moment, while a program writes.
    pub fn wrote_halfway(&mut self, device: usize, old: Option<ContentHash>, bytes: &[u8]) {
        let new = content_hash(bytes);
        if old != Some(new) {
            self.superseded(device, old, new);
        }
        self.add(new, bytes, Fate::Edited);
        self.halfway.insert(new);
    }

    /// The file in which a program writes had no visible name when it got this content.
    pub fn wrote_aside(&mut self, bytes: &[u8]) {
        self.written_aside.insert(content_hash(bytes));
    }

    /// Whether the content came into its file when that was about to be removed.
    #[must_use]
    pub fn was_written_aside(&self, content: &ContentHash) -> bool {
        self.written_aside.contains(content)
    }

    /// A program closed a file with this content. Another user may have replaced it by then.
    pub fn finished(&mut self, content: ContentHash, has_name: bool) {
        if self.halfway.remove(&content) {
            self.fates.insert(content, if has_name { Fate::Live } else { Fate::Free });
        }
    }

    /// The user made a second file of a content.
    pub fn copied(&mut self, device: usize, old: Option<ContentHash>, content: ContentHash) {
        if old != Some(content) {
            self.superseded(device, old, content);
        }
        self.release(content);
    }

    fn add(&mut self, content: ContentHash, bytes: &[u8], fate: Fate) {
        // The same bytes twice: no longer unique, so nothing is counted.
        let again = !lock(&self.known).insert(content);
        self.fates.insert(content, if again { Fate::Free } else { fate });
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]).into_owned();
        self.texts.insert(content, text);
    }

    fn superseded(&mut self, device: usize, old: Option<ContentHash>, new: ContentHash) {
        let Some(old) = old else { return };
        self.successors.entry(old).or_default().push(new);
        self.unsent.insert((device, new), old);
        self.unread.insert((device, new));
        self.moves_along(old, new);
        if self.detached.contains(&(device, old)) {
            self.release(old);
        }
        if let Some(Fate::Deleted { device: other }) = self.fates.get(&old)
            && *other != device
        {
            *self.met.entry("edit met delete").or_default() += 1;
        }
        if self.fates.get(&old) == Some(&Fate::Edited) && !self.halfway.contains(&old) {
            *self.met.entry("edit met edit").or_default() += 1;
        }
        self.halfway.remove(&old);
        if self.fates.get(&old) != Some(&Fate::Free) {
            self.fates.insert(old, Fate::Edited);
        }
        if self.unseen.contains(&(device, old)) {
            self.parts_from_what_it_replaced(device, new);
        }
        if self.unproven.remove(&(device, old)) && self.fates.get(&old) == Some(&Fate::Edited) {
            // Nobody can tell any more which file it was: as far as anybody knows, that is gone.
            self.fates.insert(old, Fate::Deleted { device });
        }
    }

    /// The user deleted the files with these contents.
    pub fn deleted(&mut self, device: usize, contents: &[ContentHash]) {
        for content in contents {
            if self.detached.contains(&(device, *content)) {
                self.release(*content);
            }
            if self.halfway.remove(content) {
                self.fates.insert(*content, Fate::Live);
            }
            match self.fates.get(content) {
                Some(Fate::Edited) => *self.met.entry("delete met edit").or_default() += 1,
                Some(Fate::Live) => {
                    if self.moved_by_another(content, device) {
                        *self.met.entry("delete met move").or_default() += 1;
                    }
                    self.fates.insert(*content, Fate::Deleted { device });
                }
                Some(Fate::Deleted { .. } | Fate::Free) | None => {}
            }
        }
    }

    /// The user moved the files with these contents.
    pub fn moved(&mut self, device: usize, contents: &[ContentHash]) {
        for content in contents {
            self.parts_from_what_it_replaced(device, *content);
            if self.stirred.remove(&(device, *content)) {
                self.unproven.insert((device, *content));
            }
            match self.fates.get(content) {
                Some(Fate::Deleted { device: other }) if *other != device => {
                    *self.met.entry("move met delete").or_default() += 1;
                }
                _ if self.moved_by_another(content, device) => *self.met.entry("move met move").or_default() += 1,
                _ => {}
            }
            // It is the file that moves, whatever others have written into it where it was.
            for written in self.with_successors(*content) {
                self.moved.entry(written).or_default().insert(device);
            }
        }
    }

    /// Who moved the file moved what is written into it where the move has not arrived.
    fn moves_along(&mut self, old: ContentHash, new: ContentHash) {
        let movers = self.moved.get(&old).cloned().unwrap_or_default();
        self.moved.entry(new).or_default().extend(movers);
    }

    /// The content, and all that took its place, one after the other, in its file or where that was.
    #[must_use]
    pub fn with_successors(&self, content: ContentHash) -> BTreeSet<ContentHash> {
        let mut all = BTreeSet::from([content]);
        let mut pending = vec![content];
        while let Some(at) = pending.pop() {
            let next = [&self.successors, &self.stand_ins].map(|map| map.get(&at).into_iter().flatten().copied());
            pending.extend(next.into_iter().flatten().filter(|next| all.insert(*next)));
        }
        all
    }

    /// These contents may have been installed by a change to the disk that then failed. Whether the user
    /// who deletes such a file has seen it, no device can know; it comes back. The same goes for what a power
    /// failure may have taken.
    pub fn unsure(&mut self, contents: impl Iterator<Item = ContentHash>) {
        self.parted.extend(contents);
    }

    /// The user moved the files with these contents away from a path.
    pub fn left(&mut self, device: usize, from: &LocalPath, contents: &[ContentHash]) {
        self.departed.insert((device, spelled_alike(from)), contents.to_vec());
        self.unseen.extend(contents.iter().map(|content| (device, *content)));
    }

    /// The user put something new at a path, a file if there is a `content`. What was moved away from there
    /// cannot be told from the copy that an editor keeps when it saves: the path keeps its file, and the other
    /// name has a new one. So whoever moves that file elsewhere moves what is in its place here.
    pub fn filled(&mut self, device: usize, path: &LocalPath, content: Option<ContentHash>) {
        let left = self.departed.remove(&(device, spelled_alike(path))).unwrap_or_default();
        if let ([old], Some(new)) = (&*left, content) {
            self.stand_ins.entry(*old).or_default().push(new);
            self.moves_along(*old, new);
        }
        self.parted.extend(left);
    }

    /// The watcher of a device was late with files that had these contents, or kept silent about them.
    pub fn overlooked(&mut self, device: usize, contents: &[ContentHash]) {
        let moved = |content: &&ContentHash| self.moved.get(content).is_some_and(|devices| devices.contains(&device));
        self.parted.extend(contents.iter().filter(moved));
    }

    /// A device excluded the files with these contents.
    pub fn detached(&mut self, device: usize, contents: &[ContentHash]) {
        self.detached.extend(contents.iter().map(|content| (device, *content)));
        // A deletion that had not been told yet is no longer told: what is excluded is never deleted.
        for fate in self.fates.values_mut() {
            if *fate == (Fate::Deleted { device }) {
                *fate = Fate::Free;
            }
        }
    }

    /// Whether the device keeps a file with this content off its disk, or is about to.
    #[must_use]
    pub fn is_detached(&self, device: usize, content: &ContentHash) -> bool {
        self.detached.contains(&(device, *content))
    }

    /// The user changed the execute bit of a file with this content.
    pub fn touched(&mut self, device: usize, content: ContentHash) {
        self.touched.entry(content).or_default().insert(device);
    }

    fn moved_by_another(&self, content: &ContentHash, device: usize) -> bool {
        self.moved.get(content).is_some_and(|devices| devices.iter().any(|other| *other != device))
    }

    /// Nothing is asked of the content any more.
    pub fn release(&mut self, content: ContentHash) {
        self.halfway.remove(&content);
        self.fates.insert(content, Fate::Free);
    }

    /// The contents that must be somewhere.
    pub fn live(&self) -> impl Iterator<Item = ContentHash> + '_ {
        self.fates.iter().filter(|(_, fate)| **fate == Fate::Live).map(|(content, _)| *content)
    }

    /// The fate of a content.
    #[must_use]
    pub fn fate(&self, content: &ContentHash) -> Option<Fate> {
        self.fates.get(content).copied()
    }

    /// Whether the content may be there although it was superseded.
    #[must_use]
    pub fn may_return(&self, content: &ContentHash) -> bool {
        if self.lenient || self.touched.contains_key(content) || self.parted.contains(content) {
            return true;
        }
        match self.fates.get(content) {
            Some(Fate::Edited) => self.halfway.contains(content) || self.edit_came_to_nothing(content),
            Some(Fate::Deleted { device }) => self.moved_by_another(content, *device),
            Some(Fate::Live | Fate::Free) | None => true,
        }
    }

    /// Whether the content may be there as two files although its user made one.
    #[must_use]
    pub fn may_be_twice(&self, content: &ContentHash) -> bool {
        self.lenient || self.parted.contains(content)
    }

    /// Whether the edit that superseded a content may never have reached anybody: it was deleted in turn,
    /// while another device moved the file, or an exclusion kept it on its device.
    fn edit_came_to_nothing(&self, content: &ContentHash) -> bool {
        let mut known = BTreeSet::from([*content]);
        let mut pending = vec![*content];
        while let Some(at) = pending.pop() {
            for next in self.successors.get(&at).into_iter().flatten() {
                let came_to_nothing = match self.fates.get(next) {
                    Some(Fate::Live) | None => self.detached.iter().any(|(_, kept)| kept == next),
                    Some(Fate::Free) => true,
                    Some(Fate::Deleted { device }) => {
                        self.moved_by_another(&at, *device) || self.moved_by_another(next, *device)
                    }
                    Some(Fate::Edited) => {
                        // A content can take its own place again, by way of others.
                        if known.insert(*next) {
                            pending.push(*next);
                        }
                        false
                    }
                };
                if came_to_nothing {
                    return true;
                }
            }
        }
        false
    }

    /// Whether a user ever wrote this.
    #[must_use]
    pub fn knows(&self, content: &ContentHash) -> bool {
        lock(&self.known).contains(content)
    }

    /// The beginning of a content, for people.
    #[must_use]
    pub fn text(&self, content: &ContentHash) -> String {
        self.texts.get(content).cloned().unwrap_or_else(|| format!("{content:?}"))
    }

    /// All devices agree: from here on only new moves count, and those of contents that are `stuck` on a
    /// device, which could not follow. What came back lawfully is there again; what is lawfully there `twice` can be
    /// deleted in one place and stay in the other.
    pub fn agreed(
        &mut self,
        present: &BTreeSet<ContentHash>,
        twice: &BTreeSet<ContentHash>,
        stuck: &BTreeSet<ContentHash>,
    ) {
        self.moved.retain(|content, _| stuck.contains(content));
        self.touched.clear();
        self.successors.clear();
        self.stand_ins.clear();
        self.detached.clear();
        self.parted.clear();
        self.departed.clear();
        self.remade.clear();
        self.unsent.clear();
        self.unread.clear();
        self.retimed.clear();
        self.stirred.clear();
        self.unproven.clear();
        self.unseen.clear();
        for (content, fate) in &mut self.fates {
            if present.contains(content) && *fate != Fate::Live || twice.contains(content) {
                *fate = Fate::Free;
            }
        }
    }
}

/// The path as all file systems would compare it.
fn spelled_alike(path: &LocalPath) -> Vec<NameKey> {
    path.components().filter_map(|name| Name::parse_bytes(name).ok()).map(|name| name.key()).collect()
}
