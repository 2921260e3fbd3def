//! What the users wrote and ended, value by value: what must be there when all is quiet.
//!
//! A value is one content that one user put at one place. Whoever edits or deletes a file ends the value
//! that it has at that moment on that device, which the user sees, since files are exchanged and taken
//! away whole. Whatever nobody has ended must be there, once.

use crate::tree::{ContentHash, Tree};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A file as it was when all was quiet, by number.
pub(crate) type FileNumber = usize;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// It was there before. Many files may have the same content.
    Before(FileNumber),
    /// A user wrote it; such contents are unique.
    Written(String),
}

/// The values of one phase.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    files: Vec<(PathBuf, ContentHash)>,
    /// Where a file was, and where moves have put it since: the other user may meet it at either place.
    numbers: BTreeMap<PathBuf, FileNumber>,
    written: BTreeMap<ContentHash, Origin>,
    hashes: BTreeMap<Origin, ContentHash>,
    /// What each value was put in place of: a move of the one moves the other.
    before: BTreeMap<Origin, Origin>,
    /// Ended by an edit, and by whom ended by a deletion.
    replaced: BTreeSet<Origin>,
    deleted: BTreeMap<Origin, BTreeSet<&'static str>>,
    /// By whom moved, alone or with a folder around it.
    moved: BTreeMap<Origin, BTreeSet<&'static str>>,
    /// Who wrote the values that replaced others.
    replacers: BTreeMap<Origin, &'static str>,
    /// By user, the places that files were moved away from.
    left: BTreeMap<(&'static str, PathBuf), BTreeSet<Origin>>,
    /// Moved away from a place to which the same user then put a new file. Nobody can tell that from the copy that
    /// an editor keeps of what it saves: the new file may count as an edit, and the old one as a new file.
    parted: BTreeSet<Origin>,
    /// Names that users gave to folders. A file that somebody else put there makes way, under the device's name.
    folders: BTreeMap<String, BTreeSet<&'static str>>,
    /// For files that only one user touched, where they must be now; `None` for one that was deleted.
    touched: BTreeMap<FileNumber, BTreeMap<&'static str, Option<PathBuf>>>,
}

impl Ledger {
    /// The ledger of a phase that begins with this tree.
    pub(crate) fn of(tree: &Tree) -> Self {
        let mut ledger = Self::default();
        for (number, (path, hash)) in tree.contents().enumerate() {
            ledger.files.push((path.clone(), hash));
            ledger.numbers.insert(path.clone(), number);
            ledger.hashes.insert(Origin::Before(number), hash);
        }
        ledger
    }

    /// A user wrote a content that nobody wrote before.
    pub(crate) fn write(&mut self, hash: ContentHash, told: String) {
        self.written.insert(hash, Origin::Written(told.clone()));
        self.hashes.insert(Origin::Written(told), hash);
    }

    /// A user put a written content in place of what was at the place of this file.
    pub(crate) fn replace(&mut self, user: &'static str, was_at: &Path, found: ContentHash, by: ContentHash) {
        self.touch(user, was_at, Some(was_at.to_owned()));
        let Some(origin) = self.origin(was_at, found) else { return };
        if let Some(new) = self.written.get(&by) {
            self.before.insert(new.clone(), origin.clone());
            self.replacers.insert(new.clone(), user);
        }
        self.replaced.insert(origin);
    }

    /// A user deleted what was at the place of this file.
    pub(crate) fn delete(&mut self, user: &'static str, was_at: &Path, found: ContentHash) {
        self.touch(user, was_at, None);
        if let Some(origin) = self.origin(was_at, found) {
            self.deleted.entry(origin).or_default().insert(user);
        }
    }

    /// A user moved what was at the place of this file, alone or with its folder.
    pub(crate) fn move_to(&mut self, user: &'static str, was_at: &Path, found: ContentHash, now_at: &Path) {
        self.touch(user, was_at, Some(now_at.to_owned()));
        if let Some(number) = self.numbers.get(was_at).copied() {
            self.numbers.insert(now_at.to_owned(), number);
        }
        if let Some(origin) = self.origin(was_at, found) {
            self.moved.entry(origin).or_default().insert(user);
        }
    }

