//! The whole program, driven as a person and a fleet would drive it, and what a hard machine does to it.

mod as_of;
mod bad_input;
mod chaos;
pub(crate) mod fleet;
pub(crate) mod ground;
mod hand_over;
mod interrupt;
mod kill;
mod lists;
mod outage;
mod outsider;
pub(crate) mod rest;
mod stages;
mod story;
pub(crate) mod tables;

use std::collections::BTreeSet;
use std::path::Path;

/// Every process that works in that directory or names it on its command line; helpers of servers included.
pub(crate) fn processes_of(dir: &Path) -> BTreeSet<u32> {
    let name = dir.as_os_str().as_encoded_bytes();
    let ours = |pid: &u32| {
        let proc = Path::new("/proc").join(pid.to_string());
        let named = || {
            let line = std::fs::read(proc.join("cmdline")).unwrap_or_default();
            line.windows(name.len()).any(|part| part == name)
        };
        std::fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir)) || named()
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(ours).collect()
}

/// Processes of that directory whose program has that name.
pub(crate) fn servers_of(dir: &Path, program: &str) -> BTreeSet<u32> {
    let is = |pid: &u32| {
        std::fs::read_link(format!("/proc/{pid}/exe"))
            .is_ok_and(|exe| exe.file_name().is_some_and(|name| name == program))
    };
    processes_of(dir).into_iter().filter(is).collect()
}

/// `kill -9`; one that is gone already is gone.
pub(crate) fn kill(pid: u32) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Standard base64, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |part: &[u8]| {
        let byte = |index: usize| usize::from(part.get(index).copied().unwrap_or_default());
        let number = byte(0) << 16 | byte(1) << 8 | byte(2);
        let letters = [18, 12, 6, 0].map(|shift| char::from(LETTERS[number >> shift & 63]));
        letters
            .into_iter()
            .take(part.len() + 1)
            .chain(std::iter::repeat_n('=', 3 - part.len()))
            .collect::<Vec<_>>()
    };
    bytes.chunks(3).flat_map(group).collect()
}
