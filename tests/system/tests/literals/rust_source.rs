//! Rust source as words, literals and marks: as much of the language as it takes to find a string.

/// A piece of source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// An identifier, keyword or number.
    Word(String),
    /// A string of any sort, as it is spelled between its quotes.
    Text {
        /// Between the quotes.
        text: String,
        /// Where it begins, from 1.
        line: usize,
    },
    /// Any other character that is no space.
    Mark(char),
}

impl Token {
    /// Whether this is the word `word`.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(text) if text == word)
    }

    /// Whether this is the mark `mark`.
    pub fn is(&self, mark: char) -> bool {
        *self == Self::Mark(mark)
    }
}

/// Source without comments and without test code.
#[derive(Debug, Default)]
pub struct Production {
    /// What is left, in order.
    pub tokens: Vec<Token>,
    /// Modules in files of their own that only tests see.
    pub test_modules: Vec<String>,
}

/// Reads `source`.
pub fn production(source: &str) -> Production {
    let tokens = tokens(source);
    let mut found = Production::default();
    let mut at = 0;
    while at < tokens.len() {
        let Some(item) = test_item(&tokens[at..]) else {
            found.tokens.push(tokens[at].clone());
            at += 1;
            continue;
        };
        if let [first, Token::Word(name), end, ..] = &tokens[at + item..]
            && first.is_word("mod")
            && end.is(';')
        {
            found.test_modules.push(name.clone());
        }
        at += item + item_len(&tokens[at + item..]);
    }
    found
}

/// Where the item begins that the `#[cfg(test)]` at the front of `tokens` is about.
fn test_item(tokens: &[Token]) -> Option<usize> {
    const CFG_TEST: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut end = CFG_TEST.len();
    let matches = tokens.len() >= end
        && CFG_TEST.iter().zip(tokens).all(|(want, token)| match token {
            Token::Word(word) => word == want,
            Token::Mark(mark) => want.chars().eq([*mark]),
            Token::Text { .. } => false,
        });
    if !matches {
        return None;
    }
    while matches!(&tokens[end..], [hash, open, ..] if hash.is('#') && open.is('[')) {
        end += 1 + balanced(&tokens[end + 1..]);
    }
    Some(end)
}

/// Tokens of the item at the front: up to its `;`, or to the end of its braces.
fn item_len(tokens: &[Token]) -> usize {
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at] {
            Token::Mark(';') => return at + 1,
            Token::Mark('{') => return at + balanced(&tokens[at..]),
            Token::Mark('(' | '[') => at += balanced(&tokens[at..]),
            Token::Mark(_) | Token::Word(_) | Token::Text { .. } => at += 1,
        }
    }
    at
}

/// Tokens from the bracket at the front to the one that closes it, both included.
fn balanced(tokens: &[Token]) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Mark('(' | '[' | '{') => depth += 1,
            Token::Mark(')' | ']' | '}') => depth -= 1,
            Token::Mark(_) | Token::Word(_) | Token::Text { .. } => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// All of `source` but spaces, comments and characters.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        let line = 1 + source[..source.len() - rest.len()].matches('\n').count();
        let len = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment_len(rest)
        } else if let Some((text, len)) = text(rest) {
            tokens.push(Token::Text { text: text.to_owned(), line });
            len
        } else if first == '\'' {
            character_len(rest)
        } else if is_of_word(first) {
            let len = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..len].to_owned()));
            len
        } else {
            if !first.is_whitespace() {
                tokens.push(Token::Mark(first));
            }
            first.len_utf8()
        };
        rest = &rest[len..];
    }
    tokens
}

fn is_of_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// The string at the front of `rest`, and how long it is with everything around it.
fn text(rest: &str) -> Option<(&str, usize)> {
    let prefix = rest.find(|c: char| !c.is_ascii_lowercase())?;
    let (prefix, body) = rest.split_at(prefix);
    if !["", "b", "c", "r", "br", "cr"].contains(&prefix) {
        return None;
    }
    let hashes = body.len() - body.trim_start_matches('#').len();
    let quoted = body[hashes..].strip_prefix('"')?;
    let len = if prefix.ends_with('r') {
        quoted.find(&format!("\"{}", "#".repeat(hashes)))?
    } else if hashes == 0 {
        let mut escaped = false;
        quoted.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?
    } else {
        return None;
    };
    Some((&quoted[..len], prefix.len() + hashes + 1 + len + 1 + hashes))
}

/// Length of the comment at the front, which may hold others.
fn comment_len(rest: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < rest.len() {
        let here = &rest.as_bytes()[at..];
        if here.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// Length of the character at the front, or of the quote that begins a lifetime.
fn character_len(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            // What stands behind the backslash may be a quote itself.
            let close = chars.nth(1).and_then(|(at, _)| rest[at..].find('\'').map(|n| at + n));
            close.map_or(rest.len(), |at| at + 1)
        }
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(1, |(at, _)| at + 1),
        None => 1,
    }
}
