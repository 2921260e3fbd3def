//! What the sources may not contain, and what each must have.

use super::SourceFile;
use std::collections::BTreeSet;

/// Crates whose sources take time, chance and answers as arguments.
const PURE: &[&str] = &["model", "delta", "api", "sync-engine", "parcels"];
/// Words by which a program reaches the world around it.
const IMPURE_WORDS: &[&str] = &[
    "std::fs",
    "std::net",
    "std::thread",
    "std::process",
    "std::env",
    "SystemTime",
    "Instant",
    "rand",
    "tokio",
    "rusqlite",
    "rustix",
];

/// Adapters and the crate that each belongs to. Others know the port's trait only.
const ADAPTERS: &[(&str, &str)] = &[
    ("SqliteStore", "metadata-store"),
    ("MysqlStore", "metadata-store-mysql"),
    ("DiskBlockStore", "block-store"),
    ("MemoryBlockStore", "block-store"),
    ("S3BlockStore", "block-store-s3"),
    ("InProcessCache", "cache"),
    ("MemcachedCache", "cache"),
];
/// Where adapters are chosen. This crate is here for the table above.
const WIRING: &[&str] = &["server", "simulation", "fuzzing", "xtask"];

/// Lines in a file that a reader can still hold.
const FILE_LINES: usize = 800;
/// Longer files, each with the reason why it is better whole.
const LONG_FILES: &[(&str, &str)] = &[];

/// Names that say nothing about what they name.
const EMPTY_MODULES: &[&str] = &["utils", "util", "helpers", "helper", "common"];
const EMPTY_ENDINGS: &[&str] = &["Manager", "Helper", "Helpers", "Util", "Utils"];

/// Findings about the sources and manifests.
pub(crate) fn check(files: &[SourceFile]) -> Vec<String> {
    let tests = test_files(files);
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        findings.extend(length(file));
        findings.extend(module_doc(file));
        findings.extend(banners(file));
        findings.extend(names(file));
        if !tests.contains(&file.path) {
            findings.extend(purity(file));
            findings.extend(adapters(file));
        }
    }
    findings.extend(files.iter().filter_map(lints));
    findings.extend(LONG_FILES.iter().filter_map(|(path, _)| stale_exception(files, path)));
    findings
}

fn purity(file: &SourceFile) -> Vec<String> {
    if !PURE.contains(&file.crate_name()) {
        return Vec::new();
    }
    find_words(file, IMPURE_WORDS, |word| format!("`{word}` in a crate that decides and does not act"))
}

fn adapters(file: &SourceFile) -> Vec<String> {
    let here = file.crate_name();
    let foreign: Vec<&str> =
        ADAPTERS.iter().filter(|(_, home)| *home != here && !WIRING.contains(&here)).map(|(name, _)| *name).collect();
    find_words(file, &foreign, |word| format!("`{word}` is an adapter; only its own crate and the wiring name it"))
}

fn find_words(file: &SourceFile, words: &[&str], sentence: impl Fn(&str) -> String) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in product_lines(&file.text) {
        for word in words.iter().filter(|word| has_word(line, word)) {
            findings.push(format!("{}:{number}: {}", file.path, sentence(word)));
        }
    }
    findings
}

fn length(file: &SourceFile) -> Option<String> {
    let lines = file.text.lines().count();
    let excused = LONG_FILES.iter().any(|(path, _)| *path == file.path);
    (lines > FILE_LINES && !excused)
        .then(|| format!("{}: {lines} lines; split it, or give the reason in LONG_FILES", file.path))
}

fn stale_exception(files: &[SourceFile], path: &str) -> Option<String> {
    let long = files.iter().any(|file| file.path == path && file.text.lines().count() > FILE_LINES);
    (!long).then(|| format!("{path}: stands in LONG_FILES and is not long"))
}

