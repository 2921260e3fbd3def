//! Calls between the processes of one server: what [`api::service`] says as function calls, over HTTP.
//!
//! A call is `POST {SERVICE_PREFIX}/<name>` with a postcard body, as the clients' calls are, on an address
//! of its own that no client reaches. [`RemoteMeta`] is the meta service as another process sees it,
//! [`meta_routes`] answers it; [`Publisher`] carries announcements to the hubs. Each call has a deadline,
//! goes to an instance that works ([`Upstream`]), and is sent again only where that does no harm
//! ([`wire::Repeat`]). docs/protocol.md has the calls.

mod balancer;
#[cfg(feature = "private-authority")]
pub mod private_authority;
mod publisher;
mod ranking;
mod remote_meta;
mod request_id;
mod routes;
mod secret;
mod tls;
mod trace_context;
mod upstream;
pub mod wire;

pub use publisher::{Publisher, PublisherCounts};
pub use ranking::{FOLLOWED_HUBS, hubs_of};
pub use remote_meta::RemoteMeta;
pub use request_id::{REQUEST_ID, RequestId, RequestIds};
pub use routes::{Admission, alive_routes, answer_call, guard, meta_routes, read_call};
pub use secret::{BadSecret, ServiceSecret};
pub use tls::{BadTls, Caller, Renewal, ServiceTls, TlsFiles};
pub use trace_context::{TRACE_PARENT, follow_trace};
pub use upstream::{CallError, Chance, Links, Upstream};
