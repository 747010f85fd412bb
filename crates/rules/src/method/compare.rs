//! Comparing one found value with the wanted one.

/// How the two have to relate. Whole numbers for the four orders; text otherwise.
pub(crate) fn holds(observed: &str, expected: &str, comparator: &str, fold_case: bool) -> bool {
    let equal = || if fold_case { same_word(observed, expected) } else { observed == expected };
    let order = || Some(number(observed)?.cmp(&number(expected)?));
    match comparator {
        "" | "==" => equal(),
        "!=" => !equal(),
        "<" => order().is_some_and(|o| o.is_lt()),
        "<=" => order().is_some_and(|o| o.is_le()),
        ">" => order().is_some_and(|o| o.is_gt()),
        ">=" => order().is_some_and(|o| o.is_ge()),
        _ => false,
    }
}

/// Equal but for case.
pub(crate) fn same_word(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b) || a.to_lowercase() == b.to_lowercase()
}

fn number(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_comparisons() {
        let cases = [
            ("keep_logs", "keep_logs", "", true, true),
            ("KEEP_LOGS", "keep_logs", "==", true, true),
            ("KEEP_LOGS", "keep_logs", "==", false, false),
            ("a", "b", "!=", true, true),
            ("a", "a", "!=", true, false),
            ("60", "365", "<=", true, true),
            ("60", "10", "<=", true, false),
            ("500", "365", ">=", true, true),
            ("5", "5", "<", true, false),
            ("4", "5", "<", true, true),
            ("6", "5", ">", true, true),
            ("abc", "5", "<=", true, false),
            ("5", "abc", ">=", true, false),
            ("5", "5", "~=", true, false),
            ("0640", "640", ">=", false, true),
            ("25%", "1", ">", false, false),
            ("3.5", "1", ">", false, false),
            ("60 # x", "1", ">", false, false),
            (" 60\t", "60", "<=", false, true),
            ("99999999999999999999", "1", ">", false, false),
        ];
        for (observed, expected, comparator, fold, result) in cases {
            assert_eq!(
                holds(observed, expected, comparator, fold),
                result,
                "{observed} {comparator} {expected}"
            );
        }
    }
}
