//! Rows as memory keeps them: a few dozen bytes each.
//!
//! Nearly all nodes are in sync, and three trees that agree say the same three times; what is on disk says
//! twice what the file's content says. What a row has said already, it only points to. Devices and folders
//! are numbers of the [`Table`](crate::table::Table). A million files fit into memory that way.
//!
//! ```text
//! head     3 bytes: which trees have the node, and what is the same as what was said before
//! local    folder   name   [name on disk]   device   inode   change time   [birth]   mtime   size   seen
//! synced   [folder or id   name]   [content]
//! remote   [folder   name]   [content]   content revision   [location revision]
//! ```
//!
//! Numbers have seven bits in a byte. Zeros fill a row up. Nothing of this outlives the process.

use crate::io::Fingerprint;
use crate::tree::{Content, FileContent, Local, NodeRow, Place, Remote, Seen, Synced};
use model::{ContentHash, Mtime, Name, NodeId, Position};

/// Rows have lengths of so many bytes: one that came into sync, which takes a few bytes more, then fits where
/// another one was. Otherwise the rows of a first sync would leave holes that nothing fits into.
const STEP: usize = 32;

/// What the head's bytes say.
mod head {
    /// In the first byte: the trees.
    pub(super) const LOCAL: u8 = 1;
    pub(super) const SYNCED: u8 = 1 << 1;
    pub(super) const REMOTE: u8 = 1 << 2;
    /// The synced place is the local one.
    pub(super) const SYNCED_PLACE_AS_LOCAL: u8 = 1 << 3;
    pub(super) const REMOTE_PLACE_AS_LOCAL: u8 = 1 << 4;
    pub(super) const REMOTE_PLACE_AS_SYNCED: u8 = 1 << 5;
    /// The disk spells the name in another way.
    pub(super) const DISK_NAME: u8 = 1 << 6;

    /// In the second byte, two bits: what was seen on disk.
    pub(super) const SEEN: u8 = 3;
    pub(super) const SEEN_DIRECTORY: u8 = 0;
    pub(super) const SEEN_UNREAD_FILE: u8 = 1;
    pub(super) const SEEN_FILE: u8 = 2;
    pub(super) const SEEN_SYMLINK: u8 = 3;
    /// The synced content is the one that was seen.
    pub(super) const SYNCED_CONTENT_AS_SEEN: u8 = 1 << 2;
    pub(super) const REMOTE_CONTENT_AS_SEEN: u8 = 1 << 3;
    pub(super) const REMOTE_CONTENT_AS_SYNCED: u8 = 1 << 4;
    /// The location has the revision of the content.
    pub(super) const ONE_REVISION: u8 = 1 << 5;
    pub(super) const BIRTH: u8 = 1 << 6;
    /// The file on disk is executable.
    pub(super) const EXECUTABLE: u8 = 1 << 7;

    /// In the third byte: size, time and execute bit of the seen content are those of the file on disk.
    pub(super) const CONTENT_AS_PRINT: u8 = 1;
}

/// Bytes before a content: what it is, and the execute bit of a file.
mod tag {
    pub(super) const DIRECTORY: u8 = 0;
    pub(super) const MOUNT: u8 = 1;
    pub(super) const FILE: u8 = 2;
    pub(super) const EXECUTABLE_FILE: u8 = 3;
    pub(super) const SYMLINK: u8 = 4;
}

/// The numbers that stand for folders and devices in rows.
pub(crate) trait Numbers {
    /// Of a folder in which some node is, locally or on the server.
    fn of_folder(&self, folder: NodeId) -> u32;
    fn folder(&self, number: u32) -> NodeId;
    fn of_device(&self, device: u64) -> u32;
    fn device(&self, number: u32) -> u64;
}

