//! The mistakes of a new user that only show when a request runs: the log names each, and the mend.

use std::{any::type_name, sync::Arc};

use axum::{
    Router,
    extract::{Path, State},
    routing::{get as get_route, put as put_route},
};
use sqlx::postgres::PgPoolOptions;
use support::{Fault, Kind, Moment, Proxy, ServerError};
use tokio::sync::Mutex;
use tower::Layer as _;
use tower_interlock::{
    AuthorizeLayer, Authorized, Condition, ConditionalWrite, Denied, Error, ErrorKind, Interlock,
    Tx,
};
use tracing::Level;

use crate::kit::{CanEdit, anyone, get, note, put, test, traced, update, write};

#[derive(Clone)]
struct Grant(i64);

async fn grants_one(mut tx: Tx) -> Result<Grant, Error> {
    note(&mut tx, 1).await?;
    Ok(Grant(1))
}

async fn grants_two() -> Result<Grant, Error> {
    Ok(Grant(2))
}

async fn denies() -> Result<(), Denied> {
    Err(Denied::new("always denied"))
}

/// The cause of the one failure that is logged for `PUT /`.
async fn cause(app: &Router, kind: ErrorKind) -> String {
    let (response, log) = traced(put(app, "/", "")).await;
    response.assert_problem(kind);
    let [failure] = *log.find("request failed") else {
        panic!("{log:?}");
    };
    assert_eq!(failure.level, Level::ERROR);
    failure.get("cause").unwrap().to_owned()
}

#[tokio::test]
async fn tx_without_layer_names_route_layer() {
    let app = Router::new().route("/", put_route(write));
    assert_eq!(
        cause(&app, ErrorKind::Misconfigured).await,
        "a Tx on a route without a policy: add `.route_layer(interlock.require(policy))` after the \
         route; it does not cover routes and methods that are added later"
    );
}

#[test]
fn grant_without_its_policy_names_what_is_missing() {
    test(async |kit| {
        let layer = kit.interlock.require(anyone);
        for app in [
            Router::new().route("/", put_route(update)),
            Router::new().route("/", put_route(update).route_layer(layer)),
        ] {
            assert_eq!(
                cause(&app, ErrorKind::Misconfigured).await,
                format!(
                    "no policy of this route grants {}: add \
                     `.route_layer(interlock.require(policy))` with a policy that returns it",
                    type_name::<CanEdit>()
                )
            );
        }
    });
}

/// A router with one policy in front of the other.
fn twice(outer: AuthorizeLayer, inner: AuthorizeLayer) -> Router {
    let granted = async |grant: Authorized<Grant>| grant.0.to_string();
    Router::new()
        .route("/", put_route(granted))
        .route("/none", put_route(async || "no grant is taken"))
        .route_layer(inner)
        .route_layer(outer)
}

#[test]
fn two_grants_of_one_type_are_rejected() {
    test(async |kit| {
        let one = kit.interlock.require(grants_one);
        let two = kit.interlock.require(grants_two);
        for app in [twice(one.clone(), two.clone()), twice(two, one)] {
            assert_eq!(
                cause(&app, ErrorKind::Misconfigured).await,
                format!(
                    "two policies of this route grant {}: give each policy a type of its own",
                    type_name::<Grant>()
                )
            );
            assert!(kit.notes().await.is_empty());
        }
    });
}

#[test]
fn two_grants_of_one_type_pass_if_none_is_taken() {
    test(async |kit| {
        let layer = kit.interlock.require(grants_two);
        let app = twice(layer.clone(), kit.interlock.require(grants_one));
        assert_eq!(put(&app, "/none", "").await.status, 200);
        assert_eq!(kit.notes().await, [1]);
    });
}

#[test]
fn two_grants_of_one_policy_pass() {
    test(async |kit| {
        let layer = kit.interlock.require(grants_two);
        let response = put(&twice(layer.clone(), layer), "/", "").await;
        assert_eq!((response.status.as_u16(), &*response.body), (200, "2"));
    });
}

