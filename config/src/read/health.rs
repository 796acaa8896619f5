//! What a drive is judged by.

use crate::Health;
use crate::problem::Problems;
use crate::section::{Found, Section};

pub(crate) fn health(mut section: Section<'_, '_>, problems: &mut Problems<'_>) -> Health {
    let default = Health::default();
    let hang_ms = section
        .number("hang_ms", 100..=600_000, problems)
        .or(default.hang_ms);
    let hang_last = section.number("hang_last_ms", 100..=600_000, problems);
    if let Found::Value(last, at) = &hang_last
        && *last < hang_ms
    {
        let what = format!(
            "{}: hang_last_ms = {last} is less than hang_ms = {hang_ms}",
            section.title()
        );
        let remedy = "a drive that cannot be spared gets at least as much patience: write more";
        problems.push(at, what, remedy);
    }
    let mut number = |key, range, otherwise| section.number(key, range, problems).or(otherwise);
    let health = Health {
        hang_ms,
        hang_last_ms: hang_last.or(default.hang_last_ms.max(hang_ms)),
        media_errors_per_hour: number(
            "media_errors_per_hour",
            0..=1_000_000,
            default.media_errors_per_hour,
        ),
        io_errors_per_hour: number("io_errors_per_hour", 0..=1_000_000, default.io_errors_per_hour),
        window_ms: number("window_ms", 100..=3_600_000, default.window_ms),
        window_commands: number("window_commands", 1..=1_000_000, default.window_commands),
        slow_factor: number("slow_factor", 2..=10_000, default.slow_factor),
        slow_floor_us: number("slow_floor_us", 0..=60_000_000, default.slow_floor_us),
        slow_windows: number("slow_windows", 1..=10_000, default.slow_windows),
        io_retries: section
            .number("io_retries", 0..=10, problems)
            .or(default.io_retries),
        allow_fault_injection: section
            .flag("allow_fault_injection", problems)
            .or(default.allow_fault_injection),
    };
    section.finish(problems);
    health
}

#[cfg(test)]
mod tests {
    use crate::Health;
    use crate::testing::{LEAST, good, refuses};

    fn with(keys: &str) -> String {
        format!("{LEAST}[health]\n{keys}")
    }

    #[test]
    fn every_threshold_can_be_set() {
        let text = with(
            "hang_ms = 700\nhang_last_ms = 900\nmedia_errors_per_hour = 1\nio_errors_per_hour = 2\nio_retries = 3\n\
             window_ms = 400\nwindow_commands = 5\nslow_factor = 6\nslow_floor_us = 7\nslow_windows = 8\n\
             allow_fault_injection = true\n",
        );
        let wanted = Health {
            hang_ms: 700,
            hang_last_ms: 900,
            media_errors_per_hour: 1,
            io_errors_per_hour: 2,
            io_retries: 3,
            window_ms: 400,
            window_commands: 5,
            slow_factor: 6,
            slow_floor_us: 7,
            slow_windows: 8,
            allow_fault_injection: true,
        };
        assert_eq!(good(&text).health, wanted);
    }

    #[test]
    fn the_last_drive_gets_no_less_patience() {
        refuses(
            &with("hang_ms = 5000\nhang_last_ms = 4999\n"),
            5,
            &["hang_last_ms", "less than"],
        );
        assert_eq!(good(&with("hang_ms = 60000\n")).health.hang_last_ms, 60_000);
        assert!(
            !good(&with("")).health.allow_fault_injection,
            "nothing dangerous by default"
        );
    }

    #[test]
    fn thresholds_have_bounds() {
        refuses(&with("hang_ms = 99\n"), 4, &["out of range"]);
        refuses(&with("slow_factor = 1\n"), 4, &["out of range"]);
        refuses(&with("slow = 1\n"), 4, &["slow"]);
    }
}
