//! Links with a delay between this namespace and the far end.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use openwatch_tests::sshd::{find, is_root};

use crate::far::{Far, ip, raise};

/// Why there can be no namespaces here, if so.
pub(crate) fn refusal() -> Option<String> {
    if !is_root() {
        return Some("network namespaces need root".to_owned());
    }
    for (program, package) in [("unshare", "util-linux"), ("ip", "iproute2"), ("python3", "python3")] {
        if find(program).is_none() {
            return Some(format!("no `{program}` here (package {package})"));
        }
    }
    let trial = "unshare --net -- ip tuntap add mode tun name ow-trial";
    match Command::new("/bin/sh").args(["-c", trial]).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("`{trial}` says: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Some(error.to_string()),
    }
}

/// A pair of devices joined by `scripts/delay-link`. Ends with this value.
pub(crate) struct Link {
    child: Child,
    /// Address of the far end.
    pub(crate) address: String,
}

impl Link {
    /// Joins this namespace to the far end; `number` tells links apart.
    pub(crate) fn new(far: &mut Far, number: u8, round_trip: Duration) -> anyhow::Result<Self> {
        let (near_device, far_device) = (format!("ow-near{number}"), format!("ow-far{number}"));
        let one_way = round_trip.as_secs_f64() * 1000.0 / 2.0;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/delay-link");
        let mut child = Command::new("python3")
            .arg(&script)
            .args([&near_device, &far_device, &one_way.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run python3")?;
        let mut ready = String::new();
        BufReader::new(child.stdout.take().context("its output")?).read_line(&mut ready)?;
        let link = Self { child, address: format!("10.77.{number}.2") };
        anyhow::ensure!(ready.trim() == "ready", "{} did not start", script.display());
        ip(&["link", "set", &far_device, "netns", &far.process_id().to_string()])?;
        far.raise(&far_device, &format!("10.77.{number}.2/30"))?;
        raise(&near_device, &format!("10.77.{number}.1/30"))?;
        Ok(link)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