/// Every source file says at its head what it is for; tests are their own explanation.
fn module_doc(file: &SourceFile) -> Option<String> {
    let is_test = file.path.contains("/tests/") || file.path.ends_with("/tests.rs");
    (!is_test && !file.text.starts_with("//!")).then(|| format!("{}: does not open with a module doc", file.path))
}

/// Comments that draw lines between parts of a file. A file that needs them needs to be two files.
fn banners(file: &SourceFile) -> Vec<String> {
    let lines = file.text.lines().enumerate().filter(|(_, line)| is_banner(line.trim()));
    lines.map(|(index, _)| format!("{}:{}: a banner", file.path, index + 1)).collect()
}

/// Whether the line is a comment that opens with a drawn line. Diagrams and tables open with something else.
fn is_banner(line: &str) -> bool {
    let Some(comment) = line.strip_prefix("//") else { return false };
    let comment = comment.trim_start_matches(['/', '!']).trim_start();
    let Some(first) = comment.chars().next().filter(|c| "-=*#_~─━═—".contains(*c)) else { return false };
    comment.chars().take_while(|c| *c == first).count() > 3
}

fn names(file: &SourceFile) -> Vec<String> {
    let mut findings = Vec::new();
    if file.path.split(['/', '.']).any(|part| EMPTY_MODULES.contains(&part)) {
        findings.push(format!("{}: the file's name does not say what it holds", file.path));
    }
    for (number, line) in product_lines(&file.text) {
        let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
        let defines = |word: &str| matches!(word, "struct" | "enum" | "trait" | "type");
        if words.any(defines) && words.next().is_some_and(|name| EMPTY_ENDINGS.iter().any(|end| name.ends_with(end))) {
            findings.push(format!("{}:{number}: the type's name does not say what it does", file.path));
        }
    }
    findings
}

/// The crates that may have `unsafe`, in a module that says why.
const WITH_UNSAFE: [&str; 3] =
    ["crates/file-lease/Cargo.toml", "crates/sha256-lanes/Cargo.toml", "crates/write-back/Cargo.toml"];

/// Every crate takes the workspace's lints, and these forbid `unsafe`.
fn lints(file: &SourceFile) -> Option<String> {
    let missing = match file.path.as_str() {
        "Cargo.toml" => !file.text.contains("unsafe_code = \"forbid\""),
        path if WITH_UNSAFE.contains(&path) => !file.text.contains("unsafe_code = \"deny\""),
        path if path.ends_with("/Cargo.toml") => !file.text.contains("[lints]\nworkspace = true"),
        _ => false,
    };
    missing.then(|| format!("{}: does not forbid `unsafe` by the workspace's lints", file.path))
}

/// The paths of files that only tests compile: those under `tests/`, and modules behind `#[cfg(test)]`.
fn test_files(files: &[SourceFile]) -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for file in files.iter().filter(|file| file.is_rust()) {
        if ["/tests/", "/benches/"].iter().any(|folder| file.path.contains(folder)) || file.path.ends_with("/tests.rs")
        {
            tests.insert(file.path.clone());
        }
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        let folder = match name {
            "lib.rs" | "main.rs" | "mod.rs" => folder.to_owned(),
            other => format!("{folder}/{}", other.trim_end_matches(".rs")),
        };
        let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
        for pair in lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]") {
            if let Some(module) = pair[1].strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')) {
                tests.insert(format!("{folder}/{module}.rs"));
            }
        }
    }
    tests
}

/// The numbered lines that are neither comments nor behind `#[cfg(test)]`. Relies on rustfmt: an item ends
/// on a line that closes at the indentation of its attribute.
fn product_lines(text: &str) -> Vec<(usize, &str)> {
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let mut kept = Vec::new();
    let mut test_item = None;
    for (index, line) in text.lines().enumerate() {
        let code = line.trim();
        if let Some(depth) = test_item {
            let closes = code.ends_with('}') || code.ends_with(';') || code.ends_with(',');
            if indentation(line) == depth && closes && !code.starts_with('#') {
                test_item = None;
            }
        } else if code == "#[cfg(test)]" {
            test_item = Some(indentation(line));
        } else if !code.starts_with("//") {
            kept.push((index + 1, line));
        }
    }
    kept
}

