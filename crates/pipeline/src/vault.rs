//! Holds the credentials: takes new ones in, and gives a secret to the current attempt of an open scan, sealed to it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use openwatch_bus::consume::Pulse;
use openwatch_bus::message::vault::{Reply, Request};
use openwatch_bus::message::{KEY_ID, KEY_KIND, MAC};
use openwatch_bus::subject::{VAULT_GROUP, VAULT_RELEASE};
use openwatch_bus::{Bus, Question, serve};
use openwatch_model::audit::{CredentialRefused, CredentialReleased, CredentialStored};
use openwatch_store::credential::{self, StoredCredential, StoredSecret};
use openwatch_store::vault::{self as attempts, Attempt};
use openwatch_store::{Store, StoreError, Tx, listen};
use openwatch_trust::keyring::KeyNames;
use openwatch_trust::seal::{seal_jump, seal_release};
use openwatch_trust::{Signed, Tag, VaultKeys};
use tokio_util::sync::CancellationToken;

use crate::StageError;
use crate::keys::{HOLDING, Held, holder_of, noted};
use crate::out::Out;
use crate::release::frame;

const STAGE: &str = "vault";
/// Questions answered side by side.
const SLOTS: usize = 16;
/// Credentials taken in at once.
const BATCH: u32 = 50;
/// How often new credentials are looked for when nobody called.
const POLL: Duration = Duration::from_secs(5);

/// What the vault may touch.
pub struct Vault {
    /// Database, as `vault`.
    pub store: Store,
    /// Bus, as `vault`.
    pub bus: Bus,
    /// Everything that the data-encryption key gives.
    pub keys: Held<VaultKeys>,
    /// Ticks with every round, for health.
    pub pulse: Pulse,
}

/// Why a secret is not given. Stable words: the worker decides by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    BadRequest,
    BadSignature,
    UnknownScan,
    ScanClosed,
    StaleAttempt,
    TagMismatch,
    RouteChanged,
    NoCredential,
    DecryptionFailed,
    Unavailable,
}

