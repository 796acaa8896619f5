//! One connection of the server: reads messages, has them carried out, writes the answers.
//!
//! Whatever a client sends or does not send, its thread ends within the options' bounds and touches no other one.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use tracing::debug;

use super::frame::{Framer, MESSAGE_BYTES_MAX};
use super::message::{Call, Failure, Id, Incoming, RpcError, encode_answer, parse_request};
use super::server::Shared;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;
/// Least wait that a socket accepts as a time-out: zero would mean for ever.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// Whether the connection lives on after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    GoOn,
    Close,
}

/// Serves a connection until it ends, is silent for too long, or cannot be made sense of.
pub(super) fn serve(mut stream: UnixStream, shared: &Shared, key: u64) {
    let mut framer = Framer::default();
    let mut buffer = vec![0; READ_BYTES];
    let mut begun: Option<Instant> = None;
    loop {
        let wait = match begun {
            None => shared.options.idle,
            Some(begun) => shared.options.message.saturating_sub(begun.elapsed()),
        };
        let read = match stream.set_read_timeout(Some(wait.max(WAIT_MIN))) {
            Ok(()) => stream.read(&mut buffer),
            Err(error) => Err(error),
        };
        match read {
            Ok(0) => {
                if let Some(rest) = framer.rest().filter(|_| !shared.is_stopping()) {
                    answer(&mut stream, rest, shared);
                }
                return;
            }
            Ok(count) => framer.push(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                end_of_patience(&mut stream, &error, begun.is_some(), shared);
                return;
            }
        }
        shared.set_busy(key, true);
        let values_before = framer.values();
        let after = answer_all(&mut stream, &mut framer, shared);
        shared.set_busy(key, false);
        if after == After::Close || shared.is_stopping() {
            return;
        }
        // The clock of a message runs from its first byte: one byte a second does not keep a connection alive.
        let begun_before = begun.filter(|_| framer.values() == values_before);
        begun = framer
            .is_inside()
            .then(|| begun_before.unwrap_or_else(Instant::now));
    }
}

/// Tells a client why it is not served. A small answer fits into the socket's buffer, so that this does not wait.
pub(super) fn refuse(stream: &UnixStream, connections_max: usize) {
    let error = RpcError::new(
        RpcError::TOO_MANY_CONNECTIONS,
        format!("{connections_max} connections are busy"),
        "try again in a moment",
    );
    let _ = stream.set_nonblocking(true);
    let _ = (&*stream).write_all(&line(&encode_answer(&Id::Null, &Err(error)))); // The client may be gone.
}

/// The read failed or took too long.
fn end_of_patience(stream: &mut UnixStream, error: &io::Error, inside: bool, shared: &Shared) {
    let timed_out = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    debug!("management connection ended error={error} in_message={inside}");
    if timed_out && inside {
        let error = RpcError::new(
            RpcError::PARSE_ERROR,
            format!(
                "the message was not complete after {} s",
                shared.options.message.as_secs()
            ),
            "send it in one piece",
        );
        write(stream, &encode_answer(&Id::Null, &Err(error)), shared);
    }
}

/// Answers every message that is complete.
fn answer_all(stream: &mut UnixStream, framer: &mut Framer, shared: &Shared) -> After {
    loop {
        match framer.take() {
            Ok(Some(message)) => {
                if answer(stream, message, shared) == After::Close || shared.is_stopping() {
                    return After::Close;
                }
            }
            Ok(None) => return After::GoOn,
            Err(too_long) => {
                let remedy = format!("keep messages below {MESSAGE_BYTES_MAX} bytes");
                let error = RpcError::new(RpcError::INVALID_REQUEST, too_long.to_string(), remedy);
                write(stream, &encode_answer(&Id::Null, &Err(error)), shared);
                return After::Close;
            }
        }
    }
}

/// Answers one message.
fn answer(stream: &mut UnixStream, message: &[u8], shared: &Shared) -> After {
    let answer = match parse_request(message) {
        Ok(Incoming::Single(call)) => carry_out(call, shared),
        Ok(Incoming::Batch(calls)) => {
            let answers: Vec<Value> = calls
                .into_iter()
                .filter_map(|call| carry_out(call, shared))
                .collect();
            (!answers.is_empty()).then_some(Value::Array(answers))
        }
        Err(error) => {
            // What follows bytes that are no JSON may be the inside of a string: it must not be taken for a call.
            let unreadable = error.code == RpcError::PARSE_ERROR;
            let after = write(stream, &encode_answer(&Id::Null, &Err(error)), shared);
            return if unreadable { After::Close } else { after };
        }
    };
    answer.map_or(After::GoOn, |answer| write(stream, &answer, shared))
}

/// Carries out one call. `None`: it was a notification.
fn carry_out(call: Result<Call, Failure>, shared: &Shared) -> Option<Value> {
    let (id, result) = match call {
        Ok(Call { id, request }) => (id, shared.manage.call(request).map_err(RpcError::from)),
        Err(Failure { id, error }) => (id, Err(error)),
    };
    Some(encode_answer(&id?, &result))
}

fn line(answer: &Value) -> Vec<u8> {
    let mut line = answer.to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Writes one answer within the options' time for that.
fn write(stream: &mut UnixStream, answer: &Value, shared: &Shared) -> After {
    match write_within(stream, &line(answer), shared.options.answer) {
        Ok(()) => After::GoOn,
        Err(error) => {
            debug!("management answer not taken error={error}");
            After::Close
        }
    }
}

/// Writes all bytes, in at most this time altogether.
pub(super) fn write_within(stream: &mut UnixStream, mut bytes: &[u8], wait: Duration) -> io::Result<()> {
    let begun = Instant::now();
    while !bytes.is_empty() {
        let left = wait.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left.max(WAIT_MIN)))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
