//! Writes the SVGs of the proofs and benches.

use std::fmt::Write as _;

/// An SVG under construction. The class of a shape selects its style.
#[derive(Debug)]
pub struct Svg(String);

type Point = (f64, f64);

impl Svg {
    /// An empty SVG with a background of class `ground`.
    pub fn new((width, height): Point, style: &str) -> Self {
        Self(format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<style>{style}</style>
<rect class="ground" width="{width}" height="{height}" rx="6"/>
"#
        ))
    }

    /// Adds a line of text.
    pub fn text(&mut self, class: &str, (x, y): Point, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.add(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}">{text}</text>"#
        ));
    }

    /// Adds a rectangle around a horizontal `middle`, between two heights.
    pub fn bar(&mut self, class: &str, middle: f64, width: f64, (top, bottom): (f64, f64)) {
        let (x, height) = (middle - width / 2.0, bottom - top);
        self.add(format_args!(
            r#"<rect class="{class}" x="{x:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}"/>"#
        ));
    }

    /// Adds a line through points.
    pub fn line(&mut self, class: &str, points: &[Point]) {
        let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
        let points = points.collect::<Vec<_>>().join(" ");
        self.add(format_args!(
            r#"<polyline class="{class}" points="{points}"/>"#
        ));
    }

    /// Returns the text of the SVG.
    pub fn finish(self) -> String {
        self.0 + "</svg>\n"
    }

    fn add(&mut self, element: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.0, "{element}");
    }
}
