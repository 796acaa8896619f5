//! See `drive::tcp::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drive::tcp::target(bytes);
});
