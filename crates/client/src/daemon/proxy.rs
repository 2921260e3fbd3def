//! Answers commands: from the loop, or by calls to the server.

use super::asks::{Ask, Asks};
use crate::control::protocol::{
    Command, DeviceEntry, DevicesReply, Done, Failure, FailureKind, HistoryEntry, HistoryReply, MemberEntry, PATHS,
    RestoreReply, RevisionEntry, RevisionsReply, ShareEntry, SharesReply, WirePath,
};
use crate::transport::{Transport, TransportError};
use api::Version;
use model::{Name, NamespaceId, Position, Role};
use serde::Serialize;
use std::time::Duration;
use sync_engine::io::{self as engine_io, LocalPath};
use sync_engine::status::Location;

/// Whoever answers commands.
#[derive(Clone)]
pub(crate) struct Proxy {
    asks: Asks,
    transport: Transport,
}

impl Proxy {
    pub(super) const fn new(asks: Asks, transport: Transport) -> Self {
        Self { asks, transport }
    }

    /// The loop, for who wants to watch it.
    pub(crate) const fn asks(&self) -> &Asks {
        &self.asks
    }

    /// Answers one command.
    pub(crate) async fn answer(&self, command: Command) -> Result<serde_json::Value, Failure> {
        match command {
            Command::Status | Command::Watch => json(self.asks.ask(Ask::Status).await?),
            Command::Activity { limit } => json(self.asks.ask(|answer| Ask::Activity { limit, answer }).await?),
            Command::Flush { timeout_ms } => {
                let timeout = timeout_ms.map(Duration::from_millis);
                json(self.asks.ask(|answer| Ask::Flush { timeout, answer }).await?)
            }
            Command::FileStatus { paths } => self.file_status(&paths).await,
            Command::Why { path } => {
                let path = path.parse()?;
                json(self.asks.ask(|answer| Ask::Why { path, answer }).await?)
            }
            Command::Pause => self.tell(engine_io::Command::Pause).await,
            Command::Resume => self.tell(engine_io::Command::Resume).await,
            Command::ExcludeList => json(self.asks.ask(Ask::Excluded).await?),
            Command::ExcludeAdd { path } => self.tell(engine_io::Command::Exclude(path.parse()?)).await,
            Command::ExcludeRemove { path } => self.tell(engine_io::Command::Include(path.parse()?)).await,
            Command::Settings => json(self.asks.ask(Ask::Settings).await?),
            Command::Set { setting } => {
                self.asks.ask(|answer| Ask::Set { setting, answer }).await?;
                done()
            }
            Command::ConfirmDeletions => self.tell(engine_io::Command::ConfirmDeletions).await,
            Command::UndoDeletions => self.tell(engine_io::Command::UndoDeletions).await,
            Command::RebuildIndex => self.tell(engine_io::Command::RebuildIndex).await,
            Command::Stop => {
                self.asks.ask(Ask::Stop).await?;
                done()
            }
            Command::Devices => self.devices().await,
            Command::UnlinkDevice { device } => self.unlink_device(&device).await,
            Command::History { folder, limit } => self.history(folder, limit).await,
            Command::Revisions { path, limit } => self.revisions(&path, limit).await,
            Command::Restore { path, revision } => self.restore(&path, revision).await,
            Command::Share { folder, email, role } => self.share(&folder, email, role).await,
            Command::Shares => self.shares().await,
            Command::Leave { folder } => self.leave(&folder).await,
            Command::RemoveMember { folder, email } => self.remove_member(&folder, email).await,
        }
    }

    async fn tell(&self, command: engine_io::Command) -> Result<serde_json::Value, Failure> {
        self.asks.ask(|answer| Ask::Tell { command, answer }).await?;
        done()
    }

    async fn file_status(&self, paths: &[WirePath]) -> Result<serde_json::Value, Failure> {
        if paths.len() > PATHS {
            return Err(Failure::usage(format!("these are more than {PATHS} paths")));
        }
        let paths = paths.iter().map(WirePath::parse).collect::<Result<_, _>>()?;
        json(self.asks.ask(|answer| Ask::FileStatus { paths, answer }).await?)
    }

