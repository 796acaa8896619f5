//! Numbers with units, as people read them.

/// Bytes in the largest binary unit that leaves at least 1: `4 KiB`, `1.5 GiB`. Exact values have no fraction.
pub fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    // One decimal by integer arithmetic: it never says more than there is.
    let power = bytes.ilog2() / 10;
    let unit = UNITS[power as usize - 1];
    let one = 1_u64 << (10 * power);
    let tenths = u128::from(bytes % one) * 10 / u128::from(one);
    if bytes.is_multiple_of(one) {
        format!("{} {unit}", bytes / one)
    } else {
        format!("{}.{tenths} {unit}", bytes / one)
    }
}

/// A time with three significant digits: `950 ns`, `12.3 us`, `1.20 ms`, `4.00 s`.
pub fn duration_text(ns: u64) -> String {
    let (unit, one) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..1_000_000 => ("us", 1_000),
        1_000_000..1_000_000_000 => ("ms", 1_000_000),
        1_000_000_000.. => ("s", 1_000_000_000),
    };
    let (whole, rest) = (ns / one, ns % one);
    match whole {
        0..10 => format!("{whole}.{:02} {unit}", rest * 100 / one),
        10..100 => format!("{whole}.{} {unit}", rest * 10 / one),
        100.. => format!("{whole} {unit}"),
    }
}

/// How long ago: the two largest of days, hours, minutes and seconds.
pub fn age_text(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        86_400.. => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}

/// `1 drive`, `2 drives`.
pub fn count_text(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_exact_or_have_one_decimal() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (4096, "4 KiB"),
            (1536 << 20, "1.5 GiB"),
            (128 << 20, "128 MiB"),
            ((1 << 30) - 1, "1023.9 MiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(bytes_text(bytes), text);
        }
    }

    #[test]
    fn durations_have_three_digits() {
        for (ns, text) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_230, "1.23 us"),
            (12_399, "12.3 us"),
            (999_999, "999 us"),
            (1_200_000, "1.20 ms"),
            (4_000_000_000, "4.00 s"),
            (123_000_000_000, "123 s"),
        ] {
            assert_eq!(duration_text(ns), text);
        }
    }

    #[test]
    fn ages_have_two_units() {
        for (ms, text) in [
            (999, "0 s"),
            (61_000, "1 min 1 s"),
            (3_660_000, "1 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(age_text(ms), text);
        }
    }
}
