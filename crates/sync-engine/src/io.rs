//! The seam between the engine and its driver: events in, actions out.
//!
//! The driver (the daemon, or the simulation) performs [`Action`]s and reports each result as an
//! [`Event`]. Actions are performed in order; a [`Action::Persist`] is durable in the client database
//! before any later action starts. Jobs and requests run concurrently with one another and end in any
//! order.

use crate::tree::{FileContent, NodeRow, Synced};
use api::{
    AnnounceRequest, ApiError, ChangesReply, ChangesRequest, ComingReply, ComingRequest, MissingReply, MissingRequest,
    Notification, SentCommit, ServerReply,
};
use model::{
    BlockHash, Blocklist, Commit, CommitOutcome, ContentHash, Cursor, Epoch, InstanceId, Mtime, NamespaceId, NodeId,
    Role,
};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// A path below the synced folder's root: the names as the disk has them, joined by `/`; empty for the
/// root itself. Bytes, since a disk may hold names that are not UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct LocalPath(Vec<u8>);

impl LocalPath {
    /// The synced folder itself.
    #[must_use]
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// A path from bytes joined by `/`, if no component is empty, `.` or `..`.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let plain = |name: &[u8]| !matches!(name, b"" | b"." | b"..") && !name.contains(&0);
        (bytes.is_empty() || bytes.split(|b| *b == b'/').all(plain)).then(|| Self(bytes.to_vec()))
    }

    /// The path of the child `name`, which must be one plain component.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        debug_assert!(!name.is_empty() && !name.contains(&b'/'), "not a component: {name:?}");
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// The bytes, joined by `/`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the synced folder itself.
    #[must_use]
    pub const fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The folder and the last component; `None` for the root.
    #[must_use]
    pub fn split(&self) -> Option<(Self, &[u8])> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.iter().rposition(|b| *b == b'/') {
            Some(slash) => (Self(self.0[..slash].to_vec()), &self.0[slash + 1..]),
            None => (Self::root(), &self.0),
        })
    }

    /// The components, from the top.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|name| !name.is_empty())
    }
}

impl fmt::Display for LocalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for LocalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// What kind of thing a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    /// A socket, fifo or device: reported, never synced.
    Other,
}

/// What identifies one state of one file on disk. Two equal fingerprints mean equal content, if the
/// content was read when the change time already lay in the past of the file system's clock, or if the
/// file system gives each change of a file that was looked at a change time of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    pub device: u64,
    pub inode: u64,
    /// Birth time in nanoseconds, where the file system has it: tells a reused inode from a moved file.
    pub birth: Option<i64>,
    /// Bytes.
    pub size: u64,
    pub mtime: Mtime,
    /// Change time in nanoseconds.
    pub ctime: i64,
    /// The owner's execute bit.
    pub executable: bool,
}

impl Fingerprint {
    /// Of something that was not looked at yet; no file has it.
    pub const UNKNOWN: Self =
        Self { device: 0, inode: 0, birth: None, size: 0, mtime: Mtime(0), ctime: 0, executable: false };
}

/// A directory entry as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The name as the disk has it.
    pub name: Box<[u8]>,
    pub kind: FileKind,
    pub print: Fingerprint,
    /// The target of a symlink, as bytes.
    pub target: Option<Box<[u8]>>,
}

/// Which entries of a directory a scan looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// All of them.
    All,
    /// These names, in the disk's spelling.
    Names(BTreeSet<Box<[u8]>>),
}

/// One directory to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanTarget {
    pub directory: LocalPath,
    pub extent: Extent,
}

/// What a scan saw in one directory. An error is never an empty listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryScan {
    pub target: ScanTarget,
    pub result: Result<DirectoryListing, ScanError>,
}

/// A directory that could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryListing {
    /// The directory's own fingerprint.
    pub print: Fingerprint,
    /// The entries within the extent that exist. `.syncline` at the root is left out.
    pub entries: Vec<Found>,
    /// Entries that exist and could not be looked at, with the reason.
    pub unreadable: Vec<(Box<[u8]>, String)>,
}

