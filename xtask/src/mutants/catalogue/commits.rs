//! Mistakes in the meta service: what a commit must satisfy, and who may read and write.

use crate::mutants::Mutant;
use crate::mutants::suites::Suite::{MetaService, Model, Simulation};

const DECIDE: &str = "crates/meta-service/src/decide.rs";
const COMMIT: &str = "crates/meta-service/src/commit.rs";
const SERVICE: &str = "crates/meta-service/src/service.rs";
const CHANGES: &str = "crates/meta-service/src/changes.rs";
const COMING: &str = "crates/meta-service/src/coming.rs";
const SHARING: &str = "crates/meta-service/src/sharing.rs";
const NAME: &str = "crates/model/src/name.rs";
const SENT: &str = "crates/api/src/sent.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "no-cycle-check",
        about: "a folder may be moved below itself",
        file: DECIDE,
        old: "return Ok(Err(Reason::Cycle));",
        new: "return Ok(Ok(Place::ROOT));",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "no-name-uniqueness",
        about: "two nodes of one folder may have one name",
        file: DECIDE,
        old: "Ok(if holder == record.node || leaves { Ok(()) } else { Err(Reason::NameTaken) })",
        new: "Ok(if holder == record.node || leaves || true { Ok(()) } else { Err(Reason::NameTaken) })",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "case-sensitive-uniqueness",
        about: "`a` and `A` are two names",
        file: NAME,
        old: "        if name.is_ascii() {\n            return Self(name.to_ascii_lowercase().into());",
        new: "        if true {\n            return Self(name.into());",
        suites: &[Model, MetaService, Simulation],
    },
    Mutant {
        name: "edits-without-base",
        about: "an edit is accepted whatever it was made from",
        file: DECIDE,
        old: "if record.content_rev != *base_content {",
        new: "if false && record.content_rev != *base_content {",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "amends-any-version",
        about: "an amended edit is completed from whatever version there is",
        file: COMMIT,
        old: "base.is_live() && base.content_rev == revision",
        new: "base.is_live() || base.content_rev == revision",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "amends-unchecked",
        about: "what an amended edit leads to is not compared with what was meant",
        file: SENT,
        old: "new.is_empty() && list.content_hash() == self.content",
        new: "new.is_empty() || list.content_hash() == self.content",
        suites: &[MetaService],
    },
    Mutant {
        name: "moves-without-base",
        about: "a move is accepted wherever the node was thought to be",
        file: DECIDE,
        old: "if record.location_rev != *base_location {",
        new: "if false && record.location_rev != *base_location {",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "deletions-without-base",
        about: "a deletion is accepted whatever was deleted",
        file: DECIDE,
        old: "if (record.content_rev, record.location_rev) != (*base_content, *base_location) {",
        new: "if false && (record.content_rev, record.location_rev) != (*base_content, *base_location) {",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "unseen-descendants-deleted",
        about: "a folder's deletion takes along what its sender had not seen",
        file: DECIDE,
        old: "if child.changed > self.commit.seen {",
        new: "if false {",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "dead-parents",
        about: "a node may be put into a folder that was deleted",
        file: DECIDE,
        old: "Some(record) if record.is_live() && !self.doomed.contains(&parent) => {",
        new: "Some(record) if record.is_live() || !self.doomed.contains(&parent) => {",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "rows-before-blocks",
        about: "a commit may name blocks that nobody stored",
        file: DECIDE,
        old: "            if !lacks.is_empty() {",
        new: "            if false && !lacks.is_empty() {",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "half-a-batch",
        about: "of a commit with a bad operation the good ones are done",
        file: DECIDE,
        old: "if !self.rejected.is_empty() {",
        new: "if self.rejected.len() == self.commit.operations.len() && !self.rejected.is_empty() {",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "outcome-is-forgotten",
        about: "a commit that comes again is decided again",
        file: COMMIT,
        old: "    tx.put_outcome(commit.namespace, who.device, commit.key, &outcome, now)?;\n",
        new: "",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "any-epoch",
        about: "a commit from before a restore is accepted",
        file: COMMIT,
        old: "if commit.epoch != identity(tx)?.epoch {",
        new: "if false {",
        suites: &[MetaService, Simulation],
    },
    Mutant {
        name: "viewers-write",
        about: "who may only view a shared folder may change it",
        file: COMMIT,
        old: "if !role.may_write() {",
        new: "if false && !role.may_write() {",
        suites: &[MetaService],
    },
    Mutant {
        name: "unlinked-devices-write",
        about: "a device that was unlinked may still commit",
        file: COMMIT,
        old: "    check_linked(tx, who)?;\n",
        new: "",
        suites: &[MetaService],
    },
    Mutant {
        name: "readable-by-bare-hash",
        about: "who knows a block's hash may read it, in a namespace that never named it",
        file: SERVICE,
        old: "Ok(reading.names_blocks(namespace, blocks)?)",
        new: "reading.names_blocks(namespace, blocks)?;\n            Ok(vec![true; blocks.len()])",
        suites: &[MetaService],
    },
    Mutant {
        name: "strangers-read-blocks",
        about: "a namespace's blocks are for anybody with an account",
        file: SERVICE,
        old: "            role(reading, who, namespace)?;\n            Ok(reading.names_blocks(namespace, blocks)?)",
        new: "            let _ = who;\n            Ok(reading.names_blocks(namespace, blocks)?)",
        suites: &[MetaService],
    },
    Mutant {
        name: "owned-by-naming",
        about: "a commit may name any block that somebody stored, and so fetch it",
        file: CHANGES,
        old: "    for index in unknown {",
        new: "    for index in unknown.into_iter().filter(|_| false) {",
        suites: &[MetaService],
    },
    Mutant {
        name: "announced-is-owned",
        about: "who announces a hash may fetch the block, although another account has uploaded it",
        file: COMING,
        old: "readable.extend(named.iter().zip(uploaded).filter(|(_, has)| *has).map(|(hash, _)| *hash));",
        new: "drop(uploaded);\n                    readable.extend(named.iter().copied());",
        suites: &[MetaService],
    },
    Mutant {
        name: "viewers-announce",
        about: "who may only read a shared folder announces uploads into it",
        file: COMING,
        old: "if role.may_write() { Ok(()) } else { Err(forbidden().into()) }",
        new: "drop(role);\n            Ok(())",
        suites: &[MetaService],
    },
    Mutant {
        name: "removed-members-stay",
        about: "who was removed from a shared folder keeps its access and loses only the mount",
        file: SHARING,
        old: "    tx.remove_member(shared, member)?;\n",
        new: "",
        suites: &[MetaService],
    },
];
