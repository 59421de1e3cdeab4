//! Text for people in two columns, no wider than the narrowest usual terminal. Pure.

/// Characters of a line.
const WIDTH: usize = 80;

/// Appends `label` and, in a column of its own that starts at `column`, `text`, broken between words.
pub(super) fn entry(out: &mut String, column: usize, label: &str, text: &str) {
    let mut line = label.to_owned();
    let mut length = label.chars().count();
    // A label that reaches into the column has a line of its own.
    if length > 0 && length >= column && !text.is_empty() {
        end_line(out, &line);
        (line, length) = (String::new(), 0);
    }
    let mut is_first = true;
    for word in text.split_whitespace() {
        let word_length = word.chars().count();
        if !is_first && length + 1 + word_length > WIDTH {
            end_line(out, &line);
            (line, length) = (String::new(), 0);
            is_first = true;
        }
        let gap = if is_first {
            column.saturating_sub(length)
        } else {
            1
        };
        line.push_str(&" ".repeat(gap));
        line.push_str(word);
        length += gap + word_length;
        is_first = false;
    }
    end_line(out, &line);
}

fn end_line(out: &mut String, line: &str) {
    out.push_str(line.trim_end());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(label: &str, text: &str) -> String {
        let mut out = String::new();
        entry(&mut out, 8, label, text);
        out
    }

    #[test]
    fn text_is_broken_between_words_and_stays_in_its_column() {
        assert_eq!(shown("one", "two  three"), "one     two three\n");
        let text = "word ".repeat(30);
        let shown = shown("label", &text);
        assert!(shown.lines().all(|line| line.len() <= WIDTH), "{shown}");
        assert!(
            shown
                .lines()
                .skip(1)
                .all(|line| line.starts_with("        word"))
        );
        assert_eq!(shown.matches("word").count(), 30);
    }

    #[test]
    fn what_does_not_fit_is_shown_whole() {
        assert_eq!(
            shown("a long label", "text"),
            "a long label\n        text\n"
        );
        let word = "x".repeat(200);
        assert_eq!(shown("", &word), format!("        {word}\n"));
        assert_eq!(shown("alone", ""), "alone\n");
    }
}
