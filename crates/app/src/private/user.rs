//! Who the servers run as: us, or somebody harmless when we are root.

use super::child::User;
use super::error::PrivateError;

/// `None` for an ordinary user. As root, `postgres` or `nobody`: PostgreSQL refuses to be root, and NATS has no need.
pub(super) fn unprivileged() -> Result<Option<User>, PrivateError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = std::fs::read_to_string("/etc/passwd").map_err(PrivateError::io("read", "/etc/passwd"))?;
    let found = ["postgres", "nobody"].into_iter().find_map(|name| lookup(&users, name));
    found.map(Some).ok_or(PrivateError::NoUser)
}

fn lookup(users: &str, name: &str) -> Option<User> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next()? != name {
            return None;
        }
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        (uid != 0).then(|| User { name: name.to_owned(), uid, gid })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name_and_root_is_nobody() {
        let users = "root:x:0:0::/root:/bin/sh\nbroken\npostgres2:x:7:7::/:/x\npostgres:x:101:104:,,,:/v:/bin/sh\nodd:x:0:0:::\n";
        let expected = User { name: "postgres".to_owned(), uid: 101, gid: 104 };
        assert_eq!(lookup(users, "postgres"), Some(expected));
        for name in ["nobody", "odd", "broken"] {
            assert_eq!(lookup(users, name), None, "{name}");
        }
    }
}
