//! Shared folders: how a folder becomes a namespace, and who is a member of it.
//!
//! A share is shown in each member's root namespace by a mount whose id has the namespace's bits. Mount
//! and membership come and go together: who deletes the mount leaves, who is removed loses the mount.
//! The owner can do neither, or a share could be left that nobody is able to end.

use crate::commit::{unique_blocks, write_effects};
use crate::decide::Effects;
use crate::failure::{Failure, bad_request, forbidden, not_found};
use crate::paths::free_name;
use crate::service::{MetaService, News, check_linked, role};
use api::service::Identity;
use api::{
    ApiError, ErrorCode, LeaveRequest, Member, RemoveMemberRequest, Share, ShareReply, ShareRequest, SharesReply,
};
use metadata_store::port::Answer;
use metadata_store::{Account, Namespace, NodeKind, NodeRecord, Reading, StoreError, Transaction};
use model::{
    AccountId, Body, Change, DeviceId, JournalEntry, Name, NamespaceId, NodeId, Position, Role, Timestamp, limits,
};

/// Nodes of a folder that can become a share: the change is one transaction.
const SHARE_NODES: usize = 200_000;
/// Blocks that these name together: eight terabytes. Their lists are in memory more than once meanwhile.
const SHARE_BLOCKS: usize = 8 * limits::COMMIT_BLOCKS;
/// Members of one share.
const MEMBERS: usize = 1_000;

impl MetaService {
    /// `share`: invites an account into a folder of the caller's root namespace, which becomes a
    /// namespace of its own if it is none yet; only its owner may invite. For a member it sets the role.
    ///
    /// # Errors
    /// `Forbidden`, `NotFound` for a folder or an account that is not there, `BadRequest` with the
    /// reason for what cannot be shared, `Unlinked`, `Unavailable`, `NoSpace`.
    pub fn share(&self, who: Identity, request: &ShareRequest) -> Result<ShareReply, ApiError> {
        if request.role == Role::Owner {
            return Err(bad_request("a shared folder has one owner: invite as editor or viewer"));
        }
        let now = self.environment.now();
        self.write(|tx, news| {
            let guest = self.guest(tx, who, &request.email)?;
            let namespace = shared_namespace(tx, who, request, now, news)?;
            tx.lock_namespace(namespace)?;
            if role(tx, who, namespace)? != Role::Owner {
                return Err(forbidden().into());
            }
            admit(tx, who, namespace, &guest, request.role, now, news)?;
            Ok(ShareReply { namespace })
        })
    }

    /// `shares`: the shared folders of which the caller is a member.
    ///
    /// # Errors
    /// `Unlinked`, `Unavailable`.
    pub fn shares(&self, who: Identity) -> Result<SharesReply, ApiError> {
        self.snapshot(|reading| {
            check_linked(reading, who)?;
            let root = account(reading, who.account)?.root;
            let mut shares = Vec::new();
            for (namespace, role) in reading.memberships(who.account)? {
                if namespace != root {
                    shares.push(describe(reading, root, namespace, role)?);
                }
            }
            Ok(SharesReply { shares })
        })
    }

    /// `leave`: the caller gives up a shared folder, and its mount goes. An owner cannot leave.
    ///
    /// # Errors
    /// `Forbidden` for a stranger, `BadRequest` for the owner, `Unlinked`, `Unavailable`, `NoSpace`.
    pub fn leave(&self, who: Identity, request: &LeaveRequest) -> Result<(), ApiError> {
        let now = self.environment.now();
        self.write(|tx, news| {
            tx.lock_namespace(request.namespace)?;
            if role(tx, who, request.namespace)? == Role::Owner {
                return Err(bad_request(owner_hint(tx, who, request.namespace)?).into());
            }
            dismiss(tx, request.namespace, who.account, now, news)
        })
    }

