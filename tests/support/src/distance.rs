//! A server at several distances.

use std::time::Duration;

use sqlx::postgres::PgConnectOptions;

use crate::{database::Database, proxy::Proxy};

/// The server of a database, and a [`Proxy`] with a delay for each distance to it.
#[derive(Debug)]
pub struct Distances {
    near: PgConnectOptions,
    far: Vec<(Duration, Proxy)>,
}

impl Distances {
    /// Starts a proxy for each round-trip time that is not zero.
    ///
    /// # Panics
    ///
    /// As [`Proxy::start`].
    pub fn new(distances: &[Duration], database: &Database) -> Self {
        let far = distances.iter().filter(|distance| !distance.is_zero());
        Self {
            near: database.options(),
            far: far
                .map(|distance| (*distance, Proxy::with_delay(database, *distance)))
                .collect(),
        }
    }

    /// The options for a connection with this round-trip time, one of those that it was made for.
    pub fn options(&self, distance: Duration) -> PgConnectOptions {
        let far = self.far.iter().find(|(of, _)| *of == distance);
        far.map_or_else(|| self.near.clone(), |(_, proxy)| proxy.options())
    }
}
