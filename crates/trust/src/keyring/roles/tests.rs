use uuid::Uuid;

use super::*;
use crate::Dek;
use crate::mac::Tag;

fn job(host: &str, framework: &str, policy: &str, at: i64) -> Vec<u8> {
    format!(r#"{{"host":"{host}","framework":"{framework}","policy":"{policy}","enqueued_at":{at}}}"#)
        .into_bytes()
}

/// JOB-05: any one of the four fields, the key, or the tag.
#[test]
fn every_alteration_of_a_job_is_refused() {
    let deks = Deks::single(Dek::generate());
    let (scheduler, worker) = (issue_scheduler(&deks), issue_executor(&deks));
    let payload = job("h1", "*", "1.0.0", 1);
    let signed = scheduler.sign_job("manual", &payload);
    assert_eq!(worker.verify_job("manual", &payload, &signed), Ok(()));

    let altered = [
        job("h2", "*", "1.0.0", 1),
        job("h1", "cis", "1.0.0", 1),
        job("h1", "*", "1.0.1", 1),
        job("h1", "*", "1.0.0", 2),
    ];
    for payload in altered {
        assert_eq!(worker.verify_job("manual", &payload, &signed), Err(MacError::Mismatch));
    }
    assert_eq!(worker.verify_job("scheduled", &payload, &signed), Err(MacError::Mismatch), "lane");
    for bit in 0..256 {
        let mut tag = *signed.tag.as_bytes();
        tag[bit / 8] ^= 1 << (bit % 8);
        let forged = Signed { tag: Tag::from_bytes(tag), ..signed };
        assert_eq!(worker.verify_job("manual", &payload, &forged), Err(MacError::Mismatch), "bit {bit}");
    }
    let stranger = issue_scheduler(&Deks::single(Dek::generate())).sign_job("manual", &payload);
    assert_eq!(worker.verify_job("manual", &payload, &stranger), Err(MacError::UnknownKey));
    let disguised = Signed { kid: signed.kid, ..stranger };
    assert_eq!(worker.verify_job("manual", &payload, &disguised), Err(MacError::Mismatch), "key");
}

#[test]
fn a_standing_worker_key_signs_no_outcome() {
    let deks = Deks::single(Dek::generate());
    let (worker, writer, vault) = (issue_executor(&deks), issue_writer(&deks), VaultKeys::new(&deks));
    let scan = ScanId(Uuid::from_u128(1));
    let standing = worker.sign_result("final", "s", b"x");
    assert_eq!(writer.verify_worker("final", "s", b"x", &standing), Ok(()));
    assert_eq!(writer.verify_attempt((scan, 1), "final", "s", b"x", &standing), Err(MacError::Mismatch));

    let released = vault.result_key(scan, 1).sign("final", "s", b"x");
    assert_eq!(writer.verify_attempt((scan, 1), "final", "s", b"x", &released), Ok(()));
    assert_eq!(writer.verify_attempt((scan, 2), "final", "s", b"x", &released), Err(MacError::Mismatch));
    assert_eq!(writer.verify_worker("final", "s", b"x", &released), Err(MacError::Mismatch));

    let request = worker.sign_request(b"ask");
    assert_eq!(vault.verify_request(b"ask", &request), Ok(()));
    assert_eq!(vault.verify_request(b"asks", &request), Err(MacError::Mismatch));
    assert_eq!(vault.verify_request(b"x", &standing), Err(MacError::Mismatch), "a result is no request");

    let answer = vault.sign_answer(b"ask", &request, b"closed").unwrap();
    assert_eq!(worker.verify_answer(b"ask", b"closed", &answer), Ok(()));
    assert_eq!(worker.verify_answer(b"ask", b"open", &answer), Err(MacError::Mismatch));
    assert_eq!(worker.verify_answer(b"asked before", b"closed", &answer), Err(MacError::Mismatch));
}

/// The rotation that [`Deks`] describes, step by step: at no step is a fresh job refused.
#[test]
fn keys_rotate_without_refusing_anything() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["old", "new"].map(|name| directory.path().join(name));
    Dek::generate().save(&paths[0]).unwrap();
    Dek::generate().save(&paths[1]).unwrap();
    let [old, new] = &paths;
    let none: [&std::path::Path; 0] = [];
    let before = Deks::load(old, &none).unwrap();
    let announced = Deks::load(old, &[new]).unwrap();
    let switched = Deks::load(new, &[old]).unwrap();
    let after = Deks::load(new, &none).unwrap();

    let signed_before = issue_scheduler(&before).sign_job("manual", b"job");
    let signed_after = issue_scheduler(&switched).sign_job("manual", b"job");
    assert_ne!(signed_before.kid, signed_after.kid);
    for worker in [issue_executor(&announced), issue_executor(&switched)] {
        for signed in [&signed_before, &signed_after] {
            assert_eq!(worker.verify_job("manual", b"job", signed), Ok(()));
        }
    }
    assert_eq!(
        issue_executor(&after).verify_job("manual", b"job", &signed_before),
        Err(MacError::UnknownKey)
    );
    assert_eq!(issue_executor(&announced).current(), before.current());
    assert_eq!(issue_executor(&announced).key_ids(), issue_executor(&switched).key_ids());

    let credential = CredentialId(Uuid::from_u128(9));
    let stored = VaultKeys::new(&before).encrypt_column(b"secret", credential, "password");
    let sealed = issue_api(&before).seal_credential(&Secret::default(), credential).unwrap();
    let vault = VaultKeys::new(&switched);
    assert_eq!(**vault.decrypt_column(&stored, credential, "password").unwrap(), *b"secret");
    assert!(vault.open_credential(&sealed, credential).is_ok());
    assert!(VaultKeys::new(&after).decrypt_column(&stored, credential, "password").is_err());
}

#[test]
fn the_writer_understands_attempts_released_before_a_rotation() {
    let (first, second) = (Dek::generate(), Dek::generate());
    let scan = ScanId(Uuid::from_u128(1));
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = ["one", "two"].map(|name| directory.path().join(name));
    first.save(&one).unwrap();
    second.save(&two).unwrap();
    let released = VaultKeys::new(&Deks::single(first)).result_key(scan, 1).sign("final", "s", b"x");
    let writer = issue_writer(&Deks::load(&two, &[one]).unwrap());
    assert_eq!(writer.verify_attempt((scan, 1), "final", "s", b"x", &released), Ok(()));
}
