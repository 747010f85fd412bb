//! What to measure, and where: from the command line, refusing what cannot be meant.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use openwatch_model::Severity;
use openwatch_model::scan::Selection;
use openwatch_remote::Target;
use openwatch_rules::{Corpus, Variables, capability_names, did_you_mean, template_names};

use super::site;
use crate::cli::CheckArgs;
use crate::corpus_files;
use crate::exit::Failure;
use crate::tools::rules::tell_problems;

pub(super) fn target(args: &CheckArgs) -> Result<Target, Failure> {
    let (user, address) = user_and_rest(&args.target)
        .ok_or_else(|| Failure::usage(format!("name the host as USER@HOST, not `{}`", args.target)))?;
    let address = match address.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
        Some(Some(inside)) => inside,
        Some(None) => {
            let text = format!("`{address}` is no address; write [ADDRESS], and the port with -p");
            return Err(Failure::usage(text));
        }
        None => address,
    };
    let numeric = address.split('%').next().unwrap_or(address);
    if address.contains(':') && numeric.parse::<Ipv6Addr>().is_err() {
        let text = match address.rsplit_once(':') {
            Some((host, port)) if port.parse::<u16>().is_ok() => {
                format!("give the port with -p: `{user}@{host} -p {port}`")
            }
            _ => format!("`{address}` is neither a name nor an IP address"),
        };
        return Err(Failure::usage(text));
    }
    if let Some(odd) = address.chars().find(|c| c.is_whitespace() || c.is_control() || *c == '/') {
        return Err(Failure::usage(format!("a host name holds no {odd:?}")));
    }
    Ok(Target { address: address.to_owned(), port: args.port, user: user.to_owned() })
}

pub(super) fn user_and_rest(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once('@').filter(|(user, rest)| !user.is_empty() && !rest.is_empty())
}

/// Variables, lowest first: built-in, the corpus's own, the site's, the command line's.
pub(super) fn corpus(args: &CheckArgs, target: &Target) -> Result<Corpus, Failure> {
    let files = corpus_files::load(args.rules.as_deref())?;
    let mut pairs = BTreeMap::new();
    for pair in &args.variables {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("a variable is written KEY=VALUE, not `{pair}`")))?;
        pairs.insert(name.to_owned(), value.to_owned());
    }
    let site = site::values(args, &target.address)?;
    let variables =
        Variables::builtin().with(&site).and_then(|variables| variables.with(&pairs)).map_err(|errors| {
            Failure::usage(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))
        })?;
    if !pairs.is_empty() {
        let mut known: BTreeSet<String> =
            Corpus::load(&files, &Variables::builtin()).variables().keys().cloned().collect();
        known.extend(files.iter().flat_map(|file| template_names(&file.text)));
        if let Some(odd) = pairs.keys().find(|name| !known.contains(*name)) {
            let near = did_you_mean(odd, known.iter().map(String::as_str));
            return Err(Failure::usage(format!("no rule of this corpus uses a variable `{odd}`{near}")));
        }
    }
    let corpus = Corpus::load(&files, &variables);
    tell_problems(&corpus);
    Ok(corpus)
}

/// Filters narrow down: framework, then severities, then rule ids.
pub(super) fn selection(args: &CheckArgs, corpus: &Corpus) -> Result<Selection, Failure> {
    let framework = args.framework.clone().unwrap_or_else(|| "*".into());
    known_framework(&framework, corpus)?;
    let ids: Vec<&str> =
        corpus.rules().map(|r| r.id.as_str()).chain(corpus.unusable().map(|u| u.id.as_str())).collect();
    for id in &args.rule_ids {
        if !ids.contains(&id.as_str()) {
            let near = did_you_mean(id, ids.iter().copied());
            return Err(Failure::usage(format!(
                "there is no rule `{id}`{near}\n  `openwatch rules list` names them"
            )));
        }
    }
    let mut selection = Selection { framework, rules: args.rule_ids.clone() };
    if !args.severities.is_empty() {
        selection.rules = with_severity(&args.severities, &selection, corpus)?;
    }
    // Rules that cannot be measured are told as skipped, so they count as found.
    if corpus.selected(&selection).next().is_none() && corpus.unusable().next().is_none() {
        return Err(Failure::usage("no rule fits all of --rule, --severity and --framework"));
    }
    Ok(selection)
}

/// A framework that no rule speaks to is a typing mistake, not an empty scan that passes.
///
/// # Errors
/// Names the frameworks there are.
pub(crate) fn known_framework(framework: &str, corpus: &Corpus) -> Result<(), Failure> {
    let selection = Selection { framework: framework.to_owned(), rules: Vec::new() };
    if corpus.selected(&selection).next().is_some() || framework == "*" {
        return Ok(());
    }
    let known: Vec<&str> = corpus.frameworks().into_keys().collect();
    let near = did_you_mean(framework, known.iter().copied());
    let known = if known.is_empty() { "none".into() } else { known.join(", ") };
    Err(Failure::usage(format!(
        "no rule refers to the framework `{framework}`{near}\n  frameworks of this corpus: {known}"
    )))
}