    /// A user moved a file away from a place.
    pub(crate) fn leave(&mut self, user: &'static str, place: &Path, found: ContentHash) {
        if let Some(origin) = self.origin(place, found) {
            self.left.entry((user, place.to_owned())).or_default().insert(origin);
        }
    }

    /// A user put a file at a place where there was none.
    pub(crate) fn fill(&mut self, user: &'static str, place: &Path) {
        self.parted.extend(self.left.remove(&(user, place.to_owned())).unwrap_or_default());
    }

    /// A user made a folder, or moved one.
    pub(crate) fn name_folder(&mut self, user: &'static str, place: &Path) {
        if let Some(name) = place.file_name() {
            self.folders.entry(name.to_string_lossy().into_owned()).or_default().insert(user);
        }
    }

    /// A user is about to change something in, or together with, all of a folder: where its files are
    /// follows no longer from what is noted for each.
    pub(crate) fn touch(&mut self, user: &'static str, was_at: &Path, now_at: Option<PathBuf>) {
        if let Some(number) = self.numbers.get(was_at) {
            self.touched.entry(*number).or_default().insert(user, now_at);
        }
    }

    /// All has come to rest. What happened before no longer excuses what comes, and what is there lives.
    pub(crate) fn settle(&mut self, tree: &Tree) {
        let found: BTreeSet<ContentHash> = tree.contents().map(|(_, hash)| hash).collect();
        let survived = |origin: &Origin| self.hashes.get(origin).is_some_and(|hash| found.contains(hash));
        let ended = self.deleted.keys().chain(&self.replaced);
        let survivors: Vec<Origin> = ended.filter(|origin| survived(origin)).cloned().collect();
        for origin in survivors {
            self.deleted.remove(&origin);
            self.replaced.remove(&origin);
        }
        self.moved.clear();
        self.left.clear();
        self.parted.clear();
        self.folders.clear();
        self.touched.clear();
    }

    /// The value with this content that a user saw at a file's place.
    fn origin(&self, was_at: &Path, found: ContentHash) -> Option<Origin> {
        let number = self.numbers.get(was_at).copied();
        let before = number.filter(|number| self.files[*number].1 == found).map(Origin::Before);
        before.or_else(|| self.written.get(&found).cloned())
    }

    /// How often each content may be there: at least, and at most.
    fn bounds(&self) -> BTreeMap<ContentHash, (usize, usize)> {
        let mut bounds: BTreeMap<ContentHash, (usize, usize)> = BTreeMap::new();
        for (origin, hash) in &self.hashes {
            let bound = bounds.entry(*hash).or_default();
            bound.0 += usize::from(!self.is_ended(origin));
            bound.1 += usize::from(!self.is_ended(origin) || self.is_doubtful(origin));
        }
        bounds
    }

    fn is_ended(&self, origin: &Origin) -> bool {
        self.replaced.contains(origin) || self.deleted.contains_key(origin)
    }

    /// Deleted by one while the other moved it: it depends on who came first. An edit that its own user
    /// deleted again may have gone nowhere: what it replaced was then simply deleted.
    fn is_doubtful(&self, origin: &Origin) -> bool {
        if self.parted.contains(origin) {
            return true;
        }
        let mut movers = Self::lineage(&self.before, origin).filter_map(|origin| self.moved.get(origin)).flatten();
        movers.any(|mover| self.may_survive(origin, mover))
    }

