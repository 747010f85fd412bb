//! Signed corpora.
//!
//! A bundle is one JSON document, the same bytes for the same rules wherever it is made:
//! `{"digest":"<hex>","files":[{"path":"...","text":"..."},...]}`, files sorted by path, no white space. It travels in a
//! DSSE envelope, `{"payloadType":...,"payload":"<base64>","signatures":[...]}`, so that one object holds all.
//!
//! The digest is what `rules` computes over a corpus; here it is only carried and signed. Whoever verifies a bundle must
//! compute it again from the files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::dsse::{self, SignatureEntry, SignatureRefused, Signatures};
use crate::revocation::Revocations;
use crate::signer::{Fingerprint, PolicyKey, TrustedKeys};

/// Payload type of a corpus bundle.
pub const CORPUS_TYPE: &str = "application/vnd.openwatch.corpus+json";
/// Largest envelope that is read.
pub const BUNDLE_LIMIT: usize = 64 * 1024 * 1024;

/// One file of a corpus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CorpusFile {
    /// Where it lies under the corpus directory: relative, `/` between parts, no `.` or `..`.
    pub path: String,
    /// Its content.
    pub text: String,
}

/// A corpus whose signature counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedCorpus {
    /// The digest that its publisher computed; compute it again.
    pub digest: String,
    /// Its files, sorted by path.
    pub files: Vec<CorpusFile>,
    /// The key that verified it.
    pub key_fingerprint: Fingerprint,
}

