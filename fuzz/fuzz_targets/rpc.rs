//! See `drive::stored::rpc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drive::stored::rpc(bytes);
});
