//! What has come of uploads that are under way, in files beside the blocks.
//!
//! Blocks count for an account when their upload ends. A server that is killed before that would have to be sent again
//! all that had come, which on a slow way is megabytes for each upload. So the body of an upload that is not soon over
//! is also written to a file while it comes. The next process finds the file and treats it as an upload that
//! broke off where the file ends. Nothing of it is synced: what a process had written outlives the process, and
//! what a power failure takes is sent again.

use crate::limits;
use crate::receive::BodyReader;
use crate::service::BlockService;
use crate::upload::{self, UploadBudgets};
use api::ErrorCode;
use api::service::Identity;
use axum::body::Body;
use bytes::{Buf, Bytes};
use model::{AccountId, DeviceId};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::mem;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// How a file begins: a format, and then the account and the device, and then the body as it came.
const MAGIC: &[u8; 16] = b"sync-unfinished1";

/// The directory of such files, which one process has for itself.
#[derive(Debug)]
pub struct Unfinished {
    directory: PathBuf,
    /// In the files at the moment.
    bytes: AtomicU64,
    /// The number of the next file.
    next: AtomicU64,
}

impl Unfinished {
    /// Makes the directory where it is missing, for its owner alone.
    ///
    /// # Errors
    /// When it can be neither found nor made.
    pub fn open(directory: &Path) -> io::Result<Self> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => {
                Ok(Self { directory: directory.to_owned(), bytes: AtomicU64::new(0), next: AtomicU64::new(0) })
            }
        }
    }

    /// Stores and notes what a killed process left here, before anybody asks for it, and removes the files. Whatever
    /// cannot be used is sent again.
    pub async fn take_up(&self, service: &Arc<BlockService>) {
        let files = match fs::read_dir(&self.directory) {
            Ok(files) => files,
            Err(error) => return tracing::warn!(%error, "unfinished uploads cannot be listed"),
        };
        let budgets = UploadBudgets::default();
        for file in files.flatten().map(|file| file.path()) {
            let kept = read(&file);
            // Before anything is done with it: should that end the process, the next start must not do it again.
            if let Err(error) = fs::remove_file(&file) {
                tracing::warn!(file = %file.display(), %error, "a file cannot be removed");
                continue;
            }
            if let Some((who, body)) = kept {
                let mut body = BodyReader::new(Body::from(body));
                match upload::take_up(service.clone(), budgets.clone(), who, &mut body).await {
                    Ok(()) => tracing::info!("the blocks of an unfinished upload are kept"),
                    // The end of the file.
                    Err(error) if error.code == ErrorCode::BadRequest => {
                        tracing::info!("what came of an unfinished upload is kept");
                    }
                    Err(error) => tracing::warn!(%error, "an unfinished upload is lost, and will be sent again"),
                }
            }
        }
    }

    /// Of an upload that begins now.
    pub(crate) fn follow(self: &Arc<Self>, who: Identity) -> Kept {
        Kept {
            place: Arc::clone(self),
            who,
            began: Instant::now(),
            pending: Vec::new(),
            pending_bytes: 0,
            state: State::Undecided,
        }
    }

    /// Takes room for so many bytes more.
    fn take_room(&self, bytes: u64) -> io::Result<()> {
        let taken = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if taken <= limits::UNFINISHED_BYTES {
            return Ok(());
        }
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        Err(io::ErrorKind::QuotaExceeded.into())
    }
}

/// A file's account and body; `None` for a file that is none of ours.
fn read(file: &Path) -> Option<(Identity, Bytes)> {
    let mut bytes = Bytes::from(fs::read(file).ok()?);
    let mut field = || (bytes.len() >= MAGIC.len()).then(|| bytes.get_u128().to_be_bytes());
    let (magic, account, device) = (field()?, field()?, field()?);
    (magic == *MAGIC).then_some((Identity { account: AccountId(account), device: DeviceId(device) }, bytes))
}

