//! Blobs.

use openwatch_bus::User;
use openwatch_bus::subject::{BUCKET_CORPORA, BUCKET_RESULTS};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_goes_from_worker_to_writer_whole() {
    let nats = Nats::with_topology().await;
    let (executor, writer) = (nats.bus(User::Executor).await, nats.bus(User::Writer).await);
    let blob: Vec<u8> = (0..3_000_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    executor.put_object(BUCKET_RESULTS, "s.1.x", blob.clone().into()).await.unwrap();
    executor.put_object(BUCKET_RESULTS, "s.2.empty", "".into()).await.unwrap();
    let read = writer.get_object(BUCKET_RESULTS, "s.1.x", blob.len()).await.unwrap().unwrap();
    assert!(read == blob);
    assert_eq!(writer.get_object(BUCKET_RESULTS, "s.2.empty", 10).await.unwrap().unwrap().len(), 0);
    assert!(writer.get_object(BUCKET_RESULTS, "s.9.x", 10).await.unwrap().is_none());
    let error = writer.get_object(BUCKET_RESULTS, "s.1.x", blob.len() - 1).await.unwrap_err();
    assert!(matches!(error, BusError::TooLarge { .. }), "{error}");
    // The writer reads and the worker writes, not the other way round.
    assert!(matches!(executor.get_object(BUCKET_RESULTS, "s.1.x", 1).await, Err(BusError::Denied { .. })));
    assert!(matches!(writer.put_object(BUCKET_RESULTS, "w", "x".into()).await, Err(BusError::Denied { .. })));
    // A rejected blob outlives its bucket.
    writer.keep_blob("writer", "s.1.x", &read).await.unwrap();
    let admin = nats.bus(User::Admin).await;
    assert_eq!(admin.stream_info("OW_DLQ").await.unwrap().messages, 6);
    assert!(admin.dead_letters(1, 10).await.unwrap().is_empty(), "parts are no letters");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_blob_is_not_believed() {
    let nats = Nats::with_topology().await;
    let admin = nats.bus(User::Admin).await;
    admin.put_object(BUCKET_RESULTS, "b", vec![1; 300_000].into()).await.unwrap();
    let meta = admin.last_message("OBJ_ow-results", "$O.ow-results.M.Yg==").await.unwrap().unwrap();
    let meta: serde_json::Value = serde_json::from_slice(&meta.payload).unwrap();
    let chunk = format!("$O.ow-results.C.{}", meta["nuid"].as_str().unwrap());
    // Somebody removes the last chunk and puts another in its place.
    let last = admin.last_message("OBJ_ow-results", &chunk).await.unwrap().unwrap();
    assert!(admin.delete_message("OBJ_ow-results", last.sequence).await.unwrap());
    let missing = admin.get_object(BUCKET_RESULTS, "b", 1 << 20).await.unwrap_err();
    assert!(matches!(&missing, BusError::Corrupt { reason, .. } if reason.contains("missing")), "{missing}");
    let forged = Outgoing { payload: vec![2; last.payload.len()].into(), ..message(&chunk, "forged") };
    admin.publish(&forged).await.unwrap();
    let wrong = admin.get_object(BUCKET_RESULTS, "b", 1 << 20).await.unwrap_err();
    assert!(matches!(&wrong, BusError::Corrupt { reason, .. } if reason.contains("digest")), "{wrong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn corpora_are_published_fetched_listed_and_swept() {
    let nats = Nats::with_topology().await;
    let (admin, executor) = (nats.bus(User::Admin).await, nats.bus(User::Executor).await);
    let caretaker = nats.bus(User::Caretaker).await;
    for digest in ["aa", "bb"] {
        admin.put_object(BUCKET_CORPORA, digest, digest.into()).await.unwrap();
        admin.put_object(BUCKET_CORPORA, digest, digest.into()).await.unwrap();
    }
    assert_eq!(executor.get_object(BUCKET_CORPORA, "aa", 100).await.unwrap().unwrap(), "aa");
    assert_eq!(caretaker.list_objects(BUCKET_CORPORA).await.unwrap(), ["aa", "bb"]);
    caretaker.delete_object(BUCKET_CORPORA, "aa").await.unwrap();
    caretaker.delete_object(BUCKET_CORPORA, "aa").await.unwrap();
    assert!(executor.get_object(BUCKET_CORPORA, "aa", 100).await.unwrap().is_none());
    assert_eq!(executor.get_object(BUCKET_CORPORA, "bb", 100).await.unwrap().unwrap(), "bb");
    assert!(matches!(executor.delete_object(BUCKET_CORPORA, "bb").await, Err(BusError::Denied { .. })));

    // Stock clients read what we put.
    let stock = async_nats::jetstream::new(nats.client(User::Admin).await);
    let store = stock.get_object_store(BUCKET_CORPORA).await.unwrap();
    let mut object = store.get("bb").await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut object, &mut text).await.unwrap();
    assert_eq!((text.as_str(), object.info().digest.is_some()), ("bb", true));
}
