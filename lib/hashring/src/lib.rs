//! Which members of a cluster own a key, and which of them can be asked. It does no IO and reads
//! no clock: everybody who knows the names of the members gets the same answers.

mod health;
mod ring;

pub use health::{Health, Policy};
pub use ring::{Ring, RingError, VIRTUAL_NODES};