/// Why a directory could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// The directory itself is not there (or is no directory). Its parent must say more.
    #[error("the folder is gone")]
    Gone,
    #[error("the folder cannot be read: {0}")]
    Unreadable(String),
}

/// Whether the synced folder is the one that was linked: its marker `.syncline/root` holds the recorded
/// id. Checked before and after every scan and before every batch of local changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootState {
    Present,
    /// No folder there, or a folder without its marker: unmounted, moved away or emptied.
    Missing,
    /// A folder with another marker.
    Replaced,
}

/// A file that the engine wants hashed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashTask {
    pub node: NodeId,
    pub path: LocalPath,
    pub print: Fingerprint,
    /// The last that was heard of a program writing to the file is that it closed it. Such a file need
    /// not settle where its fingerprint alone tells one change from the next.
    pub closed: bool,
}

/// How hashing one file went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashResult {
    /// The fingerprint was `print` before and after reading, and lay in the past, or the task says that
    /// the file is closed and no later change could leave the same.
    Hashed {
        content: FileContent,
        blocks: Blocklist,
    },
    /// It changed in the last moments or while it was read; try again soon.
    Unsettled,
    /// It is another file now, or none: look at its folder again.
    Changed,
    Unreadable(String),
}

/// A file in `.syncline/tmp` that a download fills and an [`LocalStep::Install`] takes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TempName(pub String);

/// A file in `.syncline/tmp` beside the downloads: while it is there, whatever was prepared and is not
/// there any more was installed, and not swept away with the rest by somebody else.
pub const PREPARED_MARKER: &str = "prepared";

/// What a local step expects to find at the place it changes. Anything else there is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// A file or symlink in exactly this state (ctime apart after a rename of it by an earlier step).
    Print(Fingerprint),
    /// A directory with this device and inode.
    Directory { device: u64, inode: u64 },
}

/// One change to the local disk. Steps of a batch are done in order; each succeeds or fails alone.
/// Missing parent folders are an error, never made on the way. No step follows a symlink, and none
/// replaces or removes anything but what it expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LocalStep {
    MakeDirectory {
        node: NodeId,
        path: LocalPath,
    },
    /// Puts a complete temporary file in place (an empty file is made here, without a `temp`).
    Install {
        node: NodeId,
        path: LocalPath,
        temp: Option<TempName>,
        content: FileContent,
        replace: Option<Expect>,
    },
    MakeSymlink {
        node: NodeId,
        path: LocalPath,
        target: String,
        replace: Option<Expect>,
    },
    /// Sets mtime and execute bit of a file whose bytes are right already.
    SetAttributes {
        node: NodeId,
        path: LocalPath,
        content: FileContent,
        expect: Expect,
    },
    /// `from` and `to` may lie in `.syncline/parked`; never replaces.
    Move {
        node: NodeId,
        from: LocalPath,
        to: LocalPath,
        expect: Expect,
    },
    Remove {
        node: NodeId,
        path: LocalPath,
        expect: Expect,
    },
    /// Only if it is empty.
    RemoveDirectory {
        node: NodeId,
        path: LocalPath,
        expect: Expect,
    },
}

impl LocalStep {
    /// The node that the step is about.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        match self {
            Self::MakeDirectory { node, .. }
            | Self::Install { node, .. }
            | Self::MakeSymlink { node, .. }
            | Self::SetAttributes { node, .. }
            | Self::Move { node, .. }
            | Self::Remove { node, .. }
            | Self::RemoveDirectory { node, .. } => *node,
        }
    }
}

/// Why a local step was not done. The disk is as it was before the step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StepError {
    #[error("something else is there already")]
    Occupied,
    #[error("the file changed in the meantime")]
    Changed,
    #[error("the file or its folder is gone")]
    Gone,
    #[error("the folder is not empty")]
    NotEmpty,
    /// What was written to the file from then on would be in no folder.
    #[error("a program has the file open and may write to it: the change from elsewhere waits until it is closed")]
    InUse,
    /// The temporary file is gone or does not hold what it should.
    #[error("the downloaded file is incomplete")]
    BadTemp,
    #[error("the disk does not take the name: {0}")]
    Name(String),
    #[error("permission denied: {0}")]
    Permission(String),
    #[error("the disk is full")]
    NoSpace,
    #[error("{0}")]
    Failed(String),
}

