//! Which rules are for a host, and which of their implementations.

use super::host::Host;

// @spec rule-engine
// @ac AC-01
#[tokio::test]
async fn rules_are_for_the_systems_they_name() {
    println!("@spec rule-engine");
    println!("@ac AC-01");
    let host = Host::new();
    for (id, platforms) in [
        ("anywhere", ""),
        ("rhel", "platforms: [{family: rhel}]"),
        ("rhel-8", "platforms: [{family: rhel, min_version: 8, max_version: 8}]"),
        ("rhel-from-9", "platforms: [{family: RedHat, min_version: 9}]"),
        ("rhel-itself", "platforms: [{family: rhel, min_version: 8, derivatives: false}]"),
        ("rocky", "platforms: [{family: rocky, min_version: 9}]"),
        (
            "ubuntu-22-or-rhel-10",
            "platforms: [{family: ubuntu, min_version: 22}, {family: rhel, min_version: 10}]",
        ),
        ("debian", "platforms: [{family: debian, max_version: 12}]"),
    ] {
        host.rule(id, platforms, "method: command, cmd: 'true'");
    }
    // A gate that cannot be read does not matter on a foreign system.
    let broken = "[{when: [a], check: {method: command, cmd: 'true'}}]";
    host.rule_of("broken-gate", "platforms: [{family: rhel, min_version: 9}]", broken);
    let el9 = "anywhere broken-gate rhel rhel-from-9 rocky";
    let all = "anywhere broken-gate debian rhel rhel-8 rhel-from-9 rhel-itself rocky ubuntu-22-or-rhel-10";
    for (os_release, wanted) in [
        ("ID=\"rhel\"\nVERSION_ID=\"9.4\"\n", "anywhere broken-gate rhel rhel-from-9 rhel-itself rocky"),
        ("ID=\"rhel\"\nVERSION_ID=\"8.10\"\n", "anywhere rhel rhel-8 rhel-itself"),
        (
            "ID=\"rhel\"\nVERSION_ID=\"10.0\"\n",
            "anywhere broken-gate rhel rhel-from-9 rhel-itself rocky ubuntu-22-or-rhel-10",
        ),
        ("ID=\"rocky\"\nVERSION_ID=\"9.3\"\nID_LIKE=\"rhel centos fedora\"\n", el9),
        ("ID='almalinux'\r\nVERSION_ID='9.6'\r\n", el9),
        ("ID=ol\nVERSION_ID=9.1\n", el9),
        ("NAME=\"CentOS Stream\"\nID=\"centos\"\nVERSION_ID=\"9\"\n", el9),
        ("ID=CentOS\nVERSION_ID=8\n", "anywhere rhel rhel-8"),
        ("ID=fedora\nVERSION_ID=40\nID_LIKE=rhel\n", "anywhere"),
        ("ID=\"amzn\"\nVERSION_ID=\"2023\"\nID_LIKE=\"centos rhel fedora\"\n", "anywhere"),
        ("ID=\"sles\"\nVERSION_ID=\"15.5\"\n", "anywhere"),
        ("ID=ubuntu\nVERSION_ID=\"22.04\"\nID_LIKE=debian\n", "anywhere ubuntu-22-or-rhel-10"),
        ("ID=ubuntu\nVERSION_ID=\"20.04\"\n", "anywhere"),
        ("# words\n\nnonsense\n=x\n ID = debian \nVERSION_ID=\"12\" \n", "anywhere debian"),
        ("ID=debian\nVERSION_ID=\"13\"\n", "anywhere"),
        // Sid and other rolling systems give no version: then no bound counts.
        ("ID=debian\n", "anywhere debian"),
        (
            "ID=rhel\nVERSION_ID=rolling\n",
            "anywhere broken-gate rhel rhel-8 rhel-from-9 rhel-itself rocky ubuntu-22-or-rhel-10",
        ),
        ("ID=debian\nID=rhel\nVERSION_ID=9\n", "anywhere broken-gate rhel rhel-from-9 rhel-itself rocky"),
        ("ID=\"rhel'\nVERSION_ID=9\n", "anywhere"),
        ("NAME=Something\n", all),
        ("", all),
    ] {
        host.is(os_release);
        let report = host.check(&[]).await;
        let measured: Vec<&str> =
            report.outcomes.keys().map(String::as_str).filter(|id| report.status(id) != "skipped").collect();
        assert_eq!(measured.join(" "), wanted, "{os_release:?}: {}", report.whole);
        assert_eq!(report.outcomes.len(), 9);
        for outcome in report.outcomes.values() {
            assert_eq!(outcome["framework_refs"]["nist_800_53"][0], "AC-6", "{outcome}");
        }
        if os_release.contains("8.10") {
            let words = "not for this platform: RHEL 8.10; the rule is for RedHat >=9";
            assert_eq!(report.detail("rhel-from-9"), words);
            assert_eq!(report.evidence("rhel-from-9").len(), 0);
        }
    }
    // No os-release at all: the system is unknown, which is no error.
    std::fs::remove_file(host.path("os-release")).unwrap();
    let report = host.check(&[]).await;
    report.says(&[("rhel-8", "pass"), ("debian", "pass"), ("broken-gate", "error")]);
}

