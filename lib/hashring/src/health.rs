//! Which members can be asked, learnt from the calls that are made anyway.

/// When a member counts as down, and up again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Failures in a row that make a member count as down; at least 1 is meant.
    pub failures_to_down: u32,
    /// Microseconds after which a member that is down is tried again.
    pub pause_micros: u64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            failures_to_down: 3,
            pause_micros: 5_000_000,
        }
    }
}

/// The health of the members of a ring, by their index in it.
///
/// A member is up until it failed some times in a row. Then it is down for a pause; after that it
/// is tried again, and one more failure makes it down for another pause. Any success makes it up.
#[derive(Clone, Debug)]
pub struct Health {
    policy: Policy,
    members: Vec<Member>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Member {
    failures_in_a_row: u32,
    /// Microseconds; the member is down before that.
    down_until: u64,
}

impl Health {
    #[must_use]
    pub fn new(members: usize, policy: Policy) -> Self {
        Self {
            policy,
            members: vec![Member::default(); members],
        }
    }

    /// Notes that a member answered.
    pub fn passed(&mut self, member: usize) {
        if let Some(member) = self.members.get_mut(member) {
            *member = Member::default();
        }
    }

    /// Notes that a member did not answer.
    pub fn failed(&mut self, member: usize, now_micros: u64) {
        let policy = self.policy;
        if let Some(member) = self.members.get_mut(member) {
            member.failures_in_a_row = member.failures_in_a_row.saturating_add(1);
            if member.failures_in_a_row >= policy.failures_to_down {
                member.down_until = now_micros.saturating_add(policy.pause_micros);
            }
        }
    }

    /// Returns whether a member shall be asked. One that is not a member is not.
    #[must_use]
    pub fn is_up(&self, member: usize, now_micros: u64) -> bool {
        self.members
            .get(member)
            .is_some_and(|member| member.down_until <= now_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays calls of member 0: `+` it answers, `-` it fails, each a second after the other.
    /// Returns after each whether it is up.
    fn play(calls: &str) -> String {
        let policy = Policy {
            failures_to_down: 3,
            pause_micros: 2_500_000,
        };
        let mut health = Health::new(2, policy);
        let mut seen = String::new();
        for (second, call) in (0..).zip(calls.chars()) {
            let now = second * 1_000_000;
            match call {
                '+' => health.passed(0),
                '-' => health.failed(0, now),
                _ => {}
            }
            seen.push(if health.is_up(0, now) { 'u' } else { 'd' });
            assert!(
                health.is_up(1, now),
                "the other one has nothing to do with it"
            );
        }
        seen
    }

    #[test]
    fn members_go_down_and_come_back() {
        for (calls, expected) in [
            ("++++", "uuuu"),
            ("--+--+", "uuuuuu"),
            ("---   ", "uudddu"),
            ("--- + ", "uudduu"),
            // Tried again after the pause, and still not there: one failure is enough.
            ("---  -   ", "uuddddddu"),
            ("---  +--", "uuddduuu"),
        ] {
            assert_eq!(play(calls), expected, "{calls:?}");
        }
    }

    #[test]
    fn who_is_not_a_member_is_not_up() {
        let mut health = Health::new(0, Policy::default());
        health.failed(3, 0);
        health.passed(3);
        assert!(!health.is_up(3, u64::MAX));
    }
}
