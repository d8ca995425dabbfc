//! A subscriber's condition on the tags of publications: the subscriber receives only publications that meet it.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;
use shared::command::FilterNode;
use shared::publication::Tags;

use crate::audience::SubscriberAudience;

/// The most nodes of one filter.
pub const FILTER_NODES_MAX: usize = 64;
/// The deepest nesting of nodes.
pub const FILTER_DEPTH_MAX: usize = 8;
/// The most bytes of one filter's keys and values together.
pub const FILTER_BYTES_MAX: usize = 4 << 10;

/// The longest text that is parsed as a number, in bytes.
const NUMBER_BYTES_MAX: usize = 200;
/// The most digits after the point.
const FRACTION_DIGITS_MAX: usize = 19;

/// A validated filter. Filters with the same content are equal, and the hash is computed once.
#[derive(Clone, Debug)]
pub struct TagFilter {
    root: Node,
    hash: u64,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Node {
    All(Box<[Node]>),
    Any(Box<[Node]>),
    Not(Box<Node>),
    Leaf { key: Box<str>, test: Test },
    Audience(SubscriberAudience),
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Test {
    Equal(Box<str>),
    NotEqual(Box<str>),
    In(Box<[Box<str>]>),
    NotIn(Box<[Box<str>]>),
    Exists,
    ExistsNot,
    StartsWith(Box<str>),
    EndsWith(Box<str>),
    Contains(Box<str>),
    /// The tag is a number that compares with `to` in one of these ways.
    Number {
        to: Box<str>,
        is: [Ordering; 2],
    },
}

/// Why a filter is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    #[error("the filter has more than {FILTER_NODES_MAX} nodes")]
    Nodes,
    #[error("the filter is nested deeper than {FILTER_DEPTH_MAX}")]
    Depth,
    #[error("the filter has more than {FILTER_BYTES_MAX} bytes of keys and values")]
    Bytes,
    #[error("the filter has an unknown operation or comparison")]
    Unknown,
    #[error("a node of the filter lacks fields of its operation, or has fields of another one")]
    Shape,
}

impl TagFilter {
    /// Validates a filter as a client sent it.
    pub fn new(root: &FilterNode) -> Result<Self, FilterError> {
        let root = FilterBudget { nodes: FILTER_NODES_MAX, bytes: FILTER_BYTES_MAX }
            .check(root, FILTER_DEPTH_MAX)?;
        Ok(Self::of(root))
    }

    /// Makes a filter for publications that are for this audience and that match the client's own filter, if it has one.
    pub fn of_audience(audience: SubscriberAudience, own: Option<&Self>) -> Self {
        let audience = Node::Audience(audience);
        Self::of(match own {
            Some(own) => Node::All([audience, own.root.clone()].into()),
            None => audience,
        })
    }

    fn of(root: Node) -> Self {
        let mut hasher = FxHasher::default();
        root.hash(&mut hasher);
        Self { root, hash: hasher.finish() }
    }

    /// Whether a publication with these tags matches the filter.
    pub fn matches(&self, tags: &Tags) -> bool {
        self.root.matches(tags)
    }
}

impl PartialEq for TagFilter {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash && self.root == other.root
    }
}

impl Eq for TagFilter {}

impl Hash for TagFilter {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// What is left of a filter's limits while it is validated.
struct FilterBudget {
    nodes: usize,
    bytes: usize,
}

impl FilterBudget {
    fn check(&mut self, node: &FilterNode, depth: usize) -> Result<Node, FilterError> {
        self.nodes = self.nodes.checked_sub(1).ok_or(FilterError::Nodes)?;
        let depth = depth.checked_sub(1).ok_or(FilterError::Depth)?;
        let mut nodes =
            || node.nodes.iter().map(|node| self.check(node, depth)).collect::<Result<Box<[_]>, _>>();
        match &*node.op {
            "and" | "or" if node.nodes.is_empty() => Err(FilterError::Shape),
            "and" => Ok(Node::All(nodes()?)),
            "or" => Ok(Node::Any(nodes()?)),
            "not" => match &node.nodes[..] {
                [only] => Ok(Node::Not(Box::new(self.check(only, depth)?))),
                _ => Err(FilterError::Shape),
            },
            "" => self.leaf(node),
            _ => Err(FilterError::Unknown),
        }
    }

