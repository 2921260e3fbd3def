//! Mistakes in how the synced folder is read and changed.

use crate::mutants::Mutant;
use crate::mutants::suites::Suite::{LocalFiles, Simulation};

const APPLY: &str = "crates/local-files/src/jobs/apply.rs";
const PREPARE: &str = "crates/local-files/src/jobs/prepare.rs";
const HASH: &str = "crates/local-files/src/jobs/hash.rs";
const SCAN: &str = "crates/local-files/src/jobs/scan.rs";
const TEMPS: &str = "crates/local-files/src/temps.rs";
const RENAME: &str = "crates/local-files/src/disk/rename.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "exchanged-file-is-not-looked-at",
        about: "what was exchanged for a new version is thrown away whatever it is",
        file: APPLY,
        old: "match self.look_aside(&aside, old).and_then(",
        new: "match self.look_aside(&aside, old).or(Ok::<(), StepError>(())).and_then(",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "removed-file-is-not-looked-at",
        about: "what was moved aside to be removed is removed whatever it is",
        file: APPLY,
        old: "if let Err(error) = self.look_aside(&aside, &old).and_then(",
        new: "if let Err(error) = self.look_aside(&aside, &old).or(Ok(())).and_then(",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "writers-are-not-seen",
        about: "a file is replaced although a program has it open for writing",
        file: APPLY,
        old: "if found.kind == FileKind::File { self.fs.unwritten(path).map_err(step_error) } else { Ok(None) }",
        new: "if found.kind == FileKind::Other { self.fs.unwritten(path).map_err(step_error) } else { Ok(None) }",
        suites: &[LocalFiles],
    },
    Mutant {
        name: "late-writers-are-not-seen",
        about: "a file is replaced although a program has begun to open it for writing",
        file: APPLY,
        old: "if unwritten.is_none_or(Unwritten::is_undisturbed) { Ok(()) }",
        new: "if unwritten.is_none_or(|_| true) { Ok(()) }",
        suites: &[LocalFiles],
    },
    Mutant {
        name: "no-expectations",
        about: "steps are done on whatever is there",
        file: APPLY,
        old: "if same { Ok(()) } else { Err(StepError::Changed) }\n    }\n\n    /// Moves something to a place",
        new: "if same || true { Ok(()) } else { Err(StepError::Changed) }\n    }\n\n    /// Moves something to a place",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "half-a-download-is-installed",
        about: "a temporary file is installed whatever its length",
        file: APPLY,
        old: "if found.print.size != content.size || !is_whole",
        new: "if !is_whole",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "holes-are-installed",
        about: "a temporary file that lost what was written into it is installed",
        file: APPLY,
        old: "if content.size <= BLOCK_SIZE || !file.has_holes() {",
        new: "if true {",
        suites: &[LocalFiles],
    },
    Mutant {
        name: "new-bytes-are-not-synced",
        about: "a file gets its name before its bytes are on disk",
        file: PREPARE,
        old: "        fs.sync()?;\n",
        new: "",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "into-a-strangers-folder",
        about: "files of a folder that could not be made are put into the user's folder of that name",
        file: APPLY,
        old: "if self.goes_astray(step) {",
        new: "if false {",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "steps-are-not-synced",
        about: "steps are reported as done before the disk has them",
        file: APPLY,
        old: "if results.iter().any(Result::is_ok)\n",
        new: "if results.is_empty()\n",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "root-may-go-away",
        about: "steps count as done although the synced folder went away meanwhile",
        file: APPLY,
        old: "    match fs.root_state() {\n",
        new: "    match RootState::Present {\n",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "attributes-hide-an-edit",
        about: "attributes are set without a look whether the bytes are still the known ones",
        file: APPLY,
        old: "if blocks.is_none_or(|blocks| blocks.content_hash() != content.hash) {",
        new: "if false && blocks.is_none_or(|blocks| blocks.content_hash() != content.hash) {",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "renames-replace",
        about: "a rename overwrites what has the name",
        file: RENAME,
        old: "RenameFlags::NOREPLACE)",
        new: "RenameFlags::empty())",
        suites: &[LocalFiles],
    },
    Mutant {
        name: "clean-up-removes-edits",
        about: "an edit that a crash left aside is cleaned up",
        file: TEMPS,
        old: "if aside::is_aside(name) && !aside::disposable",
        new: "if false && !aside::disposable",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "fresh-files-are-hashed",
        about: "a file that was changed within a tick of the clock is hashed, and a further change never shows",
        file: HASH,
        old: "if age == Age::Fresh && !(task.closed && fs.tells_changes_apart(task.print.device)) {",
        new: "if false {",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "small-files-change-unseen",
        about: "a small file that changes while it is read is named by what was read of it",
        file: HASH,
        old: "if still && read == content.len()",
        new: "if (still || true) && read == content.len()",
        suites: &[LocalFiles],
    },
    Mutant {
        name: "mapped-stores-do-not-show",
        about: "a file is read while its pages are dirty, and further stores through a mapping leave its change time",
        file: HASH,
        old: "    if !task.closed {\n        file.write_back();\n    }\n",
        new: "",
        suites: &[LocalFiles],
    },
    Mutant {
        name: "closed-files-never-settle",
        about: "a closed file is read at once although a further change could leave its change time",
        file: HASH,
        old: "task.closed && fs.tells_changes_apart(task.print.device)",
        new: "task.closed",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "unreadable-is-gone",
        about: "a folder that cannot be listed is told to be gone",
        file: SCAN,
        old: "Err(FsError::NotFound | FsError::NotADirectory | FsError::Escapes) => Err(ScanError::Gone),",
        new: "Err(FsError::Permission | FsError::NotFound | FsError::NotADirectory | FsError::Escapes) => {\n            \
              Err(ScanError::Gone)\n        }",
        suites: &[LocalFiles, Simulation],
    },
    Mutant {
        name: "half-writes-are-read",
        about: "a file is read in the middle of a write",
        file: HASH,
        old: "    file.outwait_writes();\n",
        new: "",
        suites: &[LocalFiles],
    },
    Mutant {
        name: "what-was-replaced-comes-back",
        about: "a version that was to go is kept as a new file when the exchange cannot be undone",
        file: APPLY,
        old: "            temps::discard_aside(self.fs, aside);\n            return;",
        new: "            temps::rescue(self.fs, aside);\n            return;",
        suites: &[LocalFiles, Simulation],
    },
];
