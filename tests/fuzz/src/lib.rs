//! cellbus-fuzz
