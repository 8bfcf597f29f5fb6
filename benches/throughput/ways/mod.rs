//! The ways to compare. All have the same route and the same statements.

mod axum_sqlx_tx;
mod by_hand;
mod conditional;
mod layer;
mod race;

use axum::{
    Router,
    http::{StatusCode, request::Parts},
    response::Response,
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tower_interlock::{Interlock, Receipts, Report};

use crate::scenario::{RequestKind, Scenario};

/// A way to check a permission and to read or write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Two statements on the pool. It is not safe.
    Race,
    /// A SERIALIZABLE transaction in a retry loop.
    ByHand,
    /// axum-sqlx-tx on the recommended pool of this crate.
    AxumSqlxTx,
    /// axum-sqlx-tx on the default pool of sqlx.
    AxumSqlxTxDefault,
    /// The layer.
    Layer,
    /// The layer with `handoff`.
    LayerHandoff,
    /// The layer with `handoff` and receipts.
    Receipts,
    /// The same, with an idempotency key for each request.
    Idempotent,
    /// A conditional write.
    Conditional,
    /// A conditional write with `handoff`.
    ConditionalHandoff,
}

impl Way {
    pub(crate) const ALL: [Self; 10] = [
        Self::Race,
        Self::ByHand,
        Self::AxumSqlxTx,
        Self::AxumSqlxTxDefault,
        Self::Layer,
        Self::LayerHandoff,
        Self::Receipts,
        Self::Idempotent,
        Self::Conditional,
        Self::ConditionalHandoff,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Race => "race",
            Self::ByHand => "by-hand",
            Self::AxumSqlxTx => "axum-sqlx-tx",
            Self::AxumSqlxTxDefault => "axum-sqlx-tx-default",
            Self::Layer => "layer",
            Self::LayerHandoff => "layer-handoff",
            Self::Receipts => "receipts",
            Self::Idempotent => "idempotent",
            Self::Conditional => "conditional",
            Self::ConditionalHandoff => "conditional-handoff",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Race => "two statements, a race",
            Self::ByHand => "transaction by hand",
            Self::AxumSqlxTx => "axum-sqlx-tx",
            Self::AxumSqlxTxDefault => "axum-sqlx-tx, default pool",
            Self::Layer => "layer",
            Self::LayerHandoff => "layer, handoff",
            Self::Receipts => "layer, receipts",
            Self::Idempotent => "layer, idempotency key",
            Self::Conditional => "conditional write",
            Self::ConditionalHandoff => "conditional write, handoff",
        }
    }

    /// Whether the way can run the scenario. A conditional write cannot read.
    pub(crate) fn can_run(self, scenario: Scenario) -> bool {
        match scenario.request {
            RequestKind::Write => true,
            RequestKind::Read => !matches!(self, Self::Conditional | Self::ConditionalHandoff),
            RequestKind::ReadAllAndWrite => {
                matches!(self, Self::ByHand | Self::Layer | Self::LayerHandoff)
            }
        }
    }

    /// The pool that the way would be used on. Sessions are SERIALIZABLE, except for the race.
    pub(crate) fn pool(self, size: u32, server: PgConnectOptions) -> PgPool {
        let serializable = [("default_transaction_isolation", "serializable")];
        let (options, server) = match self {
            // With a ping before each of its two statements it would be the slowest way.
            Self::Race => (PgPoolOptions::new().test_before_acquire(false), server),
            Self::AxumSqlxTxDefault => (PgPoolOptions::new(), server.options(serializable)),
            _ => (Interlock::pool_options(), server),
        };
        options.max_connections(size).connect_lazy_with(server)
    }

    pub(crate) fn router(self, pool: PgPool) -> Router {
        match self {
            Self::Race => race::router(pool),
            Self::ByHand => by_hand::router(pool),
            Self::AxumSqlxTx | Self::AxumSqlxTxDefault => axum_sqlx_tx::router(pool),
            Self::Layer => layer::router(&Interlock::new(pool)),
            Self::LayerHandoff => layer::router(&Interlock::builder(pool).handoff(true).build()),
            Self::Receipts => layer::router(&with_receipts(pool)),
            Self::Idempotent => layer::idempotent_router(&with_receipts(pool)),
            Self::Conditional => conditional::router(Interlock::new(pool)),
            Self::ConditionalHandoff => {
                conditional::router(Interlock::builder(pool).handoff(true).build())
            }
        }
    }
}

fn with_receipts(pool: PgPool) -> Interlock {
    let principal = |parts: &Parts| Some(parts.extensions.get::<User>()?.0.to_string());
    let builder = Interlock::builder(pool).handoff(true);
    builder
        .receipts(Receipts::new())
        .principal(principal)
        .build()
}

/// The caller, an extension as authentication would add it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct User(pub(crate) i64);

/// The attempts of a request, in the extensions of its response.
#[derive(Debug, Clone, Copy)]
struct Attempts(u32);

/// Returns the attempts that a response reports.
pub(crate) fn attempts(response: &Response) -> Option<u32> {
    let extensions = response.extensions();
    let by_hand = extensions.get::<Attempts>().map(|Attempts(number)| *number);
    by_hand.or_else(|| extensions.get::<Report>().map(Report::attempts))
}

const PATH: &str = "/documents/{id}";

const CHECK: &str = "SELECT EXISTS (SELECT 1 FROM grants WHERE user_id = $1 AND document_id = $2)";

const UPDATE: &str = "UPDATE documents SET body = $2, version = version + 1 WHERE id = $1";

const READ: &str = "SELECT body FROM documents WHERE id = $1";

const READ_ALL: &str = "SELECT count(*) FROM documents WHERE id <= 16 AND version < 0";

fn failed(_: sqlx::Error) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}
