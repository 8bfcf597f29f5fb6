//! The table of all races.

use std::{fmt, time::Duration};

use tower_interlock_race::{Isolation, Verdict, Way};

/// Displays the table and explains its columns.
pub(crate) struct Table<'a>(pub(crate) &'a [(Isolation, Way, Verdict)]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        for races in self.0.chunk_by(|(one, ..), (other, ..)| one == other) {
            for (isolation, ..) in races.iter().take(1) {
                write!(f, "administrator: {isolation}")?;
                let rejected: usize = races.iter().map(|(.., verdict)| verdict.rejected).sum();
                if rejected > 0 {
                    write!(f, ", rejected {rejected} times, then SERIALIZABLE")?;
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
        |attempts| format!("{:.2}, {}", attempts.mean, attempts.max),
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

const HEAD: &str = "\
way                              requests  contested  accepted  failed  revoked  \
violations   late  lost      p50      p99    attempts\n";

const LEGEND: &str = "
contested   requests in flight while the grant that they need was revoked
accepted    response 200
failed      response neither 200 nor 403
revoked     grants that were revoked
violations  stored writes that the revoking transaction did not see
late        violations committed after the revocation was acknowledged
lost        response 200, but not stored
attempts    of the layer for a request: mean, maximum
";
