//! What is to be done about one node: a pure function of the three trees.
//!
//! This is the conflict table. A verdict looks only at the trees and at what the engine has under way;
//! what stands in the way on disk or on the server (a name that is taken, a parent that is not there
//! yet) is found by the planner when it carries the verdict out.

use crate::tree::{Content, FileContent, Local, PARKED, Place, Remote, Synced};
use crate::trees::Trees;
use model::{NamespaceId, NodeId, Role};
use std::collections::{BTreeMap, BTreeSet};

/// What the verdicts need to know besides the trees.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub roles: &'a BTreeMap<NamespaceId, Role>,
    /// Nodes in a commit whose fate is unknown, or in local steps under way: nothing is decided about
    /// them, or because of them, before that has ended.
    pub frozen: &'a BTreeSet<NodeId>,
    /// Whether what is excluded may leave the disk.
    pub may_unload: bool,
}

impl Context<'_> {
    fn may_write(&self, namespace: NamespaceId) -> bool {
        self.roles.get(&namespace).copied().is_some_and(Role::may_write)
    }
}

/// What is to be done about one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: the trees agree, or the node is kept off this device.
    Clean,
    /// The node is part of something under way.
    Frozen,
    /// Decide again when that node has changed.
    Wait(NodeId),
    /// The file's content must be known first.
    Hash,
    /// A change to the trees alone; decide again after it.
    Edit(Edit),
    /// Tell the server.
    Push(Push),
    /// Change the disk.
    Pull(Pull),
    /// Give the node on disk another name beside the one it has, and decide again.
    RenameAside(Label),
    /// Move the node on disk out of a shared folder that was withdrawn.
    MoveOut { mount: NodeId },
    /// It cannot be synced; the sentence says why.
    Problem(&'static str),
}

/// A change to the trees that needs neither disk nor server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edit {
    /// Forget what both sides agreed on: both have deleted it, or the other side's change is stronger
    /// than a local deletion.
    DropSynced,
    /// The same for the node and all that it holds on the server and the user deleted.
    DropSyncedSubtree,
    SetSynced(Synced),
    /// What is on disk becomes a new node of its own.
    RelabelFresh,
    /// What is on disk is that node.
    RelabelTo(NodeId),
}

/// What to tell the server about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Push {
    Create {
        content: Content,
    },
    /// A new place, new content, or both.
    Change {
        place: Option<Place>,
        content: Option<Content>,
    },
    Delete,
}

/// What to do on disk about a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pull {
    Create,
    /// New bytes or a new execute bit.
    Replace,
    /// The modification time alone, or the execute bit with the same bytes.
    Attributes(FileContent),
    Move(Place),
    Delete,
}

/// Why a file is kept under another name: the words in its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Label {
    Conflict,
    /// A change in a folder that the account can only view.
    ViewOnly,
}

impl Label {
    /// The words in the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Conflict => "conflicted copy",
            Self::ViewOnly => "local copy",
        }
    }
}

pub const VIEW_ONLY: &str = "you can view this shared folder but not change it, so this file stays on this device";

/// Decides about one node.
#[must_use]
pub fn decide(trees: &Trees, context: &Context<'_>, id: NodeId) -> Verdict {
    if context.frozen.contains(&id) {
        return Verdict::Frozen;
    }
    let Some(row) = trees.row(id) else { return Verdict::Clean };
    match (&row.local, &row.synced, &row.remote) {
        (None, None, None) => Verdict::Clean,
        (None, Some(_), None) => Verdict::Edit(Edit::DropSynced),
        (None, None, Some(_)) if trees.is_excluded(id) => Verdict::Clean,
        (None, None, Some(_)) => Verdict::Pull(Pull::Create),
        (None, Some(synced), Some(remote)) => deleted_locally(trees, context, id, synced, remote),
        (Some(local), None, None) => new_on_disk(trees, context, id, local),
        (Some(local), None, Some(remote)) => on_both_sides_without_base(trees, id, local, remote),
        (Some(local), Some(synced), None) => deleted_remotely(trees, context, id, local, synced),
        (Some(local), Some(synced), Some(remote)) => compare(trees, context, id, local, synced, remote),
    }
}