    /// `remove-member`: the owner ends another's membership, and that member's mount goes.
    ///
    /// # Errors
    /// `Forbidden` for anyone but the owner, `NotFound` for an account that is no member, `BadRequest`
    /// for the owner itself, `Unlinked`, `Unavailable`, `NoSpace`.
    pub fn remove_member(&self, who: Identity, request: &RemoveMemberRequest) -> Result<(), ApiError> {
        let now = self.environment.now();
        self.write(|tx, news| {
            tx.lock_namespace(request.namespace)?;
            if role(tx, who, request.namespace)? != Role::Owner {
                return Err(forbidden().into());
            }
            let member = tx.account_by_email(request.email.trim())?.map(|account| account.account);
            match member {
                Some(member) if member == who.account => {
                    Err(bad_request(owner_hint(tx, who, request.namespace)?).into())
                }
                Some(member) if tx.role(request.namespace, member)?.is_some() => {
                    dismiss(tx, request.namespace, member, now, news)
                }
                Some(_) | None => Err(not_found(format!("{} is no member", request.email.trim())).into()),
            }
        })
    }

    fn guest(&self, tx: &dyn Transaction, who: Identity, email: &str) -> Result<Account, Failure> {
        let email = email.trim();
        let guest = tx.account_by_email(email)?;
        let guest = guest.ok_or_else(|| not_found(format!("there is no account for {email} on this server")))?;
        if guest.account == who.account {
            return Err(bad_request("the folder is yours already: invite another account").into());
        }
        Ok(guest)
    }
}

/// The namespace that the request is about: the one behind a mount, or one made of the folder.
fn shared_namespace(
    tx: &dyn Transaction,
    who: Identity,
    request: &ShareRequest,
    now: Timestamp,
    news: &mut News,
) -> Result<NamespaceId, Failure> {
    role(tx, who, request.namespace)?;
    let root = account(tx, who.account)?.root;
    if request.namespace != root {
        let is_share = request.node == request.namespace.root();
        return is_share
            .then_some(request.namespace)
            .ok_or_else(|| bad_request("a folder inside a shared folder cannot be shared on its own").into());
    }
    let old = lock(tx, root)?;
    let node = tx.node(root, request.node)?.filter(NodeRecord::is_live);
    let node = node.ok_or_else(|| not_found("there is no such folder"))?;
    match node.body {
        Body::Mount => Ok(node.node.as_namespace()),
        Body::Directory => convert(tx, who, old, node, now, news),
        Body::File { .. } | Body::Symlink { .. } => Err(bad_request("only a folder can be shared").into()),
    }
}

/// Makes a namespace of a folder: the folder becomes a mount, and its descendants move with their ids.
/// The old namespace keeps them as dead rows, so that its history still has their paths.
fn convert(
    tx: &dyn Transaction,
    who: Identity,
    old: Namespace,
    folder: NodeRecord,
    now: Timestamp,
    news: &mut News,
) -> Result<NamespaceId, Failure> {
    let shared = folder.node.as_namespace();
    tx.insert_namespace(shared).map_err(|error| match error {
        StoreError::AlreadyExists { .. } => {
            Failure::Api(ApiError::new(ErrorCode::AlreadyExists, "the folder cannot be shared: its id is taken"))
        }
        other => Failure::Store(other),
    })?;
    tx.set_member(shared, who.account, Role::Owner)?;
    let descendants = descendants(tx, old.namespace, folder.node)?;
    leave_behind(tx, who.device, old, folder, &descendants, now, news)?;
    settle_in(tx, who.device, shared, descendants, now, news)?;
    news.memberships.insert(who.account);
    Ok(shared)
}

