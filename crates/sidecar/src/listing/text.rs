//! Text and JSON as the listing commands write them: lines that fit a terminal nobody has widened.

use serde::Serialize;

/// Columns a line may take.
pub(crate) const WIDTH: usize = 90;

/// Breaks `text` at spaces into lines of at most `width` columns, each indented. A word that is longer stays whole: a
/// broken path or command cannot be copied.
pub(crate) fn wrap(text: &str, indent: usize, width: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(format!("{:indent$}{word}", "")),
        }
    }
    lines.join("\n")
}

/// `document` as indented JSON with a line end.
pub(crate) fn json(document: &impl Serialize) -> String {
    // Serialising fails only for maps with keys that are no text; the documents have none.
    let mut text = serde_json::to_string_pretty(document).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_at_spaces_and_are_indented() {
        assert_eq!(wrap("one two three", 2, 9), "  one two\n  three");
        assert_eq!(wrap("one  two\nthree", 0, 80), "one two three");
        assert_eq!(wrap("", 4, 80), "");
    }

    #[test]
    fn a_word_longer_than_the_line_stays_whole() {
        assert_eq!(wrap("see /very/long/path now", 2, 8), "  see\n  /very/long/path\n  now");
    }

    #[test]
    fn columns_are_characters_not_bytes() {
        assert_eq!(wrap("äöü äöü", 0, 7), "äöü äöü");
    }
}
