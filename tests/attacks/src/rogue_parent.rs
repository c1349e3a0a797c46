//! A parent that nobody should believe.
