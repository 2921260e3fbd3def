//! Downloads on their way into the synced folder: made durable before anything shows them.

use sync_engine::io::{Fingerprint, JobResult, PREPARED_MARKER, RootState, StepError, TempName};

use super::step_error;
use crate::fs::{Fs, FsError, OpenFile, temp_path};

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
        files.push(match temp_path(temp).and_then(|path| fs.open(&path)) {
            Ok(file) => Some(look(&*file, alone)?),
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

fn look(file: &dyn OpenFile, sync: bool) -> Result<Fingerprint, FsError> {
    if sync {
        file.sync_data()?;
    }
    Ok(file.stat()?.print)
}
