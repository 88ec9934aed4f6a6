//! The clients that are served, and which of them goes where there are too many.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doing {
    /// It has not sent a whole request, or has its answer.
    Nothing,
    /// It waits for an answer, or listens.
    Waiting,
}

/// One client.
#[derive(Debug)]
pub struct Connection {
    doing: Cell<Doing>,
    since: Cell<Instant>,
    task: RefCell<Option<AbortHandle>>,
}

impl Connection {
    /// It begins to do something.
    pub fn does(&self, doing: Doing) {
        self.doing.set(doing);
        self.since.set(Instant::now());
    }

    /// By what it can be ended.
    pub fn set_task(&self, task: AbortHandle) {
        *self.task.borrow_mut() = Some(task);
    }
}

/// All clients, up to a number.
#[derive(Debug)]
pub struct Connections {
    all: Rc<RefCell<Vec<Rc<Connection>>>>,
    most: usize,
    /// One has gone.
    gone: Rc<Notify>,
}

/// Keeps a client's place until it is dropped.
#[derive(Debug)]
pub struct Place {
    all: Rc<RefCell<Vec<Rc<Connection>>>>,
    gone: Rc<Notify>,
    /// Whose it is.
    pub connection: Rc<Connection>,
}

impl Connections {
    /// Places for `most` clients.
    pub fn new(most: usize) -> Self {
        Self { all: Rc::default(), most, gone: Rc::default() }
    }

    /// A place for one more. Where there is none, the one goes that does nothing for longest; where
    /// all wait for something, the one that waits for longest.
    pub fn enter(&self) -> Place {
        let mut all = self.all.borrow_mut();
        if all.len() >= self.most {
            let last = |(_, c): &(usize, &Rc<Connection>)| (c.doing.get(), c.since.get());
            let index = all.iter().enumerate().min_by_key(last).map(|(index, _)| index);
            let gone = index.map(|index| all.swap_remove(index));
            if let Some(task) = gone.and_then(|gone| gone.task.borrow_mut().take()) {
                task.abort();
            }
        }
        let connection = Rc::new(Connection {
            doing: Cell::new(Doing::Nothing),
            since: Cell::new(Instant::now()),
            task: RefCell::default(),
        });
        all.push(Rc::clone(&connection));
        Place { all: Rc::clone(&self.all), gone: Rc::clone(&self.gone), connection }
    }

    /// Waits until all have left.
    pub async fn left(&self) {
        while !self.all.borrow().is_empty() {
            self.gone.notified().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.connection));
        self.gone.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_idle_go_first_and_then_the_oldest() {
        let connections = Connections::new(3);
        let places: Vec<_> = (0..3).map(|_| connections.enter()).collect();
        places[0].connection.does(Doing::Waiting);
        places[2].connection.does(Doing::Nothing);
        let there = |place: &Place| {
            connections.all.borrow().iter().any(|c| Rc::ptr_eq(c, &place.connection))
        };
        let fourth = connections.enter();
        assert_eq!([0, 1, 2].map(|i| there(&places[i])), [true, false, true]);
        fourth.connection.does(Doing::Waiting);
        let fifth = connections.enter();
        fifth.connection.does(Doing::Waiting);
        assert!(!there(&places[2]) && there(&places[0]) && there(&fourth));
        let _sixth = connections.enter();
        assert!(!there(&places[0]) && there(&fourth) && there(&fifth));
        drop(fourth);
        assert_eq!(connections.all.borrow().len(), 2);
    }
}
