//! From parser events to a tree, with limits on what an alias can multiply.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, Span, StrInput, Tag};

use super::{Fault, Kind, Node};

/// Nodes one file may have once its aliases are written out: a rule has a few hundred.
const MAX_NODES: usize = 100_000;

/// What a line of a quoted text that starts too far left is moved by. Blanks there mean nothing.
const PAD: &str = "                                                                ";

/// Lines that are moved in one file: a banner spliced into a quoted text has some dozens.
const MAX_PADS: usize = 500;

/// Reads the first document; `None` when there is none. What follows the first document is not looked at.
///
/// The rule format lets the lines of a quoted text start anywhere, even in the first column, where a variable's second
/// line lands. The parser does not: it says where, and that line is moved to the right.
pub(crate) fn parse(text: &str) -> Result<Option<Node>, Fault> {
    let mut padded = Cow::Borrowed(text);
    let mut pads = Vec::new();
    loop {
        match read(&padded, &pads) {
            Err(Stuck::TooFarLeft(at)) if pads.len() < MAX_PADS => {
                let line = padded[..at].rfind('\n').map_or(0, |newline| newline + 1);
                pads.push(line);
                pads.sort_unstable();
                for later in pads.iter_mut().filter(|pad| **pad > line) {
                    *later += PAD.len();
                }
                padded.to_mut().insert_str(line, PAD);
            }
            Err(Stuck::TooFarLeft(at)) => {
                let message = "not YAML: too many lines of quoted texts start left of their key";
                return Err(Fault::new(as_written(at, &pads), message));
            }
            Err(Stuck::Fault(fault)) => return Err(fault),
            Ok(node) => return Ok(node),
        }
    }
}

/// Why a document could not be read.
enum Stuck {
    TooFarLeft(usize),
    Fault(Fault),
}

impl From<Fault> for Stuck {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A place in the padded text, in the text as it was given.
fn as_written(at: usize, pads: &[usize]) -> usize {
    at - pads.iter().map(|pad| at.saturating_sub(*pad).min(PAD.len())).sum::<usize>()
}

fn read(text: &str, pads: &[usize]) -> Result<Option<Node>, Stuck> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    let parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder { parser, pads, anchors: HashMap::new(), nodes: 0 };
    loop {
        let (event, span) = builder.next()?;
        match event {
            Event::StreamEnd => return Ok(None),
            Event::StreamStart | Event::DocumentStart(..) => {}
            event => return builder.node(event, span).map(Some),
        }
    }
}

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    pads: &'a [usize],
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), Stuck> {
        match self.parser.next_event() {
            Some(Ok(event)) => Ok(event),
            Some(Err(error)) => {
                let at = error.marker().byte_offset().unwrap_or(0);
                if *error.kind() == ErrorKind::InvalidQuotedScalarIndent {
                    return Err(Stuck::TooFarLeft(at));
                }
                let at = as_written(at, self.pads);
                Err(Fault::new(at, format!("not YAML: {}", error.info())).into())
            }
            None => Ok((Event::StreamEnd, Span::default())),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span) -> Result<Node, Stuck> {
        let at = as_written(span.byte_range().map_or(0, |range| range.start), self.pads);
        let before = self.nodes;
        self.count(1, at)?;
        let (kind, anchor) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !tag.is_some_and(|tag| is_text(&tag));
                (Kind::Scalar { text: text.into_owned(), plain }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (Kind::List(self.list()?), anchor),
            Event::MappingStart(_, anchor, _) => (Kind::Map(self.map()?), anchor),
            Event::Alias(id) => return Ok(self.alias(id, at)?),
            _ => return Err(Fault::new(at, "not YAML: a value was expected here").into()),
        };
        let node = Node { kind, at };
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), self.nodes - before));
        }
        Ok(node)
    }

    fn list(&mut self) -> Result<Vec<Node>, Stuck> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, span) => items.push(self.node(event, span)?),
            }
        }
    }

    fn map(&mut self) -> Result<Vec<(Node, Node)>, Stuck> {
        let mut entries = Vec::new();
        let mut seen = HashSet::new();
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let key = self.node(event, span)?;
            let name = key.text();
            if matches!(&key.kind, Kind::Scalar { text, plain: true } if text == "<<") {
                return Err(Fault::new(key.at, "merge keys (<<) are not part of the rule format")
                    .hint("write the merged keys out")
                    .into());
            }
            if let Some(name) = name.filter(|name| !seen.insert(name.clone())) {
                return Err(Fault::new(key.at, format!("the key {name:?} is given twice"))
                    .hint("keep one")
                    .into());
            }
            let (event, span) = self.next()?;
            entries.push((key, self.node(event, span)?));
        }
    }

    fn alias(&mut self, id: usize, at: usize) -> Result<Node, Fault> {
        let Some((node, size)) = self.anchors.get(&id).cloned() else {
            return Err(Fault::new(at, "an alias cannot hold itself"));
        };
        self.count(size, at)?;
        Ok(Node { at, ..node })
    }

    fn count(&mut self, nodes: usize, at: usize) -> Result<(), Fault> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            return Err(Fault::new(at, format!("the file unfolds to more than {MAX_NODES} values")));
        }
        Ok(())
    }
}

