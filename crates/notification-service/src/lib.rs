//! The notification service: tells each client that a namespace reached a position, and nothing else.
//!
//! A notification is a hint. It is never queued behind another one of its namespace, it may be lost, and
//! the client pulls the truth by its cursor. [`Hub`] is told by the meta service
//! ([`api::service::Announce`]) and keeps one [`Subscription`] per connection; [`routes`] writes
//! subscriptions out as server-sent events. When the service is split in two levels, the hub stays where
//! the announcements arrive and the edges subscribe to it.
//!
//! A slow reader costs one position per namespace that it follows. That its connection ends when it
//! takes nothing for too long is the business of whoever owns the socket.

mod events;
mod hub;

pub use events::{Events, routes};
pub use hub::{Ending, Follow, Hub, News, Subscription};