/// The warnings for a request to a path that no route matches.
async fn warnings(app: &Router) -> Vec<String> {
    let (_, log) = traced(get(app, "/nowhere")).await;
    let warnings = log.events.iter().filter(|it| it.level == Level::WARN);
    warnings.map(|it| it.message().to_owned()).collect()
}

fn here_router() -> Router {
    Router::new().route("/here", get_route(async || "here"))
}

#[test]
fn layer_in_place_of_route_layer_is_logged_once() {
    test(async |kit| {
        let app = here_router().layer(kit.interlock.require(denies));
        assert_eq!(get(&app, "/here").await.status, 403);
        assert_eq!(
            warnings(&app).await,
            [
                "a policy has rejected a path that no route matches, where the router would \
                 respond with 404: apply the layer with `route_layer` instead of `layer`, unless \
                 it protects a fallback"
            ]
        );
        assert!(warnings(&app).await.is_empty());
    });
}

#[test]
fn layers_in_their_places_are_not_logged() {
    test(async |kit| {
        let layer = || kit.interlock.require(denies);
        let nested = layer().layer(here_router());
        for app in [
            here_router().route_layer(layer()),
            here_router().nest_service("/nowhere", nested.clone()),
            Router::new().nest("/nowhere", here_router().route_layer(layer())),
            Router::new()
                .route("/{path}", get_route(async || "any"))
                .layer(layer()),
        ] {
            assert!(warnings(&app).await.is_empty());
        }
    });
}

type Kept = Arc<Mutex<Option<Tx>>>;

#[test]
fn tx_in_state_names_what_to_use_instead() {
    async fn keeps(State(kept): State<Kept>, mut tx: Tx) -> Result<(), Error> {
        note(&mut tx, 1).await?;
        *kept.lock().await = Some(tx);
        Ok(())
    }
    async fn uses(State(kept): State<Kept>) -> Result<(), Error> {
        let mut tx = kept.lock().await.take().unwrap();
        Ok(note(&mut tx, 2).await?)
    }
    test(async |kit| {
        let kept = Kept::default();
        let app = |handler| {
            Router::new()
                .route("/", handler)
                .route_layer(kit.interlock.require(anyone))
                .with_state(Arc::clone(&kept))
        };
        assert_eq!(
            cause(&app(put_route(keeps)), ErrorKind::TxEscaped).await,
            "a Tx is kept past its request: in a spawned task, in a streaming body, in the state, \
             or forgotten; let the handler drop it, and use Tx::after_commit, a job or \
             Interlock::transact for what comes later"
        );
        assert_eq!(
            cause(&app(put_route(uses)), ErrorKind::TxEscaped).await,
            "a statement on a Tx that was kept past its request: use Tx::after_commit, a job or \
             Interlock::transact for what comes later"
        );
        assert!(kit.notes().await.is_empty());
    });
}

#[test]
fn second_tx_in_use_names_what_to_pass() {
    async fn handler(mut one: Tx, mut two: Tx) -> Result<(), Error> {
        note(&mut one, 1).await?;
        Ok(note(&mut two, 2).await?)
    }
    test(async |kit| {
        let layer = kit.interlock.require(anyone);
        let app = Router::new().route("/", put_route(handler).route_layer(layer));
        assert_eq!(
            cause(&app, ErrorKind::TxInUse).await,
            "a statement on one Tx while another one of the request is in use: pass `&mut tx` to \
             functions, or drop the first Tx"
        );
    });
}

#[test]
fn extractor_that_does_not_fit_the_route_names_the_log_of_axum() {
    async fn policy(_: Path<i64>) -> Result<(), Error> {
        Ok(())
    }
    test(async |kit| {
        let layer = kit.interlock.require(policy);
        let app = Router::new().route("/{shop}/{item}", put_route(write).route_layer(layer));
        let (response, log) = traced(put(&app, "/1/2", "")).await;
        assert_eq!(response.status, 500);
        let [failure] = &*log.above_debug() else {
            panic!("{log:?}");
        };
        assert_eq!(failure.level, Level::ERROR);
        assert_eq!(
            failure.message(),
            "a policy failed; the log of axum::rejection, at TRACE, says why an extractor rejects"
        );
    });
}

