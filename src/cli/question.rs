//! Questions that the user answers with yes or no.

use std::io::{self, BufRead, IsTerminal};

use tokio::sync::oneshot;

use crate::out;

/// Whether somebody is there to be asked.
pub(super) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks on the terminal.
pub(super) async fn confirmed(question: String) -> bool {
    let (answered, answer) = oneshot::channel();
    // Not one of the runtime's threads, which the process waits for: this one may read for ever.
    std::thread::spawn(move || {
        let answer = ask(&question, &mut io::stdin().lock(), out::ask);
        answered.send(answer).ok();
    });
    answer.await.unwrap_or(false)
}

/// Asks until the answer is one; the end of what is typed is a no.
fn ask(question: &str, typed: &mut impl BufRead, mut say: impl FnMut(&str)) -> bool {
    say(question);
    let mut line = Vec::new();
    loop {
        line.clear();
        if !matches!(typed.read_until(b'\n', &mut line), Ok(1..)) {
            return false;
        }
        match line.trim_ascii().to_ascii_lowercase().as_slice() {
            b"yes" | b"y" => return true,
            b"no" | b"n" => return false,
            _ => say("Please answer yes or no: "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_answer_is_asked_again_and_the_end_is_a_no() {
        for (typed, answer, repeats) in [
            (b"yes\n" as &[u8], true, 0),
            (b"YES\n", true, 0),
            (b" y \r\n", true, 0),
            (b"No\n", false, 0),
            (b"n", false, 0),
            (b"yse\n\n\xff\nyes\n", true, 3),
            (b"ys\nno\nyes\n", false, 1),
            (b"", false, 0),
            (b"maybe", false, 1),
        ] {
            let mut said = String::new();
            let say = |text: &str| said.push_str(text);
            assert_eq!(ask("Trust it? ", &mut &*typed, say), answer, "{typed:?}");
            assert_eq!(said.matches("Please answer").count(), repeats, "{typed:?}");
            assert!(said.starts_with("Trust it? "));
        }
    }
}
