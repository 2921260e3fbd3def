//! Small trees, written down.

use model::block::BlockHasher;
use model::{Blocklist, Change, JournalEntry, Mtime, Name, NamespaceId, NodeId, Position, Timestamp};
use std::collections::BTreeSet;
use sync_engine::io::{
    DirectoryListing, DirectoryScan, Extent, FileKind, Fingerprint, Found, LocalPath, ScanError, ScanTarget,
};
use sync_engine::tree::{Content, FileContent, Local, NodeRow, Place, Remote, Seen, Synced};
use sync_engine::trees::Trees;

pub(crate) const ROOT: NamespaceId = NamespaceId([0xaa; 16]);
pub(crate) const A: NodeId = NodeId([1; 16]);
pub(crate) const B: NodeId = NodeId([2; 16]);
pub(crate) const C: NodeId = NodeId([3; 16]);

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).expect("legal")
}

pub(crate) fn at_root(text: &str) -> Place {
    in_folder(ROOT.root(), text)
}

pub(crate) fn in_folder(parent: NodeId, text: &str) -> Place {
    Place { parent, name: name(text) }
}

pub(crate) fn path(text: &str) -> LocalPath {
    LocalPath::from_bytes(text.as_bytes()).expect("a path")
}

pub(crate) fn blocks(bytes: &str) -> Blocklist {
    let mut hasher = BlockHasher::new();
    hasher.update(bytes.as_bytes());
    hasher.finish().0
}

pub(crate) fn file(bytes: &str) -> FileContent {
    let hash = blocks(bytes).content_hash();
    FileContent { hash, size: bytes.len() as u64, executable: false, mtime: Mtime(7) }
}

/// The inode is also the birth time.
pub(crate) const fn print(inode: u64, size: u64) -> Fingerprint {
    let birth = Some(inode.cast_signed());
    Fingerprint { device: 1, inode, birth, size, mtime: Mtime(7), ctime: 7, executable: false }
}

/// The same file after an edit.
pub(crate) const fn changed(before: Fingerprint) -> Fingerprint {
    Fingerprint { ctime: before.ctime + 1, ..before }
}

pub(crate) fn local(place: Place, seen: Seen, print: Fingerprint) -> Option<Local> {
    Some(Local { place, seen, print, disk_name: None })
}

pub(crate) fn synced(place: Place, content: Content) -> Option<Synced> {
    Some(Synced { place, content })
}

pub(crate) fn remote(place: Place, content: Content) -> Option<Remote> {
    Some(Remote { place, content, content_rev: Position(1), location_rev: Position(1) })
}

/// A file that all three trees have alike.
pub(crate) fn agreed_file(place: &Place, bytes: &str, inode: u64) -> NodeRow {
    let content = file(bytes);
    let seen = Seen::File(Some(content));
    agreed(place, seen, print(inode, content.size), Content::File(content))
}

pub(crate) fn agreed_folder(place: &Place, inode: u64) -> NodeRow {
    agreed(place, Seen::Directory, print(inode, 0), Content::Directory)
}

fn agreed(place: &Place, seen: Seen, print: Fingerprint, content: Content) -> NodeRow {
    NodeRow {
        local: local(place.clone(), seen, print),
        synced: synced(place.clone(), content.clone()),
        remote: remote(place.clone(), content),
    }
}

pub(crate) fn trees(rows: Vec<(NodeId, NodeRow)>) -> Trees {
    Trees::new(ROOT, rows, BTreeSet::new())
}

pub(crate) fn found(name: &str, kind: FileKind, print: Fingerprint) -> Found {
    Found { name: name.as_bytes().into(), kind, print, target: None }
}

pub(crate) fn found_file(name: &str, print: Fingerprint) -> Found {
    found(name, FileKind::File, print)
}

pub(crate) fn listing(folder: Fingerprint, entries: Vec<Found>) -> DirectoryListing {
    DirectoryListing { print: folder, entries, unreadable: Vec::new() }
}

pub(crate) fn scan(directory: &str, result: Result<DirectoryListing, ScanError>) -> DirectoryScan {
    DirectoryScan { target: ScanTarget { directory: path(directory), extent: Extent::All }, result }
}

pub(crate) fn entry(position: u64, node: NodeId, change: Change) -> JournalEntry {
    JournalEntry { position: Position(position), node, change, device: None, time: Timestamp(0) }
}
