//! The checks by name, so that one can be asked for without being misspelt.

/// Every check that a report can have, in its order.
pub const NAMES: [&str; 14] = [
    "boot", "link", "lease", "gateway", "mtu", "dns", "udp", "tcp", "latency", "upload",
    "download", "ipv6", "outside", "device",
];

/// A set of checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Names(u16);

impl Names {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// Those of a list, `a,b`. `None` if one is not the name of a check.
    pub fn parse(list: &str) -> Option<Self> {
        list.split(',').try_fold(Self::NONE, |set, name| bit(name).map(|bit| Self(set.0 | bit)))
    }

    /// Adds a check; what is none is left out.
    pub fn add(&mut self, name: &str) {
        self.0 |= bit(name).unwrap_or(0);
    }

    /// Takes a check away.
    pub fn remove(&mut self, name: &str) {
        self.0 &= !bit(name).unwrap_or(0);
    }

    /// Whether a check is among them.
    pub fn has(self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.0 & bit != 0)
    }

    /// These and others.
    #[must_use]
    pub const fn with(self, others: Self) -> Self {
        Self(self.0 | others.0)
    }

    /// These but for others.
    #[must_use]
    pub const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.0)
    }

    /// Their names, in order.
    pub fn iter(self) -> impl Iterator<Item = &'static str> {
        NAMES.into_iter().filter(move |name| self.has(name))
    }
}

fn bit(name: &str) -> Option<u16> {
    NAMES.iter().position(|known| *known == name).map(|at| 1 << at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let set = Names::parse("tcp,boot,device").expect("known");
        assert_eq!(set.iter().collect::<Vec<_>>(), ["boot", "tcp", "device"]);
        assert!(set.has("tcp") && !set.has("udp") && !set.has("tc"));
        let tcp = Names::parse("tcp").expect("known");
        assert_eq!(set.without(tcp).with(tcp), set);
        assert!(!set.without(tcp).has("tcp"));
        for bad in ["", "dsn", "tcp,", "tcp,,udp", "tcp udp", "summary"] {
            assert_eq!(Names::parse(bad), None, "{bad}");
        }
    }
}
