//! The limit of open files and sockets of this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors reserved for listeners, the broker and files: everything but clients and the API.
const RESERVED: u64 = 256;

/// The limit after [`raise`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptors {
    /// The limit before; `None` for no limit.
    pub before: Option<u64>,
    /// The limit now; `None` for no limit.
    pub limit: Option<u64>,
}

/// Raises the soft limit to the hard one. A process may always do this; if the system still refuses, the old limit stays and
/// is returned.
pub fn raise() -> Descriptors {
    let found = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: found.maximum, maximum: found.maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => found.maximum,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised to the hard limit");
            found.current
        }
    };
    Descriptors { before: found.current, limit }
}

impl Descriptors {
    /// Returns how many client connections the limit allows, beside `others`.
    pub fn connections(self, others: u32) -> u32 {
        let limit = self.limit.unwrap_or(u64::MAX);
        // With few descriptors, the process keeps half for itself.
        let left = limit.saturating_sub((RESERVED + u64::from(others)).min(limit / 2));
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// Returns how many connections a node accepts that is configured for `wanted` (0: as many as possible), and a warning
    /// for the operator if that is less.
    pub fn allow(self, wanted: u32, others: u32) -> (u32, Option<String>) {
        let possible = self.connections(others);
        if wanted <= possible {
            return (if wanted == 0 { possible } else { wanted }, None);
        }
        let limit = self.limit.unwrap_or(u64::MAX);
        let warning = format!(
            "limits.connections_max is {wanted}, but the limit of {limit} open files allows {possible}: \
             raise it (ulimit -Hn, LimitNOFILE)"
        );
        (possible, Some(warning))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let raised = raise();
        let now = getrlimit(Resource::Nofile);
        assert_eq!(now.current, now.maximum);
        assert_eq!(raised.limit, now.maximum);
    }

    #[test]
    fn some_descriptors_are_kept_for_what_is_no_client() {
        let limited = |limit| Descriptors { before: Some(1), limit };
        assert_eq!(limited(Some(1_048_576)).connections(0), 1_048_320);
        assert_eq!(limited(Some(100)).connections(0), 50);
        assert_eq!(limited(None).connections(0), u32::MAX);
        assert_eq!(limited(Some(1_048_576)).connections(320), 1_048_000);
    }

    #[test]
    fn more_connections_than_descriptors_is_a_warning() {
        let descriptors = Descriptors { before: Some(1), limit: Some(1256) };
        assert_eq!(descriptors.allow(0, 0), (1000, None));
        assert_eq!(descriptors.allow(10, 0), (10, None));
        let (allowed, warning) = descriptors.allow(5000, 0);
        assert_eq!(allowed, 1000);
        assert!(warning.unwrap().contains("5000"));
    }
}
