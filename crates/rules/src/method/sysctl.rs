//! `sysctl_value`: a kernel parameter as it is now.

use super::compare::holds;
use super::{Ready, Step, Stop, Verdict, one, optional, required};
use crate::rule::Leaf;
use crate::shell::quote;

pub(super) fn compile(leaf: &Leaf) -> Result<Ready, Stop> {
    let key = required(leaf, "key")?.to_owned();
    let expected = required(leaf, "expected")?.to_owned();
    let comparator = optional(leaf, "comparator", "==").to_owned();
    one(Step::whole(format!("sysctl -n {}", quote(&key))), move |seen| {
        if seen.exit != 0 {
            return Verdict::fail(format!("{key} cannot be read, wanted {comparator} {expected}"));
        }
        let value = seen.trimmed();
        let detail = format!("{key} is {value}, wanted {comparator} {expected}");
        Verdict::pass_if(holds(value, &expected, &comparator, false), detail).actual(value)
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{judge, status};

    #[test]
    fn values() {
        let check = "method: sysctl_value, key: kernel.x, expected: '0'";
        assert_eq!(status(check, &[(0, "0\n")]), 'p');
        assert_eq!(status(check, &[(0, "1\n")]), 'f');
        assert_eq!(status(check, &[(255, "")]), 'f');
        assert_eq!(judge(check, &[(0, "1\n")]).actual.as_deref(), Some("1"));
        assert_eq!(status("method: sysctl_value, key: k, expected: '2', comparator: '>='", &[(0, "3")]), 'p');
        assert_eq!(status("method: sysctl_value, key: k, expected: Yes", &[(0, "yes")]), 'f');
        assert_eq!(status("method: sysctl_value, key: k, expected: '1 2'", &[(0, "1\t2")]), 'f');
    }
}
