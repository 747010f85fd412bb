//! Hosts, credentials, host keys, corpora, policies and tokens.

use std::collections::BTreeMap;
use std::time::Duration;

use openwatch_model::credential::AuthMethod;
use openwatch_model::host::KnownKey;
use openwatch_model::{CredentialId, Timestamp};
use openwatch_store::corpus::{self, CorpusRow};
use openwatch_store::credential::{self, NewCredential, Removed, StoredSecret};
use openwatch_store::host::{self, Filter, NewHost};
use openwatch_store::known_key::{self, Learned};
use openwatch_store::policy::{self, Accepted, PolicyRow};
use openwatch_store::token::{self, NewToken};
use openwatch_store::{Role, StoreError};
use uuid::Uuid;

use super::{Rig, new_host};

#[tokio::test]
async fn a_host_comes_with_its_rows_and_its_name_is_free_again_when_it_is_removed() {
    let rig = Rig::new().await;
    let id = rig.host("web-1").await;
    let mut tx = rig.api.begin().await.unwrap();
    let it = host::get(&mut tx, id).await.unwrap().unwrap();
    assert!(it.next_scan_at.is_some_and(|at| at <= tx.now()), "due at once");
    assert_eq!((it.labels["env"].as_str(), it.open_scan), ("prod", None));
    let taken = host::add(&mut tx, &new_host("web-1"), "t").await.unwrap_err();
    assert!(matches!(taken, StoreError::Conflict { constraint } if constraint == "host_name"));
    drop(tx);
    let mut tx = rig.api.begin().await.unwrap();
    assert_eq!(host::find(&mut tx, "web-1").await.unwrap(), Some(id));
    assert_eq!(host::find(&mut tx, &id.to_string()).await.unwrap(), Some(id));
    assert_eq!(host::remove(&mut tx, id).await.unwrap().as_deref(), Some("web-1"));
    assert_eq!(host::find(&mut tx, "web-1").await.unwrap(), None);
    assert_ne!(host::add(&mut tx, &new_host("web-1"), "t").await.unwrap(), id);
}

#[tokio::test]
async fn malformed_hosts_are_refused_by_the_database() {
    let rig = Rig::new().await;
    for (name, address) in [("", "a"), ("a b", "a"), ("a", "a\n-oProxyCommand=x"), ("a", "")] {
        let mut tx = rig.api.begin().await.unwrap();
        let new = NewHost { name: name.into(), address: address.into(), ..new_host("x") };
        let refused = host::add(&mut tx, &new, "t").await.unwrap_err();
        assert!(matches!(refused, StoreError::Refused { .. }), "{name:?} {address:?}: {refused}");
    }
}

