//! `braid shelf test`: whether nodes can share a namespace of a target.

use config::RemoteShelf;

use super::options::ShelfTest;
use super::{Failure, print, show};
use crate::target::council::admission::{Finding, Refusal, examine};

/// Carries out `braid shelf test`.
pub(super) fn run(options: &ShelfTest) -> Result<(), Failure> {
    let target = RemoteShelf {
        name: "target".to_owned(),
        addresses: options.addresses.clone(),
        nqn: options.nqn.clone(),
        host_nqn: options.host_nqn.clone(),
        header_digest: false,
        data_digest: false,
        take_over: false,
    };
    let mut findings = Vec::new();
    let result = examine(
        &target,
        |namespace| namespace.nsid == options.nsid,
        |finding| findings.push(finding),
    );
    let result = result.err();
    if options.json {
        print(&format!("{}\n", json(&findings, result.as_ref())))?;
    } else {
        print(&text(&findings, result.as_ref()))?;
    }
    match result {
        None => Ok(()),
        Some(_) if options.json => Err(Failure::said()),
        Some(refusal) => Err(Failure::new(
            format!(
                "nodes cannot share namespace {}: {}: {}",
                options.nsid, refusal.what, refusal.why
            ),
            refusal.remedy,
        )),
    }
}

fn text(findings: &[Finding], refusal: Option<&Refusal>) -> String {
    let shown = findings
        .iter()
        .map(|finding| (finding.what, finding.found.clone()));
    let refused = refusal.map(|refusal| (refusal.what, format!("REFUSED: {}", refusal.why)));
    let fit = refusal
        .is_none()
        .then(|| ("result", "nodes can share it".to_owned()));
    show::facts(shown.chain(refused).chain(fit))
}

fn json(findings: &[Finding], refusal: Option<&Refusal>) -> serde_json::Value {
    let shown = findings
        .iter()
        .map(|finding| serde_json::json!({"what": finding.what, "found": finding.found}));
    let refused = refusal.map(|it| serde_json::json!({"what": it.what, "why": it.why, "remedy": it.remedy}));
    serde_json::json!({
        "fit": refusal.is_none(),
        "findings": shown.collect::<Vec<_>>(),
        "refusal": refused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_said_with_what_was_found_before() {
        let found = Finding {
            what: "capabilities",
            found: "shared".to_owned(),
        };
        let refusal = Refusal {
            what: "fence",
            why: "a write landed".to_owned(),
            remedy: "Use another",
        };
        let said = text(std::slice::from_ref(&found), Some(&refusal));
        assert!(
            said.contains("capabilities  shared") && said.contains("fence         REFUSED: a write landed")
        );
        assert!(!said.contains("result"));
        assert!(text(std::slice::from_ref(&found), None).contains("nodes can share it"));
        let said = json(&[found], Some(&refusal));
        assert_eq!(
            (&said["fit"], &said["refusal"]["what"]),
            (&false.into(), &"fence".into())
        );
    }
}
