//! All rows by id, with the indexes that make them three trees.
//!
//! Every node has a number, its slot, by which rows and indexes name it in four bytes. A slot is taken by
//! what has a row, by a folder in which some node is, and by what bears a mark; when none of it holds any
//! more the slot is free for another node. An id is turned into a slot where it comes in and back where it
//! goes out, so that no order depends on slots.

use crate::packed::{Numbers, PlaceRow, Row};
use crate::sorted::{At, Entry, Sorted};
use model::{ContentHash, NameKey, NodeId};
use std::cell::Cell;

/// Slots that are made at a time.
const SLOTS_PER_PAGE: u32 = 4096;
/// Ids whose slots are at hand: a node is mostly looked up dozens of times in a row.
const AT_HAND: usize = 1024;
/// The id of a slot that is free.
const NOBODY: NodeId = NodeId([0; 16]);

/// Something noted of a node. All nodes that bear a mark can be found in the order of their ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Its three trees do not agree.
    Dirty,
    /// It is to be looked at.
    Todo,
}

impl Mark {
    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The trees in which a child is, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Local = 1,
    Remote = 2,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Whole pages: to grow moves nothing.
    pages: Vec<Box<[Slot]>>,
    free: Vec<u32>,
    by_id: Sorted<Indexed>,
    children: Sorted<Child>,
    by_inode: Sorted<Inode>,
    by_content: Sorted<Holder>,
    /// Rows that are mounts of shared folders.
    mounts: usize,
    /// Devices by their number. There are few, and none is forgotten.
    devices: Vec<u64>,
    at_hand: AtHand,
}

/// The slots of ids that were looked up lately. A slot tells whether it is still that of the id.
#[derive(Debug)]
struct AtHand(Box<[Cell<u32>; AT_HAND]>);

impl Default for AtHand {
    fn default() -> Self {
        Self(Box::new([const { Cell::new(0) }; AT_HAND]))
    }
}

impl AtHand {
    /// Where an id's slot is noted. The ids of a run differ in these bytes, and so do those that were drawn.
    fn of(&self, id: NodeId) -> &Cell<u32> {
        &self.0[usize::from(u16::from_be_bytes([id.0[2], id.0[3]])) % AT_HAND]
    }
}

#[derive(Debug, Clone)]
struct Slot {
    id: NodeId,
    /// Empty when the node has no row.
    row: Box<[u8]>,
}

/// A slot under the first bytes of its id; where these are equal the ids decide.
#[derive(Debug, Clone, Copy)]
struct Indexed {
    prefix: u32,
    /// The slot, and below it a bit for each [`Mark`].
    slot_and_marks: u32,
}

/// A child under its folder and the digest of its name's key. Whoever looks a name up compares the name.
#[derive(Debug, Clone, Copy)]
struct Child {
    folder: u32,
    digest: u32,
    /// The child's slot, and below it a bit for each [`Side`].
    slot_and_sides: u32,
}

/// A slot under the digest of its device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Inode {
    digest: u32,
    slot: u32,
}

/// A slot under the first bytes of the content that its file has on disk; where these are equal the ids decide.
#[derive(Debug, Clone, Copy)]
struct Holder {
    digest: u32,
    slot: u32,
}

/// Bits below a slot's number: a file of more than a thousand million nodes is not to be expected.
const LOW_BITS: u32 = 2;

impl Entry for Indexed {
    fn bears(self, mark: usize) -> bool {
        self.slot_and_marks & (1 << mark) != 0
    }
}

impl Entry for Child {}

impl Entry for Inode {}

impl Entry for Holder {}

impl Indexed {
    const fn slot(self) -> u32 {
        self.slot_and_marks >> LOW_BITS
    }
}

impl Child {
    const fn slot(self) -> u32 {
        self.slot_and_sides >> LOW_BITS
    }

    const fn is_on(self, side: Side) -> bool {
        self.slot_and_sides & side as u32 != 0
    }

    const fn key(self) -> (u32, u32, u32) {
        (self.folder, self.digest, self.slot())
    }
}

