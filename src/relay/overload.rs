//! How mail servers say, in place of a greeting, that they have too many connections.
//!
//! | server | its words |
//! |---|---|
//! | Dovecot's login services | `* BYE Connection queue full`, `-ERR Connection queue full` |
//! | postscreen | `421 4.3.2 All server ports are busy` |
//! | Exim | `421 Too many concurrent SMTP connections; please try again later.` |
//!
//! Postfix's `421 4.7.0 .. too many connections` and Exim's `.. connections from this IP address` speak of one client,
//! who is to blame for it: they say nothing of the server.

/// What is looked at of a server's first bytes: a line of that kind is shorter.
const LOOKED_AT_MAX: usize = 512;

/// Whether the first bytes of a server, in answer to a client's connection, say that it has too many connections.
pub fn is_overload(first: &[u8]) -> bool {
    const REFUSALS: [&[u8]; 5] = [b"* BYE ", b"-ERR ", b"421", b"BYE ", b"NO "];
    const OF_THE_CLIENT: [&[u8]; 2] = [b" 4.7.", b"connections from "];
    let line = first.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = &line[..line.len().min(LOOKED_AT_MAX)];
    let refuses = REFUSALS.iter().any(|word| line.get(..word.len()).is_some_and(|start| is(start, word)));
    refuses && says_busy(line) && !OF_THE_CLIENT.iter().any(|words| has(line, words))
}

/// Whether a line with which a server refuses says that it has too many connections, of whomever.
pub fn says_busy(line: &[u8]) -> bool {
    const BUSY: [&[u8]; 5] = [
        b"queue full",
        b"too many connections",
        b"server ports are busy",
        b"too many concurrent",
        b"concurrency limit",
    ];
    BUSY.iter().any(|words| has(line, words))
}

/// Whether the line contains these words, in any case.
fn has(line: &[u8], words: &[u8]) -> bool {
    line.windows(words.len()).any(|window| is(window, words))
}

fn is(word: &[u8], expected: &[u8]) -> bool {
    word.eq_ignore_ascii_case(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_is_known_by_its_words() {
        for words in [
            "* BYE Connection queue full\r\n",
            "* BYE [UNAVAILABLE] Connection queue full, disconnecting\r\n",
            "-ERR Connection queue full\r\n",
            "BYE \"Connection queue full\"\r\n",
            "421 too many connections\r\n",
            "421 4.3.2 All server ports are busy\r\n",
            "421 Too many concurrent SMTP connections; please try again later.\r\n",
        ] {
            assert!(is_overload(words.as_bytes()), "{words}");
        }
    }

    #[test]
    fn greetings_other_refusals_and_limits_of_one_client_are_none() {
        for words in [
            "",
            "* OK [CAPABILITY IMAP4rev1] Connection queue full of joy\r\n",
            "* OK ready\r\n* BYE Connection queue full\r\n",
            "220 mx.example ESMTP too many connections\r\n",
            "* BYE Disconnected: Shutting down\r\n",
            "421 4.7.0 mx.example Error: too many connections from unknown[192.0.2.1]\r\n",
            "421 4.7.0 Error: too many connections\r\n",
            "421 Too many concurrent SMTP connections from this IP address; please try again later.\r\n",
        ] {
            assert!(!is_overload(words.as_bytes()), "{words}");
        }
    }

    #[test]
    fn no_more_is_looked_at_than_a_line() {
        let long = [b"* BYE ".to_vec(), vec![b'x'; LOOKED_AT_MAX], b"queue full\r\n".to_vec()].concat();
        assert!(!is_overload(&long));
    }
}
