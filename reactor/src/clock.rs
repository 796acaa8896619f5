//! The one clock of a reactor.

/// Nanoseconds of the machine's boot-time clock: it never steps back and counts while the machine is suspended.
pub type Nanos = u64;

/// The time, about 25 ns of work; on a core use `Io::now`, which is read once a turn.
///
/// Source: clock_gettime(2), `CLOCK_BOOTTIME`.
pub fn now() -> Nanos {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is a writable timespec that lives across the call.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut time) };
    assert_eq!(status, 0, "every Linux since 2.6.39 has the boot-time clock");
    let seconds = u64::try_from(time.tv_sec).expect("the boot-time clock starts at zero");
    let nanos = u64::try_from(time.tv_nsec).expect("nanoseconds of a second are positive");
    seconds * 1_000_000_000 + nanos
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_never_steps_back() {
        let mut last = now();
        assert!(last > 0);
        for _ in 0..10_000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }
}
