//! `rules lint|list|show|plan|publish`.

mod lint;
mod list;
mod plan;
mod show;

use std::path::Path;

use openwatch_bus::User;
use openwatch_model::host::Platform;
use openwatch_rules::{Corpus, Variables};
use openwatch_store::Role;
use openwatch_trust::PolicyKey;

use crate::cli::RulesCommand;
use crate::client::table;
use crate::config::{Flags, load};
use crate::corpus_files;
use crate::exit::Failure;
use crate::run::connect;
use crate::run::up::note_publication;

/// Runs a `rules` command. The exit code: 1 when lint finds errors.
///
/// # Errors
/// 64 for a directory or a rule that is not there.
pub async fn run(command: RulesCommand) -> Result<u8, Failure> {
    match command {
        RulesCommand::Lint { dir, json } => lint::run(dir.as_deref(), json),
        RulesCommand::List(args) => list::run(&corpus(args.rules.as_deref())?, &args).map(|()| 0),
        RulesCommand::Show { id, rules, json } => {
            show::run(&corpus(rules.as_deref())?, &id, json).map(|()| 0)
        }
        RulesCommand::Plan(args) => plan::run(&corpus(args.rules.as_deref())?, &args).map(|()| 0),
        RulesCommand::Publish { dir, key, database, nats, keys } => {
            let files = corpus_files::load(dir.as_deref())?;
            tell_problems(&Corpus::load(&files, &Variables::builtin()));
            let settings = load(Flags::of_publish(database, nats, keys))?;
            let keys = connect::keys(&settings)?;
            let key = PolicyKey::load(&key.unwrap_or_else(|| keys.policy_key_file()))?;
            let bus = connect::bus(&settings, &keys, User::Admin).await?;
            let store = connect::store(&settings, Role::Api, 1).await?;
            let published = note_publication(&store, &bus, &key, &files).await?;
            table::line(&format!("{} rules published as {}", published.rules, published.digest));
            Ok(0)
        }
    }
}

fn corpus(dir: Option<&Path>) -> Result<Corpus, Failure> {
    let corpus = Corpus::load(&corpus_files::load(dir)?, &Variables::builtin());
    tell_problems(&corpus);
    Ok(corpus)
}

/// Says what is wrong with files, on stderr; the rest of the corpus goes on.
pub fn tell_problems(corpus: &Corpus) {
    for problem in corpus.problems() {
        table::tell(&format!("openwatch: {problem}"));
    }
}

/// `debian 12`, `debian-12`, `rhel9.4`: a name, and a version or none.
///
/// # Errors
/// 64 when there is no name.
fn platform(text: &str) -> Result<Platform, Failure> {
    let digit = text.find(|c: char| c.is_ascii_digit()).unwrap_or(text.len());
    let (family, version) = text.split_at(digit);
    let family = family.trim_end_matches([' ', '-', ':', '=', '_']).trim().to_lowercase();
    if family.is_empty() {
        return Err(Failure::usage(format!(
            "a platform is the ID and VERSION_ID of os-release, such as `debian 12`, not `{text}`"
        )));
    }
    Ok(Platform { family, version: version.trim().to_owned(), name: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_are_read_as_people_write_them() {
        for (text, family, version) in [
            ("debian 12", "debian", "12"),
            ("Debian-12", "debian", "12"),
            ("rhel9.4", "rhel", "9.4"),
            ("ubuntu:22.04", "ubuntu", "22.04"),
            ("opensuse-leap 15.5", "opensuse-leap", "15.5"),
            ("arch", "arch", ""),
        ] {
            let read = platform(text).ok().unwrap();
            assert_eq!((read.family.as_str(), read.version.as_str()), (family, version), "{text}");
        }
        assert!(platform("").is_err() && platform("12").is_err());
    }
}
