//! See `drive::tcp::initiator`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drive::tcp::initiator(bytes);
});
