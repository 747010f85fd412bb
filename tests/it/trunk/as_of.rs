//! Looking back: what was so at a past moment, and the evidence for it, on the command line and over REST.

use openwatch_tests::{Stack, sshd};
use serde_json::{Value, json};

use super::ground::Ground;
use super::rest::Rest;
use super::tables;

/// Scans once more; when that was applied, as people would write it.
async fn scanned(stack: &Stack, rest: &Rest) -> String {
    let scan = rest.scan("web-1").await;
    rest.scan_in(&scan, &["completed"]).await;
    let mut db = tables::private_db(&stack.data_dir()).await;
    let applied = format!(
        "select to_char(applied_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') from scan_ledger where scan_id = '{scan}'"
    );
    tables::texts(&mut db, &applied).await.remove(0)
}

/// What `host show` tells of a rule at a moment: its status, what the command said, and whether that scan found nothing new.
async fn shown(stack: &Stack, rule: &str, at: &str) -> (String, String, bool) {
    let it = stack.json(&["host", "show", "web-1", "--rule", rule, "--as-of", at]).await;
    let found = &it["rules"][0];
    let said = found["evidence"]["checks"][0]["stdout"].as_str().unwrap_or_default().trim().to_owned();
    let unchanged = it["host"]["compliance"]["unchanged"] == json!(true);
    (found["status"].as_str().unwrap().to_owned(), said, unchanged)
}

// @spec transaction-log-writer
// @ac AC-22
#[tokio::test]
async fn the_past_is_shown_with_the_evidence_of_its_moment() {
    println!("@spec transaction-log-writer");
    println!("@ac AC-22");
    let (ground, sshd) = (Ground::new(3), sshd::Options::new().start());
    let motd = sshd.dir().join("motd");
    std::fs::write(&motd, "first words\n").unwrap();
    ground.rule("motd", &format!("method: command\n      run: cat {}", motd.display()));
    let stack = Stack::with(&["--rules", &ground.rules_arg()]).await;
    stack.add_host("web-1", &sshd).await;
    stack.ended_scans("web-1", 1).await;
    let rest = Rest::of(&stack.client());

    let same = scanned(&stack, &rest).await;
    std::fs::write(&motd, "other words\n").unwrap();
    let reworded = scanned(&stack, &rest).await;
    ground.set(0, false);
    std::fs::remove_file(&motd).unwrap();
    let broken = scanned(&stack, &rest).await;

    let told = |status: &str, said: &str, unchanged| (status.to_owned(), said.to_owned(), unchanged);
    assert_eq!(shown(&stack, "motd", &same).await, told("pass", "first words", true));
    assert_eq!(shown(&stack, "motd", &reworded).await, told("pass", "other words", false));
    assert_eq!(shown(&stack, "motd", &broken).await, told("fail", "", false));
    let score = async |at: &str| stack.json(&["status", "--as-of", at]).await["score"].as_f64();
    assert_eq!(
        (score(&same).await, score(&reworded).await, score(&broken).await),
        (Some(100.0), Some(100.0), Some(50.0))
    );

    // What changed: one rule, from a moment on, up to a moment.
    let rows = async |args: &[&str]| {
        let all = stack.json(&[&["transactions", "--host", "web-1"], args].concat()).await;
        let row =
            |it: &Value| format!("{} {}", it["rule_id"].as_str().unwrap(), it["status"].as_str().unwrap());
        all.as_array().unwrap().iter().map(row).collect::<Vec<_>>()
    };
    assert_eq!(rows(&["--rule", "motd"]).await, ["motd fail", "motd pass"]);
    let mut since = rows(&["--since", &reworded]).await;
    since.sort();
    assert_eq!(since, ["file-0 fail", "motd fail"]);
    assert_eq!(rows(&["--since", &same, "--as-of", &reworded]).await, Vec::<String>::new());
    assert_eq!(rows(&["--rule", "motd", "--as-of", &same]).await, ["motd pass"]);

    // Silence is evidence, for people too.
    let (code, table, stderr) =
        stack.cli(&["transactions", "--host", "web-1", "--since", &same, "--as-of", &same]).await;
    assert_eq!(code, Some(0), "{stderr}");
    let second = same[..19].replace('T', " ");
    assert!(table.contains("nothing has changed"), "{table}");
    assert!(table.contains(&format!("web-1: verified unchanged at {second} UTC")), "{table}");
    let (_, table, _) = stack.cli(&["host", "show", "web-1", "--evidence"]).await;
    assert!(table.contains("web-1: last verified at") && table.contains("motd fail:"), "{table}");
    assert!(table.contains("No such file"), "the proof stands beneath its rule: {table}");
    let (code, _, stderr) = stack.cli(&["host", "show", "web-1", "--rule", "nothing"]).await;
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("rule nothing was not measured on web-1"), "{stderr}");
    let (code, _, stderr) =
        stack.cli(&["transactions", "--host", "web-1", "--rule", "nothing", "--as-of", &second]).await;
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("rule nothing was not measured on web-1"), "{stderr}");

    // A host that is gone keeps its past.
    let (code, _, stderr) = stack.cli(&["host", "rm", "web-1"]).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(shown(&stack, "motd", &reworded).await, told("pass", "other words", false));
    assert_eq!(rows(&["--rule", "motd"]).await, ["motd fail", "motd pass"]);
    let hosts = rest.get(&format!("/hosts?as_of={broken}")).await;
    assert_eq!(hosts["items"][0]["compliance"]["score"], json!(50.0), "{hosts}");
}