/// A row that is read where it lies: what is not asked for is not copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Row<'a> {
    pub(crate) local: Option<LocalRow<'a>>,
    pub(crate) synced: Option<SyncedRow<'a>>,
    pub(crate) remote: Option<RemoteRow<'a>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PlaceRow<'a> {
    pub(crate) parent: NodeId,
    pub(crate) name: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ContentRow<'a> {
    Directory,
    Mount,
    File(FileContent),
    Symlink(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SeenRow<'a> {
    Directory,
    UnreadFile,
    File(FileContent),
    Symlink(&'a str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LocalRow<'a> {
    pub(crate) place: PlaceRow<'a>,
    seen: SeenRow<'a>,
    pub(crate) print: Fingerprint,
    disk_name: Option<&'a [u8]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyncedRow<'a> {
    place: PlaceRow<'a>,
    pub(crate) content: ContentRow<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RemoteRow<'a> {
    pub(crate) place: PlaceRow<'a>,
    pub(crate) content: ContentRow<'a>,
    content_rev: Position,
    location_rev: Position,
}

impl<'a> Row<'a> {
    /// The folder on disk in a packed row, without a look at the rest.
    pub(crate) fn local_parent(bytes: &[u8], numbers: &dyn Numbers) -> Option<NodeId> {
        let (head, rest) = bytes.split_at_checked(3)?;
        let mut reader = Unpacker { head: [head[0], head[1], head[2]], bytes: rest, numbers };
        reader.has(0, head::LOCAL).then(|| reader.folder())
    }

    /// Whether the server has the node of a packed row.
    pub(crate) fn has_remote(bytes: &[u8]) -> bool {
        bytes.first().is_some_and(|head| head & head::REMOTE != 0)
    }

    /// Whether a packed row tells of a file that only the disk has and that was not read yet.
    pub(crate) fn is_unread_new_file(bytes: &[u8]) -> bool {
        let [trees, seen, ..] = bytes else { return false };
        let all = head::LOCAL | head::SYNCED | head::REMOTE;
        trees & all == head::LOCAL && seen & head::SEEN == head::SEEN_UNREAD_FILE
    }

    /// The view of a row that is not packed.
    pub(crate) fn of(row: &'a NodeRow) -> Self {
        Self {
            local: row.local.as_ref().map(|local| LocalRow {
                place: PlaceRow::of(&local.place),
                seen: SeenRow::of(&local.seen),
                print: local.print,
                disk_name: local.disk_name.as_deref(),
            }),
            synced: row.synced.as_ref().map(|synced| SyncedRow {
                place: PlaceRow::of(&synced.place),
                content: ContentRow::of(&synced.content),
            }),
            remote: row.remote.as_ref().map(|remote| RemoteRow {
                place: PlaceRow::of(&remote.place),
                content: ContentRow::of(&remote.content),
                content_rev: remote.content_rev,
                location_rev: remote.location_rev,
            }),
        }
    }

    pub(crate) fn to_row(self) -> NodeRow {
        // One name for all three trees, where it is the same.
        let local = self.local.map(LocalRow::to_local);
        let synced = self.synced.map(|synced| synced.to_synced(local.as_ref().map(|local| &local.place)));
        let known = local.as_ref().map(|local| &local.place).or(synced.as_ref().map(|synced| &synced.place));
        let remote = self.remote.map(|remote| remote.to_remote(known));
        NodeRow { local, synced, remote }
    }

    /// Whether no tree has the node.
    pub(crate) const fn is_empty(&self) -> bool {
        self.local.is_none() && self.synced.is_none() && self.remote.is_none()
    }

    /// Whether the three trees agree on the node.
    pub(crate) fn agrees(&self) -> bool {
        match (&self.local, &self.synced, &self.remote) {
            (Some(local), Some(synced), Some(remote)) => {
                local.place == synced.place
                    && synced.place == remote.place
                    && synced.content == remote.content
                    && local.seen == SeenRow::on_disk(remote.content)
            }
            _ => false,
        }
    }

    pub(crate) fn local_place(&self) -> Option<PlaceRow<'a>> {
        self.local.map(|local| local.place)
    }

    pub(crate) fn remote_place(&self) -> Option<PlaceRow<'a>> {
        self.remote.map(|remote| remote.place)
    }

    /// Device and inode.
    pub(crate) fn inode(&self) -> Option<(u64, u64)> {
        self.local.map(|local| (local.print.device, local.print.inode))
    }

    /// The content of the file on disk, if it is known.
    pub(crate) fn local_hash(&self) -> Option<ContentHash> {
        match self.local?.seen {
            SeenRow::File(file) => Some(file.hash),
            SeenRow::Directory | SeenRow::UnreadFile | SeenRow::Symlink(_) => None,
        }
    }

    /// Whether only the server has it.
    pub(crate) const fn is_remote_only(&self) -> bool {
        self.local.is_none() && self.synced.is_none() && self.remote.is_some()
    }

    pub(crate) fn is_synced_file(&self) -> bool {
        self.synced.is_some_and(|synced| matches!(synced.content, ContentRow::File(_)))
    }

    pub(crate) fn is_locally_deleted_file(&self) -> bool {
        self.is_synced_file() && self.local.is_none() && self.remote.is_some()
    }

    /// Whether it is the mount of a shared folder, or was until the server withdrew it.
    pub(crate) fn is_mount(&self) -> bool {
        self.remote_or_synced_content() == Some(ContentRow::Mount)
    }

    /// What the server has, or had when it was last in sync.
    pub(crate) fn remote_or_synced_content(&self) -> Option<ContentRow<'a>> {
        self.remote.map(|remote| remote.content).or(self.synced.map(|synced| synced.content))
    }

    /// The row in bytes. The folders of its places have numbers already, but for the synced one.
    pub(crate) fn pack(&self, numbers: &dyn Numbers) -> Box<[u8]> {
        let mut packer = Packer { head: [0; 3], bytes: vec![0; 3], numbers };
        if let Some(local) = &self.local {
            packer.local(local);
        }
        if let Some(synced) = &self.synced {
            packer.synced(synced, self);
        }
        if let Some(remote) = &self.remote {
            packer.remote(remote, self);
        }
        let Packer { head, mut bytes, .. } = packer;
        bytes[..3].copy_from_slice(&head);
        bytes.resize(bytes.len().next_multiple_of(STEP), 0);
        bytes.into_boxed_slice()
    }

    /// The row that [`Self::pack`] made these bytes of.
    pub(crate) fn unpack(bytes: &'a [u8], numbers: &dyn Numbers) -> Self {
        let (head, rest) = bytes.split_at(3);
        let mut reader = Unpacker { head: [head[0], head[1], head[2]], bytes: rest, numbers };
        let local = reader.has(0, head::LOCAL).then(|| reader.local());
        let synced = reader.has(0, head::SYNCED).then(|| reader.synced(local.as_ref()));
        let remote = reader.has(0, head::REMOTE).then(|| reader.remote(local.as_ref(), synced.as_ref()));
        debug_assert!(reader.bytes.len() < STEP, "a row ends where its bytes end");
        Self { local, synced, remote }
    }
}

impl<'a> PlaceRow<'a> {
    fn of(place: &'a Place) -> Self {
        Self { parent: place.parent, name: place.name.as_str() }
    }

    fn to_place(self, known: Option<&Place>) -> Place {
        match known {
            Some(known) if known.parent == self.parent && known.name.as_str() == self.name => known.clone(),
            _ => Place { parent: self.parent, name: Name::of_checked(self.name) },
        }
    }
}

impl<'a> ContentRow<'a> {
    fn of(content: &'a Content) -> Self {
        match content {
            Content::Directory => Self::Directory,
            Content::Mount => Self::Mount,
            Content::File(file) => Self::File(*file),
            Content::Symlink(target) => Self::Symlink(target),
        }
    }

    fn to_content(self) -> Content {
        match self {
            Self::Directory => Content::Directory,
            Self::Mount => Content::Mount,
            Self::File(file) => Content::File(file),
            Self::Symlink(target) => Content::Symlink(target.into()),
        }
    }
}

impl<'a> SeenRow<'a> {
    fn of(seen: &'a Seen) -> Self {
        match seen {
            Seen::Directory => Self::Directory,
            Seen::File(None) => Self::UnreadFile,
            Seen::File(Some(file)) => Self::File(*file),
            Seen::Symlink(target) => Self::Symlink(target),
        }
    }

    /// What the disk shows when it holds this.
    const fn on_disk(content: ContentRow<'a>) -> Self {
        match content {
            ContentRow::Directory | ContentRow::Mount => Self::Directory,
            ContentRow::File(file) => Self::File(file),
            ContentRow::Symlink(target) => Self::Symlink(target),
        }
    }

    /// `None` for a file that must be read first.
    const fn content(self) -> Option<ContentRow<'a>> {
        match self {
            Self::Directory => Some(ContentRow::Directory),
            Self::UnreadFile => None,
            Self::File(file) => Some(ContentRow::File(file)),
            Self::Symlink(target) => Some(ContentRow::Symlink(target)),
        }
    }
}

