//! cellbus-attacks
