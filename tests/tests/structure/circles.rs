//! The circles of a graph of files.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

use crate::sources::Arrows;

/// The circles of `arrows`, the shortest by each arrow, each beginning with its first file by name.
pub fn circles(arrows: &Arrows) -> Vec<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    for (from, to) in arrows.iter().flat_map(|(from, to)| to.keys().map(move |to| (from, to))) {
        if let Some(mut circle) = way(arrows, to, from) {
            let first = (0..circle.len()).min_by_key(|&i| &circle[i]).unwrap_or(0);
            circle.rotate_left(first);
            found.insert(circle);
        }
    }
    found.into_iter().collect()
}

/// The shortest way from one file to another, both included.
fn way(arrows: &Arrows, from: &PathBuf, to: &PathBuf) -> Option<Vec<PathBuf>> {
    let mut before = BTreeMap::from([(from, None)]);
    let mut queue = VecDeque::from([from]);
    while let Some(at) = queue.pop_front() {
        if at == to {
            let mut way: Vec<_> =
                std::iter::successors(Some(at), |at| before[at]).cloned().collect();
            way.reverse();
            return Some(way);
        }
        for next in arrows.get(at).into_iter().flat_map(BTreeMap::keys) {
            before.entry(next).or_insert_with(|| {
                queue.push_back(next);
                Some(at)
            });
        }
    }
    None
}
