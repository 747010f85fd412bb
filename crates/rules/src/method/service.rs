//! Units: whether systemd starts them at boot, and whether they run now.

use super::{Judge, Ready, Step, Stop, Verdict, required};
use crate::rule::{Leaf, Value};
use crate::shell::quote;

pub(super) fn state(leaf: &Leaf) -> Result<Ready, Stop> {
    // A value that is present but no truth value is read as false.
    let flag = |name: &str| leaf.params.get(name).map(|value| *value == Value::Bool(true));
    compile(leaf, flag("enabled"), flag("active"))
}

pub(super) fn enabled(leaf: &Leaf) -> Result<Ready, Stop> {
    compile(leaf, Some(true), None)
}

pub(super) fn active(leaf: &Leaf) -> Result<Ready, Stop> {
    compile(leaf, None, Some(true))
}

fn compile(leaf: &Leaf, enabled: Option<bool>, active: Option<bool>) -> Result<Ready, Stop> {
    let name = required(leaf, "name")?.to_owned();
    let mut steps = Vec::new();
    if enabled.is_some() {
        steps.push(Step::whole(format!("systemctl is-enabled {}", quote(&name))));
    }
    if active.is_some() {
        steps.push(Step::whole(format!("systemctl is-active {}", quote(&name))));
    }
    let judge: Judge = Box::new(move |answers| {
        let mut verdict = Verdict::pass_if(true, format!("nothing is demanded of {name}"));
        let mut step = 0;
        if let Some(wanted) = enabled {
            let seen = answers.ask(step)?;
            step += 1;
            let state = seen.trimmed();
            let holds = if wanted { counts_as_enabled(state) } else { !is_enabled_on_purpose(state) };
            let shown = if state.is_empty() { "unknown" } else { state };
            let want = if wanted { "enabled" } else { "disabled" };
            verdict = Verdict::pass_if(holds, format!("{name} is {shown}, wanted {want}")).actual(state);
            if !holds {
                return Ok(verdict);
            }
        }
        if let Some(wanted) = active {
            let running = answers.ask(step)?.exit == 0;
            let word = |running: bool| if running { "active" } else { "inactive" };
            let detail = format!("{name} is {}, wanted {}", word(running), word(wanted));
            let detail = if step > 0 { format!("{}; {detail}", verdict.detail) } else { detail };
            verdict = Verdict::pass_if(running == wanted, detail).actual(word(running));
        }
        Ok(verdict)
    });
    Ok(Ready { steps, judge })
}

/// Starts at boot, or is pulled in by what does.
fn counts_as_enabled(state: &str) -> bool {
    matches!(state, "enabled" | "enabled-runtime" | "static" | "generated")
}

/// Someone switched it on: what a unit that must be off may not be.
fn is_enabled_on_purpose(state: &str) -> bool {
    matches!(state, "enabled" | "enabled-runtime")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{commands, judge_by, status, stop};
    use super::*;

    #[test]
    fn pinned_unit_states() {
        for (state, want_on, want_off) in [
            ("enabled", 'p', 'f'),
            ("enabled-runtime", 'p', 'f'),
            ("static", 'p', 'p'),
            ("generated", 'p', 'p'),
            ("indirect", 'f', 'p'),
            ("alias", 'f', 'p'),
            ("linked", 'f', 'p'),
            ("disabled", 'f', 'p'),
            ("masked", 'f', 'p'),
            ("not-found", 'f', 'p'),
            ("", 'f', 'p'),
            ("enabled enabled", 'f', 'p'),
        ] {
            // The exit status of is-enabled says nothing.
            for exit in [0, 1] {
                let ask = |check: &str| status(check, &[(exit, &format!("{state}\n"))]);
                assert_eq!(ask("method: service_state, name: x, enabled: true"), want_on, "{state}");
                assert_eq!(ask("method: service_enabled, name: x"), want_on, "{state}");
                assert_eq!(ask("method: service_state, name: x, enabled: false"), want_off, "{state}");
            }
        }
        for (check, running, stopped) in [
            ("service_active, name: x", 'p', 'f'),
            ("service_state, name: x, active: true", 'p', 'f'),
            ("service_state, name: x, active: false", 'f', 'p'),
            ("service_state, name: x, active: 'yes'", 'f', 'p'),
        ] {
            assert_eq!(status(&format!("method: {check}"), &[(0, "active")]), running, "{check}");
            assert_eq!(status(&format!("method: {check}"), &[(3, "inactive")]), stopped, "{check}");
        }
    }

    #[test]
    fn a_disabled_unit_is_not_asked_whether_it_runs() {
        let check = "method: service_state, name: x, enabled: true, active: true";
        assert_eq!(commands(check), ["systemctl is-enabled 'x'", "systemctl is-active 'x'"]);
        let (verdict, asked) = judge_by(check, &[(1, "disabled")]);
        assert_eq!((verdict.status, asked), (openwatch_model::Status::Fail, 1));
        assert_eq!(status(check, &[(0, "enabled"), (0, "active")]), 'p');
        assert_eq!(status(check, &[(0, "enabled"), (3, "failed")]), 'f');
        assert_eq!(status(check, &[(0, "enabled")]), 'e');
        let (verdict, asked) = judge_by("method: service_state, name: x", &[]);
        assert_eq!((verdict.status, asked), (openwatch_model::Status::Pass, 0));
        assert!(matches!(stop("method: service_state"), Stop::Broken(_)));
    }
}
