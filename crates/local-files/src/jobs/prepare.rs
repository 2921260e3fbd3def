//! Downloads on their way into the synced folder: made durable before anything shows them.

use sync_engine::io::{FileKind, Fingerprint, JobResult, PREPARED_MARKER, RootState, StepError, TempName};

use super::step_error;
use crate::fs::{Fs, FsError, Stat, temp_path};

/// With up to this many files, each is synced alone, which spares the unwritten data of other programs;
/// with more, one sync of the file system is cheaper.
const FILES_SYNCED_ALONE: usize = 4;

/// Makes the bytes of the files durable and tells who they are. The marker says that they were there.
pub(super) fn prepare(fs: &dyn Fs, temps: &[TempName]) -> JobResult {
    let root = fs.root_state();
    if root != RootState::Present {
        return JobResult::Prepared { root, files: Ok(vec![None; temps.len()]) };
    }
    let files = make_durable(fs, temps).map_err(step_error);
    JobResult::Prepared { root: fs.root_state(), files: files.map_err(|error| StepError::Failed(error.to_string())) }
}

fn make_durable(fs: &dyn Fs, temps: &[TempName]) -> Result<Vec<Option<Fingerprint>>, FsError> {
    let marker = TempName(PREPARED_MARKER.to_owned());
    let made = match fs.create_temp(&marker) {
        Ok(_) => true,
        Err(FsError::AlreadyExists) => false,
        Err(error) => return Err(error),
    };
    let mut files = Vec::with_capacity(temps.len());
    let alone = temps.len() <= FILES_SYNCED_ALONE;
    if alone && made {
        fs.open(&temp_path(&marker)?)?.sync_data()?;
    }
    for temp in temps {
        files.push(match if alone { sync_one(fs, temp) } else { look(fs, temp) } {
            Ok(print) => Some(print),
            // The step will find it missing too.
            Err(FsError::NotFound) => None,
            Err(error) => return Err(error),
        });
    }
    if !alone {
        fs.sync()?;
    }
    Ok(files)
}

fn sync_one(fs: &dyn Fs, temp: &TempName) -> Result<Fingerprint, FsError> {
    let file = fs.open(&temp_path(temp)?)?;
    file.sync_data()?;
    Ok(file.stat()?.print)
}

fn look(fs: &dyn Fs, temp: &TempName) -> Result<Fingerprint, FsError> {
    let path = temp_path(temp)?;
    match fs.stat(&path)?.ok_or(FsError::NotFound)? {
        Stat { kind: FileKind::File, print, .. } => Ok(print),
        // To open it is to be told what is wrong with it.
        _ => Ok(fs.open(&path)?.first_stat()?.print),
    }
}
