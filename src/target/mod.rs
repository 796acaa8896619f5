//! The program: wires reactor, protocol machines and array together. No policy of its own.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "the bans are for pure code; here are the threads, files and clocks"
)]

mod absent;
mod array;
mod assemble;
pub mod cli;
mod command;
mod command_log;
mod connection;
mod control;
mod core;
mod drives;
mod fused;
pub mod manage;
mod message;
mod namespaces;
pub mod node;
mod observe;
mod plant;
pub mod preflight;
mod relayout;
pub mod replay;
mod reservation;
mod restore;
pub mod rpc;
mod share;
mod shelf;
mod sockets;
mod stall;
mod storage;
mod sums;
mod window;

pub mod council;
pub mod demo;
pub mod fabric;
pub mod host;
pub mod icl;
pub mod perf;

/// CRC-32C of `bytes` continued from `crc`, by the fastest means that this CPU has; the convention of
/// [`nvme::crc32c::Crc32c`].
pub fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    if crc == 0 {
        return crc_fast::crc32_iscsi(bytes); // Without the fixed cost of a digest's state.
    }
    let mut digest =
        crc_fast::Digest::new_with_init_state(crc_fast::CrcAlgorithm::Crc32Iscsi, u64::from(!crc));
    digest.update(bytes);
    u32::try_from(digest.finalize()).expect("a CRC-32 has 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_crc_is_the_portable_one() {
        let bytes: Vec<u8> = (0..5000u32)
            .map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        assert_eq!(crc32c(0, b"123456789"), 0xe306_9283);
        for length in (0..300).chain([4096, 5000]) {
            assert_eq!(
                crc32c(0, &bytes[..length]),
                nvme::crc32c::portable(0, &bytes[..length])
            );
            let first = crc32c(0, &bytes[..length / 3]);
            assert_eq!(
                crc32c(first, &bytes[length / 3..length]),
                crc32c(0, &bytes[..length])
            );
        }
    }
}
