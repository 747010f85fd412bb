//! `openwatch up`: everything on one machine. Prepares what is missing, says what it did, and runs all stages.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use openwatch_bus::subject::BUCKET_CORPORA;
use openwatch_bus::{Profile, User, topology};
use openwatch_model::audit::{Actor, CorpusPublished};
use openwatch_pipeline::corpus::publish;
use openwatch_pipeline::trail;
use openwatch_store::corpus::{self, CorpusRow};
use openwatch_store::{Role, Store, migrate};
use openwatch_trust::PolicyKey;
use openwatch_trust::policy::default_policy_yaml;
use zeroize::Zeroizing;

use super::connect::{self, bus_failure, store_failure};
use super::process::{Process, Stop, rest_config};
use super::stages::Wiring;
use super::{harden, metrics};
use crate::config::{Settings, load};
use crate::corpus_files;
use crate::exit::{Failure, UNAVAILABLE, USAGE};
use crate::keydir::{KeyDir, make_private_dir};
use crate::place::{ClientFile, default_data_dir};
use crate::private::{DataDir, Durability, NatsOptions, Places, Private, PrivateError, PrivateOptions};
use crate::tools::{keys as key_tools, policy as policy_tools};

impl From<PrivateError> for Failure {
    fn from(error: PrivateError) -> Self {
        let code = if error.is_unavailable() { UNAVAILABLE } else { USAGE };
        Self::new(code, anyhow::anyhow!("failed to {error}"))
    }
}

/// Runs until a signal.
///
/// # Errors
/// What it needs is missing, away or in use.
pub async fn run(args: crate::cli::UpArgs) -> Result<u8, Failure> {
    let mut stop = Stop::listen()?;
    let (process, private) = match stop.unless_asked(start(args)).await? {
        ControlFlow::Continue(running) => running,
        ControlFlow::Break(code) => return Ok(code),
    };
    let Some(mut private) = private else { return process.wait(&mut stop).await };
    let ended = tokio::select! {
        ended = process.wait(&mut stop) => ended,
        error = private.wait_failure() => Err(Failure::from(error)),
    };
    private.stop().await;
    ended
}

/// Safe to drop at any moment: what it has started by then is stopped.
async fn start(args: crate::cli::UpArgs) -> Result<(Process, Option<Private>), Failure> {
    let rules = args.rules.clone();
    let mut settings = load(args.into())?;
    let config = rest_config(&settings)?;
    let dir = settings.data_dir.clone().unwrap_or_else(default_data_dir);
    // Before anything is started: the most usual mistake should cost no time.
    if let Err(error) = std::net::TcpListener::bind(config.listen) {
        // Whoever started it twice has both in the way, and another address would not help.
        if let Some(error) = DataDir::in_use(&dir) {
            return Err(error.into());
        }
        return Err(Failure::unavailable(format!(
            "failed to listen on {}: {error}; choose another address with --listen",
            config.listen
        )));
    }
    let data = DataDir::open(&dir)?;
    let dir = data.path().to_owned();
    let keys = prepare_keys(&dir, &mut settings)?;
    let private = start_servers(data, &dir, &keys, &mut settings).await?;
    // After the servers were started: their programs are found through our own executable.
    harden();
    match serve(&dir, &keys, &settings, rules, config, private.is_some()).await {
        Ok((process, bound)) => {
            tracing::info!(api = %bound, data_dir = %dir.display(), "ready");
            let scheme = if settings.api_tls.is_some() { "https" } else { "http" };
            eprintln!("openwatch: ready at {scheme}://{bound} (data in {})", dir.display());
            Ok((process, private))
        }
        Err(failure) => {
            if let Some(private) = private {
                private.stop().await;
            }
            Err(failure)
        }
    }
}

