//! Journal entries as they travel: each is told by what is different from the one before.

use crate::near::{Before, NearNode};
use model::{Blocklist, Body, Change, DeviceId, JournalEntry, Mtime, NodeId, Position, Timestamp, limits};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
struct NearEntry {
    /// How many positions lie between this entry's and that of the one before.
    skipped: u64,
    node: NearNode,
    change: NearChange,
    device: NearDevice,
    /// What it is more than that of the one before, in milliseconds.
    time: i64,
}

#[derive(Serialize, Deserialize)]
enum NearDevice {
    AsBefore,
    Is(Option<DeviceId>),
}

#[derive(Serialize, Deserialize)]
enum NearChange {
    Create { place: NearPlace, body: NearBody },
    Edit { body: NearBody },
    Move { place: NearPlace },
    Delete,
}

#[derive(Serialize, Deserialize)]
struct NearPlace {
    /// `None`: that of the place before.
    parent: Option<NodeId>,
    shared: u8,
    rest: String,
}

#[derive(Serialize, Deserialize)]
enum NearBody {
    File {
        blocks: Blocklist,
        size: u64,
        executable: bool,
        /// What it is more than that of the file before, in nanoseconds.
        mtime: i64,
    },
    Directory,
    Symlink {
        target: String,
    },
    Mount,
}

/// What the next entry is compared with.
struct Last {
    position: u64,
    device: Option<DeviceId>,
    time: i64,
    before: Before,
}

impl Last {
    const FIRST: Self = Self { position: 0, device: None, time: 0, before: Before::below(NodeId([0; 16])) };

    fn shorten(&mut self, entry: &JournalEntry) -> NearEntry {
        let skipped = entry.position.0.wrapping_sub(self.position).wrapping_sub(1);
        let time = entry.time.0.wrapping_sub(self.time);
        let device = if entry.device == self.device { NearDevice::AsBefore } else { NearDevice::Is(entry.device) };
        (self.position, self.device, self.time) = (entry.position.0, entry.device, entry.time.0);
        let node = self.before.meet(entry.node);
        let change = match &entry.change {
            Change::Create { parent, name, body } => {
                let place = self.shorten_place(*parent, name);
                NearChange::Create { place, body: self.shorten_body(body) }
            }
            Change::Edit { body } => NearChange::Edit { body: self.shorten_body(body) },
            Change::Move { parent, name } => NearChange::Move { place: self.shorten_place(*parent, name) },
            Change::Delete => NearChange::Delete,
        };
        NearEntry { skipped, node, change, device, time }
    }

    fn shorten_place(&mut self, parent: NodeId, name: &model::Name) -> NearPlace {
        let (parent, shared, rest) = self.before.go_to(parent, name);
        NearPlace { parent, shared, rest }
    }

    fn shorten_body(&mut self, body: &Body) -> NearBody {
        match body {
            Body::Directory => NearBody::Directory,
            Body::Mount => NearBody::Mount,
            Body::Symlink { target } => NearBody::Symlink { target: target.clone() },
            Body::File { blocks, size, executable, mtime } => {
                let more = mtime.0.wrapping_sub(self.before.mtime);
                self.before.mtime = mtime.0;
                NearBody::File { blocks: blocks.clone(), size: *size, executable: *executable, mtime: more }
            }
        }
    }

    /// `None`: there is no such name.
    fn lengthen(&mut self, entry: NearEntry) -> Option<JournalEntry> {
        self.position = self.position.wrapping_add(entry.skipped).wrapping_add(1);
        self.time = self.time.wrapping_add(entry.time);
        if let NearDevice::Is(device) = entry.device {
            self.device = device;
        }
        let node = self.before.meet_said(entry.node);
        let change = match entry.change {
            NearChange::Create { place, body } => {
                let (parent, name) = self.before.follow(place.parent, place.shared, &place.rest)?;
                Change::Create { parent, name, body: self.lengthen_body(body) }
            }
            NearChange::Edit { body } => Change::Edit { body: self.lengthen_body(body) },
            NearChange::Move { place } => {
                let (parent, name) = self.before.follow(place.parent, place.shared, &place.rest)?;
                Change::Move { parent, name }
            }
            NearChange::Delete => Change::Delete,
        };
        let (position, time) = (Position(self.position), Timestamp(self.time));
        Some(JournalEntry { position, node, change, device: self.device, time })
    }

    fn lengthen_body(&mut self, body: NearBody) -> Body {
        match body {
            NearBody::Directory => Body::Directory,
            NearBody::Mount => Body::Mount,
            NearBody::Symlink { target } => Body::Symlink { target },
            NearBody::File { blocks, size, executable, mtime } => {
                self.before.mtime = self.before.mtime.wrapping_add(mtime);
                Body::File { blocks, size, executable, mtime: Mtime(self.before.mtime) }
            }
        }
    }
}

