//! Signatures that are none of a policy.

use std::rc::Rc;

use axum::{Json, extract::State};
use tower_interlock::{Error, Interlock, Tx, debug_policy};

#[derive(Clone)]
struct App;

struct NotClone;

async fn takes_body(_: Tx, _: Json<i64>) -> Result<(), Error> {
    Ok(())
}
debug_policy!(takes_body);

async fn returns_sqlx_error(_: Tx) -> Result<(), sqlx::Error> {
    Ok(())
}
debug_policy!(returns_sqlx_error);

async fn returns_bool(_: Tx) -> bool {
    true
}
debug_policy!(returns_bool);

async fn grants_what_is_not_clone(_: Tx) -> Result<NotClone, Error> {
    Ok(NotClone)
}
debug_policy!(grants_what_is_not_clone);

async fn is_not_send(mut tx: Tx) -> Result<(), Error> {
    let count = Rc::new(1);
    sqlx::query("SELECT 1").execute(&mut tx).await?;
    drop(count);
    Ok(())
}
debug_policy!(is_not_send);

fn is_not_async(_: Tx) -> Result<(), Error> {
    Ok(())
}
debug_policy!(is_not_async);

async fn takes_nine(
    _: Tx, _: Tx, _: Tx, _: Tx, _: Tx, _: Tx, _: Tx, _: Tx, _: Tx,
) -> Result<(), Error> {
    Ok(())
}
debug_policy!(takes_nine);

async fn takes_state(_: State<App>, _: Tx) -> Result<(), Error> {
    Ok(())
}
debug_policy!(takes_state, App);

fn without_state(interlock: &Interlock) {
    let _ = interlock.require(takes_state);
}

fn main() {}