impl Refusal {
    fn code(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::BadSignature => "bad_signature",
            Self::UnknownScan => "unknown_scan",
            Self::ScanClosed => "scan_closed",
            Self::StaleAttempt => "stale_attempt",
            Self::TagMismatch => "tag_mismatch",
            Self::RouteChanged => "route_changed",
            Self::NoCredential => "no_credential",
            Self::DecryptionFailed => "credential_decryption_failed",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Vault {
    /// Runs until told to stop.
    ///
    /// # Errors
    /// Only what waiting cannot cure.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), StageError> {
        let it = Arc::new(self);
        let answering = {
            let it = it.clone();
            let bus = it.bus.clone();
            let noise = Arc::new(Noise::default());
            let answer = move |question: Question| {
                let (it, noise) = (it.clone(), noise.clone());
                async move { it.answer(question, &noise).await }
            };
            let shutdown = shutdown.clone();
            async move { serve(&bus, VAULT_RELEASE, VAULT_GROUP, SLOTS, answer, shutdown).await }
        };
        let taking_in = it.take_in_loop(&shutdown);
        let (answered, ()) = tokio::join!(answering, taking_in);
        Ok(answered?)
    }

    async fn answer(&self, question: Question, noise: &Noise) -> Option<Bytes> {
        let signed = Signed::from_headers(question.header(KEY_ID), question.header(MAC));
        let checked = signed.and_then(|signed| {
            self.keys.borrow().verify_request(&question.payload, &signed).map(|()| signed)
        });
        if question.header(KEY_KIND) == Some(HOLDING) {
            // Nothing is given for it, so it needs no judgement but its signature.
            let holder = checked.ok().and_then(|_| holder_of(&question.payload))?;
            if let Err(error) = noted(&self.store, &holder).await {
                // Without an answer it says so again soon.
                tracing::debug!(%error, "the keys that a worker holds could not be noted");
                return None;
            }
            return Some(Bytes::new());
        }
        let reply = match (&checked, Request::decode(&question.payload)) {
            (Ok(_), Ok(request)) => self.release(&request).await,
            (Ok(_), Err(_)) => self.refuse(None, Refusal::BadRequest).await,
            (Err(_), request) => {
                // Whoever can reach the subject can say anything; noise must not fill the database.
                metrics::counter!("openwatch_vault_releases_total", "outcome" => "bad_signature")
                    .increment(1);
                if noise.is_worth_a_row() {
                    self.refuse(request.ok().as_ref(), Refusal::BadSignature).await;
                }
                return None;
            }
        };
        // Whoever cannot sign a question could not check an answer either: silence, and now and then an audit row.
        let signed = checked.ok()?;
        let reply = reply.encode();
        let answer = self.keys.borrow().sign_answer(&question.payload, &signed, &reply).ok()?;
        Some(frame(&answer, &reply))
    }

    async fn release(&self, request: &Request) -> Reply {
        match self.try_release(request).await {
            Ok(Ok(sealed)) => Reply::Sealed { sealed },
            Ok(Err(refusal)) => self.refuse(Some(request), refusal).await,
            Err(error) => {
                tracing::warn!(%error, scan.id = %request.scan, "a release waits for the database");
                Reply::Refused { code: Refusal::Unavailable.code().to_owned() }
            }
        }
    }

    /// Judges and seals what it sees, and says so if that still holds: nothing leaves unless its audit row is committed.
    async fn try_release(&self, request: &Request) -> Result<Result<Vec<u8>, Refusal>, StoreError> {
        let (scan, number) = (request.scan, request.attempt);
        loop {
            let Some((moment, attempt)) = attempts::attempt(&self.store, scan).await? else {
                return Ok(Err(Refusal::UnknownScan));
            };
            if let Err(refusal) = judge(&attempt, request) {
                return Ok(Err(refusal));
            }
            // Whose secret it is: that of the scanned host, or of the one it is reached through.
            let (owner, stored) = match request.jump {
                None => (attempt.host, attempt.credential.clone()),
                Some(jump) => (jump, credential::resolve(&self.store, jump).await?),
            };
            let Some(stored) = stored else { return Ok(Err(Refusal::NoCredential)) };
            let StoredSecret::Encrypted { ciphertext, .. } = &stored.secret else {
                let mut tx = self.store.begin().await?;
                if !self.encrypt(&mut tx, &stored).await? {
                    return Ok(Err(Refusal::DecryptionFailed));
                }
                tx.commit().await?;
                continue;
            };
            let Ok(secret) = self.keys.borrow().decrypt_secret(ciphertext, stored.id) else {
                return Ok(Err(Refusal::DecryptionFailed));
            };
            let Ok(public) = request.public_key.as_slice().try_into() else {
                return Ok(Err(Refusal::BadRequest));
            };
            let sealed = match request.jump {
                None => {
                    let result_key = self.keys.borrow().result_key(scan, number);
                    seal_release(public, &secret, &result_key, scan, number)
                }
                Some(jump) => seal_jump(public, &secret, scan, number, jump),
            };
            let Ok(sealed) = sealed else { return Ok(Err(Refusal::BadRequest)) };
            let mut out = Out::new(STAGE, scan.to_string());
            out.audit(
                &moment,
                &CredentialReleased {
                    credential_id: stored.id,
                    scan_id: scan,
                    host_id: owner,
                    attempt: number,
                    worker: clip(&request.worker),
                },
            );
            let told = out.told(&moment);
            if attempts::release(&self.store, moment, &attempt, (owner, &stored), &told).await? {
                metrics::counter!("openwatch_vault_releases_total", "outcome" => "released").increment(1);
                return Ok(Ok(sealed));
            }
        }
    }

    /// Encrypts a credential that waits sealed. Whether it could be read.
    async fn encrypt(&self, tx: &mut Tx<'_>, stored: &StoredCredential) -> Result<bool, StoreError> {
        let StoredSecret::Sealed(sealed) = &stored.secret else { return Ok(true) };
        // One look at the keys: they may change between two.
        let keys = self.keys.borrow().clone();
        let Ok(secret) = keys.open_credential(sealed, stored.id) else { return Ok(false) };
        let ciphertext = keys.encrypt_secret(&secret, stored.id);
        let key_id = keys.current().to_string();
        if credential::store_encrypted(tx, stored, &key_id, &ciphertext).await? {
            let mut out = Out::new(STAGE, stored.id.to_string());
            out.audit(tx, &CredentialStored { credential_id: stored.id, key_id });
            out.flush(tx).await?;
        }
        Ok(true)
    }

    async fn refuse(&self, request: Option<&Request>, refusal: Refusal) -> Reply {
        metrics::counter!("openwatch_vault_releases_total", "outcome" => refusal.code()).increment(1);
        let reply = Reply::Refused { code: refusal.code().to_owned() };
        let recorded = async {
            let tx = self.store.begin().await?;
            let cause = request.map_or_else(|| "vault".to_owned(), |r| r.scan.to_string());
            let mut out = Out::new(STAGE, cause);
            let event = CredentialRefused {
                scan_id: request.map(|r| r.scan),
                reason: refusal.code().to_owned(),
                worker: request.map(|r| clip(&r.worker)).unwrap_or_default(),
            };
            out.audit(&tx, &event);
            out.commit(tx).await
        };
        if let Err(error) = recorded.await {
            tracing::error!(%error, reason = refusal.code(), "a refused release could not be audited");
        }
        reply
    }

    async fn take_in_loop(&self, shutdown: &CancellationToken) {
        let mut listener = None;
        while !shutdown.is_cancelled() {
            self.pulse.tick();
            let taken = async { Ok::<_, StoreError>(self.take_in().await? || self.encrypt_again().await?) };
            match taken.await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "new credentials wait for the database");
                    listener = None;
                }
            }
            if listener.is_none() {
                listener = self.store.listen(&[listen::CREDENTIAL]).await.ok();
            }
            let called = async {
                match listener.as_mut() {
                    Some(calls) => calls.recv().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(POLL) => {}
                heard = called => if !heard { listener = None },
            }
        }
    }

    /// Encrypts credentials that wait sealed. Whether there may be more.
    async fn take_in(&self) -> Result<bool, StoreError> {
        let mut tx = self.store.begin().await?;
        let pending = credential::pending(&mut tx, BATCH).await?;
        let mut taken = 0;
        for stored in &pending {
            if self.encrypt(&mut tx, stored).await? {
                taken += 1;
            } else {
                tracing::error!(credential = stored.name, "a new credential was not sealed to this vault");
            }
        }
        tx.commit().await?;
        Ok(taken == BATCH as usize)
    }
}

