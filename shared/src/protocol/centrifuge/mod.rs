//! The Centrifuge protocol, version 2.
