use std::time::Duration;

use openwatch_model::host::HostKeyMode;
use openwatch_model::score::ComplianceState;

use super::*;

struct World {
    key: PolicyKey,
    other: PolicyKey,
    trusted: TrustedKeys,
}

fn world() -> World {
    let [key, other] = ["key", "other"].map(PolicyKey::generate);
    let trusted = TrustedKeys::new(vec![key.trusted(), other.trusted()]).unwrap();
    World { key, other, trusted }
}

/// Signs whatever it is given, as an author with a key but without our tools could.
fn raw_sign(document: &[u8], key: &PolicyKey) -> Vec<u8> {
    dsse::sign(POLICY_TYPE, document, key)
}

fn revoking(world: &World) -> Revocations {
    let (list, signature) = Revocations::none().revoke(world.key.fingerprint(), &world.other);
    Revocations::verify(&list, &signature, &world.trusted, &Revocations::none()).unwrap()
}

#[test]
fn the_default_policy_is_signed_and_accepted() {
    let world = world();
    let document = default_policy_yaml().as_bytes();
    let signature = sign(document, &world.key).unwrap();
    let verified = verify(document, &signature, &world.trusted, &Revocations::none(), None).unwrap();
    assert_eq!((verified.version.as_str(), verified.unchanged), ("1.0.0", false));
    assert_eq!(verified.key_fingerprint, world.key.fingerprint());
    assert_eq!(verified.document, document);
    assert!(verified.clamps.is_empty());
    assert_eq!(verified.policy.host_key_mode, HostKeyMode::Tofu);
    assert_eq!(verified.policy.timeout, Duration::from_secs(600));
    let minutes = ComplianceState::ALL.map(|state| verified.policy.ladder.0[&state]);
    assert_eq!(minutes, [60, 60, 60, 720, 1440]);
}

/// POL-04 and POL-18, each refusal with its class; signatures are good unless the row is about them.
#[test]
fn every_refusal_has_its_class() {
    use RefusalClass::*;
    let world = world();
    let stranger = PolicyKey::generate("stranger");
    let good: &[u8] = b"version: 1.1.0\n";
    let oversize = format!("version: 1.1.0\n#{}\n", "x".repeat(POLICY_LIMIT));
    let ours = |document: &[u8]| (document.to_vec(), raw_sign(document, &world.key));
    let tampered = (b"version: 1.1.1\n".to_vec(), raw_sign(good, &world.key));
    let cases = [
        ("missing", (Vec::new(), raw_sign(b"", &world.key)), PolicyMissing, None),
        ("unsigned", (good.to_vec(), Vec::new()), SignatureInvalid, None),
        ("no signatures", (good.to_vec(), no_signatures()), SignatureInvalid, None),
        (
            "oversize signature",
            (good.to_vec(), vec![b' '; dsse::SIGNATURE_LIMIT + 1]),
            SignatureInvalid,
            None,
        ),
        ("wrong key", (good.to_vec(), raw_sign(good, &stranger)), SignatureInvalid, None),
        ("wrong type", (good.to_vec(), dsse::sign("text/plain", good, &world.key)), SignatureInvalid, None),
        ("tampered", tampered, SignatureInvalid, None),
        ("bad YAML", ours(b"version: [\n"), ParseError, None),
        ("duplicate key", ours(b"version: 1.1.0\nversion: 1.1.0\n"), ParseError, None),
        ("anchor", ours(b"version: &v 1.1.0\n"), ParseError, None),
        ("oversize", ours(oversize.as_bytes()), ParseError, None),
        ("unknown field", ours(b"version: 1.1.0\nx: 1\n"), ParseError, Some("1.1.0")),
        ("out of range", ours(b"version: 1.1.0\nexecutor_timeout_sec: 1\n"), ParseError, Some("1.1.0")),
        ("older", ours(b"version: 0.9.9\n"), VersionRegression, Some("0.9.9")),
        ("older and bad", ours(b"version: 0.9.9\nx: 1\n"), VersionRegression, Some("0.9.9")),
        ("same version, other bytes", ours(b"version: 1.0.0 # \n"), VersionRegression, Some("1.0.0")),
    ];
    let in_force = Accepted { version: "1.0.0", document: b"version: 1.0.0\n" };
    for (what, (document, signature), class, version) in cases {
        let refused =
            verify(&document, &signature, &world.trusted, &Revocations::none(), Some(in_force)).unwrap_err();
        assert_eq!(
            (refused.class, refused.attempted_version.as_deref()),
            (class, version),
            "{what}: {refused}"
        );
        assert!(refused.detail.len() < 1000, "{what}");
    }
}

