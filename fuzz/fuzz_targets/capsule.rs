//! See `drive::capsule::any`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drive::capsule::any(bytes);
});
