//! The tests that run the whole program, in one binary: each would link the stack again.

#[cfg(test)]
mod browser;
#[cfg(test)]
mod support;
