use uuid::Uuid;

use super::*;
use crate::keyring::{KeyNames, VaultKeys, issue_alerts, issue_api};
use crate::{Dek, Deks};

const SCAN: ScanId = ScanId(Uuid::from_u128(7));
const CRED: CredentialId = CredentialId(Uuid::from_u128(8));

fn secret() -> Secret {
    let mut secret = Secret::default();
    secret.password = Some("hunter2".into());
    secret.sudo_password = Some("root".into());
    secret
}

fn refusal<T>(result: Result<T, SealError>) -> Option<SealError> {
    result.err()
}

#[test]
fn a_release_opens_for_its_attempt_only() {
    let vault = VaultKeys::new(&Deks::single(Dek::generate()));
    let worker = EphemeralKey::generate();
    let result = vault.result_key(SCAN, 1);
    let sealed = seal_release(&worker.public(), &secret(), &result, SCAN, 1).unwrap();
    let (opened, key) = worker.open_release(&sealed, SCAN, 1).unwrap();
    assert_eq!(opened.password, secret().password);
    assert_eq!(opened.sudo_password, secret().sudo_password);
    assert_eq!(key.sign("final", "s", b"x"), result.sign("final", "s", b"x"));

    assert_eq!(refusal(worker.open_release(&sealed, SCAN, 2)), Some(SealError::Refused), "attempt");
    let other = ScanId(Uuid::from_u128(9));
    assert_eq!(refusal(worker.open_release(&sealed, other, 1)), Some(SealError::Refused), "scan");
    let stranger = EphemeralKey::generate();
    assert_eq!(refusal(stranger.open_release(&sealed, SCAN, 1)), Some(SealError::Refused), "recipient");
}

#[test]
fn a_jump_hosts_secret_opens_for_its_attempt_and_host_only_and_signs_nothing() {
    let worker = EphemeralKey::generate();
    let (jump, other) = (HostId(Uuid::from_u128(3)), HostId(Uuid::from_u128(4)));
    let sealed = seal_jump(&worker.public(), &secret(), SCAN, 1, jump).unwrap();
    assert_eq!(worker.open_jump(&sealed, SCAN, 1, jump).unwrap().password, secret().password);
    assert_eq!(refusal(worker.open_jump(&sealed, SCAN, 1, other)), Some(SealError::Refused), "host");
    assert_eq!(refusal(worker.open_jump(&sealed, SCAN, 2, jump)), Some(SealError::Refused), "attempt");
    assert_eq!(refusal(worker.open_release(&sealed, SCAN, 1)), Some(SealError::Refused), "no result key");
}

#[test]
fn every_changed_or_missing_byte_is_noticed() {
    let vault = VaultKeys::new(&Deks::single(Dek::generate()));
    let worker = EphemeralKey::generate();
    let sealed = seal_release(&worker.public(), &secret(), &vault.result_key(SCAN, 1), SCAN, 1).unwrap();
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 1;
        assert!(worker.open_release(&bad, SCAN, 1).is_err(), "byte {at}");
        assert!(worker.open_release(&sealed[..at], SCAN, 1).is_err(), "cut at {at}");
    }
    let zero = [0; 32];
    let low_order = seal_release(&zero, &secret(), &vault.result_key(SCAN, 1), SCAN, 1);
    assert_eq!(refusal(low_order), Some(SealError::BadRecipient));
}

#[test]
fn a_credential_opens_in_the_vault_it_was_sealed_to() {
    let deks = Deks::single(Dek::generate());
    let (api, vault) = (issue_api(&deks), VaultKeys::new(&deks));
    let sealed = api.seal_credential(&secret(), CRED).unwrap();
    assert_eq!(vault.open_credential(&sealed, CRED).unwrap().password, secret().password);
    let other = CredentialId(Uuid::from_u128(9));
    assert_eq!(refusal(vault.open_credential(&sealed, other)), Some(SealError::Refused));
    let stranger = VaultKeys::new(&Deks::single(Dek::generate()));
    assert_eq!(
        refusal(stranger.open_credential(&sealed, CRED)),
        Some(SealError::UnknownKey(vault.current()))
    );
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 1;
        assert!(vault.open_credential(&bad, CRED).is_err(), "byte {at}");
    }
}

#[test]
fn a_channel_opens_in_the_alerts_stage_alone_and_survives_a_rotation() {
    let (first, second) = ([1; 32], [2; 32]);
    let channel = ChannelId(Uuid::from_u128(4));
    let before = Deks::single(Dek::new(Key::copy_of(&first)));
    let during = Deks::new(Dek::new(Key::copy_of(&second)), vec![Dek::new(Key::copy_of(&first))]);
    let after = Deks::single(Dek::new(Key::copy_of(&second)));
    let sealed = issue_api(&before).seal_channel(b"{}", channel).unwrap();
    assert_eq!(**issue_alerts(&before).open_channel(&sealed, channel).unwrap(), *b"{}");
    let other = ChannelId(Uuid::from_u128(5));
    assert!(matches!(issue_alerts(&before).open_channel(&sealed, other), Err(SealError::Refused)));
    let old = before.current();
    assert!(
        matches!(issue_alerts(&after).open_channel(&sealed, channel), Err(SealError::UnknownKey(id)) if id == old)
    );
    let again = issue_alerts(&during).reseal_channel(&sealed, channel).unwrap();
    assert_eq!(**issue_alerts(&after).open_channel(&again, channel).unwrap(), *b"{}");
}

/// Sealing is random, so what is frozen are sealed values. They and the public key were computed independently, with
/// Python's `cryptography` and RFC 9180 written out, from the layouts in the module's text.
#[test]
fn golden_values_open() {
    let worker = EphemeralKey(Key::copy_of(&[5; 32]));
    assert_eq!(
        hex::encode(worker.public()),
        "50a61409b1ddd0325e9b16b700e719e9772c07000b1bd7786e907c653d20495d"
    );
    let sealed = hex::decode(
        "01f5b2d6e60f9477e310c2982daaa6c9136c108a1777c5947e448fa37d681745576653657dc3d04e\
         e98f620c382a43d503e0b212024d90598a6dccc6ca0115051cdcb3076d3bebaa7d5473e3cafde2d4\
         1b0b397dd4322cbf31cc0b1bef00804b1808c4f98d23a6a939db87a3e22f61e5",
    )
    .unwrap();
    let (opened, key) = worker.open_release(&sealed, SCAN, 1).unwrap();
    assert_eq!(opened.sudo_password.as_deref(), Some("root"));
    assert_eq!((key.kid, key.key.bytes()), (KeyId([2; 8]), &[3; 32]));

    let vault = VaultKeys::new(&Deks::single(Dek::new(Key::copy_of(&[1; 32]))));
    let sealed = hex::decode(
        "019ece6b51b92ba7aff5b2d6e60f9477e310c2982daaa6c9136c108a1777c5947e448fa37d681745\
         57862480b6fce4ccfcfa41c8da95d3b60f7de8f515cb49c233e021c593b18a9484ea87ddfba1af5b",
    )
    .unwrap();
    assert_eq!(vault.open_credential(&sealed, CRED).unwrap().password.as_deref(), Some("hunter2"));
}
