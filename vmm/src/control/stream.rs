//! A machine's events as the body of an answer: JSON lines, as they come.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body, Bytes, Frame};

use crate::machine::{Event, Events, Handle, What};

/// The events of a machine, awaited.
#[derive(Debug)]
pub struct EventStream(Events);

impl EventStream {
    /// All from now on.
    ///
    /// # Errors
    /// Those of `eventfd(2)`.
    pub fn new(handle: &Handle) -> io::Result<Self> {
        Ok(Self(handle.events()?))
    }

    /// Waits for the last event.
    pub async fn ended(&mut self) -> Option<Event> {
        loop {
            let event = std::future::poll_fn(|cx| self.0.poll_next(cx)).await?;
            if matches!(event.what, What::Ended { .. }) {
                return Some(event);
            }
        }
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let event = ready!(self.0.poll_next(cx));
        Poll::Ready(event.map(|event| {
            // It has no keys but text.
            let mut line = serde_json::to_vec(&event).unwrap_or_default();
            line.push(b'\n');
            Ok(Frame::data(line.into()))
        }))
    }
}
