//! `keys init` and `keys issue`.

use openwatch_model::audit::{Actor, ApiKeyCreated};
use openwatch_pipeline::trail;
use openwatch_store::Role;
use openwatch_store::token::{self, NewToken};
use openwatch_trust::token::ApiToken;

use crate::cli::{IssueArgs, IssueFor, KeysCommand, RotateStep};
use crate::client::table;
use crate::config::{Flags, load};
use crate::exit::Failure;
use crate::keydir::KeyDir;
use crate::run::connect;

/// Runs a `keys` command.
///
/// # Errors
/// Exit 64 for files that are in the way or missing.
pub async fn run(command: KeysCommand) -> Result<(), Failure> {
    match command {
        KeysCommand::Init { dir } => {
            KeyDir::init(&dir)?;
            table::line(&format!("keys made in {}", dir.display()));
            table::line(
                "keep a copy of `dek` where only you can read it: without it stored credentials are lost",
            );
            Ok(())
        }
        KeysCommand::Rotate { step, dir } => {
            let keys = KeyDir::new(&dir);
            match step {
                RotateStep::Begin => drop(keys.deks().begin()?),
                RotateStep::Switch => keys.deks().switch()?,
                RotateStep::Retire => keys.deks().retire()?,
            }
            keys.reissue()?;
            let deks = keys.deks().load()?;
            table::line(&format!(
                "the current key is {}; run `openwatch keys issue` for every process now",
                deks.current()
            ));
            Ok(())
        }
        KeysCommand::Issue(args) if args.what == IssueFor::Token => issue_token(args).await,
        KeysCommand::Issue(args) if args.what == IssueFor::Certificate => {
            let [certificate, key, ca] =
                KeyDir::new(&args.dir).certificate(&args.name, &args.hosts, &args.out)?;
            table::line(&format!("certificate written to {}", certificate.display()));
            table::line(&format!("its key is {}, its authority {}", key.display(), ca.display()));
            Ok(())
        }
        KeysCommand::Issue(args) => {
            KeyDir::new(&args.dir).issue(args.what, &args.out)?;
            table::line(&format!("keys written to {}", args.out.display()));
            Ok(())
        }
    }
}

async fn issue_token(args: IssueArgs) -> Result<(), Failure> {
    let settings = load(Flags::of_database(args.database))?;
    let store = connect::store(&settings, Role::Api, 1).await?;
    let file = if args.out.is_dir() { args.out.join("token") } else { args.out };
    mint(&store, &args.name, &file).await?;
    table::line(&format!("token `{}` written to {}", args.name, file.display()));
    Ok(())
}

/// Makes an administrator's token: its hash goes to the database, itself to a new file of mode 0600.
///
/// # Errors
/// When the name is taken or the file is there already.
pub async fn mint(store: &openwatch_store::Store, name: &str, file: &std::path::Path) -> Result<(), Failure> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let secret = ApiToken::generate();
    let mut tx = store.begin().await.map_err(connect::store_failure)?;
    let actor = Actor::Operator;
    let token = NewToken {
        name: name.to_owned(),
        hash: secret.hash(),
        prefix: secret.expose().chars().take(12).collect(),
        role: "admin".to_owned(),
        expires_at: None,
    };
    token::insert(&mut tx, &token, actor.label())
        .await
        .map_err(|e| Failure::usage(format!("cannot make token `{name}`: {e}")))?;
    let event = ApiKeyCreated { name: name.to_owned(), role: "admin".to_owned() };
    trail::operator(&mut tx, &format!("token {name}"), &event).await.map_err(connect::store_failure)?;
    if file.exists() {
        return Err(Failure::usage(format!("{} is there already; name another file", file.display())));
    }
    // The file appears only when its token counts.
    let fresh = file.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let mut out = std::fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(|e| Failure::usage(format!("cannot write the token to {}: {e}", file.display())))?;
    writeln!(out, "{}", secret.expose())?;
    out.sync_all()?;
    tx.commit().await.map_err(connect::store_failure)?;
    Ok(std::fs::rename(fresh, file)?)
}
