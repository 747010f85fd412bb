//! Where things are on this machine: the data directory and what a client finds in it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Default data directory: `/var/lib/openwatch` for root, else under the user's data home.
pub fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/openwatch");
    }
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share"));
    let base = std::env::var_os("XDG_DATA_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(|| PathBuf::from(".")).join("openwatch")
}

/// What `openwatch up` leaves for clients of its data directory. Holds no secret, only where one is.
#[derive(Debug, Serialize, Deserialize)]
pub struct ClientFile {
    /// API address.
    pub url: String,
    /// File with an API token.
    pub token_file: PathBuf,
    /// NATS address.
    pub nats_url: String,
    /// NKEY seed file of the read-only user.
    pub reader_seed_file: PathBuf,
}

impl ClientFile {
    const NAME: &'static str = "client.json";

    /// Reads it from a data directory.
    ///
    /// # Errors
    /// A sentence saying which file is missing or broken.
    pub fn read(dir: &Path) -> Result<Self, String> {
        let path = dir.join(Self::NAME);
        let text = std::fs::read_to_string(&path)
            .map_err(|_| format!("no running OpenWatch is known in {}", dir.display()))?;
        serde_json::from_str(&text).map_err(|e| format!("{} cannot be read: {e}", path.display()))
    }

    /// Removes it; what is not there is removed already.
    pub fn remove(dir: &Path) {
        let _ = std::fs::remove_file(dir.join(Self::NAME));
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write(&self, dir: &Path) -> std::io::Result<()> {
        let temporary = dir.join(format!(".{}.new", Self::NAME));
        std::fs::write(&temporary, serde_json::to_vec_pretty(self).map_err(std::io::Error::other)?)?;
        std::fs::rename(temporary, dir.join(Self::NAME))
    }
}

/// Percent-encodes one query or path part.
pub fn url_encode(text: &str) -> String {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.~".contains(b);
    text.bytes().map(|b| if plain(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn query_parts_are_encoded() {
        assert_eq!(super::url_encode("2026-01-15T00:00:00+02:00"), "2026-01-15T00%3A00%3A00%2B02%3A00");
        assert_eq!(super::url_encode("web-1.example_x~"), "web-1.example_x~");
    }
}
