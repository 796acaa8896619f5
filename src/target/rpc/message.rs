//! Requests and answers of JSON-RPC 2.0, without any I/O.
//!
//! Source: JSON-RPC 2.0 Specification (2013-01-04), sections 4 (request), 5 (response) and 6 (batch).

use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::method;
use crate::target::manage::{ManageError, Reply, Request};

/// Most calls in one batch: enough to ask for everything twice.
pub const BATCH_MAX: usize = 32;

/// Longest text that serves as an id, in bytes: it is repeated in the answer.
const ID_BYTES_MAX: usize = 256;

/// What went wrong with a call, as the caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcError {
    /// One of the constants of this type, or a positive code of [`ManageError`].
    pub code: i64,
    /// What is wrong.
    pub message: String,
    /// What to do; empty if there is nothing.
    pub remedy: String,
}

impl RpcError {
    /// The bytes are no JSON.
    pub const PARSE_ERROR: i64 = -32700;
    /// The JSON is no request.
    pub const INVALID_REQUEST: i64 = -32600;
    /// There is no such method.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// The parameters are wrong.
    pub const INVALID_PARAMS: i64 = -32602;
    /// The node failed for a reason of its own.
    pub const INTERNAL_ERROR: i64 = -32603;
    /// The server serves as many connections as it may.
    pub const TOO_MANY_CONNECTIONS: i64 = -32000;

    /// An error with its code, its sentence and what to do.
    pub fn new(code: i64, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    fn invalid_request(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Self::INVALID_REQUEST, message, remedy)
    }

    /// The error object of an answer.
    fn to_json(&self) -> Value {
        if self.remedy.is_empty() {
            return json!({"code": self.code, "message": self.message});
        }
        json!({"code": self.code, "message": self.message, "data": {"remedy": self.remedy}})
    }

    /// Reads the error object of an answer, as far as it has the shape of one.
    pub(super) fn from_json(error: &Value) -> Option<Self> {
        let code = error.get("code")?.as_i64()?;
        let message = error.get("message")?.as_str()?;
        let remedy = error
            .pointer("/data/remedy")
            .and_then(Value::as_str)
            .unwrap_or_default();
        Some(Self::new(code, message, remedy))
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for RpcError {}

impl From<ManageError> for RpcError {
    fn from(error: ManageError) -> Self {
        Self {
            code: error.code,
            message: error.message,
            remedy: error.remedy,
        }
    }
}

/// How a caller tells its calls apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Id {
    /// `null`; also in answers to what cannot be told apart.
    Null,
    /// A whole number above the signed range.
    Unsigned(u64),
    /// A whole number.
    Signed(i64),
    /// Text of at most 256 bytes.
    Text(String),
}

/// One call that can be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// What the answer is to carry. `None`: a notification, which gets no answer.
    pub id: Option<Id>,
    /// What to do.
    pub request: Request,
}

/// One call that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What the answer is to carry. `None`: a notification, which gets no answer.
    pub id: Option<Id>,
    /// Why not.
    pub error: RpcError,
}

/// One message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// One call, answered by one object.
    Single(Result<Call, Failure>),
    /// 1 to [`BATCH_MAX`] calls, answered by a list, or by nothing if all are notifications.
    Batch(Vec<Result<Call, Failure>>),
}

/// Reads one message. Errs when not even a call can be made out; the answer to that has the id `null`.
///
/// Never panics, whatever the bytes are. The caller bounds their number.
pub fn parse_request(message: &[u8]) -> Result<Incoming, RpcError> {
    let value: Value = serde_json::from_slice(message).map_err(|error| {
        RpcError::new(
            RpcError::PARSE_ERROR,
            format!("the message is no JSON: {error}"),
            "send one JSON-RPC 2.0 object or a list of them",
        )
    })?;
    match value {
        Value::Array(calls) if calls.is_empty() => Err(RpcError::invalid_request(
            "the batch is empty",
            "put at least one call into it",
        )),
        Value::Array(calls) if calls.len() > BATCH_MAX => Err(RpcError::invalid_request(
            format!("the batch has {} calls", calls.len()),
            format!("send at most {BATCH_MAX} at once"),
        )),
        Value::Array(calls) => Ok(Incoming::Batch(calls.into_iter().map(read_call).collect())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Ok(Incoming::Single(read_call(value)))
        }
    }
}