impl LocalRow<'_> {
    pub(crate) fn to_local(self) -> Local {
        let seen = match self.seen {
            SeenRow::Directory => Seen::Directory,
            SeenRow::UnreadFile => Seen::File(None),
            SeenRow::File(file) => Seen::File(Some(file)),
            SeenRow::Symlink(target) => Seen::Symlink(target.into()),
        };
        let disk_name = self.disk_name.map(Box::from);
        Local { place: self.place.to_place(None), seen, print: self.print, disk_name }
    }
}

impl<'a> LocalRow<'a> {
    /// The name as the disk spells it.
    pub(crate) fn disk_name(&self) -> &'a [u8] {
        self.disk_name.unwrap_or(self.place.name.as_bytes())
    }
}

impl SyncedRow<'_> {
    pub(crate) fn to_synced(self, known: Option<&Place>) -> Synced {
        Synced { place: self.place.to_place(known), content: self.content.to_content() }
    }
}

impl RemoteRow<'_> {
    pub(crate) fn to_remote(self, known: Option<&Place>) -> Remote {
        Remote {
            place: self.place.to_place(known),
            content: self.content.to_content(),
            content_rev: self.content_rev,
            location_rev: self.location_rev,
        }
    }
}

/// Writes one row.
struct Packer<'n> {
    head: [u8; 3],
    bytes: Vec<u8>,
    numbers: &'n dyn Numbers,
}

