//! `policy keygen|sign|verify|show|reload|trust|revoke`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use openwatch_api::dto::{AuditEvent, Page, PolicyInForce, ReloadAsked};
use openwatch_pipeline::policy::{Source, accept};
use openwatch_store::Role;
use openwatch_trust::policy::{PolicyRefused, default_policy_yaml, read, sign, signature_path, verify};
use openwatch_trust::revocation::Revocations;
use openwatch_trust::{Fingerprint, PolicyKey, TrustedKeys};
use time::format_description::well_known::Rfc3339;

use crate::cli::{ClientArgs, DatabaseArgs, PolicyCommand};
use crate::client::{Client, table};
use crate::config::{Flags, load};
use crate::exit::{Failure, TRY_AGAIN};
use crate::keydir::KeyDir;
use crate::run::connect;

/// How long the schedulers may take to say what became of a reload.
const ANSWER: Duration = Duration::from_secs(10);

/// Runs a `policy` command.
///
/// # Errors
/// Exit 64 for whatever no process would follow.
pub async fn run(command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Keygen { out, name } => keygen(&out, &name),
        PolicyCommand::Sign { file, key, place } => {
            let own = || KeyDir::new(place.keys()).policy_key_file();
            sign_file(&file, &PolicyKey::load(&key.unwrap_or_else(own))?)
        }
        PolicyCommand::Verify { file, place } => check(&file, &KeyDir::new(place.dir())),
        PolicyCommand::Show { in_force: false, .. } => {
            table::line(default_policy_yaml().trim_end());
            Ok(())
        }
        PolicyCommand::Show { client, .. } => show(&client).await,
        PolicyCommand::Reload { file: Some(file), keys: Some(keys), database, .. } => {
            put_in_force(&file, keys, database).await
        }
        PolicyCommand::Reload { client, .. } => ask(&client).await,
        PolicyCommand::Trust { key, place } => trust(&key, &KeyDir::new(place.dir())),
        PolicyCommand::Revoke { fingerprint, key, place } => {
            revoke(&fingerprint, &key, &KeyDir::new(place.dir()))
        }
    }
}

fn check(file: &Path, keys: &KeyDir) -> Result<(), Failure> {
    let signers = keys.signer_watch().current().map_err(Failure::usage)?;
    let signed = read(file).map_err(refused)?;
    let it = verify(&signed.document, &signed.signature, &signers.trusted, &signers.revoked, None)
        .map_err(refused)?;
    let (file, version, key) = (file.display(), &it.version, it.key_fingerprint);
    table::line(&format!("{file} is version {version}, signed by {key}"));
    for clamp in it.clamps {
        let (tier, was, is) = (clamp.tier.as_str(), clamp.original_minutes, clamp.clamped_minutes);
        table::line(&format!("tier {tier}: {was} minutes are out of bounds and are used as {is}"));
    }
    Ok(())
}

async fn show(args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::new(args)?;
    let it: PolicyInForce = client.get("/policy", &[]).await?;
    if client.json {
        return table::json(&it);
    }
    let (version, key, at) = (&it.version, &it.key_fingerprint, table::moment(it.loaded_at));
    table::line(&format!("# version {version}, signed by {key}, in force since {at} UTC"));
    table::line(it.document.trim_end());
    Ok(())
}

async fn put_in_force(file: &Path, keys: PathBuf, database: DatabaseArgs) -> Result<(), Failure> {
    let settings = load(Flags::of_database(database))?;
    let signers = KeyDir::new(keys).signer_watch();
    let store = connect::store(&settings, Role::Scheduler, 2).await?;
    let accepted = accept(&store, file, &signers, Source::Reload).await.map_err(connect::stage_failure)?;
    let how = if accepted.unchanged { "was in force already" } else { "is in force" };
    table::line(&format!("policy {} {how}", accepted.policy.version));
    Ok(())
}

