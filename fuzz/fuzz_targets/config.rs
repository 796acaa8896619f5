//! See `drive::stored::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drive::stored::config(bytes);
});
