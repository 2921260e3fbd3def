//! Opening what lies below a directory, without following a symlink and without leaving it.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::{self, Errno};
use sync_engine::io::LocalPath;

/// Bytes of a path that the kernel takes at once, less its terminator.
const PATH_MAX: usize = 4095;
/// A rename elsewhere in the tree can make the kernel give up on a path; it asks to try again.
const RESOLVE_ATTEMPTS: u32 = 16;

/// Opens the directory at `path` below `root`.
pub(crate) fn open_directory(root: impl AsFd, path: &LocalPath, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if path.is_root() {
        return openat(root, c".", flags, Mode::empty());
    }
    if path.as_bytes().len() > PATH_MAX {
        return walk(root, path, flags);
    }
    match open_beneath(&root, path, flags) {
        // EPERM: a sandbox that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => walk(root, path, flags),
        result => result,
    }
}

fn open_beneath(root: impl AsFd, path: &LocalPath, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mut result = Err(Errno::AGAIN);
    for _ in 0..RESOLVE_ATTEMPTS {
        result = openat2(root.as_fd(), path.as_bytes(), flags, Mode::empty(), resolve);
        if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
            break;
        }
    }
    // Leaving the root is reported as crossing a device, which is something else here.
    result.map_err(|errno| if errno == Errno::XDEV { Errno::LOOP } else { errno })
}

/// The same for kernels without `openat2`: one component after the other. A component cannot be `..`
/// and a symlink is not followed, so there is no way out.
fn walk(root: impl AsFd, path: &LocalPath, flags: OFlags) -> io::Result<OwnedFd> {
    let on_the_way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = openat(root, c".", on_the_way, Mode::empty())?;
    for name in path.components() {
        directory = openat(&directory, name, on_the_way, Mode::empty())?;
    }
    openat(&directory, c".", flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    type Open = fn(&OwnedFd, &LocalPath, OFlags) -> io::Result<OwnedFd>;

    #[test]
    fn neither_way_of_resolving_follows_a_symlink() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        symlink("a", dir.path().join("link")).unwrap();
        symlink("/", dir.path().join("a/out")).unwrap();
        let root = openat(rustix::fs::CWD, dir.path(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let ways: [Open; 2] =
            [|root, path, flags| open_beneath(root, path, flags), |root, path, flags| walk(root, path, flags)];
        for open in ways {
            let open = |path: &str| {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                open(&root, &LocalPath::from_bytes(path.as_bytes()).unwrap(), flags)
            };
            assert!(open("a/b").is_ok());
            for path in ["link", "link/b", "a/out", "a/out/etc"] {
                assert!(matches!(open(path), Err(Errno::LOOP | Errno::NOTDIR)), "{path}");
            }
            assert!(matches!(open("a/none"), Err(Errno::NOENT)));
        }
    }
}