impl Table {
    /// The node's row.
    pub(crate) fn get(&self, id: NodeId) -> Option<Row<'_>> {
        self.row_in(self.slot_of(id)?)
    }

    /// Whether any node is the mount of a shared folder.
    pub(crate) const fn has_mounts(&self) -> bool {
        self.mounts > 0
    }

    /// The folder in which the node is on disk.
    pub(crate) fn local_parent(&self, id: NodeId) -> Option<NodeId> {
        Row::local_parent(&self.slot(self.slot_of(id)?).row, self)
    }

    /// Whether the server has the node.
    pub(crate) fn has_remote(&self, id: NodeId) -> bool {
        self.slot_of(id).is_some_and(|slot| Row::has_remote(&self.slot(slot).row))
    }

    /// Whether the node is a file that only the disk has and that was not read yet.
    pub(crate) fn is_unread_new_file(&self, id: NodeId) -> bool {
        self.slot_of(id).is_some_and(|slot| Row::is_unread_new_file(&self.slot(slot).row))
    }

    /// Puts a row in place of what was there, an empty one for none, and shows what was there to `compare`.
    pub(crate) fn set(&mut self, id: NodeId, new: &Row<'_>, compare: impl FnOnce(&Row<'_>)) {
        let slot = self.take_slot(id);
        let before = std::mem::take(&mut self.slot_mut(slot).row);
        let old = if before.is_empty() { Row::default() } else { Row::unpack(&before, self) };
        compare(&old);
        let left = [
            self.move_child(slot, old.local_place(), new.local_place(), Side::Local),
            self.move_child(slot, old.remote_place(), new.remote_place(), Side::Remote),
        ];
        self.mounts = self.mounts + usize::from(new.is_mount()) - usize::from(old.is_mount());
        self.move_inode(slot, old.inode(), new.inode());
        self.move_holder(slot, old.local_hash(), new.local_hash());
        self.slot_mut(slot).row = if new.is_empty() { Box::default() } else { new.pack(self) };
        for folder in left.into_iter().flatten() {
            self.release(folder);
        }
        self.release(slot);
    }

    /// All rows, in the order of their ids.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (NodeId, Row<'_>)> {
        self.by_id.iter().filter_map(|entry| Some((self.slot(entry.slot()).id, self.row_in(entry.slot())?)))
    }

    /// The children of a folder in one tree, in an order that depends on names and ids alone.
    pub(crate) fn children(&self, folder: NodeId, side: Side) -> impl Iterator<Item = NodeId> + '_ {
        let children = self.slot_of(folder).into_iter().flat_map(move |folder| {
            let from = self.children.from(move |child| child.folder < folder);
            from.take_while(move |child| child.folder == folder)
        });
        self.in_order(children.filter(move |child| child.is_on(side))).map(|slot| self.slot(slot).id)
    }

    /// The child of a folder with this name in one tree; the first one, should there be more.
    pub(crate) fn child(&self, folder: NodeId, key: &NameKey, side: Side) -> Option<NodeId> {
        let sought = (self.slot_of(folder)?, short_digest(key));
        let from = self.children.from(|child| (child.folder, child.digest) < sought);
        let alike = from.take_while(|child| (child.folder, child.digest) == sought).filter(|child| child.is_on(side));
        let named = |slot: &u32| {
            let place = self.row_in(*slot).and_then(|row| match side {
                Side::Local => row.local_place(),
                Side::Remote => row.remote_place(),
            });
            place.is_some_and(|place| key.is_of(place.name))
        };
        self.in_order(alike).find(named).map(|slot| self.slot(slot).id)
    }

    /// The node that was last put with this inode.
    pub(crate) fn by_inode(&self, device: u64, inode: u64) -> Option<NodeId> {
        self.owner_of((device, inode)).map(|slot| self.slot(slot).id)
    }

    /// The first node whose file on disk has this content.
    pub(crate) fn by_content(&self, content: &ContentHash) -> Option<NodeId> {
        let digest = content_digest(content);
        let alike = self.by_content.from(|entry| entry.digest < digest).take_while(|entry| entry.digest == digest);
        let has = |slot: &u32| self.row_in(*slot).and_then(|row| row.local_hash()).as_ref() == Some(content);
        alike.map(|entry| entry.slot).find(has).map(|slot| self.slot(slot).id)
    }

    pub(crate) fn set_mark(&mut self, id: NodeId, mark: Mark) {
        self.set_marks(id, |marks| marks | mark.bit());
    }

    /// The node is to be looked at, since something about it changed, and it is dirty or not.
    pub(crate) fn mark_changed(&mut self, id: NodeId, dirty: bool) {
        let dirty = if dirty { Mark::Dirty.bit() } else { 0 };
        self.set_marks(id, |marks| marks & !Mark::Dirty.bit() | dirty | Mark::Todo.bit());
    }

    /// Changes the marks to some that are not none.
    fn set_marks(&mut self, id: NodeId, change: impl Fn(u32) -> u32) {
        if self.change_marks(id, &change).is_none() {
            self.take_slot(id);
            self.change_marks(id, &change);
        }
    }

    pub(crate) fn clear_mark(&mut self, id: NodeId, mark: Mark) {
        if let Some(slot) = self.change_marks(id, |marks| marks & !mark.bit()) {
            self.release(slot);
        }
    }

    pub(crate) fn has_mark(&self, id: NodeId, mark: Mark) -> bool {
        self.place_of(id).is_ok_and(|(_, entry)| entry.bears(mark as usize))
    }

    pub(crate) const fn count_marked(&self, mark: Mark) -> usize {
        self.by_id.count(mark as usize)
    }

    /// The nodes that bear the mark, in the order of their ids.
    pub(crate) fn marked(&self, mark: Mark) -> impl Iterator<Item = NodeId> + '_ {
        self.by_id.marked(mark as usize).map(|entry| self.slot(entry.slot()).id)
    }

    /// Takes the mark off the first node that bears it.
    pub(crate) fn pop_marked(&mut self, mark: Mark) -> Option<NodeId> {
        let (at, entry) = self.by_id.first_marked(mark as usize)?;
        let id = self.slot(entry.slot()).id;
        self.by_id.replace(at, Indexed { slot_and_marks: entry.slot_and_marks & !mark.bit(), ..entry });
        self.release(entry.slot());
        Some(id)
    }

    /// Gives every dirty node to be looked at.
    pub(crate) fn mark_dirty_as_todo(&mut self) {
        self.by_id.change_marked(Mark::Dirty as usize, |entry| Indexed {
            slot_and_marks: entry.slot_and_marks | Mark::Todo.bit(),
            ..entry
        });
    }

    /// The bytes that each part takes.
    pub(crate) fn footprint(&self) -> [(&'static str, usize); 6] {
        let slots = self.pages.len() * SLOTS_PER_PAGE as usize;
        let rows = self.pages.iter().flat_map(|page| page.iter()).map(|slot| slot.row.len()).sum();
        [
            ("rows", rows),
            ("slots", slots * size_of::<Slot>() + self.free.capacity() * size_of::<u32>()),
            ("index by id", self.by_id.footprint()),
            ("index by folder and name", self.children.footprint()),
            ("index by inode", self.by_inode.footprint()),
            ("index by content", self.by_content.footprint()),
        ]
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.pages[(slot / SLOTS_PER_PAGE) as usize][(slot % SLOTS_PER_PAGE) as usize]
    }

    fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.pages[(slot / SLOTS_PER_PAGE) as usize][(slot % SLOTS_PER_PAGE) as usize]
    }

    fn row_in(&self, slot: u32) -> Option<Row<'_>> {
        let row = &self.slot(slot).row;
        (!row.is_empty()).then(|| Row::unpack(row, self))
    }

    fn place_of(&self, id: NodeId) -> Result<(At, Indexed), At> {
        let prefix = prefix(id);
        // Ids are random: nearly always the first entry with the prefix is the one, and no id is compared on
        // the way.
        let first = self.by_id.first(|entry| entry.prefix < prefix);
        let found = match self.by_id.get(first).filter(|entry| entry.prefix == prefix) {
            Some(entry) if self.slot(entry.slot()).id < id => {
                self.by_id.find(|entry| entry.prefix.cmp(&prefix).then_with(|| self.slot(entry.slot()).id.cmp(&id)))?
            }
            _ => first,
        };
        let entry = self.by_id.get(found).filter(|entry| self.slot(entry.slot()).id == id);
        entry.map(|entry| (found, entry)).ok_or(found)
    }

    fn slot_of(&self, id: NodeId) -> Option<u32> {
        let noted = self.at_hand.of(id);
        let slot = noted.get();
        if id != NOBODY && self.pages.get((slot / SLOTS_PER_PAGE) as usize).is_some() && self.slot(slot).id == id {
            return Some(slot);
        }
        let slot = self.place_of(id).ok()?.1.slot();
        noted.set(slot);
        Some(slot)
    }

    /// The node's slot, which it gets if it has none.
    fn take_slot(&mut self, id: NodeId) -> u32 {
        if let Some(slot) = self.slot_of(id) {
            return slot;
        }
        let (Ok((at, _)) | Err(at)) = self.place_of(id);
        if self.free.is_empty() {
            self.add_page();
        }
        let slot = self.free.pop().unwrap_or_default();
        self.slot_mut(slot).id = id;
        self.by_id.insert(at, Indexed { prefix: prefix(id), slot_and_marks: slot << LOW_BITS });
        slot
    }

    fn add_page(&mut self) {
        let first = u32::try_from(self.pages.len()).unwrap_or(u32::MAX).saturating_mul(SLOTS_PER_PAGE);
        assert!(first < u32::MAX >> LOW_BITS, "there are numbers for a thousand million nodes");
        let page = vec![Slot { id: NOBODY, row: Box::default() }; SLOTS_PER_PAGE as usize];
        self.pages.push(page.into_boxed_slice());
        self.free.extend((first..first + SLOTS_PER_PAGE).rev());
    }

    /// Frees the slot if nothing needs it any more.
    fn release(&mut self, slot: u32) {
        if !self.slot(slot).row.is_empty() {
            return;
        }
        let Ok((at, entry)) = self.place_of(self.slot(slot).id) else { return };
        let is_needed = entry.slot_and_marks != slot << LOW_BITS
            || self.children.from(|child| child.folder < slot).next().is_some_and(|child| child.folder == slot);
        if !is_needed {
            self.by_id.remove(at);
            self.slot_mut(slot).id = NOBODY;
            self.free.push(slot);
        }
    }

    fn change_marks(&mut self, id: NodeId, change: impl FnOnce(u32) -> u32) -> Option<u32> {
        let (at, entry) = self.place_of(id).ok()?;
        let changed = change(entry.slot_and_marks);
        if changed != entry.slot_and_marks {
            self.by_id.replace(at, Indexed { slot_and_marks: changed, ..entry });
        }
        Some(entry.slot())
    }

    /// Files a child under its new place. Returns the folder that it left.
    fn move_child(
        &mut self,
        slot: u32,
        from: Option<PlaceRow<'_>>,
        to: Option<PlaceRow<'_>>,
        side: Side,
    ) -> Option<u32> {
        if from == to {
            return None;
        }
        let left = from.and_then(|place| {
            let folder = self.slot_of(place.parent)?;
            self.change_sides((folder, short_digest(&NameKey::of(place.name)), slot), |sides| sides & !(side as u32));
            Some(folder)
        });
        if let Some(place) = to {
            let folder = self.take_slot(place.parent);
            self.change_sides((folder, short_digest(&NameKey::of(place.name)), slot), |sides| sides | side as u32);
        }
        left
    }

    fn change_sides(&mut self, key: (u32, u32, u32), change: impl FnOnce(u32) -> u32) {
        let (folder, digest, slot) = key;
        let found = self.children.find(|child| child.key().cmp(&key));
        let there = found.ok().and_then(|at| self.children.get(at));
        let sides = there.map_or(0, |child| child.slot_and_sides & ((1 << LOW_BITS) - 1));
        let child = Child { folder, digest, slot_and_sides: slot << LOW_BITS | change(sides) };
        match found {
            Ok(at) if child.slot_and_sides == slot << LOW_BITS => self.children.remove(at),
            Ok(at) => self.children.replace(at, child),
            Err(at) => self.children.insert(at, child),
        }
    }

    /// Children in the order of their names' digests and, where these are equal, of their ids.
    fn in_order<'t>(&'t self, children: impl Iterator<Item = Child> + 't) -> impl Iterator<Item = u32> + 't {
        let mut children = children.peekable();
        let mut alike = Vec::new();
        std::iter::from_fn(move || {
            if alike.is_empty() {
                let first = children.next()?;
                alike.push(first.slot());
                while let Some(next) = children.next_if(|child| child.digest == first.digest) {
                    alike.push(next.slot());
                }
                alike.sort_unstable_by_key(|slot| std::cmp::Reverse(self.slot(*slot).id));
            }
            alike.pop()
        })
    }

    fn owner_of(&self, inode: (u64, u64)) -> Option<u32> {
        let digest = inode_digest(inode);
        let alike = self.by_inode.from(|entry| entry.digest < digest).take_while(|entry| entry.digest == digest);
        alike.map(|entry| entry.slot).find(|slot| self.row_in(*slot).and_then(|row| row.inode()) == Some(inode))
    }

    /// Files a slot, whose row is being changed, under its new inode. Whoever had that before loses it: of
    /// two names of one file the last one seen counts. A row that changes otherwise was not seen with it
    /// again: its file may be gone, and the inode be another's.
    fn move_inode(&mut self, slot: u32, from: Option<(u64, u64)>, to: Option<(u64, u64)>) {
        if from == to && to.is_some_and(|inode| self.owner_of(inode).is_some()) {
            return;
        }
        if let Some(from) = from {
            let own = Inode { digest: inode_digest(from), slot };
            if let Ok(at) = self.by_inode.find(|entry| entry.cmp(&own)) {
                self.by_inode.remove(at);
            }
        }
        let Some(to) = to else { return };
        if !self.devices.contains(&to.0) {
            self.devices.push(to.0);
        }
        let digest = inode_digest(to);
        if let Some(other) = self.owner_of(to)
            && let Ok(at) = self.by_inode.find(|entry| entry.cmp(&Inode { digest, slot: other }))
        {
            self.by_inode.remove(at);
        }
        let own = Inode { digest, slot };
        if let Err(at) = self.by_inode.find(|entry| entry.cmp(&own)) {
            self.by_inode.insert(at, own);
        }
    }

    /// Files a slot, whose row is being changed, under its new content.
    fn move_holder(&mut self, slot: u32, from: Option<ContentHash>, to: Option<ContentHash>) {
        if from == to {
            return;
        }
        if let Some(Ok(at)) = from.map(|from| self.place_of_holder(slot, &from)) {
            self.by_content.remove(at);
        }
        if let Some(to) = to
            && let Err(at) = self.place_of_holder(slot, &to)
        {
            self.by_content.insert(at, Holder { digest: content_digest(&to), slot });
        }
    }

    fn place_of_holder(&self, slot: u32, content: &ContentHash) -> Result<At, At> {
        let (digest, id) = (content_digest(content), self.slot(slot).id);
        let by_id = |entry: &Holder| self.slot(entry.slot).id.cmp(&id);
        self.by_content.find(|entry| entry.digest.cmp(&digest).then_with(|| by_id(entry)))
    }
}

