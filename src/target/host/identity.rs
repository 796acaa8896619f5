//! Who this machine is as a host, when the user does not say.

use nvme::nqn::Nqn;
use uuid::Uuid;

/// Where Linux keeps a number that stays with the installation.
///
/// Source: machine-id(5).
const MACHINE_ID: &str = "/etc/machine-id";

/// A host's name and identifier. They belong together: a target may refuse two names with one identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Host NQN.
    pub nqn: Nqn,
    /// Host identifier.
    pub id: [u8; 16],
}

impl Identity {
    /// Made from this machine's id; without one, the same for all machines.
    pub fn of_this_machine() -> Self {
        let machine = std::fs::read_to_string(MACHINE_ID).unwrap_or_default();
        // Hashed, because the machine's id itself is not to be shown on a network.
        let uuid = Uuid::new_v5(
            &Uuid::NAMESPACE_OID,
            format!("braid host {}", machine.trim()).as_bytes(),
        );
        let nqn = format!("nqn.2014-08.org.nvmexpress:uuid:{uuid}");
        Self {
            nqn: Nqn::parse(&nqn).expect("a UUID makes a valid NQN"),
            id: *uuid.as_bytes(),
        }
    }

    /// With this name.
    pub fn named(nqn: Nqn) -> Self {
        let id = *Uuid::new_v5(&Uuid::NAMESPACE_OID, nqn.as_str().as_bytes()).as_bytes();
        Self { nqn, id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_stays_who_it_is() {
        let identity = Identity::of_this_machine();
        assert_eq!(identity, Identity::of_this_machine());
        assert!(
            identity
                .nqn
                .as_str()
                .starts_with("nqn.2014-08.org.nvmexpress:uuid:")
        );
        assert_ne!(identity.id, [0; 16]);
    }

    #[test]
    fn names_have_identifiers_of_their_own() {
        let named = |name: &str| Identity::named(Nqn::parse(name).unwrap());
        assert_eq!(named("nqn.2026-01.io.braid:a"), named("nqn.2026-01.io.braid:a"));
        assert_ne!(
            named("nqn.2026-01.io.braid:a").id,
            named("nqn.2026-01.io.braid:b").id
        );
    }
}
