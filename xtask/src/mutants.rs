//! Mutants: the program with one deliberate mistake in it.
//!
//! A suite that passes with a mutant in place proves nothing about what the mutant breaks. Each mutant is
//! applied to a scratch copy of the workspace, and the suites that should notice it run, the cheapest
//! first, until one fails. One that survives means that a test is missing.
//!
//! The lists in [`catalogue`] are the content, and are meant to be added to.

mod catalogue;
mod scratch;
mod suites;

use anyhow::{Result, bail};
use clap::Args;
use scratch::Scratch;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};
use suites::{End, Suite};

/// One deliberate mistake.
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    /// What is wrong with it, for those who read the table.
    pub(crate) about: &'static str,
    /// From the workspace's root.
    pub(crate) file: &'static str,
    /// Stands in the file exactly once.
    pub(crate) old: &'static str,
    pub(crate) new: &'static str,
    /// Those that should notice, the cheapest first.
    pub(crate) suites: &'static [Suite],
}

#[derive(Args)]
pub(crate) struct Options {
    /// Run this mutant alone (may be given often)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// List the mutants and run none
    #[arg(long)]
    list: bool,
    /// Mutate this revision instead of the working tree
    #[arg(long, value_name = "REVISION")]
    revision: Option<String>,
}

/// What became of one mutant.
struct Verdict {
    mutant: &'static Mutant,
    fate: Fate,
    time: Duration,
}

enum Fate {
    Killed {
        suite: Suite,
        by: String,
    },
    Survived,
    /// It cannot be tried: its text is gone, or it does not compile.
    Invalid(String),
}

/// Runs the mutants; an error names those that survived.
pub(crate) fn run(root: &Path, options: &Options) -> Result<String> {
    let chosen = choose(&options.only)?;
    if options.list {
        return Ok(list(&chosen));
    }
    let scratch = Scratch::prepare(root, options.revision.as_deref())?;
    let mut broken = Vec::new();
    let limits = try_unchanged(&scratch, &chosen, &mut broken)?;
    let mut verdicts = Vec::new();
    for mutant in chosen {
        let verdict = try_mutant(&scratch, mutant, &limits)?;
        println!("{}", line(&verdict));
        verdicts.push(verdict);
    }
    conclude(&verdicts, &broken)
}

fn choose(only: &[String]) -> Result<Vec<&'static Mutant>> {
    let all: Vec<&Mutant> = catalogue::all().collect();
    if let Some(unknown) = only.iter().find(|name| !all.iter().any(|mutant| mutant.name == **name)) {
        bail!("there is no mutant `{unknown}`; `cargo xtask mutants --list` names them");
    }
    Ok(all.into_iter().filter(|mutant| only.is_empty() || only.iter().any(|name| name == mutant.name)).collect())
}

fn list(mutants: &[&Mutant]) -> String {
    let width = mutants.iter().map(|mutant| mutant.name.len()).max().unwrap_or(0);
    let lines = mutants.iter().map(|mutant| format!("{:width$}  {}", mutant.name, mutant.about));
    lines.chain([format!("{} mutants", mutants.len())]).collect::<Vec<_>>().join("\n")
}

/// Runs the suites on the unchanged program: one that fails there would kill every mutant. Returns how long
/// each of the others may take.
fn try_unchanged(scratch: &Scratch, mutants: &[&Mutant], broken: &mut Vec<Suite>) -> Result<BTreeMap<Suite, Duration>> {
    let mut limits = BTreeMap::new();
    let mut suites: Vec<Suite> = mutants.iter().flat_map(|mutant| mutant.suites).copied().collect();
    suites.sort_unstable();
    suites.dedup();
    for suite in suites {
        let started = Instant::now();
        match suite.run(scratch, "unchanged", suites::LONGEST)? {
            End::Passed { running } => {
                println!("{suite} passes unchanged in {:.1} s", started.elapsed().as_secs_f64());
                limits.insert(suite, suites::limit(running));
            }
            End::Failed(by) => {
                println!("{suite} FAILS unchanged and is left out: {by}");
                broken.push(suite);
            }
            End::DoesNotCompile(log) => bail!("{suite} does not compile: see {}", log.display()),
        }
    }
    Ok(limits)
}

