//! API tokens: made, shown once, revoked.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use openwatch_model::audit::{ApiKeyCreated, ApiKeyRevoked};
use openwatch_store::token::{self, TokenRow};
use openwatch_trust::token::{ApiToken, PREFIX};

use crate::auth::Role;
use crate::dto::{MintedToken, NewToken, Page, Problem, Token};
use crate::error::{Code, Failure};
use crate::extract::Json;
use crate::state::{Asking, Shared};
use crate::{trail, validate};

/// Characters of a token that are kept to tell tokens apart.
const SHOWN: usize = PREFIX.len() + 6;

/// Tokens by name, without their secrets.
#[utoipa::path(get, path = "/api/v1/tokens", tag = "tokens", responses(
    (status = 200, description = "tokens", body = Page<Token>),
))]
pub(crate) async fn list(State(api): Shared) -> Result<axum::Json<Page<Token>>, Failure> {
    let rows = token::list(&mut api.begin_read().await?).await?;
    Ok(axum::Json(Page { items: rows.into_iter().filter_map(view).collect(), next_cursor: None }))
}

/// Makes a token. Its secret is in the answer and nowhere else.
#[utoipa::path(post, path = "/api/v1/tokens", tag = "tokens", request_body = NewToken, responses(
    (status = 201, description = "made", body = MintedToken),
    (status = 400, description = "a field is wrong", body = Problem, content_type = "application/problem+json"),
    (status = 403, description = "the role is above the caller's own", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "token.duplicate", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn create(
    State(api): Shared,
    asking: Asking,
    Json(new): Json<NewToken>,
) -> Result<(StatusCode, axum::Json<MintedToken>), Failure> {
    validate::name("/name", &new.name, 64)?;
    if new.role > asking.caller.role {
        return Err(Failure::new(
            Code::PermissionDenied,
            "nobody makes a token that may do more than their own",
        ));
    }
    let mut tx = api.begin().await?;
    if new.expires_at.is_some_and(|at| at <= tx.now()) {
        return Err(Failure::field(Code::FieldRange, "/expires_at", "must be in the future"));
    }
    let secret = ApiToken::generate();
    let row = token::NewToken {
        name: new.name.clone(),
        hash: secret.hash(),
        prefix: secret.expose()[..SHOWN].to_owned(),
        role: new.role.as_str().to_owned(),
        expires_at: new.expires_at,
    };
    let id = token::insert(&mut tx, &row, &asking.caller.name).await?;
    let event = ApiKeyCreated { name: new.name.clone(), role: new.role.as_str().to_owned() };
    trail::record(&mut tx, &asking, &event).await?;
    tx.commit().await?;
    let minted = MintedToken { id, name: new.name, role: new.role, secret: secret.expose().to_owned() };
    Ok((StatusCode::CREATED, axum::Json(minted)))
}

/// Revokes a token, once and for all. Doing it again changes nothing.
#[utoipa::path(delete, path = "/api/v1/tokens/{token}", tag = "tokens", params(("token" = String, Path, description = "name or id")), responses(
    (status = 204, description = "revoked"),
    (status = 404, description = "token.not_found", body = Problem, content_type = "application/problem+json"),
))]
pub(crate) async fn revoke(
    State(api): Shared,
    asking: Asking,
    Path(named): Path<String>,
) -> Result<StatusCode, Failure> {
    let mut tx = api.begin().await?;
    let all = token::list(&mut tx).await?;
    let found = all.into_iter().find(|row| row.name == named || row.id.to_string() == named);
    let row = found.ok_or_else(|| Failure::new(Code::TokenNotFound, "no token has this name or id"))?;
    token::revoke(&mut tx, row.id).await?;
    if row.revoked_at.is_none() {
        trail::record(&mut tx, &asking, &ApiKeyRevoked { name: row.name }).await?;
    }
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A role that this version does not know can do nothing here, so it is not shown either.
fn view(row: TokenRow) -> Option<Token> {
    Some(Token {
        id: row.id,
        role: Role::parse(&row.role)?,
        name: row.name,
        prefix: row.prefix,
        created_at: row.created_at,
        expires_at: row.expires_at,
        last_used_at: row.last_used_at,
        revoked_at: row.revoked_at,
    })
}
