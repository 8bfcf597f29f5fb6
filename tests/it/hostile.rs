//! Hostile input: headers and values of a client, reasons of errors, texts of conditional writes.
//!
//! The checks for every input are in [`support::hostile`]. `fuzz/` runs them, too.

mod headers;
mod texts;
mod values;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use proptest::{collection::vec, prelude::*, sample::select, test_runner::TestRunner};
use support::{
    Database,
    hostile::{if_match, problem, template::Judge},
};

#[test]
fn every_seed_passes() {
    seeds("if_match")
        .iter()
        .for_each(|seed| if_match::check(seed));
    seeds("problem")
        .iter()
        .for_each(|seed| problem::check(seed));
    support::test(async |database: Database| {
        let judge = Judge::new(&database).await;
        for seed in seeds("template") {
            judge.check(str::from_utf8(&seed).unwrap()).await;
        }
    });
}

#[test]
fn preconditions_are_parsed_by_the_grammar() {
    let piece = prop_oneof![
        8 => select(dictionary("if_match")),
        1 => vec(any::<u8>(), 1..4),
        1 => any::<i64>().prop_map(|version| format!("\"{version}\"").into_bytes()),
    ];
    let input = vec(piece, 0..12).prop_map(|pieces| pieces.concat());
    assert_holds(20_000, &input, if_match::check);
}

#[test]
fn reason_never_reaches_client() {
    let piece = prop_oneof![
        20 => select(dictionary("problem")),
        20 => any::<String>().prop_map(String::into_bytes),
        20 => vec(any::<u8>(), 0..9),
        1 => (any::<char>(), 0..50_000_usize)
            .prop_map(|(c, times)| c.to_string().repeat(times).into_bytes()),
    ];
    let input = vec(piece, 0..4).prop_map(|pieces| pieces.concat());
    assert_holds(500, &input, problem::check);
}

/// A reason cannot forge another line of the log.
#[test]
fn reason_stays_on_one_log_line() {
    // While another thread registers a callsite, a new subscriber may miss events. It never gets
    // more of them than there are.
    let lines = |input: &[u8]| {
        let log = logged(|| problem::check(input));
        assert!(
            !log.contains(|c: char| c.is_control() && c != '\n'),
            "{log}"
        );
        log.lines().count()
    };
    let plain = (0..100).map(|_| lines(b"plain")).max();
    for seed in seeds("problem") {
        let most = (0..10).map(|_| lines(&seed)).max();
        assert!(most <= plain, "{seed:?}: {most:?} lines, not {plain:?}");
    }
    assert!(plain > Some(0));
}

/// Returns the text that a subscriber writes during `work`.
fn logged(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

/// Fails if `check` panics for one of the inputs.
fn assert_holds(cases: u32, inputs: &impl Strategy<Value = Vec<u8>>, check: fn(&[u8])) {
    let mut runner = TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(inputs, |input| {
        check(&input);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// The seeds of a fuzz target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(fuzz().join("seeds").join(target)).unwrap();
    let read = |file: io::Result<fs::DirEntry>| fs::read(file.unwrap().path()).unwrap();
    files.map(read).collect()
}

/// The dictionary of a fuzz target.
fn dictionary(target: &str) -> Vec<Vec<u8>> {
    let text = fs::read_to_string(fuzz().join("dictionaries").join(target)).unwrap();
    let words = text
        .lines()
        .filter_map(|line| line.strip_prefix('"')?.strip_suffix('"'));
    words.map(unescaped).collect()
}

/// Resolves `\\` and `\"`, which are one character, and `\x41`, which is one byte.
fn unescaped(word: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), word);
    while let Some((before, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(before.as_bytes());
        let length = if escape.starts_with('x') { 3 } else { 1 };
        let (escape, after) = escape.split_at(length);
        bytes.push(match escape.strip_prefix('x') {
            Some(digits) => u8::from_str_radix(digits, 16).unwrap(),
            None => escape.as_bytes()[0],
        });
        rest = after;
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}