/// In the old namespace the folder becomes a mount, in one entry.
fn leave_behind(
    tx: &dyn Transaction,
    device: DeviceId,
    old: Namespace,
    folder: NodeRecord,
    descendants: &[NodeRecord],
    now: Timestamp,
    news: &mut News,
) -> Answer<()> {
    let position = old.head.next();
    let change = Change::Edit { body: Body::Mount };
    let effects = Effects {
        entries: vec![JournalEntry { position, node: folder.node, change, device: Some(device), time: now }],
        killed: vec![(position, descendants.iter().map(|record| record.node).collect())],
        live_nodes: old.live_nodes.saturating_sub(descendants.len() as u64),
        nodes: vec![NodeRecord { body: Body::Mount, content_rev: position, ..folder }],
        ..Effects::default()
    };
    write_effects(tx, old.namespace, &effects, news)
}

/// In the new namespace the descendants are created, parents first. Its journal names their current
/// blocks only: what they held before they were shared is not for the members.
fn settle_in(
    tx: &dyn Transaction,
    device: DeviceId,
    shared: NamespaceId,
    mut descendants: Vec<NodeRecord>,
    now: Timestamp,
    news: &mut News,
) -> Answer<()> {
    let mut entries = Vec::with_capacity(descendants.len());
    for (record, number) in descendants.iter_mut().zip(1..) {
        let position = Position(number);
        (record.content_rev, record.location_rev) = (position, position);
        let change = Change::Create { parent: record.parent, name: record.name.clone(), body: record.body.clone() };
        entries.push(JournalEntry { position, node: record.node, change, device: Some(device), time: now });
    }
    let effects = Effects {
        entries,
        live_nodes: descendants.len() as u64,
        blocks: unique_blocks(descendants.iter().map(|record| &record.body)),
        nodes: descendants,
        ..Effects::default()
    };
    write_effects(tx, shared, &effects, news)
}

/// All live nodes below a folder, parents first.
fn descendants(tx: &dyn Transaction, namespace: NamespaceId, folder: NodeId) -> Result<Vec<NodeRecord>, Failure> {
    let (mut found, mut blocks) = (Vec::new(), 0);
    let mut folders = std::collections::VecDeque::from([folder]);
    while let Some(folder) = folders.pop_front() {
        for child in tx.children(namespace, folder)? {
            match child.kind {
                NodeKind::Mount => return Err(bad_request("the folder holds a shared folder").into()),
                NodeKind::Directory => folders.push_back(child.node),
                NodeKind::File | NodeKind::Symlink => {}
            }
            if found.len() >= SHARE_NODES {
                return Err(bad_request(format!("a folder to be shared holds at most {SHARE_NODES} items")).into());
            }
            let record = tx.node(namespace, child.node)?;
            blocks += record.as_ref().map_or(0, |record| record.body.blocks().len());
            if blocks > SHARE_BLOCKS {
                return Err(bad_request("a folder to be shared holds at most eight terabytes").into());
            }
            found.extend(record);
        }
    }
    Ok(found)
}

/// Makes the guest a member with a mount in its root, or sets its role.
fn admit(
    tx: &dyn Transaction,
    who: Identity,
    namespace: NamespaceId,
    guest: &Account,
    role: Role,
    now: Timestamp,
    news: &mut News,
) -> Result<(), Failure> {
    let known = tx.role(namespace, guest.account)?;
    if known.is_none() && tx.members(namespace)?.len() >= MEMBERS {
        return Err(bad_request(format!("a shared folder has at most {MEMBERS} members")).into());
    }
    tx.set_member(namespace, guest.account, role)?;
    news.memberships.insert(guest.account);
    if known.is_some() && mount(tx, guest.root, namespace)?.is_some() {
        return Ok(());
    }
    let owners_root = account(tx, who.account)?.root;
    let name = mount(tx, owners_root, namespace)?.map(|mount| mount.name);
    let name = name.ok_or_else(|| not_found("the shared folder is not in the owner's tree"))?;
    add_mount(tx, guest.root, namespace, &name, now, news)
}

