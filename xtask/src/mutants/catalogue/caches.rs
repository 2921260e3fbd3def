//! Mistakes in what is remembered of journals, and where.

use crate::mutants::Mutant;
use crate::mutants::suites::Suite::{Cache, MetaService, MetadataStore};

const MEMORY: &str = "crates/cache/src/in_process.rs";
const SERVER: &str = "crates/cache/src/memcached/server.rs";
const BREAKER: &str = "crates/cache/src/memcached/breaker.rs";
const PROTOCOL: &str = "crates/cache/src/memcached/protocol.rs";
const JOURNALS: &str = "crates/metadata-store/src/journal_cache.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "leases-are-not-compared",
        about: "in memory, any lease fills in a value",
        file: MEMORY,
        old: "entry.is_leased(lease.token) && now",
        new: "matches!(entry.state, State::Leased(_)) && now",
        suites: &[Cache],
    },
    Mutant {
        name: "invalidation-is-skipped",
        about: "in memory, what was invalidated stays, and the lease for it holds",
        file: MEMORY,
        old: "    fn invalidate(&self, key: &str) {\n        self.lock().remove(key);",
        new: "    fn invalidate(&self, _key: &str) {",
        suites: &[Cache],
    },
    Mutant {
        name: "versions-are-not-sent",
        about: "memcached is not told which item a lease is for",
        file: PROTOCOL,
        old: "{} C{token} T{seconds}\\r\\n\", value.len())",
        new: "{} T{seconds}\\r\\n\", value.len() + 0 * token as usize)",
        suites: &[Cache],
    },
    Mutant {
        name: "restarts-are-not-noticed",
        about: "a lease holds for another run of a server that gives the same numbers",
        file: SERVER,
        old: "if run.is_some_and(|run| run != connection.run()) {",
        new: "if run.is_some_and(|run| run != connection.run()) && false {",
        suites: &[Cache],
    },
    Mutant {
        name: "dead-cache-servers-are-asked-on",
        about: "every call waits for a server that hangs",
        file: BREAKER,
        old: "if self.failures >= FAILURES {",
        new: "if self.failures == u32::MAX {",
        suites: &[Cache],
    },
    Mutant {
        name: "short-values-end-a-page",
        about: "what the cache has counts as all there is, although the journal reaches further",
        file: JOURNALS,
        old: "        if reached >= last {\n            return Ok(records);",
        new: "        if reached >= last || !records.is_empty() {\n            return Ok(records);",
        suites: &[MetadataStore, MetaService],
    },
    Mutant {
        name: "gaps-between-chunks",
        about: "behind a chunk that has grown since, the next one follows",
        file: JOURNALS,
        old: "            if until < there {\n                break;",
        new: "            if until < there && until <= after {\n                break;",
        suites: &[MetadataStore, MetaService],
    },
    Mutant {
        name: "entries-beyond-the-snapshot",
        about: "what the cache has beyond the snapshot's head is handed out",
        file: JOURNALS,
        old: "            known.retain(|record| record.entry.position <= head);\n",
        new: "",
        suites: &[MetadataStore],
    },
    Mutant {
        name: "values-of-another-epoch",
        about: "entries are believed that were read before the database went back",
        file: JOURNALS,
        old: "if (server, namespace) != (self.server, self.namespace)",
        new: "if (server.instance, namespace) != (self.server.instance, self.namespace)",
        suites: &[MetadataStore],
    },
    Mutant {
        name: "keys-without-epoch",
        about: "a key means the same entries before and after the database went back",
        file: JOURNALS,
        old: "{entries}/{number}\", epoch.0)",
        new: "{entries}/{number}\", 0 * epoch.0)",
        suites: &[MetadataStore, MetaService],
    },
    Mutant {
        name: "cached-bytes-are-not-summed",
        about: "a damaged value is believed",
        file: JOURNALS,
        old: "head[0] != FORMAT || head[1..] != crc_fast::crc32_iscsi(body).to_le_bytes()",
        new: "head[0] != FORMAT",
        suites: &[MetadataStore],
    },
    Mutant {
        name: "wrong-values-stay",
        about: "a value that is not believed keeps the right one from being filled in",
        file: JOURNALS,
        old: "belongs there.\n                cache.cache.invalidate(key);",
        new: "belongs there.\n                let _ = key;",
        suites: &[MetadataStore],
    },
    Mutant {
        name: "old-values-stay",
        about: "a chunk that has grown much is never read anew",
        file: JOURNALS,
        old: "if there.0 - until.0 >= cache.chunking.stale {",
        new: "if there.0 - until.0 == u64::MAX {",
        suites: &[MetadataStore],
    },
];
