//! Commands and answers. The answers are also what `--json` prints, so their names are a contract.

use crate::database::ActivityEntry;
use crate::settings::{Setting, Settings};
use model::Role;
use serde::{Deserialize, Serialize};
use std::error::Error;
use sync_engine::io::LocalPath;
use sync_engine::status::{FileStatus, Problem, Status};

/// The version of the protocol. Both ends come from one program, so there is no older one to serve.
pub const VERSION: u32 = 2;
/// Bytes of one line, in either direction.
pub const LINE_BYTES: usize = 16 * 1024 * 1024;
/// Paths in one question.
pub const PATHS: usize = 10_000;
/// Problems that a status names one by one.
pub const PROBLEMS: usize = 100;

/// One request line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    pub version: u32,
    #[serde(flatten)]
    pub command: Command,
}

/// One reply line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    Ok(serde_json::Value),
    Error(Failure),
}

/// What the command line asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Command {
    Status,
    /// A status line at once, and another whenever it changes, until the connection ends.
    Watch,
    Activity {
        limit: usize,
    },
    Flush {
        timeout_ms: Option<u64>,
    },
    FileStatus {
        paths: Vec<WirePath>,
    },
    Why {
        path: WirePath,
    },
    Pause,
    Resume,
    ExcludeList,
    ExcludeAdd {
        path: WirePath,
    },
    ExcludeRemove {
        path: WirePath,
    },
    Settings,
    Set {
        setting: Setting,
    },
    ConfirmDeletions,
    UndoDeletions,
    RebuildIndex,
    Stop,
    Devices,
    UnlinkDevice {
        /// Its name or its id.
        device: String,
    },
    History {
        folder: Option<WirePath>,
        limit: u32,
    },
    Revisions {
        path: WirePath,
        limit: u32,
    },
    Restore {
        path: WirePath,
        revision: Option<u64>,
    },
    Share {
        folder: WirePath,
        email: String,
        role: Role,
    },
    Shares,
    Leave {
        folder: WirePath,
    },
    RemoveMember {
        folder: WirePath,
        email: String,
    },
}

/// A path below the synced folder, on the wire: text where it is UTF-8, else its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum WirePath {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<&LocalPath> for WirePath {
    fn from(path: &LocalPath) -> Self {
        match std::str::from_utf8(path.as_bytes()) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(path.as_bytes().to_vec()),
        }
    }
}

impl WirePath {
    /// The path, if it is one.
    ///
    /// # Errors
    /// A [`Failure`] for what leaves the folder.
    pub fn parse(&self) -> Result<LocalPath, Failure> {
        let bytes = match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        };
        LocalPath::from_bytes(bytes).ok_or_else(|| Failure::usage("this is not a path inside the synced folder"))
    }
}

/// Why a command was not done; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// A retry may help.
    Failed,
    Usage,
    /// Stopped for safety until a person decides.
    Unsafe,
}

/// An error in words for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
    /// What caused it, the outermost first.
    #[serde(default)]
    pub causes: Vec<String>,
    #[serde(default)]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without causes.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Failed, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// A command that makes no sense.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Usage, ..Self::failed(message) }
    }

    /// Something that waits for a person's decision.
    #[must_use]
    pub fn stopped_for_safety(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Unsafe, ..Self::failed(message) }
    }

    /// From an error with its chain of causes.
    #[must_use]
    pub fn from_error(error: &dyn Error, hint: Option<String>) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        Self { causes, hint, ..Self::failed(error.to_string()) }
    }

    /// The same with advice.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReply {
    #[serde(flatten)]
    pub status: Status,
    /// The first of the problems.
    pub problem_list: Vec<Problem>,
    /// What keeps the daemon itself from working, such as a full disk under its database.
    pub trouble: Option<String>,
    /// What slows it down, such as a limit of the system.
    pub warnings: Vec<String>,
    pub folder: String,
    pub server: String,
    pub email: String,
    pub device_name: String,
}