    fn leaf(&mut self, leaf: &FilterNode) -> Result<Node, FilterError> {
        let values: usize = leaf.vals.iter().map(|value| value.len()).sum();
        let bytes = leaf.key.len() + leaf.val.len() + values + leaf.vals.len();
        self.bytes = self.bytes.checked_sub(bytes).ok_or(FilterError::Bytes)?;
        let one = || match leaf.vals.is_empty() && !leaf.val.is_empty() && !leaf.key.is_empty() {
            true => Ok(leaf.val.clone()),
            false => Err(FilterError::Shape),
        };
        let several = || match leaf.val.is_empty() && !leaf.vals.is_empty() && !leaf.key.is_empty() {
            true => Ok(leaf.vals.clone().into_boxed_slice()),
            false => Err(FilterError::Shape),
        };
        let none = |test| match leaf.val.is_empty() && leaf.vals.is_empty() {
            true => Ok(test),
            false => Err(FilterError::Shape),
        };
        let number = |is| Ok(Test::Number { to: one()?, is });
        let test = match &*leaf.cmp {
            "eq" => Test::Equal(one()?),
            "neq" => Test::NotEqual(one()?),
            "in" => Test::In(several()?),
            "nin" => Test::NotIn(several()?),
            "ex" => none(Test::Exists)?,
            "nex" => none(Test::ExistsNot)?,
            "sw" => Test::StartsWith(one()?),
            "ew" => Test::EndsWith(one()?),
            "ct" => Test::Contains(one()?),
            "lt" => number([Ordering::Less; 2])?,
            "lte" => number([Ordering::Less, Ordering::Equal])?,
            "gt" => number([Ordering::Greater; 2])?,
            "gte" => number([Ordering::Greater, Ordering::Equal])?,
            "" => return Err(FilterError::Shape),
            _ => return Err(FilterError::Unknown),
        };
        Ok(Node::Leaf { key: leaf.key.clone(), test })
    }
}

impl Node {
    fn matches(&self, tags: &Tags) -> bool {
        match self {
            Self::All(nodes) => nodes.iter().all(|node| node.matches(tags)),
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(tags)),
            Self::Not(node) => !node.matches(tags),
            Self::Leaf { key, test } => test.holds(tags.get(key).map(|value| &**value)),
            Self::Audience(audience) => audience.includes(tags),
        }
    }
}

impl Test {
    /// Whether the test holds for a tag. A missing tag is unequal to every value, and counts as an empty one in `in` and
    /// `nin`.
    fn holds(&self, tag: Option<&str>) -> bool {
        let is_in = |values: &[Box<str>]| values.iter().any(|value| **value == *tag.unwrap_or_default());
        match self {
            Self::Equal(value) => tag == Some(&**value),
            Self::NotEqual(value) => tag != Some(&**value),
            Self::In(values) => is_in(values),
            Self::NotIn(values) => !is_in(values),
            Self::Exists => tag.is_some(),
            Self::ExistsNot => tag.is_none(),
            Self::StartsWith(value) => tag.is_some_and(|tag| tag.starts_with(&**value)),
            Self::EndsWith(value) => tag.is_some_and(|tag| tag.ends_with(&**value)),
            Self::Contains(value) => tag.is_some_and(|tag| tag.contains(&**value)),
            Self::Number { to, is } => tag
                .and_then(Decimal::parse)
                .zip(Decimal::parse(to))
                .is_some_and(|(tag, to)| is.contains(&tag.cmp(&to))),
        }
    }
}

/// A decimal number as text, without insignificant zeros. It may have any size, and nothing is rounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Decimal<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
}

impl<'a> Decimal<'a> {
    /// Parses digits, with an optional sign before them and an optional point between them. Returns `None` for anything
    /// else.
    fn parse(text: &'a str) -> Option<Self> {
        if text.len() > NUMBER_BYTES_MAX {
            return None;
        }
        let (negative, digits) = match text.strip_prefix('-') {
            Some(digits) => (true, digits),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let (whole, fraction) = match digits.split_once('.') {
            Some((whole, fraction)) if is_digits(fraction) && fraction.len() <= FRACTION_DIGITS_MAX => {
                (whole, fraction.trim_end_matches('0'))
            }
            Some(_) => return None,
            None => (digits, ""),
        };
        if !is_digits(whole) {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let is_zero = whole.is_empty() && fraction.is_empty();
        Some(Self { negative: negative && !is_zero, whole, fraction })
    }

    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.compare_digits(other),
            (true, true) => other.compare_digits(self),
        }
    }

