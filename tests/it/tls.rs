//! NATS, PostgreSQL and REST over TLS, with certificates on both sides; and everybody else turned away.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use openwatch_app::private::{DataDir, Durability, NatsOptions, Places, Private, PrivateOptions};
use openwatch_tests::{Program, Running, openwatch};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;

/// Servers that let nobody in without a certificate of `authority`, and two other parties: one with a certificate that
/// another authority signed, one with none.
struct Servers {
    _private: Private,
    dir: TempDir,
    nats: String,
    /// Everything but the TLS parameters.
    database: String,
}

impl Servers {
    async fn start() -> Self {
        let dir = tempfile::Builder::new().prefix("ow-tls-").tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
        let keys = dir.path().join("keys");
        run(Program::new(["keys", "init", "--dir"]).arg(&keys)).await;
        for (authority, name) in [("keys", "server"), ("keys", "us"), ("others", "stranger")] {
            let issue = Program::new([
                "keys",
                "issue",
                "certificate",
                "--host",
                "localhost",
                "--host",
                "127.0.0.1",
                "--dir",
            ]);
            // The login of the private database: PostgreSQL wants it in the certificate.
            let issue = issue.arg(dir.path().join(authority)).args(["--name", "openwatch", "--out"]);
            run(issue.arg(dir.path().join(name))).await;
        }
        let at = |file: &str| dir.path().join("server").join(file).display().to_string();
        let users = fs::read_to_string(keys.join("nats/users.conf")).unwrap();
        let tls = format!(
            "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n",
            at("tls.crt"),
            at("tls.key"),
            at("ca.crt")
        );
        // The servers run as another user when we are root; a database made first shows which.
        let data = dir.path().join("data");
        let first = private(&data, None).await;
        let owner = fs::metadata(data.join("postgres/PG_VERSION")).unwrap();
        for file in ["", "tls.crt", "tls.key", "ca.crt"] {
            chown(at(file), Some(owner.uid()), Some(owner.gid())).unwrap();
        }
        let url = first.postgres_url().unwrap().expose().to_owned();
        let mut admin = PgConnection::connect(&url).await.unwrap();
        for (setting, value) in [
            ("ssl_cert_file", at("tls.crt")),
            ("ssl_key_file", at("tls.key")),
            ("ssl_ca_file", at("ca.crt")),
            ("ssl", "on".to_owned()),
        ] {
            let set = format!("alter system set {setting} = '{value}'");
            sqlx::raw_sql(AssertSqlSafe(set)).execute(&mut admin).await.unwrap();
        }
        admin.close().await.unwrap();
        first.stop().await;
        fs::write(
            data.join("postgres/pg_hba.conf"),
            "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n",
        )
        .unwrap();
        let private = private(&data, Some(users + &tls)).await;
        // By name: that is what stands in the certificate.
        let named = |url: &str| url.replace("127.0.0.1", "localhost");
        let (nats, database) =
            (named(private.nats_url().unwrap()), named(private.postgres_url().unwrap().expose()));
        Self { nats: nats.replace("nats://", "tls://"), database, _private: private, dir }
    }

    fn file(&self, party: &str, file: &str) -> String {
        self.dir.path().join(party).join(file).display().to_string()
    }

