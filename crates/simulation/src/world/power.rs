//! Power failures of devices: what is excused by them, and what is not.

use super::device::Files;
use super::{Checked, Moment, World, violation};
use crate::disk::{content_hash, lock};
use crate::ghost::Fate;
use crate::user::Users;
use model::{Body, ContentHash, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use sync_engine::tree::{Content, Seen};

impl World {
    /// The power of a device fails.
    pub(super) fn lose_power(&mut self, number: usize, down_ms: u64) -> Checked<()> {
        self.stop(number);
        let mut chance = self.chance(&[6, number as u64, self.devices[number].life]);
        let before = self.files_by_content(number);
        let durable = self.devices[number].database.state.durable;
        lock(&self.devices[number].disk).lose_power(&mut chance, durable.map(|durable| durable.until));
        self.note_known_empty(number);
        let after = self.files_by_content(number);
        let mut users = lock(&self.users);
        users.lose_programs(number);
        // What the user wrote last is gone from this disk or torn, and what the user deleted last may be
        // back: to everybody else that looks like a further change by the user. A torn file may have the
        // content of one that is whole: then there are two of them now.
        // And an execute bit that is as it was before is a change of it.
        for content in before.keys().chain(after.keys()) {
            let count = |files: &BTreeMap<_, Files>| files.get(content).copied().unwrap_or_default();
            let (before, after) = (count(&before), count(&after));
            // Such a torn file may also have taken the place of a download that is lost.
            if before.all != after.all || after.visible > before.visible {
                users.ghost.release(*content);
            } else if before.executable != after.executable {
                users.ghost.touched(number, *content);
            }
        }
        self.excuse_what_the_client_knew(number, &mut users);
        // A torn file may be empty, and so is a file of the client's that was there before and after.
        users.ghost.release(content_hash(b""));
        let after: Vec<ContentHash> = after.into_keys().collect();
        users.ghost.moved(number, &after);
        for content in after {
            let superseded = users.ghost.fate(&content).is_some_and(|fate| fate != Fate::Live);
            if superseded {
                users.ghost.release(content);
            }
        }
        drop(users);
        self.cover("power lost");
        self.at(down_ms, Moment::Start { device: number });
        self.check_disk(number)
    }

    /// What the client knew last of a file that is not as it was comes back. Nobody can tell whether the power
    /// failure took it, or its user just before or since.
    fn excuse_what_the_client_knew(&self, number: usize, users: &mut Users) {
        let sent = self.devices[number].database.state.in_flight.iter().flat_map(|commit| commit.operations.iter());
        let sent: BTreeMap<NodeId, &Body> = sent.filter_map(|one| Some((one.node(), one.body()?))).collect();
        for (node, row) in &self.devices[number].database.rows {
            let agreed = row.synced.as_ref().map(|synced| synced.content.clone());
            let seen = row.local.as_ref().and_then(|local| local.seen.content());
            let known = [agreed, seen].into_iter().flatten().filter_map(|content| match content {
                Content::File(file) => Some(file.hash),
                Content::Directory | Content::Mount | Content::Symlink(_) => None,
            });
            let known: BTreeSet<ContentHash> = known.collect();
            users.ghost.unsure(known.iter().copied());
            // Bytes that are others than before under times that are not later may be the user's, who set the
            // times back, or what the power failure has made of them: both versions are kept.
            let mut former = known;
            if let Some(Body::File { blocks, .. }) = sent.get(node) {
                former.insert(blocks.content_hash());
            }
            if let Some(local) = &row.local
                && let Some((content, mtime)) = lock(&self.devices[number].disk).file_on(local.print.inode)
                && mtime <= local.print.mtime
                && !former.contains(&content)
            {
                former.retain(|content| users.ghost.fate(content) == Some(Fate::Edited));
                former.into_iter().for_each(|content| users.ghost.release(content));
            }
        }
    }

    fn note_known_empty(&mut self, number: usize) {
        let device = &mut self.devices[number];
        let is_empty = |seen: &Seen| matches!(seen, Seen::File(Some(content)) if content.size == 0);
        let rows = device.database.rows.iter();
        let emptied = rows.filter(|(_, row)| row.local.as_ref().is_some_and(|local| is_empty(&local.seen)));
        device.known_empty = emptied.map(|(id, _)| *id).collect();
    }

    /// What a power failure emptied is nobody's edit, whether the client had seen the edit before or not (I12).
    pub(super) fn check_what_is_sent_as_empty(&mut self, number: usize) -> Checked<()> {
        let device = &self.devices[number];
        let (Some(commit), Some(engine)) = (&device.database.state.in_flight, &device.engine) else { return Ok(()) };
        for operation in &commit.operations {
            let node = operation.node();
            let is_empty = matches!(operation.body(), Some(Body::File { size: 0, .. }));
            let before = device.database.rows.get(&node).and_then(|row| row.synced.as_ref());
            let held_something = before.is_some_and(|was| matches!(&was.content, Content::File(was) if was.size > 0));
            let Some(path) = engine.trees().local_path(node).filter(|_| is_empty && held_something) else { continue };
            if !device.known_empty.contains(&node) && lock(&device.disk).is_emptied(&path) {
                return Err(violation(format!(
                    "I12: device {number} sends `{path}` as empty, which a power failure had emptied"
                )));
            }
        }
        Ok(())
    }
}
