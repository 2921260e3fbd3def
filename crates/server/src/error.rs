//! Why a server could not start or go on, in words for its operator.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A failure of the whole server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("another program listens on {address} already")]
    AddressInUse { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the data directory {path} cannot be written")]
    DataDirNotWritable { path: PathBuf, source: io::Error },
    #[error("there is no server's metadata database {place}")]
    NoServer { place: String },
    #[error("another server is running on the data directory {path}")]
    AlreadyRunning { path: PathBuf },
    #[error("the data directory {path} was made by a newer version of this program")]
    NewerFormat { path: PathBuf },
    #[error("the disk of the data directory {path} is full")]
    DiskFull { path: PathBuf },
    #[error("the blocks in {path} belong to another server's metadata database")]
    ForeignBlocks { path: PathBuf, source: block_store::StoreError },
    #[error("cannot open the blocks in {path}")]
    Blocks { path: PathBuf, source: block_store::StoreError },
    #[error("cannot open the bucket {place}")]
    Bucket { place: String, source: block_store::StoreError },
    #[error("cannot open the metadata database {place}")]
    Metadata { place: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("cannot open the metadata database")]
    Database { source: metadata_store_mysql::OpenError },
    #[error("the calls between services cannot be encrypted")]
    ServiceTls { source: service_calls::BadTls },
    #[error("the meta service does not answer")]
    NoMeta { source: api::ApiError },
    #[error("cannot prepare to send traces")]
    Telemetry { source: reqwest::Error },
    #[error("cannot start the server's threads")]
    Runtime { source: io::Error },
}

impl ServerError {
    /// What the operator can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::AddressInUse { .. } => "stop the other program, or choose another port with `--listen`",
            Self::Listen { .. } => "check that the address is one of this machine's; ports below 1024 need privileges",
            Self::DataDirNotWritable { .. } => {
                "check the directory's owner and permissions, or pass another `--data DIR`"
            }
            Self::NoServer { .. } => {
                "check `--data`, `--metadata` and `--config`, and that the disk is mounted; a server is made by \
                 `syncline server`, or by `syncline admin user add`"
            }
            Self::AlreadyRunning { .. } => "stop that server first, or pass another `--data DIR`",
            Self::NewerFormat { .. } => "run the newer version, or restore a backup that this version made",
            Self::DiskFull { .. } => "free some space on that disk and start again; nothing is lost",
            Self::ForeignBlocks { .. } => {
                "let metadata and blocks that belong together work together; an empty place is given to a new server"
            }
            Self::Blocks { .. } => {
                "check the disk; the block index is rebuilt by itself when `blocks/index.sqlite` is removed"
            }
            Self::Bucket { .. } => {
                "check that the bucket exists, the endpoint, the region, `path_style` and the credentials"
            }
            Self::Database { source } => source.hint(),
            Self::ServiceTls { source } => source.hint(),
            Self::Metadata { .. } => "check the disk, and run `syncline admin verify`",
            Self::NoMeta { .. } => {
                "check that a meta service runs at one of the addresses of `--meta`, with the same secret and authority"
            }
            Self::Telemetry { .. } => {
                "install the system's authorities (ca-certificates), or name a collector with http://"
            }
            Self::Runtime { .. } => "check the limits on threads and memory of this user",
        }
    }
}
