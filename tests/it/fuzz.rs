//! The seeds of every fuzz target, replayed: each as it is, cut off at every byte, and with every byte spoilt.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a library of its own for the fuzzer, a module here")]
mod targets;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 6] = [
    ("auditctl", targets::auditctl),
    ("frames", targets::frames),
    ("known_hosts", targets::known_hosts),
    ("os_release", targets::os_release),
    ("rules", targets::rules),
    ("sshd", targets::sshd),
];

#[test]
fn seeds_and_their_neighbours_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    for (name, target) in TARGETS {
        assert!(root.join(format!("fuzz_targets/{name}.rs")).is_file(), "{name}");
        let seeds: Vec<_> = fs::read_dir(root.join("seeds").join(name)).unwrap().flatten().collect();
        assert!(seeds.len() > 1, "{name} has seeds");
        for seed in seeds {
            let bytes = fs::read(seed.path()).unwrap();
            println!("{name}: {}", seed.path().display());
            target(&bytes);
            for at in 0..bytes.len() {
                target(&bytes[..at]);
                let mut spoilt = bytes.clone();
                spoilt[at] ^= 0x15;
                target(&spoilt);
            }
        }
    }
    let listed = fs::read_dir(root.join("fuzz_targets")).unwrap().count();
    assert_eq!(listed, TARGETS.len(), "every target is replayed");
}
