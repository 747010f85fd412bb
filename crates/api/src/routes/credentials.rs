//! Credentials: sealed to the vault as soon as they are read, and never shown.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use openwatch_model::CredentialId;
use openwatch_model::audit::{CredentialCreated, CredentialDeleted};
use openwatch_model::credential::Secret;
use openwatch_store::credential::{self, CredentialInfo, Removed};
use uuid::Uuid;

use crate::dto::{Credential, NewCredential, Page, Problem};
use crate::error::{Code, Failure};
use crate::extract::Json;
use crate::state::{Asking, Shared};
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
    let secret = take_secret(new);
    let auth_method = secret.auth_method().ok_or_else(|| {
        Failure::field(Code::FieldRequired, "/private_key", "give a private key, a password, or both")
    })?;
    let keys = api.keys.borrow().clone();
    let sealed = keys.seal_credential(&secret, id).map_err(|error| {
        tracing::error!(%error, "the vault's public key cannot be used");
        Failure::new(Code::Internal, "the vault's public key cannot be used; issue the API's keys again")
    })?;
    drop(secret);

    let mut tx = api.begin().await?;
    let row = credential::NewCredential {
        id,
        name: name.clone(),
        username: username.clone(),
        auth_method,
        is_default,
        sealed,
    };
    credential::insert(&mut tx, &row, &asking.caller.name).await?;
    let event =
        CredentialCreated { credential_id: id, name: name.clone(), auth_method: auth_method.as_str() };
    trail::record(&mut tx, &asking, &event).await?;
    let created_at = tx.now();
    tx.commit().await?;
    let made =
        Credential { id: id.0, name, username, auth_method, default: is_default, stored: false, created_at };
    Ok((StatusCode::CREATED, axum::Json(made)))
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
    let unknown = || Failure::new(Code::CredentialNotFound, "no credential has this name or id");
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

fn check(new: &NewCredential) -> Result<(), Failure> {
    validate::name("/name", &new.name, 64)?;
    validate::user("/username", &new.username)?;
    validate::secret("/password", new.password.as_deref())?;
    validate::secret("/passphrase", new.passphrase.as_deref())?;
    validate::secret("/sudo_password", new.sudo_password.as_deref())?;
    validate::secret("/private_key", new.private_key.as_deref())?;
    if new.private_key.as_deref().is_some_and(|key| !key.trim_start().starts_with("-----BEGIN ")) {
        let detail = "must be an OpenSSH or PEM private key, the whole file";
        return Err(Failure::field(Code::FieldFormat, "/private_key", detail));
    }
    if new.passphrase.is_some() && new.private_key.is_none() {
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
        default: row.is_default,
        stored: row.key_id.is_some(),
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