#[tokio::test]
async fn hosts_are_listed_by_label_and_page() {
    let rig = Rig::new().await;
    for n in 0..5 {
        let mut new = new_host(&format!("web-{n}"));
        new.labels.insert("parity".into(), (if n % 2 == 0 { "even" } else { "odd" }).into());
        let mut tx = rig.api.begin().await.unwrap();
        host::add(&mut tx, &new, "t").await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = rig.api.begin_read().await.unwrap();
    let labels = BTreeMap::from([("env".into(), "prod".into()), ("parity".into(), "even".into())]);
    let mut filter = Filter { labels, ..Filter::default() };
    let first = host::list(&mut tx, &filter, 2).await.unwrap();
    filter.after_name = first.last().map(|h| h.name.clone());
    let rest = host::list(&mut tx, &filter, 2).await.unwrap();
    let names: Vec<_> = first.iter().chain(&rest).map(|h| h.name.as_str()).collect();
    assert_eq!(names, ["web-0", "web-2", "web-4"]);
}

#[tokio::test]
async fn a_credential_goes_from_sealed_to_encrypted_to_gone() {
    let rig = Rig::new().await;
    let vault = rig.database.store(Role::Vault).await;
    let id = CredentialId(Uuid::new_v4());
    let new = |id, name: &str, is_default| NewCredential {
        id,
        name: name.into(),
        username: "scan".into(),
        auth_method: AuthMethod::SshKey,
        key: None,
        is_default,
        sealed: vec![1, 2, 3],
    };
    let mut tx = rig.api.begin().await.unwrap();
    credential::insert(&mut tx, &new(id, "main", true), "t").await.unwrap();
    let mut with_own = new_host("own");
    let own = CredentialId(Uuid::new_v4());
    credential::insert(&mut tx, &new(own, "own", true), "t").await.unwrap();
    with_own.credential = Some(id);
    let (a, b) = (
        host::add(&mut tx, &with_own, "t").await.unwrap(),
        host::add(&mut tx, &new_host("plain"), "t").await.unwrap(),
    );
    tx.commit().await.unwrap();

    let mut tx = vault.begin().await.unwrap();
    let mut other = vault.begin().await.unwrap();
    let pending = credential::pending(&mut tx, 10).await.unwrap();
    assert_eq!(pending.len(), 2);
    assert!(credential::pending(&mut other, 10).await.unwrap().is_empty(), "one vault at a time");
    let seen = pending.iter().find(|stored| stored.id == id).unwrap();
    assert!(credential::store_encrypted(&mut tx, seen, "dek-1", &[9]).await.unwrap());
    // Who saw the secret before that, or before somebody set another one, must not take its place.
    assert!(!credential::store_encrypted(&mut tx, seen, "dek-1", &[8]).await.unwrap());
    tx.commit().await.unwrap();
    let mut tx = vault.begin().await.unwrap();
    let mut replaced = credential::resolve(&vault, b).await.unwrap().unwrap();
    assert!(matches!(&replaced.secret, StoredSecret::Sealed(_)));
    replaced.secret = StoredSecret::Sealed(b"the one before".to_vec());
    assert!(!credential::store_encrypted(&mut tx, &replaced, "dek-1", &[8]).await.unwrap());
    drop((tx, other));
    let found = credential::resolve(&vault, a).await.unwrap().unwrap();
    assert_eq!(
        (found.id, found.secret),
        (id, StoredSecret::Encrypted { key_id: "dek-1".into(), ciphertext: vec![9] })
    );
    assert_eq!(credential::resolve(&vault, b).await.unwrap().unwrap().id, own, "the newest default");
    let mut tx = vault.begin().await.unwrap();
    let other = credential::under_other_key(&mut tx, "dek-2", 10).await.unwrap();
    assert_eq!(other.len(), 1);
    assert!(credential::store_encrypted(&mut tx, &other[0], "dek-2", &[7]).await.unwrap());
    assert!(!credential::store_encrypted(&mut tx, &other[0], "dek-3", &[6]).await.unwrap());
    drop(tx);

    let mut tx = rig.api.begin().await.unwrap();
    let list = credential::list(&mut tx).await.unwrap();
    let shown: Vec<_> = list.iter().map(|c| (c.name.as_str(), c.key_id.as_deref(), c.hosts)).collect();
    assert_eq!(shown, [("main", Some("dek-1"), 1), ("own", None, 0)]);
    assert_eq!(credential::remove(&mut tx, id, false).await.unwrap(), Removed::InUse(1));
    assert_eq!(credential::remove(&mut tx, id, true).await.unwrap(), Removed::Gone("main".into()));
    assert_eq!(credential::remove(&mut tx, id, true).await.unwrap(), Removed::Unknown);
}

#[tokio::test]
async fn of_two_first_keys_one_wins() {
    let rig = Rig::new().await;
    let key = |text: &str| KnownKey { algorithm: "ssh-ed25519".into(), key: text.into() };
    let learn = |text: &'static str| {
        let writer = rig.writer.clone();
        async move {
            let mut tx = writer.begin().await.unwrap();
            let learned = known_key::learn(&mut tx, "Web.Example", 22, &key(text), "SHA256:x").await.unwrap();
            tx.commit().await.unwrap();
            learned
        }
    };
    let (a, b) = tokio::join!(learn("AAAA"), learn("BBBB"));
    assert!(
        matches!((a, b), (Learned::New, Learned::Different) | (Learned::Different, Learned::New)),
        "{a:?} {b:?}"
    );
    let (winner, loser) = if a == Learned::New { ("AAAA", "BBBB") } else { ("BBBB", "AAAA") };
    assert_eq!(learn(winner).await, Learned::Same);
    let mut tx = rig.api.begin().await.unwrap();
    assert_eq!(known_key::revoke(&mut tx, "web.example", 22, None).await.unwrap(), 1);
    tx.commit().await.unwrap();
    assert_eq!(learn(winner).await, Learned::Different, "a revoked key does not come back by itself");
    assert_eq!(learn(loser).await, Learned::New);
    let mut tx = rig.api.begin().await.unwrap();
    known_key::accept(&mut tx, "WEB.example", 22, &key(winner), "SHA256:y", "tester").await.unwrap();
    let rows = known_key::list(&mut tx, "web.EXAMPLE", 22).await.unwrap();
    assert_eq!((rows.len(), rows[0].key.key.as_str(), rows[0].accepted_by.as_str()), (1, winner, "tester"));
}

