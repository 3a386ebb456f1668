//! The table, and the same as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::figure::{Figure, Results, Who};
use crate::rows::{ROWS, Row, Unit};

/// A finished run.
pub(crate) struct Report {
    pub(crate) results: Results,
    pub(crate) machine: Value,
    pub(crate) notes: Vec<String>,
    /// Smaller images than the budgets are meant for.
    pub(crate) quick: bool,
}

impl Report {
    fn rows(&self) -> impl Iterator<Item = (&'static Row, [Option<&Figure>; 3])> {
        ROWS.iter().filter_map(|row| {
            let of = |who| self.results.get(row.name, who);
            let figures = [of(Who::Berth), of(Who::Floor), of(Who::Containerd)];
            figures.iter().any(Option::is_some).then_some((row, figures))
        })
    }

    fn budget(&self, row: &Row) -> Option<f64> {
        row.budget.filter(|_| !(self.quick && row.shrinks))
    }

    /// For people. Times are medians of the means of the rounds; `median` and `p95` are of all samples.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let head = [
            "",
            "Berth",
            "median",
            "p95",
            "floor",
            "x floor",
            "containerd",
            "x Berth",
            "budget",
            "of budget",
        ];
        line(&mut text, head.map(str::to_owned));
        for (row, [berth, floor, containerd]) in self.rows() {
            let center = |figure: Option<&Figure>| figure.and_then(Figure::center);
            let show =
                |value: Option<f64>| value.map_or_else(String::new, |value| shown(row.unit, value));
            let several = berth.filter(|figure| figure.count() >= 20);
            let budget = self.budget(row);
            let of_budget = ratio(center(berth), budget);
            line(
                &mut text,
                [
                    row.what.to_owned(),
                    show(center(berth)),
                    show(several.and_then(Figure::median)),
                    show(several.and_then(Figure::p95)),
                    show(center(floor)),
                    times(ratio(center(berth), center(floor))),
                    show(center(containerd)),
                    times(ratio(center(containerd), center(berth))),
                    show(budget),
                    of_budget.map_or_else(String::new, verdict),
                ],
            );
        }
        for note in &self.notes {
            writeln!(text, "{note}").ok(); // A string takes everything.
        }
        text
    }

    /// For programs: seconds and bytes.
    pub(crate) fn json(&self) -> Value {
        let figure = |figure: Option<&Figure>| {
            figure.map(|figure| {
                json!({
                    "samples": figure.count(),
                    "median_of_round_means": figure.center(),
                    "median": figure.median(),
                    "p95": figure.p95(),
                })
            })
        };
        let center = |figure: Option<&Figure>| figure.and_then(Figure::center);
        let rows: Vec<Value> = self
            .rows()
            .map(|(row, [berth, floor, containerd])| {
                json!({
                    "name": row.name,
                    "what": row.what.trim(),
                    "unit": match row.unit { Unit::Seconds => "s", Unit::Bytes => "B" },
                    "berth": figure(berth),
                    "floor": figure(floor),
                    "containerd": figure(containerd),
                    "berth_to_floor": ratio(center(berth), center(floor)),
                    "containerd_to_berth": ratio(center(containerd), center(berth)),
                    "budget": self.budget(row),
                    "berth_to_budget": ratio(center(berth), self.budget(row)),
                })
            })
            .collect();
        json!({ "machine": self.machine, "quick": self.quick, "rows": rows, "notes": self.notes })
    }
}

fn line(text: &mut String, cells: [String; 10]) {
    let [what, rest @ ..] = cells;
    let mut row = format!("{what:<34}");
    for (cell, width) in rest.iter().zip([9, 9, 9, 9, 8, 11, 8, 9, 14]) {
        write!(row, " {cell:>width$}").ok(); // A string takes everything.
    }
    text.push_str(row.trim_end());
    text.push('\n');
}

fn ratio(of: Option<f64>, to: Option<f64>) -> Option<f64> {
    Some(of? / to?)
}

fn times(ratio: Option<f64>) -> String {
    match ratio {
        Some(ratio) if ratio >= 9.95 => format!("{ratio:.0}x"),
        Some(ratio) => format!("{ratio:.1}x"),
        None => String::new(),
    }
}

fn verdict(of_budget: f64) -> String {
    if of_budget <= 1.0 {
        format!("{:.0} % ok", of_budget * 100.0)
    } else {
        format!("{} too much", times(Some(of_budget)))
    }
}

/// With three digits, or about.
fn shown(unit: Unit, value: f64) -> String {
    let scales: &[(f64, &str)] = match unit {
        Unit::Seconds => &[(1.0, "s"), (1e-3, "ms"), (1e-6, "us")],
        Unit::Bytes => &[(1e6, "MB"), (1e3, "kB"), (1.0, "B")],
    };
    // What rounds up to a whole one of the next unit is shown in that.
    let fits = |(scale, _): &&(f64, &str)| value >= scale * 0.9995;
    let (scale, name) = scales.iter().find(fits).or(scales.last()).copied().unwrap_or((1.0, ""));
    let value = value / scale;
    match value {
        value if value >= 99.95 => format!("{value:.0} {name}"),
        value if value >= 9.995 => format!("{value:.1} {name}"),
        value => format!("{value:.2} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_about_three_digits() {
        let cases = [
            ("seconds", Unit::Seconds, 1.5, "1.50 s"),
            ("tens of milliseconds", Unit::Seconds, 0.012_34, "12.3 ms"),
            ("hundreds of microseconds", Unit::Seconds, 0.000_234, "234 us"),
            ("less than a microsecond", Unit::Seconds, 0.000_000_2, "0.20 us"),
            ("just below a millisecond", Unit::Seconds, 0.000_999_8, "1.00 ms"),
            ("megabytes", Unit::Bytes, 15e6, "15.0 MB"),
            ("kilobytes", Unit::Bytes, 250e3, "250 kB"),
        ];
        for (name, unit, value, want) in cases {
            assert_eq!(shown(unit, value), want, "{name}");
        }
    }

    #[test]
    fn a_row_is_held_against_floor_peer_and_budget() {
        let mut results = Results::default();
        results.add(Who::Berth, vec![("pod-start", 0.012)]);
        results.add(Who::Floor, vec![("pod-start", 0.004)]);
        results.add(Who::Containerd, vec![("pod-start", 0.24)]);
        results.add(Who::Berth, vec![("pull-files-disk", 0.2)]);
        let report =
            Report { results, machine: json!({}), notes: vec!["a note".into()], quick: true };
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        let words =
            |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(
            words(lines[1]),
            "pod with a container, to running 12.0 ms 4.00 ms 3.0x 240 ms 20x 10.0 ms 1.2x too much"
        );
        assert_eq!(
            words(lines[2]),
            "pull many small files, disk 200 ms",
            "no budget in a quick run"
        );
        assert_eq!(lines[3..], ["a note"]);
        let json = report.json();
        assert_eq!(json["rows"][0]["berth"]["samples"], 1);
        assert_eq!(json["rows"][1]["budget"], Value::Null);
    }
}
