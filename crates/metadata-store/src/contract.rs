//! The contract suite: what every adapter of [`MetadataStore`](crate::MetadataStore) must do.