/// The user deleted it here. Their edit or move is stronger than our deletion.
fn deleted_locally(trees: &Trees, context: &Context<'_>, id: NodeId, synced: &Synced, remote: &Remote) -> Verdict {
    let drop_synced = Verdict::Edit(Edit::DropSynced);
    if trees.is_excluded(id) || !synced.content.same(&remote.content) {
        return drop_synced;
    }
    if synced.place != remote.place {
        // A folder that comes back comes back with what was deleted with it.
        return Verdict::Edit(Edit::DropSyncedSubtree);
    }
    let namespace = trees.remote_namespace(id);
    if !context.may_write(namespace) {
        return drop_synced;
    }
    if remote.content == Content::Mount {
        // To leave one's own shared folder would take it from its members without a word.
        let owned = context.roles.get(&id.as_namespace()) == Some(&Role::Owner);
        return if owned { Verdict::Edit(Edit::DropSyncedSubtree) } else { Verdict::Push(Push::Delete) };
    }
    let parent = remote.place.parent;
    if parent != trees.root() && !trees.has_local(parent) && trees.has_synced(parent) {
        // The folder around it is gone too: its one tombstone covers this node, or the folder comes
        // back and this node is decided about again.
        return Verdict::Wait(parent);
    }
    if remote.content != Content::Directory {
        return Verdict::Push(Push::Delete);
    }
    match undeletable_below(trees, context, id) {
        None => Verdict::Push(Push::Delete),
        Some(Obstacle::Unseen) => drop_synced,
        Some(Obstacle::Pending(other)) => Verdict::Wait(other),
    }
}

/// What keeps a locally deleted folder from being deleted on the server as one.
enum Obstacle {
    /// Something that the user did not see when deleting.
    Unseen,
    /// Something whose own change must reach the server first.
    Pending(NodeId),
}

fn undeletable_below(trees: &Trees, context: &Context<'_>, top: NodeId) -> Option<Obstacle> {
    let mut folders = vec![top];
    let mut pending = None;
    while let Some(folder) = folders.pop() {
        for child in trees.remote_children(folder) {
            if context.frozen.contains(&child) {
                pending = Some(child);
                continue;
            }
            let row = trees.row(child)?;
            match (&row.local, &row.synced, &row.remote) {
                (None, Some(synced), Some(remote))
                    if synced.place == remote.place && synced.content.same(&remote.content) =>
                {
                    match remote.content {
                        Content::Mount => pending = Some(child),
                        Content::Directory => folders.push(child),
                        Content::File(_) | Content::Symlink(_) => {}
                    }
                }
                // What the user moved out leaves with the same commit.
                (Some(_), _, _) if is_moving_away(trees, child) => {}
                (Some(_), _, _) => pending = Some(child),
                _ => return Some(Obstacle::Unseen),
            }
        }
    }
    pending.map(Obstacle::Pending)
}

/// Only the disk has it.
fn new_on_disk(trees: &Trees, context: &Context<'_>, id: NodeId, local: &Local) -> Verdict {
    let folder = local.place.parent;
    if folder == PARKED {
        return Verdict::Pull(Pull::Move(Place { parent: trees.root(), name: local.place.name.clone() }));
    }
    if let Some(mount) = trees.withdrawn_mount(folder) {
        return Verdict::MoveOut { mount };
    }
    if !trees.has_remote(folder) && trees.has_synced(folder) {
        // The folder was deleted remotely; it becomes a new folder because of this node.
        return Verdict::Wait(folder);
    }
    if context.frozen.contains(&folder) && !trees.has_remote(folder) {
        return Verdict::Wait(folder);
    }
    let may_write = context.may_write(trees.namespace_below(folder));
    let key = local.place.name.key();
    if let Some(theirs) = trees.remote_child(folder, &key).filter(|other| *other != id) {
        if context.frozen.contains(&theirs) {
            // Theirs may be waiting for what these bytes are.
            return if local.seen.content().is_none() { Verdict::Hash } else { Verdict::Wait(theirs) };
        }
        if let Some(verdict) = name_taken_by(trees, id, local, theirs, may_write) {
            return verdict;
        }
    }
    if !may_write {
        return Verdict::Problem(VIEW_ONLY);
    }
    match local.seen.content() {
        Some(content) => Verdict::Push(Push::Create { content }),
        None => Verdict::Hash,
    }
}

