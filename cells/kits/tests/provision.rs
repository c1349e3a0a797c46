//! Provisioning on a real file system: what is written, how, and what is refused afterwards.

#[path = "provision/again.rs"]
mod again;
#[path = "provision/authorities.rs"]
mod authorities;
#[path = "provision/certificates.rs"]
mod certificates;
#[path = "provision/figures.rs"]
mod figures;
#[path = "provision/issuing.rs"]
mod issuing;
#[path = "provision/place.rs"]
mod place;
#[path = "provision/rows.rs"]
mod rows;
#[path = "provision/sealed.rs"]
mod sealed;
#[path = "provision/tampered.rs"]
mod tampered;
#[path = "provision/written.rs"]
mod written;
