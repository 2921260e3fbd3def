//! `devices`, `history`, `revs` and `restore`: what the server knows.

use super::Context;
use crate::arguments::DevicesVerb;
use crate::output::{self, moment, safe, table};
use api::HistoryAction;
use client::control::protocol::{
    DeviceEntry, DevicesReply, Done, HistoryEntry, HistoryReply, RestoreReply, RevisionEntry, RevisionsReply,
};
use client::{Command, Failure};
use std::path::Path;

/// Lists the devices of the account, or ends one.
pub(crate) fn devices(verb: Option<&DevicesVerb>, context: &Context) -> Result<(), Failure> {
    if let Some(DevicesVerb::Unlink { device }) = verb {
        let done: Done = context.perform(Command::UnlinkDevice { device: device.clone() })?;
        return context.show(&done, |_| format!("unlinked {}; the files on it stay there\n", safe(device)));
    }
    let reply: DevicesReply = context.perform(Command::Devices)?;
    let row = |device: &DeviceEntry| {
        let here = if device.current { "this device" } else { "" };
        let (linked, seen) = (moment(device.linked), moment(device.last_seen));
        [safe(&device.name), format!("linked {linked}"), format!("last seen {seen}"), here.into()]
    };
    context.show(&reply, |reply| table(&reply.devices.iter().map(row).collect::<Vec<_>>()))
}

/// Lists what changed on the server.
pub(crate) fn history(folder: Option<&Path>, limit: u32, context: &Context) -> Result<(), Failure> {
    let folder = folder.map(|folder| context.wire(folder)).transpose()?;
    let reply: HistoryReply = context.perform(Command::History { folder, limit })?;
    let row = |entry: &HistoryEntry| {
        let who = entry.device.as_deref().unwrap_or("the server");
        [moment(entry.time), action_text(entry.action).into(), safe(&entry.path), format!("by {}", safe(who))]
    };
    context.show(&reply, |reply| table(&reply.entries.iter().map(row).collect::<Vec<_>>()))
}

const fn action_text(action: HistoryAction) -> &'static str {
    match action {
        HistoryAction::Created => "created",
        HistoryAction::Edited => "edited",
        HistoryAction::Moved => "moved",
        HistoryAction::Deleted => "deleted",
        HistoryAction::Shared => "shared",
    }
}

/// Lists the versions of a file.
pub(crate) fn revisions(path: &Path, limit: u32, context: &Context) -> Result<(), Failure> {
    let path = context.wire(path)?;
    let reply: RevisionsReply = context.perform(Command::Revisions { path, limit })?;
    let row = |revision: &RevisionEntry| {
        let who = revision.device.as_deref().unwrap_or("the server");
        [
            revision.revision.to_string(),
            moment(revision.time),
            revision.kind.clone(),
            revision.size.map(output::size).unwrap_or_default(),
            format!("by {}", safe(who)),
        ]
    };
    context.show(&reply, |reply| table(&reply.revisions.iter().map(row).collect::<Vec<_>>()))
}

/// Brings back what was deleted, or a version.
pub(crate) fn restore(path: &Path, revision: Option<u64>, context: &Context) -> Result<(), Failure> {
    let path = context.wire(path)?;
    let reply: RestoreReply = context.perform(Command::Restore { path, revision })?;
    context.show(&reply, |reply| format!("restored {}\n", safe(&reply.path)))
}
