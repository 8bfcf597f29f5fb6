//! The guard of the permission tables.

const FILE: &str = include_str!("../../../sql/serializable_guard.sql");

/// For PostgreSQL: the function, the trigger on `grants`, and the statement that enables the
/// trigger in every session. The last two stand in the comment of the file.
pub(crate) fn guard_statements() -> [&'static str; 3] {
    let lines = FILE.lines().map(|line| line.trim_start_matches("-- "));
    let attach = lines.skip_while(|line| !line.contains("CREATE TRIGGER"));
    let attach = attach.take(4).collect::<Vec<_>>().join("\n");
    let (trigger, always) = attach.leak().split_once(';').unwrap();
    [FILE, trigger, always]
}
