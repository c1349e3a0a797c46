//! cellbus-sim
