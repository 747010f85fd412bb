//! No error, however it is printed, says anything about a secret (CRD-13).

use std::fmt::{Debug, Display};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use openwatch_model::credential::Secret;
use openwatch_model::{CredentialId, ScanId};
use uuid::Uuid;

use crate::keyring::{issue_api, issue_executor, issue_scheduler};
use crate::nats_user::NatsUser;
use crate::seal::{EphemeralKey, seal_release};
use crate::*;

const CANARY: &str = "canary-5ecret-do-not-print";

fn assert_silent(error: impl Debug + Display, secrets: &[String]) {
    let shown = format!("{error} {error:?} {error:#?}");
    for secret in secrets {
        assert!(!shown.contains(secret.as_str()), "{shown}");
    }
}

fn write(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn errors_about_secret_values_do_not_show_them() {
    let deks = Deks::single(Dek::generate());
    let vault = VaultKeys::new(&deks);
    let secrets = [CANARY.to_owned(), hex::encode(CANARY)];
    let mut secret = Secret::default();
    secret.password = Some(CANARY.into());
    let (scan, credential) = (ScanId(Uuid::from_u128(1)), CredentialId(Uuid::from_u128(2)));
    let other = CredentialId(Uuid::from_u128(3));

    let stored = vault.encrypt_column(CANARY.as_bytes(), credential, "password");
    let sealed = issue_api(&deks).seal_credential(&secret, credential).unwrap();
    let worker = EphemeralKey::generate();
    let released = seal_release(&worker.public(), &secret, &vault.result_key(scan, 1), scan, 1).unwrap();
    for bytes in [&stored, &sealed, &released] {
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
    }
    assert_silent(vault.decrypt_column(&stored, other, "password").err().unwrap(), &secrets);
    assert_silent(vault.decrypt_column(CANARY.as_bytes(), credential, "password").err().unwrap(), &secrets);
    assert_silent(vault.open_credential(&sealed, other).err().unwrap(), &secrets);
    assert_silent(vault.open_credential(CANARY.as_bytes(), credential).err().unwrap(), &secrets);
    assert_silent(worker.open_release(&released, scan, 2).err().unwrap(), &secrets);
    let signed = issue_scheduler(&deks).sign_job("manual", CANARY.as_bytes());
    assert_silent(issue_executor(&deks).verify_job("manual", b"x", &signed).unwrap_err(), &secrets);
    assert_eq!(format!("{secret:?}"), "Secret(..)");
}

/// Whatever lies where a key file should be, its content stays there.
#[test]
fn errors_about_key_files_do_not_show_their_content() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let contents = [
        CANARY.to_owned(),
        format!("\"{CANARY}\""),
        format!("{{\"{CANARY}\": 1}}"),
        format!("[\"{CANARY}\"]"),
        format!(r#"{{"openwatch_keys": "{CANARY}", "current": "{CANARY}", "keys": []}}"#),
        format!(r#"{{"openwatch_keys": "executor", "current": "{CANARY}", "keys": []}}"#),
        format!(r#"{{"openwatch_keys": "executor", "current": "00", "keys": [{{"id": "{CANARY}"}}]}}"#),
        format!(r#"{{"name": "n", "openwatch_policy_key": "{CANARY}"}}"#),
        format!(r#"{{"name": "n", "openwatch_policy_key": {{"{CANARY}": 1}}}}"#),
        format!("SU{CANARY}"),
        format!(r#"[{{"name": "n", "public_key": "{CANARY}"}}]"#),
    ];
    let secrets = [CANARY.to_owned()];
    for content in contents {
        write(&path, content.as_bytes());
        assert_silent(Dek::load(&path).err().unwrap(), &secrets);
        assert_silent(ExecutorKeys::load(&path).err().unwrap(), &secrets);
        assert_silent(SchedulerKeys::load(&path).err().unwrap(), &secrets);
        assert_silent(WriterKeys::load(&path).err().unwrap(), &secrets);
        assert_silent(ApiKeys::load(&path).err().unwrap(), &secrets);
        assert_silent(PolicyKey::load(&path).err().unwrap(), &secrets);
        assert_silent(NatsUser::load(&path).err().unwrap(), &secrets);
        assert_silent(TrustedKeys::load(&path).err().unwrap(), &secrets);
    }
}

/// Fails to compile when a type has a trait: both impls of `Ambiguous` would then fit.
macro_rules! has_no {
    ($trait:path: $($type:ty),+) => {$(
        const _: fn() = || {
            trait Ambiguous<A> {
                fn item() {}
            }
            impl<T: ?Sized> Ambiguous<()> for T {}
            struct Has;
            impl<T: ?Sized + $trait> Ambiguous<Has> for T {}
            let _ = <$type as Ambiguous<_>>::item;
        };
    )+};
}

has_no!(Clone: Dek, Deks, VaultKeys, ExecutorKeys, SchedulerKeys, WriterKeys, ResultKey, PolicyKey);
has_no!(Clone: EphemeralKey, NatsUser, token::ApiToken, Secret);
has_no!(Debug: Dek, Deks, VaultKeys, ExecutorKeys, SchedulerKeys, WriterKeys, ResultKey, PolicyKey);
has_no!(Debug: EphemeralKey, NatsUser, token::ApiToken);
has_no!(serde::Serialize: Dek, Deks, VaultKeys, ExecutorKeys, SchedulerKeys, WriterKeys, ResultKey, PolicyKey);
has_no!(serde::Serialize: EphemeralKey, NatsUser, token::ApiToken);
