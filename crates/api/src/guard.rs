//! The door of every route: a token, then a permission. A route without a door has no caller, and no handler runs
//! without one.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use openwatch_model::audit::PermissionDenied;
use openwatch_store::token;
use openwatch_trust::token::hash;
use zeroize::Zeroizing;

use crate::auth::{Caller, Permission, Role, bearer};
use crate::envelope::CorrelationId;
use crate::error::{Code, Failure};
use crate::server::Peer;
use crate::state::{Api, Asking};
use crate::trail;

/// These methods, for holders of a token whose role has the permission.
pub(crate) fn need(
    api: &Arc<Api>,
    permission: Permission,
    methods: MethodRouter<Arc<Api>>,
) -> MethodRouter<Arc<Api>> {
    methods.route_layer(from_fn_with_state((api.clone(), permission), guard))
}

async fn guard(
    State((api, permission)): State<(Arc<Api>, Permission)>,
    mut request: Request,
    next: Next,
) -> Response {
    // The request itself cannot be borrowed across a wait: its body is not shared between threads.
    let secret = bearer(request.headers()).map(|secret| Zeroizing::new(secret.to_owned()));
    let correlation = request.extensions().get::<CorrelationId>().map(|id| id.0.clone()).unwrap_or_default();
    let from = request.extensions().get::<ConnectInfo<Peer>>().map(|peer| peer.0.0.ip());
    match admit(&api, permission, secret, correlation, from).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(failure) => failure.into_response(),
    }
}

async fn admit(
    api: &Api,
    permission: Permission,
    secret: Option<Zeroizing<String>>,
    correlation: String,
    from: Option<IpAddr>,
) -> Result<Caller, Failure> {
    let anonymous =
        || Failure::new(Code::AuthRequired, "send `Authorization: Bearer owk_...` with a token in force");
    let secret = secret.ok_or_else(anonymous)?;
    let token = hash(&secret);
    // Before the database is asked: guessing must not cost it anything.
    api.strangers.check(from, &token)?;
    let Some(caller) = known(api, &token).await? else {
        api.strangers.missed(from, &token);
        return Err(anonymous());
    };
    api.strangers.came(&token);
    if caller.role.may(permission) {
        return Ok(caller);
    }
    Err(deny(api, Asking { caller, correlation }, permission).await?)
}

/// A permission that only part of what an endpoint does asks for.
pub(crate) async fn insist(api: &Api, asking: &Asking, permission: Permission) -> Result<(), Failure> {
    if asking.caller.role.may(permission) {
        return Ok(());
    }
    Err(deny(api, asking.clone(), permission).await?)
}

async fn known(api: &Api, token: &[u8; 32]) -> Result<Option<Caller>, Failure> {
    let mut tx = api.begin().await?;
    let found = token::authenticate(&mut tx, token).await?;
    tx.commit().await?;
    let caller =
        found.and_then(|row| Some(Caller { token: row.id, role: Role::parse(&row.role)?, name: row.name }));
    Ok(caller)
}

/// Audits the refusal, then words it.
async fn deny(api: &Api, asking: Asking, permission: Permission) -> Result<Failure, Failure> {
    let mut tx = api.begin().await?;
    let event = PermissionDenied {
        token_name: asking.caller.name.clone(),
        permission: permission.as_str().to_owned(),
    };
    trail::record(&mut tx, &asking, &event).await?;
    tx.commit().await?;
    let detail = format!("role `{}` lacks `{}`", asking.caller.role.as_str(), permission.as_str());
    Ok(Failure::new(Code::PermissionDenied, detail))
}