fn try_mutant(scratch: &Scratch, mutant: &'static Mutant, limits: &BTreeMap<Suite, Duration>) -> Result<Verdict> {
    let started = Instant::now();
    let fate = match scratch.apply(mutant)? {
        Err(reason) => Fate::Invalid(reason),
        Ok(applied) => {
            let fate = hunt(scratch, mutant, limits);
            applied.revert()?;
            fate?
        }
    };
    Ok(Verdict { mutant, fate, time: started.elapsed() })
}

/// Runs the suites until one notices.
fn hunt(scratch: &Scratch, mutant: &Mutant, limits: &BTreeMap<Suite, Duration>) -> Result<Fate> {
    for suite in mutant.suites {
        let Some(limit) = limits.get(suite) else { continue };
        match suite.run(scratch, mutant.name, *limit)? {
            End::Passed { .. } => {}
            End::Failed(by) => return Ok(Fate::Killed { suite: *suite, by }),
            End::DoesNotCompile(log) => return Ok(Fate::Invalid(format!("does not compile: see {}", log.display()))),
        }
    }
    Ok(Fate::Survived)
}

fn line(verdict: &Verdict) -> String {
    let Verdict { mutant, fate, time } = verdict;
    let fate = match fate {
        Fate::Killed { suite, by } => format!("{:14} {by}", suite.to_string()),
        Fate::Survived => format!("{:14} {}", "SURVIVED", mutant.about),
        Fate::Invalid(reason) => format!("{:14} {reason}", "INVALID"),
    };
    format!("{:34} {:5.0} s  {fate}", mutant.name, time.as_secs_f64())
}

fn conclude(verdicts: &[Verdict], broken: &[Suite]) -> Result<String> {
    println!("\n{:34} {:>7}  {:14} which test, or what it saw", "mutant", "time", "killed by");
    for verdict in verdicts {
        println!("{}", line(verdict));
    }
    let named = |wanted: fn(&Fate) -> bool| -> Vec<&str> {
        verdicts.iter().filter(|verdict| wanted(&verdict.fate)).map(|verdict| verdict.mutant.name).collect()
    };
    let survived = named(|fate| matches!(fate, Fate::Survived));
    let invalid = named(|fate| matches!(fate, Fate::Invalid(_)));
    let mut complaints = Vec::new();
    if !survived.is_empty() {
        complaints.push(format!("{} survived ({}): a test is missing", survived.len(), survived.join(", ")));
    }
    if !invalid.is_empty() {
        complaints.push(format!("{} cannot be tried any more ({})", invalid.len(), invalid.join(", ")));
    }
    if !broken.is_empty() {
        let names: Vec<String> = broken.iter().map(Suite::to_string).collect();
        complaints.push(format!("{} fails without any mutant", names.join(", ")));
    }
    if !complaints.is_empty() {
        bail!("mutants: of {}, {}", verdicts.len(), complaints.join("; "));
    }
    Ok(format!("mutants: all {} killed", verdicts.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
    }

    #[test]
    fn every_mutant_can_still_be_applied() {
        let stale: Vec<String> = catalogue::all()
            .filter_map(|mutant| {
                let text = fs::read_to_string(root().join(mutant.file)).unwrap_or_default();
                scratch::mutate(mutant, &text).err().map(|reason| format!("{}: {reason}", mutant.name))
            })
            .collect();
        assert!(stale.is_empty(), "follow the change in xtask/src/mutants/: {stale:#?}");
    }

    #[test]
    fn every_mutant_has_a_name_of_its_own_and_a_suite() {
        let names: BTreeSet<&str> = catalogue::all().map(|mutant| mutant.name).collect();
        assert_eq!(names.len(), catalogue::all().count());
        assert!(catalogue::all().all(|mutant| !mutant.suites.is_empty() && mutant.old != mutant.new));
    }

    #[test]
    fn text_that_is_gone_or_stands_there_twice_makes_no_mutant() {
        let mutant = Mutant { name: "m", about: "", file: "f", old: "a", new: "b", suites: &[Suite::Model] };
        assert_eq!(scratch::mutate(&mutant, "xay").as_deref(), Ok("xby"));
        assert!(scratch::mutate(&mutant, "xy").is_err());
        assert!(scratch::mutate(&mutant, "aa").is_err());
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert!(choose(&["no-such-mutant".to_owned()]).is_err());
        assert_eq!(choose(&["no-cycle-check".to_owned()]).map(|chosen| chosen.len()).ok(), Some(1));
    }
}
