//! Transfers between cells in memory: no links, no relays, and ways that a test may cut.

mod bytes;
mod cells;
mod cuts;
mod files;
mod full;
mod many;
mod sealed;
mod waiting;
