//! The service's behaviour, over the SQLite store in memory.
