//! Pages of tags and repositories.

use std::collections::HashMap;

use serde::Serialize;

use crate::error::Error;

/// Most names on one page. Clients follow the `Link` to the next one.
pub const MAX_PAGE_NAMES: usize = 1000;

/// Which names are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Most names, from 1 to [`MAX_PAGE_NAMES`].
    pub limit: usize,
    /// Only names after this one.
    pub last: Option<String>,
}

/// Names of one page, in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing<T> {
    pub names: Vec<T>,
    /// `last` of the next page; `None` at the end.
    pub next: Option<String>,
}

impl Page {
    /// Reads the parameters `n` and `last`; `None` where no names at all are asked for.
    pub(crate) fn from_query(query: &HashMap<String, String>) -> Result<Option<Self>, Error> {
        let limit = match query.get("n") {
            // No page holds more, so neither does a number too large for 64 bits.
            Some(n) if !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()) => {
                n.parse().unwrap_or(usize::MAX).min(MAX_PAGE_NAMES)
            }
            Some(n) => return Err(Error::Page(n.chars().take(40).collect())),
            None => MAX_PAGE_NAMES,
        };
        let last = query.get("last").filter(|last| !last.is_empty()).cloned();
        if last
            .as_ref()
            .is_some_and(|last| last.len() > oci::reference::MAX_NAME_BYTES)
        {
            return Err(Error::Page("last".to_owned()));
        }
        Ok((limit > 0).then_some(Self { limit, last }))
    }
}

/// Body of `tags/list`.
#[derive(Debug, Serialize)]
pub(crate) struct TagList<'a> {
    pub(crate) name: &'a str,
    pub(crate) tags: Vec<&'a str>,
}

/// Body of `_catalog`.
#[derive(Debug, Serialize)]
pub(crate) struct Catalog<'a> {
    pub(crate) repositories: Vec<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_bounds() {
        let page = |pairs: &[(&str, &str)]| {
            let owned = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
            Page::from_query(&pairs.iter().map(owned).collect())
        };
        let is = |limit, last: Option<&str>| {
            let last = last.map(str::to_owned);
            Some(Page { limit, last })
        };
        assert_eq!(page(&[]).unwrap(), is(1000, None));
        assert_eq!(
            page(&[("n", "2"), ("last", "a")]).unwrap(),
            is(2, Some("a"))
        );
        assert_eq!(
            page(&[("n", "99999999999999999999999")]).unwrap(),
            is(1000, None)
        );
        assert_eq!(page(&[("n", "0")]).unwrap(), None);
        for n in ["-1", "x", "", "+1"] {
            assert!(matches!(page(&[("n", n)]), Err(Error::Page(_))), "{n}");
        }
        assert!(page(&[("last", &"x".repeat(256))]).is_err());
    }
}
