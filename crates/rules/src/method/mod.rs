//! The check methods: what each wants observed, and what it reads out of the answers. One file per family.

mod answers;
mod audit;
mod command;
mod compare;
mod config_value;
mod contract;
mod file;
mod grub;
mod module;
mod mount;
mod package;
mod package_query;
mod service;
mod set_compare;
mod sshd;
mod state;
mod sysctl;
#[cfg(test)]
mod testing;
mod walk;

use openwatch_model::Status;

pub(crate) use answers::{Answer, Answers, LostStep, text as answer_text};
pub(crate) use contract::{CONTRACTS, Contract};
pub(crate) use package_query::package_query;
pub(crate) use walk::{Walk, shared_walk};

use crate::rule::{Leaf, Value};

/// A check ready to be observed and judged.
pub(crate) struct Ready {
    /// Commands in the order a person would run them. The judge asks for what it needs.
    pub(crate) steps: Vec<Step>,
    pub(crate) judge: Judge,
}

/// Reads a verdict out of the answers; whatever it asks for becomes evidence.
pub(crate) type Judge = Box<dyn Fn(&mut Answers<'_>) -> Result<Verdict, LostStep> + Send + Sync>;

/// One logical command, and the observation that answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// What evidence records.
    pub(crate) command: String,
    pub(crate) view: View,
}

/// How a logical command is read out of an observation, so that many checks share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum View {
    /// The command is run as it is.
    Whole,
    /// One keyword of the full `sshd -T`.
    SshdKey(String),
    /// Whether a whole word stands anywhere in `lsmod`.
    LsmodWord(String),
    /// Whether a package is installed, out of one query for every package that the plan asks about.
    Package { name: String, wanted: bool },
    /// A script whose walk of a file tree other scripts make as well.
    Walk(Box<Walk>),
}

/// What has to run for a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source<'s> {
    Script(&'s str),
    /// This name in the query of [`package_query`].
    Package(&'s str),
    /// Among the scripts of [`shared_walk`].
    Walk(&'s Walk),
}

impl Step {
    pub(crate) fn whole(command: impl Into<String>) -> Self {
        Self { command: command.into(), view: View::Whole }
    }

    /// A rule's own script. Its walk of a file tree may be shared.
    pub(crate) fn script(script: &str) -> Self {
        let view = Walk::of(script).map_or(View::Whole, |walk| View::Walk(Box::new(walk)));
        Self { command: script.to_owned(), view }
    }

    /// What really runs.
    pub(crate) fn source(&self) -> Source<'_> {
        match &self.view {
            View::Whole => Source::Script(&self.command),
            View::SshdKey(_) => Source::Script(sshd::SCRIPT),
            View::LsmodWord(_) => Source::Script(module::LSMOD),
            View::Package { name, .. } => Source::Package(name),
            View::Walk(walk) => Source::Walk(walk),
        }
    }
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) status: Status,
    pub(crate) detail: String,
    /// The one value the judge looked at, where it is one.
    pub(crate) actual: Option<String>,
}

impl Verdict {
    pub(crate) fn pass_if(holds: bool, detail: impl Into<String>) -> Self {
        let status = if holds { Status::Pass } else { Status::Fail };
        Self { status, detail: detail.into(), actual: None }
    }

    pub(crate) fn fail(detail: impl Into<String>) -> Self {
        Self::pass_if(false, detail)
    }

    pub(crate) fn actual(self, value: impl Into<String>) -> Self {
        Self { actual: Some(value.into()), ..self }
    }
}

/// A check that ends without looking at the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The rule is wrong: error.
    Broken(String),
    /// There is nothing to measure against: skipped.
    NotAssessable(String),
}

/// Compiles one check.
pub(crate) fn compile(leaf: &Leaf) -> Result<Ready, Stop> {
    match leaf.method.as_str() {
        "command" => command::compile(leaf),
        "package_state" => package::state(leaf),
        "package_installed" => package::installed(leaf),
        "package_absent" => package::absent(leaf),
        "dpkg_installed" => package::dpkg_installed(leaf),
        "dpkg_absent" => package::dpkg_absent(leaf),
        "audit_rule_exists" => audit::compile(leaf),
        "config_value" => config_value::compile(leaf),
        "sshd_effective_config" => sshd::compile(leaf),
        "service_state" => service::state(leaf),
        "service_enabled" => service::enabled(leaf),
        "service_active" => service::active(leaf),
        "file_permission" | "file_permissions" => file::permission(leaf),
        "file_exists" => file::exists(leaf),
        "file_absent" => file::absent(leaf),
        "file_content" => file::content(leaf),
        "file_content_match" => file::content_match(leaf),
        "sysctl_value" => sysctl::compile(leaf),
        "mount_option" => mount::compile(leaf),
        "kernel_module_state" => module::compile(leaf),
        "grub_parameter" => grub::compile(leaf),
        "set_compare" => set_compare::compile(leaf),
        "systemd_target" => state::target(leaf),
        "selinux_state" => state::selinux(leaf),
        "apparmor_state" => state::apparmor(leaf),
        "" => Err(Stop::Broken("the check names no method".into())),
        other => Err(Stop::Broken(format!("there is no method {other:?}"))),
    }
}

/// A parameter that has to be text.
fn required<'l>(leaf: &'l Leaf, name: &str) -> Result<&'l str, Stop> {
    leaf.text(name).ok_or_else(|| {
        let found = leaf.params.get(name).map_or("missing", |value| match value {
            Value::Text(_) => "empty",
            other => other.noun(),
        });
        Stop::Broken(format!("{} wants {name} as text; it is {found}", leaf.method))
    })
}

/// A parameter that may be left out.
fn optional<'l>(leaf: &'l Leaf, name: &str, default: &'l str) -> &'l str {
    leaf.text(name).unwrap_or(default)
}

/// One command, judged by one function.
fn one(
    step: Step,
    judge: impl Fn(&answers::Seen<'_>) -> Verdict + Send + Sync + 'static,
) -> Result<Ready, Stop> {
    let judge: Judge = Box::new(move |answers| Ok(judge(&answers.ask(0)?)));
    Ok(Ready { steps: vec![step], judge })
}

/// One command, judged by its exit status alone.
fn by_exit(command: String, pass: String, fail: String) -> Result<Ready, Stop> {
    one(Step::whole(command), move |seen| {
        if seen.exit == 0 { Verdict::pass_if(true, pass.as_str()) } else { Verdict::fail(fail.as_str()) }
    })
}
