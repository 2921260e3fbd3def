//! The folder that a user wants synced: what it must be, and which path in it a user means.

use local_files::disk::{Disk, RootId};
use local_files::fs::{FsError, OWN_DIRECTORY};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use sync_engine::io::LocalPath;

/// Directories that are looked through for another synced folder inside the new one. A larger tree is
/// not searched to its end: linking must not take hours.
const SEARCHED_DIRECTORIES: usize = 200_000;

/// Why a folder cannot be synced.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{path} is not a folder")]
    NotAFolder { path: PathBuf },
    #[error("cannot use the folder {path}")]
    Unusable { path: PathBuf, source: io::Error },
    #[error("the folder {path} cannot be written")]
    NotWritable { path: PathBuf, source: io::Error },
    #[error("{path} is a synced folder already")]
    AlreadySynced { path: PathBuf },
    #[error("{path} lies inside the synced folder {outer}")]
    Inside { path: PathBuf, outer: PathBuf },
    #[error("{path} contains the synced folder {inner}")]
    Contains { path: PathBuf, inner: PathBuf },
    #[error("{path} and the home directory {home} lie inside one another")]
    HomeInside { path: PathBuf, home: PathBuf },
    #[error("cannot mark {path} as a synced folder")]
    Mark { path: PathBuf, source: FsError },
}

impl FolderError {
    /// What the user can do.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::NotAFolder { .. } | Self::Unusable { .. } => "name a folder, or one that can be made".into(),
            Self::NotWritable { .. } | Self::Mark { .. } => "check the owner and permissions of the folder".into(),
            Self::AlreadySynced { path } => format!(
                "run `syncline unlink` for the device that syncs it; if that device is gone for good, remove {}",
                path.join(OWN_DIRECTORY).display()
            ),
            Self::Inside { .. } | Self::Contains { .. } => "choose a folder beside it".into(),
            Self::HomeInside { .. } => "name another folder, or another home with `--home DIR`".into(),
        }
    }
}

/// A folder that can be synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Absolute and free of symlinks.
    pub path: PathBuf,
    /// Whether it was made just now.
    pub made: bool,
}

impl Prepared {
    /// Removes the folder again if it was made just now and is still empty.
    pub fn take_back(&self) {
        if self.made
            && let Err(error) = fs::remove_dir(&self.path)
        {
            tracing::debug!(%error, path = %self.path.display(), "the new folder stays");
        }
    }
}

/// Makes the folder if there is none, and checks that it can be synced.
///
/// # Errors
/// [`FolderError`]; then no folder was made.
pub fn prepare(folder: &Path, home: &Path) -> Result<Prepared, FolderError> {
    let unusable = |source: io::Error| match source.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            FolderError::NotAFolder { path: folder.to_path_buf() }
        }
        _ => FolderError::Unusable { path: folder.to_path_buf(), source },
    };
    let home = home.canonicalize().map_err(|source| FolderError::Unusable { path: home.to_path_buf(), source })?;
    let path = real(&normal(&std::path::absolute(folder).map_err(unusable)?));
    // Where it will be is known before it is made: it must not appear inside another synced folder.
    if home.starts_with(&path) || path.starts_with(&home) {
        return Err(FolderError::HomeInside { path, home });
    }
    check_nesting(&path)?;
    let made = !path.exists();
    fs::create_dir_all(&path).map_err(unusable)?;
    let prepared = Prepared { path: path.canonicalize().map_err(unusable)?, made };
    if prepared.path != path {
        // The last component is a symlink: it is the folder behind it that counts.
        check_nesting(&prepared.path)?;
    }
    match check_writable(&prepared.path) {
        Ok(()) => Ok(prepared),
        Err(error) => {
            prepared.take_back();
            Err(error)
        }
    }
}

/// Marks the folder as the one that is synced.
///
/// # Errors
/// [`FolderError::Mark`].
pub fn mark(path: &Path, id: RootId) -> Result<(), FolderError> {
    let marked = Disk::create_root(path, id);
    marked.map(drop).map_err(|source| FolderError::Mark { path: path.to_path_buf(), source })
}

fn check_nesting(path: &Path) -> Result<(), FolderError> {
    if is_synced(path) {
        return Err(FolderError::AlreadySynced { path: path.to_path_buf() });
    }
    if let Some(outer) = path.ancestors().skip(1).find(|ancestor| is_synced(ancestor)) {
        return Err(FolderError::Inside { path: path.to_path_buf(), outer: outer.to_path_buf() });
    }
    match find_inside(path) {
        Some(inner) => Err(FolderError::Contains { path: path.to_path_buf(), inner }),
        None => Ok(()),
    }
}

