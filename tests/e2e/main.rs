//! End-to-end tests: the built binary against real clients. One binary, so that it is linked once.

mod baseline;
