//! What can go wrong with the database, sorted by what the caller does next.

use crate::finding::Unacceptable;

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database is away, full, or is just going down. Nothing was decided: try again later.
    #[error("failed to reach PostgreSQL ({0}); check that the server runs and has room")]
    Unavailable(sqlx::Error),
    /// Somebody else held the rows too long, or two stages got in each other's way. Try again at once.
    #[error("failed to finish in time next to other work in PostgreSQL ({0}); it is retried")]
    Busy(sqlx::Error),
    /// Something that may exist only once exists already.
    #[error("failed to store what exists already (constraint {constraint})")]
    Conflict {
        /// Name of the unique constraint.
        constraint: String,
    },
    /// The database does not accept the data: a check, a reference or a format. The same data fails again.
    #[error("failed to store data that breaks the rule `{constraint}`: {message}")]
    Refused {
        /// Name of the constraint, or the SQLSTATE when there is none.
        constraint: String,
        /// What PostgreSQL said.
        message: String,
    },
    /// The role of this stage may not do that.
    #[error(
        "failed to act as the database role of this stage: {0}; run `openwatch migrate` and grant the role to the login"
    )]
    Denied(String),
    /// A row holds a word that this version does not know.
    #[error("failed to read `{value}` as a {what}; was the row written by a newer version?")]
    UnknownWord {
        /// Which kind of word.
        what: &'static str,
        /// The word.
        value: String,
    },
    /// An outcome that cannot be stored.
    #[error(transparent)]
    Unacceptable(#[from] Unacceptable),
    /// The address of the database cannot be read. It is not repeated here: it may hold a password.
    #[error("failed to read the database address; write it as postgres://USER@HOST:PORT/DATABASE")]
    BadUrl,
    /// The server is too old.
    #[error("failed to use PostgreSQL {found}: version 14 or newer is needed")]
    ServerTooOld {
        /// What the server says it is.
        found: String,
    },
    /// The schema was made by a newer binary.
    #[error(
        "failed to use a schema at version {found} with a program that knows {known}; upgrade the program"
    )]
    SchemaTooNew {
        /// In the database.
        found: i64,
        /// In the binary.
        known: i64,
    },
    /// A migration that was applied is not the one this binary holds.
    #[error("failed to recognise migration {version}: it was applied with other content")]
    SchemaDiffers {
        /// Its number.
        version: i64,
    },
    /// Anything else: a fault in our own SQL.
    #[error("failed to run a statement ({0}); this is a fault in OpenWatch")]
    Statement(sqlx::Error),
}

impl StoreError {
    /// Whether the same words may succeed later: the database was away or busy, nothing was judged.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Busy(_))
    }

    /// Whether the database is away: a stage stops pulling until [`crate::Store::ping`] answers.
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }

    /// The closed set of reasons of `writer.apply.failed`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unavailable(e) if code(e).as_deref() == Some("53100") => "disk_full",
            Self::Unavailable(_) => "connection",
            Self::Busy(e) if code(e).as_deref() == Some("40P01") => "deadlock",
            Self::Busy(_) => "serialization",
            Self::Refused { constraint, .. } if constraint == "evidence_oversize" => "evidence_oversize",
            Self::Refused { constraint, .. } if constraint.ends_with("_fkey") => "fk_violation",
            Self::Refused { .. } | Self::Conflict { .. } | Self::Denied(_) | Self::Statement(_) => {
                "sqlc_error"
            }
            Self::Unacceptable(it) => it.reason(),
            _ => "unknown",
        }
    }

    /// The rule at fault, where it is known.
    pub fn rule(&self) -> Option<&str> {
        match self {
            Self::Unacceptable(it) => Some(it.rule()),
            _ => None,
        }
    }

    /// A stored word that the model does not know.
    pub(crate) fn unknown_word(what: &'static str, value: &str) -> Self {
        Self::UnknownWord { what, value: value.to_owned() }
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(Into::into)
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(database) = error.as_database_error() else {
            return match error {
                sqlx::Error::Configuration(_) => Self::BadUrl,
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed => Self::Unavailable(error),
                _ => Self::Statement(error),
            };
        };
        let code = database.code().map(String::from).unwrap_or_default();
        let constraint = || database.constraint().map_or_else(|| code.clone(), str::to_owned);
        let message = || database.message().to_owned();
        match (&code.as_bytes().get(..2), code.as_str()) {
            (_, "23505") => Self::Conflict { constraint: constraint() },
            (_, "42501") => Self::Denied(message()),
            (_, "40001" | "40P01" | "55P03" | "57014") => Self::Busy(error),
            (_, "25006" | "25P03" | "28000" | "28P01" | "3D000") => Self::Unavailable(error),
            (Some(b"23" | b"22"), _) => Self::Refused { constraint: constraint(), message: message() },
            (Some(b"08" | b"53" | b"57" | b"58"), _) => Self::Unavailable(error),
            _ => Self::Statement(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_no_verdict() {
        assert!(StoreError::from(sqlx::Error::PoolTimedOut).is_outage());
        assert!(!StoreError::from(sqlx::Error::RowNotFound).is_transient());
        let refused = StoreError::Refused { constraint: "evidence_oversize".into(), message: String::new() };
        assert_eq!(refused.reason(), "evidence_oversize");
    }
}