fn prepare_keys(dir: &Path, settings: &mut Settings) -> Result<KeyDir, Failure> {
    let keys = match &settings.keys {
        Some(path) => KeyDir::new(path),
        None => {
            let path = dir.join("keys");
            let fresh = !path.join("dek").exists();
            let keys = if fresh {
                // What is encrypted and signed with lost keys cannot be had back by making new ones.
                if let Some(used) = ["postgres", "admin.token"].iter().find(|name| dir.join(name).exists()) {
                    let text = format!(
                        "{} is missing, but {} was used with it; put the key back from your copy",
                        path.join("dek").display(),
                        dir.join(used).display()
                    );
                    return Err(Failure::usage(text));
                }
                // A crash half-way left files without the key that makes them useful: begin again.
                if path.exists() {
                    std::fs::remove_dir_all(&path)?;
                }
                if dir.join("policy").exists() {
                    std::fs::remove_dir_all(dir.join("policy"))?;
                }
                let keys = KeyDir::init(&path)?;
                eprintln!("openwatch: made keys in {}", path.display());
                keys
            } else {
                let keys = KeyDir::new(&path);
                keys.complete()?;
                keys
            };
            settings.keys = Some(path);
            keys
        }
    };
    if settings.policy.is_none() {
        let policy_dir = dir.join("policy");
        make_private_dir(&policy_dir)?;
        let file = policy_dir.join("schedules.yaml");
        if !openwatch_trust::policy::signature_path(&file).exists() {
            // Somebody's own policy is theirs to sign.
            let written = std::fs::read_to_string(&file).unwrap_or_default();
            if !written.is_empty() && !default_policy_yaml().starts_with(&written) {
                let text = format!(
                    "{} is not signed; run `openwatch policy sign {} --key {}`",
                    file.display(),
                    file.display(),
                    keys.policy_key_file().display()
                );
                return Err(Failure::usage(text));
            }
            std::fs::write(&file, default_policy_yaml())?;
            policy_tools::sign_file(&file, &keys.policy_key()?)?;
            eprintln!(
                "openwatch: signed the default policy {} with {}",
                file.display(),
                keys.policy_key_file().display()
            );
        }
        settings.policy = Some(file);
    }
    Ok(keys)
}

async fn start_servers(
    data: DataDir,
    dir: &Path,
    keys: &KeyDir,
    settings: &mut Settings,
) -> Result<Option<Private>, Failure> {
    let (own_database, own_nats) = (settings.database_url.is_none(), settings.nats_servers.is_empty());
    if !own_database && !own_nats {
        // Held for as long as the process runs: two of them on one directory would share keys and tokens.
        Box::leak(Box::new(data));
        return Ok(None);
    }
    let users_conf = std::fs::read_to_string(keys.users_conf_file())
        .map_err(|e| Failure::usage(format!("cannot read {}: {e}", keys.users_conf_file().display())))?;
    let options = PrivateOptions {
        postgres_port: own_database.then_some(0),
        nats: own_nats.then_some(NatsOptions { port: 0, users_conf }),
        durability: Durability::Full,
        places: Places::from_environment(),
        reexec: None,
    };
    tracing::info!(data_dir = %dir.display(), "starting private servers");
    let private = Private::start(data, options).await?;
    if let Some(url) = private.postgres_url() {
        settings.database_url = Some(Zeroizing::new(url.expose().to_owned()));
    }
    if let Some(url) = private.nats_url() {
        settings.nats_servers = vec![url.to_owned()];
    }
    Ok(Some(private))
}

async fn serve(
    dir: &Path,
    keys: &KeyDir,
    settings: &Settings,
    rules: Option<PathBuf>,
    config: openwatch_api::ApiConfig,
    private: bool,
) -> Result<(Process, std::net::SocketAddr), Failure> {
    let url = connect::database_url(settings)?;
    let applied = migrate(url, trail::SENDER, trail::message)
        .await
        .map_err(|error| connect::store_failure_at(url, error))?;
    if !applied.is_empty() {
        tracing::info!(migrations = applied.len(), private, "schema brought up to date");
    }
    let admin = connect::bus(settings, keys, User::Admin).await?;
    let profile = if settings.nats_servers.len() > 1 { Profile::Production } else { Profile::Small };
    topology::apply(&admin, profile).await.map_err(bus_failure)?;
    let store = connect::store(settings, Role::Api, 2).await?;
    publish_corpus(&store, &admin, keys, rules.as_deref()).await?;
    let token_file = token(dir, &store).await?;
    store.close().await;
    admin.close().await;

    let mut process = Process::new();
    let metrics = metrics()?;
    let (tell, bound) = tokio::sync::oneshot::channel();
    let mut wiring = Wiring { process: &mut process, settings, keys };
    wiring
        .api(config, metrics, move |address| {
            let _ = tell.send(address);
        })
        .await?;
    wiring.vault().await?;
    wiring.keeper().await?;
    wiring.writer().await?;
    wiring.drift().await?;
    wiring.alerts().await?;
    wiring.liveness().await?;
    wiring.scheduler().await?;
    wiring.executor().await?;
    let Ok(bound) = bound.await else {
        // The API task ended before it was bound; its error says why.
        return Err(process.failure().await);
    };
    ClientFile {
        url: format!("{}://{bound}", if settings.api_tls.is_some() { "https" } else { "http" }),
        token_file,
        nats_url: settings.nats_servers.join(","),
        reader_seed_file: keys.reader_seed_file(),
    }
    .write(dir)?;
    Ok((process, bound))
}

