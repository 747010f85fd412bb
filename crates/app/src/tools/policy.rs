//! `policy keygen|sign|verify|show|reload`.

use std::path::Path;

use openwatch_pipeline::policy::{Source, accept};
use openwatch_store::Role;
use openwatch_trust::policy::{PolicyRefused, default_policy_yaml, read, sign, signature_path, verify};
use openwatch_trust::{PolicyKey, TrustedKeys};

use crate::cli::PolicyCommand;
use crate::client::table;
use crate::config::{Flags, load};
use crate::exit::Failure;
use crate::keydir::KeyDir;
use crate::run::connect;

/// Runs a `policy` command.
///
/// # Errors
/// Exit 64 for whatever no process would follow.
pub async fn run(command: PolicyCommand) -> Result<(), Failure> {
    match command {
        PolicyCommand::Keygen { out, name } => keygen(&out, &name),
        PolicyCommand::Sign { file, key } => sign_file(&file, &PolicyKey::load(&key)?),
        PolicyCommand::Verify { file, keys } => {
            let signers = KeyDir::new(keys).signers()?;
            let signed = read(&file).map_err(refused)?;
            let it = verify(&signed.document, &signed.signature, &signers.trusted, &signers.revoked, None)
                .map_err(refused)?;
            table::line(&format!(
                "{} is version {}, signed by {}",
                file.display(),
                it.version,
                it.key_fingerprint
            ));
            for clamp in it.clamps {
                let (tier, was, is) = (clamp.tier.as_str(), clamp.original_minutes, clamp.clamped_minutes);
                table::line(&format!("tier {tier}: {was} minutes are out of bounds and are used as {is}"));
            }
            Ok(())
        }
        PolicyCommand::Show => {
            table::line(default_policy_yaml().trim_end());
            Ok(())
        }
        PolicyCommand::Reload { file, keys, database } => {
            let settings = load(Flags::of_database(database))?;
            let signers = KeyDir::new(keys).signers()?;
            let store = connect::store(&settings, Role::Scheduler, 1).await?;
            let accepted =
                accept(&store, &file, &signers, Source::Reload).await.map_err(connect::stage_failure)?;
            let how = if accepted.unchanged { "was in force already" } else { "is in force" };
            table::line(&format!("policy {} {how}", accepted.policy.version));
            Ok(())
        }
    }
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
    // In one step: a signature that is half there would be refused for ever.
    let fresh = path.with_extension("sig.new");
    std::fs::write(&fresh, signature)
        .and_then(|()| std::fs::rename(&fresh, &path))
        .map_err(|e| Failure::usage(format!("cannot write {}: {e}", path.display())))?;
    table::line(&format!("signature written to {}", path.display()));
    Ok(())
}

fn refused(error: PolicyRefused) -> Failure {
    Failure::usage(error)
}