    /// A file with the address for someone who believes the authority of `ca` and shows the certificate of `party`.
    fn database_file(&self, ca: &str, party: Option<&str>) -> PathBuf {
        let mut url =
            format!("{}?sslmode=verify-full&sslrootcert={}", self.database, self.file(ca, "ca.crt"));
        if let Some(party) = party {
            let (certificate, key) = (self.file(party, "tls.crt"), self.file(party, "tls.key"));
            url += &format!("&sslcert={certificate}&sslkey={key}");
        }
        let path = self.dir.path().join(format!("{ca}-{}.url", party.unwrap_or("nobody")));
        fs::write(&path, url).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn nats_args(&self, ca: &str, party: Option<&str>) -> Vec<String> {
        let mut args = vec!["--nats-url".to_owned(), self.nats.clone()];
        args.extend(["--nats-ca".to_owned(), self.file(ca, "ca.crt")]);
        if let Some(party) = party {
            args.extend(["--nats-certificate".to_owned(), self.file(party, "tls.crt")]);
            args.extend(["--nats-key".to_owned(), self.file(party, "tls.key")]);
        }
        args
    }

    /// `openwatch up` on these servers, itself speaking TLS to clients with a certificate only.
    async fn up(&self) -> Running {
        let config = self.dir.path().join("openwatch.toml");
        let (certificate, key) = (self.file("us", "tls.crt"), self.file("us", "tls.key"));
        let ca = self.file("us", "ca.crt");
        let text = format!("[api]\ncertificate = {certificate:?}\nkey = {key:?}\nclient_ca = {ca:?}\n");
        fs::write(&config, text).unwrap();
        let up =
            Program::new(["up", "--listen", "127.0.0.1:0", "--data-dir"]).arg(self.dir.path().join("up"));
        let up = up.arg("--config").arg(config).arg("--keys").arg(self.dir.path().join("keys"));
        let up = up.arg("--database-url-file").arg(self.database_file("us", Some("us")));
        let mut up = up.args(self.nats_args("us", Some("us"))).spawn();
        up.line("openwatch: ready at https://").await;
        up
    }
}

async fn private(data: &Path, users_conf: Option<String>) -> Private {
    let options = PrivateOptions {
        postgres_port: Some(0),
        nats: users_conf.map(|users_conf| NatsOptions { port: 0, users_conf }),
        durability: Durability::ProcessCrash,
        places: Places::from_environment(),
        reexec: Some(openwatch()),
    };
    let started = Private::start(DataDir::open(data).unwrap(), options).await;
    started.unwrap_or_else(|error| panic!("failed to {error} (or run `make setup`)"))
}

async fn run(program: Program) -> String {
    let (code, stdout, stderr) = program.run().await;
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    stdout
}

// @spec credential-store
// @ac AC-09
#[tokio::test]
async fn every_link_speaks_tls_and_turns_away_who_cannot_prove_himself() {
    println!("@spec credential-store");
    println!("@ac AC-09");
    let servers = Servers::start().await;
    let _up = servers.up().await;

    let mut database =
        PgConnection::connect(&fs::read_to_string(servers.database_file("us", Some("us"))).unwrap())
            .await
            .unwrap();
    let plain = "select count(*) from pg_stat_activity a left join pg_stat_ssl s using (pid)
         where a.application_name like 'openwatch-%' and s.client_serial is null";
    let all = "select count(*) from pg_stat_activity where application_name like 'openwatch-%'";
    let count = async |connection: &mut PgConnection, query: &'static str| {
        sqlx::query_scalar::<_, i64>(query).fetch_one(connection).await.unwrap()
    };
    assert!(count(&mut database, all).await > 8, "every stage is there");
    assert_eq!(count(&mut database, plain).await, 0, "each has shown a certificate");

    let parties = [
        ("us", Some("us"), None),
        ("us", None, Some(["CertificateRequired", "valid client certificate"])),
        ("us", Some("stranger"), Some(["UnknownCA", "ertificate"])),
        ("stranger", Some("us"), Some(["UnknownIssuer", "BadSignature"])),
    ];
    for (ca, party, refusal) in parties {
        let database = Program::new(["migrate", "--database-url-file"]).arg(servers.database_file(ca, party));
        let nats = Program::new(["topology", "check", "--keys"]).arg(servers.dir.path().join("keys"));
        let nats = nats.args(servers.nats_args(ca, party));
        let rest = Program::new(["status", "--data-dir"]).arg(servers.dir.path().join("up"));
        let rest = rest.args(["--ca".to_owned(), servers.file(ca, "ca.crt")]);
        let rest = match party {
            Some(party) => rest
                .args(["--client-certificate".to_owned(), servers.file(party, "tls.crt")])
                .args(["--client-key".to_owned(), servers.file(party, "tls.key")]),
            None => rest,
        };
        for (link, program) in [("PostgreSQL", database), ("NATS", nats), ("REST", rest)] {
            let (code, stdout, stderr) = program.run().await;
            let what = format!("{link}, believing {ca}, showing {party:?}: {code:?} {stdout}{stderr}");
            match refusal {
                None => assert_eq!(code, Some(0), "{what}"),
                Some(why) => {
                    assert_eq!(code, Some(69), "{what}");
                    // The server of TLS 1.3 may close before its reason is read.
                    let closed = link == "REST" && party != Some("us");
                    assert!(why.iter().any(|why| stderr.contains(why)) || closed, "{what}");
                }
            }
        }
    }
}

