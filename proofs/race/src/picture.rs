//! The picture of a violation: request, grant and administrator; time runs downwards.

use std::time::Instant;

use support::Svg;
use tower_interlock_race::Violation;

/// Draws a violation that was measured on `server`, for light and dark pages.
pub(crate) fn draw(violation: &Violation, server: &str) -> String {
    let Violation {
        steps,
        revocation,
        stored,
    } = violation;
    let scale = Scale {
        start: steps.check_sent.min(revocation.begin_sent),
        end: steps.write_done.max(revocation.acknowledged),
    };
    let committing = scale.y(revocation.commit_sent);
    let committed = scale.y(revocation.acknowledged);

    let mut svg = Svg::new((956.0, 588.0), STYLE);
    svg.text("title", (LEFT, 40.0), "A write without permission");
    let measured = format!("Check, then write, on a pool; {server}. Times as measured.");
    svg.text("quiet", (LEFT, 62.0), &measured);
    svg.text("head", (REQUEST, TOP - 18.0), "request");
    svg.text("head", (GRANT, TOP - 18.0), "grant");
    svg.text("head", (ADMINISTRATOR, TOP - 18.0), "administrator");

    svg.bar("granted", GRANT, 64.0, (TOP, committing));
    // The grant ends at some moment between the two.
    svg.bar("committing", GRANT, 64.0, (committing, committed));
    svg.bar("revoked", GRANT, 64.0, (committed, BOTTOM));
    svg.text("granted", (GRANT, TOP + 20.0), "granted");
    svg.text("revoked", (GRANT, committed + 20.0), "revoked");

    let check = (scale.y(steps.check_sent), scale.y(steps.check_done));
    let write = (scale.y(steps.write_sent), scale.y(steps.write_done));
    svg.bar("request", REQUEST, 14.0, check);
    svg.bar("waiting", REQUEST, 2.0, (check.1, write.0));
    svg.bar("request", REQUEST, 14.0, write);
    let revoking = (scale.y(revocation.begin_sent), committed);
    svg.bar("administrator", ADMINISTRATOR, 14.0, revoking);
    let across = [(REQUEST - 7.0, committed), (ADMINISTRATOR + 7.0, committed)];
    svg.line("rule", &across);

    let labels = [
        (steps.check_sent, "reads the grant"),
        (steps.check_done, "it exists; waits for a connection"),
        (steps.write_sent, "sends the write"),
        (steps.write_done, "it is stored; responds 200"),
    ];
    scale.label(&mut svg, &BESIDE_REQUEST, &labels);
    let seen = revocation.seen;
    let counted = format!("counts {seen} writes, sends COMMIT");
    let labels = [
        (revocation.begin_sent, "begins, SERIALIZABLE"),
        (revocation.deleted, "has deleted the grant"),
        (revocation.commit_sent, &counted),
        (revocation.acknowledged, "COMMIT is acknowledged"),
    ];
    scale.label(&mut svg, &BESIDE_ADMINISTRATOR, &labels);
    let sum = format!("The revocation saw {seen} writes to the document. {stored} are stored.");
    svg.text("sum", (LEFT, BOTTOM + 48.0), &sum);
    svg.finish()
}

/// Maps moments to heights.
struct Scale {
    start: Instant,
    end: Instant,
}

impl Scale {
    fn y(&self, at: Instant) -> f64 {
        let part = (at - self.start).div_duration_f64(self.end - self.start);
        TOP + part * (BOTTOM - TOP)
    }

    /// Adds a label beside each moment.
    fn label(&self, svg: &mut Svg, side: &Side, labels: &[(Instant, &str)]) {
        let heights = labels.iter().map(|(at, _)| self.y(*at)).collect();
        for ((at, label), line) in labels.iter().zip(apart(heights)) {
            let y = self.y(*at);
            let [tick, bend, end] = side.leader;
            svg.line("leader", &[(tick, y), (bend, y), (end, line)]);
            let ms = (*at - self.start).as_secs_f64() * 1000.0;
            svg.text("time", (side.time, line + 4.5), &format!("{ms:.2} ms"));
            svg.text(side.class, (side.text, line + 4.5), label);
        }
    }
}

/// Moves labels apart by the height of a line, and otherwise leaves them where they belong.
fn apart(mut heights: Vec<f64>) -> Vec<f64> {
    let mut free = TOP;
    for height in &mut heights {
        *height = height.max(free);
        free = *height + LINE;
    }
    // Labels below the bottom are moved up, and push the others up.
    let mut free = BOTTOM;
    for height in heights.iter_mut().rev() {
        *height = height.min(free);
        free = *height - LINE;
    }
    heights
}

/// Where the labels of a column are, and the lines that lead to them.
struct Side {
    class: &'static str,
    leader: [f64; 3],
    time: f64,
    text: f64,
}

const BESIDE_REQUEST: Side = Side {
    class: "left",
    leader: [REQUEST - 9.0, REQUEST - 15.0, REQUEST - 30.0],
    time: REQUEST - 38.0,
    text: REQUEST - 116.0,
};

const BESIDE_ADMINISTRATOR: Side = Side {
    class: "right",
    leader: [
        ADMINISTRATOR + 9.0,
        ADMINISTRATOR + 15.0,
        ADMINISTRATOR + 30.0,
    ],
    time: ADMINISTRATOR + 98.0,
    text: ADMINISTRATOR + 114.0,
};

const LEFT: f64 = 32.0;
const TOP: f64 = 132.0;
const BOTTOM: f64 = 512.0;
const REQUEST: f64 = 392.0;
const GRANT: f64 = 484.0;
const ADMINISTRATOR: f64 = 584.0;
/// The height of a line of text.
const LINE: f64 = 22.0;

const STYLE: &str = r#"
  text { font: 14px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
  .title { font-size: 20px; font-weight: 600 }
  .head, .sum { font-weight: 600 }
  .head, .granted, .revoked { text-anchor: middle }
  .left, .time { text-anchor: end }
  .quiet, .time { fill: #656d76 }
  .time { font-variant-numeric: tabular-nums }
  .ground { fill: #ffffff }
  .request { fill: #0969da }
  .waiting { fill: #8c959f }
  .administrator { fill: #8250df }
  rect.granted { fill: #dafbe1 } text.granted { fill: #1a7f37 }
  rect.committing { fill: #fff8c5 }
  rect.revoked { fill: #ffebe9 } text.revoked { fill: #cf222e }
  .rule { fill: none; stroke: #cf222e; stroke-dasharray: 4 3 }
  .leader { fill: none; stroke: #afb8c1 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 }
    .quiet, .time { fill: #8d96a0 }
    .ground { fill: #0d1117 }
    .request { fill: #4493f8 }
    .waiting { fill: #6e7681 }
    .administrator { fill: #ab7df8 }
    rect.granted { fill: #12261e } text.granted { fill: #3fb950 }
    rect.committing { fill: #272115 }
    rect.revoked { fill: #2d1517 } text.revoked { fill: #f85149 }
    .rule { stroke: #f85149 }
    .leader { stroke: #484f58 }
  }
"#;
