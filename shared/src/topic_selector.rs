//! Selectors of topics: one topic by its name, all topics, or those that a URI template (RFC 6570) can expand to.
//!
//! Templates support all operators and exploded variables (`{/path*}`). A template with a prefix modifier (`{name:3}`),
//! and one that is malformed, stands for the topic of that literal name.

/// Most variables in one template.
const VARIABLES_MAX: usize = 64;

/// The selector of all topics.
const ALL: &str = "*";

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Selector {
    text: Box<str>,
    shape: Shape,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Shape {
    All,
    /// Only the topic of this name.
    Name,
    Template(Box<[Part]>),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Part {
    Literal(Box<str>),
    Expression { operator: Operator, variables: Box<[Variable]> },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Operator {
    Simple,
    /// Values may hold reserved URI characters.
    Reserved,
    Fragment,
    Label,
    Path,
    Parameters,
    Query,
    Continuation,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Variable {
    name: Box<str>,
    exploded: bool,
}

impl Selector {
    pub fn new(text: &str) -> Self {
        let shape = match text {
            ALL => Shape::All,
            _ if text.contains('{') => template(text).map_or(Shape::Name, Shape::Template),
            _ => Shape::Name,
        };
        Self { text: text.into(), shape }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the name of the one topic that the selector can match, if it is a plain name.
    pub fn name(&self) -> Option<&str> {
        (self.shape == Shape::Name).then_some(&*self.text)
    }

    pub fn is_all(&self) -> bool {
        self.shape == Shape::All
    }

    /// Whether the selector matches this topic. A template also matches the topic whose name is the template's own text.
    pub fn matches(&self, topic: &str) -> bool {
        match &self.shape {
            _ if *self.text == *topic => true,
            Shape::All => true,
            Shape::Name => false,
            Shape::Template(parts) => is_expansion(parts, topic.as_bytes()),
        }
    }
}

/// Parses a template into its parts. `None` if it is malformed or unsupported.
fn template(text: &str) -> Option<Box<[Part]>> {
    let (mut parts, mut rest, mut variables_left) = (Vec::new(), text, VARIABLES_MAX);
    while let Some((literal, after)) = rest.split_once('{') {
        let (inside, after) = after.split_once('}')?;
        if literal.contains('}') {
            return None;
        }
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        let (operator, names) = operator(inside);
        let variables: Box<[Variable]> = names.split(',').map(variable).collect::<Option<_>>()?;
        variables_left = variables_left.checked_sub(variables.len())?;
        parts.push(Part::Expression { operator, variables });
        rest = after;
    }
    if rest.contains('}') {
        return None;
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.into()));
    }
    Some(parts.into())
}

fn operator(expression: &str) -> (Operator, &str) {
    let operator = match expression.as_bytes().first() {
        Some(b'+') => Operator::Reserved,
        Some(b'#') => Operator::Fragment,
        Some(b'.') => Operator::Label,
        Some(b'/') => Operator::Path,
        Some(b';') => Operator::Parameters,
        Some(b'?') => Operator::Query,
        Some(b'&') => Operator::Continuation,
        _ => return (Operator::Simple, expression),
    };
    (operator, &expression[1..])
}

fn variable(written: &str) -> Option<Variable> {
    let (name, exploded) = written.strip_suffix('*').map_or((written, false), |name| (name, true));
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'%');
    (!name.is_empty() && name.bytes().all(is_name)).then(|| Variable { name: name.into(), exploded })
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether the byte may stand in a value. A comma separates the values of a list.
fn is_of_value(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'%' | b',')
}

fn is_of_reserved_value(byte: u8) -> bool {
    is_of_value(byte) || b":/?#[]@!$&'()*+;=".contains(&byte)
}

/// For each position in the topic, whether the parts so far can match up to it. All positions advance together, so that
/// matching takes at most the template's length times the topic's.
type Places = Vec<bool>;

fn is_expansion(parts: &[Part], topic: &[u8]) -> bool {
    if let Some(Part::Literal(begins)) = parts.first()
        && !topic.starts_with(begins.as_bytes())
    {
        return false;
    }
    let mut at = vec![false; topic.len() + 1];
    at[0] = true;
    for part in parts {
        at = match part {
            Part::Literal(literal) => literally(&at, topic, literal.as_bytes()),
            Part::Expression { operator, variables } => expanded(&at, topic, *operator, variables),
        };
    }
    at[topic.len()]
}

fn literally(at: &Places, topic: &[u8], literal: &[u8]) -> Places {
    let mut next = vec![false; at.len()];
    for start in (0..at.len()).filter(|start| at[*start]) {
        if topic[start..].starts_with(literal) {
            next[start + literal.len()] = true;
        }
    }
    next
}

/// Extends each reachable position over any number of bytes that satisfy `is_of`.
fn run(at: &Places, topic: &[u8], is_of: impl Fn(u8) -> bool) -> Places {
    let mut next = at.clone();
    for (place, &byte) in topic.iter().enumerate() {
        next[place + 1] |= next[place] && is_of(byte);
    }
    next
}

fn or(mut one: Places, other: &Places) -> Places {
    one.iter_mut().zip(other).for_each(|(one, other)| *one |= other);
    one
}

fn expanded(at: &Places, topic: &[u8], operator: Operator, variables: &[Variable]) -> Places {
    // Undefined variables expand to nothing, their separator included.
    match operator {
        Operator::Simple | Operator::Reserved | Operator::Fragment => {
            let exploded = variables.iter().any(|variable| variable.exploded);
            let is_of = |byte| match operator {
                Operator::Simple => is_of_value(byte) || exploded && byte == b'=',
                _ => is_of_reserved_value(byte),
            };
            match operator {
                Operator::Fragment => or(run(&literally(at, topic, b"#"), topic, is_of), at),
                _ => run(at, topic, is_of),
            }
        }
        Operator::Label | Operator::Path => {
            let separator: &[u8] = if operator == Operator::Label { b"." } else { b"/" };
            // A label's value ends at the next `.`, although that is an unreserved character.
            let is_of = |byte| is_of_value(byte) && (operator == Operator::Path || byte != b'.');
            let mut all = at.clone();
            for variable in variables {
                let is_of_more =
                    |byte| is_of(byte) || variable.exploded && (byte == separator[0] || byte == b'=');
                all = or(run(&literally(&all, topic, separator), topic, is_of_more), &all);
            }
            all
        }
        Operator::Parameters | Operator::Query | Operator::Continuation => {
            let (first, further): (&[u8], &[u8]) = match operator {
                Operator::Parameters => (b";", b";"),
                Operator::Query => (b"?", b"&"),
                _ => (b"&", b"&"),
            };
            let (none, mut some) = (at.clone(), vec![false; at.len()]);
            for variable in variables {
                let begun = or(literally(&none, topic, first), &literally(&some, topic, further));
                let taken = match variable.exploded {
                    // A list, or pairs of which each has a name of its own.
                    true => {
                        run(&begun, topic, |byte| is_of_value(byte) || byte == b'=' || byte == further[0])
                    }
                    false => {
                        let named = literally(&begun, topic, variable.name.as_bytes());
                        let valued = run(&literally(&named, topic, b"="), topic, is_of_value);
                        if operator == Operator::Parameters { or(valued, &named) } else { valued }
                    }
                };
                some = or(some, &taken);
            }
            or(none, &some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(selector: &str, topic: &str) -> bool {
        Selector::new(selector).matches(topic)
    }

    #[test]
    fn a_name_means_itself_and_a_star_means_everything() {
        assert!(matches("https://example.com/books/1", "https://example.com/books/1"));
        assert!(!matches("https://example.com/books/1", "https://example.com/books/12"));
        assert!(matches("*", "anything at all") && Selector::new("*").is_all());
        assert!(!matches("**", "a") && !matches("a*", "ab"));
        assert_eq!(Selector::new("a").name(), Some("a"));
        assert_eq!(Selector::new("{a}").name(), None);
    }

    #[test]
    fn a_template_means_what_it_can_be_expanded_to() {
        for (template, yes, no) in [
            (
                "https://example.com/{id}",
                &["https://example.com/1", "https://example.com/", "https://example.com/a,b"][..],
                &[
                    "https://example.com/1/2",
                    "http://example.com/1",
                    "https://example.com/a?b=c",
                    "https://example.com",
                ][..],
            ),
            ("/books/{id}/{tail}", &["/books/1/2", "/books//"], &["/books/1", "/books/1/2/3"]),
            ("{+url}", &["https://a.example/?b=c#d", ""], &["a b", "a\"b"]),
            ("/x{#part}", &["/x", "/x#", "/x#a/b"], &["/xa", "/y#a"]),
            ("/x{.ext,more}", &["/x", "/x.json", "/x.json.gz"], &["/x.a.b.c", "/xjson"]),
            ("{/a,b}", &["", "/1", "/1/2"], &["/1/2/3", "1"]),
            ("/x{/rest*}", &["/x", "/x/1/2/3/4"], &["/x?a", "/xa"]),
            ("/x{;a,b}", &["/x", "/x;a=1;b=2", "/x;a", "/x;b=2"], &["/x;c=1", "/x;b=2;a=1", "/x;ab=1"]),
            (
                "/users/ann/{?topic}",
                &["/users/ann/", "/users/ann/?topic=https%3A%2F%2Fa.example%2F1"],
                &[
                    "/users/ann/?other=1",
                    "/users/ann/?topic=1&other=2",
                    "/users/bob/?topic=1",
                    "/users/ann/?topic=a/b",
                ],
            ),
            ("/x{?a,b}{&c}", &["/x?a=1&b=2&c=3", "/x?b=2", "/x&c=3"], &["/x?a=1&a=2", "/x?c=1"]),
            ("/x{?q*}", &["/x?a=1&b=2", "/x"], &["/x?a=1#b"]),
        ] {
            for topic in yes {
                assert!(matches(template, topic), "{template} {topic}");
            }
            for topic in no {
                assert!(!matches(template, topic), "{template} {topic}");
            }
            assert!(matches(template, template), "a template means what is called as it is written");
        }
    }

    #[test]
    fn what_is_no_template_is_a_name() {
        for text in ["{", "}", "{}", "{a", "a}", "{a b}", "{a:3}", "{!a}", "{a}{b", "}{a}", "{a,}"] {
            assert_eq!(Selector::new(text).name(), Some(text), "{text}");
        }
        let many = format!("{{{}}}", vec!["a"; VARIABLES_MAX + 1].join(","));
        assert!(Selector::new(&many).name().is_some());
    }
}
