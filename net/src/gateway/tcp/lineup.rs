//! Flows that wait for their turn.

use std::collections::VecDeque;

/// Indices of flows in the order that they came, each at most once. An index whose flow has gone
/// may still stand here; whoever has its place then has a turn that it did not need.
#[derive(Debug, Default)]
pub struct Lineup {
    ids: VecDeque<u32>,
    /// By index: it is in line.
    waits: Vec<bool>,
}

impl Lineup {
    /// Puts `id` at the end, unless it is in line.
    pub fn push(&mut self, id: u32) {
        if self.enter(id) {
            self.ids.push_back(id);
        }
    }

    /// Puts `id` in front, unless it is in line.
    pub fn push_front(&mut self, id: u32) {
        if self.enter(id) {
            self.ids.push_front(id);
        }
    }

    fn enter(&mut self, id: u32) -> bool {
        let at = id as usize;
        if self.waits.len() <= at {
            self.waits.resize(at + 1, false);
        }
        !std::mem::replace(&mut self.waits[at], true)
    }

    /// The first one, which is not in line any more.
    pub fn pop(&mut self) -> Option<u32> {
        let id = self.ids.pop_front()?;
        self.waits[id as usize] = false;
        Some(id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.waits.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_one_place() {
        let mut lineup = Lineup::default();
        for id in [3, 1, 3, 1, 3] {
            lineup.push(id);
        }
        lineup.push_front(1);
        lineup.push_front(2);
        assert_eq!(lineup.len(), 3);
        let order: Vec<_> = std::iter::from_fn(|| lineup.pop()).collect();
        assert_eq!(order, [2, 3, 1]);
        lineup.push(3);
        assert_eq!(lineup.pop(), Some(3));
        lineup.push(7);
        lineup.clear();
        lineup.push(7);
        assert_eq!((lineup.pop(), lineup.pop()), (Some(7), None));
    }
}