fn with_severity(words: &[String], asked: &Selection, corpus: &Corpus) -> Result<Vec<String>, Failure> {
    let wanted = severities(words)?;
    let fits = |severity: Option<Severity>| severity.is_some_and(|s| wanted.contains(&s));
    let by_id = |id: &str| asked.rules.is_empty() || asked.rules.iter().any(|wanted| wanted == id);
    let measured = corpus.selected(asked).filter(|r| fits(r.severity())).map(|r| &r.id);
    let unusable = corpus.unusable().filter(|u| fits(u.severity) && by_id(&u.id)).map(|u| &u.id);
    let ids: Vec<String> = measured.chain(unusable).cloned().collect();
    if ids.is_empty() {
        return Err(Failure::usage(format!("none of the rules asked for is {}", words.join(" or "))));
    }
    Ok(ids)
}

/// # Errors
/// Names the four words.
pub(crate) fn severities(words: &[String]) -> Result<Vec<Severity>, Failure> {
    let read = |word: &String| {
        Severity::parse(&word.to_lowercase())
            .ok_or_else(|| Failure::usage(format!("severity is critical, high, medium or low, not `{word}`")))
    };
    words.iter().map(read).collect()
}

pub(super) fn capabilities(pairs: &[String]) -> Result<BTreeMap<String, bool>, Failure> {
    let read = |pair: &String| {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("a capability is written NAME=BOOL, not `{pair}`")))?;
        known_capability(name)?;
        match value.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" | "1" => Ok((name.to_owned(), true)),
            "false" | "no" | "n" | "off" | "0" => Ok((name.to_owned(), false)),
            other => Err(Failure::usage(format!("`{other}` is neither true nor false"))),
        }
    };
    pairs.iter().map(read).collect()
}

/// # Errors
/// Names the capabilities there are.
pub(crate) fn known_capability(name: &str) -> Result<(), Failure> {
    if capability_names().any(|known| known == name) {
        return Ok(());
    }
    let near = did_you_mean(name, capability_names());
    let known = capability_names().collect::<Vec<_>>().join(", ");
    Err(Failure::usage(format!("there is no capability `{name}`{near}\n  known are: {known}")))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn args(line: &[&str]) -> CheckArgs {
        let Command::Check(args) =
            Cli::parse_from(["openwatch", "check"].iter().chain(line).copied()).command
        else {
            panic!("not a check")
        };
        args
    }

    #[test]
    fn addresses() {
        for (text, expected) in [
            ("a@h", "h"),
            ("a@b@h.example", "h.example"),
            ("a@10.0.0.1", "10.0.0.1"),
            ("a@::1", "::1"),
            ("a@[fe80::1%eth0]", "fe80::1%eth0"),
        ] {
            assert_eq!(target(&args(&[text])).ok().unwrap().address, expected);
        }
        for (text, told) in [
            ("h", "USER@HOST"),
            ("@h", "USER@HOST"),
            ("a@", "USER@HOST"),
            ("a@h:2222", "`a@h -p 2222`"),
            ("a@[::1]:22", "write [ADDRESS]"),
            ("a@h:x", "neither a name"),
            ("a@h/x", "'/'"),
            ("a@h\u{1b}[m", "neither a name nor"),
        ] {
            let error = target(&args(&[text])).err().map(|f| f.error.to_string());
            if text.contains('\u{1b}') {
                assert!(error.is_some());
            } else {
                assert!(error.as_ref().is_some_and(|e| e.contains(told)), "{text}: {error:?}");
            }
        }
    }

    #[test]
    fn what_is_mistyped_is_named_with_what_was_meant() {
        let told = |line: &[&str]| {
            let args = args(line);
            let failed = target(&args)
                .and_then(|target| corpus(&args, &target))
                .and_then(|corpus| selection(&args, &corpus))
                .err();
            failed.map(|f| f.error.to_string()).unwrap_or_default()
        };
        assert_eq!(told(&["a@h"]), "");
        assert_eq!(told(&["a@h", "--framework", "CIS-Debian12", "--severity", "High"]), "");
        assert!(told(&["a@h", "--rule", "tmp-stiky"]).contains("did you mean `tmp-sticky`?"));
        let framework = told(&["a@h", "--framework", "cis_debian13"]);
        assert!(framework.contains("cis_debian12") && framework.contains("nist_800_53"), "{framework}");
        assert!(told(&["a@h", "--var", "ssh_max_auth_trys=3"]).contains("`ssh_max_auth_tries`"));
        assert!(told(&["a@h", "--var", "ssh_max_auth_tries=three"]).contains("ssh_max_auth_tries"));
        assert!(told(&["a@h", "--rule", "tmp-sticky", "--severity", "low"]).contains("low"));
        assert!(
            capabilities(&["sshd_config=1".into()])
                .err()
                .unwrap()
                .error
                .to_string()
                .contains("sshd_config_d")
        );
    }
}
