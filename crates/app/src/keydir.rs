//! The key directory: which file holds what, and who needs it.
//!
//! ```text
//! dek                    the data-encryption key: vault only; dek.next and dek.old beside it while keys are rotated
//! scheduler.json executor.json writer.json api.json alerts.json    derived, one process each
//! nats/<user>.nk         NKEY seeds, one identity each
//! nats/users.conf        their public keys, for the NATS server
//! tls/ca.key             signs the certificates of this installation: its owner only; made with the first certificate
//! policy/policy.key      signs policies and corpora: its owner only, no process needs it
//! policy/trusted.json    public keys whose signatures count
//! policy/revoked.json    keys that no longer count, signed (optional), with its signature beside it
//! ```

use std::path::{Path, PathBuf};

use openwatch_bus::User;
use openwatch_pipeline::signers::{SignedList, SignerFiles, SignerWatch, SignersRefused};
use openwatch_trust::authority::Authority;
use openwatch_trust::dek_files::DekFiles;
use openwatch_trust::keyring::{issue_alerts, issue_api, issue_executor, issue_scheduler, issue_writer};
use openwatch_trust::nats_user::{NatsUser, USERS, users_conf};
use openwatch_trust::policy::{PolicyRefused, RefusalClass, signature_path};
use openwatch_trust::revocation::RevocationsRefused;
use openwatch_trust::{
    AlertsKeys, ApiKeys, Dek, Deks, ExecutorKeys, KeyFileError, PolicyKey, SchedulerKeys, TrustedKeys,
    VaultKeys, WriterKeys,
};
use zeroize::Zeroizing;

use crate::cli::IssueFor;
use crate::exit::Failure;

/// Processes with a file of derived keys. The last one says that all are there.
const DERIVED: [IssueFor; 5] =
    [IssueFor::Executor, IssueFor::Writer, IssueFor::Scheduler, IssueFor::Api, IssueFor::Alerts];

/// A key directory.
#[derive(Clone, Debug)]
pub struct KeyDir(PathBuf);

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        Self::usage(error)
    }
}

impl KeyDir {
    /// At this path; nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes all keys of a new installation.
    ///
    /// # Errors
    /// When there is a data-encryption key already: overwriting it would lose every credential.
    pub fn init(path: &Path) -> Result<Self, Failure> {
        let it = Self::new(path);
        if it.0.join("dek").exists() {
            let text = format!("{} already holds keys; name an empty directory", path.display());
            return Err(Failure::usage(text));
        }
        for dir in ["", "nats", "policy"] {
            make_private_dir(&it.0.join(dir))?;
        }
        let mut public = Vec::new();
        for name in USERS {
            let user = NatsUser::generate();
            user.save(&it.seed_file(name))?;
            public.push((name, user.public().to_owned()));
        }
        std::fs::write(
            it.users_conf_file(),
            users_conf(public.iter().map(|(name, key)| (*name, key.as_str()))),
        )?;
        let policy_key = PolicyKey::generate("policy");
        policy_key.save(&it.policy_key_file())?;
        let trusted = TrustedKeys::new(vec![policy_key.trusted()]).map_err(Failure::usage)?;
        trusted.save(&it.0.join("policy/trusted.json"))?;
        let fresh = it.0.join("dek.new");
        Dek::generate().save(&fresh)?;
        let deks = Deks::single(Dek::load(&fresh)?);
        for what in DERIVED {
            write_derived(what, &deks, &it)?;
        }
        // Last, in one step: whoever finds it finds everything else too.
        std::fs::rename(fresh, it.0.join("dek"))?;
        Ok(it)
    }

