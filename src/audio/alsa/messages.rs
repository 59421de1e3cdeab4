//! libasound tells its troubles to stderr; here they go to the log, at debug.

use std::cell::RefCell;
use std::rc::Rc;

use alsa::Output;
use tracing::debug;

/// What libasound said on this thread since this was made. It stays off stderr from then on.
#[derive(Debug)]
pub(crate) struct Messages(Option<Rc<RefCell<Output>>>);

impl Messages {
    /// Keeps libasound's messages of this thread off stderr, and starts them anew.
    pub(crate) fn divert() -> Self {
        Self(Output::local_error_handler().ok())
    }

    /// Writes them to the log.
    pub(crate) fn log(&self) {
        let text = self.0.as_ref().map(|output| output.borrow().to_string());
        for line in text.unwrap_or_default().lines() {
            debug!(message_of_libasound = line);
        }
    }
}
