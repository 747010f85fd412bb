//! `{{ name }}` in rule text: a purely textual splice, done before the text is read as YAML.

use std::collections::{BTreeMap, BTreeSet};

/// Text with its variables filled in, which still knows where each piece came from.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) text: String,
    /// Names that had no value, and where each was first used; their templates stand as they were.
    pub(crate) undefined: BTreeMap<String, usize>,
    /// For each splice: where it stands in `text`, its length there, where the template stood, its length there.
    splices: Vec<(usize, usize, usize, usize)>,
}

impl Filled {
    /// Where a byte of the filled text stood in the text as written; inside a splice, where the template began.
    pub(crate) fn origin(&self, at: usize) -> usize {
        let mut shift = 0isize;
        for &(out, out_len, source, source_len) in &self.splices {
            if at < out {
                break;
            }
            if at < out + out_len {
                return source;
            }
            shift = (source + source_len) as isize - (out + out_len) as isize;
        }
        at.saturating_add_signed(shift)
    }
}

/// Fills in every template. Values are spliced as they are and not read again.
pub(crate) fn fill<'v>(text: &str, value_of: impl Fn(&str) -> Option<&'v str>) -> Filled {
    let mut filled = Filled { text: String::new(), undefined: BTreeMap::new(), splices: Vec::new() };
    let mut done = 0;
    let mut from = 0;
    while let Some(open) = text[from..].find("{{").map(|at| from + at) {
        let Some((name, end)) = template(text, open) else {
            from = open + 1;
            continue;
        };
        match value_of(name) {
            Some(value) => {
                filled.text.push_str(&text[done..open]);
                filled.splices.push((filled.text.len(), value.len(), open, end - open));
                filled.text.push_str(value);
                done = end;
            }
            None => {
                filled.undefined.entry(name.to_owned()).or_insert(open);
            }
        }
        from = end;
    }
    filled.text.push_str(&text[done..]);
    filled
}

/// What may stand around a name. A no-break space is none of these.
const BLANKS: [char; 5] = [' ', '\t', '\n', '\r', '\u{c}'];

/// Every name that a template in the text mentions.
pub fn template_names(text: &str) -> BTreeSet<String> {
    fill(text, |_| None).undefined.into_keys().collect()
}

/// The name in a template that opens at `open`, and where the template ends.
fn template(text: &str, open: usize) -> Option<(&str, usize)> {
    let inner = &text[open + 2..];
    let start = inner.len() - inner.trim_start_matches(BLANKS).len();
    let name_len = inner[start..].bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
    let name = &inner[start..start + name_len];
    let rest = &inner[start + name_len..];
    let close = rest.len() - rest.trim_start_matches(BLANKS).len();
    let ok = super::is_name(name) && rest[close..].starts_with("}}");
    ok.then_some((name, open + 2 + start + name_len + close + 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Filled {
        fill(text, |name| match name {
            "a" => Some("1"),
            "colon" => Some("x: y\nz"),
            "nested" => Some("{{ a }}"),
            _ => None,
        })
    }

    #[test]
    fn templates() {
        let cases = [
            ("nothing here", "nothing here"),
            ("{{a}} {{ a }} {{   a\t}}", "1 1 1"),
            ("{{ colon }}!", "x: y\nz!"),
            ("{{ nested }}", "{{ a }}"),
            (
                "{{ 1invalid }} {{}} {{ }} {{ a.b }} {{ a | b }}",
                "{{ 1invalid }} {{}} {{ }} {{ a.b }} {{ a | b }}",
            ),
            ("{{\u{a0}a }} {{\n\ta\r\n}}", "{{\u{a0}a }} 1"),
            ("{{{ a }}}", "{1}"),
            ("{{ a", "{{ a"),
        ];
        for (text, expected) in cases {
            assert_eq!(run(text).text, expected, "{text}");
        }
    }

    #[test]
    fn every_missing_name_is_told_in_order() {
        let filled = run("{{ zeta }} {{ a }} {{ beta }} {{ zeta }}");
        assert_eq!(filled.undefined, BTreeMap::from([("beta".to_owned(), 19), ("zeta".to_owned(), 0)]));
        assert_eq!(filled.text, "{{ zeta }} 1 {{ beta }} {{ zeta }}");
    }

    #[test]
    fn places_lead_back_to_the_text_as_written() {
        let filled = run("ab {{ colon }} cd {{ a }} e");
        assert_eq!(filled.text, "ab x: y\nz cd 1 e");
        let places = [(0, 0), (2, 2), (3, 3), (6, 3), (9, 14), (10, 15), (13, 18), (14, 25)];
        for (out, source) in places {
            assert_eq!(filled.origin(out), source, "{out}");
        }
    }
}
