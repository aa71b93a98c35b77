//! [`Access`]: the token required for changes, either configured or generated at the first start.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::Path,
    sync::Arc,
};

use anyhow::Context;
use prb_walkie::identity::new_private;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use crate::{
    config::{PageArgs, TOKEN_VARIABLE, first_line},
    disk_watch,
};

/// The file of the generated token, in the daemon's data folder.
pub(crate) const TOKEN_FILE: &str = "api-token";
/// The largest token file, in bytes.
const MAX_FILE_BYTES: u64 = 4096;

/// The token required for changes, and where it is stored. `Debug` does not show the token.
#[derive(Clone, Debug, Default)]
pub struct Access {
    token: Option<SecretString>,
    location: Option<Arc<str>>,
    is_given: bool,
}

impl Access {
    /// Returns the configured token, if there is one.
    ///
    /// # Errors
    /// It is set twice, cannot be read, or is too short.
    pub fn given(args: &PageArgs) -> anyhow::Result<Self> {
        let Some(token) = args.token()? else { return Ok(Self::default()) };
        let location = match &args.api_token_file {
            Some(file) => {
                let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
                format!("the file {}", file.display())
            }
            None => format!("the variable {TOKEN_VARIABLE}"),
        };
        Ok(Self { token: Some(token), location: Some(location.into()), is_given: true })
    }

    /// As [`find_or_create`](Self::find_or_create), without blocking if the disk hangs.
    ///
    /// # Errors
    /// Those of [`find_or_create`](Self::find_or_create).
    pub(crate) async fn open(args: &PageArgs, folder: &Path) -> anyhow::Result<Self> {
        let what = format!("the API's token in {}", folder.display());
        let (args, folder) = (args.clone(), folder.to_owned());
        disk_watch::open(what, move || Self::find_or_create(&args, &folder)).await?
    }

    /// Returns the configured token, or the one in `folder`, which is generated if it does not exist.
    ///
    /// # Errors
    /// Those of [`given`](Self::given), or the file can neither be read nor created.
    pub fn find_or_create(args: &PageArgs, folder: &Path) -> anyhow::Result<Self> {
        let given = Self::given(args)?;
        if given.token.is_some() {
            return Ok(given);
        }
        // Absolute, because clients that are told the place have other working directories.
        let file = std::path::absolute(folder.join(TOKEN_FILE)).unwrap_or_else(|_| folder.join(TOKEN_FILE));
        let shown = file.display();
        let token = match stored(&file)? {
            Some(token) => token,
            None => {
                let made =
                    make(&file).with_context(|| format!("cannot create the API's token in {shown}"))?;
                match made {
                    Some(token) => {
                        tracing::info!(file = %shown, "generated a token for changes");
                        token
                    }
                    None => stored(&file)?.with_context(|| format!("{shown} is gone"))?,
                }
            }
        };
        Ok(Self { token: Some(token), location: Some(format!("the file {shown}").into()), is_given: false })
    }

    /// Reads what [`find_or_create`](Self::find_or_create) would read, without creating a file; returns whether there
    /// is a token.
    ///
    /// # Errors
    /// As those of [`find_or_create`](Self::find_or_create).
    pub(crate) fn check(args: &PageArgs, folder: &Path) -> anyhow::Result<bool> {
        Ok(Self::given(args)?.token.is_some() || stored(&folder.join(TOKEN_FILE))?.is_some())
    }

    #[cfg(test)]
    pub(crate) fn of_test(token: &str) -> Self {
        Self {
            token: Some(token.into()),
            location: Some("the variable PRB_API_TOKEN".into()),
            is_given: true,
        }
    }

    /// Describes where the token is stored; `None` if there is no token.
    pub fn location(&self) -> Option<&Arc<str>> {
        self.location.as_ref()
    }

    /// Whether the token is configured.
    pub(crate) const fn is_given(&self) -> bool {
        self.is_given
    }

    pub(crate) const fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }
}

/// Reads the token of an earlier start, if there is one.
fn stored(file: &Path) -> anyhow::Result<Option<SecretString>> {
    let token = match first_line(file, MAX_FILE_BYTES) {
        Err(error) if is_missing(&error) => return Ok(None),
        token => token?,
    };
    anyhow::ensure!(
        token.expose_secret().len() >= 16,
        "the token in {} has less than 16 bytes: delete the file, and a new one is generated",
        file.display()
    );
    Ok(Some(token))
}

fn is_missing(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Generates a token of 244 random bits and creates its file atomically with restricted permissions, so that
/// no other user can read it at any time. Returns `None` if another process has created it meanwhile.
fn make(file: &Path) -> anyhow::Result<Option<SecretString>> {
    let token = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
    let folder = file.parent().context("it has no folder")?;
    fs::create_dir_all(folder)?;
    let mut made = new_private(folder)?;
    writeln!(made.as_file_mut(), "{token}")?;
    made.as_file().sync_all()?;
    // The token of another process may be in use already, so it is kept.
    match made.persist_noclobber(file) {
        Ok(_) => Ok(Some(token.into())),
        Err(error) if error.error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error.error.into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn token_of_another_process_is_kept() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join(TOKEN_FILE);
        fs::write(&file, "of another process").unwrap();
        assert!(make(&file).unwrap().is_none());
        assert_eq!(fs::read_to_string(&file).unwrap(), "of another process");
    }

    #[test]
    fn token_is_created_once_with_private_permissions() {
        let folder = tempfile::TempDir::new().unwrap();
        let folder = folder.path().join("new");
        let args = PageArgs::default();
        let made = Access::find_or_create(&args, &folder).unwrap();
        let (first, location) = (made.token().unwrap(), made.location().unwrap());
        let file = folder.join(TOKEN_FILE);
        assert!(location.contains("file /"), "an absolute path: {location}");
        assert!(location.contains(file.to_str().unwrap()) && !location.contains(first.expose_secret()));
        assert!(!made.is_given() && !format!("{made:?}").contains(first.expose_secret()));
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let again = Access::find_or_create(&args, &folder).unwrap();
        assert_eq!(first.expose_secret(), again.token().unwrap().expose_secret());
        assert!(first.expose_secret().len() >= 32);

        assert!(
            Access::check(&args, &folder).unwrap() && !Access::check(&args, &folder.join("new")).unwrap()
        );
        assert!(!folder.join("new").exists());

        fs::write(&file, "\n").unwrap();
        assert!(Access::check(&args, &folder).is_err());
        let error = Access::find_or_create(&args, &folder).unwrap_err().to_string();
        assert!(error.contains("16 bytes"), "{error}");
    }
}
