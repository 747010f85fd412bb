//! An installation's own certificate authority: TLS between its parts without anybody else's.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};
use zeroize::{Zeroize, Zeroizing};

use crate::files::{KeyFileError, create_secret, read_public, read_secret, replace_public, replace_secret};

/// Names are compared without regard to case: a certificate for `openwatch` must not look as if it had signed itself.
const NAME: &str = "OpenWatch authority";
const AUTHORITY_YEARS: i64 = 20;
const CERTIFICATE_YEARS: i64 = 2;

/// Why no certificate was made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file of the authority, or one to write.
    #[error(transparent)]
    File(#[from] KeyFileError),
    /// A name that cannot stand in a certificate, or a key that is none.
    #[error("make a certificate for `{name}`: {source}")]
    Certificate {
        /// For whom.
        name: String,
        /// What is wrong.
        source: rcgen::Error,
    },
}

/// A key that signs certificates, in a directory of its own: `ca.key` (mode 0600) and `ca.crt`.
pub struct Authority {
    key: KeyPair,
    certificate: String,
}

impl Authority {
    /// The authority of this directory; made when there is none.
    ///
    /// # Errors
    /// Its files cannot be read or written, or the key is open to others.
    pub fn open(dir: &Path, now: OffsetDateTime) -> Result<Self, AuthorityError> {
        let (key_file, certificate_file) = (dir.join("ca.key"), dir.join("ca.crt"));
        let named = |source| AuthorityError::Certificate { name: "the authority".to_owned(), source };
        if !key_file.exists() {
            let key = KeyPair::generate().map_err(named)?;
            let certificate = params(now).self_signed(&key).map_err(named)?;
            // The key last: whoever finds it finds the certificate too.
            replace_public(&certificate_file, certificate.pem().as_bytes())?;
            create_secret(&key_file, Zeroizing::new(key.serialize_pem()).as_bytes())?;
        }
        let pem = text(&key_file, read_secret(&key_file)?)?;
        let key = KeyPair::from_pem(&pem)
            .map_err(|_| KeyFileError::malformed(&key_file, "not a private key in PEM"))?;
        let certificate = text(&certificate_file, read_public(&certificate_file)?)?.to_string();
        Ok(Self { key, certificate })
    }

    /// Writes `tls.crt`, `tls.key` (mode 0600) and `ca.crt` into a directory: proof of this name, as client and as server
    /// under the given host names and addresses.
    ///
    /// # Errors
    /// A host name is none, or a file cannot be written.
    pub fn issue(
        &self,
        name: &str,
        hosts: &[String],
        now: OffsetDateTime,
        dir: &Path,
    ) -> Result<[PathBuf; 3], AuthorityError> {
        let named = |source| AuthorityError::Certificate { name: name.to_owned(), source };
        let mut leaf = CertificateParams::new(hosts).map_err(named)?;
        leaf.distinguished_name = common_name(name);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.use_authority_key_identifier_extension = true;
        (leaf.not_before, leaf.not_after) = validity(now, CERTIFICATE_YEARS);
        let mut key = KeyPair::generate().map_err(named)?;
        let issuer = Issuer::new(params(now), &self.key);
        let certificate = leaf.signed_by(&key, &issuer).map_err(named)?;
        let files = ["tls.crt", "tls.key", "ca.crt"].map(|file| dir.join(file));
        replace_public(&files[2], self.certificate.as_bytes())?;
        let pem = Zeroizing::new(key.serialize_pem());
        key.zeroize();
        replace_secret(&files[1], pem.as_bytes())?;
        replace_public(&files[0], certificate.pem().as_bytes())?;
        Ok(files)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

fn params(now: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(now, AUTHORITY_YEARS);
    params
}

/// From an hour ago, so that a clock which is a little behind believes it already.
fn validity(now: OffsetDateTime, years: i64) -> (OffsetDateTime, OffsetDateTime) {
    (now - Duration::HOUR, now + Duration::days(365 * years))
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn text(path: &Path, bytes: Zeroizing<Vec<u8>>) -> Result<Zeroizing<String>, KeyFileError> {
    let text = std::str::from_utf8(&bytes).map_err(|_| KeyFileError::malformed(path, "not PEM"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_authority_signs_for_all_and_keeps_its_key_to_itself() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, now) = (tempfile::tempdir().unwrap(), OffsetDateTime::UNIX_EPOCH + Duration::days(20_000));
        let first = Authority::open(dir.path(), now).unwrap();
        let again = Authority::open(dir.path(), now).unwrap();
        assert_eq!(first.certificate, again.certificate);
        let out = tempfile::tempdir().unwrap();
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let [_, key, ca] = again.issue("login_writer", &hosts, now, out.path()).unwrap();
        assert_eq!(std::fs::read_to_string(ca).unwrap(), first.certificate);
        for secret in [key, dir.path().join("ca.key")] {
            assert_eq!(std::fs::metadata(secret).unwrap().permissions().mode() & 0o777, 0o600);
        }
        let refused = again.issue("x", &["nö".to_owned()], now, out.path()).unwrap_err();
        assert!(refused.to_string().contains("`x`"), "{refused}");
        std::fs::set_permissions(dir.path().join("ca.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Authority::open(dir.path(), now),
            Err(AuthorityError::File(KeyFileError::TooOpen { .. }))
        ));
    }
}