    fn compare_digits(&self, other: &Self) -> Ordering {
        let length = self.whole.len().cmp(&other.whole.len());
        length.then_with(|| self.whole.cmp(other.whole)).then_with(|| self.fraction.cmp(other.fraction))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn leaf(key: &str, cmp: &str, val: &str) -> FilterNode {
        FilterNode { key: key.into(), cmp: cmp.into(), val: val.into(), ..FilterNode::default() }
    }

    fn list(key: &str, cmp: &str, vals: &[&str]) -> FilterNode {
        let vals = vals.iter().map(|&value| value.into()).collect();
        FilterNode { key: key.into(), cmp: cmp.into(), vals, ..FilterNode::default() }
    }

    fn all(op: &str, nodes: &[FilterNode]) -> FilterNode {
        FilterNode { op: op.into(), nodes: nodes.to_vec(), ..FilterNode::default() }
    }

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        pairs.iter().map(|&(key, value)| (key.into(), value.into())).collect()
    }

    fn matches(filter: &FilterNode, pairs: &[(&str, &str)]) -> bool {
        TagFilter::new(filter).expect("a filter").matches(&tags(pairs))
    }

    #[test]
    fn each_comparison_looks_at_one_tag() {
        let there = &[("k", "value"), ("empty", "")];
        for (filter, expected) in [
            (leaf("k", "eq", "value"), true),
            (leaf("k", "eq", "other"), false),
            (leaf("x", "eq", "value"), false),
            (leaf("k", "neq", "value"), false),
            (leaf("k", "neq", "other"), true),
            (leaf("x", "neq", "value"), true),
            (list("k", "in", &["a", "value"]), true),
            (list("k", "in", &["a"]), false),
            (list("x", "in", &["a", ""]), true),
            (list("x", "in", &["a"]), false),
            (list("k", "nin", &["a", "value"]), false),
            (list("k", "nin", &["a"]), true),
            (list("x", "nin", &["a"]), true),
            (list("x", "nin", &[""]), false),
            (leaf("k", "ex", ""), true),
            (leaf("empty", "ex", ""), true),
            (leaf("x", "ex", ""), false),
            (leaf("k", "nex", ""), false),
            (leaf("x", "nex", ""), true),
            (leaf("k", "sw", "va"), true),
            (leaf("k", "sw", "lu"), false),
            (leaf("k", "ew", "ue"), true),
            (leaf("k", "ew", "va"), false),
            (leaf("k", "ct", "alu"), true),
            (leaf("k", "ct", "x"), false),
            (leaf("x", "ct", "x"), false),
        ] {
            assert_eq!(matches(&filter, there), expected, "{filter:?}");
        }
    }

    #[test]
    fn numbers_are_compared_as_decimals_and_other_texts_are_none() {
        for (tag, to, expected) in [
            ("9", "10", Ordering::Less),
            ("10.50", "10.5", Ordering::Equal),
            ("-1", "1", Ordering::Less),
            ("-2", "-1.5", Ordering::Less),
            ("-0", "0.000", Ordering::Equal),
            ("+007", "7", Ordering::Equal),
            ("0.1", "0.09", Ordering::Greater),
            (
                "123456789012345678901234567890123456789012345678901",
                "123456789012345678901234567890123456789012345678900",
                Ordering::Greater,
            ),
            ("0.1234567890123456789", "0.1234567890123456788", Ordering::Greater),
        ] {
            for (cmp, holds) in [
                ("lt", expected == Ordering::Less),
                ("lte", expected != Ordering::Greater),
                ("gt", expected == Ordering::Greater),
                ("gte", expected != Ordering::Less),
            ] {
                assert_eq!(matches(&leaf("n", cmp, to), &[("n", tag)]), holds, "{tag} {cmp} {to}");
            }
        }
        let too_long = "1".repeat(NUMBER_BYTES_MAX + 1);
        for none in [
            "",
            "-",
            "+",
            ".5",
            "5.",
            "1e3",
            "1.2.3",
            " 1",
            "0x1",
            "1.12345678901234567890",
            "NaN",
            &too_long,
        ] {
            for cmp in ["lt", "lte", "gt", "gte"] {
                assert!(!matches(&leaf("n", cmp, "0"), &[("n", none)]), "{none:?}");
                assert!(none.is_empty() || !matches(&leaf("n", cmp, none), &[("n", "0")]), "{none:?}");
            }
        }
        assert!(!matches(&leaf("n", "lt", "1"), &[]));
    }