/// Publishes the corpus unless it is the newest already.
async fn publish_corpus(
    store: &Store,
    bus: &openwatch_bus::Bus,
    keys: &KeyDir,
    rules: Option<&Path>,
) -> Result<(), Failure> {
    let files = corpus_files::load(rules)?;
    let loaded = openwatch_rules::Corpus::load(&files, &openwatch_rules::Variables::builtin());
    for problem in loaded.problems() {
        eprintln!("openwatch: {problem}");
    }
    let mut tx = store.begin().await.map_err(store_failure)?;
    let newest = corpus::newest(&mut tx).await.map_err(store_failure)?;
    drop(tx);
    // The row alone is no proof: the streams may have been made anew since. Nor does what another key signed count for ever.
    let there = bus.list_objects(BUCKET_CORPORA).await.map_err(bus_failure)?;
    let ours = |row: &CorpusRow| {
        row.digest == loaded.digest()
            && keys.policy_key().map_or(true, |key| row.key_fingerprint == key.fingerprint().to_string())
    };
    if newest.is_some_and(|row| ours(&row)) && there.iter().any(|name| name == loaded.digest()) {
        return Ok(());
    }
    note_publication(store, bus, &keys.policy_key()?, &files).await.map(drop)
}

/// Signs and publishes a corpus, and notes it in the database.
///
/// # Errors
/// With a server away.
pub async fn note_publication(
    store: &Store,
    bus: &openwatch_bus::Bus,
    key: &PolicyKey,
    files: &[openwatch_rules::CorpusFile],
) -> Result<openwatch_pipeline::corpus::Published, Failure> {
    let published = publish(bus, files, key).await.map_err(|e| Failure::new(UNAVAILABLE, e))?;
    let mut tx = store.begin().await.map_err(store_failure)?;
    let row = CorpusRow {
        digest: published.digest.clone(),
        rules: published.rules,
        bytes: published.bytes,
        key_fingerprint: published.key_fingerprint.clone(),
        published_by: Actor::Operator.label().to_owned(),
        published_at: tx.now(),
    };
    corpus::publish(&mut tx, &row).await.map_err(store_failure)?;
    let event = CorpusPublished {
        digest: published.digest.clone(),
        rules: published.rules,
        key_fingerprint: published.key_fingerprint.clone(),
    };
    trail::operator(&mut tx, &published.digest, &event).await.map_err(store_failure)?;
    tx.commit().await.map_err(store_failure)?;
    tracing::info!(digest = published.digest, rules = published.rules, "corpus published");
    Ok(published)
}

/// The administrator's token of this data directory, made once.
async fn token(dir: &Path, store: &Store) -> Result<PathBuf, Failure> {
    let file = dir.join("admin.token");
    if let Ok(known) = crate::config::read_secret(&file) {
        let mut tx = store.begin().await.map_err(store_failure)?;
        let good = openwatch_store::token::authenticate(&mut tx, &openwatch_trust::token::hash(&known)).await;
        if good.map_err(store_failure)?.is_some() {
            return Ok(file);
        }
    }
    // Missing, empty, or not of this database: a start before this one did not come this far.
    if file.exists() {
        std::fs::remove_file(&file)?;
    }
    // A name of its own: on a shared database another directory's token is not ours to replace.
    let name = format!("admin-{}", uuid::Uuid::new_v4().simple().to_string().split_at(8).0);
    key_tools::mint(store, &name, &file).await?;
    Ok(file)
}
