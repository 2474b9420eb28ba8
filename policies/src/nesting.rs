//! How deep a policy text nests, before Cedar's parser sees it. The parser and everything it builds recurse along the
//! syntax tree without a bound of their own, and an exhausted stack aborts the process: nothing can catch it. Cedar's
//! evaluator does look at the stack that remains, which would make a decision depend on the thread it was made on.
//!
//! The cost is read off the tokens: a bracket, a clause, an `if`, a chained operator (Cedar's chains nest to the left)
//! and a step of a member path each nest once. Comparisons do not chain: the bracket around them pays for them.

use alloc::vec::Vec;

/// One open bracket, or the text outside all of them.
#[derive(Default)]
struct Level {
    /// Operators since the last comma or semicolon.
    chained: usize,
    /// Member accesses in a row, and the longest row since the last comma or semicolon.
    path: usize,
    longest_path: usize,
    /// The costliest bracket inside, since the last comma or semicolon.
    inner: usize,
    /// The costliest neighbour before the last comma or semicolon.
    finished: usize,
}

impl Level {
    fn cost(&self) -> usize {
        self.chained.saturating_add(self.longest_path).saturating_add(self.inner).max(self.finished)
    }

    const fn operator(&mut self) {
        self.chained = self.chained.saturating_add(1);
        self.path = 0;
    }

    fn member(&mut self) {
        self.path = self.path.saturating_add(1);
        self.longest_path = self.longest_path.max(self.path);
    }

    fn separate(&mut self) {
        *self = Self { finished: self.cost(), ..Self::default() };
    }
}

/// The deepest nesting in `text`. Strings and comments are skipped as Cedar's lexer skips them; where it would stop at
/// a malformed token, this reads on.
pub(crate) fn nesting(text: &str) -> usize {
    let mut levels = Vec::new();
    let mut level = Level::default();
    let mut rest = text.as_bytes();
    let mut after_dot = false;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        // White space of any alphabet and comments may stand between a dot and the member's name.
        let names_member = after_dot;
        after_dot = *byte == b'.' || (after_dot && !is_word(*byte));
        match byte {
            b'"' => rest = after_string(after),
            b'/' if after.first() == Some(&b'/') => rest = after_line(after),
            b'(' | b'[' | b'{' => levels.push(core::mem::take(&mut level)),
            b')' | b'}' => level = closed(&level, levels.pop()),
            b']' => {
                level = closed(&level, levels.pop());
                // `a["b"]["c"]` is a path.
                level.member();
            }
            b',' | b';' => level.separate(),
            b'.' => level.member(),
            b'!' if after.first() == Some(&b'=') => level.path = 0,
            b'&' | b'|' if after.first() == Some(byte) => {
                level.operator();
                rest = after.get(1..).unwrap_or_default();
            }
            b'+' | b'-' | b'*' | b'!' => level.operator(),
            byte if is_word(*byte) => {
                let end = after.iter().position(|byte| !is_word(*byte)).unwrap_or(after.len());
                if !names_member {
                    level.path = 0;
                }
                let word = (byte, after.get(..end).unwrap_or_default());
                // Cedar joins the clauses of a policy into one chain.
                if matches!(word, (b'i', b"f") | (b'w', b"hen") | (b'u', b"nless")) {
                    level.operator();
                }
                rest = after.get(end..).unwrap_or_default();
            }
            _ => {}
        }
    }
    // Brackets that nothing closes: a syntax error, which the parser finds after it has read them all.
    while let Some(outer) = levels.pop() {
        level = closed(&level, Some(outer));
    }
    level.cost()
}

/// The level outside a bracket that closes. A bracket nobody opened is a syntax error for Cedar to name.
fn closed(inner: &Level, outer: Option<Level>) -> Level {
    let mut outer = outer.unwrap_or_default();
    outer.inner = outer.inner.max(inner.cost().saturating_add(1));
    outer
}

const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn after_string(mut rest: &[u8]) -> &[u8] {
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => return rest,
            b'\\' => rest = rest.get(1..).unwrap_or_default(),
            _ => {}
        }
    }
    rest
}

fn after_line(rest: &[u8]) -> &[u8] {
    let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(rest.len());
    rest.get(end..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;

    use super::nesting;
    use crate::policy::{NESTING_MAX, SHIPPED};

    #[test]
    fn brackets_chains_paths_and_conditions_each_nest() {
        for (text, cost) in [
            ("", 0),
            ("a == b", 0),
            ("a && b || c", 2),
            ("a.b.c && d.e", 3),
            ("a . b\n.// c\nd", 2),
            ("a.\u{2003}b.\u{b}c", 2),
            ("a.b == c.d", 1),
            ("a + b - c * -d", 4),
            ("a != !b", 1),
            ("((a))", 2),
            ("((a", 2),
            ("a))", 2),
            ("a[\"b\"][\"c\"]", 3),
            ("if a then b else if c then d else e", 2),
            ("iffy && ifs && whenever", 2),
            ("when { a } unless { b } when { c }", 4),
            ("(a && b) && c", 3),
        ] {
            assert_eq!(nesting(text), cost, "{text}");
        }
    }

    #[test]
    fn neighbours_do_not_add_up() {
        let list: String = (0..1000).map(|index| format!("\"chip-{index}\", ")).collect();
        assert_eq!(nesting(&format!("[{list}\"last\"]")), 2);
        let policies = "permit (principal, action, resource) when { a && b };\n".repeat(100);
        assert_eq!(nesting(&policies), nesting("permit (principal, action, resource) when { a && b };"));
        assert_eq!(nesting("f((a), b && c && d && e && f && g)"), 6, "the costlier neighbour counts, last");
        assert_eq!(nesting("f(b && c && d && e && f && g, (a))"), 6, "the costlier neighbour counts, first");
    }

    #[test]
    fn strings_and_comments_hide_nothing_and_count_nothing() {
        assert_eq!(nesting(r#""((((" == "\"((((" // (((("#), 0);
        assert_eq!(nesting("// \"\n((a))"), 2, "a quote in a comment opens no string");
        assert_eq!(nesting("// \r((a))"), 2, "a carriage return ends a comment");
        assert_eq!(nesting(r#""\\" == ((a))"#), 2, "an escaped backslash escapes no quote");
        assert_eq!(nesting(r#""//" == ((a))"#), 2, "a comment in a string is none");
    }

    #[test]
    fn shipped_policies_stay_far_below_the_limit() {
        for (name, text) in SHIPPED {
            assert!(nesting(text) <= NESTING_MAX / 2, "{name}: {}", nesting(text));
        }
    }
}
