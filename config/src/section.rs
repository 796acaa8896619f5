//! Reads one table of the file key by key, and knows at the end which keys nobody asked for.

use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::problem::{Problems, nearest, quoted};

/// What a key had.
#[derive(Clone, Debug)]
pub(crate) enum Found<T> {
    /// The file does not have the key.
    Absent,
    /// The file has it with a value that does not do, which was reported.
    Wrong,
    /// The value, and where it stands.
    Value(T, Range<usize>),
}

impl<T> Found<T> {
    /// The value, or `default` if there is no usable one (what was wrong is reported already).
    pub(crate) fn or(self, default: T) -> T {
        self.some().unwrap_or(default)
    }

    pub(crate) fn some(self) -> Option<T> {
        match self {
            Self::Value(value, _) => Some(value),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub(crate) fn place(&self) -> Option<Range<usize>> {
        match self {
            Self::Value(_, at) => Some(at.clone()),
            Self::Absent | Self::Wrong => None,
        }
    }

    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Found<U> {
        match self {
            Self::Absent => Found::Absent,
            Self::Wrong => Found::Wrong,
            Self::Value(value, at) => Found::Value(change(value), at),
        }
    }
}

/// One table of the file. Each key is asked for once; [`Section::finish`] reports the others.
pub(crate) struct Section<'a, 'i> {
    /// How messages call it: `[node]`, `[[drive]] "d0"`.
    title: String,
    table: Option<&'a DeTable<'i>>,
    at: Range<usize>,
    known: Vec<&'static str>,
}

impl<'a, 'i> Section<'a, 'i> {
    pub(crate) fn new(title: impl Into<String>, table: &'a DeTable<'i>, at: Range<usize>) -> Self {
        Self {
            title: title.into(),
            table: Some(table),
            at,
            known: Vec::new(),
        }
    }

    /// A section that the file does not have: every key is absent.
    pub(crate) fn absent(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            table: None,
            at: 0..0,
            known: Vec::new(),
        }
    }

    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// Where the section starts.
    pub(crate) fn at(&self) -> &Range<usize> {
        &self.at
    }

    /// Once its name is known, messages use it.
    pub(crate) fn set_title(&mut self, title: String) {
        self.title = title;
    }

    pub(crate) fn value(&mut self, key: &'static str) -> Option<&'a Spanned<DeValue<'i>>> {
        debug_assert!(!self.known.contains(&key), "each key is asked for once");
        self.known.push(key);
        self.table?.get(key)
    }

    /// Looks at a value before it is asked for by type.
    pub(crate) fn peek(&self, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.table?.get(key)
    }

    /// Reports that a key without default is missing.
    pub(crate) fn missing(&self, key: &str, example: &str, problems: &mut Problems<'_>) {
        problems.push(
            &self.at,
            format!("{} has no {key}", self.title),
            format!("add a line such as {example}"),
        );
    }

    pub(crate) fn text(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Found<&'a str> {
        let Some(value) = self.value(key) else {
            return Found::Absent;
        };
        match value.get_ref().as_str() {
            Some(text) => Found::Value(text, value.span()),
            None => self.wrong_type(key, value, "text in quotes", problems),
        }
    }

    pub(crate) fn flag(&mut self, key: &'static str, problems: &mut Problems<'_>) -> Found<bool> {
        let Some(value) = self.value(key) else {
            return Found::Absent;
        };
        match value.get_ref().as_bool() {
            Some(flag) => Found::Value(flag, value.span()),
            None => self.wrong_type(key, value, "true or false", problems),
        }
    }

    /// A whole number in a range.
    pub(crate) fn number<N>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<N>,
        problems: &mut Problems<'_>,
    ) -> Found<N>
    where
        N: TryFrom<u64> + PartialOrd + std::fmt::Display,
    {
        let Some(value) = self.value(key) else {
            return Found::Absent;
        };
        let what = format!("a whole number in {}..={}", range.start(), range.end());
        let Some(number) = whole(value.get_ref()) else {
            return self.wrong_type(key, value, &what, problems);
        };
        match number
            .ok()
            .and_then(|number| N::try_from(number).ok())
            .filter(|number| range.contains(number))
        {
            Some(number) => Found::Value(number, value.span()),
            None => {
                let found = value
                    .get_ref()
                    .as_integer()
                    .map_or("", |integer| integer.as_str());
                let what_is = format!("{}: {key} = {} is out of range", self.title, cut(found));
                problems.push(&value.span(), what_is, format!("write {what}"));
                Found::Wrong
            }
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&'static str, T)],
        problems: &mut Problems<'_>,
    ) -> Found<T> {
        let (text, at) = match self.text(key, problems) {
            Found::Value(text, at) => (text, at),
            Found::Absent => return Found::Absent,
            Found::Wrong => return Found::Wrong,
        };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
            return Found::Value(*choice, at);
        }
        let words = || choices.iter().map(|(word, _)| *word);
        let list = words()
            .map(|word| format!("{word:?}"))
            .collect::<Vec<_>>()
            .join(", ");
        let remedy = match nearest(text, words()) {
            Some(word) => format!("did you mean {word:?}? It may be {list}"),
            None => format!("it may be {list}"),
        };
        problems.push(
            &at,
            format!("{}: {key} = {} is not known", self.title, quoted(text)),
            remedy,
        );
        Found::Wrong
    }

