//! The state machine.

use crate::io::{Action, EngineState, Environment, Event, LocalPath};
use crate::status::{FileStatus, Location, Phase, Problem, Status};
use crate::tree::NodeRow;
use model::NodeId;

/// The sync engine of one device.
pub struct Engine {
    state: EngineState,
    device_name: String,
}

impl Engine {
    /// An engine that continues from what the client database holds.
    #[must_use]
    pub fn new(state: EngineState, rows: Vec<(NodeId, NodeRow)>, device_name: String) -> Self {
        drop(rows);
        Self { state, device_name }
    }

    /// Takes an event and says what to do about it.
    pub fn handle(&mut self, event: Event, environment: &mut Environment<'_>) -> Vec<Action> {
        let _ = (event, environment, &self.device_name);
        Vec::new()
    }

    /// When to send [`Event::Woken`], in milliseconds of [`Environment::now`].
    #[must_use]
    pub fn next_wake(&self) -> Option<u64> {
        None
    }

    /// Whether all that was known when the last `Flush` came, and all that the server had then, is in
    /// sync, problems and held deletions apart.
    #[must_use]
    pub fn flushed(&self) -> bool {
        true
    }

    /// Counts and state.
    #[must_use]
    pub fn status(&self) -> Status {
        Status {
            phase: if self.state.paused { Phase::Paused } else { Phase::UpToDate },
            synced_files: 0,
            pending: 0,
            uploading: 0,
            downloading: 0,
            scanning: 0,
            problems: 0,
            held_deletions: 0,
        }
    }

    /// The engine's persistent state.
    #[must_use]
    pub fn state(&self) -> &EngineState {
        &self.state
    }

    /// At most `limit` of the items that cannot be synced now.
    #[must_use]
    pub fn problems(&self, limit: usize) -> Vec<Problem> {
        let _ = limit;
        Vec::new()
    }

    /// What `filestatus` says; for a folder, the worst of what it holds.
    #[must_use]
    pub fn file_status(&self, path: &LocalPath) -> FileStatus {
        let _ = path;
        FileStatus::Unwatched
    }

    /// One sentence that explains the state of the path.
    #[must_use]
    pub fn why(&self, path: &LocalPath) -> String {
        path.to_string()
    }

    /// Where the path is for the server. `None` for a path that cannot be named there.
    #[must_use]
    pub fn locate(&self, path: &LocalPath) -> Option<Location> {
        let _ = path;
        None
    }

    /// The paths that are excluded, as far as their names are known.
    #[must_use]
    pub fn excluded(&self) -> Vec<String> {
        Vec::new()
    }
}
