//! System errors in the words that people know.

use std::io;

/// What the system says, without the number that [`io::Error`] adds: `Permission denied`.
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error ") {
        Some((words, _)) if error.raw_os_error().is_some() => words.to_string(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_left_out_and_words_kept() {
        let denied = std::fs::File::open("/no/such/file").unwrap_err();
        assert_eq!(words(&denied), "No such file or directory");
        assert_eq!(words(&io::Error::other("odd (os error 1)")), "odd (os error 1)");
    }
}