impl Numbers for Table {
    fn of_folder(&self, folder: NodeId) -> u32 {
        self.slot_of(folder).unwrap_or_default()
    }

    fn folder(&self, number: u32) -> NodeId {
        self.slot(number).id
    }

    fn of_device(&self, device: u64) -> u32 {
        let number = self.devices.iter().position(|known| *known == device);
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
    }

    fn device(&self, number: u32) -> u64 {
        self.devices[number as usize]
    }
}

/// The first bytes of an id.
fn prefix(id: NodeId) -> u32 {
    u32::from_be_bytes([id.0[0], id.0[1], id.0[2], id.0[3]])
}

fn content_digest(content: &ContentHash) -> u32 {
    u32::from_be_bytes([content.0[0], content.0[1], content.0[2], content.0[3]])
}

fn short_digest(key: &NameKey) -> u32 {
    upper_half(key.digest())
}

/// Inodes often follow one another, and so would their upper halves.
fn inode_digest((device, inode): (u64, u64)) -> u32 {
    upper_half((inode ^ device.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn upper_half(number: u64) -> u32 {
    u32::try_from(number >> 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::Fingerprint;
    use crate::tree::{Content, FileContent, Local, NodeRow, Place, Remote, Seen, Synced};
    use model::{Mtime, Name, Position};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Ids that often begin alike, and names that often share their key.
    fn id(number: u8) -> NodeId {
        let mut bytes = [0; 16];
        bytes[usize::from(number % 2) * 15] = number;
        NodeId(bytes)
    }

    fn place() -> impl Strategy<Value = Place> {
        (0_u8..12, prop_oneof![Just("a"), Just("A"), Just("b"), Just("é"), Just("É")])
            .prop_map(|(parent, name)| Place { parent: id(parent), name: Name::parse(name).expect("a name") })
    }

    /// Contents of which two begin alike.
    fn hash(number: u8) -> ContentHash {
        let mut bytes = [7; 32];
        bytes[usize::from(number / 2) * 31] = number;
        ContentHash(bytes)
    }

    fn seen() -> impl Strategy<Value = Seen> {
        let file = |number| FileContent { hash: hash(number), size: 9, executable: false, mtime: Mtime(0) };
        prop_oneof![
            Just(Seen::Directory),
            Just(Seen::File(None)),
            (0_u8..4).prop_map(move |number| Seen::File(Some(file(number)))),
        ]
    }

    fn content() -> impl Strategy<Value = Content> {
        prop_oneof![9 => Just(Content::Directory), 1 => Just(Content::Mount)]
    }

    prop_compose! {
        fn row()(
            local in prop::option::of((place(), 0_u64..6, seen())),
            synced in prop::option::of((place(), content())),
            remote in prop::option::of((place(), content())),
        ) -> NodeRow {
            NodeRow {
                local: local.map(|(place, inode, seen)| Local {
                    place,
                    seen,
                    print: Fingerprint { device: inode % 2, inode, ..Fingerprint::UNKNOWN },
                    disk_name: None,
                }),
                synced: synced.map(|(place, content)| Synced { place, content }),
                remote: remote.map(|(place, content)| Remote {
                    place,
                    content,
                    content_rev: Position(1),
                    location_rev: Position(1),
                }),
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u8, Box<NodeRow>),
        Mark(u8),
        Unmark(u8),
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0_u8..24, row()).prop_map(|(number, row)| Step::Set(number, Box::new(row))),
            1 => (0_u8..24).prop_map(Step::Mark),
            1 => (0_u8..24).prop_map(Step::Unmark),
            1 => Just(Step::Pop),
        ]
    }

    /// What the table should be.
    #[derive(Default)]
    struct Plain {
        rows: BTreeMap<NodeId, NodeRow>,
        inodes: BTreeMap<(u64, u64), NodeId>,
        todo: BTreeSet<NodeId>,
    }

    impl Plain {
        fn set(&mut self, id: NodeId, row: NodeRow) {
            let inode = |row: &NodeRow| row.local.as_ref().map(|local| (local.print.device, local.print.inode));
            let before = self.rows.get(&id).and_then(inode);
            let is_anothers = before == inode(&row) && before.is_some_and(|inode| self.inodes.contains_key(&inode));
            if !is_anothers {
                self.inodes.retain(|_, owner| *owner != id);
                self.inodes.extend(inode(&row).map(|inode| (inode, id)));
            }
            self.rows.insert(id, row);
            self.rows.retain(|_, row| *row != NodeRow::default());
        }

        fn children(&self, folder: NodeId, side: Side) -> BTreeMap<NodeId, &Place> {
            let places = self.rows.iter().filter_map(|(id, row)| match side {
                Side::Local => row.local.as_ref().map(|local| (*id, &local.place)),
                Side::Remote => row.remote.as_ref().map(|remote| (*id, &remote.place)),
            });
            places.filter(|(_, place)| place.parent == folder).collect()
        }
    }

    fn check(table: &Table, plain: &Plain) {
        let rows: BTreeMap<NodeId, NodeRow> = table.rows().map(|(id, row)| (id, row.to_row())).collect();
        assert_eq!(rows, plain.rows);
        let is_mount = |row: &NodeRow| match (&row.remote, &row.synced) {
            (Some(remote), _) => remote.content == Content::Mount,
            (None, Some(synced)) => synced.content == Content::Mount,
            (None, None) => false,
        };
        assert_eq!(table.has_mounts(), plain.rows.values().any(is_mount));
        assert!(table.rows().map(|(id, _)| id).is_sorted(), "in the order of their ids");
        assert!(table.marked(Mark::Todo).eq(plain.todo.iter().copied()));
        for (device, inode) in (0..6).map(|inode| (inode % 2, inode)) {
            assert_eq!(table.by_inode(device, inode), plain.inodes.get(&(device, inode)).copied());
        }
        for content in (0..4).map(hash) {
            let has = |row: &NodeRow| match row.local.as_ref().map(|local| &local.seen) {
                Some(Seen::File(Some(file))) => file.hash == content,
                _ => false,
            };
            let first = plain.rows.iter().find(|(_, row)| has(row)).map(|(id, _)| *id);
            assert_eq!(table.by_content(&content), first);
        }
        for (folder, side) in (0..24).flat_map(|number| [(id(number), Side::Local), (id(number), Side::Remote)]) {
            let children = plain.children(folder, side);
            let listed: Vec<NodeId> = table.children(folder, side).collect();
            let digest = |id: &NodeId| (short_digest(&children[id].name.key()), *id);
            assert!(listed.iter().map(digest).is_sorted(), "in the order of digests and ids");
            assert_eq!(listed.iter().copied().collect::<BTreeSet<_>>(), children.keys().copied().collect());
            assert_eq!(listed.len(), children.len(), "nobody twice");
            for key in ["a", "b", "é"].map(NameKey::of) {
                let first = children.iter().find(|(_, place)| place.name.key() == key).map(|(id, _)| *id);
                assert_eq!(table.child(folder, &key, side), first);
            }
        }
    }

    proptest! {
        #[test]
        fn the_table_is_what_plain_maps_would_be(steps in prop::collection::vec(step(), 0..60)) {
            let (mut table, mut plain) = (Table::default(), Plain::default());
            for step in steps {
                match step {
                    Step::Set(number, row) => {
                        table.set(id(number), &Row::of(&row), |_| {});
                        plain.set(id(number), *row);
                    }
                    Step::Mark(number) => {
                        table.set_mark(id(number), Mark::Todo);
                        plain.todo.insert(id(number));
                    }
                    Step::Unmark(number) => {
                        table.clear_mark(id(number), Mark::Todo);
                        plain.todo.remove(&id(number));
                    }
                    Step::Pop => assert_eq!(table.pop_marked(Mark::Todo), plain.todo.pop_first()),
                }
            }
            check(&table, &plain);
            for id in plain.rows.keys() {
                table.set(*id, &Row::default(), |_| {});
            }
            for id in plain.todo {
                table.clear_mark(id, Mark::Todo);
            }
            prop_assert_eq!(table.by_id.iter().count(), 0, "a slot that nothing needs is free");
            prop_assert_eq!(table.free.len(), table.pages.len() * SLOTS_PER_PAGE as usize);
        }
    }

    #[test]
    fn every_dirty_node_can_be_looked_at_again() {
        let mut table = Table::default();
        for number in [1, 2, 3, 5] {
            table.set_mark(id(number), Mark::Dirty);
        }
        table.set_mark(id(2), Mark::Todo);
        table.set_mark(id(4), Mark::Todo);
        table.mark_dirty_as_todo();
        let mut all: Vec<NodeId> = [1, 2, 3, 4, 5].map(id).into();
        all.sort();
        assert!(std::iter::from_fn(|| table.pop_marked(Mark::Todo)).eq(all));
        assert_eq!(table.count_marked(Mark::Dirty), 4);
    }
}
