//! Who is at the other end of a connection, as its certificate says.

use std::fmt;

use crate::Role;

/// Roles of one certificate; a process may have several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    #[must_use]
    pub const fn has(self, role: Role) -> bool {
        self.0 & bit(role) != 0
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | bit(role)))
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Role::ALL.into_iter().filter(|role| self.has(*role));
        let names: Vec<_> = names.map(Role::as_str).collect();
        if names.is_empty() {
            return f.write_str("no role");
        }
        f.write_str(&names.join(", "))
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// In plaintext everybody is whoever it says.
    Anybody,
    /// Its certificate has these roles.
    Known(Roles),
}

impl Caller {
    /// Returns whether it may act as one of this role.
    #[must_use]
    pub const fn may_be(self, role: Role) -> bool {
        match self {
            Self::Anybody => true,
            Self::Known(roles) => roles.has(role),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anybody => f.write_str("anybody"),
            Self::Known(roles) => roles.fmt(f),
        }
    }
}

const fn bit(role: Role) -> u8 {
    1 << (role as u8)
}