    async fn locate(&self, path: LocalPath) -> Result<Location, Failure> {
        self.asks.ask(|answer| Ask::Locate { path, answer }).await
    }

    async fn fetch_devices(&self) -> Result<Vec<api::DeviceEntry>, Failure> {
        let reply: api::DevicesReply = self.transport.call("devices", &()).await.map_err(failure)?;
        Ok(reply.devices)
    }

    async fn devices(&self) -> Result<serde_json::Value, Failure> {
        let entry = |device: api::DeviceEntry| DeviceEntry {
            device: device.device.to_string(),
            name: device.name,
            linked: device.linked.0,
            last_seen: device.last_seen.0,
            current: device.current,
        };
        json(DevicesReply { devices: self.fetch_devices().await?.into_iter().map(entry).collect() })
    }

    /// Ends another device of the account, such as one that was lost.
    async fn unlink_device(&self, wanted: &str) -> Result<serde_json::Value, Failure> {
        let devices = self.fetch_devices().await?;
        let by_id = devices.iter().find(|device| device.device.to_string() == wanted);
        let named: Vec<&api::DeviceEntry> = devices.iter().filter(|device| device.name == wanted).collect();
        let found = match (by_id, &*named) {
            (Some(device), _) | (None, &[device]) => device,
            (None, &[]) => {
                let unknown = Failure::failed(format!("the account has no device `{wanted}`"));
                return Err(unknown.with_hint("see `syncline devices`"));
            }
            (None, _) => {
                let many = Failure::usage(format!("{} devices are called `{wanted}`", named.len()));
                return Err(many.with_hint("name one by its id; `syncline devices --json` lists them"));
            }
        };
        if found.current {
            return Err(Failure::usage("that is this device").with_hint("run `syncline unlink`"));
        }
        let request = api::UnlinkRequest { device: Some(found.device) };
        let () = self.transport.call("unlink", &request).await.map_err(failure)?;
        done()
    }

    async fn history(&self, folder: Option<WirePath>, limit: u32) -> Result<serde_json::Value, Failure> {
        let path = folder.map_or_else(|| Ok(LocalPath::root()), |folder| folder.parse())?;
        let location = self.locate(path.clone()).await?;
        let mut entries: Vec<api::HistoryEntry> = Vec::new();
        while let Some(limit) = still_wanted(limit, entries.len()) {
            let before = entries.last().map(|entry| entry.position);
            let request = api::HistoryRequest { namespace: location.namespace, before, limit };
            let reply: api::HistoryReply = self.transport.call("history", &request).await.map_err(failure)?;
            if reply.entries.is_empty() {
                break;
            }
            entries.extend(reply.entries);
        }
        let mount = Mount::of(&path, &location);
        let entry = |entry: api::HistoryEntry| HistoryEntry {
            position: entry.position.0,
            action: entry.action,
            path: mount.join(&entry.path),
            device: entry.device_name,
            account: entry.account_email,
            time: entry.time.0,
        };
        json(HistoryReply { entries: entries.into_iter().map(entry).collect() })
    }

    async fn revisions(&self, path: &WirePath, limit: u32) -> Result<serde_json::Value, Failure> {
        let path = path.parse()?;
        let (location, mut revisions) = self.find_revisions(&path, None, limit).await?;
        while let Some(limit) = still_wanted(limit, revisions.len()) {
            let before = revisions.last().map(|revision| revision.position);
            let page = self.fetch_revisions(&location, before, limit).await?;
            if page.is_empty() {
                break;
            }
            revisions.extend(page);
        }
        let revisions = revisions.into_iter().map(revision_entry).collect();
        json(RevisionsReply { path: path.to_string(), revisions })
    }

