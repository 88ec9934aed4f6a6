//! What each call does.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::time::timeout;

use super::api::{End, MachineInfo, Problem, StateInfo, StopRequest};
use super::stream::EventStream;
use crate::exit::Exit;
use crate::machine::{Handle, State, What, prometheus};

/// The longest body that is read.
const BODY_MAX: usize = 64 << 10;
/// How long a client has to send one.
const BODY_TIME: Duration = Duration::from_secs(5);
/// From the decision that a machine ends to its end.
const END_TIME: Duration = Duration::from_secs(30);

const JSON: &str = "application/json";
const JSON_LINES: &str = "application/jsonl";
const METRICS: &str = "text/plain; version=0.0.4";

/// An answer; its body may take as long as the machine lives.
pub type Answer = Response<BoxBody<Bytes, Infallible>>;

/// A machine that is served, and its name.
#[derive(Debug, Clone)]
pub struct Served {
    pub name: String,
    pub handle: Handle,
}

/// The calls, by their path; each has one method.
const CALLS: [(&str, Method); 10] = [
    ("/v1/machine", Method::GET),
    ("/v1/machine/stop", Method::POST),
    ("/v1/machine/kill", Method::POST),
    ("/v1/machine/pause", Method::POST),
    ("/v1/machine/resume", Method::POST),
    ("/v1/ports", Method::GET),
    ("/v1/stats", Method::GET),
    ("/metrics", Method::GET),
    ("/v1/events", Method::GET),
    ("/v1/wait", Method::GET),
];

/// Answers a call. Nothing here waits for a client but for its body, and that not for long.
pub async fn answer<B>(served: &Served, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (head, body) = request.into_parts();
    let path = head.uri.path();
    let Some((_, method)) = CALLS.iter().find(|(call, _)| *call == path) else {
        return refusal(StatusCode::NOT_FOUND, format!("there is no {path}"));
    };
    if head.method != method {
        let mut answer = refusal(StatusCode::METHOD_NOT_ALLOWED, format!("{path} takes {method}"));
        if let Ok(method) = HeaderValue::from_str(method.as_str()) {
            answer.headers_mut().insert(ALLOW, method);
        }
        return answer;
    }
    let handle = &served.handle;
    let changes = method == Method::POST;
    if changes && handle.state() == State::Ended {
        return refusal(StatusCode::CONFLICT, "the machine has ended".into());
    }
    match path {
        "/v1/machine" => json(&MachineInfo::new(&served.name, handle)),
        "/v1/machine/stop" => match stop_request(body).await {
            Ok(request) => stop(handle, request).await,
            Err(refused) => refused,
        },
        "/v1/machine/kill" => end(handle, Exit::Killed).await,
        "/v1/machine/pause" => {
            handle.pause();
            json(&StateInfo { state: handle.state() })
        }
        "/v1/machine/resume" => {
            handle.resume();
            json(&StateInfo { state: handle.state() })
        }
        "/v1/ports" => json(&handle.ports().collect::<Vec<_>>()),
        "/v1/stats" => json(&handle.stats()),
        "/metrics" => {
            let text = prometheus([(&*served.name, &handle.stats())]);
            whole(StatusCode::OK, METRICS, text.into())
        }
        "/v1/events" => match EventStream::new(handle) {
            Ok(events) => with_type(JSON_LINES, Response::new(BodyExt::boxed(events))),
            Err(e) => refusal(StatusCode::SERVICE_UNAVAILABLE, format!("no events: {e}")),
        },
        _ => match EventStream::new(handle) {
            Ok(mut events) => ended(&mut events, None).await,
            Err(e) => refusal(StatusCode::SERVICE_UNAVAILABLE, format!("no events: {e}")),
        },
    }
}

async fn stop_request<B>(body: B) -> Result<StopRequest, Answer>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let bad = |why: String| refusal(StatusCode::BAD_REQUEST, why);
    let collected = timeout(BODY_TIME, Limited::new(body, BODY_MAX).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
            let why = format!("the body is longer than {} KiB", BODY_MAX >> 10);
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        Ok(Err(e)) => return Err(bad(format!("the body can't be read: {e}"))),
        Err(_) => {
            let why = format!("the body did not come within {} s", BODY_TIME.as_secs());
            return Err(refusal(StatusCode::REQUEST_TIMEOUT, why));
        }
    };
    if body.is_empty() {
        return Ok(StopRequest::default());
    }
    // A list would do for serde, too.
    let object: Result<serde_json::Map<_, _>, _> = serde_json::from_slice(&body);
    object
        .and_then(|object| serde_json::from_value(object.into()))
        .map_err(|e| bad(format!("the body: {e}")))
}

async fn stop(handle: &Handle, request: StopRequest) -> Answer {
    let mut events = match EventStream::new(handle) {
        Ok(events) => events,
        Err(e) => return refusal(StatusCode::SERVICE_UNAVAILABLE, format!("no events: {e}")),
    };
    if handle.press_power_button() {
        let time = Duration::from_secs(request.timeout_s.into());
        if let Ok(Some(event)) = timeout(time, events.ended()).await {
            return end_of(event.what);
        }
    }
    handle.end(Exit::Stopped);
    ended(&mut events, Some(END_TIME)).await
}

async fn end(handle: &Handle, why: Exit) -> Answer {
    match EventStream::new(handle) {
        Ok(mut events) => {
            handle.end(why);
            ended(&mut events, Some(END_TIME)).await
        }
        Err(e) => {
            handle.end(why);
            refusal(StatusCode::SERVICE_UNAVAILABLE, format!("no events: {e}"))
        }
    }
}

/// Waits for the end, and says how it was.
async fn ended(events: &mut EventStream, time: Option<Duration>) -> Answer {
    let event = match time {
        Some(time) => timeout(time, events.ended()).await.ok().flatten(),
        None => events.ended().await,
    };
    match event {
        Some(event) => end_of(event.what),
        None => refusal(StatusCode::GATEWAY_TIMEOUT, "the machine takes long to end".into()),
    }
}

fn end_of(what: What) -> Answer {
    match what {
        What::Ended { status, reason } => json(&End { status, reason }),
        _ => refusal(StatusCode::INTERNAL_SERVER_ERROR, "no end".into()),
    }
}

fn json(value: &impl Serialize) -> Answer {
    // No value of ours has keys that are not text.
    whole(StatusCode::OK, JSON, serde_json::to_vec(value).unwrap_or_default())
}

/// An answer that says in a line why it is none.
pub fn refusal(status: StatusCode, error: String) -> Answer {
    let body = serde_json::to_vec(&Problem { error }).unwrap_or_default();
    whole(status, JSON, body)
}

fn whole(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)).boxed());
    *answer.status_mut() = status;
    with_type(kind, answer)
}

fn with_type(kind: &'static str, mut answer: Answer) -> Answer {
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
