//! The scenarios: which requests, and how many at once.

/// A load: the clients, their requests, and the rows that they share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    pub(crate) clients: usize,
    /// How many of the [`DOCUMENTS`] are requested, at random.
    pub(crate) rows: i64,
    /// The fraction of requests from a user without a grant.
    pub(crate) without_grant: f64,
    pub(crate) request: RequestKind,
}

/// What a request does once it is allowed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum RequestKind {
    /// Writes a document.
    Write,
    /// Reads a document.
    Read,
    /// Reads as many documents as there are clients, and writes one of them.
    ReadAllAndWrite,
}

impl Scenario {
    pub(crate) const ALL: [Self; 7] = [
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
            without_grant: 0.5,
            ..Self::SPREAD
        },
        Self {
            name: "reads",
            title: "16 clients, reads",
            request: RequestKind::Read,
            ..Self::SPREAD
        },
        Self {
            name: "all",
            title: "16 clients, all conflict with all",
            rows: 16,
            request: RequestKind::ReadAllAndWrite,
            ..Self::SPREAD
        },
    ];

    pub(crate) const SPREAD: Self = Self {
        name: "spread",
        title: "16 clients, 10,000 rows",
        clients: 16,
        rows: DOCUMENTS,
        without_grant: 0.0,
        request: RequestKind::Write,
    };

    /// One write that is allowed.
    pub(crate) const GRANTED: Self = Self::ALL[0];

    /// One write that is denied.
    pub(crate) const DENIED: Self = Self {
        without_grant: 1.0,
        ..Self::GRANTED
    };

    /// One read.
    pub(crate) const READ: Self = Self {
        request: RequestKind::Read,
        ..Self::GRANTED
    };
}

pub(crate) const DOCUMENTS: i64 = 10_000;

/// Has a grant for every document.
pub(crate) const GRANTEE: i64 = 1;

/// Has no grant.
pub(crate) const STRANGER: i64 = 2;