    /// The newest revisions at a path, and where the server has them: in a shared folder it may have had none since it is one,
    /// but before.
    async fn find_revisions(
        &self,
        path: &LocalPath,
        before: Option<Position>,
        limit: u32,
    ) -> Result<(Location, Vec<api::Revision>), Failure> {
        let location = self.locate(path.clone()).await?;
        let revisions = self.fetch_revisions(&location, before, limit).await?;
        let root = self.locate(LocalPath::root()).await?.namespace;
        if !revisions.is_empty() || location.namespace == root {
            return Ok((location, revisions));
        }
        let names = path.components().map(|name| Name::parse_bytes(name).ok()).collect::<Option<_>>();
        let earlier = Location { namespace: root, node: None, path: names.unwrap_or_default() };
        let revisions = self.fetch_revisions(&earlier, before, limit).await?;
        Ok(if revisions.is_empty() { (location, revisions) } else { (earlier, revisions) })
    }

    async fn fetch_revisions(
        &self,
        location: &Location,
        before: Option<Position>,
        limit: u32,
    ) -> Result<Vec<api::Revision>, Failure> {
        let (namespace, path) = (location.namespace, location.path.clone());
        let request = api::RevisionsRequest { namespace, path, before, limit };
        let reply: api::RevisionsReply = self.transport.call("revisions", &request).await.map_err(failure)?;
        Ok(reply.revisions)
    }

    async fn restore(&self, path: &WirePath, revision: Option<u64>) -> Result<serde_json::Value, Failure> {
        let path = path.parse()?;
        let before = revision.map(|revision| Position(revision.saturating_add(1)));
        let (location, mut newest) = self.find_revisions(&path, before, 1).await?;
        let (node, position) = pick_version(&path, newest.pop(), revision)?;
        let request = api::RestoreRequest { namespace: location.namespace, node, position };
        let reply: api::RestoreReply = self.transport.call("restore", &request).await.map_err(failure)?;
        json(RestoreReply { path: Mount::of(&path, &location).join(&reply.path), restored: reply.nodes })
    }

    async fn share(&self, folder: &WirePath, email: String, role: Role) -> Result<serde_json::Value, Failure> {
        let path = folder.parse()?;
        let location = self.locate(path.clone()).await?;
        let unknown = || {
            Failure::failed(format!("the server does not know the folder `{path}` yet"))
                .with_hint("run `syncline flush` and try again")
        };
        let node = location.node.ok_or_else(unknown)?;
        let request = api::ShareRequest { namespace: location.namespace, node, email, role };
        let _: api::ShareReply = self.transport.call("share", &request).await.map_err(failure)?;
        done()
    }

    async fn fetch_shares(&self) -> Result<Vec<api::Share>, Failure> {
        let reply: api::SharesReply = self.transport.call("shares", &()).await.map_err(failure)?;
        Ok(reply.shares)
    }

    async fn shares(&self) -> Result<serde_json::Value, Failure> {
        let member = |member: api::Member| MemberEntry { email: member.email, role: member.role };
        let entry = |share: api::Share| ShareEntry {
            namespace: share.namespace.to_string(),
            name: share.name.map(|name| name.to_string()),
            mounted: share.mounted,
            role: share.role,
            members: share.members.into_iter().map(member).collect(),
        };
        json(SharesReply { shares: self.fetch_shares().await?.into_iter().map(entry).collect() })
    }

    /// The shared folder at a path; of one that is not on this device, the name is enough.
    async fn find_share(&self, folder: &WirePath) -> Result<NamespaceId, Failure> {
        let path = folder.parse()?;
        let shares = self.fetch_shares().await?;
        let location = self.locate(path.clone()).await?;
        let mounted = location.node.map(model::NodeId::as_namespace);
        let named = |share: &&api::Share| {
            path.split()
                .is_some_and(|(_, last)| share.name.as_ref().is_some_and(|name| name.as_str().as_bytes() == last))
        };
        let found = shares
            .iter()
            .find(|share| {
                Some(share.namespace) == mounted || share.namespace == location.namespace && location.path.is_empty()
            })
            .or_else(|| shares.iter().find(named).filter(|_| location.node.is_none()));
        let none =
            || Failure::failed(format!("`{path}` is not a shared folder")).with_hint("see `syncline share list`");
        found.map(|share| share.namespace).ok_or_else(none)
    }