// @spec rule-engine
// @ac AC-02
#[tokio::test]
async fn the_host_decides_how_it_is_measured() {
    println!("@spec rule-engine");
    println!("@ac AC-02");
    let host = Host::new();
    let way = |when: &str, word: &str| {
        let gate = if when.is_empty() { String::new() } else { format!("when: {when}, ") };
        format!("{{{gate}check: {{method: command, cmd: 'echo {word}'}}}}")
    };
    let default = "{default: true, when: [ignored], check: {method: command, cmd: 'echo default'}}";
    for (id, ways) in [
        ("gated-first", format!("[{}, {default}]", way("nftables_active", "gated"))),
        ("default-first", format!("[{default}, {}]", way("nftables_active", "gated"))),
        ("all", format!("[{}, {default}]", way("{all: [nftables_active, authselect]}", "gated"))),
        ("all-of-none", format!("[{}, {default}]", way("{all: []}", "gated"))),
        ("any", format!("[{}, {default}]", way("{any: [authselect, nftables_active]}", "gated"))),
        ("any-of-none", format!("[{}, {default}]", way("{any: []}", "gated"))),
        ("not", format!("[{}, {default}]", way("{not: nftables_active}", "gated"))),
        ("ungated", format!("[{}, {}]", way("", "plain"), way("nftables_active", "gated"))),
        ("unknown-name", format!("[{}, {default}]", way("no_such_capability", "gated"))),
        ("nothing-fits", format!("[{}]", way("authselect", "gated"))),
        ("no-way", "[]".to_owned()),
        ("list", format!("[{}, {default}]", way("[nftables_active]", "gated"))),
        ("match-before-broken", format!("[{}, {}]", way("nftables_active", "gated"), way("{some: x}", "x"))),
        ("no-check", "[{default: true}]".to_owned()),
    ] {
        host.rule_of(id, "", &ways);
    }
    // A unit that is active; everything else is off.
    host.tool(
        "systemctl",
        "[ \"$*\" = 'is-active nftables' ] && { echo active; exit 0; }\necho inactive; exit 3",
    );
    let chosen = |report: &super::host::Report| {
        let said = |id: &String| match report.status(id) {
            "pass" => report.evidence(id)[0]["stdout"].as_str().unwrap().to_owned(),
            other => other.to_owned(),
        };
        report.outcomes.keys().map(|id| format!("{id}={}", said(id))).collect::<Vec<_>>().join(" ")
    };
    let active = host.check(&[]).await;
    assert_eq!(active.whole["capabilities"]["nftables_active"], true);
    assert_eq!(
        active.whole["capabilities"].as_object().unwrap().len(),
        39,
        "each is known to be there or not"
    );
    assert_eq!(
        chosen(&active),
        "all=default all-of-none=gated any=gated any-of-none=default default-first=gated gated-first=gated \
         list=error match-before-broken=gated no-check=error no-way=skipped not=default nothing-fits=skipped \
         ungated=plain unknown-name=default"
    );
    assert_eq!(active.evidence("list").len(), 0);
    // A person says otherwise.
    let told = host.check(&["--capability", "nftables_active=no", "--capability", "authselect=1"]).await;
    assert_eq!(
        chosen(&told),
        "all=default all-of-none=gated any=gated any-of-none=default default-first=default gated-first=default \
         list=error match-before-broken=error no-check=error no-way=skipped not=gated nothing-fits=gated \
         ungated=plain unknown-name=default"
    );
    // The other capabilities, each by what shows it.
    let probes = [
        ("authselect", "aide"),
        ("apt", "apt-get"),
        ("dconf", "dconf"),
        ("gdm", "gdm3"),
        ("crypto_policies", "update-crypto-policies"),
        ("subscription_manager", "subscription-manager"),
        ("ubuntu_advantage", "pro"),
    ];
    host.forget_rules();
    host.rule("one", "", "method: command, cmd: 'true'");
    for (_, tool) in probes {
        host.tool(tool, "exit 9");
    }
    host.says("getenforce", 0, "Enforcing\n");
    host.says("aa-status", 0, "apparmor module is loaded.\n");
    host.tool("realm", "echo 'domain-name: example.test'");
    host.tool("dpkg", "echo 'ii  unattended-upgrades  1 all words'");
    host.tool("fips-mode-setup", "echo 'FIPS mode is enabled.'");
    host.tool(
        "systemctl",
        "case $1 in list-unit-files) [ \"$2\" = systemd-coredump.socket ] && echo \"$2 static\"; [ \"$2\" = crond.service ] && \
         echo \"$2 enabled\"; exit 0;; is-active) [ \"$2\" = firewalld ] && exit 0; exit 3;; esac",
    );
    let shown = host.check(&[]).await;
    let has = |name: &str| shown.whole["capabilities"][name].as_bool().unwrap();
    for (name, tool) in probes {
        assert_eq!(has(name), name != "authselect", "{name} by {tool}");
    }
    for name in [
        "aide",
        "selinux",
        "apparmor",
        "directory_joined",
        "dpkg",
        "apt_unattended_upgrades",
        "fips_mode",
        "cron",
    ] {
        assert!(has(name), "{name}");
    }
    assert!(has("coredump_systemd"));
    for name in
        ["sssd", "firewalld", "rsyslog_active", "nftables_active", "auditd", "usbguard", "chronyd", "ufw"]
    {
        assert!(!has(name), "{name}");
    }
    // Permissive is not enforcing, and a package that was removed is not installed.
    host.says("getenforce", 0, "Permissive\n");
    host.tool("dpkg", "echo 'rc  unattended-upgrades  1 all words'");
    let shown = host.check(&[]).await;
    for name in ["selinux", "apt_unattended_upgrades"] {
        assert_eq!(shown.whole["capabilities"][name], false, "{name}");
    }
}
