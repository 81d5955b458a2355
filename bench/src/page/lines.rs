//! Lines over two axes as SVG, told apart by dash and mark, so that they read without colour too.

use std::fmt::Write as _;

use super::axis::{Axis, Scale};
use super::escaped;

/// Colour, dash, and the mark at the points, by a line's style; after the last they begin again.
const STYLES: [(&str, &str, Mark); 6] = [
    ("#0b6e4f", "", Mark::Disc),
    ("#5b7fb5", "7 4", Mark::Square),
    ("#b3541e", "2 3", Mark::Triangle),
    ("#6b4a9b", "9 3 2 3", Mark::Cross),
    ("#1a1a1a", "4 2", Mark::Ring),
    ("#777777", "1 4", Mark::None),
];
/// Of a page, in pixels.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 8.0;
const BELOW_AXIS: f64 = 40.0;
const LEGEND_LINE: f64 = 16.0;
/// The style of what is not measured.
pub(super) const BOUND: usize = STYLES.len() - 1;
/// More points than this and marks hide the line.
const MARKS_MAX: usize = 20;

#[derive(Clone, Copy)]
enum Mark {
    Disc,
    Square,
    Triangle,
    Cross,
    Ring,
    None,
}

/// Points in the order of the horizontal axis.
pub(super) struct Line {
    pub(super) name: String,
    /// A number.
    pub(super) style: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// Lines, and what they are drawn over.
pub(super) struct Plot {
    pub(super) title: String,
    /// Name and unit.
    pub(super) x: String,
    pub(super) x_scale: Scale,
    /// Name and unit; it begins at 0.
    pub(super) y: String,
    pub(super) lines: Vec<Line>,
    /// Of all of it, in pixels.
    pub(super) width: f64,
    /// Without the legend.
    pub(super) height: f64,
}

impl Plot {
    /// Draws it; nothing if no line has a point.
    pub(super) fn draw(&self, page: &mut String) {
        let lines: Vec<&Line> = self.lines.iter().filter(|line| !line.points.is_empty()).collect();
        let all = || lines.iter().flat_map(|line| line.points.iter().copied());
        if all().next().is_none() {
            return;
        }
        let (width, height) = (self.width - LEFT - RIGHT, self.height - TOP - BELOW_AXIS);
        let x = Axis::over(all().map(|point| point.0), self.x_scale, width);
        let y = Axis::over(all().map(|point| point.1).chain([0.0]), Scale::Linear, height);
        let (bottom, whole) = (TOP + height, self.height + lines.len() as f64 * LEGEND_LINE);
        let _ = write!(
            page,
            "<figure><h3>{}</h3><svg width=\"{}\" height=\"{whole}\" viewBox=\"0 0 {} {whole}\" role=\"img\" aria-label=\"{}\">",
            escaped(&self.title),
            self.width,
            self.width,
            escaped(&self.title)
        );
        for (at, label) in x.ticks() {
            let at = LEFT + at;
            let _ = write!(
                page,
                "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#e2e2e2\"/>\
                 <text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                bottom + 14.0
            );
        }
        for (at, label) in y.ticks() {
            let at = bottom - at;
            let _ = write!(
                page,
                "<line x1=\"{LEFT}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#e2e2e2\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT + width,
                LEFT - 5.0,
                at + 4.0
            );
        }
        let _ = write!(
            page,
            "<path d=\"M{LEFT} {TOP}V{bottom}H{}\" fill=\"none\" stroke=\"#1a1a1a\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>\
             <text transform=\"translate(13 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            LEFT + width,
            LEFT + width / 2.0,
            bottom + 32.0,
            escaped(&self.x),
            TOP + height / 2.0,
            escaped(&self.y)
        );
        for (number, line) in lines.iter().enumerate() {
            let place = |&(px, py): &(f64, f64)| (LEFT + x.place(px), bottom - y.place(py));
            stroke(page, line.style, line.points.iter().map(place), line.points.len() <= MARKS_MAX);
            let at = self.height + number as f64 * LEGEND_LINE + 8.0;
            stroke(page, line.style, [(LEFT, at), (LEFT + 18.0, at), (LEFT + 36.0, at)].into_iter(), line.points.len() <= MARKS_MAX);
            let _ = write!(page, "<text x=\"{}\" y=\"{}\">{}</text>", LEFT + 44.0, at + 4.0, escaped(&line.name));
        }
        page.push_str("</svg></figure>");
    }
}

/// A line in its style.
fn stroke(page: &mut String, style: usize, places: impl Iterator<Item = (f64, f64)> + Clone, has_marks: bool) {
    let (colour, dash, mark) = STYLES[style % STYLES.len()];
    let points: Vec<String> = places.clone().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(
        page,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\" stroke-dasharray=\"{dash}\"/>",
        points.join(" ")
    );
    for (x, y) in places.filter(|_| has_marks) {
        let _ = match mark {
            Mark::Disc => write!(page, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"),
            Mark::Ring => {
                write!(page, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"1.5\"/>")
            }
            Mark::Square => write!(page, "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"7\" height=\"7\" fill=\"{colour}\"/>", x - 3.5, y - 3.5),
            Mark::Triangle => write!(page, "<path d=\"M{x:.1} {:.1}l4.5 8h-9z\" fill=\"{colour}\"/>", y - 5.0),
            Mark::Cross => {
                write!(page, "<path d=\"M{:.1} {:.1}l7 7m0 -7l-7 7\" stroke=\"{colour}\" stroke-width=\"1.8\"/>", x - 3.5, y - 3.5)
            }
            Mark::None => Ok(()),
        };
    }
}
