//! Several API processes beside each other: a token means the same to all of them.

use std::net::TcpListener;

use openwatch_app::private::Durability;
use openwatch_tests::eventually;
use openwatch_trust::token::ApiToken;
use reqwest::Method;
use serde_json::json;

use crate::trunk::fleet::Fleet;
use crate::trunk::ground::Ground;
use crate::trunk::rest::Rest;

/// What `GET /hosts` answers to the holder of a token.
async fn hosts(url: &str, token: &str) -> u16 {
    Rest::new(url, token).ask(Method::GET, "/hosts", None, None).await.expect("the API answers").0
}

// @spec api
// @ac AC-08
#[tokio::test]
async fn two_processes_know_the_same_tokens() {
    println!("@spec api");
    println!("@ac AC-08");
    let mut fleet = Fleet::prepare_as(&Ground::new(1).rules(), Durability::ProcessCrash).await;
    fleet.spawn("api");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let two = format!("http://127.0.0.1:{port}");
    let mut second =
        fleet.tool(&["api"]).arg("--keys").arg(fleet.keys("api")).arg("--listen").arg(&two[7..]).spawn();
    fleet.all_running().await;
    second.line("running stage=").await;
    let one = format!("http://127.0.0.1:{}", fleet.port());
    let admin = std::fs::read_to_string(fleet.token()).unwrap();
    let (here, there) = (Rest::new(&one, &admin), Rest::new(&two, &admin));
    for rest in [&here, &there] {
        eventually("the API", || async { rest.ask(Method::GET, "/hosts", None, None).await }).await;
    }

    let minted = here.post("/tokens", json!({ "name": "ci", "role": "viewer" })).await;
    let ci = minted["secret"].as_str().unwrap();
    assert_eq!((hosts(&two, ci).await, hosts(&one, ci).await), (200, 200), "made at one, good at the other");
    // Its role too: a viewer makes no tokens, wherever it asks.
    let body = json!({ "name": "more", "role": "admin" });
    let refused = Rest::new(&two, ci).ask(Method::POST, "/tokens", None, Some(&body)).await;
    assert_eq!(refused.unwrap().0, 403);

    // One address has to wait at the process where it guessed. Whoever is known there is not held up by it, nor is
    // anybody at the other one.
    let mut last = 0;
    for _ in 0..21 {
        last = hosts(&two, ApiToken::generate().expose()).await;
    }
    assert_eq!(last, 429);
    assert_eq!((hosts(&two, ci).await, hosts(&one, ci).await), (200, 200));

    let revoked = here.ask(Method::DELETE, "/tokens/ci", None, None).await.expect("the API answers");
    assert_eq!(revoked.0, 204);
    assert_eq!(hosts(&two, ci).await, 401, "refused with the next request, wherever it is made");
    assert_eq!(hosts(&one, ci).await, 401);
    assert_eq!(hosts(&two, ci).await, 429, "a stranger now, at an address that guesses");
    there.get("/hosts").await;
}
