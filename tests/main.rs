//! The integration tests, in one binary: each binary links the whole stack again, and also runs
//! emulated.

#[cfg(test)]
mod browser;
#[cfg(test)]
mod camera;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod connecting;
#[cfg(test)]
mod dialects;
#[cfg(test)]
mod doctoring;
#[cfg(test)]
mod emulated;
#[cfg(test)]
mod guest;
#[cfg(test)]
mod installed;
#[cfg(test)]
mod layering;
#[cfg(test)]
mod misbehaving;
#[cfg(test)]
mod pairing;
#[cfg(test)]
mod published;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod relaying;
#[cfg(test)]
mod rooms;
#[cfg(test)]
mod socketio;
#[cfg(test)]
mod sound;
#[cfg(test)]
mod speaking;
#[cfg(test)]
mod support;
#[cfg(test)]
mod together;
#[cfg(test)]
mod transcripts;
#[cfg(test)]
mod viewing;
#[cfg(test)]
mod watching;
#[cfg(test)]
mod whep;