    async fn leave(&self, folder: &WirePath) -> Result<serde_json::Value, Failure> {
        let request = api::LeaveRequest { namespace: self.find_share(folder).await? };
        let () = self.transport.call("leave", &request).await.map_err(failure)?;
        done()
    }

    async fn remove_member(&self, folder: &WirePath, email: String) -> Result<serde_json::Value, Failure> {
        let request = api::RemoveMemberRequest { namespace: self.find_share(folder).await?, email };
        let () = self.transport.call("remove-member", &request).await.map_err(failure)?;
        done()
    }
}

/// Where a namespace begins in this device's tree: paths that the server gives are below it.
struct Mount {
    prefix: String,
}

impl Mount {
    /// From a path and the part of it that lies inside the namespace.
    fn of(path: &LocalPath, location: &Location) -> Self {
        let components: Vec<String> =
            path.components().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let outside = components.len().saturating_sub(location.path.len());
        Self { prefix: components[..outside].join("/") }
    }

    fn join(&self, path: &[Name]) -> String {
        let inside = path.iter().map(Name::as_str);
        let outside = Some(self.prefix.as_str()).filter(|prefix| !prefix.is_empty());
        outside.into_iter().chain(inside).collect::<Vec<_>>().join("/")
    }
}

/// How many more of a list are wanted of which the server tells a part at a time.
fn still_wanted(limit: u32, there: usize) -> Option<u32> {
    let there = u32::try_from(there).unwrap_or(u32::MAX);
    Some(limit.saturating_sub(there)).filter(|left| *left > 0)
}

/// Which node to bring back, and in which version (`None`: the last before its deletion): of the newest revision up to the
/// one that is wanted.
fn pick_version(
    path: &LocalPath,
    newest: Option<api::Revision>,
    wanted: Option<u64>,
) -> Result<(model::NodeId, Option<Position>), Failure> {
    let hint = format!("see `syncline revs {path}`");
    let nothing = || Failure::failed(format!("the server knows no version of `{path}`"));
    match wanted {
        Some(wanted) => {
            let unknown = || Failure::failed(format!("`{path}` has no version {wanted}")).with_hint(&hint);
            let found = newest.filter(|revision| revision.position.0 == wanted).ok_or_else(unknown)?;
            Ok((found.node, (found.version != Version::Deleted).then_some(found.position)))
        }
        None => {
            let newest = newest.ok_or_else(nothing)?;
            if newest.version != Version::Deleted {
                let present = Failure::usage(format!("`{path}` exists: say which version of it to bring back"));
                return Err(present.with_hint(format!("{hint}, then name one with `--rev N`")));
            }
            Ok((newest.node, None))
        }
    }
}

fn revision_entry(revision: api::Revision) -> RevisionEntry {
    let (kind, described) = match revision.version {
        Version::Deleted => ("deleted", None),
        Version::Directory => ("folder", None),
        Version::File { size, content } => ("file", Some((size, content))),
        Version::Symlink => ("link", None),
        Version::Mount => ("shared folder", None),
    };
    RevisionEntry {
        revision: revision.position.0,
        node: revision.node.to_string(),
        kind: kind.into(),
        size: described.map(|(size, _)| size),
        content_hash: described.map(|(_, hash)| hash.to_string()),
        device: revision.device_name,
        time: revision.time.0,
    }
}

/// A call's error in words for a person.
fn failure(error: TransportError) -> Failure {
    let kind = match &error {
        TransportError::Refused(refusal) if refusal.code == api::ErrorCode::BadRequest => FailureKind::Usage,
        _ => FailureKind::Failed,
    };
    Failure { kind, ..Failure::from_error(&error, error.hint()) }
}

fn json<T: Serialize>(value: T) -> Result<serde_json::Value, Failure> {
    serde_json::to_value(value).map_err(|error| Failure::from_error(&error, None))
}

fn done() -> Result<serde_json::Value, Failure> {
    json(Done { done: true })
}