    /// Whether a value that this user, or this user's device, moved may be there although it has ended: another
    /// user deleted it, or what replaced it; or replaced it and moved it before anybody looked, in either order:
    /// then what replaced it is a new file under a new name, and it is gone.
    fn may_survive(&self, origin: &Origin, mover: &'static str) -> bool {
        // Who deletes what another one edited ends nothing.
        let is_free = |last: &Origin| last != origin || !self.replaced.contains(origin);
        let ended_by = |last: &Origin| is_free(last) && Self::lineage(&self.before, last).any(|one| one == origin);
        let successors = self.deleted.iter().filter(|(last, _)| ended_by(last));
        let mut deleters = successors.flat_map(|(_, deleters)| deleters);
        let moved_on = |(new, by): (&Origin, &&'static str)| {
            let mut since: Vec<_> = Self::lineage(&self.before, new).collect();
            let Some(at) = since.iter().position(|one| *one == origin).filter(|at| *at > 0) else { return false };
            since.truncate(at + 1);
            let moved = |one: &&Origin| self.moved.get(*one).is_some_and(|movers| movers.contains(by));
            *by != mover && since.iter().any(moved)
        };
        deleters.any(|deleter| *deleter != mover) || self.replacers.iter().any(moved_on)
    }

    /// Whether the value made way for a folder, on the device of somebody who did not know of its end: its
    /// name says so.
    fn made_way(&self, hash: ContentHash, path: &Path) -> bool {
        let Some(name) = path.file_name().map(|name| name.to_string_lossy()) else { return false };
        let Some((folder, copy)) = name.split_once(" (conflicted copy ") else { return false };
        let makers = self.folders.get(folder).into_iter().flatten();
        let mut devices = makers.filter(|maker| copy.strip_prefix(**maker).is_some_and(|rest| rest.starts_with(' ')));
        let origins = || self.hashes.iter().filter(|(_, known)| **known == hash).map(|(origin, _)| origin);
        devices.any(|device| origins().any(|origin| self.may_survive(origin, device)))
    }

    /// A value and all that it was put in place of, one after the other.
    fn lineage<'a>(before: &'a BTreeMap<Origin, Origin>, origin: &'a Origin) -> impl Iterator<Item = &'a Origin> {
        std::iter::successors(Some(origin), |origin| before.get(*origin))
    }

    /// Sentences about what a tree lacks or has too much.
    pub(crate) fn complaints(&self, tree: &Tree) -> Vec<String> {
        let mut found: BTreeMap<ContentHash, Vec<&Path>> = BTreeMap::new();
        for (path, hash) in tree.contents() {
            found.entry(hash).or_default().push(path);
        }
        let bounds = self.bounds();
        let mut complaints = Vec::new();
        for (hash, (least, most)) in &bounds {
            let mut paths = found.get(hash).cloned().unwrap_or_default();
            if paths.len() > *most && paths.len() == 1 {
                paths.retain(|path| !self.made_way(*hash, path));
            }
            if paths.len() < *least {
                complaints.push(format!("lost: {} of {least} of {}", least - paths.len(), self.tell(*hash)));
            } else if paths.len() > *most {
                complaints.push(format!("{} instead of {most} of {}: {paths:?}", paths.len(), self.tell(*hash)));
            }
        }
        let invented = found.iter().filter(|(hash, _)| !bounds.contains_key(hash));
        complaints.extend(invented.map(|(hash, paths)| format!("{hash:?} at {paths:?} was written by nobody")));
        complaints.extend(self.misplaced(tree));
        complaints
    }

    /// Files that one user alone touched, or nobody, and that are not where they were left.
    fn misplaced(&self, tree: &Tree) -> Vec<String> {
        let mut complaints = Vec::new();
        for (number, (path, _)) in self.files.iter().enumerate() {
            let place = match self.touched.get(&number) {
                None => Some(path),
                Some(by) if by.len() == 1 => by.values().next().and_then(Option::as_ref),
                Some(_) => continue,
            };
            match place {
                Some(place) if !tree.0.contains_key(place) => {
                    complaints.push(format!("{}: is not at {}", path.display(), place.display()));
                }
                None if tree.0.contains_key(path) => {
                    complaints.push(format!("{}: was deleted and is there", path.display()));
                }
                _ => {}
            }
        }
        complaints
    }

