//! The table of all races.

use std::{fmt, time::Duration};

use super::{administrator::Isolation, judge::Verdict, ways::Way};

/// The table, with what its columns mean, as its `Display`.
pub(crate) struct Table<'a>(pub(crate) &'a [(Isolation, Way, Verdict)]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for races in self.0.chunk_by(|(one, ..), (other, ..)| one == other) {
            for (isolation, ..) in races.iter().take(1) {
                write!(f, "administrator: {isolation}")?;
                let refused: usize = races.iter().map(|(.., verdict)| verdict.refused).sum();
                if refused > 0 {
                    write!(f, ", refused {refused} times, then SERIALIZABLE")?;
                }
                writeln!(f)?;
            }
            for (_, way, verdict) in races {
                row(f, *way, verdict)?;
            }
        }
        f.write_str(LEGEND)
    }
}

fn row(f: &mut fmt::Formatter<'_>, way: Way, verdict: &Verdict) -> fmt::Result {
    let Verdict {
        requests,
        contested,
        accepted,
        failed,
        revoked,
        violations,
        late,
        lost,
        ..
    } = verdict;
    let (p50, p99) = (ms(verdict.p50), ms(verdict.p99));
    let attempts = verdict.attempts.map_or_else(
        || "–".to_owned(),
        |attempts| format!("{:.2}, {}", attempts.mean, attempts.most),
    );
    writeln!(
        f,
        "  {way:30}{requests:>9}{contested:>11}{accepted:>10}{failed:>8}{revoked:>9}\
         {violations:>12}{late:>7}{lost:>6}{p50:>9}{p99:>9}{attempts:>12}",
    )
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

#[rustfmt::skip]
const HEAD: &str =
    "way                              requests  contested  accepted  failed  revoked  violations   late  lost      p50      p99    attempts\n";

const LEGEND: &str = "
contested   requests under way while the grant that they need was revoked
accepted    answered 200
failed      answered neither 200 nor 403
revoked     grants that were revoked
violations  writes beyond those that the revoking transaction saw
late        of these, committed after the revocation was acknowledged
lost        answered 200, but not stored
attempts    of the layer at one request: mean, most
";