/// What a step left at its target: the new fingerprint, or nothing after a removal.
pub type StepResult = Result<Option<Fingerprint>, StepError>;

/// Work on the local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    Scan(Vec<ScanTarget>),
    Hash(Vec<HashTask>),
    /// Ends with one sync of the file system, so that what it reports as done is durable.
    Apply(Vec<LocalStep>),
    /// Makes durable whatever is there: steps that an earlier process, or a batch that failed, may have done.
    /// Tells since when, and which nodes the folder itself is marked to lack.
    Settle,
    /// Marks the folder itself, durably, to lack these nodes and no others: see [`crate::engine`]'s exclusions.
    MarkExcluded(BTreeSet<NodeId>),
    /// Makes downloads durable, for steps that are about to install them, and tells who they are.
    Prepare(Vec<TempName>),
    /// Which blocks of the content are already whole in a temporary file: those that an earlier run left
    /// there, and those that could be copied from local files.
    Probe {
        temp: TempName,
        size: u64,
        blocks: Blocklist,
        /// Where local files are believed to hold blocks of the content, by the blocks' numbers.
        reuse: Vec<(u32, BlockSource)>,
    },
    /// Removes temporary files that nothing needs; all of them but `keep`.
    CleanTemps {
        keep: BTreeSet<TempName>,
    },
}

/// The end of a [`Job`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobResult {
    Scanned {
        root: RootState,
        directories: Vec<DirectoryScan>,
    },
    Hashed(Vec<(NodeId, HashResult)>),
    /// One result per step; all steps fail with `Failed` when the root is not `Present` or the final sync
    /// fails.
    Applied {
        root: RootState,
        results: Vec<StepResult>,
    },
    Settled {
        root: RootState,
        result: Result<Settled, StepError>,
    },
    Marked {
        root: RootState,
        result: Result<(), StepError>,
    },
    /// The fingerprint of each file that is there, in order; or why they are not durable.
    Prepared {
        root: RootState,
        files: Result<Vec<Option<Fingerprint>>, StepError>,
    },
    /// Indexes of whole blocks, and what may be the beginning of others in the temporary file.
    Probed {
        present: Vec<u32>,
        begun: Vec<(u32, BlockSource)>,
    },
    /// Also an answer to [`Job::Probe`]: the disk has no room for what is missing, and the temporary file is gone.
    NoRoom,
    Cleaned,
}

/// What [`Job::Settle`] has found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settled {
    /// The nodes that the folder is marked to lack.
    pub excluded: BTreeSet<NodeId>,
    pub durable: Durable,
    /// When the present run of the operating system began, in nanoseconds of the file system's clock. `None`: that
    /// cannot be told.
    pub began: Option<i64>,
}

/// What survives a power failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Durable {
    /// The run of the operating system. Where it is another one, the power may have failed in between.
    pub boot: [u8; 16],
    /// What changed before is durable, in nanoseconds of the file system's clock.
    pub until: i64,
}

/// Bytes of a block, to be read from a local file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSource {
    pub hash: BlockHash,
    pub len: u32,
    pub path: LocalPath,
    pub offset: u64,
}

/// The version of a file that the server has, of which the new version may be a changed form: what of it is near the
/// blocks that are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Former {
    pub namespace: NamespaceId,
    /// Where the new version lies.
    pub path: LocalPath,
    pub blocks: Vec<FormerBlock>,
}

/// A block of a [`Former`] version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormerBlock {
    /// Its place in the former version.
    pub number: u32,
    pub hash: BlockHash,
    pub len: u32,
}

/// Where a downloaded block goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockTarget {
    pub temp: TempName,
    pub offset: u64,
}

/// A block to download.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchBlock {
    pub hash: BlockHash,
    pub len: u32,
    pub to: Vec<BlockTarget>,
}

