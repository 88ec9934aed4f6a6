//! All flows: found by their addresses and ports, or by the index that their socket's events bear.

use std::collections::HashMap;
use std::hash::RandomState;

use super::flow::Flow;
use super::key::Key;
use crate::poll::{Owner, Token};

#[derive(Debug)]
struct Slot {
    generation: u32,
    flow: Option<Box<Flow>>,
}

/// See the [module's documentation](self). The guest chooses most of a key, so the hash is keyed
/// with a secret.
#[derive(Debug)]
pub struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    map: HashMap<Key, u32, RandomState>,
    last: Option<(Key, u32)>,
    limit: usize,
}

impl Table {
    /// A table of at most `limit` flows.
    pub fn new(limit: usize) -> Self {
        let map = HashMap::default();
        Self { slots: Vec::new(), free: Vec::new(), map, last: None, limit: limit.max(1) }
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True if there is no room for another.
    pub fn is_full(&self) -> bool {
        self.map.len() >= self.limit
    }

    /// The most flows there may be.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Where the flow `key` is. A guest mostly sends many segments of one flow in a row.
    pub fn find(&mut self, key: &Key) -> Option<u32> {
        if let Some((last, id)) = &self.last
            && last == key
        {
            return Some(*id);
        }
        let id = *self.map.get(key)?;
        self.last = Some((*key, id));
        Some(id)
    }

    /// True if there is such a flow.
    pub fn contains(&self, key: &Key) -> bool {
        self.map.contains_key(key)
    }

    /// The flow at `id`.
    pub fn get(&mut self, id: u32) -> Option<&mut Flow> {
        self.slots.get_mut(id as usize)?.flow.as_deref_mut()
    }

    /// The flow of an event, unless that is about a former one.
    pub fn of_token(&mut self, token: Token) -> Option<&mut Flow> {
        let slot = self.slots.get_mut(token.id as usize)?;
        let current = Token::with_generation(Owner::Tcp, token.id, slot.generation) == token;
        slot.flow.as_deref_mut().filter(|_| current)
    }

    /// Where the next flow goes, and the name its socket's events are to bear.
    pub fn vacancy(&mut self) -> Token {
        let id = match self.free.last() {
            Some(id) => *id,
            None => {
                self.slots.push(Slot { generation: 0, flow: None });
                self.free.push(self.slots.len() as u32 - 1);
                self.slots.len() as u32 - 1
            }
        };
        Token::with_generation(Owner::Tcp, id, self.slots[id as usize].generation)
    }

    /// Adds a flow where [`vacancy`](Self::vacancy) said; its key is new.
    pub fn insert(&mut self, flow: Box<Flow>) -> u32 {
        let id = self.vacancy().id;
        self.free.pop();
        self.map.insert(flow.key, id);
        self.slots[id as usize].flow = Some(flow);
        id
    }

    /// Takes a flow out; its index is used again with another generation.
    pub fn remove(&mut self, id: u32) -> Option<Box<Flow>> {
        let slot = self.slots.get_mut(id as usize)?;
        let flow = slot.flow.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id);
        self.map.remove(&flow.key);
        self.last = None;
        Some(flow)
    }

    /// The indices there may be flows at.
    pub fn ids(&self) -> std::ops::Range<u32> {
        0..self.slots.len() as u32
    }

    /// All flows.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Flow)> {
        let slots = self.slots.iter().enumerate();
        slots.filter_map(|(i, s)| Some((i as u32, s.flow.as_deref()?)))
    }
}
