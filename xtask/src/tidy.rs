//! The project's own rules, as far as a program can check them.
//!
//! Each rule is a function from what it looks at to findings: sentences that begin with the place. The
//! tables at the head of each module are the rules' content and are meant to be edited; the reasons are
//! in ARCHITECTURE.md.

mod arrows;
mod documents;
mod scenarios;
mod sources;

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::Path;

/// A file of the repository, named from its root.
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl SourceFile {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_document(&self) -> bool {
        self.path.ends_with(".md")
    }

    /// The crate that the file belongs to.
    fn crate_name(&self) -> &str {
        match self.path.split('/').collect::<Vec<_>>()[..] {
            ["crates", name, ..] => name,
            [name, ..] => name,
            [] => "",
        }
    }
}

/// Checks every rule; the result is the closing line.
pub(crate) fn run(root: &Path) -> Result<String> {
    let packages = arrows::packages(root)?;
    let mut files = Vec::new();
    collect(root, "", &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));

    let mut findings = arrows::check(&packages);
    findings.extend(sources::check(&files));
    findings.extend(documents::check(&files, &|path| root.join(path).exists()));
    findings.extend(scenarios::check(&files));
    for finding in &findings {
        eprintln!("{finding}");
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings in {} files", findings.len(), files.len());
    }
    Ok(format!("tidy: no findings in {} crates and {} files", packages.len(), files.len()))
}

/// Reads every file that a rule looks at, below `folder` of the repository.
fn collect(root: &Path, folder: &str, files: &mut Vec<SourceFile>) -> Result<()> {
    let listing = fs::read_dir(root.join(folder)).with_context(|| format!("cannot list `{folder}`"))?;
    for entry in listing {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if entry.file_type()?.is_dir() {
            if !name.starts_with('.') && !matches!(name.as_str(), "target" | "node_modules") {
                collect(root, &path, files)?;
            }
        } else if [".rs", ".sql", ".md", "Cargo.toml"].iter().any(|ending| name.ends_with(ending)) {
            let text = fs::read_to_string(entry.path()).with_context(|| format!("cannot read `{path}`"))?;
            files.push(SourceFile { path, text });
        }
    }
    Ok(())
}
