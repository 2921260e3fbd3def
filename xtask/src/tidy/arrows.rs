//! Which crate may depend on which.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

/// The picture of ARCHITECTURE.md. Each crate stands below all that it may depend on, so the table cannot
/// hold a cycle. Tests may reach further: development dependencies are not looked at.
const ARROWS: &[(&str, &[&str])] = &[
    // words
    ("sha256-lanes", &[]),
    ("direct-io", &[]),
    ("write-back", &[]),
    ("file-lease", &[]),
    ("model", &["sha256-lanes"]),
    ("delta", &[]),
    // meaning
    ("api", &["model"]),
    ("sync-engine", &["model", "api"]),
    ("parcels", &["model", "api", "delta"]),
    // ports and their adapters
    ("cache", &[]),
    ("metadata-store", &["model", "cache"]),
    ("metadata-store-mysql", &["model", "metadata-store"]),
    ("block-store", &["direct-io", "model"]),
    ("block-store-s3", &["model", "api", "block-store"]),
    ("local-files", &["sha256-lanes", "direct-io", "file-lease", "write-back", "model", "sync-engine"]),
    // calls between processes
    ("service-calls", &["model", "api"]),
    // drivers; no service sees another
    ("meta-service", &["model", "api", "metadata-store"]),
    ("block-service", &["model", "api", "delta", "parcels", "block-store"]),
    ("notification-service", &["model", "api", "service-calls"]),
    ("client", &["model", "api", "delta", "parcels", "sync-engine", "local-files"]),
    // where the services meet
    (
        "server",
        &[
            "model",
            "api",
            "cache",
            "metadata-store",
            "metadata-store-mysql",
            "block-store",
            "block-store-s3",
            "meta-service",
            "block-service",
            "notification-service",
            "service-calls",
        ],
    ),
    // programs
    ("syncline", &["model", "api", "sync-engine", "client", "server"]),
    (
        "simulation",
        &[
            "model",
            "api",
            "parcels",
            "sync-engine",
            "cache",
            "metadata-store",
            "block-store",
            "local-files",
            "meta-service",
            "block-service",
            "notification-service",
            "client",
            "server",
        ],
    ),
    (
        "fuzzing",
        &[
            "model",
            "api",
            "delta",
            "parcels",
            "sync-engine",
            "cache",
            "metadata-store",
            "block-store",
            "client",
            "server",
        ],
    ),
    // knows the program by its command line only; from the other it has an S3 server to run beside it
    ("black-box", &["block-store-s3", "write-back"]),
    ("xtask", &[]),
];

/// Crates that decide and never act, and the crates from outside that would let them.
const PURE: &[&str] = &["model", "delta", "api", "sync-engine", "parcels"];
const NOT_IN_PURE: &[&str] = &["tokio", "rusqlite", "rustix", "rand", "reqwest", "notify", "axum", "hyper", "tempfile"];

/// A crate of the workspace, as `cargo metadata` tells it.
#[derive(Deserialize)]
pub(crate) struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` for an ordinary dependency, else `dev` or `build`.
    kind: Option<String>,
    /// Where a crate of the workspace lies; `None` for one from outside.
    path: Option<String>,
}

/// Asks cargo for the workspace's crates.
pub(crate) fn packages(root: &Path) -> Result<Vec<Package>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("`cargo metadata` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("`cargo metadata` is not as expected")?;
    Ok(metadata.packages)
}

/// Findings about the crates' dependencies.
pub(crate) fn check(packages: &[Package]) -> Vec<String> {
    packages.iter().flat_map(check_package).collect()
}

fn check_package(package: &Package) -> Vec<String> {
    let name = package.name.as_str();
    let Some((_, allowed)) = ARROWS.iter().find(|(row, _)| *row == name) else {
        return vec![format!("{name}: the crate is not in the table of arrows (xtask/src/tidy/arrows.rs)")];
    };
    let built_in = package.dependencies.iter().filter(|dependency| dependency.kind.as_deref() != Some("dev"));
    built_in
        .filter_map(|dependency| {
            let other = dependency.name.as_str();
            if dependency.path.is_some() && !allowed.contains(&other) {
                return Some(format!("{name}: must not depend on `{other}`; the arrows do not lead there"));
            }
            if PURE.contains(&name) && NOT_IN_PURE.contains(&other) {
                return Some(format!("{name}: must not depend on `{other}`; the crate decides and does not act"));
            }
            None
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[(&str, Option<&str>, bool)]) -> Package {
        let dependencies = dependencies
            .iter()
            .map(|&(name, kind, ours)| Dependency {
                name: name.to_owned(),
                kind: kind.map(str::to_owned),
                path: ours.then(|| format!("/somewhere/{name}")),
            })
            .collect();
        Package { name: name.to_owned(), dependencies }
    }

    #[test]
    fn the_table_leads_downwards_only() {
        for (index, (name, allowed)) in ARROWS.iter().enumerate() {
            for other in *allowed {
                let below = ARROWS[..index].iter().any(|(earlier, _)| earlier == other);
                assert!(below, "`{name}` names `{other}`, which does not stand above it in the table");
            }
        }
    }

    #[test]
    fn a_service_that_sees_another_is_found() {
        let found = check(&[package("block-service", &[("api", None, true), ("meta-service", None, true)])]);
        assert_eq!(found, ["block-service: must not depend on `meta-service`; the arrows do not lead there"]);
    }

    #[test]
    fn a_pure_crate_that_could_act_is_found() {
        let found = check(&[package("sync-engine", &[("tokio", None, false), ("serde", None, false)])]);
        assert_eq!(found, ["sync-engine: must not depend on `tokio`; the crate decides and does not act"]);
    }

    #[test]
    fn tests_may_reach_further() {
        assert_eq!(check(&[package("sync-engine", &[("rand", Some("dev"), false)])]), Vec::<String>::new());
    }

    #[test]
    fn a_new_crate_asks_for_its_row() {
        assert_eq!(check(&[package("gadgets", &[])]).len(), 1);
    }
}
