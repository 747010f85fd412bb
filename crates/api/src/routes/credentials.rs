//! Credentials: sealed to the vault as soon as they are read, and never shown.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use openwatch_model::CredentialId;
use openwatch_model::audit::{CredentialCreated, CredentialDeleted, CredentialUpdated};
use openwatch_model::credential::Secret;
use openwatch_store::Tx;
use openwatch_store::credential::{self, CredentialInfo, Removed};
use uuid::Uuid;

use crate::dto::{Credential, CredentialChange, NewCredential, Page, Problem};
use crate::error::{Code, Failure};
use crate::extract::Json;
use crate::state::{Api, Asking, Shared};
use crate::{trail, validate};

/// Credentials by name, without their secrets.
#[utoipa::path(get, path = "/api/v1/credentials", tag = "credentials", responses(
    (status = 200, description = "credentials", body = Page<Credential>),
))]
pub(crate) async fn list(State(api): Shared) -> Result<axum::Json<Page<Credential>>, Failure> {
    let rows = credential::list(&mut api.begin_read().await?).await?;
    Ok(axum::Json(Page { items: rows.into_iter().map(view).collect(), next_cursor: None }))
}

/// Stores a credential. Its secrets are sealed to the vault at once; nobody else can read them from then on.
#[utoipa::path(post, path = "/api/v1/credentials", tag = "credentials", request_body = NewCredential, responses(
    (status = 201, description = "stored", body = Credential),
    (status = 400, description = "a field is wrong", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "credential.duplicate", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(
    State(api): Shared,
    asking: Asking,
    Json(new): Json<NewCredential>,
) -> Result<(StatusCode, axum::Json<Credential>), Failure> {
    check(&new)?;
    let (name, username, is_default) = (new.name.clone(), new.username.clone(), new.default);
    let id = CredentialId(Uuid::new_v4());
    let credential::NewSecret { auth_method, key, sealed } = seal(&api, id, take_secret(new)).await?;

    let mut tx = api.begin().await?;
    let row =
        credential::NewCredential { id, name: name.clone(), username, auth_method, key, is_default, sealed };
    credential::insert(&mut tx, &row, &asking.caller.name).await?;
    let event = CredentialCreated { credential_id: id, name, auth_method: auth_method.as_str() };
    trail::record(&mut tx, &asking, &event).await?;
    let made = shown(&mut tx, id).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

/// One credential, without its secrets.
#[utoipa::path(get, path = "/api/v1/credentials/{credential}", tag = "credentials", params(("credential" = String, Path, description = "name or id")), responses(
    (status = 200, description = "the credential", body = Credential),
    (status = 404, description = "credential.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn show(
    State(api): Shared,
    Path(named): Path<String>,
) -> Result<axum::Json<Credential>, Failure> {
    let mut tx = api.begin_read().await?;
    let id = credential::find(&mut tx, &named).await?.ok_or_else(unknown)?;
    Ok(axum::Json(shown(&mut tx, id).await?))
}

/// Changes a credential; scans that begin from now on use it. New secrets take the place of all old ones.
#[utoipa::path(patch, path = "/api/v1/credentials/{credential}", tag = "credentials", params(("credential" = String, Path, description = "name or id")), request_body = CredentialChange, responses(
    (status = 200, description = "changed", body = Credential),
    (status = 400, description = "a field is wrong", body = Problem, content_type = "application/problem+json"),
    (status = 404, description = "credential.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn change(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
    Json(mut wanted): Json<CredentialChange>,
) -> Result<axum::Json<Credential>, Failure> {
    wanted.username.as_deref().map_or(Ok(()), |user| validate::user("/username", user))?;
    let secret = Secret {
        password: wanted.password.take(),
        private_key: wanted.private_key.take(),
        passphrase: wanted.passphrase.take(),
        sudo_password: wanted.sudo_password.take(),
    };
    let given = [&secret.password, &secret.private_key, &secret.passphrase, &secret.sudo_password];
    let rotates = given.iter().any(|part| part.is_some());
    check_secret(&secret)?;
    let mut tx = api.begin().await?;
    let id = credential::find(&mut tx, &named).await?.ok_or_else(unknown)?;
    drop(tx);
    // Reading a key takes a moment: not while a transaction waits.
    let sealed = if rotates { Some(seal(&api, id, secret).await?) } else { None };
    tx = api.begin().await?;
    let username = wanted.username.as_deref();
    if !credential::change(&mut tx, id, username, wanted.default, sealed.as_ref()).await? {
        return Err(unknown());
    }
    let made = shown(&mut tx, id).await?;
    let event = CredentialUpdated { credential_id: id, name: made.name.clone(), secret_rotated: rotates };
    trail::record(&mut tx, &asking, &event).await?;
    tx.commit().await?;
    Ok(axum::Json(made))
}

/// Removes a credential, secrets and all. Refused while hosts name it.
#[utoipa::path(delete, path = "/api/v1/credentials/{credential}", tag = "credentials", params(("credential" = String, Path, description = "name or id")), responses(
    (status = 204, description = "removed"),
    (status = 404, description = "credential.not_found", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "credential.in_use", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn remove(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
) -> Result<StatusCode, Failure> {
    let mut tx = api.begin().await?;
    let credential_id = credential::find(&mut tx, &named).await?.ok_or_else(unknown)?;
    let name = match credential::remove(&mut tx, credential_id, false).await? {
        Removed::Gone(name) => name,
        Removed::Unknown => return Err(unknown()),
        Removed::InUse(hosts) => {
            let detail = format!("{hosts} hosts log in with it; give them another credential first");
            return Err(Failure::new(Code::CredentialInUse, detail));
        }
    };
    trail::record(&mut tx, &asking, &CredentialDeleted { credential_id, name }).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn unknown() -> Failure {
    Failure::new(Code::CredentialNotFound, "no credential has this name or id")
}

async fn shown(tx: &mut Tx<'_>, id: CredentialId) -> Result<Credential, Failure> {
    let all = credential::list(tx).await?;
    all.into_iter().find(|row| row.id == id).map(view).ok_or_else(unknown)
}

/// Judges the key and seals everything to the vault; from then on nobody else can read it.
async fn seal(api: &Api, id: CredentialId, secret: Secret) -> Result<credential::NewSecret, Failure> {
    let auth_method = secret.auth_method().ok_or_else(|| {
        Failure::field(Code::FieldRequired, "/private_key", "give a private key, a password, or both")
    })?;
    let inspect = api.inspect_key;
    // A passphrase is made slow on purpose.
    let judged = tokio::task::spawn_blocking(move || {
        let facts = secret.private_key.as_deref().map(|key| inspect(key, secret.passphrase.as_deref()));
        (secret, facts.transpose())
    });
    let (secret, key) =
        judged.await.map_err(|_| Failure::new(Code::Internal, "the private key could not be judged"))?;
    let key = key.map_err(|problem| Failure::field(Code::FieldFormat, "/private_key", problem))?;
    let keys = api.keys.borrow().clone();
    let sealed = keys.seal_credential(&secret, id).map_err(|error| {
        tracing::error!(%error, "the vault's public key cannot be used");
        Failure::new(Code::Internal, "the vault's public key cannot be used; issue the API's keys again")
    })?;
    Ok(credential::NewSecret { auth_method, key, sealed })
}

fn check(new: &NewCredential) -> Result<(), Failure> {
    validate::name("/name", &new.name, 64)?;
    validate::user("/username", &new.username)?;
    check_parts(&new.password, &new.private_key, &new.passphrase, &new.sudo_password)
}

fn check_secret(secret: &Secret) -> Result<(), Failure> {
    check_parts(&secret.password, &secret.private_key, &secret.passphrase, &secret.sudo_password)
}

fn check_parts(
    password: &Option<String>,
    private_key: &Option<String>,
    passphrase: &Option<String>,
    sudo_password: &Option<String>,
) -> Result<(), Failure> {
    validate::secret("/password", password.as_deref())?;
    validate::secret("/passphrase", passphrase.as_deref())?;
    validate::secret("/sudo_password", sudo_password.as_deref())?;
    validate::secret("/private_key", private_key.as_deref())?;
    if private_key.as_deref().is_some_and(|key| !key.trim_start().starts_with("-----BEGIN ")) {
        let detail = "must be an OpenSSH or PEM private key, the whole file";
        return Err(Failure::field(Code::FieldFormat, "/private_key", detail));
    }
    if passphrase.is_some() && private_key.is_none() {
        return Err(Failure::field(
            Code::FieldRequired,
            "/private_key",
            "a passphrase needs its private key",
        ));
    }
    Ok(())
}

/// Moves the secrets out; what stays behind of them is nothing.
fn take_secret(mut new: NewCredential) -> Secret {
    Secret {
        password: new.password.take(),
        private_key: new.private_key.take(),
        passphrase: new.passphrase.take(),
        sudo_password: new.sudo_password.take(),
    }
}

fn view(row: CredentialInfo) -> Credential {
    Credential {
        id: row.id.0,
        name: row.name,
        username: row.username,
        auth_method: row.auth_method,
        key: row.key.map(Into::into),
        default: row.is_default,
        stored: row.key_id.is_some(),
        key_id: row.key_id,
        hosts: row.hosts,
        created_at: row.created_at,
    }
}

#[cfg(test)]
mod tests {
    use openwatch_model::credential::AuthMethod;

    use super::*;

    fn new(password: Option<&str>, key: Option<&str>, passphrase: Option<&str>) -> NewCredential {
        NewCredential {
            name: "ops".into(),
            username: "root".into(),
            default: false,
            password: password.map(str::to_owned),
            private_key: key.map(str::to_owned),
            passphrase: passphrase.map(str::to_owned),
            sudo_password: None,
        }
    }

    #[test]
    fn secrets_are_checked_without_being_told() {
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\n...";
        assert!(check(&new(Some("hunter2"), None, None)).is_ok());
        assert!(check(&new(None, Some(key), Some("hunter2"))).is_ok());
        for wrong in [
            new(Some(""), None, None),
            new(None, Some("hunter2"), None),
            new(Some("x"), None, Some("hunter2")),
        ] {
            let told = format!("{:?} {wrong:?}", check(&wrong).unwrap_err());
            assert!(!told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn the_method_follows_from_the_parts() {
        let method = |new| take_secret(new).auth_method();
        assert_eq!(method(new(Some("a"), None, None)), Some(AuthMethod::Password));
        assert_eq!(method(new(Some("a"), Some("k"), None)), Some(AuthMethod::Both));
        assert_eq!(method(new(None, None, None)), None);
    }
}