    /// Writes what one kind of process needs into the key directory of that process.
    ///
    /// # Errors
    /// When a file is missing here or cannot be written there.
    pub fn issue(&self, what: IssueFor, out: &Path) -> Result<(), Failure> {
        let to = Self::new(out);
        for dir in ["", "nats", "policy"] {
            make_private_dir(&to.0.join(dir))?;
        }
        let users: &[&str] = match what {
            IssueFor::Executor => &["executor"],
            IssueFor::Scheduler => &["scheduler", "caretaker"],
            IssueFor::Writer => &["writer"],
            IssueFor::Vault => &["vault"],
            IssueFor::Api => &["api", "reader"],
            IssueFor::Alerts => &["alerts"],
            IssueFor::Stages => &["drift", "liveness"],
            IssueFor::Token | IssueFor::Certificate => &[],
        };
        for user in users {
            let target = to.seed_file(user);
            if !target.exists() {
                NatsUser::load(&self.seed_file(user))?.save(&target)?;
            }
        }
        TrustedKeys::load(&self.trusted_file())?.save(&to.trusted_file())?;
        if self.revoked_file().exists() {
            std::fs::copy(self.revoked_file(), to.revoked_file())?;
            std::fs::copy(signature_path(&self.revoked_file()), signature_path(&to.revoked_file()))?;
        }
        if what == IssueFor::Vault {
            return Ok(self.deks().copy_to(&to.deks())?);
        }
        write_derived(what, &self.deks().load()?, &to)
    }

    /// Writes a certificate of this installation's authority, its key and the authority's certificate.
    ///
    /// # Errors
    /// A name cannot stand in a certificate, or a file cannot be read or written.
    pub fn certificate(&self, name: &str, hosts: &[String], out: &Path) -> Result<[PathBuf; 3], Failure> {
        let dir = self.0.join("tls");
        make_private_dir(&dir)?;
        make_private_dir(out)?;
        let now = time::OffsetDateTime::now_utc();
        let authority = Authority::open(&dir, now).map_err(Failure::usage)?;
        authority.issue(name, hosts, now, out).map_err(Failure::usage)
    }

    /// Gives every process of this directory what it may hold of the data-encryption keys as they are now.
    ///
    /// # Errors
    /// A file cannot be written; those before it are new, those after it old, and calling it again goes on.
    pub fn reissue(&self) -> Result<(), Failure> {
        let deks = self.deks().load()?;
        for what in DERIVED {
            write_derived(what, &deks, self)?;
        }
        Ok(())
    }

    /// Its data-encryption keys.
    pub fn deks(&self) -> DekFiles {
        DekFiles::new(&self.0)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    fn seed_file(&self, user: &str) -> PathBuf {
        self.0.join("nats").join(format!("{user}.nk"))
    }

    /// Seed file of the read-only user, for clients.
    pub fn reader_seed_file(&self) -> PathBuf {
        self.seed_file("reader")
    }

    /// Public keys for the NATS server.
    pub fn users_conf_file(&self) -> PathBuf {
        self.0.join("nats/users.conf")
    }

    /// The policy signing key.
    pub fn policy_key_file(&self) -> PathBuf {
        self.0.join("policy/policy.key")
    }

    /// The policy signing key.
    ///
    /// # Errors
    /// When it is not here: it belongs to its owner, not to a process.
    pub fn policy_key(&self) -> Result<PolicyKey, Failure> {
        Ok(PolicyKey::load(&self.policy_key_file())?)
    }

    /// The NKEY seed of a user.
    ///
    /// # Errors
    /// When its file is missing or open to others.
    pub fn seed(&self, user: User) -> Result<Zeroizing<String>, Failure> {
        Ok(Zeroizing::new(NatsUser::load(&self.seed_file(user.as_str()))?.seed().to_owned()))
    }

    /// The vault's keys.
    ///
    /// # Errors
    /// When the data-encryption key is missing or open to others.
    pub fn vault(&self) -> Result<VaultKeys, Failure> {
        Ok(VaultKeys::new(&self.deks().load()?))
    }

    /// A worker's keys.
    ///
    /// # Errors
    /// When the file is missing or open to others.
    pub fn executor(&self) -> Result<ExecutorKeys, Failure> {
        Ok(ExecutorKeys::load(&self.0.join("executor.json"))?)
    }

    /// The scheduler's keys.
    ///
    /// # Errors
    /// When the file is missing or open to others.
    pub fn scheduler(&self) -> Result<SchedulerKeys, Failure> {
        Ok(SchedulerKeys::load(&self.0.join("scheduler.json"))?)
    }

    /// The writer's keys.
    ///
    /// # Errors
    /// When the file is missing or open to others.
    pub fn writer(&self) -> Result<WriterKeys, Failure> {
        Ok(WriterKeys::load(&self.0.join("writer.json"))?)
    }

    /// The API's keys.
    ///
    /// # Errors
    /// When the file is missing or open to others.
    pub fn api(&self) -> Result<ApiKeys, Failure> {
        Ok(ApiKeys::load(&self.0.join("api.json"))?)
    }

    /// The alerts stage's keys.
    ///
    /// # Errors
    /// When the file is missing or open to others.
    pub fn alerts(&self) -> Result<AlertsKeys, Failure> {
        Ok(AlertsKeys::load(&self.0.join("alerts.json"))?)
    }

    /// Issues what an earlier version did not know. Calling it again changes nothing.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn complete(&self) -> Result<(), Failure> {
        let here = self.0.join("dek").exists();
        if here && !self.0.join("alerts.json").exists() { self.reissue() } else { Ok(()) }
    }

