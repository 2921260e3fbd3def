//! Whether the documents still fit what they describe.

use super::SourceFile;

/// Where every table of a database is explained, with its columns.
const DATA: &str = "docs/data.md";
/// The page that names tests as evidence.
const TESTING: &str = "docs/testing.md";
/// The calls between the services, and where each has its row: a page, and a heading of the second level in it.
const CALLS: &str = "crates/service-calls/src/wire.rs";
const PROTOCOL: &str = "docs/protocol.md";
const PROTOCOL_CALLS: &str = "\n## Between the services\n";
/// Folders of the repository: what documents quote from them must exist.
const FOLDERS: &[&str] = &["crates/", "docs/", "xtask/", "deploy/", "bench/", "fuzz/", ".ci/", ".cargo/"];

/// Findings about the documents. `exists` tells whether a path from the repository's root does.
pub(crate) fn check(files: &[SourceFile], exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut findings = Vec::new();
    for document in files.iter().filter(|file| file.is_document()) {
        for (index, line) in document.text.lines().enumerate() {
            let targets = links(line).into_iter().map(|link| resolve(&document.path, link));
            let quotes = quoted_paths(line).into_iter().map(str::to_owned);
            for path in targets.chain(quotes).filter(|path| !exists(path)) {
                findings.push(format!("{}:{}: `{path}` does not exist", document.path, index + 1));
            }
        }
    }
    findings.extend(tables(files));
    findings.extend(calls(files));
    findings.extend(named_tests(files));
    findings
}

/// The targets of a line's links into the repository, without their anchors.
fn links(line: &str) -> Vec<&str> {
    let targets = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let inside = targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    inside.filter_map(|target| target.split('#').next()).filter(|path| !path.is_empty()).collect()
}

/// What a line quotes as a path of the repository.
fn quoted_paths(line: &str) -> Vec<&str> {
    let quotes = line.split('`').skip(1).step_by(2);
    let plain = |quote: &&str| !quote.contains([' ', '*', '<', '{', '…']);
    quotes.filter(plain).filter(|quote| FOLDERS.iter().any(|folder| quote.starts_with(folder))).collect()
}

/// A link's path from the repository's root, given the document that holds it.
fn resolve(document: &str, link: &str) -> String {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in link.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// Tables of the databases that the page about data does not name in the section of their crate, and columns of those
/// that have a row there, if they stand neither in it nor, with the table's name, elsewhere in the section.
fn tables(files: &[SourceFile]) -> Vec<String> {
    let data = files.iter().find(|file| file.path == DATA).map_or("", |file| file.text.as_str());
    let schemas = files.iter().filter(|file| !file.is_document() && !file.path.starts_with("xtask/"));
    let mut findings = Vec::new();
    for file in schemas {
        let section = section(data, file.crate_name());
        for statement in file.text.split("CREATE TABLE ").skip(1) {
            let Some(table) = table_name(statement) else { continue };
            if !section.contains(&format!("`{table}`")) {
                findings.push(format!("{}: the table `{table}` is not explained in {DATA}", file.path));
            }
            for column in columns(statement).filter(|column| !names_column(section, table, column)) {
                findings.push(format!("{}: the column `{table}.{column}` is not explained in {DATA}", file.path));
            }
        }
    }
    findings
}

/// Calls between the services that the page about the protocol has no row for.
fn calls(files: &[SourceFile]) -> Vec<String> {
    let text = |path: &str| files.iter().find(|file| file.path == path).map_or("", |file| file.text.as_str());
    let rows = text(PROTOCOL).split_once(PROTOCOL_CALLS).map_or("", |(_, rows)| rows);
    let begun = ["reading(\"", "writing(\"", "name: \""].into_iter().flat_map(|begin| text(CALLS).split(begin).skip(1));
    let names = begun.filter_map(|rest| rest.split('"').next());
    names
        .filter(|name| !rows.contains(&format!("\n| `{name}` | ")))
        .map(|name| format!("{CALLS}: the call `{name}` has no row in {PROTOCOL}"))
        .collect()
}

/// Tests that the page about testing names and that are not there. A quote of three words or more, joined
/// by `_`, is a test's name.
fn named_tests(files: &[SourceFile]) -> Vec<String> {
    let Some(page) = files.iter().find(|file| file.path == TESTING) else { return Vec::new() };
    let quotes = page.text.split('`').skip(1).step_by(2);
    let names = quotes.filter(|quote| {
        quote.split('_').count() > 2 && quote.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    });
    let is_there = |name: &str| {
        let (plain, generic) = (format!("fn {name}("), format!("fn {name}<"));
        files.iter().any(|file| file.is_rust() && (file.text.contains(&plain) || file.text.contains(&generic)))
    };
    names.filter(|name| !is_there(name)).map(|name| format!("{TESTING}: there is no test `{name}`")).collect()
}

/// The part of a document whose heading of the second level quotes the crate; empty if there is none.
fn section<'a>(document: &'a str, crate_name: &str) -> &'a str {
    let quoted = format!("`{crate_name}`");
    let mut sections = document.split("\n## ").skip(1);
    sections.find(|section| section.lines().next().is_some_and(|heading| heading.contains(&quoted))).unwrap_or("")
}

