//! Keys: what is typed while a live table stands on the terminal, without waiting for Enter.

use std::io::{IsTerminal as _, Read as _};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use tokio::sync::mpsc;

/// The terminal's keys; dropped, it is as before. Ctrl-C stays a signal.
pub(super) struct TerminalKeys {
    before: Termios,
    typed: mpsc::Receiver<u8>,
}

impl TerminalKeys {
    /// Begins to read; `None` when nobody types on standard input.
    pub(super) fn read() -> Option<Self> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return None;
        }
        let before = tcgetattr(&stdin).ok()?;
        let mut live = before.clone();
        live.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        live.special_codes[SpecialCodeIndex::VMIN] = 1;
        live.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&stdin, OptionalActions::Now, &live).ok()?;
        let (sender, typed) = mpsc::channel(16);
        // A thread of its own: a read of a terminal can't be given up, and the runtime would wait for one of its own.
        std::thread::spawn(move || {
            let mut byte = [0];
            while std::io::stdin().read_exact(&mut byte).is_ok() && sender.blocking_send(byte[0]).is_ok() {}
        });
        Some(Self { before, typed })
    }

    /// The next key. Never, when there are no more.
    pub(super) async fn next(keys: Option<&mut Self>) -> u8 {
        match keys {
            Some(keys) => match keys.typed.recv().await {
                Some(key) => key,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}

impl Drop for TerminalKeys {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}