/// Shows a namespace in a member's root, under a free name.
fn add_mount(
    tx: &dyn Transaction,
    root: NamespaceId,
    shared: NamespaceId,
    name: &Name,
    now: Timestamp,
    news: &mut News,
) -> Result<(), Failure> {
    let place = lock(tx, root)?;
    if tx.node(root, shared.root())?.is_some_and(|node| node.is_live() || node.body != Body::Mount) {
        return Err(ApiError::new(ErrorCode::AlreadyExists, "the member's tree has the folder already").into());
    }
    let name = free_name(name, "", |name| Ok(tx.child(root, root.root(), &name.key())?.is_some()))?;
    let position = place.head.next();
    let record = NodeRecord {
        node: shared.root(),
        parent: root.root(),
        name,
        body: Body::Mount,
        content_rev: position,
        location_rev: position,
        deleted: None,
    };
    let change = Change::Create { parent: record.parent, name: record.name.clone(), body: Body::Mount };
    let effects = Effects {
        entries: vec![JournalEntry { position, node: record.node, change, device: None, time: now }],
        live_nodes: place.live_nodes + 1,
        nodes: vec![record],
        ..Effects::default()
    };
    Ok(write_effects(tx, root, &effects, news)?)
}

/// Ends a membership, and the mount with it.
fn dismiss(
    tx: &dyn Transaction,
    shared: NamespaceId,
    member: AccountId,
    now: Timestamp,
    news: &mut News,
) -> Result<(), Failure> {
    tx.remove_member(shared, member)?;
    news.memberships.insert(member);
    let root = account(tx, member)?.root;
    let place = lock(tx, root)?;
    let Some(mount) = mount(tx, root, shared)? else { return Ok(()) };
    let position = place.head.next();
    let entry = JournalEntry { position, node: mount.node, change: Change::Delete, device: None, time: now };
    let effects = Effects {
        entries: vec![entry],
        live_nodes: place.live_nodes.saturating_sub(1),
        nodes: vec![NodeRecord { deleted: Some(position), ..mount }],
        ..Effects::default()
    };
    Ok(write_effects(tx, root, &effects, news)?)
}

fn describe(reading: &dyn Reading, root: NamespaceId, namespace: NamespaceId, role: Role) -> Answer<Share> {
    let own = mount(reading, root, namespace)?;
    let mounted = own.is_some();
    let mut name = own.map(|mount| mount.name);
    let mut members = Vec::new();
    for (member, role) in reading.members(namespace)? {
        let member = account(reading, member)?;
        if name.is_none() && role == Role::Owner {
            name = mount(reading, member.root, namespace)?.map(|mount| mount.name);
        }
        members.push(Member { email: member.email, role });
    }
    members.sort_by(|a, b| b.role.cmp(&a.role).then_with(|| a.email.cmp(&b.email)));
    Ok(Share { namespace, name, mounted, role, members })
}

/// The live mount of a share in a root namespace.
fn mount(reading: &dyn Reading, root: NamespaceId, shared: NamespaceId) -> Answer<Option<NodeRecord>> {
    let node = reading.node(root, shared.root())?;
    Ok(node.filter(|node| node.is_live() && node.body == Body::Mount))
}

fn owner_hint(reading: &dyn Reading, who: Identity, namespace: NamespaceId) -> Result<&'static str, Failure> {
    if namespace == account(reading, who.account)?.root {
        return Ok("this is your own tree, not a shared folder");
    }
    Ok(match reading.members(namespace)?.len() {
        0 | 1 => "you own this folder and are its only member: nobody else sees it, keep it or empty it",
        _ => "you own this folder: remove its other members first",
    })
}

fn lock(tx: &dyn Transaction, namespace: NamespaceId) -> Answer<Namespace> {
    let row = tx.lock_namespace(namespace)?;
    row.ok_or(StoreError::Corrupt { subject: "a root namespace is missing", source: None })
}

fn account(reading: &dyn Reading, account: AccountId) -> Answer<Account> {
    let row = reading.account(account)?;
    row.ok_or(StoreError::Corrupt { subject: "an account is missing", source: None })
}
