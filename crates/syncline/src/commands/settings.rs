//! `pause`, `resume`, `exclude`, `bandwidth-limit`, `config`, `deletions` and `rebuild-index`.

use super::Context;
use crate::arguments::{ConfigVerb, DeletionsVerb, ExcludeVerb};
use crate::output::{self, safe, table};
use client::control::protocol::{Done, ExcludedReply, SettingEntry, SettingsReply};
use client::settings::{Setting, SettingError};
use client::{Command, Failure, FailureKind, device};

/// Pauses syncing.
pub(crate) fn pause(context: &Context) -> Result<(), Failure> {
    context.order(Command::Pause)
}

/// Goes on after a pause.
pub(crate) fn resume(context: &Context) -> Result<(), Failure> {
    context.order(Command::Resume)
}

/// Chooses what stays off this device.
pub(crate) fn exclude(verb: &ExcludeVerb, context: &Context) -> Result<(), Failure> {
    match verb {
        ExcludeVerb::List => {
            let reply: ExcludedReply = context.perform(Command::ExcludeList)?;
            context.show(&reply, |reply| reply.excluded.iter().map(|path| safe(path) + "\n").collect())
        }
        ExcludeVerb::Add { path } => context.order(Command::ExcludeAdd { path: context.wire(path)? }),
        ExcludeVerb::Remove { path } => context.order(Command::ExcludeRemove { path: context.wire(path)? }),
    }
}

/// Limits the bandwidth in both directions.
pub(crate) fn bandwidth(up: &str, down: &str, context: &Context) -> Result<(), Failure> {
    let (up, down) = (parse("upload-limit", up)?, parse("download-limit", down)?);
    let _: Done = context.perform(Command::Set { setting: up })?;
    context.order(Command::Set { setting: down })
}

/// Shows and changes settings.
pub(crate) fn config(verb: &ConfigVerb, context: &Context) -> Result<(), Failure> {
    match verb {
        ConfigVerb::Set { key, value } => context.order(Command::Set { setting: parse(key, value)? }),
        ConfigVerb::List => {
            let reply: SettingsReply = context.perform(Command::Settings)?;
            let row = |entry: &SettingEntry| [entry.key.clone(), entry.value.clone()];
            context.show(&reply, |reply| table(&reply.settings.iter().map(row).collect::<Vec<_>>()))
        }
        ConfigVerb::Get { key } => {
            let reply: SettingsReply = context.perform(Command::Settings)?;
            let found = reply.settings.into_iter().find(|entry| entry.key == *key);
            let entry = found.ok_or_else(|| setting_failure(&SettingError::UnknownKey { key: key.clone() }))?;
            context.show(&entry, |entry| format!("{}\n", entry.value))
        }
    }
}

/// Decides on held deletions.
pub(crate) fn deletions(verb: DeletionsVerb, context: &Context) -> Result<(), Failure> {
    context.order(match verb {
        DeletionsVerb::Confirm => Command::ConfirmDeletions,
        DeletionsVerb::Undo => Command::UndoDeletions,
    })
}

/// Reads all local files again, or builds the database anew.
pub(crate) fn rebuild_index(anew: bool, context: &Context) -> Result<(), Failure> {
    let reply: serde_json::Value = if anew {
        let rebuilt = device::rebuild_index_anew(&context.home()?);
        let rebuilt = rebuilt.map_err(|error| Failure::from_error(&error, error.hint()))?;
        serde_json::to_value(rebuilt).map_err(|error| Failure::from_error(&error, None))?
    } else {
        context.perform(Command::RebuildIndex)?
    };
    if let Some(aside) = reply.get("set_aside").and_then(serde_json::Value::as_str) {
        output::say(&format!("the old database is now {}", safe(aside)));
        output::say("run `syncline start`: your files and the server's are merged, nothing is deleted");
    }
    context.done(&reply)
}

fn parse(key: &str, value: &str) -> Result<Setting, Failure> {
    Setting::parse(key, value).map_err(|error| setting_failure(&error))
}

fn setting_failure(error: &SettingError) -> Failure {
    Failure { kind: FailureKind::Usage, ..Failure::from_error(error, Some(error.hint())) }
}
