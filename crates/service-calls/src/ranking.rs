//! Which hubs a namespace belongs to: rendezvous hashing, so that a hub more or less moves only what is its own.

use model::NamespaceId;
use sha2::{Digest, Sha256};
use std::cmp::Reverse;

/// At how many hubs an edge follows each namespace. With two, the death of one hub loses nothing: the meta
/// service tells the second, and the edges listen there already.
pub const FOLLOWED_HUBS: usize = 2;

/// The indexes of the hubs to which a namespace belongs, the first choice first. All processes must be given
/// the hubs under the same names; the order does not matter.
#[must_use]
pub fn hubs_of(namespace: NamespaceId, hubs: &[String]) -> Vec<usize> {
    let mut ranked: Vec<usize> = (0..hubs.len()).collect();
    ranked.sort_by_key(|&index| (Reverse(weight(namespace, &hubs[index])), &hubs[index]));
    ranked.truncate(FOLLOWED_HUBS);
    ranked
}

fn weight(namespace: NamespaceId, hub: &str) -> [u8; 32] {
    Sha256::new().chain_update(namespace.as_bytes()).chain_update(hub).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("hub{number}:9000")).collect()
    }

    fn namespace(number: u32) -> NamespaceId {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_le_bytes());
        NamespaceId(id)
    }

    #[test]
    fn a_namespace_belongs_to_two_different_hubs_whatever_their_order() {
        let hubs = names(5);
        let mut reversed = hubs.clone();
        reversed.reverse();
        for number in 0..100 {
            let of = |hubs: &[String]| -> Vec<String> {
                hubs_of(namespace(number), hubs).into_iter().map(|index| hubs[index].clone()).collect()
            };
            assert_eq!(of(&hubs), of(&reversed));
            assert_eq!(of(&hubs).into_iter().collect::<BTreeSet<_>>().len(), FOLLOWED_HUBS);
        }
        assert_eq!(hubs_of(namespace(0), &names(1)), [0]);
        assert_eq!(hubs_of(namespace(0), &[]), [0; 0]);
    }

    #[test]
    fn hubs_share_the_namespaces_evenly() {
        let hubs = names(4);
        let mut firsts = [0; 4];
        (0..4000).for_each(|number| firsts[hubs_of(namespace(number), &hubs)[0]] += 1);
        assert!(firsts.iter().all(|count| (850..1150).contains(count)), "{firsts:?}");
    }

    #[test]
    fn a_hub_that_leaves_hands_its_namespaces_to_their_second_choice_and_moves_no_others() {
        let (all, without) = (names(4), names(3));
        for number in 0..1000 {
            let before = hubs_of(namespace(number), &all);
            let after = hubs_of(namespace(number), &without);
            assert_eq!(after[0], if before[0] == 3 { before[1] } else { before[0] });
        }
    }
}
