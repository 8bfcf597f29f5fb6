//! An SVG, as far as the picture needs it.

/// An SVG that is being drawn. What it is called says its style.
pub(crate) struct Svg(String);

type Point = (f64, f64);

impl Svg {
    /// An empty one, on a `ground`.
    pub(crate) fn new((width, height): Point, style: &str) -> Self {
        Self(format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<style>{style}</style>
<rect class="ground" width="{width}" height="{height}" rx="6"/>
"#
        ))
    }

    pub(crate) fn text(&mut self, class: &str, (x, y): Point, text: &str) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        self.0 += &format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>\n");
    }

    /// An upright one, around its `middle`.
    pub(crate) fn bar(&mut self, class: &str, middle: f64, width: f64, (from, to): (f64, f64)) {
        let (x, height) = (middle - width / 2.0, to - from);
        self.0 += &format!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{from:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>\n"
        );
    }

    /// From point to point.
    pub(crate) fn line(&mut self, class: &str, points: &[Point]) {
        let points = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}"));
        let points = points.collect::<Vec<_>>().join(" ");
        self.0 += &format!("<polyline class=\"{class}\" points=\"{points}\"/>\n");
    }

    pub(crate) fn finish(self) -> String {
        self.0 + "</svg>\n"
    }
}
