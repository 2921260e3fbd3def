//! What becomes of a batch of local steps that nobody saw the end of.
//!
//! Between a change to the disk and the record of it the client may be killed, and a user may act before
//! it runs again. Without more, a download that had arrived and was then edited looks like an edit of the
//! version before it, and one that was renamed like a new file. So the database knows, before a batch
//! begins, which downloads it installs ([`Installing`]). A download that is not in `.syncline/tmp` any
//! more was installed: then both sides agree on it, and whatever the disk shows otherwise is the user's.

use super::{Engine, ROOT_RETRY_MS};
use crate::io::{
    DirectoryListing, DirectoryScan, Environment, Extent, Fingerprint, Installing, Job, JobId, LocalPath, LocalStep,
    PREPARED_MARKER, RootState, ScanError, ScanTarget, Settled, StepError, StepResult, TempName,
};
use crate::plan::{After, PlannedStep};
use crate::tree::{Content, Local, Seen, Synced};
use crate::trees::Trees;
use model::NodeId;
use model::name::RESERVED_NAME;
use std::collections::BTreeSet;

/// Whether it is open what an earlier batch, or an earlier process, has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Recovery {
    Done,
    #[default]
    Due,
    /// The job makes durable what there is. What a look at the disk finds in its place and the database then
    /// takes for agreed must not be gone again after a power failure: that would look like a deletion.
    Settling(JobId),
    /// The job looks at what is left in `.syncline/tmp`.
    Looking(JobId),
}

impl Engine {
    /// Starts a batch. Downloads are made durable and recorded before it can install them.
    pub(super) fn start_batch(&mut self, steps: Vec<PlannedStep>) {
        self.local.batch_epoch = self.state.epoch;
        let temps: Vec<TempName> = steps.iter().filter_map(|planned| temp_of(&planned.step).cloned()).collect();
        if temps.is_empty() {
            self.start_applying(steps);
        } else {
            let id = self.start_job(Job::Prepare(temps));
            self.local.steps = Some((id, steps));
        }
        self.freeze();
    }

    fn start_applying(&mut self, steps: Vec<PlannedStep>) {
        // A removal that the database does not know to be ours would look like the user's after a crash.
        self.persist();
        let id = self.start_job(Job::Apply(steps.iter().map(|planned| planned.step.clone()).collect()));
        self.local.steps = Some((id, steps));
    }

    pub(super) fn prepared(
        &mut self,
        id: JobId,
        root: RootState,
        files: Result<Vec<Option<Fingerprint>>, StepError>,
        env: &mut Environment<'_>,
    ) {
        let Some((_, steps)) = self.local.steps.take_if(|(running, _)| *running == id) else { return };
        match files {
            Ok(files) if root == RootState::Present => {
                if self.is_batch_of_this_epoch() {
                    self.state.installing = installing(&self.trees, &steps, files);
                    self.state_touched = true;
                }
                self.start_applying(steps);
            }
            files => {
                let error = files.err().unwrap_or_else(|| StepError::Failed("the synced folder is not there".into()));
                let results = vec![Err(error); steps.len()];
                self.local.steps = Some((id, steps));
                self.applied(id, root, results, env);
            }
        }
    }

    /// Whether the server is still the one whose journal the batch under way was planned for.
    pub(super) fn is_batch_of_this_epoch(&self) -> bool {
        self.local.batch_epoch == self.state.epoch
    }

    /// The batch has ended. Where it cannot be believed that a step did nothing, what it has done is found
    /// out as after a crash.
    pub(super) fn note_end_of_batch(&mut self, steps: &[PlannedStep], results: &[StepResult], believed: bool) {
        let open: BTreeSet<NodeId> = steps
            .iter()
            .zip(results)
            .filter(|(_, result)| result.is_err() && !believed || matches!(result, Err(StepError::Failed(_))))
            .map(|(planned, _)| planned.step.node())
            .collect();
        if !self.state.installing.is_empty() {
            self.state.installing.retain(|one| open.contains(&one.node));
            self.state_touched = true;
        }
        if !open.is_empty() {
            self.local.recovery = Recovery::Due;
        }
    }

    pub(super) fn start_recovery(&mut self) {
        if self.local.recovery != Recovery::Due || self.local.is_changing() || self.local.root_retry_at.is_some() {
            return;
        }
        self.local.recovery = Recovery::Settling(self.start_job(Job::Settle));
    }

    pub(super) fn settled(&mut self, id: JobId, root: RootState, result: Result<Settled, StepError>, now: u64) {
        if self.kept(id, root, result.as_ref().ok(), now) {
            return;
        }
        if self.local.recovery != Recovery::Settling(id) {
            return;
        }
        self.local.recovery = Recovery::Due;
        if !self.believe_root(root, now) {
            return;
        }
        self.local.not_durable = result.as_ref().err().map(ToString::to_string);
        if let Ok(settled) = result {
            self.found_marked(settled.excluded);
            self.wake_up_on(settled.durable, settled.began);
        }
        if self.local.not_durable.is_some() {
            self.local.root_retry_at = Some(now + ROOT_RETRY_MS);
        } else if self.state.installing.is_empty() {
            self.local.recovery = Recovery::Done;
        } else {
            self.look_at_downloads();
        }
    }

