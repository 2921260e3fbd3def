//! What happens in one history, as a structure that can be stored, replayed and shrunk.

use crate::chance::Chance;
use crate::disk::Habits;
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;

/// A whole history: its conditions, and what happens in it, in order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Decides delays, losses and other small faults.
    pub seed: u64,
    pub knobs: Knobs,
    pub steps: Vec<Step>,
    /// What a user did between two calls of a job.
    pub interrupts: Vec<Interruption>,
}

/// The conditions of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Knobs {
    pub devices: Vec<DeviceKnobs>,
    /// Chances in 1,000.
    pub net: NetKnobs,
    pub local: LocalKnobs,
    #[serde(default)]
    pub server: ServerKnobs,
    /// Milliseconds that a request or a job takes at most.
    pub slowest_ms: u64,
    /// Whether the second account is a viewer of the folder that the first one shares.
    pub share: Option<ShareRole>,
    /// Whether blocks travel compressed, as deltas and along with the changes. Not in histories that were stored before they
    /// did.
    #[serde(default)]
    pub thrift: bool,
}

/// What the second account may do in the shared folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareRole {
    Editor,
    Viewer,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeviceKnobs {
    /// The number of its account.
    pub account: usize,
    pub habits: Habits,
    /// Chance in 1,000 that a hint of the watcher is late by seconds.
    pub late_hints: u32,
    /// Chance in 1,000 that a hint never comes.
    pub lost_hints: u32,
    /// How many deletions are held for a person's word; `None`: more than there ever are.
    #[serde(default)]
    pub guard: Option<Guard>,
}

/// From how many deletions on, and from which share of all files, a person is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    pub count: u64,
    pub percent: u8,
}

/// Chances in 1,000 that the network does this to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct NetKnobs {
    pub lose_request: u32,
    pub lose_reply: u32,
    pub duplicate: u32,
    pub proxy_page: u32,
    /// The body breaks off on the way, up or down.
    pub truncate: u32,
    /// A notification is lost.
    pub lose_notification: u32,
    /// A bit of the blocks in a body is changed on the way, up or down.
    #[serde(default)]
    pub damage: u32,
}

/// Chances in 1,000 for one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LocalKnobs {
    /// A user acts between two calls.
    pub interrupt: u32,
    /// A call fails.
    pub error: u32,
    /// The client is killed between two calls, or between two actions.
    pub kill: u32,
    /// The power fails between two calls.
    pub power: u32,
}

/// Chances in 1,000 for one call of the server's, or one call to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServerKnobs {
    /// A store fails, before or after it has done what it was asked.
    pub store_error: u32,
    /// Between two calls of one transfer the server restarts, is restored or emptied, or removes what is unused.
    #[serde(default)]
    pub strike: u32,
}

/// Something that happens from outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Milliseconds after the step before.
    pub after_ms: u64,
    pub act: Act,
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Act {
    User {
        device: usize,
        op: UserOp,
    },
    Device {
        device: usize,
        event: DeviceEvent,
    },
    Server(ServerEvent),
    /// All faults end; everything must come to rest and agree.
    Quiesce,
}

/// What a user's programs do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UserOp {
    Write {
        path: String,
        content: Content,
    },
    /// Writes a new file beside it and renames that over it, as editors do.
    SaveAtomically {
        path: String,
        content: Content,
    },
    /// Opens the file and writes a first piece, in place of what it held.
    BeginSlowWrite {
        path: String,
        content: Content,
    },
    /// Appends a piece to the file that is open.
    ContinueSlowWrite {
        content: Content,
    },
    EndSlowWrite,
    Append {
        path: String,
        content: Content,
    },
    /// Writes before what the file holds, which moves all of it.
    Prepend {
        path: String,
        content: Content,
    },
    Truncate {
        path: String,
        len: u64,
    },
    Copy {
        from: String,
        to: String,
    },
    Delete {
        path: String,
    },
    DeleteTree {
        path: String,
    },
    Rename {
        from: String,
        to: String,
    },
    MakeDirectory {
        path: String,
    },
    Symlink {
        path: String,
        target: String,
    },
    SetExecutable {
        path: String,
        executable: bool,
    },
    Touch {
        path: String,
        mtime_s: i64,
    },
}

/// The bytes of a file: a text, spaces behind it, and behind these what does not compress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub text: String,
    pub padding: u32,
    /// Of what all contents have in common: two that have much of it resemble each other.
    #[serde(default)]
    pub noise: u32,
}

/// The most noise in one content, in bytes.
pub const NOISE_BYTES: u32 = 1024 * 1024;

fn noise() -> &'static [u8] {
    static NOISE: OnceLock<Vec<u8>> = OnceLock::new();
    NOISE.get_or_init(|| {
        let mut bytes = vec![0; usize::try_from(NOISE_BYTES).unwrap_or(0)];
        Chance::new(0x4015e).fill(&mut bytes);
        bytes
    })
}

impl Content {
    /// A content without padding.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self { text: text.to_owned(), padding: 0, noise: 0 }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let padding = usize::try_from(self.padding).unwrap_or(0);
        let noise = if self.noise == 0 { &[] } else { noise() };
        let noise = noise.get(..usize::try_from(self.noise).unwrap_or(0)).unwrap_or(noise);
        let mut bytes = Vec::with_capacity(self.text.len() + padding + noise.len());
        bytes.extend_from_slice(self.text.as_bytes());
        bytes.resize(self.text.len() + padding, b' ');
        bytes.extend_from_slice(noise);
        bytes
    }
}

/// What happens to one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceEvent {
    Pause,
    Resume,
    Exclude {
        path: String,
    },
    Include {
        path: String,
    },
    /// Killed, and started again after a while.
    Kill {
        down_ms: u64,
    },
    PowerLoss {
        down_ms: u64,
    },
    /// No request gets through, in either direction.
    Partition {
        ms: u64,
    },
    Unmount {
        ms: u64,
    },
    EmptyRoot {
        ms: u64,
    },
    /// The wall clock jumps.
    ClockJump {
        ms: i64,
    },
    /// The client's database is kept aside for a later rollback.
    SaveDatabase,
    /// The client is killed and finds the database that was kept aside, or none.
    RollBackDatabase,
    LoseDatabase,
    /// The whole device, files and database, becomes what it was when the database was kept aside, as when
    /// a person restores a backup.
    RestoreBackup,
    /// Nothing that the client writes finds space on the disk.
    FillDisk {
        ms: u64,
    },
    /// The watcher loses events: it says so.
    Overflow,
    /// The person says that held deletions are meant, or that they are not.
    ConfirmDeletions,
    UndoDeletions,
}

/// What happens to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServerEvent {
    Restart {
        down_ms: u64,
    },
    Save,
    /// The database becomes what it was when it was saved, and the epoch rises.
    Restore,
    /// Nothing is left but accounts and devices; the instance is another.
    Empty,
    /// The server's wall clock jumps.
    ClockJump {
        ms: i64,
    },
    /// The owner of the shared folder takes its member off it, and lets it in again.
    RemoveMember,
    InviteMember,
    /// A day passes for the clean-up of blocks.
    CleanUpDay,
    /// The clean-up of blocks runs.
    CleanUp,
    /// It runs in the middle of the next upload.
    CleanUpDuringUpload,
}

/// A user's operation between two calls of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interruption {
    pub device: usize,
    /// The device's how-manieth job.
    pub job: u64,
    /// Before which of its calls.
    pub call: u32,
    pub op: UserOp,
}
