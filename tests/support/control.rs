//! A shell in an emulated machine, through a virtio port: one command at a time, in the words of
//! `tests/guest/init` and `tests/emulated/control`.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Child;
use std::time::Duration;

use roomcam::clock;

const POLL_EVERY: Duration = Duration::from_millis(50);

/// Our end of the port.
#[derive(Debug)]
pub(crate) struct Control(BufReader<UnixStream>);

impl Control {
    /// Waits until QEMU has opened its end. No answer may take longer than `patience`.
    pub(crate) fn accept(listener: &UnixListener, qemu: &mut Child, patience: Duration) -> Self {
        let non_blocking = listener.set_nonblocking(true);
        non_blocking.expect("a socket can be non-blocking");
        let deadline = clock::now() + patience;
        loop {
            if let Ok((stream, _)) = listener.accept() {
                let limits = stream
                    .set_nonblocking(false)
                    .and_then(|()| stream.set_read_timeout(Some(patience)));
                limits.expect("a socket can wait for so long");
                return Self(BufReader::new(stream));
            }
            let ended = qemu.try_wait().ok().flatten();
            assert!(ended.is_none(), "QEMU ended: {ended:?}");
            assert!(clock::now() < deadline, "QEMU does not start");
            std::thread::sleep(POLL_EVERY);
        }
    }

    /// Runs a shell command; returns its status and what it printed.
    ///
    /// # Errors
    ///
    /// The machine is gone, or has not answered in time.
    pub(crate) fn talk(&mut self, command: &str) -> io::Result<(i32, String)> {
        self.say(command)?;
        let header = self.line()?;
        let mut numbers = header.split_whitespace().map(str::parse);
        let (Some(Ok(status)), Some(Ok(length))) = (numbers.next(), numbers.next()) else {
            return Err(io::Error::other(format!("it answered {header:?}")));
        };
        let mut output = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.0.read_exact(&mut output)?;
        Ok((status, String::from_utf8_lossy(&output).into_owned()))
    }

    /// Gives it a shell command that it may not live to answer.
    ///
    /// # Errors
    ///
    /// The machine is gone.
    pub(crate) fn say(&mut self, command: &str) -> io::Result<()> {
        let line = format!("{}\n", command.replace('\n', " "));
        self.0.get_mut().write_all(line.as_bytes())
    }

    /// Waits for the next line that the machine says.
    ///
    /// # Errors
    ///
    /// The machine is gone, or has not said anything in time.
    pub(crate) fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.0.read_line(&mut line)?;
        Ok(line)
    }
}
