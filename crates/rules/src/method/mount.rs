//! `mount_option`: options of a mounted file system.

use std::collections::HashSet;

use super::{Ready, Step, Stop, Verdict, one, required};
use crate::rule::{Leaf, Value};
use crate::shell::quote;

pub(super) fn compile(leaf: &Leaf) -> Result<Ready, Stop> {
    let point = required(leaf, "mount_point")?.to_owned();
    let Some(Value::List(options)) = leaf.params.get("options") else {
        return Err(Stop::Broken("mount_option wants options as a list".into()));
    };
    let wanted: Option<Vec<String>> =
        options.iter().map(|o| if let Value::Text(text) = o { Some(text.clone()) } else { None }).collect();
    let wanted =
        wanted.ok_or_else(|| Stop::Broken("mount_option wants options as a list of texts".into()))?;
    one(Step::whole(format!("findmnt -n -o OPTIONS {} 2>/dev/null", quote(&point))), move |seen| {
        if seen.exit != 0 {
            return Verdict::fail(format!("{point} is not a mount point"));
        }
        let found = seen.trimmed();
        let names: HashSet<&str> =
            found.split(',').map(|option| option.split('=').next().unwrap_or_default()).collect();
        let missing: Vec<&str> = wanted.iter().map(String::as_str).filter(|o| !names.contains(o)).collect();
        let detail = if missing.is_empty() {
            format!("{point} is mounted with {}", wanted.join(","))
        } else {
            format!("{point} is mounted without {}", missing.join(","))
        };
        Verdict::pass_if(missing.is_empty(), detail).actual(found)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{status, stop};
    use super::*;

    #[test]
    fn options() {
        let ask = |options: &str, answer: (i32, &str)| {
            status(&format!("method: mount_option, mount_point: /tmp, options: {options}"), &[answer])
        };
        let found = (0, "rw,nosuid,nodev,size=1024k,Mixed\n");
        assert_eq!(ask("[nodev, nosuid]", found), 'p');
        assert_eq!(ask("[noexec]", found), 'f');
        assert_eq!(ask("[size]", found), 'p');
        assert_eq!(ask("['size=1024k']", found), 'f');
        assert_eq!(ask("[mixed]", found), 'f');
        assert_eq!(ask("[]", found), 'p');
        assert_eq!(ask("[]", (1, "")), 'f');
        assert_eq!(ask("[noexec]", (0, "rw,nodev\nrw,noexec\n")), 'p');
        assert_eq!(ask("[nodev]", (0, "rw,nodev\nrw,noexec\n")), 'f');
        for bad in ["", ", options: nodev", ", options: [1]"] {
            assert!(matches!(
                stop(&format!("method: mount_option, mount_point: /tmp{bad}")),
                Stop::Broken(_)
            ));
        }
    }
}