#[tokio::test]
async fn the_highest_policy_is_in_force() {
    let rig = Rig::new().await;
    let row = |version: &str, document: &str| PolicyRow {
        version: version.into(),
        document: document.into(),
        signature: b"sig".to_vec(),
        key_fingerprint: "f".into(),
        loaded_by: "scheduler".into(),
        loaded_at: Timestamp::UNIX_EPOCH,
        superseded_at: None,
    };
    let accept = |version: &'static str, document: &'static str| {
        let (store, row) = (rig.scheduler.clone(), row(version, document));
        async move {
            let mut tx = store.begin().await.unwrap();
            let accepted = policy::accept(&mut tx, &row).await.unwrap();
            tx.commit().await.unwrap();
            accepted
        }
    };
    assert_eq!(accept("1.9.0", "a").await, Accepted::InForce { previous: None });
    assert_eq!(accept("1.9.0", "a").await, Accepted::Unchanged);
    assert_eq!(accept("1.9.0", "b").await, Accepted::Regression { active: "1.9.0".into() });
    assert_eq!(accept("1.10.0", "c").await, Accepted::InForce { previous: Some("1.9.0".into()) });
    assert_eq!(accept("1.9.9", "d").await, Accepted::Regression { active: "1.10.0".into() });
    let (a, b) = tokio::join!(accept("2.0.0", "e"), accept("2.0.0", "e"));
    assert!([&a, &b].contains(&&Accepted::Unchanged), "{a:?} {b:?}");
    let mut tx = rig.database.store(Role::Drift).await.begin().await.unwrap();
    assert_eq!(policy::in_force(&mut tx).await.unwrap().unwrap().document, b"e");
    assert_eq!(policy::get(&mut tx, "1.9.0").await.unwrap().unwrap().document, b"a");
    assert_eq!(
        policy::list(&mut tx, 10).await.unwrap().iter().map(|p| p.version.as_str()).collect::<Vec<_>>(),
        ["2.0.0", "1.10.0", "1.9.0"]
    );
}

#[tokio::test]
async fn publishing_again_makes_a_corpus_the_newest() {
    let rig = Rig::new().await;
    let row = |digit: &str| CorpusRow {
        digest: digit.repeat(64),
        rules: 3,
        bytes: 10,
        key_fingerprint: "f".into(),
        published_by: "t".into(),
        published_at: Timestamp::UNIX_EPOCH,
    };
    for digit in ["a", "b", "a"] {
        let mut tx = rig.api.begin().await.unwrap();
        corpus::publish(&mut tx, &row(digit)).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = rig.database.store(Role::Caretaker).await.begin().await.unwrap();
    assert_eq!(corpus::newest(&mut tx).await.unwrap().unwrap().digest, "a".repeat(64));
    let later = tx.now() + Duration::from_secs(60);
    assert_eq!(corpus::unused(&mut tx, later, None).await.unwrap(), ["b".repeat(64)]);
    assert!(corpus::unused(&mut tx, later, Some(&"b".repeat(64))).await.unwrap().is_empty());
    corpus::remove(&mut tx, &"b".repeat(64)).await.unwrap();
    assert_eq!(corpus::list(&mut tx, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_is_good_until_it_is_revoked_or_expires() {
    let rig = Rig::new().await;
    let mut tx = rig.api.begin().await.unwrap();
    let expired = tx.now() - Duration::from_secs(1);
    let new = |name: &str, byte: u8, expires_at| NewToken {
        name: name.into(),
        hash: [byte; 32],
        prefix: "owk_abc".into(),
        role: "admin".into(),
        expires_at,
    };
    let id = token::insert(&mut tx, &new("good", 1, None), "t").await.unwrap();
    token::insert(&mut tx, &new("old", 2, Some(expired)), "t").await.unwrap();
    assert_eq!(token::authenticate(&mut tx, &[1; 32]).await.unwrap().unwrap().name, "good");
    assert!(token::authenticate(&mut tx, &[2; 32]).await.unwrap().is_none());
    assert!(token::authenticate(&mut tx, &[3; 32]).await.unwrap().is_none());
    assert!(token::list(&mut tx).await.unwrap()[0].last_used_at.is_some());
    assert!(token::revoke(&mut tx, id).await.unwrap());
    assert!(token::revoke(&mut tx, id).await.unwrap(), "again changes nothing");
    assert!(token::authenticate(&mut tx, &[1; 32]).await.unwrap().is_none());
}