/// A new node on disk has a name that the server knows in that folder. `None`: it does not matter,
/// since the other one is on its way elsewhere.
fn name_taken_by(trees: &Trees, id: NodeId, local: &Local, theirs: NodeId, may_write: bool) -> Option<Verdict> {
    let row = trees.row(theirs)?;
    let remote = row.remote.as_ref()?;
    if row.local.is_some() {
        // It is elsewhere on disk: moved there by the user (then the name is about to be free, if the
        // user may move it), or it is still to be moved here.
        let leaves = may_write && is_moving_away(trees, theirs);
        return if leaves { None } else { Some(aside(may_write)) };
    }
    if trees.is_excluded(theirs) {
        return Some(Verdict::RenameAside(Label::Conflict));
    }
    if local.seen.same_kind(&remote.content) {
        return match local.seen.content() {
            None => Some(Verdict::Hash),
            Some(content) if content.same(&remote.content) || trees.was_remote(theirs, &content) => {
                Some(Verdict::Edit(Edit::RelabelTo(theirs)))
            }
            Some(_) if is_pending_deletion(trees, theirs) => None,
            Some(_) => Some(aside(may_write)),
        };
    }
    if is_pending_deletion(trees, theirs) {
        return None;
    }
    if local.seen == crate::tree::Seen::Directory && may_write {
        // A directory keeps the name; their file goes beside it (the planner renames it on the server).
        return None;
    }
    debug_assert!(trees.local(id).is_some(), "only what is on disk can be renamed aside");
    Some(aside(may_write))
}

fn aside(may_write: bool) -> Verdict {
    Verdict::RenameAside(if may_write { Label::Conflict } else { Label::ViewOnly })
}

/// Whether the node's place on the server is about to be given up because the user moved it.
#[must_use]
pub fn is_moving_away(trees: &Trees, id: NodeId) -> bool {
    match moved_into(trees, id) {
        Some(folder) => !must_go_back(trees, id, folder),
        None => false,
    }
}

/// The folder into which the user moved the node, if the server does not know that yet and nobody else
/// has moved it.
fn moved_into(trees: &Trees, id: NodeId) -> Option<NodeId> {
    let row = trees.row(id)?;
    let (Some(local), Some(synced), Some(remote)) = (&row.local, &row.synced, &row.remote) else { return None };
    let moved = local.place != synced.place && synced.place == remote.place && local.place.parent != PARKED;
    moved.then_some(local.place.parent)
}

/// Whether a move by the user cannot be: into a folder that is gone, into another namespace, or below
/// itself.
fn must_go_back(trees: &Trees, id: NodeId, folder: NodeId) -> bool {
    cannot_take(trees, id, folder) || would_cycle(trees, id, folder)
}

/// Whether the folder into which the user moved the node is gone or belongs to another namespace.
fn cannot_take(trees: &Trees, id: NodeId, folder: NodeId) -> bool {
    let gone = !trees.has_remote(folder) && (trees.has_synced(folder) || trees.withdrawn_mount(folder).is_some());
    gone || trees.namespace_below(folder) != trees.remote_namespace(id)
}

/// Whether the user deleted the node and nobody changed it since.
#[must_use]
pub fn is_pending_deletion(trees: &Trees, id: NodeId) -> bool {
    let Some(row) = trees.row(id) else { return false };
    match (&row.local, &row.synced, &row.remote) {
        (None, Some(synced), Some(remote)) => {
            synced.place == remote.place && synced.content.same(&remote.content) && !trees.is_excluded(id)
        }
        _ => false,
    }
}

