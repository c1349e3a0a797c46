//! cellbus-harness