impl Packer<'_> {
    fn local(&mut self, local: &LocalRow<'_>) {
        self.head[0] |= head::LOCAL;
        self.place(&local.place);
        if let Some(disk_name) = local.disk_name {
            self.head[0] |= head::DISK_NAME;
            self.text(disk_name);
        }
        self.print(&local.print);
        self.head[1] |= match local.seen {
            SeenRow::Directory => head::SEEN_DIRECTORY,
            SeenRow::UnreadFile => head::SEEN_UNREAD_FILE,
            SeenRow::File(file) => {
                self.bytes.extend_from_slice(&file.hash.0);
                let print = (local.print.size, local.print.mtime, local.print.executable);
                if (file.size, file.mtime, file.executable) == print {
                    self.head[2] |= head::CONTENT_AS_PRINT;
                } else {
                    self.bytes.push(file.executable.into());
                    self.number(file.size);
                    self.time(file.mtime.0);
                }
                head::SEEN_FILE
            }
            SeenRow::Symlink(target) => {
                self.text(target.as_bytes());
                head::SEEN_SYMLINK
            }
        };
    }

    fn print(&mut self, print: &Fingerprint) {
        self.number(self.numbers.of_device(print.device).into());
        self.number(print.inode);
        self.time(print.ctime);
        if let Some(birth) = print.birth {
            self.head[1] |= head::BIRTH;
            self.distance(print.ctime, birth);
        }
        self.distance(print.ctime, print.mtime.0);
        self.number(print.size);
        if print.executable {
            self.head[1] |= head::EXECUTABLE;
        }
    }

    fn synced(&mut self, synced: &SyncedRow<'_>, row: &Row<'_>) {
        self.head[0] |= head::SYNCED;
        if row.local.is_some_and(|local| local.place == synced.place) {
            self.head[0] |= head::SYNCED_PLACE_AS_LOCAL;
        } else if row.remote.is_some_and(|remote| remote.place == synced.place) {
            self.place(&synced.place);
        } else {
            // Nobody is in that folder because of this: it may have no number.
            self.bytes.extend_from_slice(synced.place.parent.as_bytes());
            self.text(synced.place.name.as_bytes());
        }
        if row.local.and_then(|local| local.seen.content()) == Some(synced.content) {
            self.head[1] |= head::SYNCED_CONTENT_AS_SEEN;
        } else {
            self.content(&synced.content);
        }
    }

    fn remote(&mut self, remote: &RemoteRow<'_>, row: &Row<'_>) {
        self.head[0] |= head::REMOTE;
        if row.local.is_some_and(|local| local.place == remote.place) {
            self.head[0] |= head::REMOTE_PLACE_AS_LOCAL;
        } else if row.synced.is_some_and(|synced| synced.place == remote.place) {
            self.head[0] |= head::REMOTE_PLACE_AS_SYNCED;
        } else {
            self.place(&remote.place);
        }
        if row.local.and_then(|local| local.seen.content()) == Some(remote.content) {
            self.head[1] |= head::REMOTE_CONTENT_AS_SEEN;
        } else if row.synced.is_some_and(|synced| synced.content == remote.content) {
            self.head[1] |= head::REMOTE_CONTENT_AS_SYNCED;
        } else {
            self.content(&remote.content);
        }
        self.number(remote.content_rev.0);
        if remote.location_rev == remote.content_rev {
            self.head[1] |= head::ONE_REVISION;
        } else {
            self.number(remote.location_rev.0);
        }
    }

    fn place(&mut self, place: &PlaceRow<'_>) {
        self.number(self.numbers.of_folder(place.parent).into());
        self.text(place.name.as_bytes());
    }

    fn content(&mut self, content: &ContentRow<'_>) {
        match content {
            ContentRow::Directory => self.bytes.push(tag::DIRECTORY),
            ContentRow::Mount => self.bytes.push(tag::MOUNT),
            ContentRow::File(file) => {
                self.bytes.push(if file.executable { tag::EXECUTABLE_FILE } else { tag::FILE });
                self.bytes.extend_from_slice(&file.hash.0);
                self.number(file.size);
                self.time(file.mtime.0);
            }
            ContentRow::Symlink(target) => {
                self.bytes.push(tag::SYMLINK);
                self.text(target.as_bytes());
            }
        }
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text);
    }

    fn time(&mut self, nanoseconds: i64) {
        self.bytes.extend_from_slice(&nanoseconds.to_le_bytes());
    }

    /// From one time to another that is often near.
    fn distance(&mut self, from: i64, to: i64) {
        let distance = to.wrapping_sub(from);
        self.number(((distance << 1) ^ (distance >> 63)).cast_unsigned());
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.bytes.push(number.to_le_bytes()[0]);
    }
}

