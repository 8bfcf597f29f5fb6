//! The ways that are compared: one router shape, the same statements.

mod by_hand;
mod conditional;
mod layer;
mod peer;
mod race;

use axum::{Router, http::StatusCode, response::Response};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tower_interlock::{Interlock, Report};

use crate::scenario::Scenario;

/// A way to check a permission and do what it permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Check and write are two statements on the pool. It is no safe way.
    Race,
    /// A SERIALIZABLE transaction, and a loop around it.
    ByHand,
    /// axum-sqlx-tx.
    Peer,
    /// axum-sqlx-tx, on the pool that sqlx makes by default.
    PeerDefault,
    /// The layer.
    Layer,
    /// The layer, with connections that go from request to request.
    LayerHandoff,
    /// A conditional write.
    Conditional,
    /// A conditional write, with connections that go from request to request.
    ConditionalHandoff,
}

impl Way {
    pub(crate) const ALL: [Self; 8] = [
        Self::Race,
        Self::ByHand,
        Self::Peer,
        Self::PeerDefault,
        Self::Layer,
        Self::LayerHandoff,
        Self::Conditional,
        Self::ConditionalHandoff,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Race => "race",
            Self::ByHand => "by-hand",
            Self::Peer => "peer",
            Self::PeerDefault => "peer-default",
            Self::Layer => "layer",
            Self::LayerHandoff => "layer-handoff",
            Self::Conditional => "conditional",
            Self::ConditionalHandoff => "conditional-handoff",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Race => "two statements, a race",
            Self::ByHand => "transaction by hand",
            Self::Peer => "axum-sqlx-tx",
            Self::PeerDefault => "axum-sqlx-tx, default pool",
            Self::Layer => "layer",
            Self::LayerHandoff => "layer, handoff",
            Self::Conditional => "conditional write",
            Self::ConditionalHandoff => "conditional write, handoff",
        }
    }

    /// There is no conditional read.
    pub(crate) fn can(self, scenario: Scenario) -> bool {
        !matches!(self, Self::Conditional | Self::ConditionalHandoff) || !scenario.reads
    }

    /// The pool that the way would be used on. All sessions are SERIALIZABLE, but for the race's.
    pub(crate) fn pool(self, size: u32, server: PgConnectOptions) -> PgPool {
        let serializable = [("default_transaction_isolation", "serializable")];
        let (options, server) = match self {
            // A ping before each of the two statements would make it the slowest.
            Self::Race => (PgPoolOptions::new().test_before_acquire(false), server),
            Self::PeerDefault => (PgPoolOptions::new(), server.options(serializable)),
            _ => (Interlock::pool_options(), server),
        };
        options.max_connections(size).connect_lazy_with(server)
    }

    pub(crate) fn router(self, pool: PgPool) -> Router {
        match self {
            Self::Race => race::router(pool),
            Self::ByHand => by_hand::router(pool),
            Self::Peer | Self::PeerDefault => peer::router(pool),
            Self::Layer => layer::router(&Interlock::new(pool)),
            Self::LayerHandoff => layer::router(&Interlock::new(pool).handoff()),
            Self::Conditional => conditional::router(Interlock::new(pool)),
            Self::ConditionalHandoff => conditional::router(Interlock::new(pool).handoff()),
        }
    }
}

/// Who makes the request: an extension, as authentication would leave it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User(pub(crate) i64);

/// How often a request was run, in the extensions of its answer.
#[derive(Debug, Clone, Copy)]
struct Attempts(u32);

/// How often the request of this answer was run, if the way says so.
pub(crate) fn attempts(response: &Response) -> Option<u32> {
    let extensions = response.extensions();
    let by_hand = extensions.get::<Attempts>().map(|Attempts(number)| *number);
    by_hand.or_else(|| extensions.get::<Report>().map(Report::attempts))
}

const PATH: &str = "/documents/{id}";

const CHECK: &str = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $2)";

const UPDATE: &str = "UPDATE documents SET body = $2, version = version + 1 WHERE id = $1";

const READ: &str = "SELECT body FROM documents WHERE id = $1";

fn failed(_: sqlx::Error) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}