    fn tell(&self, hash: ContentHash) -> String {
        let origins: Vec<String> = self
            .hashes
            .iter()
            .filter(|(_, of)| **of == hash)
            .take(4)
            .map(|(origin, _)| match origin {
                Origin::Before(number) => self.files[*number].0.display().to_string(),
                Origin::Written(told) => told.clone(),
            })
            .collect();
        format!("{hash:?} ({})", origins.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Entry;

    fn tree(files: &[(&str, &str)]) -> Tree {
        let entry = |content: &str| Entry::File {
            hash: ContentHash::of(content.as_bytes()),
            size: 0,
            executable: false,
            modified: (0, 0),
        };
        Tree(files.iter().map(|(path, content)| (PathBuf::from(path), entry(content))).collect())
    }

    fn hash(content: &str) -> ContentHash {
        ContentHash::of(content.as_bytes())
    }

    #[test]
    fn an_edit_ends_the_value_that_was_there() {
        let mut ledger = Ledger::of(&tree(&[("f", "0")]));
        ledger.write(hash("1"), "1 by a".into());
        ledger.replace("a", Path::new("f"), hash("0"), hash("1"));
        assert_eq!(ledger.complaints(&tree(&[("f", "1")])), Vec::<String>::new());
        assert_eq!(ledger.complaints(&tree(&[("f", "0")])).len(), 2, "one is lost, one is back");
        assert_eq!(ledger.complaints(&tree(&[("f", "1"), ("g", "1")])).len(), 1, "one is doubled");
        assert_eq!(ledger.complaints(&tree(&[("f", "1"), ("g", "2")])).len(), 1, "one is invented");
    }

    #[test]
    fn concurrent_edits_must_both_be_there() {
        let mut ledger = Ledger::of(&tree(&[("f", "0")]));
        for (user, content) in [("a", "1"), ("b", "2")] {
            ledger.write(hash(content), content.into());
            ledger.replace(user, Path::new("f"), hash("0"), hash(content));
        }
        assert_eq!(ledger.complaints(&tree(&[("f", "1"), ("f 2", "2")])), Vec::<String>::new());
        assert_eq!(ledger.complaints(&tree(&[("f", "1")])).len(), 1);
    }

    #[test]
    fn a_deletion_and_a_move_at_once_may_end_either_way() {
        let mut ledger = Ledger::of(&tree(&[("f", "0")]));
        ledger.delete("a", Path::new("f"), hash("0"));
        ledger.move_to("b", Path::new("f"), hash("0"), Path::new("g"));
        assert_eq!(ledger.complaints(&tree(&[])), Vec::<String>::new());
        assert_eq!(ledger.complaints(&tree(&[("g", "0")])), Vec::<String>::new());
    }

    #[test]
    fn an_edit_that_is_deleted_while_the_file_is_moved_may_end_either_way() {
        let mut ledger = Ledger::of(&tree(&[("f", "0")]));
        ledger.write(hash("1"), "1 by a".into());
        ledger.replace("a", Path::new("f"), hash("0"), hash("1"));
        ledger.delete("a", Path::new("f"), hash("1"));
        ledger.move_to("b", Path::new("f"), hash("0"), Path::new("g"));
        assert_eq!(ledger.complaints(&tree(&[])), Vec::<String>::new());
        assert_eq!(ledger.complaints(&tree(&[("g", "1")])), Vec::<String>::new());
    }

    #[test]
    fn what_an_edit_replaced_that_was_deleted_again_while_the_file_was_moved_may_end_either_way() {
        let mut ledger = Ledger::of(&tree(&[("f", "0")]));
        ledger.write(hash("1"), "1 by a".into());
        ledger.replace("a", Path::new("f"), hash("0"), hash("1"));
        ledger.delete("a", Path::new("f"), hash("1"));
        assert_eq!(ledger.complaints(&tree(&[("f", "0")])).len(), 2, "nobody moved it");
        ledger.move_to("b", Path::new("f"), hash("0"), Path::new("g"));
        assert_eq!(ledger.complaints(&tree(&[])), Vec::<String>::new());
        assert_eq!(ledger.complaints(&tree(&[("g", "0")])), Vec::<String>::new());
        assert_eq!(ledger.complaints(&tree(&[("g", "0"), ("h", "0")])).len(), 1, "but not twice");
    }

    #[test]
    fn what_made_way_for_a_folder_while_it_was_deleted_may_end_either_way() {
        let made_way = tree(&[("s (conflicted copy b 2026-11-26)", "0")]);
        let mut ledger = Ledger::default();
        ledger.write(hash("0"), "0 by a".into());
        ledger.write(hash("1"), "1 by a".into());
        ledger.replace("a", Path::new("s"), hash("0"), hash("1"));
        ledger.delete("a", Path::new("s"), hash("1"));
        assert_eq!(ledger.complaints(&made_way).len(), 1, "nobody made a folder");
        ledger.name_folder("c", Path::new("s"));
        ledger.name_folder("b", Path::new("t"));
        assert_eq!(ledger.complaints(&made_way).len(), 1, "nobody made this folder there");
        ledger.name_folder("b", Path::new("s"));
        assert_eq!(ledger.complaints(&made_way), Vec::<String>::new());
        assert_eq!(ledger.complaints(&tree(&[("s", "0")])).len(), 1, "it has not made way");
        ledger.settle(&made_way);
        assert_eq!(ledger.complaints(&tree(&[])).len(), 1, "what was there at rest lives");
    }

    #[test]
    fn what_was_replaced_by_what_then_moved_may_stay_where_somebody_else_moved_it() {
        let mut ledger = Ledger::default();
        ledger.write(hash("0"), "0 by a".into());
        ledger.write(hash("1"), "1 by b".into());
        ledger.replace("b", Path::new("f"), hash("0"), hash("1"));
        ledger.move_to("b", Path::new("f"), hash("1"), Path::new("g"));
        let both = tree(&[("g", "1"), ("h", "0")]);
        assert_eq!(ledger.complaints(&both).len(), 1, "nobody moved it");
        ledger.move_to("a", Path::new("f"), hash("0"), Path::new("h"));
        assert_eq!(ledger.complaints(&both), Vec::<String>::new());
        assert_eq!(ledger.complaints(&tree(&[("h", "1")])), Vec::<String>::new());
    }

    #[test]
    fn what_was_moved_and_then_replaced_may_stay_where_somebody_else_moved_it() {
        let mut ledger = Ledger::default();
        ledger.write(hash("0"), "0 by a".into());
        ledger.write(hash("1"), "1 by b".into());
        ledger.move_to("b", Path::new("f"), hash("0"), Path::new("g"));
        ledger.replace("b", Path::new("g"), hash("0"), hash("1"));
        let both = tree(&[("g", "1"), ("h", "0")]);
        assert_eq!(ledger.complaints(&both).len(), 1, "nobody else moved it");
        ledger.move_to("a", Path::new("f"), hash("0"), Path::new("h"));
        assert_eq!(ledger.complaints(&both), Vec::<String>::new());
    }

    #[test]
    fn what_made_room_for_a_new_file_may_look_like_an_editors_copy() {
        let mut ledger = Ledger::default();
        for content in ["0", "1", "2"] {
            ledger.write(hash(content), format!("{content} by somebody"));
        }
        ledger.replace("b", Path::new("f"), hash("0"), hash("2"));
        ledger.leave("a", Path::new("f"), hash("0"));
        let both = tree(&[("f", "2"), ("f 2", "1"), ("g", "0")]);
        assert_eq!(ledger.complaints(&both).len(), 1, "its place stayed empty");
        ledger.fill("b", Path::new("f"));
        assert_eq!(ledger.complaints(&both).len(), 1, "on that device");
        ledger.fill("a", Path::new("f"));
        assert_eq!(ledger.complaints(&both), Vec::<String>::new());
    }

    #[test]
    fn who_deletes_what_the_other_one_moved_ends_it() {
        let mut ledger = Ledger::of(&tree(&[("d/f", "0")]));
        ledger.move_to("a", Path::new("d/f"), hash("0"), Path::new("d/g"));
        ledger.delete("b", Path::new("d/g"), hash("0"));
        assert_eq!(ledger.complaints(&tree(&[])), Vec::<String>::new());
    }

    #[test]
    fn what_nobody_touched_must_be_where_it_was() {
        let ledger = Ledger::of(&tree(&[("f", "0")]));
        assert_eq!(ledger.complaints(&tree(&[("g", "0")])).len(), 1);
    }
}
