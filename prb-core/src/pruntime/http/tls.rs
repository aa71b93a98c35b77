//! TLS configuration of HTTP clients: the trusted certificates.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::BuildError;

/// The system's certificates, read once.
static SYSTEM: SystemCertificates =
    SystemCertificates::new(|| rustls_native_certs::load_native_certs().certs);
/// Least time between two reads.
const READ_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Certificates that are kept until a handshake fails: an operator may have added what was missing.
struct SystemCertificates {
    read: fn() -> Vec<CertificateDer<'static>>,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    certificates: Arc<[CertificateDer<'static>]>,
    read_at: Instant,
}

impl SystemCertificates {
    const fn new(read: fn() -> Vec<CertificateDer<'static>>) -> Self {
        Self { read, kept: Mutex::new(None) }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, now: Instant) -> Arc<[CertificateDer<'static>]> {
        let mut kept = self.kept();
        let kept = kept.get_or_insert_with(|| Kept { certificates: (self.read)().into(), read_at: now });
        Arc::clone(&kept.certificates)
    }

    fn handshake_failed(&self, now: Instant) {
        self.kept().take_if(|kept| now.duration_since(kept.read_at) >= READ_AGAIN_AFTER);
    }
}

/// Notes that a handshake failed: the system's certificates are read again for the next configuration, at most once a
/// minute.
pub fn handshake_failed() {
    SYSTEM.handshake_failed(Instant::now());
}

/// Creates a configuration that trusts Mozilla's root certificates, the system's, and those in `extra_pem`.
///
/// Both stores are needed: a container often has no certificates of its own, and an operator's own authority
/// is often known to the system only. The crypto provider is explicit, so that it does not depend on the
/// providers that other crates of the program enable. The system's certificates are read once per process (see
/// [`handshake_failed`]).
///
/// # Errors
/// [`BuildError::Certificates`] for what is no certificate.
pub fn client_config(extra_pem: &[u8]) -> Result<ClientConfig, BuildError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    // Certificates that cannot be parsed are skipped: system stores contain some with outdated encodings.
    roots.add_parsable_certificates(SYSTEM.get(Instant::now()).iter().cloned());
    for certificate in CertificateDer::pem_slice_iter(extra_pem) {
        let certificate = certificate.map_err(|e| BuildError::Certificates(e.to_string()))?;
        roots.add(certificate).map_err(|e| BuildError::Certificates(e.to_string()))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| BuildError::Certificates(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    static READS: AtomicUsize = AtomicUsize::new(0);

    #[test]
    fn certificates_are_read_again_only_after_a_failed_handshake_and_a_minute() {
        let system = SystemCertificates::new(|| {
            READS.fetch_add(1, Ordering::Relaxed);
            vec![CertificateDer::from(vec![7])]
        });
        let start = Instant::now();
        let reads_at = |seconds, has_failed| {
            let now = start + Duration::from_secs(seconds);
            if has_failed {
                system.handshake_failed(now);
            }
            assert_eq!(system.get(now).len(), 1);
            READS.load(Ordering::Relaxed)
        };
        assert_eq!(reads_at(0, true), 1);
        assert_eq!(reads_at(59, true), 1, "too soon");
        assert_eq!(reads_at(3600, false), 1, "nothing failed");
        assert_eq!(reads_at(3601, true), 2);
        assert_eq!(reads_at(3602, true), 2, "too soon again");
        assert_eq!(reads_at(3661, true), 3);
    }
}
