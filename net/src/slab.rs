//! Values in numbered places, each use of which has a name of its own.
//!
//! A place is used again and again, with another generation each time. A [`Token`] names place and
//! generation, so that what was meant for a former value can't reach the one that is there now.

use crate::poll::{Source, Token};

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// See the [module's documentation](self).
#[derive(Debug)]
pub struct Slab<T> {
    source: Source,
    slots: Vec<Slot<T>>,
    /// Places without a value; the last one is used next.
    free: Vec<u32>,
}

impl<T> Slab<T> {
    /// An empty one whose tokens are of `source`. Memory comes with the first value.
    pub const fn new(source: Source) -> Self {
        Self { source, slots: Vec::new(), free: Vec::new() }
    }

    /// How many values there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// The name of the value that is inserted next.
    pub fn vacancy(&self) -> Token {
        let id = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        let generation = self.slots.get(id as usize).map_or(0, |slot| slot.generation);
        Token::with_generation(self.source, id, generation)
    }

    /// Adds a value where [`vacancy`](Self::vacancy) says, and returns its place.
    pub fn insert(&mut self, value: T) -> u32 {
        match self.free.pop() {
            Some(id) => {
                self.slots[id as usize].value = Some(value);
                id
            }
            None => {
                self.slots.push(Slot { generation: 0, value: Some(value) });
                self.slots.len() as u32 - 1
            }
        }
    }

    /// Takes the value at `id` out: its name is nobody's from here on.
    pub fn remove(&mut self, id: u32) -> Option<T> {
        let slot = self.slots.get_mut(id as usize)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id);
        Some(value)
    }

    /// The value at `id`.
    #[inline]
    pub fn get(&self, id: u32) -> Option<&T> {
        self.slots.get(id as usize)?.value.as_ref()
    }

    /// The value at `id`.
    #[inline]
    pub fn get_mut(&mut self, id: u32) -> Option<&mut T> {
        self.slots.get_mut(id as usize)?.value.as_mut()
    }

    /// The name of the value at `id`.
    pub fn token(&self, id: u32) -> Option<Token> {
        let slot = self.slots.get(id as usize)?;
        slot.value.as_ref()?;
        Some(Token::with_generation(self.source, id, slot.generation))
    }

    /// The value that `token` names, unless it is a former one.
    #[inline]
    pub fn named(&mut self, token: Token) -> Option<&mut T> {
        let slot = self.slots.get_mut(token.id as usize)?;
        let current = Token::with_generation(self.source, token.id, slot.generation);
        slot.value.as_mut().filter(|_| current == token)
    }

    /// All values with their places, by these.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(id, slot)| Some((id as u32, slot.value.as_ref()?)))
    }

    /// The places there may be values at.
    pub fn ids(&self) -> std::ops::Range<u32> {
        0..self.slots.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SOURCE: Source = Source::Backend(3);

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u8),
        Remove(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            any::<u8>().prop_map(Step::Insert),
            any::<prop::sample::Index>().prop_map(Step::Remove),
        ];
        prop::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn names_lead_to_their_own_value_or_nowhere(steps in steps()) {
            let mut slab = Slab::new(SOURCE);
            let mut living = BTreeMap::new();
            let mut former = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(value) => {
                        let token = slab.vacancy();
                        prop_assert_eq!(slab.insert(value), token.id);
                        prop_assert_eq!(slab.token(token.id), Some(token));
                        prop_assert!(living.insert(token.id, (token, value)).is_none());
                    }
                    Step::Remove(index) if !living.is_empty() => {
                        let id = *living.keys().nth(index.index(living.len())).unwrap();
                        let (token, value) = living.remove(&id).unwrap();
                        prop_assert_eq!(slab.remove(id), Some(value));
                        prop_assert_eq!(slab.remove(id), None);
                        former.push(token);
                    }
                    Step::Remove(_) => prop_assert_eq!(slab.len(), 0),
                }
                prop_assert_eq!(slab.len(), living.len());
                let all: Vec<_> = slab.iter().map(|(id, value)| (id, *value)).collect();
                let want: Vec<_> = living.iter().map(|(id, (_, value))| (*id, *value)).collect();
                prop_assert_eq!(all, want);
                for (token, mut value) in living.values().copied() {
                    prop_assert_eq!(slab.named(token), Some(&mut value));
                }
                for token in &former {
                    prop_assert_eq!(slab.named(*token), None);
                }
            }
        }
    }

    #[test]
    fn another_sources_token_names_nothing() {
        let mut slab = Slab::new(SOURCE);
        let id = slab.insert(1);
        assert_eq!(slab.named(Token::new(Source::Backend(4), id)), None);
        assert_eq!(slab.named(Token::new(SOURCE, id + 1)), None);
        assert_eq!((slab.get(id), slab.get(id + 1)), (Some(&1), None));
    }
}
