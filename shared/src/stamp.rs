//! Stamps, which carry the arrival time and trace of a sampled publication to every node.

use std::fmt;

/// The tag under which brokers carry a stamp. Nodes of releases without stamps read it as an ordinary tag, so that they
/// lose no publication. Their clients can see the tag in two cases: on publications made in the seconds before the
/// other nodes learn of such a node, and in history from before a cluster was downgraded to such a release.
pub const STAMP_TAG: &str = "tidegate-stamp";

/// Greatest difference between a stamp's time and the reader's clock, in microseconds (one hour). A stamp beyond it is
/// ignored: it belongs to an old record, or one of the clocks is not set.
const AGE_MICROS_MAX: u64 = 3_600_000_000;

/// The measurements of one sampled publication. Kept small, as it is cloned with the publication.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamp {
    /// When the publisher's request was taken up, in microseconds since 1970, by the clock of the node that took it. 0:
    /// the publication is not measured, and the stamp carries its trace alone.
    pub came_micros: u64,
    /// Time from `came_micros` until the broker was given the publication, in microseconds.
    pub ingress_micros: u64,
    /// The trace that the publication is part of, if that is sampled.
    pub trace: Option<TraceContext>,
    /// When the broker handed the publication to this node, on the node's own clock. 0: not yet. It is in no record.
    pub arrived_micros: u64,
}

/// A span of a sampled trace (W3C Trace Context), the parent of the spans that follow it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceContext {
    pub trace: u128,
    pub span: u64,
}

impl fmt::Display for TraceContext {
    /// Writes the span as a `traceparent` header.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-01", self.trace, self.span)
    }
}

impl TraceContext {
    /// Reads the form that [`TraceContext`] displays, and nothing else.
    pub fn parse(text: &str) -> Option<Self> {
        let (trace, span) = text.strip_prefix("00-")?.strip_suffix("-01")?.split_once('-')?;
        let is_hex = |text: &str, digits| {
            text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !is_hex(trace, 32) || !is_hex(span, 16) {
            return None;
        }
        let (trace, span) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(span, 16).ok()?);
        (trace != 0 && span != 0).then_some(Self { trace, span })
    }
}

impl fmt::Display for Stamp {
    /// Writes the value of [`STAMP_TAG`]: both times and, if there is one, the trace, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.came_micros, self.ingress_micros)?;
        self.trace.map_or(Ok(()), |trace| write!(f, ",{trace}"))
    }
}

impl Stamp {
    /// Whether stages are measured for this publication.
    pub fn is_measured(&self) -> bool {
        self.came_micros > 0
    }

    /// Whether the time in the stamp is plausible, given the current time in microseconds since 1970.
    pub fn is_credible(&self, now_micros: u64) -> bool {
        !self.is_measured() || now_micros.abs_diff(self.came_micros) <= AGE_MICROS_MAX
    }

    /// Reads the value of [`STAMP_TAG`]. `None` if it is not a stamp that this release knows.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let mut micros = || {
            let digits = parts.next().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
            digits.parse().ok()
        };
        let (came_micros, ingress_micros) = (micros()?, micros()?);
        let trace = parts.next().map(|text| TraceContext::parse(text).ok_or(()));
        let trace = trace.transpose().ok()?;
        parts.next().is_none().then_some(Self { came_micros, ingress_micros, trace, arrived_micros: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: TraceContext =
        TraceContext { trace: 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, span: 0xb7ad };

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        for trace in [None, Some(TRACE)] {
            let stamp =
                Stamp { came_micros: 1_700_000_000_000_000, ingress_micros: 42, trace, arrived_micros: 0 };
            assert_eq!(Stamp::parse(&stamp.to_string()), Some(stamp));
        }
        assert_eq!(
            Stamp { trace: Some(TRACE), ..Stamp::default() }.to_string(),
            "0,0,00-0af7651916cd43dd8448eb211c80319c-000000000000b7ad-01"
        );
    }

    #[test]
    fn a_stamp_from_long_ago_or_of_a_clock_that_is_not_set_is_not_believed() {
        let now = 1_700_000_000_000_000;
        let came = |came_micros| Stamp { came_micros, ..Stamp::default() };
        for believed in [0, now - AGE_MICROS_MAX, now, now + AGE_MICROS_MAX] {
            assert!(came(believed).is_credible(now), "{believed}");
        }
        for not in [1, now - AGE_MICROS_MAX - 1, now + AGE_MICROS_MAX + 1, u64::MAX] {
            assert!(!came(not).is_credible(now), "{not}");
        }
        assert!(!came(0).is_measured() && came(1).is_measured());
    }

    #[test]
    fn what_is_no_stamp_is_none() {
        for text in [
            "",
            "1",
            "1,",
            "1,+2",
            "-1,2",
            "1,2,",
            "1,2,x",
            "99999999999999999999,2",
            "1,2,00-0af7651916cd43dd8448eb211c80319c-000000000000b7ad-00",
            "1,2,00-0AF7651916CD43DD8448EB211C80319C-000000000000b7ad-01",
            "1,2,00-00000000000000000000000000000000-000000000000b7ad-01",
            "1,2,00-0af7651916cd43dd8448eb211c80319c-000000000000b7ad-01,3",
        ] {
            assert_eq!(Stamp::parse(text), None, "{text}");
        }
    }
}
