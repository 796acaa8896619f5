//! The report as a page of its own: figures and the latency curve, without script and without anything from elsewhere.

use std::fmt::Write;

use reactor::LatencyRecorder;

use super::report::{PerfReport, QUANTILES};
use crate::target::cli::duration_text;

/// Size of the plot and its margins in pixels.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 20.0;
const BOTTOM: f64 = 50.0;
/// Points of the curve in each factor of ten.
const POINTS: u32 = 24;
/// Nines that are shown at most.
const NINES_MAX: u32 = 7;
/// Colours of reads, writes and both.
const COLOURS: [&str; 3] = ["#1f6f8b", "#c05621", "#555555"];

/// The page.
pub fn page(report: &PerfReport) -> String {
    let sides = report.sides();
    let mut rows = String::new();
    for (name, side) in &sides {
        let _ = write!(rows, "<tr><th>{name}</th><td>{}</td>", side.latency.count());
        for (quantile, _, _) in QUANTILES {
            let _ = write!(
                rows,
                "<td>{}</td>",
                duration_text(side.latency.quantile_ns(quantile))
            );
        }
        let _ = writeln!(rows, "<td>{}</td></tr>", duration_text(side.latency.max_ns()));
    }
    let headings: String = QUANTILES
        .iter()
        .map(|(_, name, _)| format!("<th>{name}</th>"))
        .collect();
    let notes: String = report
        .notes
        .iter()
        .map(|note| format!("<li>{}</li>\n", escape(note)))
        .collect();
    let addresses: Vec<String> = report.addresses.iter().map(ToString::to_string).collect();
    let curves: Vec<(&str, &LatencyRecorder)> =
        sides.iter().map(|(name, side)| (*name, &side.latency)).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>braid perf</title>\n<style>\n\
         body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 900px; color: #222 }}\n\
         table {{ border-collapse: collapse }} td, th {{ padding: .2em .8em; text-align: right }}\n\
         thead th {{ border-bottom: 1px solid #999 }} svg text {{ font: 12px system-ui, sans-serif; fill: #444 }}\n\
         </style></head><body>\n<h1>{title}</h1>\n<p>{address}, {nqn}, namespace {nsid}</p>\n\
         <p><b>{iops:.0} IOPS</b>, {mib:.1} MiB/s in {seconds:.1} s; {gap}</p>\n\
         <table><thead><tr><th></th><th>count</th>{headings}<th>MAX</th></tr></thead><tbody>\n{rows}</tbody></table>\n\
         {plot}\n<ul>\n{notes}</ul>\n</body></html>\n",
        title = escape(&report.title()),
        address = addresses.join(", "),
        gap = report.gap_text(),
        nqn = escape(&report.nqn),
        nsid = report.nsid,
        iops = report.iops(),
        mib = report.bytes_per_second() / f64::from(1 << 20),
        seconds = report.seconds,
        plot = plot(&curves),
    )
}

/// The latency of each share of the commands: to the right one nine after the other, upwards powers of ten.
fn plot(curves: &[(&str, &LatencyRecorder)]) -> String {
    let Some(scale) = Scale::of(curves) else {
        return String::new();
    };
    let mut svg =
        format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"latency by percentile\">\n");
    svg += &scale.grid();
    for ((at, (name, latency)), colour) in (0..).zip(curves).zip(COLOURS) {
        let points: String = (0..=scale.nines * POINTS)
            .map(|step| {
                let nine = f64::from(step) / f64::from(POINTS);
                let ns = latency.quantile_ns(1.0 - 10_f64.powf(-nine));
                format!("{:.1},{:.1} ", scale.x(nine), scale.y(ns))
            })
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{}\" y=\"{}\" style=\"fill:{colour}\">{name}</text>",
            LEFT + 12.0,
            TOP + 16.0 + 16.0 * f64::from(at)
        );
    }
    svg + "</svg>"
}

/// What the axes show.
struct Scale {
    /// Nines to the right.
    nines: u32,
    /// Powers of ten nanoseconds at the bottom and at the top.
    low: u32,
    high: u32,
}

impl Scale {
    /// One that all curves fit into; `None` if there is nothing to show.
    fn of(curves: &[(&str, &LatencyRecorder)]) -> Option<Self> {
        let recorders = || {
            curves
                .iter()
                .map(|(_, latency)| latency)
                .filter(|latency| latency.count() > 0)
        };
        let most = recorders().map(|latency| latency.count()).max()?;
        let shortest = recorders().map(|latency| latency.quantile_ns(0.0)).min()?;
        let longest = recorders().map(|latency| latency.max_ns()).max()?;
        Some(Self {
            // A quantile of which there is not one command says nothing.
            nines: most.ilog10().clamp(1, NINES_MAX),
            low: shortest.max(1).ilog10(),
            high: longest.max(1).ilog10() + 1,
        })
    }

    fn x(&self, nine: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * nine / f64::from(self.nines)
    }

    fn y(&self, ns: u64) -> f64 {
        let decades = log10(ns.max(1)) - f64::from(self.low);
        HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * decades / f64::from(self.high - self.low)
    }

    /// Lines with their names.
    fn grid(&self) -> String {
        let mut svg = String::new();
        for decade in self.low..=self.high {
            let ns = 10_u64.pow(decade);
            let (at, label) = (self.y(ns), duration_text(ns));
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                WIDTH - RIGHT,
                LEFT - 8.0,
                at + 4.0
            );
        }
        for nine in 0..=self.nines {
            let at = self.x(f64::from(nine));
            let _ = writeln!(
                svg,
                "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{}\" stroke=\"#ddd\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 20.0,
                percent(nine)
            );
        }
        svg
    }
}

#[expect(clippy::cast_precision_loss, reason = "a pixel is much larger than the error")]
fn log10(ns: u64) -> f64 {
    (ns as f64).log10()
}

/// The share of commands behind so many nines: 0, 90 %, 99 %, 99.9 %.
fn percent(nines: u32) -> String {
    match nines {
        0 => "0".to_owned(),
        1 => "90 %".to_owned(),
        2 => "99 %".to_owned(),
        nines => format!("99.{} %", "9".repeat(nines as usize - 2)),
    }
}

/// Text that means nothing to HTML.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::report;
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        let page = page(&report(""));
        assert!(page.contains("<svg") && page.contains("<polyline") && page.contains("500 IOPS"));
        for foreign in ["http://", "https://", "<script", "src=", "url("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn names_cannot_become_markup() {
        let mut report = report("");
        report.nqn = "nqn.2026-01.x:<script>&\"".to_owned();
        let page = page(&report);
        assert!(page.contains("nqn.2026-01.x:&lt;script&gt;&amp;&quot;") && !page.contains("<script>"));
    }

    #[test]
    fn curves_rise_and_stay_inside_the_plot() {
        let report = report("");
        let latency = &report.measured.reads.latency;
        let svg = plot(&[("read", latency)]);
        let points = svg.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let points: Vec<(f64, f64)> = points
            .split_whitespace()
            .map(|point| {
                let (x, y) = point.split_once(',').unwrap();
                (x.parse().unwrap(), y.parse().unwrap())
            })
            .collect();
        assert!(points.len() > 50);
        assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 >= b.1));
        assert!(
            points
                .iter()
                .all(|(x, y)| (LEFT..=WIDTH).contains(x) && (TOP..=HEIGHT).contains(y))
        );
    }

    #[test]
    fn nothing_measured_is_no_plot() {
        assert_eq!(plot(&[]), "");
        assert_eq!(percent(4), "99.99 %");
    }
}
