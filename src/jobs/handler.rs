//! Handlers, and the job in their hands.

use std::{fmt, marker::PhantomData, sync::Arc};

use futures_core::future::BoxFuture;
use serde::de::DeserializeOwned;

use crate::{
    error::Denied,
    jobs::{failure::BoxError, id::JobId, statements::JobLease},
    tx::Tx,
};

/// A job in the hands of its handler.
pub struct RunningJob<T> {
    lease: JobLease,
    principal: Option<Arc<str>>,
    payload: Arc<T>,
}

impl<T> RunningJob<T> {
    /// Returns the id of the job, the same in each run.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.lease.id
    }

    /// Returns the payload.
    #[must_use]
    pub fn payload(&self) -> &T {
        &self.payload
    }

    /// Returns who the job was enqueued for. Pass it to the rule; it is no authorization.
    ///
    /// # Errors
    ///
    /// Returns a denial if the job was enqueued for no one, such as by a request without a
    /// [`principal`](crate::InterlockBuilder::principal).
    pub fn principal(&self) -> Result<&str, Denied> {
        let none = || Denied::new("the job has no principal");
        self.principal.as_deref().ok_or_else(none)
    }

    /// Returns the number of the run, counted from 1. A run has one or more
    /// [attempts](crate::TxExecutor::attempt), and is counted when it begins.
    #[must_use]
    pub fn run(&self) -> u32 {
        u32::try_from(self.lease.run).unwrap_or_default()
    }
}

impl<T> Clone for RunningJob<T> {
    fn clone(&self) -> Self {
        Self {
            lease: self.lease,
            principal: self.principal.clone(),
            payload: Arc::clone(&self.payload),
        }
    }
}

impl<T> fmt::Debug for RunningJob<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningJob")
            .field("lease", &self.lease)
            .field("principal", &self.principal)
            .finish_non_exhaustive()
    }
}

/// A handler with its payload decoded, to be called once for each attempt.
pub(crate) type PreparedHandler =
    Box<dyn FnMut(Tx) -> BoxFuture<'static, Result<(), BoxError>> + Send>;

/// A handler whose type is erased.
pub(crate) trait ErasedHandler: Send + Sync {
    /// Decodes the payload, which is JSON.
    fn prepare(
        &self,
        lease: JobLease,
        principal: Option<Arc<str>>,
        payload: &str,
    ) -> Result<PreparedHandler, serde_json::Error>;
}

/// A handler for payloads of the type `T`.
pub(crate) struct TypedHandler<F, T> {
    handler: Arc<F>,
    payload: PhantomData<fn() -> T>,
}

impl<F, T> TypedHandler<F, T> {
    pub(crate) fn new(handler: F) -> Self {
        Self {
            handler: Arc::new(handler),
            payload: PhantomData,
        }
    }
}

impl<F, Fut, T, E> ErasedHandler for TypedHandler<F, T>
where
    F: Fn(RunningJob<T>, Tx) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    T: DeserializeOwned + Send + Sync + 'static,
    E: Into<BoxError> + 'static,
{
    fn prepare(
        &self,
        lease: JobLease,
        principal: Option<Arc<str>>,
        payload: &str,
    ) -> Result<PreparedHandler, serde_json::Error> {
        let payload = Arc::new(serde_json::from_str(payload)?);
        let job = RunningJob {
            lease,
            principal,
            payload,
        };
        let handler = Arc::clone(&self.handler);
        Ok(Box::new(move |tx| {
            // Called inside of the future, so that a panic before its first await is one of it.
            let (handler, job) = (Arc::clone(&handler), job.clone());
            Box::pin(async move { handler(job, tx).await.map_err(Into::into) })
        }))
    }
}
