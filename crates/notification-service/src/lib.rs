//! The notification service: tells each client that a namespace reached a position, and nothing else.
//!
//! A notification is a hint. It is never queued behind another one of its namespace, it may be lost, and
//! the client pulls the truth by its cursor. [`Hub`] is told by the meta service
//! ([`api::service::Announce`]) and keeps one [`Subscription`] per connection; [`routes`] writes
//! subscriptions out as server-sent events. That is all of it in a server of one process.
//!
//! In a server of many processes it has two levels. A [`Relay`] (the role `notify-hub`) hears from the meta
//! service for the namespaces that are its own; an [`Edge`] (the role `notify-edge`) holds the clients'
//! connections ([`serve_connection`]), and listens to the relays for what its clients follow.
//!
//! A slow reader costs one position per namespace that it follows. That its connection ends when it
//! takes nothing for too long is the business of whoever owns the socket.

mod edge;
mod events;
mod hub;
mod lean;
mod relay;

pub use edge::{Edge, Identified, MetaForEdge};
pub use events::{Events, routes};
pub use hub::{Ending, Follow, Hub, News, Subscription};
pub use lean::serve_connection;
pub use relay::{Relay, hub_routes};
