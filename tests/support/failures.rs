//! What a failed test has to tell, at once: the tests run for long, and their output is kept until the last has
//! ended, or is lost with a run that is given up.

use std::io::Write as _;
use std::panic;
use std::sync::Once;
use std::thread;

/// How much of a log says what went wrong last, in lines.
const LAST_LINES: usize = 25;

/// How much of a panic's text is told at once, in characters.
const FIRST_WORDS: usize = 600;

/// Has every failure from now on told when it happens, beside what the test harness shows at the end.
pub(crate) fn tell_at_once() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            usual(panic);
            let thread = thread::current();
            let text: String = panic.to_string().chars().take(FIRST_WORDS).collect();
            tell(&format!(
                "---- {}: {text}",
                thread.name().unwrap_or("a thread")
            ));
        }));
    });
}

/// Shows the log of `who` beside a failed test, and its end at once.
#[expect(clippy::print_stderr, reason = "a failed test shows what was logged")]
pub(crate) fn show(who: &str, log: &str) {
    eprintln!("---- log of {who}\n{log}----");
    let mut last: Vec<&str> = log.lines().rev().take(LAST_LINES).collect();
    last.reverse();
    tell(&format!(
        "---- end of the log of {who}\n{}\n----",
        last.join("\n")
    ));
}

/// The harness takes what is printed by macros, and nothing else.
fn tell(text: &str) {
    writeln!(std::io::stderr(), "{text}").ok();
}
