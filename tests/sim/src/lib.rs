//! What the scenarios of the simulation share: a load with a ledger of what it made the cells do, and
//! the questions that are asked of every network afterwards.

pub mod figures;
pub mod ledger;
pub mod load;
pub mod trees;
pub mod views;
