//! `openwatch check`: measure a host now, without bus or database.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use openwatch_model::credential::{Secret, SudoMode};
use openwatch_model::outcome::Counts;
use openwatch_model::scan::{Failure as ScanFailure, Measurement, Selection};
use openwatch_model::score::Score;
use openwatch_model::{Outcome, Severity, Status, Timestamp};
use openwatch_pipeline::loaded::Loaded;
use openwatch_pipeline::measure::{MeasureOptions, measure};
use openwatch_remote::{Connection, HostKeyPolicy, Limits, Target, Trust, connect, connect_through};
use openwatch_rules::{Corpus, Variables, capability_names};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::known_hosts;
use super::rules::tell_problems;
use crate::cli::CheckArgs;
use crate::client::credentials::{read_key, secret};
use crate::client::table;
use crate::corpus_files;
use crate::exit::{Failure, INTERRUPTED, UNAVAILABLE};

/// Runs the check. The exit code: 0 all pass, 1 some fail, 2 some in error.
///
/// # Errors
/// 64 for usage, 69 when the host is unreachable or refuses.
pub async fn run(args: CheckArgs) -> Result<u8, Failure> {
    let target = target(&args)?;
    let corpus = corpus(&args)?;
    let selection = selection(&args, &corpus)?;
    let capabilities = capabilities(&args.capabilities)?;
    let secret = secrets(&args)?;
    let policy = known_hosts::policy(&args.host_key, &target)?;
    let jump = jump(&args)?;
    crate::run::harden();

    let begun = Instant::now();
    let started_at = Timestamp::now_utc();
    let cancel = CancellationToken::new();
    let loaded = Loaded::new(corpus);
    let work = async {
        let refused = |error: &openwatch_remote::RemoteError| Failure::unavailable(format!("cannot {error}"));
        let limits = Limits::default();
        let connection = match jump {
            None => connect(&target, &policy, &limits, &cancel).await,
            Some(Jump { target: first, policy: known, secret }) => {
                let connection = connect(&first, &known, &limits, &cancel)
                    .await
                    .map_err(|error| refused(&error.at_jump()))?;
                keep(&first, &connection)?;
                let jump = connection.into_jump(secret).await.map_err(|error| refused(&error))?;
                connect_through(&jump, &target, &policy, &limits, &cancel).await
            }
        }
        .map_err(|error| refused(&error))?;
        keep(&target, &connection)?;
        let mut session = connection.login(&secret).await.map_err(|error| refused(&error))?;
        let sudo = args.sudo || args.sudo_password_file.is_some();
        let options = MeasureOptions {
            lanes: args.lanes,
            sudo: if sudo { SudoMode::Sudo } else { SudoMode::None },
            deadline: begun + Duration::from_secs(args.timeout),
            selection,
            capabilities,
        };
        let bar = progress(args.json);
        let tell = |done: usize, total: usize| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        };
        let measured = measure(&mut session, &loaded, &secret, &options, &tell).await;
        bar.finish_and_clear();
        session.close().await;
        measured.map_err(|it: ScanFailure| {
            Failure::new(UNAVAILABLE, anyhow::anyhow!("{}: {}", it.reason.as_str(), it.detail))
        })
    };
    let measured = tokio::select! {
        measured = work => measured?,
        _ = tokio::signal::ctrl_c() => return Ok(INTERRUPTED),
    };
    show(&args, &target, &measured, started_at, begun.elapsed())
}

fn target(args: &CheckArgs) -> Result<Target, Failure> {
    let (user, address) = user_and_rest(&args.target)
        .ok_or_else(|| Failure::usage(format!("name the host as USER@HOST, not `{}`", args.target)))?;
    let address = address.trim_matches(['[', ']']).to_owned();
    Ok(Target { address, port: args.port, user: user.to_owned() })
}

fn user_and_rest(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once('@').filter(|(user, rest)| !user.is_empty() && !rest.is_empty())
}

/// The host to go through first.
struct Jump {
    target: Target,
    policy: HostKeyPolicy,
    secret: Secret,
}

