//! Health can say no.

use std::time::Duration;

use openwatch_tests::{Proxy, eventually};
use reqwest::Method;

use super::{Served, told};

#[tokio::test]
async fn readiness_follows_the_database() {
    let database = openwatch_tests::Database::new().await;
    let proxy = Proxy::to(database.port()).await;
    drop(database);
    let api = Served::through(|_| proxy.port()).await;
    let ready = async || told(api.request(Method::GET, "/health/ready")).await;
    let yes = ready().await;
    assert_eq!(yes.status, 200, "{yes:?}");
    assert_eq!(yes.body["checks"][0]["name"], "database");

    proxy.cut();
    eventually("readiness to say no", async || (ready().await.status == 503).then_some(())).await;
    let no = ready().await;
    assert_eq!((no.body["ok"].as_bool(), no.body["checks"][0]["ok"].as_bool()), (Some(false), Some(false)));
    let refused = api.get("/hosts").await;
    assert_eq!((refused.status, refused.code()), (503, "server.unavailable"));
    assert_eq!(refused.body["retryable"], true);
    let live = told(api.request(Method::GET, "/health/live")).await;
    assert_eq!(live.status, 200, "a process without its database is alive");

    proxy.restore();
    eventually("readiness to say yes again", async || (ready().await.status == 200).then_some(())).await;
    assert_eq!(api.get("/hosts").await.status, 200);
}

#[tokio::test]
async fn liveness_follows_the_loops() {
    let api = Served::new().await;
    let beat = api.health.watch("relay", Duration::from_millis(50));
    eventually("the silent loop to be noticed", async || {
        let live = told(api.request(Method::GET, "/health/live")).await;
        (live.status == 503 && live.body["checks"][0]["name"] == "relay").then_some(())
    })
    .await;
    beat.tick();
    api.stop().await.unwrap();
}
