//! `tradewind send --dry-run`: what would be sent, under which names.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tradewind_api::exit;

use crate::display;
use crate::events;
use crate::failure::Failure;
use crate::gather::{LeftOut, Notes};
use crate::sources::{Plan, Walked};
use crate::units;

/// Walks the sources and prints what is found; blocks.
pub(crate) fn show(plan: &Arc<Plan>, destination: &str, json: bool, quiet: bool) -> Result<u8, Failure> {
    let exact = plan.destination.names_one_file();
    let slash = if destination.ends_with(['/', ':']) { "" } else { "/" };
    let (left_out, mut skipped, mut files, mut bytes) = (LeftOut::default(), Vec::new(), 0, 0u64);
    for walked in plan.walk() {
        match walked {
            Walked::File { source, bytes: size } => {
                (files, bytes) = (files + 1, bytes.saturating_add(size));
                let name = String::from_utf8_lossy(&source.name);
                let to = if exact { destination.to_owned() } else { format!("{destination}{slash}{name}") };
                if json {
                    events::emit(&events::file(&source, &to));
                } else {
                    display::result(&format!("{} -> {to}", source.path.display()));
                }
            }
            Walked::Skipped(why) if json => skipped.push(why),
            Walked::Skipped(why) => {
                skipped.push(String::new());
                if !quiet {
                    display::note(&why);
                }
            }
            Walked::Unselected => drop(left_out.unselected.fetch_add(1, Ordering::Relaxed)),
            Walked::Failed(error) => {
                if !json && !quiet {
                    display::note(&format!("cannot be sent: {error}"));
                }
                left_out.fail(error, if json { &Notes::Events } else { &Notes::Quiet });
            }
        }
    }
    if json {
        events::emit(&events::dry_run(files, bytes, &left_out, &skipped));
    } else if !quiet {
        display::note(&format!(
            "would send {} ({}), {} left out, {} skipped",
            units::count(files, "file", "files"),
            units::bytes(bytes),
            left_out.unselected.load(Ordering::Relaxed),
            skipped.len()
        ));
    }
    if files == 0 {
        return Err(nothing(plan, &left_out));
    }
    left_out.failure(true).map_or(Ok(exit::OK), Err)
}

/// Why nothing can be sent.
pub(crate) fn nothing(plan: &Plan, left_out: &LeftOut) -> Failure {
    let unselected = left_out.unselected.load(Ordering::Relaxed);
    left_out.failure(false).unwrap_or_else(|| Failure::NoFiles { places: plan.places(), unselected })
}
