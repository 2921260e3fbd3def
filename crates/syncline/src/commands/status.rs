//! `status`, `activity`, `flush`, `filestatus` and `why`.

use super::Context;
use crate::arguments::StatusOptions;
use crate::output::{self, count, moment, safe, table};
use client::control::NotRunning;
use client::control::protocol::{
    ActivityReply, FileStatusEntry, FileStatusReply, FlushReply, StatusReply, WhyReply, WirePath,
};
use client::database::ActivityEntry;
use client::{ActivityKind, Command, Control, Failure, FileStatus, Phase};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

/// Moves to the first line and clears the screen from there.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Shows what syncing is doing.
pub(crate) fn status(options: &StatusOptions, context: &Context) -> Result<(), Failure> {
    if options.watch {
        return watch(context);
    }
    let status: StatusReply = context.perform(Command::Status)?;
    context.show(&status, status_text)
}

fn watch(context: &Context) -> Result<(), Failure> {
    context.config()?;
    let mut control = Control::connect(&context.home()?).map_err(NotRunning::failure)?;
    control.send(Command::Watch)?;
    let clear = if io::stdout().is_terminal() { CLEAR } else { "" };
    loop {
        let status: StatusReply = control.receive()?;
        context.show(&status, |status| format!("{clear}{}", status_text(status)))?;
    }
}

/// A phase in words.
pub(crate) fn phase_text(phase: &Phase) -> String {
    match phase {
        Phase::UpToDate => "up to date".into(),
        Phase::Syncing => "syncing".into(),
        Phase::Paused => "paused".into(),
        Phase::Offline { reason } => format!("offline: {}", safe(reason)),
        Phase::RootMissing => "stopped: the synced folder is not there".into(),
        Phase::RootReplaced => "stopped: another folder lies where the synced folder was".into(),
        Phase::Unlinked => "stopped: this device was unlinked".into(),
    }
}

fn status_text(reply: &StatusReply) -> String {
    let status = &reply.status;
    let mut rows = vec![
        ["state".into(), phase_text(&status.phase)],
        ["folder".into(), safe(&reply.folder)],
        ["server".into(), format!("{} as {}", safe(&reply.server), safe(&reply.email))],
        ["device".into(), safe(&reply.device_name)],
        ["synced".into(), count(status.synced_files, "file", "files")],
    ];
    if status.pending > 0 || status.scanning > 0 {
        let parts = [
            (status.uploading, "to upload"),
            (status.downloading, "to download"),
            (status.scanning, "folders to look at"),
        ];
        let parts = parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
        rows.push([
            "pending".into(),
            std::iter::once(status.pending.to_string()).chain(parts).collect::<Vec<_>>().join(", "),
        ]);
    }
    if status.held_deletions > 0 {
        let held = count(status.held_deletions, "deletion waits", "deletions wait");
        rows.push(["held".into(), format!("{held}: `syncline deletions confirm` or `syncline deletions undo`")]);
    }
    rows.extend(reply.trouble.iter().map(|trouble| ["trouble".into(), safe(trouble)]));
    rows.extend(reply.warnings.iter().map(|warning| ["warning".into(), safe(warning)]));
    rows.extend(
        reply
            .problem_list
            .iter()
            .map(|problem| ["problem".into(), format!("{}: {}", safe(&problem.path), safe(&problem.reason))]),
    );
    let named = reply.problem_list.len() as u64;
    if status.problems > named {
        rows.push(["problem".into(), format!("and {} more", status.problems - named)]);
    }
    table(&rows)
}

/// Shows what was synced lately.
pub(crate) fn activity(limit: usize, context: &Context) -> Result<(), Failure> {
    let reply: ActivityReply = context.perform(Command::Activity { limit })?;
    context.show(&reply, |reply| table(&reply.activity.iter().map(activity_row).collect::<Vec<_>>()))
}

fn activity_row(entry: &ActivityEntry) -> [String; 3] {
    [moment(entry.time), kind_text(entry.activity.kind).into(), activity_subject(entry)]
}

/// What an activity was about.
pub(crate) fn activity_subject(entry: &ActivityEntry) -> String {
    let path = safe(&entry.activity.path);
    match &entry.activity.detail {
        Some(detail) => format!("{path} ({})", safe(detail)),
        None => path,
    }
}

/// What an activity was, in words.
pub(crate) const fn kind_text(kind: ActivityKind) -> &'static str {
    match kind {
        ActivityKind::Uploaded => "uploaded",
        ActivityKind::Downloaded => "downloaded",
        ActivityKind::MovedLocally => "moved here",
        ActivityKind::MovedRemotely => "moved on server",
        ActivityKind::DeletedLocally => "deleted here",
        ActivityKind::DeletedRemotely => "deleted on server",
        ActivityKind::Conflict => "conflict",
        ActivityKind::KeptBeside => "kept beside",
        ActivityKind::Held => "held",
        ActivityKind::ServerChanged => "server changed",
        ActivityKind::Refilled => "filled again",
    }
}

/// Waits until everything is in sync.
pub(crate) fn flush(timeout: Option<f64>, context: &Context) -> Result<(), Failure> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked when it was parsed")]
    let timeout_ms = timeout.map(|seconds| (seconds * 1000.0) as u64);
    let reply: FlushReply = context.perform(Command::Flush { timeout_ms })?;
    if reply.problems > 0 {
        let items = count(reply.problems, "item", "items");
        output::say(&format!("warning: {items} cannot be synced; see `syncline status`"));
    }
    context.done(&reply)
}

/// Shows the state of files.
pub(crate) fn file_status(paths: &[PathBuf], context: &Context) -> Result<(), Failure> {
    let inside = paths.iter().map(|path| context.inside(path)).collect::<Result<Vec<_>, _>>()?;
    let asked = inside.iter().flatten().map(WirePath::from).collect();
    let reply: FileStatusReply = context.perform(Command::FileStatus { paths: asked })?;
    let mut known = reply.files.into_iter();
    let entry = |(path, inside): (&PathBuf, &Option<_>)| FileStatusEntry {
        path: path.display().to_string(),
        status: inside.as_ref().and_then(|_| known.next()).map_or(FileStatus::Unwatched, |entry| entry.status),
    };
    let files = paths.iter().zip(&inside).map(entry).collect();
    context.show(&FileStatusReply { files }, file_status_text)
}

/// The bare word for one path, else a line for each.
fn file_status_text(reply: &FileStatusReply) -> String {
    match reply.files.as_slice() {
        [only] => format!("{}\n", only.status.as_str()),
        files => table(&files.iter().map(|file| [file.status.as_str().into(), safe(&file.path)]).collect::<Vec<_>>()),
    }
}

/// Explains the state of a file.
pub(crate) fn why(path: &Path, context: &Context) -> Result<(), Failure> {
    let path = context.wire(path)?;
    let reply: WhyReply = context.perform(Command::Why { path })?;
    context.show(&reply, |reply| format!("{}\n", safe(&reply.explanation)))
}
