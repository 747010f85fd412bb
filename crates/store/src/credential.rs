//! Credentials. The API writes them sealed and never reads a secret; only the vault reads what it stored.

use openwatch_model::credential::{AuthMethod, KeyFacts};
use openwatch_model::{CredentialId, HostId, Timestamp};
use uuid::Uuid;

use crate::words::auth_method;
use crate::{Store, StoreError, Tx};

/// A credential as it comes in: its secret sealed to the vault's public key.
#[derive(Clone)]
pub struct NewCredential {
    /// Chosen by the API before sealing, so that the sealed bytes can be bound to it.
    pub id: CredentialId,
    /// Unique name.
    pub name: String,
    /// Login user.
    pub username: String,
    /// What the secret holds.
    pub auth_method: AuthMethod,
    /// What may be told of its key.
    pub key: Option<KeyFacts>,
    /// For hosts without a credential of their own; takes this over from the one that had it.
    pub is_default: bool,
    /// Sealed secret.
    pub sealed: Vec<u8>,
}

impl std::fmt::Debug for NewCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewCredential")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What people may see of a credential.
#[derive(Clone, Debug, PartialEq)]
pub struct CredentialInfo {
    /// Id.
    pub id: CredentialId,
    /// Name.
    pub name: String,
    /// Login user.
    pub username: String,
    /// What the secret holds.
    pub auth_method: AuthMethod,
    /// What may be told of its key.
    pub key: Option<KeyFacts>,
    /// Whether hosts without their own use it.
    pub is_default: bool,
    /// Key that it is encrypted with; absent while it waits for the vault.
    pub key_id: Option<String>,
    /// Hosts that name it.
    pub hosts: u64,
    /// Who stored it.
    pub created_by: String,
    /// When.
    pub created_at: Timestamp,
}

/// Stored bytes of a secret; opaque here. No `Debug` of the bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum StoredSecret {
    /// Still as it came in.
    Sealed(Vec<u8>),
    /// Encrypted by the vault.
    Encrypted {
        /// With which key.
        key_id: String,
        /// The bytes.
        ciphertext: Vec<u8>,
    },
}

impl StoredSecret {
    /// As the columns have it; nothing when they hold neither.
    pub(crate) fn of(
        sealed: Option<Vec<u8>>,
        key_id: Option<String>,
        ciphertext: Option<Vec<u8>>,
    ) -> Option<Self> {
        match (sealed, key_id, ciphertext) {
            (Some(sealed), _, _) => Some(Self::Sealed(sealed)),
            (None, Some(key_id), Some(ciphertext)) => Some(Self::Encrypted { key_id, ciphertext }),
            _ => None,
        }
    }
}

impl std::fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sealed(_) => f.write_str("Sealed(..)"),
            Self::Encrypted { key_id, .. } => {
                f.debug_struct("Encrypted").field("key_id", key_id).finish_non_exhaustive()
            }
        }
    }
}

/// A credential as the vault sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCredential {
    /// Id; part of what the ciphertext is bound to.
    pub id: CredentialId,
    /// Name.
    pub name: String,
    /// Login user.
    pub username: String,
    /// Its secret.
    pub secret: StoredSecret,
}

/// How a removal went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is gone; this was its name.
    Gone(String),
    /// So many hosts still name it, and it was not forced.
    InUse(u64),
    /// There is none.
    Unknown,
}

/// Stores a sealed credential. Called by the API.
///
/// # Errors
/// `Conflict` on `credential_name_key` when the name is taken.
pub async fn insert(tx: &mut Tx<'_>, new: &NewCredential, actor: &str) -> Result<(), StoreError> {
    if new.is_default {
        sqlx::query!("update credential set is_default = false, updated_at = $1 where is_default", tx.now())
            .execute(tx.connection())
            .await?;
    }
    sqlx::query!(
        "insert into credential (id, name, username, auth_method, is_default, sealed, created_by,
           key_algorithm, key_bits, key_fingerprint, key_comment)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        new.id.0,
        new.name,
        new.username,
        new.auth_method.as_str(),
        new.is_default,
        new.sealed,
        actor,
        new.key.as_ref().map(|k| &k.algorithm),
        new.key.as_ref().map(|k| i32::try_from(k.bits).unwrap_or(i32::MAX)),
        new.key.as_ref().map(|k| &k.fingerprint),
        new.key.as_ref().map(|k| &k.comment),
    )
    .execute(tx.connection())
    .await?;
    Ok(())
}

