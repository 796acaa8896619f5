//! Several ways to one namespace, by different nodes: one is used at a time, another one while that one is lost or refuses.

use reactor::Nanos;

/// How long a path is left alone whose node says that the namespace is inaccessible there.
const ASIDE_NS: Nanos = 1_000_000_000;

/// The paths of one core.
#[derive(Clone, Debug)]
pub struct Paths {
    home: u16,
    /// By target: whether it is connected, and until when it is left alone.
    all: Vec<(bool, Nanos)>,
}

impl Paths {
    /// So many paths, none of which is there yet; the one with this number is used whenever it can be.
    ///
    /// Panics if there is no such path.
    pub fn new(count: u16, home: u16) -> Self {
        assert!(home < count, "a path that there is");
        Self {
            home,
            all: vec![(false, 0); usize::from(count)],
        }
    }

    /// Whether there is more than one, so that a command may go another way.
    pub fn are_several(&self) -> bool {
        self.all.len() > 1
    }

    /// Whether all of them are there.
    pub fn are_up(&self) -> bool {
        self.all.iter().all(|(is_up, _)| *is_up)
    }

    /// A path is there.
    pub fn up(&mut self, path: usize) {
        self.all[path] = (true, 0);
    }

    /// A path is lost.
    pub fn down(&mut self, path: u16) {
        self.all[usize::from(path)].0 = false;
    }

    /// The node at the end of a path refuses, as others serve the namespace.
    pub fn set_aside(&mut self, path: u16, now: Nanos) {
        self.all[usize::from(path)].1 = now + ASIDE_NS;
    }

    /// The path to use now.
    pub fn choose(&self, now: Nanos) -> Option<u16> {
        let count = u16::try_from(self.all.len()).expect("as many as were given");
        let mut tried = (self.home..self.home + count).map(|path| path % count);
        tried.find(|path| {
            let (is_up, aside_until) = self.all[usize::from(*path)];
            is_up && now >= aside_until
        })
    }

    /// When there may be a path again of those that are left alone.
    pub fn next_at(&self) -> Option<Nanos> {
        let up = self.all.iter().filter(|(is_up, _)| *is_up);
        up.map(|(_, aside_until)| *aside_until).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_used_whenever_it_can_be() {
        let mut paths = Paths::new(3, 1);
        assert_eq!((paths.choose(0), paths.next_at()), (None, None));
        paths.up(0);
        assert_eq!(paths.choose(0), Some(0));
        paths.up(1);
        paths.up(2);
        assert_eq!(paths.choose(0), Some(1));
        paths.down(1);
        assert_eq!(paths.choose(0), Some(2), "the next one");
        paths.up(1);
        assert_eq!(paths.choose(0), Some(1), "it is back");
    }

    #[test]
    fn a_path_that_refuses_is_tried_again_later() {
        let mut paths = Paths::new(2, 0);
        paths.up(0);
        paths.up(1);
        paths.set_aside(0, 5);
        assert_eq!(paths.choose(5), Some(1));
        assert_eq!(paths.choose(5 + ASIDE_NS), Some(0));
        paths.set_aside(1, 9);
        assert_eq!((paths.choose(9), paths.next_at()), (None, Some(5 + ASIDE_NS)));
        paths.down(0);
        assert_eq!(paths.next_at(), Some(9 + ASIDE_NS));
        paths.up(0);
        assert_eq!(paths.choose(9), Some(0), "it was connected anew");
    }
}