    /// Whose signatures count over policies and corpora, as the files say whenever they are read.
    pub fn signer_watch(&self) -> SignerWatch {
        let it = self.clone();
        SignerWatch::new(move || it.signer_files())
    }

    /// The same, read now. The list of revoked keys is verified by whoever knows the one before it.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn signer_files(&self) -> Result<SignerFiles, SignersRefused> {
        let path = self.trusted_file();
        let trusted = TrustedKeys::load(&path).map_err(|error| SignersRefused {
            path,
            refused: PolicyRefused {
                class: RefusalClass::ParseError,
                detail: error.to_string(),
                fingerprint: None,
                attempted_version: None,
            },
        })?;
        let path = self.revoked_file();
        let read = |path: &Path| {
            std::fs::read(path)
                .map_err(|source| RevocationsRefused::Unreadable { path: path.to_owned(), source })
        };
        let document = match read(&path) {
            Err(RevocationsRefused::Unreadable { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound =>
            {
                return Ok(SignerFiles { trusted, list: None });
            }
            other => other.map_err(|error| SignersRefused::list(&path, &error))?,
        };
        let signature = read(&signature_path(&path)).map_err(|error| SignersRefused::list(&path, &error))?;
        Ok(SignerFiles { trusted, list: Some(SignedList { path, document, signature }) })
    }

    /// Public keys whose signatures count.
    pub fn trusted_file(&self) -> PathBuf {
        self.0.join("policy/trusted.json")
    }

    /// The list of signing keys that no longer count.
    pub fn revoked_file(&self) -> PathBuf {
        self.0.join("policy/revoked.json")
    }
}

fn write_derived(what: IssueFor, deks: &Deks, to: &KeyDir) -> Result<(), Failure> {
    match what {
        IssueFor::Scheduler => issue_scheduler(deks).replace(&to.0.join("scheduler.json"))?,
        IssueFor::Executor => issue_executor(deks).replace(&to.0.join("executor.json"))?,
        IssueFor::Writer => issue_writer(deks).replace(&to.0.join("writer.json"))?,
        IssueFor::Api => issue_api(deks).replace(&to.0.join("api.json"))?,
        IssueFor::Alerts => issue_alerts(deks).replace(&to.0.join("alerts.json"))?,
        IssueFor::Vault | IssueFor::Stages | IssueFor::Token | IssueFor::Certificate => {}
    }
    Ok(())
}

/// Makes a directory that only its owner may enter.
///
/// # Errors
/// Of the file system.
pub fn make_private_dir(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Failure::usage(format!("cannot make the directory {}: {e}", path.display())))
}