fn has_word(line: &str, word: &str) -> bool {
    let inside = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].chars().next_back().is_some_and(inside)
            && !line[at + word.len()..].chars().next().is_some_and(inside)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile { path: path.to_owned(), text: format!("//! A module.\n{text}") }
    }

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&[file(path, text)])
    }

    const CLEAN: [String; 0] = [];

    #[test]
    fn a_clock_in_the_engine_is_found_where_it_stands() {
        let found = found("crates/sync-engine/src/engine.rs", "fn now() -> Instant {\n    todo()\n}\n");
        assert_eq!(found, ["crates/sync-engine/src/engine.rs:2: `Instant` in a crate that decides and does not act"]);
    }

    #[test]
    fn comments_tests_and_longer_words_are_not_findings() {
        let text = "// An Instant is passed in.\nstruct Instantaneous;\n\
                    #[cfg(test)]\nmod tests {\n    use std::fs;\n}\n\nfn brand() {}\n";
        assert_eq!(found("crates/sync-engine/src/engine.rs", text), CLEAN);
    }

    #[test]
    fn what_follows_a_test_module_is_looked_at() {
        let text = "#[cfg(test)]\nmod fake {\n    use std::fs;\n}\nuse std::net::TcpStream;\n";
        assert_eq!(found("crates/model/src/lib.rs", text).len(), 1);
    }

    #[test]
    fn an_adapter_is_named_at_home_and_in_the_wiring_only() {
        let text = "fn open(store: DiskBlockStore) {}\n";
        assert_eq!(found("crates/block-store/src/disk.rs", text), CLEAN);
        assert_eq!(found("crates/server/src/lib.rs", text), CLEAN);
        assert_eq!(found("crates/block-service/tests/upload.rs", text), CLEAN);
        assert_eq!(found("crates/block-service/src/lib.rs", text).len(), 1);
    }

    #[test]
    fn a_module_that_only_tests_compile_may_name_adapters() {
        let files = [
            file("crates/block-service/src/lib.rs", "#[cfg(test)]\nmod rig;\n"),
            file("crates/block-service/src/rig.rs", "use block_store::MemoryBlockStore;\n"),
        ];
        assert_eq!(check(&files), CLEAN);
    }

    #[test]
    fn a_long_file_asks_for_its_reason() {
        assert_eq!(found("crates/model/src/name.rs", &"\n".repeat(FILE_LINES)).len(), 1);
        assert_eq!(found("crates/model/src/name.rs", &"\n".repeat(FILE_LINES - 1)), CLEAN);
    }

    #[test]
    fn a_file_without_a_module_doc_is_found() {
        let bare = SourceFile { path: "crates/model/src/name.rs".to_owned(), text: "fn f() {}\n".to_owned() };
        assert_eq!(check(&[bare]), ["crates/model/src/name.rs: does not open with a module doc"]);
    }

    #[test]
    fn empty_names_and_banners_are_found() {
        assert_eq!(found("crates/client/src/utils.rs", "").len(), 1);
        assert_eq!(found("crates/client/src/x.rs", "pub struct TransferManager {\n").len(), 1);
        assert_eq!(found("crates/client/src/x.rs", &format!("// {} helpers\n", "-".repeat(20))).len(), 1);
        assert_eq!(found("crates/client/src/x.rs", "// They have a parent in common.\n"), CLEAN);
        assert_eq!(found("crates/client/src/x.rs", "//!  watcher ──────┐\n//! |----|----|\n//! ### Part\n"), CLEAN);
    }

    #[test]
    fn a_crate_that_leaves_the_lints_is_found() {
        let manifest = SourceFile { path: "crates/model/Cargo.toml".to_owned(), text: "[package]\n".to_owned() };
        assert_eq!(check(&[manifest]).len(), 1);
    }
}
