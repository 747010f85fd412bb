//! "Did you mean": the known word that a mistyped one is closest to.

/// The closest of the known words, where one is close enough to be meant: a third of its letters may be wrong.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    known
        .into_iter()
        .map(|known| (strsim::damerau_levenshtein(&word, &known.to_lowercase()), known))
        .filter(|(distance, known)| *distance <= known.chars().count().div_ceil(3).min(4))
        .min()
        .map(|(_, known)| known)
}

/// The same as a sentence for the end of an error; empty when nothing is close.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_words_are_found_and_far_ones_are_not() {
        let known = ["ssh-root-login-disabled", "tmp-sticky", "cmd", "run"];
        assert_eq!(nearest("ssh-root-login-disable", known), Some("ssh-root-login-disabled"));
        assert_eq!(nearest("TMP-stikcy", known), Some("tmp-sticky"));
        assert_eq!(nearest("cmdd", known), Some("cmd"));
        assert_eq!(nearest("aide", known), None);
        assert_eq!(did_you_mean("rnu", known), "; did you mean `run`?");
        assert_eq!(did_you_mean("", known), "");
    }
}
