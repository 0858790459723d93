//! Stop strings in streamed text: what could be the beginning of one is held back until it is known.

/// Text as it is released, up to the first stop string.
#[derive(Clone, Debug)]
pub struct StopText {
    stops: Vec<String>,
    held: String,
    found: bool,
}

impl StopText {
    /// Watches for `stops`; empty ones are ignored.
    pub fn new(stops: impl IntoIterator<Item = String>) -> Self {
        let stops = stops.into_iter().filter(|s| !s.is_empty()).collect();
        Self { stops, held: String::new(), found: false }
    }

    /// Takes more text and gives what is safe to show. After a stop string nothing follows.
    pub fn push(&mut self, text: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.found = true;
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let safe = self.held.len() - self.undecided();
        self.held.drain(..safe).collect()
    }

    /// The longest end of the held text that begins a stop string, in bytes.
    fn undecided(&self) -> usize {
        let starts = self.held.char_indices().map(|(i, _)| &self.held[i..]);
        let mut begins = starts.filter(|end| self.stops.iter().any(|s| s.starts_with(end)));
        begins.next().map_or(0, str::len)
    }

    /// Whether a stop string was found.
    pub fn found(&self) -> bool {
        self.found
    }

    /// What is still held when the text ends.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut s = StopText::new(stops.iter().map(|s| s.to_string()));
        let mut shown: String = pieces.iter().map(|p| s.push(p)).collect();
        shown.push_str(&s.finish());
        (shown, s.found())
    }

    #[test]
    fn a_stop_string_over_several_pieces_is_never_shown() {
        assert_eq!(stream(&["<|User|>"], &["hi <", "|Us", "er|> x"]), ("hi ".into(), true));
        assert_eq!(stream(&["END"], &["E", "N", "x END"]), ("ENx ".into(), true));
        assert_eq!(stream(&["你好"], &["说你", "好吗"]), ("说".into(), true));
    }

    #[test]
    fn what_only_looked_like_one_is_shown_at_last() {
        assert_eq!(stream(&["abc"], &["xab", "ab"]), ("xabab".into(), false));
        assert_eq!(stream(&["", "zz"], &["az"]), ("az".into(), false));
    }

    #[test]
    fn nothing_is_held_longer_than_needed() {
        let mut s = StopText::new(["stop".to_string()]);
        assert_eq!(s.push("a st"), "a ");
        assert_eq!(s.push("range"), "strange");
    }
}
