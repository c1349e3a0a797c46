//! Networks of cells over real QUIC and TLS, on a simulated network and a paused clock, when things go wrong.

mod cuts;
mod deep;
mod ends;
mod load;
mod names;
mod repeats;
mod resources;
mod restart;
mod swarm;
mod tokens;
mod transfers;
mod weather;