pub(crate) fn serialize<S: Serializer>(entries: &[JournalEntry], serializer: S) -> Result<S::Ok, S::Error> {
    let mut last = Last::FIRST;
    serializer.collect_seq(entries.iter().map(|entry| last.shorten(entry)))
}

/// No more entries than a page holds: a long name costs one byte that is like the one before.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<JournalEntry>, D::Error> {
    let entries = Vec::<NearEntry>::deserialize(deserializer)?;
    if entries.len() > limits::CHANGES_PAGE_ENTRIES {
        return Err(D::Error::custom("more entries than a page holds"));
    }
    let mut last = Last::FIRST;
    let entries = entries.into_iter().map(|entry| last.lengthen(entry)).collect::<Option<_>>();
    entries.ok_or_else(|| D::Error::custom("an illegal name"))
}

#[cfg(test)]
mod tests {
    use crate::{NamespaceChanges, decode, encode};
    use model::{
        BlockHash, Blocklist, Body, Change, DeviceId, JournalEntry, Mtime, Name, NamespaceId, NodeId, Position, Role,
        Timestamp, limits,
    };

    fn page(entries: Vec<JournalEntry>) -> NamespaceChanges {
        NamespaceChanges { namespace: NamespaceId([1; 16]), role: Some(Role::Owner), entries, head: Position(9) }
    }

    fn file(n: u8, mtime: i64) -> Body {
        Body::File { blocks: Blocklist(vec![BlockHash([n; 32])]), size: 1000, executable: false, mtime: Mtime(mtime) }
    }

    fn name(text: &str) -> Name {
        Name::parse(text).expect("legal")
    }

    fn entry(position: u64, device: Option<u8>, time: i64, change: Change) -> JournalEntry {
        let device = device.map(|n| DeviceId([n; 16]));
        JournalEntry { position: Position(position), node: NodeId([7; 16]), change, device, time: Timestamp(time) }
    }

    #[test]
    fn entries_of_every_kind_come_back_in_any_order() {
        let place = |n: u8, text: &str| (NodeId([n; 16]), name(text));
        let create = |(parent, name), body| Change::Create { parent, name, body };
        let change = |(parent, name)| Change::Move { parent, name };
        let symlink = Body::Symlink { target: "b".into() };
        let entries = vec![
            entry(1, Some(2), 5, create(place(1, "d\u{e9}j\u{e0}"), Body::Directory)),
            entry(2, Some(2), i64::MAX, create(place(1, "d\u{e9}j"), file(3, i64::MIN))),
            entry(3, None, i64::MIN, Change::Edit { body: file(4, i64::MAX) }),
            entry(u64::MAX, Some(3), 0, change(place(2, "d\u{e8}"))),
            entry(0, Some(2), 0, Change::Edit { body: symlink.clone() }),
            entry(7, Some(2), 1, create(place(2, "x"), symlink)),
            entry(7, Some(2), 1, Change::Edit { body: Body::Mount }),
            entry(8, Some(2), 1, Change::Delete),
        ];
        let page = page(entries);
        assert_eq!(decode(&encode(&page)), Ok(page));
    }

    #[test]
    fn a_file_like_the_one_before_costs_its_block_and_little_more() {
        let create = |n: u8| {
            let (parent, name) = (NodeId([1; 16]), name(&format!("one of many {n}")));
            let change = Change::Create { parent, name, body: file(n, 7_000 * i64::from(n)) };
            let node = NodeId([[0, 0, 0, n].as_slice(), &[7; 12]].concat().try_into().expect("as long"));
            JournalEntry { node, ..entry(n.into(), Some(2), 1_700_000_000_000, change) }
        };
        let long = |files: u8| encode(&page((0..files).map(create).collect())).len();
        assert_eq!(long(31) - long(30), 32 + 17);
    }

    #[test]
    fn more_entries_than_a_page_holds_are_refused() {
        let many = |count| vec![entry(1, None, 0, Change::Delete); count];
        let full = page(many(limits::CHANGES_PAGE_ENTRIES));
        assert_eq!(decode(&encode(&full)), Ok(full));
        let more = page(many(limits::CHANGES_PAGE_ENTRIES + 1));
        assert!(decode::<NamespaceChanges>(&encode(&more)).is_err());
    }

    #[test]
    fn what_makes_no_name_is_refused() {
        let (parent, name) = (NodeId([1; 16]), name("a.b"));
        let bytes = encode(&page(vec![entry(1, None, 0, Change::Move { parent, name })]));
        let with = |rest: &[u8; 3]| {
            let at = bytes.windows(3).position(|three| three == b"a.b").expect("is there");
            let mut bytes = bytes.clone();
            bytes[at..at + 3].copy_from_slice(rest);
            bytes
        };
        assert!(decode::<NamespaceChanges>(&with(b"a.c")).is_ok());
        assert!(decode::<NamespaceChanges>(&with(b"a/c")).is_err());
    }
}
