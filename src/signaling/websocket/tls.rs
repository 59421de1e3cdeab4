//! Which TLS certificates of room servers and TURN servers are believed: those that a CA of the system
//! or of `room.ca_file` has signed, and those that stand in `room.ca_file` themselves. Always for the
//! name in the address, and never any other.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tracing::debug;

/// Longest file that is read, in bytes. All public CAs together are a quarter of it.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Why `room.ca_file` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CaFileError {
    /// It cannot be read.
    #[error("cannot read {} (room.ca_file): it must be a PEM file that this user may read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds nothing, or far too much.
    #[error(
        "{} (room.ca_file) has {bytes} bytes: it must be the PEM file of a CA's certificate",
        path.display()
    )]
    Size {
        /// The file.
        path: PathBuf,
        /// How many were read.
        bytes: usize,
    },
    /// It is something else.
    #[error(
        "{} (room.ca_file) has no certificate: it must be PEM, with a line \"-----BEGIN CERTIFICATE-----\"; \
         for DER, `openssl x509 -inform der -in FILE -out FILE.pem` makes it so",
        path.display()
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A certificate in it is damaged.
    #[error("certificate {number} in {} (room.ca_file) is damaged: copy the file again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which, from 1.
        number: usize,
    },
}

/// Certificates that are believed on top of the system's.
#[derive(Clone, Debug, Default)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Reads `room.ca_file`; an empty path is none.
    ///
    /// # Errors
    ///
    /// [`CaFileError`]; the message names the file and what to do.
    pub fn load(path: &Path) -> Result<Self, CaFileError> {
        if path.as_os_str().is_empty() {
            return Ok(Self::default());
        }
        let mut pem = Vec::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut pem))
            .map_err(|source| CaFileError::Read {
                path: path.to_owned(),
                source,
            })?;
        if pem.iter().all(u8::is_ascii_whitespace) || pem.len() as u64 == MAX_FILE_BYTES {
            return Err(CaFileError::Size {
                path: path.to_owned(),
                bytes: pem.len(),
            });
        }
        let mut certificates = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let number = certificates.len() + 1;
            let damaged = || CaFileError::Damaged {
                path: path.to_owned(),
                number,
            };
            let certificate = certificate.map_err(|_| damaged())?;
            let mut trial = RootCertStore::empty();
            trial.add(certificate.clone()).map_err(|_| damaged())?;
            certificates.push(certificate);
        }
        if certificates.is_empty() {
            return Err(CaFileError::NoCertificate {
                path: path.to_owned(),
            });
        }
        Ok(Self(certificates))
    }

    /// Returns whether there are any.
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns TLS settings that believe these and the system's, as they are on the disk now: a daemon
    /// outlives the certificates of its first day. Reads files; a second on a slow card.
    ///
    /// # Errors
    ///
    /// There are no certificates at all.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, NoAuthorities> {
        super::choose_cryptography();
        let system = rustls_native_certs::load_native_certs();
        if !system.errors.is_empty() {
            debug!(errors = ?system.errors, "some certificates of the system cannot be read");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(system.certs);
        roots.add_parsable_certificates(self.0.iter().cloned());
        let verifier = WebPkiServerVerifier::builder(Arc::new(roots)).build();
        let verifier = KnownServers {
            signed: verifier.map_err(|_| NoAuthorities)?,
            itself: self.0.clone(),
        };
        Ok(ClientConfig::builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth())
    }
}

/// Neither the system nor the configuration has a CA certificate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoAuthorities;

/// The usual verification, and a little more: `openssl req -x509` makes a certificate for a server
/// that calls itself a CA. Such a one is nobody's proof of anything, unless that very certificate was
/// configured.
#[derive(Debug)]
struct KnownServers {
    signed: Arc<WebPkiServerVerifier>,
    itself: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for KnownServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.signed.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            // Its dates were good, for they are looked at first.
            Err(Error::InvalidCertificate(CertificateError::Other(_)))
                if self.itself.contains(end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signed.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn refusal(content: Option<&[u8]>) -> String {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("home-ca.pem");
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let error = Authorities::load(&path).unwrap_err().to_string();
        assert!(error.contains("home-ca.pem"), "{error}");
        assert!(error.contains("room.ca_file"), "{error}");
        error
    }

    #[test]
    fn no_file_is_no_authority() {
        assert!(Authorities::load(Path::new("")).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_with_the_remedy() {
        let key = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let damaged = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let cut = b"-----BEGIN CERTIFICATE-----\nAAAA\n";
        let no_base64 = b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n";
        for (content, words) in [
            (None, "this user may read"),
            (Some(&b""[..]), "has 0 bytes"),
            (Some(b"\n\n"), "has 2 bytes"),
            (Some(&vec![b'x'; 2_000_000]), "has 1048576 bytes"),
            (
                Some(b"0\x82\x01\x02\xff\xfe DER"),
                "-----BEGIN CERTIFICATE-----",
            ),
            (Some(key), "has no certificate"),
            (Some(damaged), "certificate 1"),
            (Some(cut), "certificate 1"),
            (Some(no_base64), "certificate 1"),
        ] {
            let error = refusal(content);
            assert!(error.contains(words), "{error}");
        }
    }
}
