//! Lists on the command line: all of what was asked for, and a word where there is more.

use openwatch_tests::Stack;
use serde_json::Value;

fn rows(stdout: &str) -> usize {
    serde_json::from_str::<Vec<Value>>(stdout).unwrap().len()
}

// @spec trunk
// @ac AC-10
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_as_long_as_asked_for_or_says_that_it_is_not() {
    println!("@spec trunk");
    println!("@ac AC-10");
    let stack = Stack::start().await;
    // Nobody answers there: they are asked for and queued all the same.
    let names: String = (0..130).map(|n| format!("host-{n:03},127.0.0.1,1\n")).collect();
    let file = stack.data_dir().join("hosts.csv");
    std::fs::write(&file, format!("name,address,port\n{names}")).unwrap();
    stack.json(&["host", "import", file.to_str().unwrap()]).await;

    let more = "there are more";
    for (asked, found, cut) in
        [("40", 40, true), ("110", 110, true), ("130", 130, false), ("5000", 130, false)]
    {
        let (code, stdout, stderr) = stack.cli(&["host", "list", "--json", "--limit", asked]).await;
        assert_eq!((code, rows(&stdout), stderr.contains(more)), (Some(0), found, cut), "{asked}: {stderr}");
    }
    let (_, table, stderr) = stack.cli(&["host", "list"]).await;
    assert!(table.contains("host-049") && !table.contains("host-050"), "{table}");
    assert!(!table.contains(more) && stderr.contains("these are 50 rows"), "{stderr}");
    for list in ["scans", "transactions", "drift", "alerts"] {
        let (code, _, stderr) = stack.cli(&[list, "--limit", "3000"]).await;
        assert_eq!(code, Some(0), "{list}: {stderr}");
    }
    let (code, _, stderr) = stack.cli(&["host", "list", "--limit", "0"]).await;
    assert!(code == Some(64) && stderr.contains("limit"), "{code:?} {stderr}");

    // Labels are what channels and lists choose by; a host keeps its history when they change.
    stack.json(&["host", "set", "host-007", "--label", "env=prod", "--label", "tier=web"]).await;
    let labelled = stack.json(&["host", "list", "--label", "env=prod"]).await;
    assert_eq!((labelled[0]["name"].as_str(), labelled.as_array().unwrap().len()), (Some("host-007"), 1));
    let set = stack.json(&["host", "set", "host-007", "--label", "env=lab"]).await;
    assert_eq!(set["labels"], serde_json::json!({"env": "lab"}));
    assert_eq!(
        stack.json(&["host", "set", "host-007", "--no-labels"]).await["labels"],
        serde_json::json!({})
    );
    let (code, _, stderr) = stack.cli(&["host", "set", "host-007", "--label", "prod"]).await;
    assert!(code == Some(64) && stderr.contains("key=value"), "{code:?} {stderr}");

    // A time to come may be written as a duration.
    let (code, stdout, stderr) = stack.cli(&["host", "maintenance", "host-007", "--until", "2h"]).await;
    assert!(code == Some(0) && stdout.contains("in maintenance until"), "{stdout} {stderr}");
    let (code, _, stderr) = stack.cli(&["host", "maintenance", "host-007", "--until", "soon"]).await;
    assert!(code == Some(64) && stderr.contains("in how long"), "{code:?} {stderr}");
    let (code, _, stderr) = stack.cli(&["status", "--as-of", "yesterday-ish"]).await;
    assert!(code == Some(64) && stderr.contains("--as-of") && stderr.contains("how long ago"), "{stderr}");
    let (code, stdout, stderr) = stack.cli(&["host", "list", "--json", "--as-of", "1h"]).await;
    assert_eq!((code, rows(&stdout)), (Some(0), 0), "none was there an hour ago: {stderr}");
}