fn read_call(value: Value) -> Result<Call, Failure> {
    let Value::Object(mut object) = value else {
        let error = RpcError::invalid_request("a call is not an object", EXAMPLE);
        return Err(Failure {
            id: Some(Id::Null),
            error,
        });
    };
    let id = match object.remove("id").map(read_id).transpose() {
        Ok(id) => id,
        Err(error) => {
            return Err(Failure {
                id: Some(Id::Null),
                error,
            });
        }
    };
    match read_envelope(object) {
        // What is no valid request object is no notification either, so that it gets an answer in any case.
        Err(error) => Err(Failure {
            id: Some(id.unwrap_or(Id::Null)),
            error,
        }),
        Ok((name, params)) => match method::read(&name, params) {
            Ok(request) => Ok(Call { id, request }),
            Err(error) => Err(Failure { id, error }),
        },
    }
}

const EXAMPLE: &str = r#"send for example {"jsonrpc":"2.0","id":1,"method":"node.show"}"#;

/// Takes method and params out of a request object whose id is gone already.
fn read_envelope(mut object: Map<String, Value>) -> Result<(String, Option<Value>), RpcError> {
    match object.remove("jsonrpc") {
        Some(Value::String(version)) if version == "2.0" => {}
        Some(_) => {
            return Err(RpcError::invalid_request(
                "the JSON-RPC version is not \"2.0\"",
                EXAMPLE,
            ));
        }
        None => {
            return Err(RpcError::invalid_request(
                "the member jsonrpc is missing",
                EXAMPLE,
            ));
        }
    }
    let name = match object.remove("method") {
        Some(Value::String(name)) => name,
        Some(_) => return Err(RpcError::invalid_request("method is not text", EXAMPLE)),
        None => return Err(RpcError::invalid_request("the member method is missing", EXAMPLE)),
    };
    let params = match object.remove("params") {
        None => None,
        Some(params @ (Value::Object(_) | Value::Array(_))) => Some(params),
        Some(_) => {
            return Err(RpcError::invalid_request(
                "params is neither an object nor a list",
                EXAMPLE,
            ));
        }
    };
    match object.keys().next() {
        None => Ok((name, params)),
        Some(extra) => {
            let known = ["params", "method", "jsonrpc", "id"];
            let remedy = match method::nearest(extra, known.into_iter()) {
                Some(known) => format!("did you mean {known}?"),
                None => "remove it".to_owned(),
            };
            Err(RpcError::invalid_request(
                format!("a call has no member {}", method::quoted(extra)),
                remedy,
            ))
        }
    }
}

fn read_id(id: Value) -> Result<Id, RpcError> {
    let wrong = || RpcError::invalid_request("id is neither text, a whole number nor null", EXAMPLE);
    match id {
        Value::Null => Ok(Id::Null),
        Value::String(text) if text.len() <= ID_BYTES_MAX => Ok(Id::Text(text)),
        Value::String(_) => Err(RpcError::invalid_request(
            "id is too long",
            format!("use at most {ID_BYTES_MAX} bytes"),
        )),
        Value::Number(number) => {
            let signed = number.as_i64().map(Id::Signed);
            signed
                .or_else(|| number.as_u64().map(Id::Unsigned))
                .ok_or_else(wrong)
        }
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(wrong()),
    }
}

