//! All flows: found by their addresses and ports, or by the index that their socket's events bear.

use std::collections::HashMap;
use std::hash::RandomState;

use super::flow::Flow;
use super::key::Key;
use crate::gateway::source;
use crate::poll::Token;
use crate::slab::Slab;

/// See the [module's documentation](self). The guest chooses most of a key, so the hash is keyed
/// with a secret.
#[derive(Debug)]
pub struct Table {
    flows: Slab<Box<Flow>>,
    map: HashMap<Key, u32, RandomState>,
    last: Option<(Key, u32)>,
    limit: usize,
}

impl Table {
    /// A table of at most `limit` flows.
    pub fn new(limit: usize) -> Self {
        let map = HashMap::default();
        Self { flows: Slab::new(source::TCP), map, last: None, limit: limit.max(1) }
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
        Some(self.flows.get_mut(id)?)
    }

    /// The flow of an event, unless that is about a former one.
    pub fn of_token(&mut self, token: Token) -> Option<&mut Flow> {
        Some(self.flows.named(token)?)
    }

    /// Where the next flow goes, and the name its socket's events are to bear.
    pub fn vacancy(&self) -> Token {
        self.flows.vacancy()
    }

    /// Adds a flow where [`vacancy`](Self::vacancy) said; its key is new.
    pub fn insert(&mut self, flow: Box<Flow>) -> u32 {
        let key = flow.key;
        let id = self.flows.insert(flow);
        self.map.insert(key, id);
        id
    }

    /// Takes a flow out; its index is used again with another generation.
    pub fn remove(&mut self, id: u32) -> Option<Box<Flow>> {
        let flow = self.flows.remove(id)?;
        self.map.remove(&flow.key);
        self.last = None;
        Some(flow)
    }

    /// The indices there may be flows at.
    pub fn ids(&self) -> std::ops::Range<u32> {
        self.flows.ids()
    }

    /// All flows.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Flow)> {
        self.flows.iter().map(|(id, flow)| (id, &**flow))
    }
}
