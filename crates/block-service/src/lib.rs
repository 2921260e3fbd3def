//! The block service: takes blocks from clients and hands them out.
//!
//! It stores each block once, whoever sends it, and holds no user logic: who a token belongs to, what an
//! account may read and what a commit does is asked of the meta service ([`api::service::MetaForBlocks`]).
//! It never touches the metadata database.
//!
//! [`BlockService`] is the synchronous core, which a simulation calls directly; [`routes`] puts HTTP
//! around it, with bounded memory and bounded patience.

mod bases;
mod budget;
mod clean_up;
mod download;
#[cfg(test)]
mod failing_store;
mod fresh;
mod http;
mod limits;
mod news;
mod receive;
mod recent;
mod service;
mod shift;
mod unfinished;
mod upload;
mod verify;

pub use clean_up::{CleanUp, CleanUpError, CleanUpReport};
pub use http::routes;
pub use service::{BlockService, Offer, Parcel, Thrift, Upload};
pub use unfinished::Unfinished;
pub use verify::{Findings, VerifyError, VerifyReport, verify};