/// A call to the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Server,
    Changes(ChangesRequest),
    /// The same, where small new files that are told of are not here yet: their contents may come along.
    News(ChangesRequest),
    Missing(MissingRequest),
    /// Without blocks.
    Commit(SentCommit),
    /// All blocks are read and checked against their hashes before the first byte is sent; a block that
    /// no longer reads as its hash ends the call as [`Reply::SourceChanged`], and nothing was sent.
    Changeset {
        blocks: Vec<BlockSource>,
        /// What the blocks may resemble: need not be used.
        former: Vec<Former>,
        commit: Option<SentCommit>,
    },
    /// Blocks of an edited file that follow each other, and that are perhaps those of `before`, which follow each other
    /// too, moved by `by` bytes: if they look like it, the server makes them of these.
    Shift {
        blocks: Vec<BlockSource>,
        before: Former,
        by: i64,
    },
    /// Each block is checked against its hash and written to all its targets as it arrives.
    Fetch {
        namespace: NamespaceId,
        blocks: Vec<FetchBlock>,
        /// Local blocks that those may resemble: need not be used, and need not be there any more.
        bases: Vec<BlockSource>,
    },
    /// Tells the others of an upload.
    Announce(AnnounceRequest),
    Coming(ComingRequest),
    /// As `Fetch`, of blocks that another device is uploading.
    Prefetch {
        namespace: NamespaceId,
        blocks: Vec<FetchBlock>,
    },
}

/// The server's answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Server(ServerReply),
    Changes(ChangesReply),
    Missing(MissingReply),
    Commit(CommitOutcome),
    Changeset {
        outcome: Option<CommitOutcome>,
    },
    /// The server has these now; the others must be sent.
    Shifted {
        made: Vec<BlockHash>,
    },
    Announced,
    Coming(ComingReply),
    /// These blocks could not be read from their files as their hashes say; nothing was sent.
    SourceChanged {
        blocks: Vec<BlockHash>,
    },
    /// What was written to its targets (also when the answer then broke off), what the server does not
    /// hand out, and, if writing failed, why.
    Fetched {
        written: Vec<BlockHash>,
        unavailable: Vec<BlockHash>,
        disk: Option<StepError>,
    },
}

/// Why a request has no answer. Nothing may be concluded from it about any file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No connection, a time-out, or a body that broke off: whether the server acted is unknown.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// Something answered that is not a Syncline server.
    #[error("the answer did not come from a Syncline server: {0}")]
    NotSyncline(String),
    #[error(transparent)]
    Refused(#[from] ApiError),
}

/// Names a job until its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Names a request until its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Something that may have changed on disk. A hint only: the scan it causes decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// An entry was made, removed, renamed, or its attributes changed.
    Entry { directory: LocalPath, name: Box<[u8]> },
    /// A program wrote to the file and has it still open, as far as is known.
    Writing { directory: LocalPath, name: Box<[u8]> },
    /// A program that wrote closed the file.
    Closed { directory: LocalPath, name: Box<[u8]> },
    /// Events may be missing in this directory and everything below it.
    Rescan { directory: LocalPath },
}

/// What a person, by way of the command line, asks of the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Pause,
    Resume,
    /// From now on the folder or file stays off this device. It is named by its path.
    Exclude(LocalPath),
    Include(LocalPath),
    /// Deletions that are held go to the server.
    ConfirmDeletions,
    /// What was deleted locally in a held deletion comes back.
    UndoDeletions,
    SetGuard(DeleteGuard),
    /// Look at everything again; [`crate::engine::Engine::flushed`] tells when all is done.
    Flush,
    /// Forget all hashes of local files and read them again.
    RebuildIndex,
}

/// When a local deletion of many files is held until a person confirms it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeleteGuard {
    Off,
    /// Held when at least `count` files and more than `percent` of all synced files are gone.
    On {
        count: u64,
        percent: u8,
    },
}

impl Default for DeleteGuard {
    fn default() -> Self {
        Self::On { count: 100, percent: 50 }
    }
}

