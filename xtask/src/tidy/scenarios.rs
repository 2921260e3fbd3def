//! Whether each scenario of the list has its test.

use super::SourceFile;

/// The page with the lists.
const SCENARIOS: &str = "docs/scenarios.md";
/// How many scenarios each list (a heading of the second level) has.
const LISTS: [(&str, usize); 2] = [("What lost data elsewhere", 60), ("What the tests of others look at", 33)];
/// What a line says in place of a test, with the reason behind it.
const EXCUSES: [&str; 2] = ["not yet: ", "does not apply: "];

/// Findings about the list of scenarios.
pub(crate) fn check(files: &[SourceFile]) -> Vec<String> {
    let Some(page) = files.iter().find(|file| file.path == SCENARIOS) else {
        return vec![format!("{SCENARIOS} is missing")];
    };
    let lists = LISTS.iter().flat_map(|(heading, length)| list(&page.text, heading, *length));
    let rows = page.text.lines().enumerate().filter_map(|(index, line)| Some((index + 1, row(line)?)));
    lists.chain(rows.flat_map(|(line, (_, tests))| tests_of(files, line, tests))).collect()
}

/// Whether a list's lines are numbered from 1 to its length.
fn list(page: &str, heading: &str, length: usize) -> Option<String> {
    let section = page.split("\n## ").find(|section| section.lines().next() == Some(heading)).unwrap_or_default();
    let numbers: Vec<usize> = section.lines().filter_map(row).map(|(number, _)| number).collect();
    let complete = numbers.iter().copied().eq(1..=length);
    (!complete).then(|| format!("{SCENARIOS}: `{heading}` does not have the numbers 1 to {length}, but {numbers:?}"))
}

/// The number and the last cell of a numbered line of a table.
fn row(line: &str) -> Option<(usize, &str)> {
    let mut cells = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ");
    Some((cells.next()?.parse().ok()?, cells.last()?))
}

/// The tests that a line names must be where it says, and it must name one or say why there is none.
fn tests_of(files: &[SourceFile], line: usize, cell: &str) -> Vec<String> {
    if EXCUSES.iter().any(|excuse| cell.starts_with(excuse)) {
        return Vec::new();
    }
    let mut parts = cell.split('`');
    parts.next();
    let mut findings = Vec::new();
    let mut named = 0;
    while let (Some(name), Some(rest)) = (parts.next(), parts.next()) {
        named += 1;
        let home = rest.strip_prefix(" (").and_then(|rest| rest.split(')').next()).unwrap_or_default();
        if !is_there(files, home, name) {
            findings.push(format!("{SCENARIOS}:{line}: there is no test `{name}` in the crate `{home}`"));
        }
    }
    if named == 0 {
        findings.push(format!("{SCENARIOS}:{line}: no test, and no reason ({EXCUSES:?})"));
    }
    findings
}

fn is_there(files: &[SourceFile], home: &str, name: &str) -> bool {
    let definition = format!("fn {name}(");
    files.iter().any(|file| file.is_rust() && file.crate_name() == home && file.text.contains(&definition))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: String) -> SourceFile {
        SourceFile { path: path.to_owned(), text }
    }

    /// A page of which every line is as it should be but the `number`th of the first list.
    fn found(number: usize, instead: &str) -> Vec<String> {
        let mut page = String::from("# Scenarios\n");
        for (heading, length) in LISTS {
            page.push_str(&format!("\n## {heading}\n"));
            for n in 1..=length {
                let odd = n == number && heading == LISTS[0].0;
                let line = format!("| {n} | it went wrong | `a_test_that_is` (model) |");
                page.push_str(if odd { instead } else { &line });
                page.push('\n');
            }
        }
        check(&[file(SCENARIOS, page), file("crates/model/src/lib.rs", "fn a_test_that_is() {}".to_owned())])
    }

    #[test]
    fn a_scenario_needs_a_test_that_is_where_it_says_or_a_reason() {
        assert_eq!(found(0, ""), [""; 0]);
        assert_eq!(found(7, "| 7 | it went wrong | not yet: there is no such thing |"), [""; 0]);
        assert_eq!(found(7, "| 7 | it went wrong | does not apply: there will be no such thing |"), [""; 0]);
        let gone = found(7, "| 7 | it went wrong | `a_test_that_is` (model), `a_test_that_was` (model) |");
        assert_eq!(gone.len(), 1, "{gone:?}");
        assert!(gone[0].contains("`a_test_that_was` in the crate `model`"), "{gone:?}");
        assert_eq!(found(7, "| 7 | it went wrong | `a_test_that_is` (api) |").len(), 1);
        assert_eq!(found(7, "| 7 | it went wrong | of course not |").len(), 1);
    }

    #[test]
    fn a_scenario_that_is_left_out_or_counted_twice_is_found() {
        assert_eq!(found(7, "").len(), 1);
        assert_eq!(found(7, "| 6 | it went wrong | `a_test_that_is` (model) |").len(), 1);
    }
}
