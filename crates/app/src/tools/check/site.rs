//! A site's own values for variables, from the configuration directory of a Kensa installation: whoever measures with its
//! rules means its values too. Tier by tier, each over the one before:
//!
//! `defaults.yml`, `conf.d/*.yml` by name, `groups/GROUP.yml` as the groups were given, `hosts/HOST.yml`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use openwatch_rules::{CorpusFile, site_values};

use crate::cli::CheckArgs;
use crate::client::table;
use crate::exit::Failure;

/// The values for a host, addressed as its file there is named.
///
/// # Errors
/// 64 for a directory or a group's file that was named and is not there, and for every value that cannot be used.
pub(super) fn values(args: &CheckArgs, host: &str) -> Result<BTreeMap<String, String>, Failure> {
    let Some(dir) = directory(args)? else {
        return match args.groups.first() {
            None => Ok(BTreeMap::new()),
            Some(group) => Err(Failure::usage(format!(
                "no configuration directory holds values for the group `{group}`; name it with --config"
            ))),
        };
    };
    let (values, read) = merged(&dir, &tiers(&dir, &args.groups, host)?)?;
    if !read.is_empty() {
        table::tell(&format!("openwatch: variables from {}: {}", dir.display(), read.join(", ")));
    }
    Ok(values)
}

/// The directory that was named, else the first there is where Kensa looks for its own.
fn directory(args: &CheckArgs) -> Result<Option<PathBuf>, Failure> {
    match &args.config {
        Some(dir) if dir.is_dir() => Ok(Some(dir.clone())),
        Some(dir) => Err(Failure::usage(format!("there is no directory {} (--config)", dir.display()))),
        None => Ok(usual(|name| std::env::var_os(name)).into_iter().find(|dir| dir.is_dir())),
    }
}

/// Where Kensa looks, in its order. A variable that is set to nothing is not set.
fn usual(env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name| env(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    [
        set("KENSA_CONFIG_DIR"),
        set("XDG_CONFIG_HOME").map(|dir| dir.join("kensa")),
        set("HOME").map(|dir| dir.join(".config/kensa")),
        Some("/etc/kensa".into()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Files that may hold values, lowest tier first.
fn tiers(dir: &Path, groups: &[String], host: &str) -> Result<Vec<String>, Failure> {
    let mut names = vec!["defaults.yml".to_owned()];
    names.extend(fragments(&dir.join("conf.d"))?);
    for group in groups {
        let name = format!("groups/{group}.yml");
        if group.contains('/') || !dir.join(&name).is_file() {
            let text = format!("there is no file {} for the group `{group}`", dir.join(name).display());
            return Err(Failure::usage(text));
        }
        names.push(name);
    }
    names.push(format!("hosts/{host}.yml"));
    Ok(names)
}

fn fragments(dir: &Path) -> Result<Vec<String>, Failure> {
    let cannot = |error: std::io::Error| Failure::usage(format!("cannot list {}: {error}", dir.display()));
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(cannot)?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(cannot)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(".yml") && entry.path().is_file() {
            names.push(format!("conf.d/{name}"));
        }
    }
    names.sort();
    Ok(names)
}

/// What the files say together, and which of them are there. All that is wrong with them is told at once.
fn merged(dir: &Path, names: &[String]) -> Result<(BTreeMap<String, String>, Vec<String>), Failure> {
    let (mut values, mut read, mut wrong) = (BTreeMap::new(), Vec::new(), Vec::new());
    for name in names {
        let path = dir.join(name);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => {
                wrong.push(format!("cannot read {}: {error}", path.display()));
                continue;
            }
            Ok(text) => text,
        };
        match site_values(&CorpusFile { path: path.display().to_string(), text }) {
            Ok(found) => values.extend(found),
            Err(problems) => wrong.extend(problems.iter().map(ToString::to_string)),
        }
        read.push(name.clone());
    }
    if wrong.is_empty() { Ok((values, read)) } else { Err(Failure::usage(wrong.join("\n  "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn read(dir: &Path, groups: &[&str], host: &str) -> Result<BTreeMap<String, String>, String> {
        let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
        let told = |failure: Failure| failure.error.to_string();
        merged(dir, &tiers(dir, &groups, host).map_err(told)?).map(|(values, _)| values).map_err(told)
    }

    /// One variable a tier and the next one, each with the name of the tier that should win.
    #[test]
    fn each_tier_is_over_the_one_before() {
        let says = |own: &str, names: &[&str]| {
            let lines: Vec<String> = names.iter().map(|name| format!("  {name}: {own}\n")).collect();
            format!("variables:\n{}other: ignored\n", lines.concat())
        };
        let all = ["defaults", "first", "second", "group_a", "group_b", "host"];
        let texts: Vec<(&str, String)> = [
            "defaults.yml",
            "conf.d/10-a.yml",
            "conf.d/20-b.yml",
            "groups/a.yml",
            "groups/b.yml",
            "hosts/10.0.0.1.yml",
        ]
        .iter()
        .zip(all)
        .enumerate()
        .map(|(tier, (path, own))| (*path, says(own, &all[tier..])))
        .collect();
        let mut files: Vec<(&str, &str)> = texts.iter().map(|(path, text)| (*path, text.as_str())).collect();
        let odd = "variables: {host: not_read}\n";
        files.extend([("conf.d/30-c.yaml", odd), ("conf.d/sub/40-d.yml", odd), ("hosts/10.0.0.2.yml", odd)]);
        let dir = dir(&files);
        let values = read(dir.path(), &["a", "b"], "10.0.0.1").unwrap();
        for name in all {
            assert_eq!(values[name], name);
        }
        // In the order they are given.
        assert_eq!(read(dir.path(), &["b", "a"], "10.0.0.1").unwrap()["group_b"], "group_a");
        let values = read(dir.path(), &[], "elsewhere").unwrap();
        assert_eq!((values["second"].as_str(), values["host"].as_str()), ("second", "second"));
    }

    #[test]
    fn nothing_there_is_nothing_said() {
        assert_eq!(read(dir(&[]).path(), &[], "h"), Ok(BTreeMap::new()));
        assert_eq!(read(dir(&[("defaults.yml", "")]).path(), &[], "h"), Ok(BTreeMap::new()));
    }

    #[test]
    fn everything_wrong_is_told_with_its_place() {
        let dir = dir(&[
            ("defaults.yml", "variables:\n  root_umask: 027\n"),
            ("conf.d/a.yml", "variables: [\n"),
            ("hosts/h.yml", "variables:\n  pam_faillock_deny: \"4\"\n"),
        ]);
        let told = read(dir.path(), &[], "h").unwrap_err();
        for part in ["defaults.yml:2:", "root_umask", "a.yml:", "h.yml:2:", "without quotes"] {
            assert!(told.contains(part), "{part}: {told}");
        }
        for group in ["gone", "../hosts/h"] {
            assert!(read(dir.path(), &[group], "x").unwrap_err().contains(group));
        }
    }

    #[test]
    fn the_usual_places_are_those_of_kensa() {
        let env = |pairs: &'static [(&str, &str)]| {
            usual(move |name| pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).into()))
        };
        let all = env(&[("KENSA_CONFIG_DIR", "/k"), ("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]);
        assert_eq!(all, ["/k", "/x/kensa", "/h/.config/kensa", "/etc/kensa"].map(PathBuf::from));
        assert_eq!(env(&[("KENSA_CONFIG_DIR", ""), ("HOME", "")]), [PathBuf::from("/etc/kensa")]);
    }
}