/// What happened, as reported by the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The first event after the engine was made.
    Started,
    JobDone(JobId, JobResult),
    Replied(RequestId, Result<Reply, RequestError>),
    Hints(Vec<Hint>),
    Notified(Notification),
    /// Blocks that another device uploads into the namespace have arrived at the server.
    Coming(NamespaceId),
    /// The notification stream was opened (again): whatever was missed is asked for.
    StreamOpened,
    /// A moment named by [`crate::engine::Engine::next_wake`] has come.
    Woken,
    Command(Command),
}

/// What the driver is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// One transaction of the client database, durable before the next action.
    Persist(Vec<Write>),
    Job(JobId, Job),
    Send(RequestId, Request),
    /// For the activity list.
    Report(Activity),
}

/// One write to the client database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The node's row; `None` removes it.
    Node(NodeId, Option<Box<NodeRow>>),
    /// A blocklist under its content hash. `remote`: the server's journal names it. A known list keeps
    /// its flag once set.
    Blocklist { content: ContentHash, blocks: Blocklist, remote: bool },
    /// The client's state apart from nodes and blocklists.
    State(Box<EngineState>),
}

/// What the engine keeps besides the nodes: one row of the client database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineState {
    pub instance: InstanceId,
    pub epoch: Epoch,
    /// The account's root namespace.
    pub root: NamespaceId,
    /// How far each followed namespace has been read.
    pub cursor: Cursor,
    pub roles: BTreeMap<NamespaceId, Role>,
    /// The commit whose fate is unknown, if there is one. It is resolved before anything else is sent.
    pub in_flight: Option<Commit>,
    pub excluded: BTreeSet<NodeId>,
    pub paused: bool,
    pub guard: DeleteGuard,
    /// The user confirmed the deletions that are pending now.
    pub deletions_confirmed: bool,
    /// What the batch of local steps under way puts on the disk. After a crash this tells what it had done
    /// from what a user did then. Empty when no batch is under way.
    pub installing: Vec<Installing>,
    /// What the disk is known to keep; `None` before that was looked at for the first time.
    pub durable: Option<Durable>,
}

impl EngineState {
    /// The state of a device that was just linked and has read nothing yet.
    #[must_use]
    pub fn linked(instance: InstanceId, epoch: Epoch, root: NamespaceId) -> Self {
        Self {
            instance,
            epoch,
            root,
            cursor: Cursor::new(),
            roles: BTreeMap::new(),
            in_flight: None,
            excluded: BTreeSet::new(),
            paused: false,
            guard: DeleteGuard::default(),
            deletions_confirmed: false,
            installing: Vec::new(),
            durable: None,
        }
    }
}

/// A file or folder that is being put on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installing {
    pub node: NodeId,
    /// What both sides agree on when it is there.
    pub agreed: Synced,
    /// The file's fingerprint in its place, but for the change time; `None` for a folder.
    pub print: Option<Fingerprint>,
}

/// A line of the activity list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    pub kind: ActivityKind,
    pub path: String,
    /// What else there is to say: the conflict's other name, a reason.
    pub detail: Option<String>,
}

/// What an activity was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivityKind {
    Uploaded,
    Downloaded,
    MovedLocally,
    MovedRemotely,
    DeletedLocally,
    DeletedRemotely,
    Conflict,
    KeptBeside,
    Held,
    ServerChanged,
    /// A file that was found empty after a restart of the operating system gets back what was in sync.
    Refilled,
}

/// What the engine needs to know from outside while it handles one event.
pub struct Environment<'a> {
    /// Milliseconds on a clock that never goes back.
    pub now: u64,
    /// Today's date for the names of conflicted copies, `YYYY-MM-DD`.
    pub today: &'a str,
    /// The next 16 random bytes.
    pub random: &'a mut dyn FnMut() -> [u8; 16],
    pub blocklists: &'a dyn Blocklists,
}

/// The blocklists that the client database holds, and those being persisted.
pub trait Blocklists {
    /// The blocks of a content, and whether the server's journal names it. `None`: not known here.
    fn find(&self, content: &ContentHash) -> Option<(Arc<Blocklist>, bool)>;
}