/// Both sides have it and no record says what they agreed on (a lost database, a restored server).
fn on_both_sides_without_base(trees: &Trees, id: NodeId, local: &Local, remote: &Remote) -> Verdict {
    if !local.seen.same_kind(&remote.content) {
        return Verdict::Edit(Edit::RelabelFresh);
    }
    match local.seen.content() {
        None => Verdict::Hash,
        // With what is on disk as the base, every difference that is left is theirs.
        Some(content) if content.same(&remote.content) || trees.was_remote(id, &content) => {
            let content = if content.is_folder() { remote.content.clone() } else { content };
            Verdict::Edit(Edit::SetSynced(Synced { place: local.place.clone(), content }))
        }
        Some(_) => Verdict::Edit(Edit::RelabelFresh),
    }
}

/// They deleted it. Our edit is stronger than their deletion; our move is not.
fn deleted_remotely(trees: &Trees, context: &Context<'_>, id: NodeId, local: &Local, synced: &Synced) -> Verdict {
    if synced.content.is_folder() {
        return match trees.local_children(id).next() {
            None => Verdict::Pull(Pull::Delete),
            Some(_) => folder_deleted_remotely(trees, context, id),
        };
    }
    match local.seen.content() {
        None => Verdict::Hash,
        Some(content) if content.same(&synced.content) || trees.was_remote(id, &content) => Verdict::Pull(Pull::Delete),
        Some(_) => match trees.withdrawn_mount(local.place.parent) {
            Some(mount) => Verdict::MoveOut { mount },
            None => Verdict::Edit(Edit::RelabelFresh),
        },
    }
}

/// A folder that they deleted goes when all it holds has gone; it stays, as a new folder, for what the
/// other side has not seen.
fn folder_deleted_remotely(trees: &Trees, context: &Context<'_>, id: NodeId) -> Verdict {
    let withdrawn = trees.withdrawn_mount(id).is_some();
    for child in trees.local_children(id) {
        if context.frozen.contains(&child) {
            return Verdict::Wait(child);
        }
        let Some(row) = trees.row(child) else { continue };
        if row.synced.is_none() && row.remote.is_none() && !withdrawn {
            return Verdict::Edit(Edit::RelabelFresh);
        }
    }
    Verdict::Pull(Pull::Delete)
}

/// All three trees have it.
fn compare(
    trees: &Trees,
    context: &Context<'_>,
    id: NodeId,
    local: &Local,
    synced: &Synced,
    remote: &Remote,
) -> Verdict {
    if !local.seen.same_kind(&remote.content) {
        return Verdict::Edit(Edit::RelabelFresh);
    }
    let Some(mine) = local.seen.content() else { return Verdict::Hash };
    let mine = if mine.is_folder() { remote.content.clone() } else { mine };
    let i_edited = !mine.same(&synced.content);
    let they_edited = !remote.content.same(&synced.content);
    let we_agree = mine.same(&remote.content);
    if i_edited && they_edited && !we_agree && trees.was_remote(id, &mine) {
        return Verdict::Edit(Edit::SetSynced(Synced { content: mine, ..synced.clone() }));
    }
    if i_edited && they_edited && !we_agree {
        return Verdict::Edit(Edit::RelabelFresh);
    }
    let may_write = context.may_write(trees.remote_namespace(id));
    if i_edited && !we_agree && !may_write {
        return Verdict::Edit(Edit::RelabelFresh);
    }
    if let Some(agreed) = newly_agreed(local, synced, remote, &mine, we_agree) {
        return Verdict::Edit(Edit::SetSynced(agreed));
    }
    let i_moved = local.place != synced.place && local.place.parent != PARKED;
    let they_moved = remote.place != synced.place;
    let mut push_place = i_moved && !they_moved && may_write;
    if push_place {
        match check_my_move(trees, context, id, local) {
            MyMove::Legal => {}
            MyMove::Wait(other) => return Verdict::Wait(other),
            MyMove::NameTaken => return Verdict::RenameAside(Label::Conflict),
            MyMove::Revert => push_place = false,
        }
    }
    if trees.is_excluded(id) && !push_place && !i_edited {
        return if context.may_unload { Verdict::Pull(Pull::Delete) } else { Verdict::Frozen };
    }
    let about_content = compare_content(&mine, synced, remote, may_write);
    // An edit does not wait for a move that something unsynced may be in the way of.
    let edit_first = matches!(about_content, Some(Verdict::Push(_))) && local.place.parent != PARKED;
    if local.place != remote.place && !push_place && !edit_first {
        return Verdict::Pull(Pull::Move(remote.place.clone()));
    }
    if let Some(verdict) = about_content {
        return match verdict {
            Verdict::Push(Push::Change { content, .. }) if push_place => {
                Verdict::Push(Push::Change { place: Some(local.place.clone()), content })
            }
            verdict => verdict,
        };
    }
    if push_place {
        return Verdict::Push(Push::Change { place: Some(local.place.clone()), content: None });
    }
    Verdict::Clean
}

