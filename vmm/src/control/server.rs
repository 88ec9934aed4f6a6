//! The thread that serves a machine's API.

use std::convert::Infallible;
use std::io;
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::body::Body as _;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};
use tokio::task::LocalSet;
use tokio::time::{sleep, timeout};

use super::connections::{Connections, Doing, Place};
use super::routes::{self, Served};
use crate::machine::Handle;

/// Clients that are served at once. Each is a descriptor, one that listens is two.
pub const CLIENTS_MAX: usize = 32;
/// How long a client may take to send the head of a request, also of its next.
const HEAD_TIME: Duration = Duration::from_secs(10);
/// The longest head of a request.
const HEAD_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 32;
/// How long answers may take after the machine's end.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// After a client could not be accepted, for want of descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// A server whose thread was not started yet: clients can connect, and wait.
#[derive(Debug)]
pub struct OpenServer {
    listener: StdListener,
}

impl OpenServer {
    /// Listens at `path`, which may not exist.
    ///
    /// # Errors
    /// Those of `bind(2)`.
    pub fn new(path: &Path) -> io::Result<Self> {
        let listener = StdListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Starts to serve a machine by a name.
    ///
    /// # Errors
    /// Those of thread creation.
    pub fn start(self, name: &str, handle: Handle) -> io::Result<Server> {
        let (stop, stopped) = oneshot::channel();
        let served = Served { name: name.to_owned(), handle };
        let thread = thread::Builder::new().name("control".into());
        let thread = thread.spawn(move || {
            if let Err(e) = run(self.listener, served, stopped) {
                tracing::warn!("the machine can't be controlled: {e}");
            }
        })?;
        Ok(Server { stop: Some(stop), thread: Some(thread) })
    }
}

/// The server of a machine. Dropping it ends it, when the last answers were given.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It fails where the thread has ended.
        let _ = self.stop.take().map(|stop| stop.send(()));
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the control thread had panicked");
        }
    }
}

/// The thread.
fn run(listener: StdListener, served: Served, stopped: oneshot::Receiver<()>) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        serve(UnixListener::from_std(listener)?, served, stopped).await;
        Ok(())
    })
}

/// Serves until it is told to stop, and then until those who wait have their answers.
async fn serve(listener: UnixListener, served: Served, mut stopped: oneshot::Receiver<()>) {
    let served = Rc::new(served);
    let connections = Connections::new(CLIENTS_MAX);
    let (last, _) = watch::channel(());
    loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let place = connections.enter();
                    let connection = Rc::clone(&place.connection);
                    let task = tokio::task::spawn_local(client(
                        stream,
                        Rc::clone(&served),
                        place,
                        last.subscribe(),
                    ));
                    connection.set_task(task.abort_handle());
                }
                // That passes, and is not to keep a CPU busy.
                Err(_) => sleep(RETRY).await,
            }
        }
    }
    drop(listener);
    // Who waits for the end gets it now; nobody else is heard.
    last.send_replace(());
    let _ = timeout(LAST_ANSWERS, connections.left()).await;
}

/// Serves one client, after `last` only until it has the answer that it waits for. What goes wrong
/// on its connection is its own affair.
async fn client(
    stream: UnixStream,
    served: Rc<Served>,
    place: Place,
    mut last: watch::Receiver<()>,
) {
    let connection = &place.connection;
    let service = service_fn(|request| {
        let served = Rc::clone(&served);
        async move {
            connection.does(Doing::Waiting);
            let answer = routes::answer(&served, request).await;
            if answer.size_hint().exact().is_some() {
                connection.does(Doing::Nothing);
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX);
    let mut conversation = pin!(http.serve_connection(TokioIo::new(stream), service));
    let outcome = tokio::select! {
        outcome = &mut conversation => outcome,
        _ = last.changed() => {
            conversation.as_mut().graceful_shutdown();
            conversation.await
        }
    };
    if let Err(e) = outcome {
        tracing::debug!("a client of the API: {e}");
    }
}
