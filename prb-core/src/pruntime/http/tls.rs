//! TLS configuration of HTTP clients: the trusted certificates.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::BuildError;

/// Creates a configuration that trusts Mozilla's root certificates, the system's, and those in `extra_pem`.
///
/// Both stores are needed: a container often has no certificates of its own, and an operator's own authority
/// is often known to the system only. The crypto provider is explicit, so that it does not depend on the
/// providers that other crates of the program enable.
///
/// # Errors
/// [`BuildError::Certificates`] for what is no certificate.
pub fn client_config(extra_pem: &[u8]) -> Result<ClientConfig, BuildError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let system = rustls_native_certs::load_native_certs();
    // Certificates that cannot be parsed are skipped: system stores contain some with outdated encodings.
    roots.add_parsable_certificates(system.certs);
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