/// The file of one upload, if it gets one.
#[derive(Debug)]
pub(crate) struct Kept {
    place: Arc<Unfinished>,
    who: Identity,
    began: Instant,
    /// Has come, and is not in the file yet.
    pending: Vec<Bytes>,
    pending_bytes: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    /// It may be over before a file would be worth it.
    Undecided,
    Writing(Arc<File>, PathBuf, u64),
    Over,
}

impl Kept {
    /// Takes the next piece of the body.
    pub(crate) async fn arrived(&mut self, piece: &Bytes) {
        if matches!(self.state, State::Over) {
            return;
        }
        self.pending.push(piece.clone());
        self.pending_bytes += piece.len() as u64;
        let many = self.pending.len() >= limits::UNFINISHED_PIECES;
        if matches!(self.state, State::Undecided) {
            if self.began.elapsed() < limits::UNFINISHED_AFTER {
                if many || self.pending_bytes > limits::UNFINISHED_SWIFT {
                    self.forget();
                }
                return;
            }
        } else if !many && self.pending_bytes < limits::UNFINISHED_STEP {
            return;
        }
        if let Err(error) = self.write().await {
            tracing::debug!(%error, "what comes of an upload is not kept until its end");
            self.end().await;
        }
    }

    /// Puts what has come into the file.
    async fn write(&mut self) -> io::Result<()> {
        let bytes = mem::take(&mut self.pending).concat();
        let len = mem::take(&mut self.pending_bytes);
        self.place.take_room(len)?;
        let (place, who) = (Arc::clone(&self.place), self.who);
        let (file, path, before) = match mem::replace(&mut self.state, State::Over) {
            State::Writing(file, path, before) => (Some(file), path, before),
            State::Undecided | State::Over => {
                let number = place.next.fetch_add(1, Ordering::Relaxed);
                (None, place.directory.join(number.to_string()), 0)
            }
        };
        let opened = path.clone();
        let written = tokio::task::spawn_blocking(move || {
            let file = file.map_or_else(|| begin(&opened, who).map(Arc::new), Ok)?;
            (&*file).write_all(&bytes)?;
            Ok(file)
        });
        match written.await.map_err(io::Error::other).flatten() {
            Ok(file) => {
                self.state = State::Writing(file, path, before + len);
                Ok(())
            }
            Err(error) => {
                remove(path).await;
                self.place.bytes.fetch_sub(before + len, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// The upload is over, and what was to be kept of it is noted.
    pub(crate) async fn end(&mut self) {
        if let State::Writing(_, path, bytes) = self.forget() {
            remove(path).await;
            self.place.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn forget(&mut self) -> State {
        (self.pending, self.pending_bytes) = (Vec::new(), 0);
        mem::replace(&mut self.state, State::Over)
    }
}

fn begin(path: &Path, who: Identity) -> io::Result<File> {
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    file.write_all(&[*MAGIC, who.account.0, who.device.0].concat())?;
    Ok(file)
}

/// A file that stays is taken up by the next process.
async fn remove(path: PathBuf) {
    tokio::task::spawn_blocking(move || fs::remove_file(path)).await.ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::tests::{ANN, framed, service};
    use block_store::BlockStore;
    use futures_util::{StreamExt, stream};
    use model::BlockHash;
    use model::limits::BEGINNING_BYTES;
    use std::time::Duration;

    /// Lets a body of `pieces` arrive, one after each pause, and then leaves the upload as a killed process would.
    async fn receive_and_die(place: &Arc<Unfinished>, pieces: Vec<Bytes>, pause: Duration) {
        let slowly = stream::iter(pieces).then(move |piece| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, io::Error>(piece)
        });
        let mut body = BodyReader::new(Body::from_stream(slowly.chain(stream::pending())));
        body.keep(place.follow(ANN));
        let (service, _, _) = service();
        tokio::select! {
            _ = upload::receive(service, UploadBudgets::default(), ANN, &mut body) => panic!("the body has no end"),
            () = tokio::time::sleep(Duration::from_secs(25)) => {}
        }
    }

    fn files(place: &Unfinished) -> usize {
        fs::read_dir(&place.directory).expect("lists").count()
    }

    fn pieces(bytes: &[u8]) -> Vec<Bytes> {
        bytes.chunks(10_000).map(Bytes::copy_from_slice).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_killed_process_had_received_is_noted_by_the_next_and_nothing_is_committed() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Arc::new(Unfinished::open(&directory.path().join("unfinished")).expect("opens"));
        let block: Vec<u8> = (0..3 * BEGINNING_BYTES).map(|n| (n % 251) as u8).collect();
        let whole = framed(&[b"one", &block]);
        let cut = whole.len() - BEGINNING_BYTES / 2;
        receive_and_die(&place, pieces(&whole[..cut]), Duration::from_millis(10)).await;
        assert_eq!(files(&place), 1);

        let next = Unfinished::open(&directory.path().join("unfinished")).expect("opens again");
        let (service, store, meta) = service();
        next.take_up(&service).await;
        let expected = [BlockHash::of(b"one"), BlockHash::of(&block[..2 * BEGINNING_BYTES])];
        let noted = meta.noted.lock().expect("not poisoned").clone();
        assert_eq!(noted, expected.map(|hash| (ANN.account, hash)).into());
        assert_eq!(store.list(None, 10).expect("lists").len(), 2);
        assert!(meta.committed.lock().expect("not poisoned").is_empty());
        assert_eq!(files(&next), 0, "a file is of use once");
    }

    #[tokio::test(start_paused = true)]
    async fn all_of_a_body_is_no_commit_either() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Arc::new(Unfinished::open(directory.path()).expect("opens"));
        let mut kept = place.follow(ANN);
        tokio::time::advance(limits::UNFINISHED_AFTER).await;
        kept.arrived(&framed(&[b"one", b"two"]).into()).await;
        let (service, _, meta) = service();
        place.take_up(&service).await;
        assert_eq!(meta.noted.lock().expect("not poisoned").len(), 2);
        assert!(meta.committed.lock().expect("not poisoned").is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_is_soon_over_and_one_that_is_swift_get_no_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Arc::new(Unfinished::open(directory.path()).expect("opens"));
        let piece = Bytes::from(vec![0; 1_000_000]);
        let mut swift = place.follow(ANN);
        for _ in 0..4 {
            swift.arrived(&piece).await;
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        swift.arrived(&piece).await;
        let mut short = place.follow(ANN);
        short.arrived(&piece).await;
        short.end().await;
        assert_eq!(files(&place), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_file_goes_with_the_upload_and_without_room_there_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Arc::new(Unfinished::open(directory.path()).expect("opens"));
        let mut kept = place.follow(ANN);
        tokio::time::advance(limits::UNFINISHED_AFTER).await;
        kept.arrived(&Bytes::from_static(b"piece")).await;
        assert_eq!((files(&place), place.bytes.load(Ordering::Relaxed)), (1, 5));
        place.take_room(limits::UNFINISHED_BYTES - 5).expect("fits");
        kept.arrived(&Bytes::from(vec![0; 64 * 1024])).await;
        assert_eq!((files(&place), place.bytes.load(Ordering::Relaxed)), (0, limits::UNFINISHED_BYTES - 5));
    }

    #[tokio::test]
    async fn foreign_files_are_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let place = Unfinished::open(directory.path()).expect("opens");
        for (name, bytes) in [("a", vec![]), ("b", vec![7; 60]), ("c", MAGIC.to_vec())] {
            fs::write(directory.path().join(name), bytes).expect("writes");
        }
        let (service, store, _) = service();
        place.take_up(&service).await;
        assert_eq!((files(&place), store.list(None, 10).expect("lists").len()), (0, 0));
    }
}