/// Reads one row.
struct Unpacker<'a, 'n> {
    head: [u8; 3],
    bytes: &'a [u8],
    numbers: &'n dyn Numbers,
}

impl<'a> Unpacker<'a, '_> {
    const fn has(&self, byte: usize, bit: u8) -> bool {
        self.head[byte] & bit != 0
    }

    fn local(&mut self) -> LocalRow<'a> {
        let place = self.place();
        let disk_name = self.has(0, head::DISK_NAME).then(|| self.text());
        let print = self.print();
        let seen = match self.head[1] & head::SEEN {
            head::SEEN_DIRECTORY => SeenRow::Directory,
            head::SEEN_UNREAD_FILE => SeenRow::UnreadFile,
            head::SEEN_FILE => SeenRow::File(self.seen_file(&print)),
            _ => SeenRow::Symlink(self.string()),
        };
        LocalRow { place, seen, print, disk_name }
    }

    fn print(&mut self) -> Fingerprint {
        let device = self.small();
        let device = self.numbers.device(device);
        let inode = self.number();
        let ctime = self.time();
        let birth = self.has(1, head::BIRTH).then(|| self.distance(ctime));
        let mtime = Mtime(self.distance(ctime));
        let size = self.number();
        Fingerprint { device, inode, birth, size, mtime, ctime, executable: self.has(1, head::EXECUTABLE) }
    }

    fn seen_file(&mut self, print: &Fingerprint) -> FileContent {
        let hash = ContentHash(self.array());
        if self.has(2, head::CONTENT_AS_PRINT) {
            return FileContent { hash, size: print.size, executable: print.executable, mtime: print.mtime };
        }
        let executable = self.byte() != 0;
        let size = self.number();
        FileContent { hash, size, executable, mtime: Mtime(self.time()) }
    }

    fn synced(&mut self, local: Option<&LocalRow<'a>>) -> SyncedRow<'a> {
        let place = match local {
            Some(local) if self.has(0, head::SYNCED_PLACE_AS_LOCAL) => local.place,
            _ if self.has(0, head::REMOTE_PLACE_AS_SYNCED) => self.place(),
            _ => PlaceRow { parent: NodeId(self.array()), name: self.string() },
        };
        let content = match local.and_then(|local| local.seen.content()) {
            Some(seen) if self.has(1, head::SYNCED_CONTENT_AS_SEEN) => seen,
            _ => self.content(),
        };
        SyncedRow { place, content }
    }

    fn remote(&mut self, local: Option<&LocalRow<'a>>, synced: Option<&SyncedRow<'a>>) -> RemoteRow<'a> {
        let place = match (local, synced) {
            (Some(local), _) if self.has(0, head::REMOTE_PLACE_AS_LOCAL) => local.place,
            (_, Some(synced)) if self.has(0, head::REMOTE_PLACE_AS_SYNCED) => synced.place,
            _ => self.place(),
        };
        let content = match (local.and_then(|local| local.seen.content()), synced) {
            (Some(seen), _) if self.has(1, head::REMOTE_CONTENT_AS_SEEN) => seen,
            (_, Some(synced)) if self.has(1, head::REMOTE_CONTENT_AS_SYNCED) => synced.content,
            _ => self.content(),
        };
        let content_rev = Position(self.number());
        let location_rev = if self.has(1, head::ONE_REVISION) { content_rev } else { Position(self.number()) };
        RemoteRow { place, content, content_rev, location_rev }
    }

    fn place(&mut self) -> PlaceRow<'a> {
        PlaceRow { parent: self.folder(), name: self.string() }
    }

    fn folder(&mut self) -> NodeId {
        let number = self.small();
        self.numbers.folder(number)
    }

    fn content(&mut self) -> ContentRow<'a> {
        match self.byte() {
            tag::DIRECTORY => ContentRow::Directory,
            tag::MOUNT => ContentRow::Mount,
            tag::SYMLINK => ContentRow::Symlink(self.string()),
            file => {
                let hash = ContentHash(self.array());
                let size = self.number();
                let mtime = Mtime(self.time());
                ContentRow::File(FileContent { hash, size, executable: file == tag::EXECUTABLE_FILE, mtime })
            }
        }
    }

    fn string(&mut self) -> &'a str {
        // It was a text when the row was packed; a check costs less than a byte of memory that is wrong.
        std::str::from_utf8(self.text()).unwrap_or_default()
    }

    fn text(&mut self) -> &'a [u8] {
        let len = self.small() as usize;
        self.take(len)
    }

    fn time(&mut self) -> i64 {
        i64::from_le_bytes(self.array())
    }

    fn distance(&mut self, from: i64) -> i64 {
        let folded = self.number();
        let distance = (folded >> 1).cast_signed() ^ -(folded & 1).cast_signed();
        from.wrapping_add(distance)
    }

    fn small(&mut self) -> u32 {
        u32::try_from(self.number()).unwrap_or(u32::MAX)
    }

    fn number(&mut self) -> u64 {
        let mut number = 0;
        let mut shift = 0;
        loop {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }

    fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N));
        array
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives a folder the number in its first byte, and a device its own.
    struct Plain;

    impl Numbers for Plain {
        fn of_folder(&self, folder: NodeId) -> u32 {
            folder.0[0].into()
        }

        fn folder(&self, number: u32) -> NodeId {
            NodeId([u8::try_from(number).expect("small"); 16])
        }

        fn of_device(&self, device: u64) -> u32 {
            u32::try_from(device).expect("small")
        }

        fn device(&self, number: u32) -> u64 {
            number.into()
        }
    }

    fn place() -> impl Strategy<Value = Place> {
        let name = prop_oneof![Just("a"), Just("é"), Just("a name of usual length.txt")];
        (1_u8..3, name)
            .prop_map(|(parent, name)| Place { parent: NodeId([parent; 16]), name: Name::parse(name).expect("a name") })
    }

    fn file() -> impl Strategy<Value = FileContent> {
        // Few values, so that trees often agree, and the greatest ones.
        let size = prop_oneof![Just(4), Just(u64::MAX)];
        let mtime = prop_oneof![Just(5), Just(i64::MIN), Just(i64::MAX)];
        (0_u8..2, size, any::<bool>(), mtime).prop_map(|(hash, size, executable, mtime)| FileContent {
            hash: ContentHash([hash; 32]),
            size,
            executable,
            mtime: Mtime(mtime),
        })
    }

    fn content() -> impl Strategy<Value = Content> {
        prop_oneof![
            Just(Content::Directory),
            Just(Content::Mount),
            file().prop_map(Content::File),
            Just(Content::Symlink("to".into())),
        ]
    }

    fn seen() -> impl Strategy<Value = Seen> {
        prop_oneof![content().prop_map(|content| content.seen()), Just(Seen::File(None))]
    }

    fn print() -> impl Strategy<Value = Fingerprint> {
        let birth = prop::option::of(prop_oneof![Just(7), Just(i64::MAX)]);
        let ctime = prop_oneof![Just(6), Just(i64::MIN)];
        (file(), 0_u64..3, any::<u64>(), birth, ctime).prop_map(|(file, device, inode, birth, ctime)| Fingerprint {
            device,
            inode,
            birth,
            size: file.size,
            mtime: file.mtime,
            ctime,
            executable: file.executable,
        })
    }

    prop_compose! {
        fn local()(place in place(), seen in seen(), print in print(), spelled in any::<bool>()) -> Local {
            Local { place, seen, print, disk_name: spelled.then(|| Box::from("e\u{301}".as_bytes())) }
        }
    }

    prop_compose! {
        fn remote()(place in place(), content in content(), content_rev in 0_u64..300, later in 0_u64..2) -> Remote {
            Remote { place, content, content_rev: Position(content_rev), location_rev: Position(content_rev + later) }
        }
    }

    prop_compose! {
        fn row()(
            local in prop::option::of(local()),
            synced in prop::option::of((place(), content())),
            remote in prop::option::of(remote()),
        ) -> NodeRow {
            NodeRow { local, synced: synced.map(|(place, content)| Synced { place, content }), remote }
        }
    }

    proptest! {
        #[test]
        fn every_row_comes_out_as_it_went_in(row in row()) {
            let packed = Row::of(&row).pack(&Plain);
            let unpacked = Row::unpack(&packed, &Plain);
            prop_assert_eq!(unpacked, Row::of(&row));
            prop_assert_eq!(unpacked.to_row(), row.clone());
            prop_assert_eq!(unpacked.agrees(), row != NodeRow::default() && row.agrees());
            let unread = row.local.as_ref().is_some_and(|local| local.seen == Seen::File(None));
            let new = row.synced.is_none() && row.remote.is_none();
            prop_assert_eq!(Row::is_unread_new_file(&packed), unread && new);
            prop_assert_eq!(Row::local_parent(&packed, &Plain), row.local.map(|local| local.place.parent));
            prop_assert_eq!(Row::has_remote(&packed), row.remote.is_some());
        }
    }

    #[test]
    fn a_row_in_sync_takes_no_more_bytes_than_its_name_its_hash_and_a_few_dozen() {
        let file = FileContent {
            hash: ContentHash([9; 32]),
            size: 1_000_000,
            executable: false,
            mtime: Mtime(1_790_000_000_000_000_000),
        };
        let place = Place { parent: NodeId([200; 16]), name: Name::parse("document.txt").expect("a name") };
        let print = Fingerprint {
            device: 1,
            inode: 100_000_000,
            birth: Some(file.mtime.0),
            size: file.size,
            mtime: file.mtime,
            ctime: file.mtime.0 + 1_000_000_000,
            executable: false,
        };
        let content = Content::File(file);
        let row = NodeRow {
            local: Some(Local { place: place.clone(), seen: content.seen(), print, disk_name: None }),
            synced: Some(Synced { place: place.clone(), content: content.clone() }),
            remote: Some(Remote { place, content, content_rev: Position(900_000), location_rev: Position(900_000) }),
        };
        let bytes = Row::of(&row).pack(&Plain).len();
        assert!(bytes <= ("document.txt".len() + 32 + 36).next_multiple_of(STEP), "{bytes} bytes");
    }
}