/// A folder with any marker, even an illegible one, is somebody's.
fn is_synced(path: &Path) -> bool {
    fs::symlink_metadata(path.join(local_files::fs::ROOT_MARKER)).is_ok()
}

/// A synced folder below `path`. What cannot be read cannot be synced by this user either.
fn find_inside(path: &Path) -> Option<PathBuf> {
    let mut waiting = vec![path.to_path_buf()];
    for _ in 0..SEARCHED_DIRECTORIES {
        let Ok(entries) = fs::read_dir(waiting.pop()?) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let path = entry.path();
                if is_synced(&path) {
                    return Some(path);
                }
                waiting.push(path);
            }
        }
    }
    tracing::warn!(path = %path.display(), "the folder is too large to be searched for other synced folders");
    None
}

/// Only a try tells: permissions, read-only mounts and quotas all have their say.
fn check_writable(path: &Path) -> Result<(), FolderError> {
    let tried = tempfile_in(path);
    tried.map_err(|source| FolderError::NotWritable { path: path.to_path_buf(), source })
}

fn tempfile_in(path: &Path) -> io::Result<()> {
    let probe = path.join(format!(".syncline-probe-{}", std::process::id()));
    fs::create_dir(&probe)?;
    fs::remove_dir(&probe)
}

/// Takes Syncline's own things out of the folder again, as far as they are not the user's: what an
/// interrupted change left parked stays.
///
/// # Errors
/// When the marker cannot be removed.
pub fn unmark(path: &Path, id: RootId) -> io::Result<()> {
    if !matches!(Disk::root_id(path), Ok(Some(found)) if found == id) {
        return Ok(());
    }
    // Gives back what a crash left in between, and removes what was never complete.
    let disk = Disk::open(path, id);
    let job = sync_engine::io::Job::CleanTemps { keep: std::collections::BTreeSet::new() };
    drop(local_files::jobs::run_job(&disk, &job));
    // Whoever links the folder next says anew what is kept off it.
    let job = sync_engine::io::Job::MarkExcluded(std::collections::BTreeSet::new());
    drop(local_files::jobs::run_job(&disk, &job));
    fs::remove_file(path.join(local_files::fs::ROOT_MARKER))?;
    let inside =
        [local_files::fs::TEMP_DIRECTORY, local_files::fs::PARKED_DIRECTORY, local_files::fs::EXCLUDED_DIRECTORY];
    for directory in inside.into_iter().chain([OWN_DIRECTORY]) {
        match fs::remove_dir(path.join(directory)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(%error, directory, "a folder of syncline's own stays");
            }
            _ => {}
        }
    }
    Ok(())
}

/// The path below the synced folder that a user means by `path`: absolute, relative to `current`, or,
/// where that is outside, relative to the synced folder. `None`: outside. What does not exist (any more)
/// can be meant too. The last component is taken as it is, so that a symlink means itself.
#[must_use]
pub fn resolve(folder: &Path, current: &Path, path: &Path) -> Option<LocalPath> {
    let inside = |path: &Path| relative(folder, &real(&normal(path)));
    match inside(&current.join(path)) {
        None if path.is_relative() => inside(&folder.join(path)),
        found => found,
    }
}

fn relative(folder: &Path, path: &Path) -> Option<LocalPath> {
    let below = path.strip_prefix(folder).ok()?;
    LocalPath::from_bytes(below.as_os_str().as_bytes())
}

/// Without `.` and `..`, by the text alone.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                normal.pop();
            }
            other => normal.push(other),
        }
    }
    normal
}

