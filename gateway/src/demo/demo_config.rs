//! The section `demo`.

use serde::{Deserialize, Serialize};

/// A ticker to look at. `--demo` turns both settings on.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DemoConfig {
    /// Serves the ticker page at `/`.
    pub page: bool,
    /// Publishes the prices that come with the gateway into `prices:AAPL` and so on, from this node.
    pub feed: bool,
}