    /// A list of texts, each with its place. `count_max` bounds what is taken from the file.
    pub(crate) fn texts(
        &mut self,
        key: &'static str,
        count_max: usize,
        problems: &mut Problems<'_>,
    ) -> Found<Vec<(&'a str, Range<usize>)>> {
        let Some(value) = self.value(key) else {
            return Found::Absent;
        };
        let Some(list) = value.get_ref().as_array() else {
            return self.wrong_type(key, value, "a list of texts, such as [\"a\", \"b\"]", problems);
        };
        if list.len() > count_max {
            let what = format!("{}: {key} has {} entries", self.title, list.len());
            problems.push(&value.span(), what, format!("keep at most {count_max}"));
            return Found::Wrong;
        }
        let mut texts = Vec::with_capacity(list.len());
        for entry in list.iter() {
            match entry.get_ref().as_str() {
                Some(text) => texts.push((text, entry.span())),
                None => return self.wrong_type(key, entry, "text in quotes", problems),
            }
        }
        Found::Value(texts, value.span())
    }

    /// A list of whole numbers in a range, at most `count_max` of them.
    pub(crate) fn numbers(
        &mut self,
        key: &'static str,
        number_max: usize,
        count_max: usize,
        problems: &mut Problems<'_>,
    ) -> Found<Vec<usize>> {
        let Some(value) = self.value(key) else {
            return Found::Absent;
        };
        let what = format!("a list of 1 to {count_max} whole numbers in 0..={number_max}");
        let Some(list) = value.get_ref().as_array() else {
            return self.wrong_type(key, value, &what, problems);
        };
        let numbers: Option<Vec<usize>> = list
            .iter()
            .map(|entry| {
                usize::try_from(whole(entry.get_ref())?.ok()?)
                    .ok()
                    .filter(|n| *n <= number_max)
            })
            .collect();
        match numbers.filter(|numbers| (1..=count_max).contains(&numbers.len())) {
            Some(numbers) => Found::Value(numbers, value.span()),
            None => {
                problems.push(
                    &value.span(),
                    format!("{}: {key} is not {what}", self.title),
                    "write for example [0, 1]",
                );
                Found::Wrong
            }
        }
    }

    /// Reports a value of the wrong type.
    pub(crate) fn wrong_type<T>(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        wanted: &str,
        problems: &mut Problems<'_>,
    ) -> Found<T> {
        let what = format!("{}: {key} is {}", self.title, type_name(value.get_ref()));
        problems.push(&value.span(), what, format!("write {wanted}"));
        Found::Wrong
    }

    /// Reports the keys that nobody asked for.
    pub(crate) fn finish(self, problems: &mut Problems<'_>) {
        let Some(table) = self.table else { return };
        for key in table.keys() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let known = if problems.is_full() {
                None
            } else {
                nearest(name, self.known.iter().copied())
            };
            let remedy = match known {
                Some(known) => format!("did you mean {known}?"),
                None => format!("remove it; the keys here are {}", self.known.join(", ")),
            };
            problems.push(
                &key.span(),
                format!("{} has no key {}", self.title, quoted(name)),
                remedy,
            );
        }
    }
}

/// The integer as unsigned: `None` if it is no integer, `Some(Err)` if negative or beyond 64 bits.
fn whole(value: &DeValue<'_>) -> Option<Result<u64, std::num::ParseIntError>> {
    let integer = value.as_integer()?;
    Some(u64::from_str_radix(integer.as_str(), integer.radix()))
}

fn cut(text: &str) -> &str {
    text.get(..40).unwrap_or(text)
}

/// The type of a value as a message says it.
pub(crate) fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
