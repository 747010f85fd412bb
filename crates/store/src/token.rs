//! API tokens. Only the SHA-256 of a token is kept.

use openwatch_model::Timestamp;
use uuid::Uuid;

use crate::{StoreError, Tx};

/// A token without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRow {
    /// Id.
    pub id: Uuid,
    /// Unique name: the actor in logs and scans.
    pub name: String,
    /// Its first characters, to tell tokens apart.
    pub prefix: String,
    /// Role: viewer, operator, admin.
    pub role: String,
    /// Who made it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
    /// No good after.
    pub expires_at: Option<Timestamp>,
    /// Last use, to the minute.
    pub last_used_at: Option<Timestamp>,
    /// No good since.
    pub revoked_at: Option<Timestamp>,
}

/// A token to be kept.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Unique name.
    pub name: String,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// Its first characters.
    pub prefix: String,
    /// Role.
    pub role: String,
    /// No good after.
    pub expires_at: Option<Timestamp>,
}

/// Keeps a token. Called by the API, and by `app` for the first one.
///
/// # Errors
/// `Conflict` on `api_token_name_key` when the name is taken; `Refused` for a role that does not exist.
pub async fn insert(tx: &mut Tx<'_>, token: &NewToken, actor: &str) -> Result<Uuid, StoreError> {
    let id = Uuid::new_v4();
    sqlx::query!(
        "insert into api_token (id, name, token_hash, prefix, role, created_by, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        id,
        token.name,
        &token.hash,
        token.prefix,
        token.role,
        actor,
        tx.now(),
        token.expires_at,
    )
    .execute(tx.connection())
    .await?;
    Ok(id)
}

/// The token with that hash, if it is good now; notes its use, at most once a minute. Called by the API on every
/// request.
///
/// # Errors
/// The database is away.
pub async fn authenticate(tx: &mut Tx<'_>, hash: &[u8; 32]) -> Result<Option<TokenRow>, StoreError> {
    let token = sqlx::query_as!(
        TokenRow,
        "select id, name, prefix, role, created_by, created_at, expires_at, last_used_at, revoked_at from api_token
         where token_hash = $1 and revoked_at is null and (expires_at is null or expires_at > $2)",
        hash,
        tx.now()
    )
    .fetch_optional(tx.connection())
    .await?;
    let stale =
        |t: &TokenRow| t.last_used_at.is_none_or(|at| tx.now() - at >= std::time::Duration::from_secs(60));
    if let Some(id) = token.as_ref().filter(|t| stale(t)).map(|t| t.id) {
        sqlx::query!(
            "update api_token set last_used_at = $2
             where id = (select id from api_token where id = $1 for update skip locked)",
            id,
            tx.now()
        )
        .execute(tx.connection())
        .await?;
    }
    Ok(token)
}

/// All tokens by name. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn list(tx: &mut Tx<'_>) -> Result<Vec<TokenRow>, StoreError> {
    Ok(sqlx::query_as!(
        TokenRow,
        "select id, name, prefix, role, created_by, created_at, expires_at, last_used_at, revoked_at from api_token
         order by name"
    )
    .fetch_all(tx.connection())
    .await?)
}

/// Makes a token no good, once and for all; doing it again changes nothing. `false` when there is none. Called by
/// the API.
///
/// # Errors
/// The database is away.
pub async fn revoke(tx: &mut Tx<'_>, id: Uuid) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update api_token set revoked_at = coalesce(revoked_at, $2) where id = $1",
        id,
        tx.now()
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}