/// The answer to one call, as JSON.
pub fn encode_answer(id: &Id, result: &Result<Reply, RpcError>) -> Value {
    let result = result.as_ref().map_err(Clone::clone).and_then(|reply| {
        serde_json::to_value(reply).map_err(|error| {
            RpcError::new(
                RpcError::INTERNAL_ERROR,
                format!("the result is no JSON: {error}"),
                "report this",
            )
        })
    });
    match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(error) => json!({"jsonrpc": "2.0", "id": id, "error": error.to_json()}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::manage::Stopping;

    #[track_caller]
    fn single(message: &str) -> Result<Call, Failure> {
        match parse_request(message.as_bytes()).unwrap() {
            Incoming::Single(call) => call,
            Incoming::Batch(_) => panic!("a batch"),
        }
    }

    #[test]
    fn call_carries_its_id() {
        for (text, id) in [
            ("1", Id::Signed(1)),
            ("-7", Id::Signed(-7)),
            ("18446744073709551615", Id::Unsigned(u64::MAX)),
            ("\"a\"", Id::Text("a".into())),
            ("null", Id::Null),
        ] {
            let message = format!(r#"{{"jsonrpc":"2.0","id":{text},"method":"node.show"}}"#);
            assert_eq!(
                single(&message),
                Ok(Call {
                    id: Some(id.clone()),
                    request: Request::NodeShow
                })
            );
            let answer = encode_answer(&id, &Ok(Reply::Stopping(Stopping { stopping: true })));
            assert_eq!(answer["id"].to_string(), text);
            assert_eq!(answer["result"]["stopping"], true);
        }
    }

    #[test]
    fn call_without_id_is_a_notification() {
        let call = single(r#"{"jsonrpc":"2.0","method":"node.show"}"#).unwrap();
        assert_eq!(call.id, None);
        let failure = single(r#"{"jsonrpc":"2.0","method":"node.shw"}"#).unwrap_err();
        assert_eq!(
            (failure.id, failure.error.code),
            (None, RpcError::METHOD_NOT_FOUND)
        );
    }

    #[test]
    fn what_is_no_request_is_answered_even_without_id() {
        for (message, word) in [
            (r#"{"method":"node.show"}"#, "jsonrpc is missing"),
            (r#"{"jsonrpc":"1.0","method":"node.show"}"#, "version"),
            (r#"{"jsonrpc":2.0,"method":"node.show"}"#, "version"),
            (r#"{"jsonrpc":"2.0"}"#, "method is missing"),
            (r#"{"jsonrpc":"2.0","method":1}"#, "method is not text"),
            (
                r#"{"jsonrpc":"2.0","method":"node.show","params":1}"#,
                "params is neither",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"node.show","parms":{}}"#,
                "no member \"parms\"",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"node.show","id":1.5}"#,
                "id is neither",
            ),
            (
                r#"{"jsonrpc":"2.0","method":"node.show","id":{}}"#,
                "id is neither",
            ),
            ("42", "not an object"),
            ("null", "not an object"),
        ] {
            let failure = single(message).unwrap_err();
            assert_eq!(
                (failure.id, failure.error.code),
                (Some(Id::Null), RpcError::INVALID_REQUEST),
                "{message}"
            );
            assert!(
                failure.error.message.contains(word),
                "{message}: {}",
                failure.error.message
            );
        }
    }

    #[test]
    fn bytes_that_are_no_json_are_a_parse_error() {
        for message in [
            "",
            "{",
            "{]",
            "{\"a\":}",
            "\u{0}",
            "{'jsonrpc':'2.0'}",
            &"[".repeat(100_000),
        ] {
            assert_eq!(
                parse_request(message.as_bytes()).unwrap_err().code,
                RpcError::PARSE_ERROR
            );
        }
        assert_eq!(
            parse_request(&[0xff, 0xfe]).unwrap_err().code,
            RpcError::PARSE_ERROR
        );
    }

    #[test]
    fn batch_is_bounded_and_judged_call_by_call() {
        let show = r#"{"jsonrpc":"2.0","id":1,"method":"node.show"}"#;
        let Ok(Incoming::Batch(calls)) = parse_request(format!("[{show}, 1, {show}]").as_bytes()) else {
            panic!("not a batch")
        };
        assert!(calls[0].is_ok() && calls[1].is_err() && calls[2].is_ok());
        assert_eq!(parse_request(b"[]").unwrap_err().code, RpcError::INVALID_REQUEST);
        let too_many = format!("[{}]", vec![show; BATCH_MAX + 1].join(","));
        assert_eq!(
            parse_request(too_many.as_bytes()).unwrap_err().code,
            RpcError::INVALID_REQUEST
        );
        let just_enough = format!("[{}]", vec![show; BATCH_MAX].join(","));
        assert!(parse_request(just_enough.as_bytes()).is_ok());
    }

    #[test]
    fn error_carries_its_remedy() {
        let error = RpcError::from(ManageError::not_found("group", "g9"));
        let answer = encode_answer(&Id::Null, &Err(error.clone()));
        assert_eq!(answer["id"], Value::Null);
        assert_eq!(RpcError::from_json(&answer["error"]), Some(error));
        assert_eq!(RpcError::from_json(&json!({"code": "x"})), None);
    }

    /// Mutates good messages with a tiny generator: any outcome will do but a panic.
    #[test]
    fn mutated_messages_never_panic() {
        let seeds: [&[u8]; 2] = [
            br#"[{"jsonrpc":"2.0","id":"x","method":"vdisk.create","params":{"name":"v","group":"g","size_bytes":1}}]"#,
            br#"{"jsonrpc":"2.0","id":3,"method":"group.create","params":{"name":"g","drives":["a","b"],"force":true}}"#,
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |bound: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % bound as u64).unwrap()
        };
        for _ in 0..20_000 {
            let mut message = seeds[random(2)].to_vec();
            for _ in 0..=random(4) {
                let at = random(message.len());
                match random(3) {
                    0 => message[at] = b"{}[]\",:0e-\\n\x00\xff"[random(14)],
                    1 => drop(message.remove(at)),
                    _ => message.insert(at, message[random(message.len())]),
                }
            }
            let _outcome = parse_request(&message);
        }
    }
}
