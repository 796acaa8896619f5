//! What benches compare with, and how: ISA-L where it is installed, the bandwidth of memory, and rounds in which a
//! candidate and its baselines take turns, so that both meet the same neighbours, clock speeds and temperatures.
//!
//! Only benches depend on this crate. It lies in `reactor/` because a foreign library is called from unsafe code; all that
//! it offers is safe. It does not know what is measured, and pins no thread.
#![expect(
    unsafe_code,
    reason = "a library opened at run time, vector loads and a clock per thread"
)]

mod isal;
mod memory;
mod rounds;
mod rows;

pub use isal::{EncodeTables, Isal};
pub use memory::{Buffer, copy, read, read_all_write};
pub use rounds::{Candidate, Effort, Series, Unit, compare, print_line, wall_ns};
pub use rows::Rows;
