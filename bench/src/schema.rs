//! The report of [`crate::all`] against its schema, `bench/schema/report.json` (JSON Schema, draft 2020-12).
//!
//! The schema names every field with its unit, and allows no other: a figure that nobody has described is refused like one that is missing. Fields that
//! came later are optional, so that older reports still fit.

use anyhow::{Result, bail};
use boon::{Compiler, Schemas};
use serde_json::Value;

const SCHEMA: &str = include_str!("../schema/report.json");
/// What the schema is known by; nothing is fetched.
const NAME: &str = "urn:tradewind:bench-report";

/// Whether a report fits.
///
/// # Errors
/// What does not fit, and where in the report.
pub fn check(report: &Value) -> Result<()> {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    let mut compile = || -> Result<_, String> {
        let schema = serde_json::from_str(SCHEMA).map_err(|error| error.to_string())?;
        compiler.add_resource(NAME, schema).map_err(|error| error.to_string())?;
        compiler.compile(NAME, &mut schemas).map_err(|error| format!("{error:#}"))
    };
    let index = match compile() {
        Ok(index) => index,
        Err(error) => bail!("bench/schema/report.json is not a schema: {error}"),
    };
    // The alternative form names the places in the report and in the schema.
    schemas.validate(report, index).map_err(|error| anyhow::anyhow!("{error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn committed() -> Value {
        serde_json::from_str(include_str!("../../docs/results/bench-quick.json")).unwrap()
    }

    #[test]
    fn the_committed_report_fits() {
        check(&committed()).unwrap();
    }

    #[test]
    fn reports_that_are_broken_are_refused_and_the_place_is_named() {
        type Breaks = fn(&mut Value);
        let broken: [(&str, Breaks); 8] = [
            ("/environment", |report| drop(report["environment"].as_object_mut().unwrap().remove("cores"))),
            ("/sections/wan/rows/0", |report| drop(report["sections"]["wan"]["rows"][0].as_object_mut().unwrap().remove("mbit_per_s"))),
            ("/sections/wan/rows/1/loss", |report| report["sections"]["wan"]["rows"][1]["loss"] = json!(1.5)),
            ("/sections/dataplane/rows/0/gbit_per_s", |report| report["sections"]["dataplane"]["rows"][0]["gbit_per_s"] = Value::Null),
            ("/sections/dataplane/rows/0/turns", |report| report["sections"]["dataplane"]["rows"][0]["turns"] = json!([])),
            ("/sections/storage", |report| report["sections"]["storage"]["undescribed"] = json!(1)),
            ("/sections", |report| report["sections"]["weather"] = json!({})),
            ("/warnings/0", |report| report["warnings"] = json!([1])),
        ];
        for (place, breaks) in broken {
            let mut report = committed();
            breaks(&mut report);
            let error = check(&report).unwrap_err().to_string();
            assert!(error.contains(&format!("'{place}'")), "{place}: {error}");
        }
    }
}
