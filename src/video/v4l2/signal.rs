//! What is plugged into a video input: HDMI receivers and the like, whose format is the sender's.
//!
//! Before such an input streams, it is told to take what it receives ("Digital Video (DV) Timings"),
//! and it says when that changes ("V4L2_EVENT_SOURCE_CHANGE"). Cameras have neither.

use std::io;

use v4l::v4l_sys as sys;

use super::request::{DQEVENT, DvTimings, QUERY_DV_TIMINGS, S_DV_TIMINGS, SUBSCRIBE_EVENT, zeroed};
use super::{Device, failure};
use crate::video::VideoError;

/// Most events that are taken at once: drivers keep a few of each kind.
const MAX_EVENTS: usize = 32;

impl Device {
    /// Makes an input that receives a signal follow it. Others are left alone.
    ///
    /// # Errors
    ///
    /// [`VideoError::NoSignal`] where there is none that can be followed.
    pub(in crate::video) fn follow_signal(&self) -> Result<(), VideoError> {
        let mut wanted: sys::v4l2_event_subscription = zeroed();
        wanted.type_ = sys::V4L2_EVENT_SOURCE_CHANGE;
        if let Err(error) = self.ioctl(&SUBSCRIBE_EVENT, &mut wanted) {
            let device = self.path().display();
            tracing::trace!(%device, %error, "no source changes");
        }
        let mut timings: DvTimings = zeroed();
        match self.ioctl(&QUERY_DV_TIMINGS, &mut timings) {
            Ok(()) => {
                let taken = self.ioctl(&S_DV_TIMINGS, &mut timings);
                // Some drivers say that it has changed because we have taken it.
                self.has_changed_signal();
                taken.map_err(|error| failure(self.path(), S_DV_TIMINGS.name, error))
            }
            Err(error) => self.no_signal(&error).map_or(Ok(()), Err),
        }
    }

    fn no_signal(&self, error: &io::Error) -> Option<VideoError> {
        let reason = match error.raw_os_error()? {
            libc::ENOLINK => "is anything plugged in, and switched on?",
            libc::ENOLCK => "what comes in is unstable: try another cable",
            libc::ERANGE => "what comes in is beyond what this input takes: set another mode there",
            _ => return None,
        };
        let path = self.path().to_owned();
        Some(VideoError::NoSignal { path, reason })
    }

    /// Returns whether what comes in has changed: the device is to be opened again then.
    pub(in crate::video) fn has_changed_signal(&self) -> bool {
        let mut changed = false;
        for _ in 0..MAX_EVENTS {
            let mut event: sys::v4l2_event = zeroed();
            if self.ioctl(&DQEVENT, &mut event).is_err() {
                break;
            }
            changed |= event.type_ == sys::V4L2_EVENT_SOURCE_CHANGE;
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_receives_no_signal_is_left_alone() {
        let device = Device::open(Path::new("/dev/null")).unwrap();
        assert!(device.follow_signal().is_ok());
        assert!(!device.has_changed_signal());
    }

    #[test]
    fn an_input_without_a_signal_says_what_to_look_at() {
        let device = Device::open(Path::new("/dev/null")).unwrap();
        let words = |code| {
            let error = device.no_signal(&io::Error::from_raw_os_error(code));
            error.map(|error| error.to_string())
        };
        assert_eq!(
            words(libc::ENOLINK).unwrap(),
            "camera /dev/null receives no signal: is anything plugged in, and switched on?"
        );
        assert!(words(libc::ENOLCK).unwrap().contains("cable"));
        assert!(words(libc::ERANGE).unwrap().contains("mode"));
        assert_eq!(words(libc::ENOTTY), None, "a camera");
        assert_eq!(words(libc::ENODATA), None, "another input");
    }
}
