//! What a hostile peer tries, one test for each trick: refused with its code, and nothing has changed.

mod bundles;
mod bye;
mod certificates;
mod challenge;
mod conduits;
mod end_to_end;
mod flood;
mod frames;
mod headers;
mod hello;
mod holders;
mod jobs;
mod lists;
mod packets;
mod parents;
mod paths;
mod relay;
mod renewals;
mod replies;
mod restart;
mod routing;
mod sockets;
mod tokens;
