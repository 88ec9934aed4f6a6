//! A client of the API, for programs that wait.

use std::future::Future;
use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::api::Problem;

/// How long a machine has to begin an answer that does not wait for anything.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// The longest answer that is kept as a whole.
const ANSWER_MAX: usize = 16 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The socket can't be reached: the machine has just ended.
    #[error("cannot reach the machine: {0}")]
    Connect(#[source] io::Error),
    /// The answer did not come, or not as a whole.
    #[error("the machine gave no answer: {0}")]
    NoAnswer(String),
    /// The machine refused.
    #[error("the machine refused: {error}")]
    Refused {
        /// With what status.
        status: u16,
        /// Its reason.
        error: String,
    },
}

/// A connection to a machine.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    sender: SendRequest<Full<Bytes>>,
}

impl Client {
    /// Connects to the API at `socket`.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let runtime =
            Builder::new_current_thread().enable_all().build().map_err(ClientError::Connect)?;
        let sender = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await?;
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            // What goes wrong on it shows at the request.
            tokio::spawn(connection);
            Ok(sender)
        });
        Ok(Self { runtime, sender: sender.map_err(ClientError::Connect)? })
    }

    /// Asks for what a machine says at once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>, Some(ANSWER_TIME))
    }

    /// The same as text.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get_text(&mut self, path: &str) -> Result<String, ClientError> {
        let body = self.send(Method::GET, path, None::<&()>, Some(ANSWER_TIME))?;
        String::from_utf8(body.to_vec()).map_err(|e| ClientError::NoAnswer(e.to_string()))
    }

    /// Asks for what a machine says when the time has come, such as at its end.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn wait<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None::<&()>, None)
    }

    /// Has a machine do something. The answer is waited for as long as `time`, if that is given.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn post<T: DeserializeOwned>(
        &mut self,
        path: &str,
        body: Option<&impl Serialize>,
        time: Option<Duration>,
    ) -> Result<T, ClientError> {
        self.call(Method::POST, path, body, time)
    }

    /// Calls `line` with each line of an answer that goes on, until it returns false or the answer
    /// ends.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn lines(
        &mut self,
        path: &str,
        mut line: impl FnMut(&[u8]) -> bool,
    ) -> Result<(), ClientError> {
        let request = request(Method::GET, path, None::<&()>)?;
        let Self { runtime, sender } = self;
        runtime.block_on(async {
            let mut answer = in_time(Some(ANSWER_TIME), sender.send_request(request)).await?;
            let mut rest = Vec::new();
            while let Some(frame) = answer.body_mut().frame().await {
                let frame = frame.map_err(no_answer)?;
                rest.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    if !line(&rest[..end]) {
                        return Ok(());
                    }
                    rest.drain(..=end);
                }
            }
            Ok(())
        })
    }

    fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        time: Option<Duration>,
    ) -> Result<T, ClientError> {
        let body = self.send(method, path, body, time)?;
        serde_json::from_slice(&body).map_err(|e| ClientError::NoAnswer(e.to_string()))
    }

    fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
        time: Option<Duration>,
    ) -> Result<Bytes, ClientError> {
        let request = request(method, path, body)?;
        let Self { runtime, sender } = self;
        let (status, body) = runtime.block_on(async {
            let answer = in_time(time, sender.send_request(request)).await?;
            whole(answer).await
        })?;
        if status.is_success() {
            return Ok(body);
        }
        let error = match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => problem.error,
            Err(_) => status.to_string(),
        };
        Err(ClientError::Refused { status: status.as_u16(), error })
    }
}

fn request(
    method: Method,
    path: &str,
    body: Option<&impl Serialize>,
) -> Result<Request<Full<Bytes>>, ClientError> {
    let body = body.map(serde_json::to_vec).transpose().map_err(no_answer)?;
    let request = Request::builder().method(method).uri(path).header(HOST, "minivmm");
    let request = request.header(CONTENT_TYPE, "application/json");
    request.body(Full::from(body.unwrap_or_default())).map_err(no_answer)
}

async fn in_time<T>(
    time: Option<Duration>,
    answer: impl Future<Output = hyper::Result<T>>,
) -> Result<T, ClientError> {
    let answer = match time {
        None => answer.await,
        Some(time) => timeout(time, answer)
            .await
            .map_err(|_| ClientError::NoAnswer(format!("within {} s", time.as_secs())))?,
    };
    answer.map_err(no_answer)
}

async fn whole(answer: Response<Incoming>) -> Result<(StatusCode, Bytes), ClientError> {
    let status = answer.status();
    let body = http_body_util::Limited::new(answer.into_body(), ANSWER_MAX);
    match timeout(ANSWER_TIME, body.collect()).await {
        Ok(Ok(body)) => Ok((status, body.to_bytes())),
        Ok(Err(e)) => Err(ClientError::NoAnswer(e.to_string())),
        Err(_) => Err(ClientError::NoAnswer("it began and did not end".into())),
    }
}

fn no_answer(e: impl std::fmt::Display) -> ClientError {
    ClientError::NoAnswer(e.to_string())
}
