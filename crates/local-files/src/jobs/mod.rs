//! The engine's jobs on the local disk, made of the primitives of [`Fs`].
//!
//! What a job promises is written at [`Job`]; how it keeps the promise, beside the code here.

mod apply;
mod excluded;
mod hash;
mod prepare;
mod scan;

use std::collections::BTreeSet;

use sync_engine::io::{Durable, Job, JobResult, RootState, Settled};

use crate::fs::Fs;
use crate::hashed::HashedFiles;
use crate::{room, temps};

pub(crate) use apply::step_error;
pub(crate) use hash::available_threads;
use hash::read_and_hash;

/// Syncs the file system, while the folder is the linked one, and reads its marks.
fn settle(fs: &dyn Fs) -> JobResult {
    let root = fs.root_state();
    let durable = Durable { boot: fs.boot(), until: fs.now_ns() };
    let excluded = match root {
        RootState::Present => fs.sync().and_then(|()| excluded::read(fs)).map_err(step_error),
        RootState::Missing | RootState::Replaced => Ok(BTreeSet::new()),
    };
    let result = excluded.map(|excluded| Settled { excluded, durable, began: fs.began_ns() });
    JobResult::Settled { root, result }
}

/// Acts on the folder with one way to it for all operations.
pub(crate) fn held<T>(fs: &dyn Fs, act: impl FnOnce(&dyn Fs) -> T) -> T {
    let held = fs.held();
    act(held.as_deref().unwrap_or(fs))
}

/// Does one job from beginning to end.
#[must_use]
pub fn run_job(fs: &dyn Fs, job: &Job) -> JobResult {
    run_job_noting(fs, job, &HashedFiles::default())
}

/// The same, and remembers what was hashed for those who send it.
#[must_use]
pub fn run_job_noting(fs: &dyn Fs, job: &Job, hashed: &HashedFiles) -> JobResult {
    match job {
        Job::Scan(targets) => scan::scan(fs, targets),
        Job::Hash(tasks) => {
            let result = held(fs, |fs| hash::hash(fs, tasks, hashed));
            hashed.note(job, &result);
            result
        }
        Job::Apply(steps) => apply::apply(fs, steps),
        Job::Settle => settle(fs),
        Job::MarkExcluded(nodes) => excluded::mark(fs, nodes),
        Job::Prepare(temps) => held(fs, |fs| prepare::prepare(fs, temps)),
        Job::Probe { temp, size, blocks, reuse } => {
            let (mut present, mut begun) = temps::present_blocks(fs, temp, *size, blocks);
            if !room::has_room_for_rest(fs, temp, *size, blocks, &present) {
                return JobResult::NoRoom;
            }
            present.extend(temps::reuse_blocks(fs, temp, reuse, &present));
            begun.retain(|(number, _)| !present.contains(number));
            JobResult::Probed { present, begun }
        }
        Job::CleanTemps { keep } => {
            temps::clean(fs, keep);
            JobResult::Cleaned
        }
    }
}
