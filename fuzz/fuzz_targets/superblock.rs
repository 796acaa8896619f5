//! See `drive::stored::superblock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    drive::stored::superblock(bytes);
});
