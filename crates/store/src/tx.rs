//! A database transaction: the way to change anything that takes more than one statement.

use std::ops::Deref;

use openwatch_model::Timestamp;
use sqlx::{Acquire, PgConnection, Postgres, Transaction};
use uuid::Uuid;

use crate::StoreError;
use crate::doorbell::{Doorbell, Ring};

/// The one time for every decision of a unit of work: the database's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    now: Timestamp,
}

impl Moment {
    pub(crate) fn at(now: Timestamp) -> Self {
        Self { now }
    }

    /// The database's time when this unit of work began, in microseconds.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// A new id whose order is the order of these times: UUIDv7 of [`Moment::now`], not of this machine's clock.
    pub fn new_id(&self) -> Uuid {
        let seconds = u64::try_from(self.now.unix_timestamp()).unwrap_or(0);
        Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, self.now.nanosecond()))
    }
}

/// A database transaction, which has its [`Moment`]. Dropped without [`Tx::commit`], it never happened.
pub struct Tx<'a> {
    inner: Transaction<'a, Postgres>,
    moment: Moment,
    /// Of this process's relay; whoever puts something in line without one calls through the database.
    bell: Option<Doorbell>,
    /// Something was put in line for it.
    ring: Option<Ring>,
}

impl Deref for Tx<'_> {
    type Target = Moment;

    fn deref(&self) -> &Moment {
        &self.moment
    }
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tx").field("moment", &self.moment).finish_non_exhaustive()
    }
}

impl<'a> Tx<'a> {
    pub(crate) async fn open(
        mut inner: Transaction<'a, Postgres>,
        bell: Option<Doorbell>,
    ) -> Result<Self, StoreError> {
        let now = sqlx::query_scalar!(r#"select now() as "now!""#).fetch_one(&mut *inner).await?;
        Ok(Self::begun(inner, now, bell))
    }

    /// Of a transaction whose time a statement has told on the way.
    pub(crate) fn begun(inner: Transaction<'a, Postgres>, now: Timestamp, bell: Option<Doorbell>) -> Self {
        Self { inner, moment: Moment::at(now), bell, ring: None }
    }

    /// Makes everything done in it happen.
    ///
    /// # Errors
    /// It did not, or the answer was lost: either way the caller does the same again.
    pub async fn commit(self) -> Result<(), StoreError> {
        self.inner.commit().await?;
        if let Some((bell, how)) = self.bell.zip(self.ring) {
            bell.ring(how);
        }
        Ok(())
    }

    /// Undoes everything done in it, and returns when that has happened: of a `tx` that is dropped it happens later, and its locks
    /// last until then.
    ///
    /// # Errors
    /// The connection is gone, and what was done with it.
    pub async fn rollback(self) -> Result<(), StoreError> {
        Ok(self.inner.rollback().await?)
    }

    /// A part that can fail alone: dropped without [`Tx::commit`], only what was done since is undone.
    ///
    /// # Errors
    /// The connection is gone.
    pub async fn savepoint(&mut self) -> Result<Tx<'_>, StoreError> {
        let moment = self.moment;
        // What it puts in line is there when the whole commits; ringing for nothing does no harm.
        self.ring = Some(Ring::Now);
        Ok(Tx { inner: self.inner.begin().await?, moment, bell: self.bell.clone(), ring: None })
    }

    /// Whether the commit rings for what this sender puts in line; else somebody has to be called.
    pub(crate) fn rings(&mut self, sender: &str, how: Ring) -> bool {
        let answered = self.bell.as_ref().is_some_and(|bell| bell.is_answered_by(sender));
        if answered {
            self.ring = self.ring.max(Some(how));
        }
        answered
    }

    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}
