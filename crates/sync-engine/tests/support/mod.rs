//! A model disk, a model server and a driver without concurrency, for tests of the engine alone.

pub(crate) mod disk;
pub(crate) mod driver;
pub(crate) mod server;
