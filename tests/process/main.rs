//! The binary as a process: what it prints, how it ends, what it leaves behind, and what it survives.

mod demo;
mod doctor;
mod drain;
mod driver;
mod faults;
mod jobs;
mod jobs_attach;
mod jobs_detached;
mod jobs_faults;
mod jobs_many;
mod jobs_run;
mod joining;
mod kits;
mod kits_renewed;
mod kits_written;
mod modes;
mod overload;
mod refusals;
mod reload;
mod restart;
mod secrets;
mod seeing;
mod transfers;
mod trust;
mod twins;
mod up;
