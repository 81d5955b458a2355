//! Where the time of a packet goes: stages in rows, cases in columns.

use std::fmt::Write as _;

use serde_json::Value;

use super::{escaped, text};

/// Nothing for a section without budgets.
pub(super) fn add(page: &mut String, section: &Value) {
    let budgets = section["budgets"].as_array().map_or(&[][..], Vec::as_slice);
    if budgets.is_empty() {
        return;
    }
    page.push_str("<h3>Nanoseconds a packet, by part and stage</h3><table><tr><th>part</th><th class=\"text\">stage</th>");
    for budget in budgets {
        let _ = write!(page, "<th>{}</th>", escaped(&text(&budget["case"])));
    }
    page.push_str("</tr>");
    for (part, stage) in stages(budgets) {
        let _ = write!(page, "<tr><td>{}</td><td class=\"text\">{}</td>", escaped(part), escaped(stage));
        for budget in budgets {
            let ns = of(budget).find(|entry| entry["part"] == part && entry["stage"] == stage).and_then(|entry| entry["ns"].as_f64());
            cell(page, ns);
        }
        page.push_str("</tr>");
    }
    for (field, of_what) in
        [("sender_thread_ns", "the sending thread, interrupts too"), ("receiver_thread_ns", "the receiving thread, interrupts too")]
    {
        let _ = write!(page, "<tr><td>all</td><td class=\"text\">{of_what}</td>");
        budgets.iter().for_each(|budget| cell(page, budget[field].as_f64()));
        page.push_str("</tr>");
    }
    page.push_str("<tr><td>most</td><td class=\"text\">kpps that the busier of the two can do</td>");
    for budget in budgets {
        let busier = budget["sender_thread_ns"].as_f64().unwrap_or(0.0).max(budget["receiver_thread_ns"].as_f64().unwrap_or(0.0));
        cell(page, (busier > 0.0).then(|| 1e6 / busier));
    }
    page.push_str("</tr></table><p class=\"note\">One more transfer of each case, watched by perf (cpu-clock, 4,999 samples a second and core); each sample is put to a stage by its thread and its call chain. Interrupt: the kernel's receiving half, which a veth pair does on the core of whoever sends, and a network card on the receiver's. Time with interrupts off is charged to the moment after.</p>");
}

fn cell(page: &mut String, value: Option<f64>) {
    let _ = write!(page, "<td>{}</td>", value.map_or(String::new(), |value| format!("{value:.0}")));
}

fn of(budget: &Value) -> impl Iterator<Item = &Value> {
    budget["stages"].as_array().into_iter().flatten()
}

/// Those of all cases, parts together, in the order in which they come first.
fn stages(budgets: &[Value]) -> Vec<(&str, &str)> {
    let all = || budgets.iter().flat_map(of).filter_map(|entry| Some((entry["part"].as_str()?, entry["stage"].as_str()?)));
    let mut stages: Vec<(&str, &str)> = Vec::new();
    for part in ["sender", "interrupt", "receiver", "reader", "memory"] {
        for entry in all().filter(|(of, _)| *of == part) {
            if !stages.contains(&entry) {
                stages.push(entry);
            }
        }
    }
    stages
}