// @spec credential-store
// @ac AC-10
#[tokio::test]
async fn settings_that_would_not_be_safe_are_refused_all_at_once() {
    println!("@spec credential-store");
    println!("@ac AC-10");
    let dir = tempfile::tempdir().unwrap();
    let at = |file: &str| dir.path().join(file).display().to_string();
    let issue = Program::new(["keys", "issue", "certificate", "--dir"]).arg(dir.path().join("keys"));
    run(issue.clone().args(["--out", &at("one")])).await;
    run(issue.args(["--out", &at("two")])).await;
    fs::copy(at("one/tls.key"), at("open.key")).unwrap();
    fs::set_permissions(at("open.key"), Permissions::from_mode(0o644)).unwrap();
    fs::write(at("empty.crt"), "").unwrap();
    let (certificate, key, other) = (at("one/tls.crt"), at("one/tls.key"), at("two/tls.key"));
    let check = async |text: String| {
        let config = at("openwatch.toml");
        fs::write(&config, text).unwrap();
        let (code, stdout, stderr) = Program::new(["config", "check", "--config", &config]).run().await;
        (code, stdout + &stderr)
    };
    for (text, wanted) in [
        ("[nats]\nservers = [\"nats://n1:4222\"]".to_owned(), "nats.ca"),
        ("[database]\nurl = \"postgres://u@db/x\"".to_owned(), "sslmode=verify-full"),
        ("[database]\nurl = \"postgres://u@db/x?sslmode=require\"".to_owned(), "sslmode=verify-full"),
        (format!("[nats]\nca = {:?}", at("none.crt")), "nats.ca: cannot read"),
        (format!("[nats]\nca = {:?}", at("empty.crt")), "holds no certificate"),
        (format!("[nats]\ncertificate = {certificate:?}"), "nats.certificate needs nats.key"),
        (format!("[nats]\nkey = {key:?}"), "nats.key needs nats.certificate"),
        (format!("[nats]\ncertificate = {certificate:?}\nkey = {other:?}"), "is not the key of"),
        (format!("[nats]\ncertificate = {certificate:?}\nkey = {:?}", at("open.key")), "chmod 600"),
        (format!("[api]\ncertificate = {certificate:?}\nkey = {:?}", at("open.key")), "chmod 600"),
        (format!("[api]\nclient_ca = {certificate:?}"), "needs api.certificate and api.key"),
        ("[api]\nlisten = \"0.0.0.0:8080\"".to_owned(), "name api.certificate and api.key"),
        ("[nats]\nservers = [\"tls://u:hunter2@n1\"]".to_owned(), "holds a user or a password"),
        (
            format!("[database]\nurl = \"postgres://u@db/x?sslmode=verify-full&sslcert={certificate}\""),
            "sslcert of the database URL needs sslkey",
        ),
    ] {
        let (code, said) = check(text.clone()).await;
        assert_eq!(code, Some(64), "{text}: {said}");
        assert!(said.contains(wanted) && !said.contains("hunter2"), "{text}: {said}");
    }
    let allowed = "[nats]\nservers = [\"nats://n1:4222\"]\nplain_beyond_loopback = true\n\
                   [database]\nurl = \"postgres://u@db/x\"\nplain_beyond_loopback = true\n\
                   [api]\nlisten = \"0.0.0.0:8080\"\nplain_beyond_loopback = true\n";
    let (code, said) = check(allowed.to_owned()).await;
    assert_eq!(code, Some(0), "{said}");
    let (_, said) = check("[nats]\nservers = [\"nats://n1:4222\"]\nkey = \"/k\"".to_owned()).await;
    assert!(said.contains("nats.key needs"), "{said}");
    let token = at("token");
    fs::write(&token, "owk_x").unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    let status = Program::new(["status", "--url", "http://ow.example:8080", "--token-file", &token]);
    let (code, _, stderr) = status.run().await;
    assert!(code == Some(64) && stderr.contains("https://"), "{code:?}: {stderr}");
}