fn jump(args: &CheckArgs) -> Result<Option<Jump>, Failure> {
    let Some(text) = &args.jump else { return Ok(None) };
    let target = jump_target(text)
        .ok_or_else(|| Failure::usage(format!("name the jump host as USER@HOST[:PORT], not `{text}`")))?;
    let policy = known_hosts::policy(&args.host_key, &target)?;
    if matches!(policy.trust, Trust::Pinned(_)) {
        let text =
            "a pinned fingerprint is that of the host; with -J put both keys into known_hosts, or use tofu";
        return Err(Failure::usage(text));
    }
    let mut it = Secret::default();
    let own = args.jump_key.is_some() || args.jump_password_file.is_some();
    // A key proves itself without being given away; a password would be, so the host's own is never tried on another.
    let key = if own { args.jump_key.as_deref() } else { args.key.as_deref() };
    let passphrase = if own { &args.jump_passphrase_file } else { &args.passphrase_file };
    it.private_key = key.map(read_key).transpose()?;
    it.passphrase = secret(passphrase.as_deref(), "passphrase for the jump host")?;
    it.password = secret(args.jump_password_file.as_deref(), "password for the jump host")?;
    if it.auth_method().is_none() {
        let text =
            "give a key for the jump host with -i or --jump-key, or a password with --jump-password-file";
        return Err(Failure::usage(text));
    }
    Ok(Some(Jump { target, policy, secret: it }))
}

/// `USER@HOST`, `USER@HOST:PORT`, `USER@[IPV6]:PORT`; an IPv6 address without brackets has no port.
fn jump_target(text: &str) -> Option<Target> {
    let (user, rest) = user_and_rest(text)?;
    let (address, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (address, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
        }
        None if rest.matches(':').count() == 1 => {
            rest.split_once(':').map(|(address, port)| (address, Some(port)))?
        }
        None => (rest, None),
    };
    let port = port.map_or(Some(22), |port| port.parse().ok().filter(|port| *port != 0))?;
    let address = address.to_owned();
    (!address.is_empty()).then_some(Target { address, port, user: user.to_owned() })
}

/// Remembers the key of a first contact.
fn keep(target: &Target, connection: &Connection) -> Result<(), Failure> {
    if connection.is_first_contact() { known_hosts::remember(target, connection.host_key()) } else { Ok(()) }
}

fn corpus(args: &CheckArgs) -> Result<Corpus, Failure> {
    let files = corpus_files::load(args.rules.as_deref())?;
    let pairs: BTreeMap<String, String> = args
        .variables
        .iter()
        .map(|pair| {
            pair.split_once('=')
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .ok_or_else(|| Failure::usage(format!("a variable is written KEY=VALUE, not `{pair}`")))
        })
        .collect::<Result<_, _>>()?;
    let variables = Variables::builtin().with(&pairs).map_err(|errors| {
        Failure::usage(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  "))
    })?;
    let corpus = Corpus::load(&files, &variables);
    tell_problems(&corpus);
    Ok(corpus)
}

/// Filters narrow down: framework, then severities, then rule ids.
fn selection(args: &CheckArgs, corpus: &Corpus) -> Result<Selection, Failure> {
    let mut rules = args.rule_ids.clone();
    for id in &rules {
        if corpus.rule(id).is_none() && !corpus.unusable().any(|u| u.id == *id) {
            return Err(Failure::usage(format!(
                "there is no rule `{id}`; `openwatch rules list` shows them"
            )));
        }
    }
    if !args.severities.is_empty() {
        let wanted: Vec<Severity> = args
            .severities
            .iter()
            .map(|text| {
                Severity::parse(text).ok_or_else(|| {
                    Failure::usage(format!("severity is critical, high, medium or low, not `{text}`"))
                })
            })
            .collect::<Result<_, _>>()?;
        let fits = |id: &&str| rules.is_empty() || rules.iter().any(|r| r == id);
        let of = corpus.rules().filter(|r| r.severity().is_some_and(|s| wanted.contains(&s)));
        rules = of.map(|r| r.id.as_str()).filter(fits).map(str::to_owned).collect();
        if rules.is_empty() {
            return Err(Failure::usage("no rule has that severity"));
        }
    }
    Ok(Selection { framework: args.framework.clone().unwrap_or_else(|| "*".into()), rules })
}

fn capabilities(pairs: &[String]) -> Result<BTreeMap<String, bool>, Failure> {
    let read = |pair: &String| {
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("a capability is written NAME=BOOL, not `{pair}`")))?;
        if !capability_names().any(|known| known == name) {
            return Err(Failure::usage(format!("unknown capability `{name}`")));
        }
        match value.to_ascii_lowercase().as_str() {
            "true" | "yes" | "y" | "on" | "1" => Ok((name.to_owned(), true)),
            "false" | "no" | "n" | "off" | "0" => Ok((name.to_owned(), false)),
            other => Err(Failure::usage(format!("`{other}` is neither true nor false"))),
        }
    };
    pairs.iter().map(read).collect()
}

