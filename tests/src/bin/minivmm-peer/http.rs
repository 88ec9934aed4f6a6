//! The least of HTTP/1.1 that wget and curl talk to: one request a connection.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::digest::Digest;
use crate::pattern::Pattern;
use crate::serve::{line, send_pattern};

/// A request line or header beyond this is refused.
const LINE: u64 = 8192;

pub fn serve(stream: &TcpStream, client: SocketAddr) -> io::Result<()> {
    let mut input = BufReader::new(stream);
    let request = read_line(&mut input)?;
    let mut length = 0;
    loop {
        let header = read_line(&mut input)?.to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        } else if header.starts_with("expect:") {
            let mut output = stream;
            output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let number = |prefix| path.strip_prefix(prefix).and_then(|n| n.parse::<u64>().ok());
    match method {
        "GET" if path == "/who" => text(stream, "200 OK", &line(client)),
        "GET" => match (number("/bytes/"), number("/sum/")) {
            (Some(bytes), _) => {
                head(stream, "200 OK", bytes)?;
                send_pattern(stream, bytes)
            }
            (_, Some(bytes)) => text(stream, "200 OK", &(Pattern::sum(bytes) + "\n")),
            _ => text(stream, "404 Not Found", "no such page\n"),
        },
        "POST" | "PUT" if path == "/sink" => {
            let mut hash = Digest::new();
            let bytes = io::copy(&mut input.take(length), &mut hash)?;
            text(stream, "200 OK", &format!("{bytes} {}\n", hash.finish()))
        }
        _ => text(stream, "405 Method Not Allowed", "GET, or POST and PUT to /sink\n"),
    }
}

fn read_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    input.take(LINE).read_line(&mut text)?;
    if !text.ends_with('\n') {
        return Err(io::Error::other("the request ends in the middle of a line"));
    }
    Ok(text.trim_end().to_owned())
}

fn head(mut stream: &TcpStream, status: &str, length: u64) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/octet-stream\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n"
    )
}

fn text(mut stream: &TcpStream, status: &str, body: &str) -> io::Result<()> {
    head(stream, status, body.len() as u64)?;
    stream.write_all(body.as_bytes())
}
