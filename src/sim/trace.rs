//! What happened, as a digest: two runs did the same if, and practically only if, their digests are the same.

use super::random::mix;

/// A digest of everything that was noted so far, and the lines if somebody wants to read them.
#[derive(Clone, Debug)]
pub struct Trace {
    digest: u64,
    noted: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    /// An empty trace. `readable`: lines are kept.
    pub const fn new(readable: bool) -> Self {
        Self {
            digest: 0,
            noted: 0,
            lines: if readable { Some(Vec::new()) } else { None },
        }
    }

    /// Notes an event by its numbers; `line` says the same for people and is called only if somebody reads it.
    pub fn note(&mut self, numbers: &[u64], line: impl FnOnce() -> String) {
        self.noted += 1;
        for number in numbers {
            self.digest = mix(self.digest ^ *number);
        }
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }

    /// The digest.
    pub const fn digest(&self) -> u64 {
        self.digest
    }

    /// Events noted.
    pub const fn events(&self) -> u64 {
        self.noted
    }

    /// The lines, if they were kept.
    pub fn into_lines(self) -> Vec<String> {
        self.lines.unwrap_or_default()
    }
}

/// A number that stands for some bytes.
pub fn digest_of(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    words.fold(bytes.len() as u64, |digest, word| mix(digest ^ word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_content_change_the_digest() {
        let digest = |numbers: &[&[u64]]| {
            let mut trace = Trace::new(false);
            numbers
                .iter()
                .for_each(|numbers| trace.note(numbers, || unreachable!("nobody reads it")));
            trace.digest()
        };
        assert_eq!(digest(&[&[1, 2], &[3]]), digest(&[&[1, 2], &[3]]));
        assert_ne!(digest(&[&[1, 2], &[3]]), digest(&[&[2, 1], &[3]]));
        assert_ne!(digest_of(b"abc"), digest_of(b"abd"));
        let mut readable = Trace::new(true);
        readable.note(&[1], || "one".to_owned());
        assert_eq!(
            (readable.events(), readable.into_lines()),
            (1, vec!["one".to_owned()])
        );
    }
}