fn no_signatures() -> Vec<u8> {
    format!(r#"{{"payloadType": "{POLICY_TYPE}", "signatures": []}}"#).into_bytes()
}

/// POL-03: revocation comes before the mathematics, and a good signature does not help.
#[test]
fn a_revoked_key_is_refused_whatever_it_signed() {
    let world = world();
    let revoked = revoking(&world);
    let good: &[u8] = b"version: 1.1.0\n";
    for signature in [raw_sign(good, &world.key), raw_sign(b"something else", &world.key)] {
        let refused = verify(good, &signature, &world.trusted, &revoked, None).unwrap_err();
        let told = (refused.class, refused.attempted_version.as_deref());
        assert_eq!(told, (RefusalClass::RevokedKey, Some("1.1.0")), "what somebody with that key tried");
    }
    assert!(verify(good, &raw_sign(good, &world.other), &world.trusted, &revoked, None).is_ok());
}

/// POL-07: strictly greater, or the very same bytes.
#[test]
fn versions_rise_or_nothing_changes() {
    let world = world();
    let (old, new) = (b"version: 1.9.0\n".as_slice(), b"version: 1.10.0\n".as_slice());
    let in_force = Some(Accepted { version: "1.9.0", document: old });
    let check = |document: &[u8]| {
        verify(document, &raw_sign(document, &world.key), &world.trusted, &Revocations::none(), in_force)
    };
    assert!(check(old).unwrap().unchanged);
    assert!(!check(new).unwrap().unchanged, "numbers, not texts");
    let unreadable = Some(Accepted { version: "?", document: b"x" });
    let signature = raw_sign(new, &world.key);
    let refused = verify(new, &signature, &world.trusted, &Revocations::none(), unreadable).unwrap_err();
    assert_eq!(refused.class, RefusalClass::VersionRegression);
}

#[test]
fn an_author_is_told_before_signing_and_files_are_read_beside_each_other() {
    let world = world();
    assert_eq!(sign(b"version: 1\n", &world.key).unwrap_err().class, RefusalClass::ParseError);

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("schedules.yaml");
    assert_eq!(read(&path).unwrap_err().class, RefusalClass::PolicyMissing);
    std::fs::write(&path, default_policy_yaml()).unwrap();
    let unsigned = read(&path).unwrap_err();
    assert_eq!(unsigned.class, RefusalClass::SignatureInvalid);
    assert!(unsigned.detail.contains("schedules.yaml.sig"), "{unsigned}");
    std::fs::write(signature_path(&path), sign(default_policy_yaml().as_bytes(), &world.key).unwrap())
        .unwrap();
    let signed = read(&path).unwrap();
    assert!(verify(&signed.document, &signed.signature, &world.trusted, &Revocations::none(), None).is_ok());
    std::fs::write(&path, vec![b'#'; 10 * POLICY_LIMIT]).unwrap();
    assert_eq!(read(&path).unwrap().document.len(), POLICY_LIMIT + 1);
}

/// A signature made by an independent implementation (Python's `cryptography`) of the layout in `dsse`.
#[test]
fn golden_signature() {
    let key = PolicyKey::from_seed("golden", [9; 32]);
    let expected = r#"{"payloadType": "application/vnd.openwatch.schedules+yaml", "signatures": [{"keyid": "dbc298251c51321b7266e78d1c151c2b62aff8cb95b293096d3463018544face", "sig": "YmXGveUTrWRXPHZGsjhqcoe+QVRT3/xihX0gp5lnjXscdcCnoD9JdriyQPKMhTzx04Ih8JlgCzjUlaLRNhzPCg=="}]}"#;
    let signature: serde_json::Value =
        serde_json::from_slice(&sign(b"version: 1.0.0\n", &key).unwrap()).unwrap();
    assert_eq!(signature, serde_json::from_str::<serde_json::Value>(expected).unwrap());
}