    #[test]
    fn nodes_combine() {
        let (yes, no) = (leaf("k", "ex", ""), leaf("x", "ex", ""));
        for (filter, expected) in [
            (all("and", &[yes.clone(), yes.clone()]), true),
            (all("and", &[yes.clone(), no.clone()]), false),
            (all("or", &[no.clone(), yes.clone()]), true),
            (all("or", &[no.clone(), no.clone()]), false),
            (all("not", std::slice::from_ref(&no)), true),
            (all("not", &[all("or", &[no.clone(), yes.clone()])]), false),
        ] {
            assert_eq!(matches(&filter, &[("k", "")]), expected, "{filter:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        let refused = |filter: &FilterNode| TagFilter::new(filter).unwrap_err();
        let yes = leaf("k", "ex", "");
        for filter in [
            FilterNode::default(),
            leaf("k", "eq", ""),
            leaf("", "eq", "a"),
            leaf("k", "in", "a"),
            list("k", "eq", &["a"]),
            list("k", "in", &[]),
            leaf("k", "ex", "a"),
            all("and", &[]),
            all("or", &[]),
            all("not", &[]),
            all("not", &[yes.clone(), yes.clone()]),
        ] {
            assert_eq!(refused(&filter), FilterError::Shape, "{filter:?}");
        }
        assert_eq!(refused(&leaf("k", "like", "a")), FilterError::Unknown);
        assert_eq!(refused(&all("xor", std::slice::from_ref(&yes))), FilterError::Unknown);
        assert_eq!(refused(&leaf("k", "eq", &"x".repeat(FILTER_BYTES_MAX))), FilterError::Bytes);
        assert_eq!(refused(&all("or", &vec![yes.clone(); FILTER_NODES_MAX])), FilterError::Nodes);
        let nested = |depth: usize| (1..depth).fold(yes.clone(), |node, _| all("not", &[node]));
        assert!(TagFilter::new(&nested(FILTER_DEPTH_MAX)).is_ok());
        assert_eq!(refused(&nested(FILTER_DEPTH_MAX + 1)), FilterError::Depth);
    }

    #[test]
    fn equal_filters_are_one_key() {
        let filter = |value| {
            TagFilter::new(&all("or", &[leaf("k", "eq", value), leaf("n", "gt", "1")])).expect("a filter")
        };
        assert_eq!(filter("a"), filter("a"));
        assert_ne!(filter("a"), filter("b"));
    }

    proptest! {
        #[test]
        fn decimals_are_ordered_as_the_numbers_they_are(one in any::<i64>(), other in any::<i64>(), digits in 0_u32..8) {
            let written = |number: i64| {
                let unit = 10_u64.pow(digits);
                let (whole, fraction) = (number.unsigned_abs() / unit, number.unsigned_abs() % unit);
                let sign = if number < 0 { "-" } else { "" };
                match digits {
                    0 => format!("{sign}{whole}"),
                    digits => format!("{sign}{whole}.{fraction:0width$}", width = digits as usize),
                }
            };
            let (left, right) = (written(one), written(other));
            let compared = Decimal::parse(&left).zip(Decimal::parse(&right)).map(|(one, other)| one.cmp(&other));
            prop_assert_eq!(compared, Some(one.cmp(&other)), "{} {}", left, right);
        }

        #[test]
        fn any_text_is_compared_without_a_panic(tag in ".{0,30}", to in "[-+.0-9]{1,30}") {
            for cmp in ["lt", "gte", "sw", "ct"] {
                matches(&leaf("n", cmp, &to), &[("n", &tag)]);
            }
        }
    }
}