fn table_name(rest: &str) -> Option<&str> {
    let name = rest.strip_prefix("IF NOT EXISTS ").unwrap_or(rest);
    name.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
}

/// The columns that a statement makes. Keys and checks begin with a word in capitals; what these list are columns too.
fn columns(statement: &str) -> impl Iterator<Item = &str> {
    let body = statement.split(';').next().and_then(|statement| statement.split_once('('));
    let parts = body.map_or("", |(_, body)| body).split(',').map(|part| part.trim_start().trim_start_matches('`'));
    let names = parts.filter_map(|part| part.split(|c: char| !c.is_ascii_lowercase() && c != '_').next());
    names.filter(|name| !name.is_empty())
}

/// Whether a section names a column, by itself or with those that begin alike (`local_*`). A table without a row, which
/// a step makes and renames, has nothing to explain.
fn names_column(section: &str, table: &str, column: &str) -> bool {
    let begin = format!("| `{table}`");
    let Some(row) = section.lines().find(|line| line.starts_with(&begin)) else { return true };
    let family = column.split('_').next().unwrap_or(column);
    row.contains(&format!("`{column}`"))
        || row.contains(&format!("`{family}_*`"))
        || section.contains(&format!("`{table}.{column}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA_PAGE: &str = "# Data\n## The server (`metadata-store`)\n| `nodes` | `id` | `print_*` |\nAlso `nodes.live`.\n\
                             ## The client (`client`)\n| `state` | `live` |\n";

    fn found(path: &str, text: &str) -> Vec<String> {
        let data = SourceFile { path: DATA.to_owned(), text: DATA_PAGE.to_owned() };
        let file = SourceFile { path: path.to_owned(), text: text.to_owned() };
        check(&[data, file], &|path| path == "docs/protocol.md" || path == "README.md")
    }

    const CLEAN: [String; 0] = [];

    #[test]
    fn a_link_to_nothing_is_found() {
        assert_eq!(found("README.md", "See [it](docs/gone.md)."), ["README.md:1: `docs/gone.md` does not exist"]);
        assert_eq!(found("README.md", "See [it](docs/protocol.md#calls), [home](https://example.org)."), CLEAN);
    }

    #[test]
    fn a_link_leads_from_where_its_document_lies() {
        assert_eq!(found("docs/testing.md", "[back](../README.md), [next](protocol.md), [here](#top)"), CLEAN);
        assert_eq!(found("docs/testing.md", "[back](README.md)").len(), 1);
    }

    #[test]
    fn a_quoted_path_must_exist() {
        assert_eq!(found("ARCHITECTURE.md", "It is in `crates/gone/src/lib.rs`.").len(), 1);
        assert_eq!(found("ARCHITECTURE.md", "Run `cargo test -p model`; read `docs/protocol.md`."), CLEAN);
    }

    #[test]
    fn evidence_that_is_not_there_is_found() {
        let files = [
            SourceFile { path: TESTING.to_owned(), text: "`a_test_that_is`, `a_test_that_was`, `fn_x`".to_owned() },
            SourceFile { path: "crates/model/src/lib.rs".to_owned(), text: "fn a_test_that_is() {}".to_owned() },
        ];
        assert_eq!(check(&files, &|_| true), ["docs/testing.md: there is no test `a_test_that_was`"]);
    }

    #[test]
    fn a_call_that_the_protocol_page_lacks_is_found() {
        let calls = "const A: Call = reading(\"heads\");\nconst B: Call = writing(\"mark\");\n\
                     const C: Call = Call { name: \"relay\", patience };\n";
        let page = "## The calls\n\n| `mark` | x |\n\n## Between the services\n\n| `heads` | x |\n| `relay` | x |\n";
        let files = [
            SourceFile { path: CALLS.to_owned(), text: calls.to_owned() },
            SourceFile { path: PROTOCOL.to_owned(), text: page.to_owned() },
        ];
        assert_eq!(check(&files, &|_| true), [format!("{CALLS}: the call `mark` has no row in {PROTOCOL}")]);
    }

    #[test]
    fn a_table_that_the_data_page_lacks_is_found() {
        let schema = "CREATE TABLE IF NOT EXISTS nodes (id BLOB); CREATE TABLE state(id BLOB);";
        assert_eq!(
            found("crates/metadata-store/src/sqlite.rs", schema),
            ["crates/metadata-store/src/sqlite.rs: the table `state` is not explained in docs/data.md"]
        );
    }

    #[test]
    fn a_column_that_the_data_page_lacks_is_found() {
        let schema = "CREATE TABLE nodes (\n    `id` BLOB PRIMARY KEY,\n    print_size INTEGER,\n    live TINYINT,\n    \
                      body BLOB,\n    KEY living (id, live)\n) ENGINE = InnoDB;\nCREATE INDEX other ON nodes (x, y);";
        assert_eq!(
            found("crates/metadata-store/src/v1.sql", schema),
            ["crates/metadata-store/src/v1.sql: the column `nodes.body` is not explained in docs/data.md"]
        );
        assert_eq!(found("crates/client/src/schema.sql", "CREATE TABLE state (live BLOB);"), CLEAN);
    }
}