#[test]
fn commit_as_text_names_savepoint() {
    async fn handler(mut tx: Tx) -> Result<(), Error> {
        sqlx::query("COMMIT").execute(&mut *tx).await?;
        Ok(())
    }
    test(async |kit| {
        let layer = kit.interlock.require(anyone);
        let app = Router::new().route("/", put_route(handler).route_layer(layer));
        assert_eq!(
            cause(&app, ErrorKind::Misconfigured).await,
            "a statement that controls the transaction or its session: the layer begins and ends \
             it, Tx::savepoint() nests in it"
        );
    });
}

/// PgBouncer sends the first error, and PostgreSQL the second one through it.
#[test]
fn mistakes_with_a_pooler_name_its_settings() {
    test(async |kit| {
        let proxy = Proxy::start(&kit.database);
        let pool = PgPoolOptions::new().max_connections(1);
        let interlock = Interlock::new(pool.connect_lazy_with(proxy.options()));
        let app = Router::new().route("/", put_route(write));
        let app = app.route_layer(interlock.require(anyone));

        let error = "unsupported startup parameter: extra_float_digits";
        let error = ServerError::fatal("08P01", error);
        proxy.inject_times(100, Moment::Connect, Fault::Terminate(error));
        let (response, log) = traced(put(&app, "/", "")).await;
        response.assert_problem(ErrorKind::Unavailable);
        assert_eq!(
            log.find("request failed")[0].get("cause").unwrap(),
            "error returned from database: unsupported startup parameter: extra_float_digits; add it \
             to ignore_startup_parameters of PgBouncer, and set it by ALTER ROLE or ALTER DATABASE \
             if it is one of yours"
        );

        proxy.relent();
        let error =
            "bind message supplies 2 parameters, but prepared statement \"sqlx_s_1\" requires 1";
        let error = ServerError::error("08P01", error);
        proxy.inject(Moment::Text("INSERT INTO notes"), Fault::Reject(error));
        assert_eq!(
            cause(&app, ErrorKind::Database).await,
            "error returned from database: bind message supplies 2 parameters, but prepared \
             statement \"sqlx_s_1\" requires 1; the session does not have the statement that sqlx \
             has prepared: PgBouncer with transaction pooling needs max_prepared_statements"
        );
    });
}

#[test]
fn pool_without_recommended_options_is_logged() {
    static ADD: ConditionalWrite = ConditionalWrite::new(
        "INSERT INTO notes (id, note) SELECT 2, '' WHERE {conditions}",
        &[Condition::permitted("true")],
    );
    test(async |kit| {
        let (interlock, log) = traced(async { Interlock::new(kit.outside.clone()) }).await;
        let [advice] = &*log.events else {
            panic!("{log:?}");
        };
        assert_eq!(advice.level, Level::INFO);
        assert_eq!(
            advice.message(),
            "the pool pings each connection before use, which costs each request a round trip: \
             make the pool with Interlock::pool_options()"
        );
        let layer = interlock.require(anyone);
        let app = Router::new().route("/nowhere", get_route(write).route_layer(layer));
        let warned = warnings(&app).await;
        assert_eq!(kit.notes().await, [1]);
        if kit.database.kind() == Kind::PostgreSql {
            assert_eq!(
                warned,
                [
                    "default_transaction_isolation is not serializable: a permission that this \
                     pool changes outside the layer can still be used to write; make the pool with \
                     Interlock::pool_options(), and see sql/serializable_guard.sql"
                ]
            );
            let (written, log) = traced(ADD.unbound().execute(&interlock)).await;
            assert_eq!(written.unwrap_err().kind(), ErrorKind::Misconfigured);
            assert_eq!(
                log.find("request failed")[0].get("cause").unwrap(),
                "a conditional write below SERIALIZABLE: make the pool with \
                 Interlock::pool_options(), or set default_transaction_isolation; behind PgBouncer \
                 with transaction pooling, which keeps no SET, by ALTER ROLE or ALTER DATABASE"
            );
        }
        interlock.drain().await;

        let recommended = async { Interlock::new(kit.pool.clone()) };
        let (_, log) = traced(recommended).await;
        assert!(log.events.is_empty(), "{log:?}");
    });
}