fn is_text(tag: &Tag) -> bool {
    tag.is_yaml_core_schema_tag("str") || (tag.handle().is_empty() && tag.suffix() == "!")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::Scalar;

    fn entry(text: &str, key: &str) -> Node {
        let Kind::Map(entries) = parse(text).unwrap().unwrap().kind else { panic!("not a map") };
        entries.into_iter().find(|(k, _)| k.text().as_deref() == Some(key)).unwrap().1
    }

    #[test]
    fn quotes_decide_the_type_and_the_place_is_kept() {
        let text = "a: yes\nb: \"5\"\nc: 5\nd: !!str 5\n";
        assert_eq!(entry(text, "a").scalar(), Some(Scalar::Text("yes".into())));
        assert_eq!(entry(text, "b").scalar(), Some(Scalar::Text("5".into())));
        assert_eq!(entry(text, "c").scalar(), Some(Scalar::Int(5)));
        assert_eq!(entry(text, "d").scalar(), Some(Scalar::Text("5".into())));
        assert_eq!(entry(text, "c").at, 17);
    }

    #[test]
    fn a_closing_quote_in_column_one_folds_to_a_space() {
        let node = entry("a:\n  b: 1\n  c: \"Keep out.\n\"\n", "a");
        let Kind::Map(entries) = node.kind else { panic!("not a map") };
        assert_eq!(entries[1].1.scalar(), Some(Scalar::Text("Keep out. ".into())));
    }

    #[test]
    fn quoted_lines_may_start_anywhere() {
        let text = "a:\n  b: 'one\ntwo\n\n three'\n  c: \"x\n\n\ny \\\nz\"\n  d: [e]\nf: 1\n";
        let Kind::Map(entries) = entry(text, "a").kind else { panic!("not a map") };
        assert_eq!(entries[0].1.scalar(), Some(Scalar::Text("one two\nthree".into())));
        assert_eq!(entries[1].1.scalar(), Some(Scalar::Text("x\n\ny z".into())));
        assert_eq!(entries[2].1.at, text.find("[e]").unwrap());
        assert_eq!(entry(text, "f").at, text.rfind('1').unwrap());
        let broken = text.replace("f: 1", "f: [");
        assert!(parse(&broken).unwrap_err().at >= broken.find("f: [").unwrap());
        let endless = format!("a: '{}'\n", "x\n".repeat(2 * MAX_PADS));
        assert!(parse(&endless).unwrap_err().message.contains("too many lines"));
    }

    #[test]
    fn only_the_first_document_counts() {
        assert_eq!(parse("").unwrap(), None);
        assert_eq!(parse("# only a remark\n").unwrap(), None);
        assert_eq!(entry("a: 1\n---\n[oops\n", "a").scalar(), Some(Scalar::Int(1)));
    }

    #[test]
    fn what_cannot_be_read_says_where() {
        assert_eq!(parse("a: 1\na: 2\n").unwrap_err().at, 5);
        assert!(parse("a: [1\n").unwrap_err().message.starts_with("not YAML: "));
        assert!(parse("a: &x {b: 1}\nc:\n  <<: *x\n").unwrap_err().message.contains("merge"));
        assert!(parse("a: &x [*x]\n").is_err());
    }

    #[test]
    fn aliases_cannot_explode() {
        let mut text = String::from("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
        for i in 1..9 {
            let last = format!("*a{}", i - 1);
            text.push_str(&format!("a{i}: &a{i} [{}]\n", vec![last; 10].join(",")));
        }
        assert!(parse(&text).unwrap_err().message.contains("unfolds"));
    }
}
