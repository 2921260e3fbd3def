//! What travels between a client and the services, and between the services.
//!
//! A client speaks HTTP: every call is `POST {PREFIX}/<name>` with a postcard body of content type
//! [`CONTENT_TYPE`], and is answered with the same content type, or with an [`ApiError`] under an HTTP
//! status of 400 and above. An answer of any other content type did not come from a Syncline server (a
//! proxy's error page, a captive portal), and nothing may be concluded from it.
//!
//! docs/protocol.md shows the calls one by one.

pub mod bundle;
pub mod codec;
mod entries;
pub mod error;
pub mod messages;
mod near;
mod news;
pub mod sent;
pub mod service;
mod shift;

pub use bundle::{Bundle, Nameless, SentHead};
pub use codec::{DecodeError, decode, decode_first, encode};
pub use error::{ApiError, ErrorCode};
pub use messages::*;
pub use news::{NewsBundle, NewsBundleRequest};
pub use sent::{AmendedList, SentCommit, SentOperation};
pub use shift::{HashStart, Shift};

/// The path under which all calls of this protocol version live.
pub const PREFIX: &str = "/sync/v1";
/// The content type of every message.
pub const CONTENT_TYPE: &str = "application/vnd.syncline";
