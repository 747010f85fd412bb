//! Logging in. The one place where a key or a login password is handled.

use std::sync::Arc;

use openwatch_model::credential::Secret;
use russh::client::{AuthResult, KeyboardInteractiveAuthResponse};
use russh::keys::{HashAlg, PrivateKey, PrivateKeyWithHashAlg};
use russh::{MethodKind, MethodSet};

use crate::connection::Connection;
use crate::error::RemoteError;
use crate::guard::lock;
use crate::private_key::parse_key;

/// Rounds of questions answered before giving up on a host that never stops asking.
const ROUNDS: usize = 5;

/// Logs in, and gives the connection back as one that was let in.
pub(crate) async fn authenticate(connection: Connection, secret: &Secret) -> Result<Connection, RemoteError> {
    let peer = connection.route.peer.clone();
    let limit = connection.route.limits.login;
    let key = secret
        .private_key
        .as_deref()
        .map(|text| parse_key(text, secret.passphrase.as_deref()))
        .transpose()?;
    if key.is_none() && secret.password.is_none() {
        return Err(RemoteError::NothingToOffer { peer });
    }
    let mut attempt = Attempt { connection, password_sent: false };
    match tokio::time::timeout(limit, attempt.run(key, secret.password.as_deref())).await {
        Ok(Ok(())) => Ok(attempt.connection),
        Ok(Err(refusal)) => Err(attempt.explain(refusal)),
        Err(_) => Err(attempt.explain(Refusal::Silent)),
    }
}

/// Why a login did not happen.
enum Refusal {
    /// The host evaluated what we had and said no.
    No { tried: Vec<&'static str>, wants: MethodSet },
    /// The host asks questions that a stored password does not answer.
    Questions,
    /// Its RSA support ends at SHA-1.
    OnlySha1,
    /// The connection ended.
    Gone,
    /// No answer in time.
    Silent,
}

struct Attempt {
    connection: Connection,
    password_sent: bool,
}

impl Attempt {
    async fn run(&mut self, key: Option<PrivateKey>, password: Option<&str>) -> Result<(), Refusal> {
        let mut tried = Vec::new();
        let mut open = None;
        if let Some(key) = key {
            tried.push("key");
            match self.try_key(key).await? {
                AuthResult::Success => return Ok(()),
                AuthResult::Failure { remaining_methods, .. } => open = Some(remaining_methods),
            }
        }
        let may = |open: &Option<MethodSet>, kind| open.as_ref().is_none_or(|set| set.contains(&kind));
        let Some(password) = password else {
            return Err(Refusal::No { tried, wants: open.unwrap_or_else(MethodSet::empty) });
        };
        if may(&open, MethodKind::Password) {
            tried.push("password");
            match self.try_password(password).await? {
                AuthResult::Success => return Ok(()),
                // Still on offer means that the host looked at the password: asking again, even by another method, would
                // be a second failed login. Gone from the list means that passwords are not taken this way at all.
                AuthResult::Failure { remaining_methods, partial_success } => {
                    let judged = remaining_methods.contains(&MethodKind::Password) || partial_success;
                    if judged {
                        return Err(Refusal::No { tried, wants: remaining_methods });
                    }
                    open = Some(remaining_methods);
                }
            }
        }
        if may(&open, MethodKind::KeyboardInteractive) {
            tried.push("keyboard-interactive");
            return self.try_questions(password, tried).await;
        }
        Err(Refusal::No { tried, wants: open.unwrap_or_else(MethodSet::empty) })
    }

    async fn try_key(&mut self, key: PrivateKey) -> Result<AuthResult, Refusal> {
        let hash = if key.algorithm().is_rsa() {
            match self.connection.handle.best_supported_rsa_hash().await.map_err(|_| Refusal::Gone)? {
                Some(None) => return Err(Refusal::OnlySha1),
                Some(hash) => hash,
                None => Some(HashAlg::Sha512),
            }
        } else {
            None
        };
        let user = self.connection.route.target.user.clone();
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let result = self.connection.handle.authenticate_publickey(user, key).await;
        self.settled(result)
    }

    async fn try_password(&mut self, password: &str) -> Result<AuthResult, Refusal> {
        self.password_sent = true;
        let user = self.connection.route.target.user.clone();
        let result = self.connection.handle.authenticate_password(user, password).await;
        self.settled(result)
    }

    /// The library reports a broken connection as a refusal with nothing left to try.
    fn settled(&self, result: Result<AuthResult, russh::Error>) -> Result<AuthResult, Refusal> {
        match result {
            Ok(AuthResult::Failure { remaining_methods, .. })
                if remaining_methods.is_empty() && self.connection.handle.is_closed() =>
            {
                Err(Refusal::Gone)
            }
            Ok(result) => Ok(result),
            Err(_) => Err(Refusal::Gone),
        }
    }

    async fn try_questions(&mut self, password: &str, tried: Vec<&'static str>) -> Result<(), Refusal> {
        let user = self.connection.route.target.user.clone();
        let handle = &mut self.connection.handle;
        let mut answered = false;
        let mut answer =
            handle.authenticate_keyboard_interactive_start(user, None).await.map_err(|_| Refusal::Gone)?;
        for _ in 0..ROUNDS {
            let prompts = match answer {
                KeyboardInteractiveAuthResponse::Success => return Ok(()),
                KeyboardInteractiveAuthResponse::Failure { remaining_methods, .. } => {
                    return Err(Refusal::No { tried, wants: remaining_methods });
                }
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => prompts,
            };
            let replies = match prompts.as_slice() {
                [] => Vec::new(),
                // The same question again means that the first answer was wrong.
                [one] if !one.echo && !answered => {
                    answered = true;
                    self.password_sent = true;
                    vec![password.to_owned()]
                }
                _ => return Err(Refusal::Questions),
            };
            answer =
                handle.authenticate_keyboard_interactive_respond(replies).await.map_err(|_| Refusal::Gone)?;
        }
        Err(Refusal::Questions)
    }

    fn explain(&self, refusal: Refusal) -> RemoteError {
        let peer = self.connection.route.peer.clone();
        let user = self.connection.route.target.user.clone();
        let goodbye = lock(&self.connection.seen).goodbye.clone();
        let detail = match refusal {
            Refusal::No { tried, wants } => {
                let wants: Vec<&str> = wants.iter().map(Into::into).collect();
                let wants = if wants.is_empty() { "nothing more".to_owned() } else { wants.join(", ") };
                format!("the host refused the {} (it takes {wants})", tried.join(" and the "))
            }
            Refusal::Questions => "the host asks for more than a password".to_owned(),
            Refusal::OnlySha1 => "the host takes RSA keys with SHA-1 only; use an ed25519 key".to_owned(),
            // After a password was sent an abrupt end may well be the answer to it: trying again could lock the account.
            Refusal::Gone if goodbye.is_some() || self.password_sent => {
                format!("the host ended the connection: {}", goodbye.as_deref().unwrap_or("no reason given"))
            }
            Refusal::Silent if self.password_sent => "no answer to the password in time".to_owned(),
            Refusal::Gone => {
                return RemoteError::Unreachable { peer, detail: "the connection ended during login".into() };
            }
            Refusal::Silent => {
                return RemoteError::Unreachable { peer, detail: "no answer during login".into() };
            }
        };
        RemoteError::AuthFailed { peer, user, detail }
    }
}
