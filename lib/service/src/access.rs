//! Who may ask what of a service, as a table.

use http::Method;

use crate::Role;
use crate::tls::Caller;

/// Who may ask for what of a service. In plaintext everybody may ask for everything.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The first row whose path is that of a request, or stands above it, decides.
    pub rows: &'static [Row],
    /// Who may ask for what no row is about.
    pub others: &'static [Role],
}

/// Who may read and who may write below a path.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub path: &'static str,
    /// GET and HEAD.
    pub reads: &'static [Role],
    /// All other methods.
    pub writes: &'static [Role],
}

impl Access {
    /// Returns whether a caller may send such a request.
    #[must_use]
    pub fn allows(&self, caller: Caller, method: &Method, path: &str) -> bool {
        let row = self.rows.iter().find(|row| row.has(path));
        let roles = match row {
            Some(row) if method == Method::GET || method == Method::HEAD => row.reads,
            Some(row) => row.writes,
            None => self.others,
        };
        roles.iter().any(|role| caller.may_be(*role))
    }
}

impl Row {
    fn has(&self, path: &str) -> bool {
        let rest = path.strip_prefix(self.path);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Access = Access {
        rows: &[
            Row {
                path: "/v1/a/b",
                reads: &[Role::Proxy],
                writes: &[],
            },
            Row {
                path: "/v1/a",
                reads: &[Role::Agent, Role::Proxy],
                writes: &[Role::Proxy],
            },
        ],
        others: &[Role::Origin],
    };

    #[test]
    fn the_first_row_decides() {
        let of = |role| Caller::Known([role].into_iter().collect());
        for (role, method, path, allowed) in [
            (Role::Agent, Method::GET, "/v1/a", true),
            (Role::Agent, Method::HEAD, "/v1/a/x", true),
            (Role::Agent, Method::PUT, "/v1/a/x", false),
            (Role::Proxy, Method::PUT, "/v1/a/x", true),
            (Role::Agent, Method::GET, "/v1/a/b/c", false),
            (Role::Proxy, Method::DELETE, "/v1/a/b", false),
            (Role::Agent, Method::GET, "/v1/ab", false),
            (Role::Origin, Method::GET, "/v1/ab", true),
            (Role::Origin, Method::GET, "/v1/a", false),
        ] {
            assert_eq!(
                TABLE.allows(of(role), &method, path),
                allowed,
                "{role} {method} {path}"
            );
            assert!(TABLE.allows(Caller::Anybody, &method, "/v1/a"));
        }
        let nobody = Caller::Known(std::iter::empty().collect());
        assert!(!TABLE.allows(nobody, &Method::GET, "/v1/a"));
    }
}
