//! The reactor from outside: real sockets on loopback, real files, real threads.

#![expect(unsafe_code, reason = "socket options that std cannot set")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test names the event it waits for and panics on all others"
)]

mod files;
mod life;
mod messages;
mod network;
mod support;
