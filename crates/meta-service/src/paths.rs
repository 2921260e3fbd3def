//! Paths, which exist only at the edge: from nodes to names and back.

use metadata_store::Reading;
use metadata_store::port::Answer;
use model::{Name, NamespaceId, NodeId, Position, limits};

/// Names that are tried before the last is taken as it comes; the store refuses it if it is not free.
const NAME_ATTEMPTS: u32 = 10_000;

/// Where a node was at a position, as far as the journal tells: names from the root down.
pub(crate) fn path_at(reading: &dyn Reading, namespace: NamespaceId, node: NodeId, at: Position) -> Answer<Vec<Name>> {
    let mut path = Vec::new();
    let mut node = node;
    while node != namespace.root() && path.len() <= limits::TREE_DEPTH {
        let Some((parent, name)) = reading.location(namespace, node, at)? else { break };
        path.push(name);
        node = parent;
    }
    path.reverse();
    Ok(path)
}

/// The first of `name`, `stem (LABEL).ext`, `stem (LABEL 2).ext`, ... that is free. Without a label the
/// numbers stand alone, from 2 on. The stem is shortened where the name would grow too long.
pub(crate) fn free_name(name: &Name, label: &str, mut is_taken: impl FnMut(&Name) -> Answer<bool>) -> Answer<Name> {
    let mut candidate = name.clone();
    for attempt in 1..=NAME_ATTEMPTS {
        if !is_taken(&candidate)? {
            break;
        }
        candidate = numbered(name, label, attempt);
    }
    Ok(candidate)
}

fn numbered(name: &Name, label: &str, attempt: u32) -> Name {
    let (stem, extension) = name.split_extension();
    let (stem, extension) =
        if extension.len() > limits::NAME_BYTES / 4 { (name.as_str(), "") } else { (stem, extension) };
    let suffix = match (label, attempt) {
        ("", n) => format!(" ({})", n + 1),
        (label, 1) => format!(" ({label})"),
        (label, n) => format!(" ({label} {n})"),
    };
    let room = limits::NAME_BYTES.saturating_sub(suffix.len() + extension.len());
    let end = (0..=room.min(stem.len())).rev().find(|&end| stem.is_char_boundary(end)).unwrap_or(0);
    Name::parse(&format!("{}{suffix}{extension}", &stem[..end])).unwrap_or_else(|_| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn free(text: &str, label: &str, taken: &[&str]) -> String {
        let name = Name::parse(text).expect("legal");
        free_name(&name, label, |name| Ok(taken.contains(&name.as_str()))).expect("no failure").to_string()
    }

    #[test]
    fn a_free_name_is_kept_and_a_taken_one_gets_the_next_number() {
        assert_eq!(free("a.txt", "restored", &[]), "a.txt");
        assert_eq!(free("a.txt", "restored", &["a.txt"]), "a (restored).txt");
        assert_eq!(free("a.txt", "restored", &["a.txt", "a (restored).txt"]), "a (restored 2).txt");
        assert_eq!(free("Photos", "", &["Photos"]), "Photos (2)");
        assert_eq!(free("Photos", "", &["Photos", "Photos (2)"]), "Photos (3)");
    }

    #[test]
    fn a_name_at_its_greatest_length_still_finds_a_free_one() {
        let long = format!("{}.txt", "é".repeat(125));
        let found = free(&long, "restored", &[&long]);
        assert!(found.len() <= limits::NAME_BYTES && found.ends_with(" (restored).txt"), "{found}");
    }
}