/// A new secret for a credential, sealed to the vault's public key.
pub struct NewSecret {
    /// What it holds.
    pub auth_method: AuthMethod,
    /// What may be told of its key.
    pub key: Option<KeyFacts>,
    /// Sealed secret.
    pub sealed: Vec<u8>,
}

/// Changes a credential; what is absent stays. A new secret takes the place of the whole old one: parts of two are never
/// mixed. `false` when there is no such credential. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn change(
    tx: &mut Tx<'_>,
    id: CredentialId,
    username: Option<&str>,
    make_default: bool,
    secret: Option<&NewSecret>,
) -> Result<bool, StoreError> {
    if make_default {
        sqlx::query!(
            "update credential set is_default = false, updated_at = $1 where is_default and id <> $2",
            tx.now(),
            id.0
        )
        .execute(tx.connection())
        .await?;
    }
    let done = sqlx::query!(
        "update credential set username = coalesce($2, username), is_default = is_default or $3, updated_at = $4
         where id = $1",
        id.0,
        username,
        make_default,
        tx.now()
    )
    .execute(tx.connection())
    .await?;
    if let Some(new) = secret {
        sqlx::query!(
            "update credential set sealed = $2, ciphertext = null, key_id = null, auth_method = $3,
               key_algorithm = $4, key_bits = $5, key_fingerprint = $6, key_comment = $7
             where id = $1",
            id.0,
            new.sealed,
            new.auth_method.as_str(),
            new.key.as_ref().map(|k| &k.algorithm),
            new.key.as_ref().map(|k| i32::try_from(k.bits).unwrap_or(i32::MAX)),
            new.key.as_ref().map(|k| &k.fingerprint),
            new.key.as_ref().map(|k| &k.comment),
        )
        .execute(tx.connection())
        .await?;
    }
    Ok(done.rows_affected() == 1)
}

/// All credentials without their secrets, by name. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn list(tx: &mut Tx<'_>) -> Result<Vec<CredentialInfo>, StoreError> {
    let rows = sqlx::query!(
        r#"select c.id, c.name, c.username, c.auth_method, c.is_default, c.key_id, c.created_by, c.created_at,
             c.key_algorithm, c.key_bits, c.key_fingerprint, c.key_comment,
             (select count(*) from host h where h.credential_id = c.id and h.deleted_at is null) as "hosts!"
           from credential c order by c.name"#
    )
    .fetch_all(tx.connection())
    .await?;
    rows.into_iter()
        .map(|r| {
            Ok(CredentialInfo {
                id: CredentialId(r.id),
                name: r.name,
                username: r.username,
                auth_method: auth_method(&r.auth_method)?,
                key: match (r.key_algorithm, r.key_bits, r.key_fingerprint, r.key_comment) {
                    (Some(algorithm), Some(bits), Some(fingerprint), Some(comment)) => {
                        Some(KeyFacts { algorithm, bits: crate::host::count(bits), fingerprint, comment })
                    }
                    _ => None,
                },
                is_default: r.is_default,
                key_id: r.key_id,
                hosts: r.hosts.max(0).unsigned_abs(),
                created_by: r.created_by,
                created_at: r.created_at,
            })
        })
        .collect()
}

/// A credential's id by name, or by its id as text. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn find(tx: &mut Tx<'_>, name_or_id: &str) -> Result<Option<CredentialId>, StoreError> {
    let id = name_or_id.parse::<Uuid>().ok();
    let found = sqlx::query_scalar!("select id from credential where name = $1 or id = $2", name_or_id, id)
        .fetch_optional(tx.connection())
        .await?;
    Ok(found.map(CredentialId))
}

