//! The bare protocol.
