//! Errors by which a node of a cluster redirects a request to another node, or to a later time.

use crate::broker::{BrokerError, BrokerRefusal};

#[derive(Clone, PartialEq, Eq, Debug)]
pub(in crate::broker::redis) enum Redirect {
    /// The slot is at this address from now on.
    Moved { slot: u16, host: Box<str>, port: u16 },
    /// The slot is being moved to this address, and the keys of the request have arrived there, or are new.
    Ask { host: Box<str>, port: u16 },
    /// Some of the keys are being moved, or nobody serves the slot: try again in a moment.
    Later,
}

impl Redirect {
    /// Reads a redirection. Returns `None` for any other error.
    pub(in crate::broker::redis) fn read(error: &BrokerError) -> Option<Self> {
        let BrokerError::Refused { kind, text } = error else { return None };
        match kind {
            BrokerRefusal::ClusterDown => Some(Self::Later),
            BrokerRefusal::Moved => {
                let mut words = text.split_ascii_whitespace();
                let (code, slot, place) = (words.next()?, words.next(), words.next());
                let place = || {
                    let (host, port) = place?.rsplit_once(':')?;
                    Some((Box::from(host), port.parse().ok()?))
                };
                match code {
                    "TRYAGAIN" => Some(Self::Later),
                    "MOVED" => {
                        let (host, port) = place()?;
                        Some(Self::Moved { slot: slot?.parse().ok()?, host, port })
                    }
                    "ASK" => {
                        let (host, port) = place()?;
                        Some(Self::Ask { host, port })
                    }
                    _ => None,
                }
            }
            // A script accessed a key that had moved before the script ran.
            _ if text.contains("access a non local key") => Some(Self::Later),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_are_told_from_refusals() {
        let read = |text: &str| Redirect::read(&BrokerError::refused(text));
        let moved = Redirect::Moved { slot: 866, host: "127.0.0.1".into(), port: 7001 };
        assert_eq!(read("MOVED 866 127.0.0.1:7001"), Some(moved));
        assert_eq!(read("ASK 866 ::1:7001"), Some(Redirect::Ask { host: "::1".into(), port: 7001 }));
        let unnamed = Redirect::Moved { slot: 1, host: "".into(), port: 7 };
        assert_eq!(read("MOVED 1 :7"), Some(unnamed), "the host that was asked");
        for later in [
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "CLUSTERDOWN Hash slot not served",
            "ERR Script attempted to access a non local key in a cluster node script: 4c5f, on @user_script:3.",
        ] {
            assert_eq!(read(later), Some(Redirect::Later), "{later}");
        }
        for other in ["CROSSSLOT Keys in request don't hash to the same slot", "NOPERM no", "MOVED x y", ""] {
            assert_eq!(read(other), None, "{other}");
        }
        assert_eq!(Redirect::read(&BrokerError::Full), None);
    }
}
