//! What every handler works with.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use metrics_exporter_prometheus::PrometheusHandle;
use openwatch_bus::Bus;
use openwatch_model::audit::Actor;
use openwatch_model::credential::KeyFacts;
use openwatch_store::audit::Context;
use openwatch_store::{Store, StoreError, Tx};
use openwatch_trust::ApiKeys;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::auth::Caller;
use crate::envelope::CorrelationId;
use crate::error::{Code, Failure};
use crate::health::Health;
use crate::strangers::Strangers;

/// What the API is handed.
pub struct ApiDeps {
    /// The database, in the role of the API.
    pub store: Store,
    /// The bus, as the API: looks at streams, and follows events for others.
    pub bus: Bus,
    /// The vault's public key; replaced when keys rotate.
    pub keys: watch::Receiver<Arc<ApiKeys>>,
    /// Of the whole process.
    pub health: Health,
    /// Renders `/metrics`; without it the path answers 404.
    pub metrics: Option<PrometheusHandle>,
    /// Judges a private key and its passphrase: what may be told of it, or what is wrong with it. The API knows no SSH.
    pub inspect_key: InspectKey,
}

/// See [`ApiDeps::inspect_key`].
pub type InspectKey = fn(&str, Option<&str>) -> Result<KeyFacts, String>;

/// The state behind the routes.
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) bus: Bus,
    /// Room for those who follow events.
    pub(crate) followers: Arc<Semaphore>,
    /// Ends what would go on for ever.
    pub(crate) stop: CancellationToken,
    pub(crate) metrics: Option<PrometheusHandle>,
    pub(crate) strangers: Strangers,
    pub(crate) keys: watch::Receiver<Arc<ApiKeys>>,
    pub(crate) inspect_key: InspectKey,
}

/// The state, as handlers take it.
pub(crate) type Shared = axum::extract::State<Arc<Api>>;

impl Api {
    /// A transaction to change things in.
    pub(crate) async fn begin(&self) -> Result<Tx<'static>, Failure> {
        Ok(self.store.begin().await?)
    }

    /// A transaction that sees one moment and changes nothing.
    pub(crate) async fn begin_read(&self) -> Result<Tx<'static>, Failure> {
        Ok(self.store.begin_read().await?)
    }
}

/// Who asked, and under which correlation id: what an audit row needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Asking {
    pub(crate) caller: Caller,
    pub(crate) correlation: String,
}

impl Asking {
    /// The actor of audit rows.
    pub(crate) fn actor(&self) -> Actor {
        Actor::Token(self.caller.name.clone())
    }

    /// The rest of an audit row.
    pub(crate) fn context(&self) -> Context {
        Context { correlation: Some(self.correlation.clone()), ..Context::default() }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Asking {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let caller = parts.extensions.get::<Caller>().cloned();
        let correlation = parts.extensions.get::<CorrelationId>().map(|id| id.0.clone()).unwrap_or_default();
        // Only the guard puts a caller there, so a route without one refuses everybody.
        let caller =
            caller.ok_or_else(|| Failure::new(Code::AuthRequired, "send `Authorization: Bearer owk_...`"))?;
        Ok(Self { caller, correlation })
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_transient() {
            tracing::warn!(%error, "the database did not answer a request");
            return Self::new(Code::Unavailable, "the database does not answer; try again");
        }
        match &error {
            StoreError::Conflict { constraint } => taken(constraint),
            StoreError::Refused { constraint, .. } => refused(constraint),
            _ => None,
        }
        .unwrap_or_else(|| {
            tracing::error!(%error, "a request failed");
            Self::new(Code::Internal, "look for the correlation id in the server's log")
        })
    }
}

/// What exists already, by the constraint that said so.
fn taken(constraint: &str) -> Option<Failure> {
    let at = |code, pointer, detail: &str| Some(Failure::field(code, pointer, detail));
    match constraint {
        "host_name" => at(Code::HostDuplicate, "/name", "another host has this name"),
        "credential_name_key" => at(Code::CredentialDuplicate, "/name", "another credential has this name"),
        "credential_one_default" => {
            at(Code::CredentialDuplicate, "/default", "another credential is the default")
        }
        "channel_name_key" => at(Code::ChannelDuplicate, "/name", "another channel has this name"),
        "api_token_name_key" => at(Code::TokenDuplicate, "/name", "another token has or had this name"),
        _ => None,
    }
}

/// What the database does not accept, where a person's request can be the cause.
fn refused(constraint: &str) -> Option<Failure> {
    match constraint {
        "host_credential_id_fkey" => {
            Some(Failure::new(Code::CredentialInUse, "hosts name it; give them another credential first"))
        }
        "host_jump_fkey" => {
            let detail = "a jump host is dialled directly: it has none itself, and a host that others go through gets none";
            Some(Failure::field(Code::HostJump, "/jump", detail))
        }
        _ => None,
    }
}
