//! A durable queue: work that is done until it succeeds, also after the process was killed.
//!
//! A task is a key, and a value that says what is to be done. [`Queue::put`] returns when the task
//! is on the disk; [`work()`] does each until it is done, several at a time, with a growing pause
//! after each failure. How often a task failed is not kept on the disk: after a restart each is
//! tried at once.
//!
//! Knows nothing of what the work is, and of blobs, storage and networks.

mod journal;
mod queue;
mod schedule;
mod worker;

pub use journal::QueueError;
pub use queue::{Pending, Queue};
pub use schedule::Schedule;
pub use worker::{Options, Outcome, Work, work};
