//! Mistakes in the engine's order of doing things, and in what it makes of the server's answers.

use crate::mutants::Mutant;
use crate::mutants::suites::Suite::{Client, Scenarios, Simulation, SyncEngine};

const ENGINE: &str = "crates/sync-engine/src/engine.rs";
const INSTALLING: &str = "crates/sync-engine/src/engine/installing.rs";
const EXCLUDING: &str = "crates/sync-engine/src/engine/excluding.rs";
const POWER: &str = "crates/sync-engine/src/engine/power.rs";
const SERVER: &str = "crates/sync-engine/src/engine/server.rs";
const JOURNAL: &str = "crates/sync-engine/src/engine/journal.rs";
const TREES: &str = "crates/sync-engine/src/trees.rs";
const BLOCKS: &str = "crates/client/src/transport/blocks.rs";
const TRANSPORT: &str = "crates/client/src/transport.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "excluded-without-a-mark",
        about: "what is excluded leaves before the folder is marked to lack it",
        file: EXCLUDING,
        old: "excluding.marked.as_ref() == Some(&self.state.excluded) && self.server.pulls",
        new: "self.server.pulls",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "excluded-without-asking",
        about: "what is excluded leaves although the server may not have it any more",
        file: EXCLUDING,
        old: "            self.excluding.after_pull = self.server.next_pull();\n",
        new: "",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "marks-are-not-believed",
        about: "what the folder is marked to lack counts as deleted when the database does not know the exclusion",
        file: EXCLUDING,
        old: "if forgotten && self.state.excluded.insert(*id) {",
        new: "if forgotten && false {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "power-failures-are-the-users",
        about: "what a power failure took from the disk counts as deleted or edited by the user",
        file: POWER,
        old: "filter(|before| before.boot != durable.boot)",
        new: "filter(|_| false)",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "edits-before-a-power-failure-are-its-work",
        about: "an edit that outlived a power failure counts as damage",
        file: POWER,
        old: " || newer && file.size > 0",
        new: "",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "commits-while-the-epoch-is-open",
        about: "a commit that was refused for its epoch is sent again and again until the new one is known",
        file: SERVER,
        old: "            && !server.asking\n",
        new: "",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "retried-under-a-fresh-key",
        about: "a commit whose answer was lost is sent again as another one",
        file: SERVER,
        old: "if let Some(commit) = self.state.in_flight.clone() {",
        new: "if let Some(mut commit) = self.state.in_flight.clone() {\n            \
              commit.key.0[0] ^= 0x80;",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "lost-answer-is-no",
        about: "a commit whose answer was lost counts as not made, and is planned anew",
        file: SERVER,
        old: "RequestKind::Commit => {}\n            RequestKind::Missing(asked) => self.ask_again(&asked),",
        new: "RequestKind::Commit => {\n                self.state.in_flight = None;\n                \
              self.freeze();\n            }\n            \
              RequestKind::Missing(asked) => self.ask_again(&asked),",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "sent-before-persisted",
        about: "a commit is sent without its key on disk, so that after a crash nobody asks for its fate",
        file: SERVER,
        old: "        self.persist();\n",
        new: "",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "steps-before-persisted",
        about: "local steps begin before the database knows them to be ours",
        file: INSTALLING,
        old: "        self.persist();\n        let id = self.start_job(Job::Apply(",
        new: "        let id = self.start_job(Job::Apply(",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "installed-before-recorded",
        about: "a batch installs downloads that the database does not know of",
        file: INSTALLING,
        old: "                    self.state.installing = installing(&self.trees, &steps, files);\n",
        new: "                    drop(installing(&self.trees, &steps, files));\n",
        suites: &[SyncEngine, Simulation],
    },
    Mutant {
        name: "every-download-was-installed",
        about: "after a crash a download counts as installed although it is still waiting",
        file: INSTALLING,
        old: "Some(print) if !left.contains(&inode(&print)) => print,",
        new: "Some(print) => print,",
        suites: &[SyncEngine, Simulation],
    },
    Mutant {
        name: "swept-downloads-were-installed",
        about: "a temporary folder that somebody emptied proves that all downloads were installed",
        file: INSTALLING,
        old: "if swept || !tmp.unreadable.is_empty() {",
        new: "if !tmp.unreadable.is_empty() {",
        suites: &[SyncEngine],
    },
    Mutant {
        name: "cursor-over-a-gap",
        about: "an entry that does not follow the cursor is applied, and what is between is never asked for",
        file: JOURNAL,
        old: "if entry.position != position.next() {",
        new: "if false {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "own-commit-over-a-gap",
        about: "an own commit moves the cursor although others' entries lie before it",
        file: JOURNAL,
        old: "if position.next() == first {",
        new: "self.state.cursor.insert(namespace, Position(first.0 - 1));\n        if true {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "planned-before-the-journal",
        about: "plans are made before the server's journal was read to its end",
        file: ENGINE,
        old: " && self.server.journal_is_read()\n    }",
        new: "\n    }",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "planned-in-a-round",
        about: "plans are made while what was moved is still missing",
        file: ENGINE,
        old: "!self.observer.in_round()\n            && ",
        new: "",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "in-flight-is-not-frozen",
        about: "nodes in a commit under way are planned about",
        file: ENGINE,
        old: "self.frozen = in_flight.iter().copied().chain(steps).chain(held).chain(departing).collect();",
        new: "self.frozen = steps.chain(held).chain(departing).collect();",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "steps-are-not-frozen",
        about: "nodes in local steps under way are planned about",
        file: ENGINE,
        old: "self.frozen = in_flight.iter().copied().chain(steps).chain(held).chain(departing).collect();",
        new: "drop(steps);\n        self.frozen = in_flight.iter().copied().chain(held).chain(departing).collect();",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "restored-server-deletes",
        about: "what a restored server does not have any more is deleted here",
        file: TREES,
        old: "            self.set_synced(id, None);\n            self.set_remote(id, None);",
        new: "            self.set_remote(id, None);",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "another-server-is-ours",
        about: "a server of another instance is synced with",
        file: SERVER,
        old: "if server.instance != state.instance {",
        new: "if false {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "mass-deletions-pass",
        about: "deletions of half the files go without a person's word",
        file: ENGINE,
        old: "            DeleteGuard::On { count, percent } => {\n                let deleted",
        new: "            DeleteGuard::On { .. } if true => false,\n            \
              DeleteGuard::On { count, percent } => {\n                let deleted",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "hot-retries",
        about: "a server that fails is asked again at once",
        file: SERVER,
        old: "let wait = drawn.max(BACKOFF_FLOOR_MS).max(advised.unwrap_or(0).min(BACKOFF_CAP_MS));",
        new: "let wait = drawn.min(0).max(advised.unwrap_or(0).min(0));",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "downloads-are-not-hashed",
        about: "a block is written as it came",
        file: BLOCKS,
        old: "if hash != header.hash {",
        new: "if false {",
        suites: &[Client],
    },
    Mutant {
        name: "downloaded-deltas-are-not-hashed",
        about: "what a delta makes of the local file is written whatever it is",
        file: BLOCKS,
        old: "made.filter(|made| BlockHash::of(made) == header.hash)",
        new: "made.filter(|_| true)",
        suites: &[Client],
    },
    Mutant {
        name: "any-page-is-an-answer",
        about: "an answer is believed whatever its content type",
        file: TRANSPORT,
        old: "if !has_type(response.headers(), api::CONTENT_TYPE) {",
        new: "if false {",
        suites: &[Client],
    },
    Mutant {
        name: "absent-prefetch-is-there",
        about: "a block that had not arrived when it was fetched before its commit counts as fetched",
        file: "crates/sync-engine/src/engine/prefetch.rs",
        old: "if file.asked.remove(&number) && !here {",
        new: "if file.asked.remove(&number) && !here && false {",
        suites: &[SyncEngine, Simulation],
    },
    Mutant {
        name: "thin-answers-are-news",
        about: "a server that announces more than it sends is asked again at once",
        file: "crates/sync-engine/src/engine/server.rs",
        old: "if says_nothing {",
        new: "if says_nothing && env.now == 0 {",
        suites: &[SyncEngine, Scenarios, Simulation],
    },
    Mutant {
        name: "folders-change-under-steps",
        about: "a folder becomes another one while a step puts something into it",
        file: ENGINE,
        old: "steps.flat_map(|planned| [Some(planned.step.node()), planned.after.folder()]).flatten();",
        new: "steps.map(|planned| planned.step.node());",
        suites: &[SyncEngine, Simulation],
    },
];
