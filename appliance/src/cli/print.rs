//! Output of the verbs: tables for people, JSON for programs.

use std::io::{self, Write};

/// A text for a terminal: peers write some of these, so nothing that moves a cursor, turns the direction of writing,
/// or cannot be seen: what is shown is what is there, in its order.
pub fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || is_unseen(c) { ' ' } else { c }).collect()
}

/// Characters that format others (Unicode: general category Cf, separators of lines and paragraphs), but for the
/// Arabic and Kaithi number signs, which are seen.
fn is_unseen(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{70f}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e007f}')
}

/// Writes rows under their headings, each column as wide as its widest cell.
pub fn print_table(out: &mut impl Write, headings: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| plain(cell)).collect()).collect();
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut text = String::new();
        for (width, cell) in widths.iter().zip(cells) {
            text.push_str(&format!("{cell:width$}  "));
        }
        writeln!(out, "{}", text.trim_end())
    };
    line(&mut headings.iter().copied())?;
    for row in &rows {
        line(&mut row.iter().map(String::as_str))?;
    }
    Ok(())
}

/// Writes a value as JSON for programs.
pub fn print_json(out: &mut impl Write, value: &impl serde::Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_moves_or_hides_reaches_a_terminal() {
        assert_eq!(plain("Müller 1\u{66b}5 漢字"), "Müller 1\u{66b}5 漢字");
        for hidden in
            ['\u{1b}', '\u{9b}', '\u{202e}', '\u{2066}', '\u{200f}', '\u{200b}', '\u{feff}', '\u{2028}']
        {
            assert_eq!(plain(&format!("a{hidden}b")), "a b", "{}", hidden.escape_unicode());
        }
    }
}
