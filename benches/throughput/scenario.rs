//! What is asked for, and by how many at once.

/// A load: clients, what they ask for, and which rows they meet on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) clients: usize,
    /// How many of the [`DOCUMENTS`] are asked for, at random.
    pub(crate) rows: i64,
    /// The part of the requests that is a stranger's.
    pub(crate) strangers: f64,
    pub(crate) reads: bool,
}

impl Scenario {
    pub(crate) const ALL: [Self; 6] = [
        Self {
            name: "alone",
            title: "1 client",
            clients: 1,
            ..Self::SPREAD
        },
        Self::SPREAD,
        Self {
            name: "warm",
            title: "16 clients, 100 rows",
            rows: 100,
            ..Self::SPREAD
        },
        Self {
            name: "hot",
            title: "16 clients, one row",
            rows: 1,
            ..Self::SPREAD
        },
        Self {
            name: "denied",
            title: "16 clients, half denied",
            strangers: 0.5,
            ..Self::SPREAD
        },
        Self {
            name: "reads",
            title: "16 clients, reads",
            reads: true,
            ..Self::SPREAD
        },
    ];

    pub(crate) const SPREAD: Self = Self {
        name: "spread",
        title: "16 clients, 10,000 rows",
        clients: 16,
        rows: DOCUMENTS,
        strangers: 0.0,
        reads: false,
    };

    /// One write that is allowed.
    pub(crate) const GRANTED: Self = Self::ALL[0];

    /// One write that is denied.
    pub(crate) const DENIED: Self = Self {
        strangers: 1.0,
        ..Self::GRANTED
    };

    /// One read.
    pub(crate) const READ: Self = Self {
        reads: true,
        ..Self::GRANTED
    };
}

pub(crate) const DOCUMENTS: i64 = 10_000;

pub(crate) const OWNER: i64 = 1;

pub(crate) const STRANGER: i64 = 2;