/// `activity`: the newest last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActivityReply {
    pub activity: Vec<ActivityEntry>,
}

/// `flush`, when all is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlushReply {
    pub flushed: bool,
    /// Items that could not be synced; `status` names them.
    pub problems: u64,
}

/// `filestatus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatusReply {
    pub files: Vec<FileStatusEntry>,
}

/// One path of `filestatus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatusEntry {
    pub path: String,
    pub status: FileStatus,
}

/// `why`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhyReply {
    pub path: String,
    pub status: FileStatus,
    pub explanation: String,
}

/// `exclude list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExcludedReply {
    pub excluded: Vec<String>,
}

/// `config list`: values as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsReply {
    pub settings: Vec<SettingEntry>,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingEntry {
    pub key: String,
    pub value: String,
}

impl From<Settings> for SettingsReply {
    fn from(settings: Settings) -> Self {
        let entry = |setting: Setting| SettingEntry { key: setting.key().to_owned(), value: setting.text() };
        Self { settings: settings.all().map(entry).collect() }
    }
}

/// `devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicesReply {
    pub devices: Vec<DeviceEntry>,
}

/// One linked device. Times are milliseconds since 1970-01-01 UTC, here as everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEntry {
    pub device: String,
    pub name: String,
    pub linked: i64,
    pub last_seen: i64,
    pub current: bool,
}

/// `history`: the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryReply {
    pub entries: Vec<HistoryEntry>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    pub position: u64,
    pub action: api::HistoryAction,
    pub path: String,
    pub device: Option<String>,
    pub account: Option<String>,
    pub time: i64,
}

/// `revs`: the newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionsReply {
    pub path: String,
    pub revisions: Vec<RevisionEntry>,
}

/// One version of what was at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionEntry {
    /// What `restore --rev` takes.
    pub revision: u64,
    pub node: String,
    /// `file`, `folder`, `link`, `shared folder` or `deleted`.
    pub kind: String,
    pub size: Option<u64>,
    pub content_hash: Option<String>,
    pub device: Option<String>,
    pub time: i64,
}

/// `restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReply {
    /// Where the restored file or folder is now.
    pub path: String,
    /// Files and folders that were brought back.
    pub restored: u32,
}

/// `share list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharesReply {
    pub shares: Vec<ShareEntry>,
}

/// A shared folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareEntry {
    pub namespace: String,
    pub name: Option<String>,
    pub mounted: bool,
    pub role: Role,
    pub members: Vec<MemberEntry>,
}

/// A member of a shared folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberEntry {
    pub email: String,
    pub role: Role,
}

/// The answer to a command that only does something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    pub done: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_flat_objects() {
        let request = Request { version: VERSION, command: Command::Why { path: WirePath::Text("a/b".into()) } };
        let line = serde_json::to_string(&request).expect("serializes");
        assert_eq!(line, r#"{"version":2,"command":"why","path":"a/b"}"#);
        assert_eq!(serde_json::from_str::<Request>(&line).expect("reads back"), request);
    }

    #[test]
    fn paths_that_are_not_utf8_travel_as_bytes() {
        let path = LocalPath::from_bytes(b"a/\xff").expect("a path");
        let line = serde_json::to_string(&WirePath::from(&path)).expect("serializes");
        assert_eq!(serde_json::from_str::<WirePath>(&line).expect("reads").parse(), Ok(path));
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for text in ["../x", "a/../b", "/etc/passwd", "a//b", "a\0"] {
            assert!(WirePath::Text(text.into()).parse().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_failure_keeps_its_causes() {
        let cause = std::io::Error::other("the cause");
        let error = crate::home::HomeError::Io { path: "/x".into(), source: cause };
        let failure = Failure::from_error(&error, None);
        assert_eq!((failure.message.as_str(), failure.causes), ("cannot use /x", vec!["the cause".to_owned()]));
    }
}
