//! Which platforms a rule is for, and what a host says it is.

use openwatch_model::host::Platform;

use crate::rule::PlatformSpec;

/// Rebuilds of Red Hat Enterprise Linux, by os-release id.
const EL: [&str; 8] = ["rhel", "redhat", "centos", "rocky", "almalinux", "alma", "ol", "oracle"];

/// Reads `/etc/os-release`. Anything it does not say stays empty.
pub(crate) fn os_release(text: &str) -> Platform {
    let mut platform = Platform::default();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once('=').filter(|(key, _)| !key.is_empty()) else { continue };
        let value = unquoted(value.trim());
        match key.trim() {
            "ID" => platform.family = value.to_lowercase(),
            "VERSION_ID" => platform.version = value.to_owned(),
            "PRETTY_NAME" => platform.name = value.to_owned(),
            _ => {}
        }
    }
    platform
}

fn unquoted(value: &str) -> &str {
    let inside = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inside('"').or_else(|| inside('\'')).unwrap_or(value)
}

/// Whether a rule for these platforms is for this host. A host of unknown family is never told off.
pub(crate) fn applies(specs: &[PlatformSpec], host: &Platform) -> bool {
    specs.is_empty() || host.family.is_empty() || specs.iter().any(|spec| matches(spec, host))
}

fn matches(spec: &PlatformSpec, host: &Platform) -> bool {
    let (want, have) = (spec.family.to_lowercase(), host.family.to_lowercase());
    let red_hat = |family: &str| family == "rhel" || family == "redhat";
    let el = |family: &str| EL.contains(&family);
    let family =
        want == have || (red_hat(&want) && red_hat(&have)) || (spec.derivatives && el(&want) && el(&have));
    let major = major(&host.version);
    family
        && (major == 0
            || ((spec.min_version == 0 || spec.min_version <= major)
                && (spec.max_version == 0 || major <= spec.max_version)))
}

/// The leading number of a version; 0 when there is none.
fn major(version: &str) -> i64 {
    let digits = version.bytes().take_while(u8::is_ascii_digit).count();
    version[..digits].parse().unwrap_or(0)
}

/// What to call a host in a sentence: `Ubuntu 22.04`.
pub(crate) fn label(host: &Platform) -> String {
    let name = match host.family.as_str() {
        "rhel" => "RHEL",
        "centos" => "CentOS",
        "fedora" => "Fedora",
        "rocky" => "Rocky",
        "almalinux" => "AlmaLinux",
        "ol" | "oracle" => "Oracle Linux",
        "ubuntu" => "Ubuntu",
        "debian" => "Debian",
        "alpine" => "Alpine",
        "amzn" => "Amazon Linux",
        "sles" | "opensuse-leap" | "opensuse-tumbleweed" => "SUSE",
        "arch" => "Arch",
        other => &other.to_uppercase(),
    };
    format!("{name} {}", host.version).trim_end().to_owned()
}

/// What to call a rule's platforms in a sentence: `rhel 8-9, ubuntu >=22`.
pub(crate) fn targets(specs: &[PlatformSpec]) -> String {
    let one = |spec: &PlatformSpec| match (spec.min_version, spec.max_version) {
        (0, 0) => spec.family.clone(),
        (min, 0) => format!("{} >={min}", spec.family),
        (0, max) => format!("{} <={max}", spec.family),
        (min, max) => format!("{} {min}-{max}", spec.family),
    };
    specs.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(family: &str, version: &str) -> Platform {
        Platform { family: family.into(), version: version.into(), name: String::new() }
    }

    fn spec(family: &str, min_version: i64, max_version: i64, derivatives: bool) -> PlatformSpec {
        PlatformSpec { family: family.into(), min_version, max_version, derivatives }
    }

    #[test]
    fn pinned_platforms() {
        let cases = [
            (spec("rhel", 9, 0, true), host("", ""), true),
            (spec("rhel", 9, 0, true), host("rhel", "8.10"), false),
            (spec("rhel", 9, 0, true), host("rhel", "9.6"), true),
            (spec("rhel", 0, 8, true), host("rhel", "9.6"), false),
            (spec("rhel", 0, 8, true), host("rhel", "8.10"), true),
            (spec("rhel", 8, 9, true), host("rhel", "9.6"), true),
            (spec("rhel", 8, 0, true), host("ubuntu", "22.04"), false),
            (spec("redhat", 8, 0, false), host("rhel", "9.6"), true),
            (spec("rhel", 8, 0, true), host("rocky", "9.3"), true),
            (spec("rhel", 8, 0, false), host("rocky", "9.3"), false),
            (spec("rhel", 9, 0, true), host("rhel", ""), true),
            (spec("rhel", 9, 0, true), host("rhel", "rolling"), true),
            (spec("rocky", 9, 0, true), host("rhel", "9.1"), true),
            (spec("RHEL", 9, 0, true), host("rhel", "9.1"), true),
            (spec("rhel", 8, 0, true), host("fedora", "40"), false),
            (spec("rhel", 8, 0, true), host("amzn", "2023"), false),
            (spec("ubuntu", 22, 0, true), host("debian", "12"), false),
        ];
        for (spec, host, expected) in cases {
            assert_eq!(applies(std::slice::from_ref(&spec), &host), expected, "{spec:?} {host:?}");
        }
        assert!(applies(&[], &host("debian", "12")));
        assert!(applies(&[spec("rhel", 8, 0, true), spec("debian", 0, 0, true)], &host("debian", "12")));
    }

    #[test]
    fn os_release_lines() {
        let read = |text: &str| {
            let platform = os_release(text);
            (platform.family, platform.version, platform.name)
        };
        let of = |f: &str, v: &str, n: &str| (f.to_owned(), v.to_owned(), n.to_owned());
        assert_eq!(
            read("ID=\"rhel\"\nVERSION_ID=\"9.4\"\nPRETTY_NAME=\"Red Hat 9.4\"\n"),
            of("rhel", "9.4", "Red Hat 9.4")
        );
        assert_eq!(
            read("# c\n\n ID = Ubuntu \nVERSION_ID='22.04'\nnonsense\n=x\n"),
            of("ubuntu", "22.04", "")
        );
        assert_eq!(read("ID=a\nID=b # c\nVERSION_ID=\"x'\n"), of("b # c", "\"x'", ""));
        assert_eq!(read(""), of("", "", ""));
    }

    #[test]
    fn words_for_people() {
        assert_eq!(label(&host("rhel", "8.10")), "RHEL 8.10");
        assert_eq!(label(&host("void", "")), "VOID");
        let specs = [
            spec("rhel", 9, 0, true),
            spec("rhel", 8, 9, true),
            spec("rhel", 0, 8, true),
            spec("ubuntu", 0, 0, true),
        ];
        assert_eq!(targets(&specs), "rhel >=9, rhel 8-9, rhel <=8, ubuntu");
    }
}
