//! What a rule says about frameworks, brought into one shape: framework id to controls, both sorted, each once.

use openwatch_model::outcome::FrameworkRefs;

use crate::yaml::{Kind, Node, Scalar};

/// Reads `references`. What has no control in it is left out.
pub(crate) fn references(frameworks: &[(Node, Node)]) -> FrameworkRefs {
    let mut refs = FrameworkRefs::new();
    for (key, value) in frameworks {
        let Some(framework) = key.text().filter(|name| !name.is_empty()) else { continue };
        match &value.kind {
            Kind::List(controls) => {
                for control in controls.iter().filter_map(filled_text) {
                    refs.entry(framework.clone()).or_default().push(control);
                }
            }
            Kind::Map(systems) => {
                for (system, value) in systems {
                    let Some(system) = system.text().filter(|name| !name.is_empty()) else { continue };
                    let objects = match &value.kind {
                        Kind::List(objects) => objects.as_slice(),
                        _ => std::slice::from_ref(value),
                    };
                    for control in objects.iter().filter_map(|object| control(&framework, object)) {
                        refs.entry(format!("{framework}_{system}")).or_default().push(control);
                    }
                }
            }
            Kind::Scalar { .. } => {}
        }
    }
    for controls in refs.values_mut() {
        controls.sort();
        controls.dedup();
    }
    refs
}

/// The frameworks that are named without saying anything.
pub(crate) fn empty(frameworks: &[(Node, Node)]) -> Vec<(String, usize)> {
    let blank = |node: &Node| match &node.kind {
        Kind::List(items) => items.is_empty(),
        Kind::Map(entries) => entries.is_empty(),
        Kind::Scalar { .. } => node.text().is_none_or(|text| text.trim().is_empty()),
    };
    let blank = frameworks.iter().filter(|(_, value)| blank(value));
    blank.map(|(key, _)| (key.text().unwrap_or_default(), key.at)).collect()
}

/// Whether a framework id answers to a name: equal, or of the family that a one-word name is. Case and `-` do not
/// matter. A longer name is not a family: `nist_800_171` must not answer for its later revision.
pub(crate) fn answers(id: &str, name: &str) -> bool {
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let (id, name) = (plain(id), plain(name));
    id == name || id.split_once('_').is_some_and(|(family, _)| family == name)
}

fn control(framework: &str, object: &Node) -> Option<String> {
    let Kind::Map(fields) = &object.kind else { return None };
    let field = |name: &str| {
        fields
            .iter()
            .find(|(key, _)| key.text().as_deref() == Some(name))
            .and_then(|(_, value)| filled_text(value))
    };
    match framework {
        "cis" => field("section"),
        "stig" => field("vuln_id"),
        _ => {
            let mut named: Vec<(String, String)> =
                fields.iter().filter_map(|(key, value)| Some((key.text()?, filled_text(value)?))).collect();
            named.sort();
            named.into_iter().next().map(|(_, control)| control)
        }
    }
}

fn filled_text(node: &Node) -> Option<String> {
    match node.scalar() {
        Some(Scalar::Text(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::parse;

    fn count(text: &str) -> usize {
        let Kind::Map(entries) = parse(text).unwrap().unwrap().kind else { panic!("not a map") };
        references(&entries).values().map(Vec::len).sum()
    }

    #[test]
    fn shapes() {
        let cases = [
            ("cis: {rhel8: {section: '1.1'}, rhel9: {section: '1.2'}}", 2),
            ("stig: {rhel9: {vuln_id: V-1, severity: CAT I}}", 1),
            (
                "stig: {rhel9: [{vuln_id: V-1}, {vuln_id: V-2}, {vuln_id: V-1}, {vuln_id: V-3}], rhel8: {vuln_id: V-9}}",
                4,
            ),
            ("nist_800_53: [a, b, c]\npci_dss_4: [d, e]", 5),
            ("nist_800_53: [a, b]\ncis: {rhel9: {section: '1'}}\nstig: {rhel9: {vuln_id: V-1}}", 4),
            ("cis: ~\nstig: {}\nsrg: []\nx: text", 0),
            ("cis: {rhel9: {section: 1.5}}", 0),
            ("cis: {rhel9: text}", 0),
            ("srg: [1, '']", 0),
            ("new_fw: {v2: {title: t, control: c}}", 1),
        ];
        for (text, expected) in cases {
            assert_eq!(count(text), expected, "{text}");
        }
    }

    #[test]
    fn a_family_answers_for_its_members() {
        for (id, name, expected) in [
            ("cis_rhel9", "cis_rhel9", true),
            ("cis_rhel9", "CIS-RHEL9", true),
            ("cis_rhel9", "cis", true),
            ("cis_rhel9", "cis_rhel", false),
            ("nist_800_53", "nist", true),
            ("nist_800_171_r3", "nist_800_171", false),
            ("stig_rhel9", "cis", false),
            ("cis_rhel9", "", false),
        ] {
            assert_eq!(answers(id, name), expected, "{id} {name}");
        }
    }

    #[test]
    fn frameworks_that_say_nothing() {
        let Kind::Map(entries) = parse("a: ~\nb: []\nc: {}\nd: ' '\ne: [x]\n").unwrap().unwrap().kind else {
            panic!("not a map")
        };
        let names: Vec<_> = empty(&entries).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }
}
