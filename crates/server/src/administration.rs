//! What the admin commands do with the blocks of a configuration, beside a server that runs or without one.

use crate::data_dir::DataDir;
use crate::roles::{BlocksFor, existing, open_blocks};
use crate::{Config, Metadata, ServerError};
use api::ApiError;
use api::service::CleanUpMode;
use block_service::{CleanUp, CleanUpError, CleanUpReport, VerifyError, VerifyReport};
use meta_service::MetaService;
use std::sync::Arc;

/// Why an admin command about the blocks did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum AdministrationError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("the blocks could not be cleaned up")]
    CleanUp(#[from] CleanUpError),
    #[error("the blocks could not be verified")]
    Verify(#[from] VerifyError),
    #[error("the block store could not be looked through")]
    Blocks(#[source] block_store::StoreError),
    #[error("the metadata database could not be asked")]
    Meta(#[source] ApiError),
    #[error("the metadata database is damaged")]
    DamagedDatabase { source: metadata_store::StoreError },
}

impl AdministrationError {
    /// What the operator can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Server(ServerError::AlreadyRunning { .. }) => {
                "that server cleans up by itself several times a day; `--dry-run` shows what there is to do"
            }
            Self::Server(error) => error.hint(),
            Self::CleanUp(_) | Self::Verify(_) | Self::Blocks(_) | Self::Meta(_) => {
                "nothing was damaged; the same command can be run again"
            }
            Self::DamagedDatabase { .. } => "stop the server, keep a copy of `meta.sqlite`, and restore a backup",
        }
    }
}

/// Cleans the blocks up, or looks what there is to do. Blocks on a disk that a server has open are only
/// looked at.
///
/// # Errors
/// [`AdministrationError`].
pub fn clean_up(config: &Config, mode: CleanUpMode) -> Result<CleanUpReport, AdministrationError> {
    let purpose = if mode == CleanUpMode::Act { BlocksFor::Everything } else { BlocksFor::Looking };
    let (meta, store) = parts(config, purpose)?;
    if mode == CleanUpMode::Act {
        while meta.clean_up().map_err(AdministrationError::Meta)?.more {}
    }
    Ok(CleanUp::new(store, meta).run(mode)?)
}

/// Reads every block that is named, and looks for blocks that nobody names. `progress` hears now and then
/// how far it is. Changes nothing.
///
/// # Errors
/// [`AdministrationError`]; that blocks are missing or damaged is an answer and not among them.
pub fn verify(config: &Config, progress: &mut dyn FnMut(&VerifyReport)) -> Result<VerifyReport, AdministrationError> {
    if config.metadata == Metadata::InDataDir {
        let database = DataDir::existing(&config.data_dir)?.metadata()?;
        database.verify().map_err(|source| AdministrationError::DamagedDatabase { source })?;
    }
    let (meta, store) = parts(config, BlocksFor::Looking)?;
    Ok(block_service::verify(&*store, &*meta, progress)?)
}

/// Finds blocks in the block store again that the metadata database, an older copy, knows nothing of; how many.
///
/// # Errors
/// [`AdministrationError`].
pub fn find_blocks(config: &Config) -> Result<u64, AdministrationError> {
    let (_, store) = parts(config, BlocksFor::Looking)?;
    store.reindex().map_err(AdministrationError::Blocks)
}

type Parts = (Arc<MetaService>, Arc<dyn block_store::BlockStore>);

fn parts(config: &Config, purpose: BlocksFor) -> Result<Parts, AdministrationError> {
    let (data_dir, meta) = existing(config)?;
    let meta = Arc::new(meta);
    let instance = meta.server().map_err(AdministrationError::Meta)?.instance;
    let store = open_blocks(&data_dir, config, instance, meta.clone(), purpose)?;
    Ok((meta, store))
}