    /// Looks at which downloads are still there.
    fn look_at_downloads(&mut self) {
        let directory = LocalPath::root().join(RESERVED_NAME.as_bytes()).join(b"tmp");
        let id = self.start_job(Job::Scan(vec![ScanTarget { directory, extent: Extent::All }]));
        self.local.recovery = Recovery::Looking(id);
    }

    /// Takes the answer, if it is one.
    pub(super) fn recovered(&mut self, id: JobId, root: RootState, directories: &[DirectoryScan], now: u64) -> bool {
        if self.local.recovery != Recovery::Looking(id) {
            return false;
        }
        self.local.recovery = Recovery::Due;
        if !self.believe_root(root, now) {
            return true;
        }
        match directories.iter().map(|scan| &scan.result).next() {
            Some(Ok(listing)) => self.resolve(listing),
            Some(Err(ScanError::Gone)) | None => self.forget_batch(),
            Some(Err(ScanError::Unreadable(_))) => self.local.root_retry_at = Some(now + ROOT_RETRY_MS),
        }
        true
    }

    /// Nothing is known of what the last batch has done.
    pub(super) fn forget_batch(&mut self) {
        self.state.installing.clear();
        self.state_touched = true;
        self.local.recovery = Recovery::Done;
    }

    fn resolve(&mut self, tmp: &DirectoryListing) {
        let swept = !tmp.entries.iter().any(|entry| *entry.name == *PREPARED_MARKER.as_bytes());
        let left: BTreeSet<(u64, u64)> = tmp.entries.iter().map(|entry| inode(&entry.print)).collect();
        let batch = std::mem::take(&mut self.state.installing);
        self.forget_batch();
        if swept || !tmp.unreadable.is_empty() {
            return;
        }
        for (one, print) in installed(batch, &left) {
            self.take_installed(one, print);
        }
        self.persist();
    }

    /// Both sides agree on the node as the batch put it there. What the disk shows now is for the scan
    /// that follows.
    fn take_installed(&mut self, installed: Installing, print: Fingerprint) {
        let Installing { node, agreed, .. } = installed;
        let before = self.trees.local(node);
        let place = before.as_ref().map_or(&agreed.place, |local| &local.place).clone();
        if !self.trees.has_local(place.parent) {
            return;
        }
        // Whoever had the name left it in the same batch; the scan finds out where to.
        let key = place.name.key();
        if self.trees.local_child(place.parent, &key).is_some_and(|other| other != node) {
            self.observer.free_name(&mut self.trees, place.parent, &key);
        }
        let seen = if agreed.content.is_folder() { Seen::Directory } else { Seen::File(None) };
        let disk_name = before.and_then(|local| local.disk_name);
        self.trees.set_local(node, Some(Local { place, seen, print, disk_name }));
        self.trees.set_synced(node, Some(agreed));
        self.transfers.forget_fetch(node);
    }
}

fn temp_of(step: &LocalStep) -> Option<&TempName> {
    match step {
        LocalStep::Install { temp, .. } => temp.as_ref(),
        LocalStep::MakeDirectory { .. }
        | LocalStep::MakeSymlink { .. }
        | LocalStep::SetAttributes { .. }
        | LocalStep::Move { .. }
        | LocalStep::Remove { .. }
        | LocalStep::RemoveDirectory { .. } => None,
    }
}

/// What the steps put on the disk, in their order. `files`: the downloads that they install.
fn installing(trees: &Trees, steps: &[PlannedStep], files: Vec<Option<Fingerprint>>) -> Vec<Installing> {
    let mut files = files.into_iter();
    let one = |planned: &PlannedStep| {
        let node = planned.step.node();
        let print = temp_of(&planned.step).and_then(|_| files.next()).flatten();
        let agreed = match &planned.after {
            After::Created { place, content } => Synced { place: place.clone(), content: content.clone() },
            After::Replaced { content } => Synced { content: content.clone(), ..trees.synced(node)? },
            After::MadeFresh { .. }
            | After::Moved { .. }
            | After::Parked { .. }
            | After::Renamed { .. }
            | After::MovedOut { .. }
            | After::Removed => return None,
        };
        match (&agreed.content, print) {
            (Content::File(file), Some(print)) => {
                let print = Fingerprint { mtime: file.mtime, executable: file.executable, ..print };
                Some(Installing { node, agreed, print: Some(print) })
            }
            (Content::Directory | Content::Mount, _) => Some(Installing { node, agreed, print: None }),
            (Content::File(_) | Content::Symlink(_), _) => None,
        }
    };
    steps.iter().filter_map(one).collect()
}

/// What was installed of a batch, folders before what they hold: the files that are not left in
/// `.syncline/tmp`, and the folders around them.
fn installed(batch: Vec<Installing>, left: &BTreeSet<(u64, u64)>) -> Vec<(Installing, Fingerprint)> {
    let mut around = BTreeSet::new();
    let mut installed = Vec::new();
    let device = batch.iter().find_map(|one| one.print).map_or(0, |print| print.device);
    for one in batch.into_iter().rev() {
        let print = match one.print {
            Some(print) if !left.contains(&inode(&print)) => print,
            // Who a folder is nobody knew before it was made; the scan will say.
            None if around.contains(&one.node) => Fingerprint { device, ..Fingerprint::UNKNOWN },
            Some(_) | None => continue,
        };
        around.insert(one.agreed.place.parent);
        installed.push((one, print));
    }
    installed.reverse();
    installed
}

const fn inode(print: &Fingerprint) -> (u64, u64) {
    (print.device, print.inode)
}
