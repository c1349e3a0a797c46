//! Provisioning: from a project file to one directory for each participant, and everything that is done with such
//! a kit before its cell runs: seal, open, verify, compare, bring up to date.
//!
//! Nothing here starts a cell, and nothing that is read decides what is executed: a kit holds no script.

pub mod archive;
pub mod ca;
pub mod check;
pub mod compare;
pub mod doctor;
pub mod join;
pub mod kit;
pub mod layout;
pub mod lists;
pub mod local;
pub mod manifest;
pub mod nvflare;
pub mod passphrase;
pub mod provision;
pub mod records;
pub mod seal;
pub mod update;

mod authorities;
mod text;
