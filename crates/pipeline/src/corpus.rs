//! Corpora on the bus: publish signed, fetch verified, keep the last few loaded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use openwatch_bus::subject::BUCKET_CORPORA;
use openwatch_bus::{Bus, BusError};
use openwatch_rules::{Corpus, CorpusFile, Variables};
use openwatch_trust::corpus::{CorpusFile as BundleFile, sign_bundle, verify_bundle};
use openwatch_trust::revocation::Revocations;
use openwatch_trust::{PolicyKey, TrustedKeys};
use tokio::sync::Mutex;

use crate::SignerWatch;
use crate::loaded::Loaded;

/// Largest bundle that is fetched or published, compressed.
const BUNDLE_LIMIT: usize = 64 << 20;
/// Largest bundle when unpacked.
const UNPACKED_LIMIT: usize = 256 << 20;
/// Corpora kept loaded: the one in force, its predecessor, and room for variables that differ between hosts.
const KEPT: usize = 8;

/// Why a corpus cannot be used or published.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// Nothing under that digest.
    #[error("failed to find corpus {digest}; `openwatch rules publish` puts one where workers fetch it")]
    Missing {
        /// As named by the job.
        digest: String,
    },
    /// Unsigned, signed by someone unknown, or not what its digest says.
    #[error("failed to trust corpus {digest}: {reason}")]
    Untrusted {
        /// As named by the job.
        digest: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Not readable.
    #[error("failed to read corpus {digest}: {reason}")]
    Unreadable {
        /// As named by the job.
        digest: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Digest that jobs and policies name it by.
    pub digest: String,
    /// Usable rules.
    pub rules: u32,
    /// Compressed bytes.
    pub bytes: u64,
    /// Fingerprint of the key that signed.
    pub key_fingerprint: String,
}

/// Signs a corpus and puts it under its digest. Doing so twice is harmless.
///
/// # Errors
/// The bus, or a corpus that is too large.
pub async fn publish(bus: &Bus, files: &[CorpusFile], key: &PolicyKey) -> Result<Published, CorpusError> {
    let corpus = Corpus::load(files, &Variables::builtin());
    let digest = corpus.digest().to_owned();
    let unreadable = |reason: String| CorpusError::Unreadable { digest: digest.clone(), reason };
    let bundle: Vec<_> =
        files.iter().map(|f| BundleFile { path: f.path.clone(), text: f.text.clone() }).collect();
    let signed = sign_bundle(&digest, bundle, key).map_err(|e| unreadable(e.to_string()))?;
    let packed = zstd::bulk::compress(&signed, 9).map_err(|e| unreadable(e.to_string()))?;
    if packed.len() > BUNDLE_LIMIT {
        return Err(unreadable(format!("{} bytes are more than the {BUNDLE_LIMIT} allowed", packed.len())));
    }
    let bytes = packed.len() as u64;
    bus.put_object(BUCKET_CORPORA, &digest, packed.into()).await?;
    Ok(Published {
        rules: corpus.rules().count() as u32,
        bytes,
        key_fingerprint: key.fingerprint().to_string(),
        digest,
    })
}

/// Whose signatures count, over policies and corpora alike.
#[derive(Clone, Debug)]
pub struct Signers {
    /// Keys that count.
    pub trusted: TrustedKeys,
    /// Keys that no longer count.
    pub revoked: Revocations,
}

/// What makes two loaded corpora different: the digest and the variables.
type Key = (String, BTreeMap<String, String>);

/// Fetches corpora for a worker. Memory only: a worker writes no file.
pub struct Corpora {
    bus: Bus,
    signers: SignerWatch,
    loaded: Mutex<VecDeque<(Key, Arc<Loaded>)>>,
}

impl Corpora {
    /// Trusting these signers.
    pub fn new(bus: Bus, signers: SignerWatch) -> Self {
        Self { bus, signers, loaded: Mutex::default() }
    }

    /// The corpus of that digest with these variables on top of its defaults.
    ///
    /// # Errors
    /// Missing, untrusted or unreadable.
    pub async fn get(
        &self,
        digest: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<Arc<Loaded>, CorpusError> {
        let key = (digest.to_owned(), variables.clone());
        // Held over the fetch on purpose: a fleet's worth of jobs with a new digest fetches it once.
        let mut loaded = self.loaded.lock().await;
        if let Some((_, corpus)) = loaded.iter().find(|(k, _)| *k == key) {
            return Ok(corpus.clone());
        }
        let corpus = Arc::new(Loaded::new(self.fetch(digest, variables).await?));
        if loaded.len() == KEPT {
            loaded.pop_front();
        }
        loaded.push_back((key, corpus.clone()));
        Ok(corpus)
    }

    async fn fetch(&self, digest: &str, variables: &BTreeMap<String, String>) -> Result<Corpus, CorpusError> {
        let unreadable = |reason: String| CorpusError::Unreadable { digest: digest.to_owned(), reason };
        let untrusted = |reason: String| CorpusError::Untrusted { digest: digest.to_owned(), reason };
        let packed = self.bus.get_object(BUCKET_CORPORA, digest, BUNDLE_LIMIT).await?;
        let packed = packed.ok_or_else(|| CorpusError::Missing { digest: digest.to_owned() })?;
        let bytes = zstd::bulk::decompress(&packed, UNPACKED_LIMIT).map_err(|e| unreadable(e.to_string()))?;
        let signers = self.signers.fresh().map_err(|e| untrusted(e.to_string()))?;
        let verified = verify_bundle(&bytes, digest, &signers.trusted, &signers.revoked);
        let verified = verified.map_err(|e| untrusted(e.to_string()))?;
        let files: Vec<_> =
            verified.files.into_iter().map(|f| CorpusFile { path: f.path, text: f.text }).collect();
        let told = |errors: Vec<openwatch_rules::VariableError>| {
            unreadable(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        };
        let variables = Variables::builtin().with(variables).map_err(told)?;
        let corpus = Corpus::load(&files, &variables);
        if corpus.digest() != digest {
            return Err(untrusted(format!("its files have the digest {}", corpus.digest())));
        }
        Ok(corpus)
    }
}