/// Asks the schedulers to read their files again, and waits for what they say.
async fn ask(args: &ClientArgs) -> Result<(), Failure> {
    let client = Client::new(args)?;
    let asked: ReloadAsked = client.post("/policy/reload", &serde_json::json!({})).await?;
    let since = asked.asked_at.format(&Rfc3339).map_err(Failure::usage)?;
    let deadline = tokio::time::Instant::now() + ANSWER;
    while tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let now: PolicyInForce = client.get("/policy", &[]).await?;
        if now.version != asked.version {
            return told(&client, &now, "is in force");
        }
        let query = |code: &str| [("code", code.to_owned()), ("since", since.clone())];
        let rejected: Page<AuditEvent> =
            client.get("/audit", &query("scheduler.policy.reload.rejected")).await?;
        if let Some(row) = rejected.items.first() {
            let reason = row.detail["reason"].as_str().unwrap_or("unknown");
            return Err(Failure::usage(format!(
                "the scheduler refused its policy file: {reason}; policy {} stays in force; its log says more",
                now.version
            )));
        }
        let done: Page<AuditEvent> = client.get("/audit", &query("policy.reload.done")).await?;
        if !done.items.is_empty() {
            return told(&client, &now, "was in force already");
        }
    }
    let text = "no scheduler answered; is one running, and was it given a policy file?";
    Err(Failure::new(TRY_AGAIN, anyhow::anyhow!(text)))
}

fn told(client: &Client, now: &PolicyInForce, how: &str) -> Result<(), Failure> {
    if client.json {
        return table::json(now);
    }
    table::line(&format!("policy {} {how}", now.version));
    Ok(())
}

/// Adds the public keys of a `.pub` file to those that count.
fn trust(file: &Path, keys: &KeyDir) -> Result<(), Failure> {
    let mut all = TrustedKeys::load(&keys.trusted_file())?.keys().to_vec();
    let fresh = TrustedKeys::load(file)?;
    let known = |key: &Fingerprint| all.iter().any(|it| it.fingerprint() == *key);
    let fresh: Vec<_> = fresh.keys().iter().filter(|key| !known(&key.fingerprint())).cloned().collect();
    if fresh.is_empty() {
        table::line("trusted already");
        return Ok(());
    }
    let told: Vec<_> = fresh.iter().map(|key| format!("{} ({})", key.fingerprint(), key.name())).collect();
    all.extend(fresh);
    TrustedKeys::new(all).map_err(Failure::usage)?.save(&keys.trusted_file())?;
    table::line(&format!(
        "now trusted: {}; give {} to every process and reload",
        told.join(", "),
        keys.trusted_file().display()
    ));
    Ok(())
}

/// Adds a key to the list of those that no longer count, and signs the list with another one.
fn revoke(fingerprint: &str, key: &Path, keys: &KeyDir) -> Result<(), Failure> {
    let fingerprint: Fingerprint = fingerprint.parse().map_err(Failure::usage)?;
    let signer = PolicyKey::load(key)?;
    if signer.fingerprint() == fingerprint {
        return Err(Failure::usage("a key cannot revoke itself; sign with another trusted key"));
    }
    let known = match keys.signer_files().map_err(Failure::usage)?.list {
        Some(list) => Revocations::stored(&list.document).map_err(Failure::usage)?,
        None => Revocations::none(),
    };
    if known.has(&fingerprint) {
        table::line("revoked already");
        return Ok(());
    }
    let (document, signature) = known.revoke(fingerprint, &signer);
    let path = keys.revoked_file();
    replace(&signature_path(&path), &signature)?;
    replace(&path, &document)?;
    let trusted = TrustedKeys::load(&keys.trusted_file())?;
    Revocations::load(&path, &trusted, &known).map_err(Failure::usage)?;
    let (list, sequence) = (path.display(), known.sequence() + 1);
    table::line(&format!(
        "{fingerprint} is revoked by list {sequence} in {list}; give it to every process and reload"
    ));
    Ok(())
}

/// In one step: a file that is half there would be refused.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    std::fs::write(&fresh, bytes)
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(|e| Failure::usage(format!("cannot write {}: {e}", path.display())))
}

fn keygen(out: &Path, name: &str) -> Result<(), Failure> {
    let key = PolicyKey::generate(name);
    key.save(out)?;
    let mut public = out.as_os_str().to_owned();
    public.push(".pub");
    TrustedKeys::new(vec![key.trusted()]).map_err(Failure::usage)?.save(Path::new(&public))?;
    table::line(&format!("key {} written to {}", key.fingerprint(), out.display()));
    Ok(())
}

/// Writes the signature of a policy beside it.
///
/// # Errors
/// When no process would follow the policy.
pub fn sign_file(file: &Path, key: &PolicyKey) -> Result<(), Failure> {
    let document =
        std::fs::read(file).map_err(|e| Failure::usage(format!("cannot read {}: {e}", file.display())))?;
    let signature = sign(&document, key).map_err(refused)?;
    let path = signature_path(file);
    replace(&path, &signature)?;
    table::line(&format!("signature written to {}", path.display()));
    Ok(())
}

fn refused(error: PolicyRefused) -> Failure {
    Failure::usage(error)
}
