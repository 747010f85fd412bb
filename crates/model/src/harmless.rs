//! Text from elsewhere, made safe to show: a host decides what its commands print, never what a terminal does.

/// Whether showing this character could do more than show it: move the cursor, change colours or titles, or make a line
/// read differently from what it says (the directional controls).
pub fn is_harmful(c: char) -> bool {
    let directional =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    directional || c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// One line of it: whatever is harmful becomes a replacement character, line breaks and tabs become spaces.
pub fn line(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\t') { ' ' } else { replaced(c) }).collect()
}

/// All of it, with its lines and tabs.
pub fn lines(text: &str) -> String {
    text.chars().map(|c| if matches!(c, '\n' | '\t') { c } else { replaced(c) }).collect()
}

fn replaced(c: char) -> char {
    if is_harmful(c) { '\u{fffd}' } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_replaced() {
        for (text, want) in [
            ("plain \u{e4} \u{20ac} \u{65e5}", "plain \u{e4} \u{20ac} \u{65e5}"),
            ("\x1b]0;title\x07", "\u{fffd}]0;title\u{fffd}"),
            ("\u{9b}31m", "\u{fffd}31m"),
            ("a\rb\x08\x7f", "a\u{fffd}b\u{fffd}\u{fffd}"),
            ("ssap\u{202e}fail\u{2066}", "ssap\u{fffd}fail\u{fffd}"),
        ] {
            assert_eq!(lines(text), want);
        }
        assert_eq!((line("a\n\tb"), lines("a\n\tb")), ("a  b".into(), "a\n\tb".into()));
    }
}
