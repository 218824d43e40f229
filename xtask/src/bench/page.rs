//! The figures as a page: printed after a measurement, and kept in the README and in `bench/README.md`.

use std::fmt::Write as _;

use super::results::{AgentResults, Facts, ProbeResults};

/// A page without figures.
pub(super) const NOTHING: &str = "Nothing has been measured yet.\n";

/// Writing to a String cannot fail.
macro_rules! line {
    ($text:expr, $($arguments:tt)*) => { let _ = writeln!($text, $($arguments)*); };
}

/// Everything there is.
pub(super) fn page(probes: &[ProbeResults], agent: Option<&AgentResults>) -> String {
    let mut text = String::new();
    for results in probes {
        line!(text, "### {}\n\n{}", results.probe, probe(results));
    }
    if let Some(results) = agent {
        line!(text, "### The agent as a whole\n\n{}", whole(results));
    }
    if text.is_empty() { NOTHING.to_owned() } else { text.trim_end().to_owned() + "\n" }
}

/// What one probe adds to each operation.
pub(super) fn probe(results: &ProbeResults) -> String {
    let mut rows = vec![
        std::iter::once("instructions added by".to_owned())
            .chain(results.workloads.iter().map(|workload| workload.title.clone()))
            .collect::<Vec<_>>(),
    ];
    let mut row = |name: &str, cell: &dyn Fn(usize) -> String| {
        rows.push(
            std::iter::once(name.to_owned())
                .chain((0..results.workloads.len()).map(cell))
                .collect::<Vec<_>>(),
        );
    };
    row("(the work itself)", &|index| thousands(results.workloads[index].work));
    row("target", &|index| {
        results.workloads[index].target.map_or_else(String::new, |target| match thousands(target) {
            nothing if nothing == "0" => nothing,
            most => format!("≤ {most}"),
        })
    });
    let by = results.workloads.first().map(|workload| workload.added.iter().map(|added| added.by.as_str()));
    for by in by.into_iter().flatten() {
        let name = match by.strip_prefix(&results.probe) {
            Some("") => format!("**{by}** (kernel and agent)"),
            Some(option) if option.starts_with(',') => format!("**{}**{option}", results.probe),
            _ => by.to_owned(),
        };
        row(&name, &|index| {
            let added = results.workloads[index].added.iter().find(|added| added.by == by);
            added.map_or_else(String::new, |added| {
                format!("{} ± {}", signed(added.instructions), thousands(added.spread))
            })
        });
    }
    let mut text = format!("{}\n", table(&rows));
    if let Some(cost) = &results.agent {
        line!(
            text,
            "The agent's own process takes {} instructions for each of {} operations of `{}` (target ≤ {}), and {} a \
             second when nothing happens.\n",
            thousands(cost.instructions_per_operation),
            thousands(f64::from(cost.operations)),
            cost.workload,
            thousands(cost.target),
            thousands(cost.idle_instructions_per_second)
        );
    }
    line!(text, "{}", facts(&results.facts));
    text
}

/// The agent as a whole.
pub(super) fn whole(results: &AgentResults) -> String {
    let mut rows = vec![["the agent", "measured", "target"].map(str::to_owned).to_vec()];
    for figure in &results.figures {
        let value = |value: f64| format!("{} {}", digits(value), figure.unit).trim_end().to_owned();
        let target = figure.target.map_or_else(String::new, |target| format!("≤ {}", value(target)));
        rows.push(vec![figure.title.clone(), value(figure.value), target]);
    }
    format!("{}\n{}\n", table(&rows), facts(&results.facts))
}

fn facts(facts: &Facts) -> String {
    let Facts { date, revision, kernel, qemu, tools, processor, runs } = facts;
    let mut words = vec![format!("{date}, revision {revision}")];
    for (name, value) in [("Linux ", kernel), ("QEMU ", qemu), ("libbpf-tools ", tools), ("on ", processor)] {
        if !value.is_empty() {
            words.push(format!("{name}{value}"));
        }
    }
    if *runs > 0 {
        words.push(format!("{runs} machines, half the range between them as ±"));
    }
    format!("({}.)", words.join("; "))
}

/// A table that can be read before it is rendered, too.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column == 0 { format!(" {cell:<width$} ") } else { format!(" {cell:>width$} ") }
        });
        line!(text, "|{}|", cells.collect::<Vec<_>>().join("|"));
        if number == 0 {
            let rule = widths.iter().enumerate().map(|(column, &width)| {
                if column == 0 { "-".repeat(width + 2) } else { "-".repeat(width + 1) + ":" }
            });
            line!(text, "|{}|", rule.collect::<Vec<_>>().join("|"));
        }
    }
    text
}

fn signed(value: f64) -> String {
    let text = thousands(value.abs());
    match text.as_str() {
        "0" => text,
        _ if value < 0.0 => format!("−{text}"),
        _ => format!("+{text}"),
    }
}

/// A whole number, in groups of three digits.
fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    if value < 0.0 && digits != "0" {
        text.push('−');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits that mean something.
fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        large if large >= 100.0 => thousands(value),
        ten if ten >= 10.0 => trimmed(format!("{value:.1}")),
        one if one >= 1.0 => trimmed(format!("{value:.2}")),
        _ => trimmed(format!("{value:.3}")),
    }
}

fn trimmed(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::{
        super::results::{Added, AgentCost, Measured},
        *,
    };

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(thousands(1_234_567.4), "1,234,567");
        assert_eq!(thousands(999.5), "1,000");
        assert_eq!([signed(-0.4), signed(2.6), signed(-1234.0)], ["0", "+3", "−1,234"]);
        assert_eq!(
            [digits(0.0104), digits(9.5), digits(21.77), digits(500.0)],
            ["0.01", "9.5", "21.8", "500"]
        );
    }

    #[test]
    fn a_probe_s_table_names_the_work_the_target_and_what_is_added() {
        let added = |by: &str, instructions| Added { by: by.to_owned(), instructions, spread: 4.0 };
        let results = ProbeResults {
            probe: "p".to_owned(),
            facts: Facts { date: "2026-01-02".to_owned(), revision: "abc".to_owned(), ..Facts::default() },
            workloads: vec![Measured {
                name: "udp".to_owned(),
                title: "UDP".to_owned(),
                work: 8_800.0,
                target: Some(20.0),
                added: vec![added("p", 19.0), added("tool", 1_500.0)],
            }],
            agent: Some(AgentCost {
                workload: "udp".to_owned(),
                operations: 20_000,
                instructions_per_operation: 1_200.0,
                target: 2_000.0,
                idle_instructions_per_second: 230_000.0,
            }),
        };
        let expected = "\
| instructions added by    |        UDP |
|--------------------------|-----------:|
| (the work itself)        |      8,800 |
| target                   |       ≤ 20 |
| **p** (kernel and agent) |    +19 ± 4 |
| tool                     | +1,500 ± 4 |

The agent's own process takes 1,200 instructions for each of 20,000 operations of `udp` (target ≤ 2,000), and 230,000 a second when nothing happens.

(2026-01-02, revision abc.)
";
        assert_eq!(probe(&results), expected);
    }

    #[test]
    fn without_results_the_page_says_so() {
        assert_eq!(page(&[], None), NOTHING);
    }
}
