//! Bars as SVG, one below the other in groups; their fills differ without colour too.

use std::fmt::Write as _;

use super::axis::{Axis, Scale};
use super::escaped;

/// Of a page, in pixels.
const LABEL_WIDTH: f64 = 190.0;
const BARS_WIDTH: f64 = 560.0;
/// For the figure behind the longest bar.
const FIGURE_WIDTH: f64 = 80.0;
const BAR_HEIGHT: f64 = 18.0;
const AXIS_HEIGHT: f64 = 38.0;

/// The pattern that bars of others have; a page holds it once.
pub(super) const PATTERN: &str = "<svg width=\"0\" height=\"0\" aria-hidden=\"true\"><defs><pattern id=\"others\" width=\"6\" height=\"6\" \
    patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\"><rect width=\"6\" height=\"6\" fill=\"#dfe7f3\"/>\
    <rect width=\"2\" height=\"6\" fill=\"#5b7fb5\"/></pattern></defs></svg>";

/// Whose figure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    Loop,
    Other,
}

impl Kind {
    pub(super) fn of(tool: &str) -> Self {
        match tool {
            "tradewind" | "staging" => Self::Ours,
            tool if tool.ends_with("loop") => Self::Loop,
            _ => Self::Other,
        }
    }

    const fn fill(self) -> &'static str {
        match self {
            Self::Ours => "#0b6e4f",
            Self::Loop => "#f4f4f4",
            Self::Other => "url(#others)",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Ours => "Tradewind",
            Self::Loop => "bare loops",
            Self::Other => "tools of others",
        }
    }
}

/// A bar.
pub(super) struct Bar<'a> {
    pub(super) group: &'a str,
    pub(super) name: &'a str,
    pub(super) kind: Kind,
    pub(super) value: f64,
}

/// Draws bars with their figures to so many digits; `axis` is the name and unit of what they show.
pub(super) fn draw(page: &mut String, title: &str, axis: &str, digits: usize, bars: &[Bar<'_>]) {
    if bars.is_empty() {
        return;
    }
    let scale = Axis::over(bars.iter().map(|bar| bar.value).chain([0.0]), Scale::Linear, BARS_WIDTH);
    let groups = bars.iter().zip(bars.iter().skip(1)).filter(|(one, next)| one.group != next.group).count() + 1;
    let bottom = (bars.len() + groups) as f64 * BAR_HEIGHT;
    let (width, height) = (LABEL_WIDTH + BARS_WIDTH + FIGURE_WIDTH, bottom + AXIS_HEIGHT + BAR_HEIGHT);
    let _ = write!(
        page,
        "<figure><h3>{}</h3><svg width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">",
        escaped(title),
        escaped(title)
    );
    for (at, label) in scale.ticks() {
        let at = LABEL_WIDTH + at;
        let _ = write!(
            page,
            "<line x1=\"{at:.1}\" y1=\"0\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#e2e2e2\"/>\
             <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 14.0
        );
    }
    let _ = write!(
        page,
        "<path d=\"M{LABEL_WIDTH} 0V{bottom}H{}\" fill=\"none\" stroke=\"#1a1a1a\"/>\
         <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        LABEL_WIDTH + BARS_WIDTH,
        LABEL_WIDTH + BARS_WIDTH / 2.0,
        bottom + 31.0,
        escaped(axis)
    );
    let (mut y, mut group) = (0.0, None);
    for bar in bars {
        if group != Some(bar.group) {
            let _ = write!(page, "<text x=\"0\" y=\"{}\" font-weight=\"600\">{}</text>", y + 13.0, escaped(bar.group));
            group = Some(bar.group);
            y += BAR_HEIGHT;
        }
        let length = scale.place(bar.value).max(1.0);
        let _ = write!(
            page,
            "<text x=\"12\" y=\"{}\">{}</text>\
             <rect x=\"{LABEL_WIDTH}\" y=\"{}\" width=\"{length:.1}\" height=\"{}\" fill=\"{}\" stroke=\"#1a1a1a\" stroke-width=\"0.6\"/>\
             <text x=\"{:.1}\" y=\"{}\">{:.digits$}</text>",
            y + 13.0,
            escaped(bar.name),
            y + 2.0,
            BAR_HEIGHT - 4.0,
            bar.kind.fill(),
            LABEL_WIDTH + length + 5.0,
            y + 13.0,
            bar.value
        );
        y += BAR_HEIGHT;
    }
    legend(page, bars, bottom + AXIS_HEIGHT);
    page.push_str("</svg></figure>");
}

/// Which fill is whose.
fn legend(page: &mut String, bars: &[Bar<'_>], y: f64) {
    let mut x = LABEL_WIDTH;
    for kind in [Kind::Ours, Kind::Loop, Kind::Other].into_iter().filter(|kind| bars.iter().any(|bar| bar.kind == *kind)) {
        let _ = write!(
            page,
            "<rect x=\"{x}\" y=\"{}\" width=\"22\" height=\"12\" fill=\"{}\" stroke=\"#1a1a1a\" stroke-width=\"0.6\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            y + 2.0,
            kind.fill(),
            x + 28.0,
            y + 12.0,
            kind.name()
        );
        x += 150.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_in_proportion_and_fills_say_whose_they_are() {
        let bar = |name, value| Bar { group: "g", name, kind: Kind::of(name), value };
        let mut page = String::new();
        draw(&mut page, "title", "Gbit/s", 2, &[bar("tradewind", 10.25), bar("udp-loop", 41.0), bar("qcp bbr", 0.0)]);
        // The axis ends at 50.
        for expected in
            ["width=\"114.8\"", "width=\"459.2\"", ">10.25<", ">41.00<", "url(#others)", "Gbit/s", "bare loops", "tools of others"]
        {
            assert!(page.contains(expected), "{expected} is not in {page}");
        }
    }
}