/// What becomes of a move that the user made and the server does not know yet.
enum MyMove {
    Legal,
    Wait(NodeId),
    NameTaken,
    /// It goes back to where the server has it: into a folder that is gone, or below itself.
    Revert,
}

fn check_my_move(trees: &Trees, context: &Context<'_>, id: NodeId, local: &Local) -> MyMove {
    let folder = local.place.parent;
    let known = trees.has_remote(folder);
    if must_go_back(trees, id, folder) {
        return MyMove::Revert;
    }
    match trees.remote_child(folder, &local.place.name.key()) {
        Some(theirs) if theirs != id && known => {
            if context.frozen.contains(&theirs) {
                MyMove::Wait(theirs)
            } else if is_moving_away(trees, theirs) || is_pending_deletion(trees, theirs) {
                MyMove::Legal
            } else {
                MyMove::NameTaken
            }
        }
        _ => MyMove::Legal,
    }
}

/// Where the server will have the node's parent once all our moves have reached it, but for those that
/// cannot be.
#[must_use]
pub fn projected_parent(trees: &Trees, id: NodeId) -> Option<NodeId> {
    let row = trees.row(id)?;
    let local = row.local.as_ref().map(|l| l.place.parent);
    let remote = row.remote.as_ref().map(|r| r.place.parent);
    let moves = moved_into(trees, id).is_some_and(|folder| !cannot_take(trees, id, folder));
    if moves || remote.is_none() { local } else { remote }
}

fn would_cycle(trees: &Trees, id: NodeId, folder: NodeId) -> bool {
    let mut at = folder;
    for _ in 0..=model::limits::TREE_DEPTH {
        if at == id {
            return true;
        }
        if at == trees.root() || trees.is_mount(at) {
            return false;
        }
        match projected_parent(trees, at) {
            Some(parent) => at = parent,
            None => return false,
        }
    }
    true
}

/// What both sides agree on by now without having told each other.
fn newly_agreed(local: &Local, synced: &Synced, remote: &Remote, mine: &Content, we_agree: bool) -> Option<Synced> {
    let mut agreed = synced.clone();
    if we_agree && !mine.same(&synced.content) {
        agreed.content = mine.clone();
    }
    if mine == &remote.content || (mine.is_folder() && remote.content.is_folder()) {
        agreed.content = remote.content.clone();
    }
    if local.place == remote.place {
        agreed.place = remote.place.clone();
    }
    (agreed != *synced).then_some(agreed)
}

/// The content's side of [`compare`], after conflicts are settled. Of two times alone, theirs wins.
fn compare_content(mine: &Content, synced: &Synced, remote: &Remote, may_write: bool) -> Option<Verdict> {
    let push = |content: &Content| Verdict::Push(Push::Change { place: None, content: Some(content.clone()) });
    if mine.same(&remote.content) {
        let they_touched = remote.content.mtime() != synced.content.mtime();
        return match &remote.content {
            Content::File(_) if mine == &remote.content => None,
            Content::File(_) if !they_touched && may_write => Some(push(mine)),
            Content::File(file) => Some(Verdict::Pull(Pull::Attributes(*file))),
            Content::Directory | Content::Mount | Content::Symlink(_) => None,
        };
    }
    if !mine.same(&synced.content) {
        return Some(push(mine));
    }
    match (mine, &remote.content) {
        (Content::File(mine), Content::File(theirs)) if mine.hash == theirs.hash => {
            Some(Verdict::Pull(Pull::Attributes(*theirs)))
        }
        _ => Some(Verdict::Pull(Pull::Replace)),
    }
}
