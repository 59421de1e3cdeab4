//! What the doctor found, and how it is said: in columns for people, in the shape of `docs/tools.md` for
//! programs. Pure.

use serde::Serialize;

use crate::inspect::columns::entry;

/// Where the text of a finding starts.
const COLUMN: usize = 24;

/// How good or bad it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// The daemon works, but something is worth a look.
    Warning,
    /// Something that is configured does not work.
    Error,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Finding {
    /// Of the list in `docs/tools.md`.
    pub(super) check: &'static str,
    pub(super) level: Level,
    /// A sentence or two.
    pub(super) text: String,
    /// The command that mends it, or what to do where no command does.
    pub(super) remedy: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Level::Ok, text.into())
    }

    pub(super) fn warning(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Level::Warning, text.into())
    }

    pub(super) fn error(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(check, Level::Error, text.into())
    }

    pub(super) const fn new(check: &'static str, level: Level, text: String) -> Self {
        Self {
            check,
            level,
            text,
            remedy: None,
        }
    }

    /// Adds what mends it.
    #[must_use]
    pub(super) fn mended_by(self, remedy: impl Into<String>) -> Self {
        Self {
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

/// Everything that was looked at.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub(super) struct Report {
    /// Whether the daemon would show what is configured: nothing is an error.
    works: bool,
    findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        let is_error = |finding: &Finding| finding.level == Level::Error;
        Self {
            works: !findings.iter().any(is_error),
            findings,
        }
    }

    /// Returns whether the daemon would work.
    pub(super) const fn works(&self) -> bool {
        self.works
    }

    /// Returns it in columns.
    pub(super) fn for_people(&self) -> String {
        let mut out = String::new();
        for finding in &self.findings {
            let label = format!("{:<8} {}", finding.level.word(), finding.check);
            entry(&mut out, COLUMN, &label, &finding.text);
            if let Some(remedy) = &finding.remedy {
                entry(&mut out, COLUMN + 3, &format!("{:COLUMN$}->", ""), remedy);
            }
        }
        let count = |level| self.findings.iter().filter(|f| f.level == level).count();
        let verdict = match (count(Level::Error), count(Level::Warning)) {
            (0, 0) => "roomcam works.".to_owned(),
            (0, warnings) => format!("roomcam works; {}.", counted(warnings, "warning")),
            (errors, 0) => format!("roomcam would not work: {}.", counted(errors, "error")),
            (errors, warnings) => format!(
                "roomcam would not work: {}, {}.",
                counted(errors, "error"),
                counted(warnings, "warning")
            ),
        };
        out.push_str(&verdict);
        out.push('\n');
        out
    }
}

/// Returns an error with its causes as a sentence.
pub(super) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    text.push('.');
    text
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_does_not_keep_it_from_working_and_an_error_does() {
        let ok = Finding::ok("camera", "there");
        let warning = Finding::warning("clock", "late").mended_by("sudo timedatectl set-ntp true");
        let error = Finding::error("microphone", "gone");
        let report = Report::new(vec![ok, warning.clone()]);
        assert!(report.works());
        let expected = "\
ok       camera         there
warning  clock          late
                        -> sudo timedatectl set-ntp true
roomcam works; 1 warning.
";
        assert_eq!(report.for_people(), expected);
        let report = Report::new(vec![warning.clone(), warning, error]);
        assert!(!report.works());
        let text = report.for_people();
        assert!(
            text.ends_with("would not work: 1 error, 2 warnings.\n"),
            "{text}"
        );
    }

    #[test]
    fn programs_get_the_documented_shape() {
        let finding = Finding::error("camera", "gone").mended_by("roomcam devices");
        let documented = serde_json::json!({
            "works": false,
            "findings": [{
                "check": "camera",
                "level": "error",
                "text": "gone",
                "remedy": "roomcam devices",
            }],
        });
        assert_eq!(
            serde_json::to_value(Report::new(vec![finding])).unwrap(),
            documented
        );
    }
}
