//! cellbus-system
