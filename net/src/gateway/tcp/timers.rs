//! One alarm for each flow: a heap that knows where each flow's entry is.

use std::time::Instant;

const ABSENT: u32 = u32::MAX;

/// All alarms, the next one first.
#[derive(Debug, Default)]
pub struct Timers {
    heap: Vec<(Instant, u32)>,
    /// Where each flow's entry is in the heap.
    places: Vec<u32>,
}

impl Timers {
    /// When the next one is due.
    pub fn next(&self) -> Option<Instant> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// A flow whose alarm is due, which is thereby gone.
    pub fn pop(&mut self, now: Instant) -> Option<u32> {
        let &(at, id) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.cancel(id);
        Some(id)
    }

    /// Sets the alarm of `id` to `at` unless it is set to an earlier time: who is woken too early
    /// looks and sets it again, which is cheaper than to move it with each segment.
    pub fn set(&mut self, id: u32, at: Instant) {
        let i = id as usize;
        if i >= self.places.len() {
            self.places.resize(i + 1, ABSENT);
        }
        let place = self.places[i] as usize;
        match self.heap.get_mut(place) {
            Some(entry) => {
                if at < entry.0 {
                    entry.0 = at;
                    self.up(place);
                }
            }
            None => {
                self.heap.push((at, id));
                self.places[i] = self.heap.len() as u32 - 1;
                self.up(self.heap.len() - 1);
            }
        }
    }

    /// Takes the alarm of `id` away.
    pub fn cancel(&mut self, id: u32) {
        let Some(place) = self.places.get_mut(id as usize) else { return };
        let i = std::mem::replace(place, ABSENT) as usize;
        if i >= self.heap.len() {
            return;
        }
        self.heap.swap_remove(i);
        if i < self.heap.len() {
            self.places[self.heap[i].1 as usize] = i as u32;
            self.down(i);
            self.up(i);
        }
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.places[self.heap[a].1 as usize] = a as u32;
        self.places[self.heap[b].1 as usize] = b as u32;
    }

    fn up(&mut self, mut i: usize) {
        while i > 0 {
            let parent = (i - 1) / 2;
            if self.heap[parent].0 <= self.heap[i].0 {
                break;
            }
            self.swap(i, parent);
            i = parent;
        }
    }

    fn down(&mut self, mut i: usize) {
        loop {
            let (left, right) = (2 * i + 1, 2 * i + 2);
            let mut least = i;
            for child in [left, right] {
                if child < self.heap.len() && self.heap[child].0 < self.heap[least].0 {
                    least = child;
                }
            }
            if least == i {
                break;
            }
            self.swap(i, least);
            i = least;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn alarms_go_off_in_order(
            ops in proptest::collection::vec((0u32..40, proptest::option::of(0u64..1000)), 0..300)
        ) {
            let start = Instant::now();
            let mut timers = Timers::default();
            let mut model = HashMap::<u32, Instant>::new();
            for (id, at) in ops {
                match at {
                    Some(ms) => {
                        let at = start + Duration::from_millis(ms);
                        timers.set(id, at);
                        let set = model.entry(id).or_insert(at);
                        *set = at.min(*set);
                    }
                    None => {
                        timers.cancel(id);
                        model.remove(&id);
                    }
                }
                prop_assert_eq!(timers.next(), model.values().min().copied());
            }
            prop_assert_eq!(timers.pop(start - Duration::from_millis(1)), None);
            while let Some(next) = timers.next() {
                let id = timers.pop(next).unwrap();
                prop_assert_eq!(model.remove(&id), Some(next));
            }
            prop_assert!(model.is_empty());
        }
    }
}
