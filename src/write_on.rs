//! What a conditional write runs on.

use crate::{
    autocommit,
    error::Error,
    fused::{Fused, Written},
    interlock::Interlock,
    savepoint::Savepoint,
    tx::Tx,
};

/// What a [`ConditionalWrite`](crate::ConditionalWrite) runs on: an `&Interlock`, or a `&mut Tx`
/// or `&mut Savepoint`.
///
/// A pool is not among them, for on a pool nobody would run it again after a conflict:
///
/// ```compile_fail,E0277
/// # use tower_interlock::{ConditionalWrite, Error};
/// async fn run(write: &ConditionalWrite, pool: &sqlx::PgPool) -> Result<u64, Error> {
///     write.unbound().execute(pool).await
/// }
/// ```
#[derive(Debug)]
pub struct WriteOn<'e>(Place<'e>);

#[derive(Debug)]
enum Place<'e> {
    Interlock(&'e Interlock),
    Tx(&'e mut Tx),
}

impl WriteOn<'_> {
    /// Writes, or finds the reason why not. `None` if there is none.
    pub(crate) async fn run(self, write: Fused) -> Result<Option<Written>, Error> {
        match self.0 {
            Place::Interlock(interlock) => autocommit::run(interlock, &write).await,
            Place::Tx(tx) => {
                let written = write.write(&mut *tx).await?;
                if written.is_some() {
                    return Ok(written);
                }
                // It sees the same state as the write. What it does not find now is not there.
                write.diagnose(tx).await?.map_or(Ok(None), Err)
            }
        }
    }
}

impl<'e> From<&'e Interlock> for WriteOn<'e> {
    fn from(interlock: &'e Interlock) -> Self {
        Self(Place::Interlock(interlock))
    }
}

impl<'e> From<&'e mut Tx> for WriteOn<'e> {
    fn from(tx: &'e mut Tx) -> Self {
        Self(Place::Tx(tx))
    }
}

impl<'e> From<&'e mut Savepoint<'_>> for WriteOn<'e> {
    fn from(savepoint: &'e mut Savepoint<'_>) -> Self {
        Self(Place::Tx(savepoint.tx()))
    }
}
