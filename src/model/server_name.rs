//! Names of servers as TLS clients ask for them: patterns (`www.example.com`, `*.example.com`) and which of many fits.
//!
//! Names are compared without case, and without the dot that a full name may end with. A name that is not one never
//! fits: what a client sends is looked up in a table and never becomes a path.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A host name, or `*.` and one: any single label in front. In lower case, without a dot at the end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NamePattern(String);

/// Why a text is not such a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host name, nor *. and a host name")]
pub struct NameError(pub String);

/// The values of many patterns. The exact name comes before the wildcard; of the same pattern the first one counts.
#[derive(Debug, Clone)]
pub struct NameIndex<T> {
    exact: HashMap<String, T>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, T>,
}

/// The longest name, in bytes.
const LONGEST: usize = 253;

/// The name in the form in which names are compared; none if it is not one. Underscores occur, and do no harm.
fn normal(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let of_a_label = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(of_a_label);
    (name.len() <= LONGEST && name.split('.').all(is_label)).then(|| name.to_ascii_lowercase())
}

impl NamePattern {
    /// Is it one with a `*`?
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }
}

impl FromStr for NamePattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let pattern = match text.strip_prefix("*.") {
            Some(rest) => normal(rest).map(|rest| format!("*.{rest}")),
            None => normal(text),
        };
        pattern.map(NamePattern).ok_or_else(|| NameError(text.to_owned()))
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<T> Default for NameIndex<T> {
    fn default() -> Self {
        NameIndex { exact: HashMap::new(), wildcard: HashMap::new() }
    }
}

impl<T> NameIndex<T> {
    /// Adds a value, unless the pattern has one already.
    pub fn add(&mut self, pattern: &NamePattern, value: T) {
        match pattern.0.strip_prefix("*.") {
            Some(rest) => self.wildcard.entry(rest.to_owned()).or_insert(value),
            None => self.exact.entry(pattern.0.clone()).or_insert(value),
        };
    }

    /// The value of the pattern, as it was added; for changing it.
    pub fn get_mut(&mut self, pattern: &NamePattern) -> Option<&mut T> {
        match pattern.0.strip_prefix("*.") {
            Some(rest) => self.wildcard.get_mut(rest),
            None => self.exact.get_mut(&pattern.0),
        }
    }

    /// The value for a name that a client asks for.
    pub fn find(&self, name: &str) -> Option<&T> {
        let name = normal(name)?;
        self.exact.get(&name).or_else(|| self.wildcard.get(name.split_once('.')?.1))
    }

    /// There are no names.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exact_name_comes_before_the_wildcard_and_the_first_before_the_second() {
        let mut index = NameIndex::default();
        for (value, pattern) in ["*.a.test", "www.a.test", "*.a.test", "B.test."].into_iter().enumerate() {
            index.add(&pattern.parse().unwrap(), value);
        }
        for (name, value) in [
            ("www.a.test", Some(1)),
            ("WWW.A.Test.", Some(1)),
            ("x.a.test", Some(0)),
            ("x.y.a.test", None),
            ("a.test", None),
            ("b.test", Some(3)),
            ("*.a.test", None),
            ("", None),
        ] {
            assert_eq!(index.find(name).copied(), value, "{name}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = "a".repeat(64);
        let longer = ["abc"; 64].join(".");
        for text in
            ["", ".", "a..b", "*", "*.", "a.*.b", "../a", "a/b", "a b", "a\0b", "é.test", &long, &longer]
        {
            assert!(text.parse::<NamePattern>().is_err(), "{text:?}");
            assert_eq!(NameIndex::<()>::default().find(text), None);
        }
        assert_eq!("*.Example.COM".parse::<NamePattern>().unwrap().to_string(), "*.example.com");
    }
}
