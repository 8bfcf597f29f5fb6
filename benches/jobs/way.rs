//! The ways to compare. All do the same to the same tables.

/// A way to work off a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Workers by hand, each in one SERIALIZABLE transaction for each job.
    ByHand,
    /// The same at READ COMMITTED. A revocation can overtake it.
    ByHandReadCommitted,
    /// Workers of this crate, each with a pool of its own, as in processes of their own.
    Workers,
    /// One worker of this crate that runs as many jobs at a time.
    OneWorker,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [
        Self::ByHand,
        Self::ByHandReadCommitted,
        Self::Workers,
        Self::OneWorker,
    ];

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::ByHand => "by hand, SERIALIZABLE",
            Self::ByHandReadCommitted => "by hand, READ COMMITTED",
            Self::Workers => "workers of one job at a time",
            Self::OneWorker => "one worker, jobs at a time",
        }
    }

    pub(crate) fn schema(self) -> &'static str {
        match self {
            Self::ByHand => "by_hand",
            Self::ByHandReadCommitted => "by_hand_read_committed",
            Self::Workers => "workers",
            Self::OneWorker => "one_worker",
        }
    }
}

/// The rule: whether the user may export the document.
pub(crate) const RULE: &str =
    "SELECT EXISTS (SELECT 1 FROM grants WHERE user_name = $1 AND document_id = $2)";

/// The effect: the export, with the id of its job.
pub(crate) const EXPORT: &str =
    "INSERT INTO exports SELECT $1::UUID, id, body FROM documents WHERE id = $2";