/// With the symlinks on the way resolved, as far as the way exists.
fn real(path: &Path) -> PathBuf {
    let mut rest: Vec<&OsStr> = Vec::new();
    let mut way = path;
    while let (Some(parent), Some(name)) = (way.parent(), way.file_name()) {
        rest.push(name);
        if let Ok(real) = parent.canonicalize() {
            return rest.iter().rev().fold(real, |path, name| path.join(name));
        }
        way = parent;
    }
    path.to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place {
        _directory: tempfile::TempDir,
        base: PathBuf,
        home: PathBuf,
    }

    fn place() -> Place {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let base = directory.path().canonicalize().expect("there");
        let home = base.join("home");
        fs::create_dir(&home).expect("made");
        Place { _directory: directory, base, home }
    }

    #[test]
    fn a_missing_folder_is_made_and_a_full_one_is_taken_as_it_is() {
        let place = place();
        let folder = place.base.join("new/Syncline");
        let prepared = |made| Prepared { path: folder.clone(), made };
        assert_eq!(prepare(&folder, &place.home).expect("made"), prepared(true));
        fs::write(folder.join("file"), "text").expect("written");
        assert_eq!(prepare(&folder, &place.home).expect("taken"), prepared(false));
        assert_eq!(fs::read_dir(&folder).expect("read").count(), 1);
    }

    #[test]
    fn a_file_is_no_folder() {
        let place = place();
        let file = place.base.join("file");
        fs::write(&file, "text").expect("written");
        for path in [file.clone(), file.join("below")] {
            assert!(matches!(prepare(&path, &place.home), Err(FolderError::NotAFolder { .. })));
        }
    }

    #[test]
    fn synced_folders_do_not_nest() {
        let place = place();
        let folder = prepare(&place.base.join("a/b"), &place.home).expect("made").path;
        mark(&folder, RootId([1; 16])).expect("marked");
        let error = |path: &str| prepare(&place.base.join(path), &place.home).expect_err("refused");
        assert!(matches!(error("a/b"), FolderError::AlreadySynced { .. }));
        assert!(matches!(error("a/b/c/d"), FolderError::Inside { outer, .. } if outer == folder));
        assert!(matches!(error("a"), FolderError::Contains { inner, .. } if inner == folder));
        assert!(!folder.join("c").exists(), "nothing appears inside another's folder");
        assert!(prepare(&place.base.join("a/beside"), &place.home).is_ok());
    }

    #[test]
    fn the_home_is_never_synced() {
        let place = place();
        for path in [place.home.clone(), place.home.join("x"), place.base.clone()] {
            assert!(matches!(prepare(&path, &place.home), Err(FolderError::HomeInside { .. })), "{path:?}");
        }
    }

    #[test]
    fn unmarking_leaves_the_users_files_and_frees_the_folder() {
        let place = place();
        let folder = prepare(&place.base.join("a"), &place.home).expect("made").path;
        mark(&folder, RootId([1; 16])).expect("marked");
        fs::write(folder.join("file"), "text").expect("written");
        let excluded = sync_engine::io::Job::MarkExcluded([model::NodeId([3; 16])].into());
        drop(local_files::jobs::run_job(&Disk::open(&folder, RootId([1; 16])), &excluded));
        assert!(folder.join(local_files::fs::EXCLUDED_DIRECTORY).exists());
        unmark(&folder, RootId([2; 16])).expect("nothing to do");
        assert!(is_synced(&folder), "another device's marker stays");
        unmark(&folder, RootId([1; 16])).expect("unmarked");
        assert!(!folder.join(OWN_DIRECTORY).exists());
        assert_eq!(fs::read(folder.join("file")).expect("read"), b"text");
    }

    #[test]
    fn what_is_parked_survives_unmarking() {
        let place = place();
        let folder = prepare(&place.base.join("a"), &place.home).expect("made").path;
        mark(&folder, RootId([1; 16])).expect("marked");
        let parked = folder.join(local_files::fs::PARKED_DIRECTORY).join("0a1b");
        fs::write(&parked, "text").expect("written");
        unmark(&folder, RootId([1; 16])).expect("unmarked");
        assert!(parked.exists() && !is_synced(&folder));
    }

    #[test]
    fn a_path_is_found_from_wherever_the_user_stands() {
        let place = place();
        let folder = place.base.join("Syncline");
        fs::create_dir_all(folder.join("sub")).expect("made");
        std::os::unix::fs::symlink(&folder, place.base.join("link")).expect("made");
        let meant =
            |current: &Path, path: &str| resolve(&folder, current, Path::new(path)).map(|path| path.to_string());
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(meant(&folder, "a"), text("a"));
        assert_eq!(meant(&folder.join("sub"), "../a"), text("a"));
        assert_eq!(meant(&folder.join("sub"), "gone/deep"), text("sub/gone/deep"));
        assert_eq!(meant(&place.base, "link/sub/x"), text("sub/x"));
        assert_eq!(meant(&place.base, "sub/x"), text("sub/x"), "below the synced folder by default");
        assert_eq!(meant(&place.base, "/etc/passwd"), None);
        assert_eq!(meant(&folder, "../../x"), None);
        assert_eq!(meant(&folder, "."), text(""));
    }
}
