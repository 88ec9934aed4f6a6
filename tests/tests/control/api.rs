//! Each call of the API, by curl, held to `docs/openapi.json`.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::{Host, SERVE};

/// The document, read by a parser of OpenAPI too.
fn document() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let text = std::fs::read_to_string(path).unwrap();
    let document: oas3::OpenApiV3Spec = oas3::from_json(&text).unwrap();
    document.validate_version().unwrap();
    serde_json::from_str(&text).unwrap()
}

/// An answer of a machine.
#[derive(Debug)]
struct Answer {
    status: String,
    kind: String,
    body: String,
}

/// Asks by curl. Without `-f`, what is refused is an answer too.
fn curl(host: &Host, name: &str, method: &str, path: &str, body: Option<&str>) -> Answer {
    let mut command = Command::new("curl");
    command.args(["-sS", "-X", method, "-w", "\n%{http_code} %{content_type}", "--max-time", "60"]);
    command.arg("--unix-socket").arg(host.socket(name));
    if let Some(body) = body {
        command.args(["-H", "Content-Type: application/json", "--data-binary", body]);
    }
    let output = command.arg(format!("http://minivmm{path}")).output().unwrap();
    assert!(output.status.success(), "{method} {path}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, last) = text.rsplit_once('\n').unwrap();
    let (status, kind) = last.split_once(' ').unwrap();
    Answer { status: status.into(), kind: kind.into(), body: body.into() }
}

/// Checks an answer against what the document says of it.
fn check(document: &Value, method: &str, path: &str, answer: &Answer) {
    let call = &document["paths"][path][method.to_lowercase()];
    let responses = &call["responses"];
    let response = responses.get(&answer.status).unwrap_or(&responses["default"]);
    let content = response["content"].as_object().unwrap();
    let schema = content.get(&answer.kind).map(|content| &content["schema"]);
    let schema = schema.unwrap_or_else(|| panic!("{path}: {answer:?} is not among {content:?}"));
    let schema = json!({ "allOf": [schema], "components": document["components"] });
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let values: Vec<Value> = match &*answer.kind {
        "application/json" => vec![serde_json::from_str(&answer.body).unwrap()],
        "application/jsonl" => {
            answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
        _ => vec![answer.body.clone().into()],
    };
    assert!(!values.is_empty());
    for value in values {
        let errors: Vec<_> = validator
            .iter_errors(&value)
            .map(|e| format!("{e} at {}", e.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{method} {path}: {value}: {errors:?}");
    }
}

/// Every call of the document is made, and answered as it says.
#[test]
fn every_call_answers_as_it_is_described() {
    let document = document();
    let host = Host::new();
    host.start("one");
    host.start("two");
    let mut made = BTreeSet::new();
    let mut call = |name: &str, method: &str, path: &str, body, status: &str| {
        let answer = curl(&host, name, method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        check(&document, method, path, &answer);
        made.insert((path.to_owned(), method.to_lowercase()));
        answer.body
    };
    for path in ["/v1/machine", "/v1/ports", "/v1/stats", "/metrics"] {
        call("one", "GET", path, None, "200");
    }
    let state = call("one", "POST", "/v1/machine/pause", None, "200");
    assert_eq!(state, r#"{"state":"paused"}"#);
    let state = call("one", "POST", "/v1/machine/resume", None, "200");
    assert_eq!(state, r#"{"state":"running"}"#);
    for body in ["{", "[]", r#"{"timeout_s":-1}"#, r#"{"timeout":1}"#, r#"{"timeout_s":"1"}"#] {
        call("one", "POST", "/v1/machine/stop", Some(body), "400");
    }
    let long = " ".repeat(70_000);
    call("one", "POST", "/v1/machine/stop", Some(&long), "413");
    let end = std::thread::scope(|scope| {
        let events = scope.spawn(|| curl(&host, "one", "GET", "/v1/events", None));
        let wait = scope.spawn(|| curl(&host, "one", "GET", "/v1/wait", None));
        // Both listen when the machine's thread has seen them, before this.
        std::thread::sleep(Duration::from_millis(500));
        let end = call("one", "POST", "/v1/machine/stop", Some(r#"{"timeout_s":1}"#), "200");
        for (path, answer) in [("/v1/events", events), ("/v1/wait", wait)] {
            let answer = answer.join().unwrap();
            assert_eq!(answer.status, "200");
            check(&document, "GET", path, &answer);
            assert!(answer.body.contains("stopped by request"), "{answer:?}");
        }
        end
    });
    made.extend(["/v1/events", "/v1/wait"].map(|path| (path.to_owned(), "get".to_owned())));
    assert_eq!(end, r#"{"status":143,"reason":"stopped by request"}"#);
    let answer = curl(&host, "two", "POST", "/v1/machine/kill", None);
    check(&document, "POST", "/v1/machine/kill", &answer);
    made.insert(("/v1/machine/kill".into(), "post".into()));

    let paths = document["paths"].as_object().unwrap().iter();
    let described: BTreeSet<_> = paths
        .flat_map(|(path, calls)| {
            calls.as_object().unwrap().keys().map(|method| (path.clone(), method.clone()))
        })
        .collect();
    assert_eq!(made, described);
    host.is_empty();
}

#[test]
fn what_is_no_call_is_refused() {
    let document = document();
    let host = Host::new();
    host.start("one");
    for (method, path, status) in [
        ("GET", "/v2/machine", "404"),
        ("GET", "/", "404"),
        ("GET", "/v1/machine/", "404"),
        ("POST", "/v1/machine", "405"),
        ("GET", "/v1/machine/stop", "405"),
        ("DELETE", "/v1/events", "405"),
    ] {
        let answer = curl(&host, "one", method, path, None);
        assert_eq!(answer.status, status, "{method} {path}");
        check(&document, "GET", "/v1/machine", &Answer { status: "default".into(), ..answer });
    }
    host.text(["kill", "one"]);
    host.is_empty();
}

/// What Prometheus reads, it accepts, and its own linter has nothing to say.
#[test]
fn promtool_accepts_the_metrics() {
    let host = Host::new();
    host.start("one");
    let answer = curl(&host, "one", "GET", "/metrics", None);
    for text in [answer.body, host.text(["stats", "--prometheus"])] {
        let mut promtool = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("promtool is there (package prometheus)");
        promtool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = promtool.wait_with_output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        assert!(said.is_empty(), "{}", String::from_utf8_lossy(&said));
    }
    host.text(["kill", "one"]);
    host.is_empty();
}

/// The port that the host chose is told, is the same for both of its addresses, and leads to the guest.
#[test]
fn a_port_that_the_host_chooses() {
    let host = Host::new();
    let publish = ["run", "-d", "--name", "one", "-p", "localhost:0:7", "-p", "127.0.0.1:0:7/udp"];
    host.text(publish.iter().chain(&SERVE));
    let answer = curl(&host, "one", "GET", "/v1/machine", None);
    check(&document(), "GET", "/v1/machine", &answer);
    let machine: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(machine["config"]["publish"], json!(["localhost:0:7", "127.0.0.1:0:7/udp"]));
    let published = machine["ports"][0]["published"].as_array().unwrap();
    let port = |index: usize, before: &str, behind: &str| -> u16 {
        let text = published[index].as_str().unwrap();
        let port = text.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind));
        port.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
    };
    let (tcp, udp) = (port(0, "localhost:", ":7"), port(1, "127.0.0.1:", ":7/udp"));
    assert!(tcp != 0 && udp != 0 && published.len() == 2, "{published:?}");
    let until = Instant::now() + Duration::from_secs(20);
    for address in ["127.0.0.1", "[::1]"] {
        // The guest answers once it has its address.
        let echo = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(format!("{address}:{tcp}"))?;
            stream.write_all(b"word")?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        };
        while echo().ok().as_deref() != Some("word") {
            assert!(Instant::now() < until, "{address}:{tcp}: {:?}", echo());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    host.text(["kill", "one"]);
    host.is_empty();
}