impl Vault {
    /// Encrypts credentials that are under another key with the current one, a batch at a time. Whether there may be more.
    /// A crash leaves each one readable: it is under the one key or the other, and both are held until none is left.
    async fn encrypt_again(&self) -> Result<bool, StoreError> {
        let keys = self.keys.borrow().clone();
        let key_id = keys.current().to_string();
        let mut tx = self.store.begin().await?;
        let others = credential::under_other_key(&mut tx, &key_id, BATCH).await?;
        let (mut done, count) = (Vec::new(), others.len());
        for stored in others {
            let StoredSecret::Encrypted { ciphertext, .. } = &stored.secret else { continue };
            match keys.reencrypt_secret(ciphertext, stored.id) {
                Ok(Some(fresh)) => {
                    credential::store_encrypted(&mut tx, &stored, &key_id, &fresh).await?;
                    done.push(CredentialStored { credential_id: stored.id, key_id: key_id.clone() });
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::error!(%error, credential = stored.name, "a credential cannot be encrypted again");
                }
            }
        }
        let mut out = Out::new(STAGE, format!("key.{key_id}"));
        out.audit_many(&tx, &done);
        out.commit(tx).await?;
        Ok(count == BATCH as usize && !done.is_empty())
    }
}

/// Limits the audit rows about questions that nobody we know has signed.
#[derive(Default)]
struct Noise(Mutex<Option<(Instant, u32)>>);

impl Noise {
    const WINDOW: Duration = Duration::from_secs(10);
    const ROWS: u32 = 20;

    fn is_worth_a_row(&self) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (begun, rows) = window.get_or_insert_with(|| (Instant::now(), 0));
        if begun.elapsed() > Self::WINDOW {
            (*begun, *rows) = (Instant::now(), 0);
        }
        *rows += 1;
        *rows <= Self::ROWS
    }
}

/// Only the current attempt of an open scan, and only with the tag that its job was signed with.
fn judge(attempt: &Attempt, request: &Request) -> Result<(), Refusal> {
    if attempt.state.is_terminal() {
        return Err(Refusal::ScanClosed);
    }
    if attempt.attempt != request.attempt {
        return Err(Refusal::StaleAttempt);
    }
    let stored = attempt.tag.as_deref().and_then(|tag| <[u8; 32]>::try_from(tag).ok()).map(Tag::from_bytes);
    let asked = request.tag.parse::<Tag>().ok();
    match (stored, asked) {
        (Some(stored), Some(asked)) if stored == asked => {}
        _ => return Err(Refusal::TagMismatch),
    }
    // The job names the way that was set when it was signed; a secret goes only the way that is set now.
    match request.jump {
        Some(jump) if attempt.jump != Some(jump) => Err(Refusal::RouteChanged),
        _ => Ok(()),
    }
}

/// A name from outside, short enough for an audit row.
fn clip(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(128).collect()
}