/// Removes a credential, secret and all. While hosts name it that is refused, unless forced: then they fall back to
/// the default. Called by the API.
///
/// # Errors
/// The database is away.
pub async fn remove(tx: &mut Tx<'_>, id: CredentialId, force: bool) -> Result<Removed, StoreError> {
    if force {
        sqlx::query!("update host set credential_id = null where credential_id = $1", id.0)
            .execute(tx.connection())
            .await?;
    }
    let hosts = sqlx::query_scalar!(r#"select count(*) as "n!" from host where credential_id = $1"#, id.0)
        .fetch_one(tx.connection())
        .await?;
    if hosts > 0 {
        return Ok(Removed::InUse(hosts.unsigned_abs()));
    }
    let name = sqlx::query_scalar!("delete from credential where id = $1 returning name", id.0)
        .fetch_optional(tx.connection())
        .await?;
    Ok(name.map_or(Removed::Unknown, Removed::Gone))
}

/// Credentials that wait to be encrypted, locked for this vault alone. Called by the vault at start and on
/// [`crate::listen::CREDENTIAL`].
///
/// # Errors
/// The database is away.
pub async fn pending(tx: &mut Tx<'_>, limit: u32) -> Result<Vec<StoredCredential>, StoreError> {
    let rows = sqlx::query!(
        r#"select id, name, username, sealed as "sealed!" from credential where sealed is not null
           order by created_at limit $1 for update skip locked"#,
        i64::from(limit)
    )
    .fetch_all(tx.connection())
    .await?;
    let stored = rows.into_iter().map(|r| StoredCredential {
        id: CredentialId(r.id),
        name: r.name,
        username: r.username,
        secret: StoredSecret::Sealed(r.sealed),
    });
    Ok(stored.collect())
}

/// Credentials encrypted with another key than this one, locked for this vault alone. Called by the vault when keys
/// are rotated.
///
/// # Errors
/// The database is away.
pub async fn under_other_key(
    tx: &mut Tx<'_>,
    key_id: &str,
    limit: u32,
) -> Result<Vec<StoredCredential>, StoreError> {
    let rows = sqlx::query!(
        r#"select id, name, username, key_id as "key_id!", ciphertext as "ciphertext!" from credential
           where ciphertext is not null and key_id <> $1 order by id limit $2 for update skip locked"#,
        key_id,
        i64::from(limit)
    )
    .fetch_all(tx.connection())
    .await?;
    let stored = rows.into_iter().map(|r| StoredCredential {
        id: CredentialId(r.id),
        name: r.name,
        username: r.username,
        secret: StoredSecret::Encrypted { key_id: r.key_id, ciphertext: r.ciphertext },
    });
    Ok(stored.collect())
}

/// Keeps a secret encrypted and forgets its sealed form, if it still is the secret that was seen: somebody may have set
/// another one meanwhile. Whether it is. Called by the vault.
///
/// # Errors
/// The database is away.
pub async fn store_encrypted(
    tx: &mut Tx<'_>,
    seen: &StoredCredential,
    key_id: &str,
    ciphertext: &[u8],
) -> Result<bool, StoreError> {
    let (sealed, before) = match &seen.secret {
        StoredSecret::Sealed(sealed) => (Some(sealed), None),
        StoredSecret::Encrypted { ciphertext, .. } => (None, Some(ciphertext)),
    };
    let done = sqlx::query!(
        "update credential set sealed = null, key_id = $2, ciphertext = $3, updated_at = $4
         where id = $1 and (sealed = $5 or sealed is null and ciphertext = $6)",
        seen.id.0,
        key_id,
        ciphertext,
        tx.now(),
        sealed,
        before,
    )
    .execute(tx.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The credential for a host: its own, else the default one, else none. Never a mixture (CRD-08). Called by the vault.
///
/// # Errors
/// The database is away: that is not the same as having none.
pub async fn resolve(store: &Store, host: HostId) -> Result<Option<StoredCredential>, StoreError> {
    let row = sqlx::query!(
        "select c.id, c.name, c.username, c.sealed, c.key_id, c.ciphertext
         from host h join credential c on c.id = h.credential_id or (h.credential_id is null and c.is_default)
         where h.id = $1",
        host.0
    )
    .fetch_optional(store.pool())
    .await?;
    Ok(row.and_then(|r| {
        let secret = StoredSecret::of(r.sealed, r.key_id, r.ciphertext)?;
        Some(StoredCredential { id: CredentialId(r.id), name: r.name, username: r.username, secret })
    }))
}