fn secrets(args: &CheckArgs) -> Result<Secret, Failure> {
    if args.key.is_none() && args.password_file.is_none() {
        return Err(Failure::usage("give a private key with -i, or a password with --password-file"));
    }
    let mut it = Secret::default();
    it.private_key = args.key.as_deref().map(read_key).transpose()?;
    it.passphrase = secret(args.passphrase_file.as_deref(), "passphrase")?;
    it.password = secret(args.password_file.as_deref(), "login password")?;
    it.sudo_password = secret(args.sudo_password_file.as_deref(), "sudo password")?;
    Ok(it)
}

fn progress(json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len} checks, {elapsed}") {
        bar.set_style(style);
    }
    bar
}

fn show(
    args: &CheckArgs,
    target: &Target,
    measured: &Measurement,
    started_at: Timestamp,
    took: Duration,
) -> Result<u8, Failure> {
    let counts = Counts::of(measured.outcomes.iter().map(|o| &o.status));
    if args.json {
        let timing: BTreeMap<&str, u64> =
            measured.timings.iter().map(|t| (t.rule.as_str(), t.duration_ms)).collect();
        let outcome = |o: &Outcome| {
            json!({
                "rule": o.rule, "status": o.status, "severity": o.severity, "detail": o.detail,
                "skip_reason": o.skip_reason, "framework_refs": o.framework_refs, "evidence": o.evidence,
                "duration_ms": timing.get(o.rule.as_str()).copied().unwrap_or(0),
            })
        };
        table::json(&json!({
            "host": target.address,
            "platform": measured.platform,
            "capabilities": measured.capabilities,
            "started_at": started_at.format(&time::format_description::well_known::Rfc3339).unwrap_or_default(),
            "duration_ms": took.as_millis() as u64,
            "counts": counts,
            "executions": measured.executions,
            "fallback": measured.fallback,
            "outcomes": measured.outcomes.iter().map(outcome).collect::<Vec<_>>(),
        }))?;
    } else {
        let mut rows = table::new(&["rule", "status", "severity", "what was found"]);
        let mut outcomes: Vec<_> = measured.outcomes.iter().filter(|o| o.status != Status::Skipped).collect();
        outcomes.sort_by_key(|o| (order(o.status), std::cmp::Reverse(o.severity), o.rule.clone()));
        for o in outcomes {
            let detail: String = o.detail.chars().take(100).collect();
            rows.add_row([
                o.rule.clone(),
                o.status.as_str().into(),
                o.severity.map_or("-", |s| s.as_str()).into(),
                detail,
            ]);
        }
        table::print(&rows, "no rule applies to this host");
        if let Some(why) = &measured.fallback {
            table::line(&format!("slower than usual: {why}"));
        }
        table::line(&format!(
            "{}: score {}, {} pass, {} fail, {} skipped, {} error, {} executions, {:.2} s",
            if measured.platform.name.is_empty() { "unknown system" } else { &measured.platform.name },
            table::score(Score::of(counts).percent()),
            counts.pass,
            counts.fail,
            counts.skipped,
            counts.error,
            measured.executions,
            took.as_secs_f64()
        ));
        let mut slow: Vec<_> = measured.timings.iter().map(|t| (t.duration_ms, t.rule.as_str())).collect();
        slow.sort_unstable_by(|a, b| b.cmp(a));
        let slow: Vec<_> = slow.iter().take(5).map(|(ms, rule)| format!("{rule} {ms} ms")).collect();
        table::line(&format!("slowest: {}", slow.join(", ")));
    }
    Ok(match counts {
        Counts { error, .. } if error > 0 => 2,
        Counts { fail, .. } if fail > 0 => 1,
        _ => 0,
    })
}

/// Errors first, then failures.
fn order(status: Status) -> u8 {
    match status {
        Status::Error => 0,
        Status::Fail => 1,
        Status::Pass => 2,
        Status::Skipped => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jump_hosts_are_written_as_people_write_them() {
        let read = |text| jump_target(text).map(|it| (it.user, it.address, it.port));
        let is = |user: &str, address: &str, port| Some((user.to_owned(), address.to_owned(), port));
        assert_eq!(read("ops@bastion"), is("ops", "bastion", 22));
        assert_eq!(read("ops@bastion:2222"), is("ops", "bastion", 2222));
        assert_eq!(read("ops@[2001:db8::1]:2222"), is("ops", "2001:db8::1", 2222));
        assert_eq!(read("ops@[2001:db8::1]"), is("ops", "2001:db8::1", 22));
        assert_eq!(read("ops@2001:db8::1"), is("ops", "2001:db8::1", 22));
        for wrong in
            ["bastion", "@bastion", "ops@", "ops@bastion:", "ops@bastion:0", "ops@bastion:x", "ops@[::1]2"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