/// Why a corpus cannot be signed or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CorpusRefused {
    /// More than [`BUNDLE_LIMIT`].
    #[error("bundle the corpus: it has more than 64 MiB")]
    TooLarge,
    /// Not an envelope, or not a bundle in it.
    #[error("read the corpus bundle: it is damaged, or no corpus bundle")]
    Malformed,
    /// No signature counts.
    #[error("accept the corpus bundle: {0}")]
    Signature(#[from] SignatureRefused),
    /// Another corpus than the one that was asked for.
    #[error("accept the corpus bundle: it holds another corpus than {expected}")]
    WrongDigest {
        /// The digest that was asked for.
        expected: String,
    },
    /// A path that leads out of the corpus, or the same path twice.
    #[error("bundle the corpus: `{0}` is listed twice or is not a plain relative path")]
    BadPath(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bundle {
    digest: String,
    files: Vec<CorpusFile>,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: String,
    signatures: Vec<SignatureEntry>,
}

/// Signs a corpus; the bytes of the envelope. The order of the files does not matter.
///
/// # Errors
/// `TooLarge` or `BadPath`.
pub fn sign_bundle(
    digest: &str,
    mut files: Vec<CorpusFile>,
    key: &PolicyKey,
) -> Result<Vec<u8>, CorpusRefused> {
    files.sort_by(|a, b| a.path.cmp(&b.path));
    check_paths(&files)?;
    let payload = dsse::to_json(&Bundle { digest: digest.to_owned(), files }, false);
    let Signatures { payload_type, signatures } = dsse::sign_entry(CORPUS_TYPE, &payload, key);
    let envelope = Envelope { payload_type, payload: STANDARD.encode(payload), signatures };
    let bytes = dsse::to_json(&envelope, false);
    if bytes.len() > BUNDLE_LIMIT {
        return Err(CorpusRefused::TooLarge);
    }
    Ok(bytes)
}

/// Verifies an envelope and that it holds the corpus asked for; nothing in it is believed before its signature.
///
/// # Errors
/// See [`CorpusRefused`].
pub fn verify_bundle(
    envelope: &[u8],
    digest: &str,
    trusted: &TrustedKeys,
    revoked: &Revocations,
) -> Result<VerifiedCorpus, CorpusRefused> {
    if envelope.len() > BUNDLE_LIMIT {
        return Err(CorpusRefused::TooLarge);
    }
    let Envelope { payload_type, payload, signatures } =
        serde_json::from_slice(envelope).map_err(|_| CorpusRefused::Malformed)?;
    let payload = STANDARD.decode(payload).map_err(|_| CorpusRefused::Malformed)?;
    let signatures = Signatures { payload_type, signatures };
    let key_fingerprint = dsse::verify_entries(CORPUS_TYPE, &payload, &signatures, trusted, revoked)?;
    let bundle: Bundle = serde_json::from_slice(&payload).map_err(|_| CorpusRefused::Malformed)?;
    check_paths(&bundle.files)?;
    if bundle.digest != digest {
        return Err(CorpusRefused::WrongDigest { expected: digest.to_owned() });
    }
    Ok(VerifiedCorpus { digest: bundle.digest, files: bundle.files, key_fingerprint })
}

/// Workers write no files, but whoever unpacks a bundle one day must not be led out of a directory.
fn check_paths(files: &[CorpusFile]) -> Result<(), CorpusRefused> {
    for (index, file) in files.iter().enumerate() {
        let sorted = index == 0 || files[index - 1].path < file.path;
        let plain = file.path.split('/').all(|part| {
            !matches!(part, "" | "." | "..")
                && !part.contains(['\\', '\0'])
                && !part.contains(char::is_control)
        });
        if !sorted || !plain {
            return Err(CorpusRefused::BadPath(file.path.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> CorpusFile {
        CorpusFile { path: path.into(), text: text.into() }
    }

    fn files() -> Vec<CorpusFile> {
        vec![file("ssh/root.yml", "id: a\n"), file("defaults.yml", "x: \"é\"\n")]
    }

    #[test]
    fn a_bundle_comes_back_sorted_and_is_always_the_same() {
        let key = PolicyKey::generate("k");
        let trusted = TrustedKeys::new(vec![key.trusted()]).unwrap();
        let bundle = sign_bundle("d1", files(), &key).unwrap();
        assert_eq!(bundle, sign_bundle("d1", files().into_iter().rev().collect(), &key).unwrap());
        let verified = verify_bundle(&bundle, "d1", &trusted, &Revocations::none()).unwrap();
        assert_eq!(verified.files, [files()[1].clone(), files()[0].clone()]);
        assert_eq!((verified.digest.as_str(), verified.key_fingerprint), ("d1", key.fingerprint()));
    }

    #[test]
    fn the_payload_is_frozen() {
        let bundle = sign_bundle("d1", files(), &PolicyKey::from_seed("k", [9; 32])).unwrap();
        let envelope: Envelope = serde_json::from_slice(&bundle).unwrap();
        assert_eq!(envelope.payload_type, CORPUS_TYPE);
        let payload = STANDARD.decode(envelope.payload).unwrap();
        assert_eq!(
            String::from_utf8(payload).unwrap(),
            r#"{"digest":"d1","files":[{"path":"defaults.yml","text":"x: \"é\"\n"},{"path":"ssh/root.yml","text":"id: a\n"}]}"#
        );
    }

    #[test]
    fn what_is_not_the_corpus_asked_for_is_refused() {
        let [key, other] = ["key", "other"].map(PolicyKey::generate);
        let trusted = TrustedKeys::new(vec![key.trusted(), other.trusted()]).unwrap();
        let none = Revocations::none();
        let bundle = sign_bundle("d1", files(), &key).unwrap();
        let wrong = verify_bundle(&bundle, "d2", &trusted, &none);
        assert_eq!(wrong, Err(CorpusRefused::WrongDigest { expected: "d2".into() }));

        let (list, signature) = none.revoke(key.fingerprint(), &other);
        let revoked = Revocations::verify(&list, &signature, &trusted, &none).unwrap();
        let verdict = verify_bundle(&bundle, "d1", &trusted, &revoked);
        assert_eq!(verdict, Err(SignatureRefused::Revoked(key.fingerprint()).into()));

        let mut envelope: Envelope = serde_json::from_slice(&bundle).unwrap();
        let forged = STANDARD.decode(&envelope.payload).unwrap();
        let forged = String::from_utf8(forged).unwrap().replace("id: a", "id: b");
        envelope.payload = STANDARD.encode(forged);
        let verdict = verify_bundle(&dsse::to_json(&envelope, false), "d1", &trusted, &none);
        assert_eq!(verdict, Err(SignatureRefused::Invalid(key.fingerprint()).into()));
        // A policy signature over the same bytes is no corpus signature.
        envelope.payload_type = crate::policy::POLICY_TYPE.into();
        assert!(verify_bundle(&dsse::to_json(&envelope, false), "d1", &trusted, &none).is_err());
        assert_eq!(verify_bundle(b"{}", "d1", &trusted, &none), Err(CorpusRefused::Malformed));
    }

    #[test]
    fn paths_stay_inside() {
        let key = PolicyKey::generate("k");
        for path in ["../x", "/x", "a//b", "a/./b", "", "a\\b", "a\nb", "a/.."] {
            let verdict = sign_bundle("d", vec![file(path, "")], &key);
            assert_eq!(verdict, Err(CorpusRefused::BadPath(path.into())), "{path:?}");
        }
        let twice = sign_bundle("d", vec![file("a", "1"), file("a", "2")], &key);
        assert_eq!(twice, Err(CorpusRefused::BadPath("a".into())));
    }
}
