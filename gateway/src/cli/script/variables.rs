//! `${name}` in a script's texts, and the values it stands for.

use std::collections::BTreeMap;

use serde_json::Value;

/// What was given or captured so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Variables {
    values: BTreeMap<String, Value>,
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Variables {
        let values = pairs.into_iter().map(|(name, text)| (name, text.into()));
        Variables {
            values: values.collect(),
        }
    }
}

/// A part of a text.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    Variable(&'a str),
}

impl Variables {
    pub(super) fn set(&mut self, name: &str, value: Value) {
        self.values.insert(name.to_owned(), value);
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// The text with every `${name}` replaced: a text as it is, anything else as JSON.
    ///
    /// # Errors
    /// Which variable has no value, or what is wrong with the text.
    pub(super) fn fill(&self, text: &str) -> Result<String, String> {
        let mut filled = String::new();
        for piece in pieces(text)? {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Variable(name) => match self.value(name)? {
                    Value::String(text) => filled.push_str(text),
                    other => filled.push_str(&other.to_string()),
                },
            }
        }
        Ok(filled)
    }

    /// The document with the texts in it filled. One that is nothing but `${name}` becomes the
    /// value itself, whatever its type.
    ///
    /// # Errors
    /// As [`Variables::fill`].
    pub(super) fn fill_document(&self, document: &Value) -> Result<Value, String> {
        Ok(match document {
            Value::String(text) => match pieces(text)?[..] {
                [Piece::Variable(name)] => self.value(name)?.clone(),
                _ => self.fill(text)?.into(),
            },
            Value::Array(items) => items
                .iter()
                .map(|item| self.fill_document(item))
                .collect::<Result<_, _>>()?,
            Value::Object(fields) => fields
                .iter()
                .map(|(key, value)| Ok((key.clone(), self.fill_document(value)?)))
                .collect::<Result<serde_json::Map<_, _>, String>>()?
                .into(),
            other => other.clone(),
        })
    }

    fn value(&self, name: &str) -> Result<&Value, String> {
        self.values
            .get(name)
            .ok_or_else(|| format!("`${{{name}}}` has no value: the step that captures it failed"))
    }
}

/// Letters, digits and `_`, not beginning with a digit.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The variables that a text names.
///
/// # Errors
/// What is wrong with the text.
pub(super) fn named_in(text: &str) -> Result<Vec<&str>, String> {
    let names = pieces(text)?.into_iter().filter_map(|piece| match piece {
        Piece::Variable(name) => Some(name),
        Piece::Text(_) => None,
    });
    Ok(names.collect())
}

/// Splits a text at its variables. `$${` is `${` itself.
fn pieces(text: &str) -> Result<Vec<Piece<'_>>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            pieces.extend([Piece::Text(&rest[..at - 1]), Piece::Text("${")]);
            rest = &rest[at + 2..];
            continue;
        }
        let end = rest[at..]
            .find('}')
            .ok_or("`${` has no end `}`; write `$${` for the characters themselves")?;
        let name = &rest[at + 2..at + end];
        if !is_name(name) {
            return Err(format!(
                "`${{{name}}}` is no variable: a name has letters, digits and _; write `$${{` for \
                 the characters themselves"
            ));
        }
        pieces.extend([Piece::Text(&rest[..at]), Piece::Variable(name)]);
        rest = &rest[at + end + 1..];
    }
    pieces.push(Piece::Text(rest));
    pieces.retain(|piece| *piece != Piece::Text(""));
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn variables() -> Variables {
        let mut variables: Variables = [("who".to_owned(), "me".to_owned())].into_iter().collect();
        variables.set("token", json!({"attempt": 1}));
        variables
    }

    #[test]
    fn a_variable_within_a_text_is_text() {
        let fill = |text| variables().fill(text).unwrap();
        assert_eq!(fill("a ${who}, ${who}"), "a me, me");
        assert_eq!(fill("t=${token}"), r#"t={"attempt":1}"#);
        assert_eq!(fill("$5 $${who} {} $"), "$5 ${who} {} $");
        assert!(
            variables()
                .fill("${nobody}")
                .unwrap_err()
                .contains("nobody")
        );
        assert!(variables().fill("${who").unwrap_err().contains("no end"));
        assert!(variables().fill("${a b}").unwrap_err().contains("`${a b}`"));
    }

    #[test]
    fn a_variable_that_is_all_of_a_text_keeps_its_type() {
        let document = json!({"ownershipToken": "${token}", "by": ["${who}", 7, "<${who}>"]});
        assert_eq!(
            variables().fill_document(&document).unwrap(),
            json!({"ownershipToken": {"attempt": 1}, "by": ["me", 7, "<me>"]})
        );
    }
}
