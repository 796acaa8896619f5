//! TLS 1.3 below everything else that a connection between nodes carries, for arrays that encrypt.
//!
//! Both ends have one identity: an Ed25519 key that follows from the array's key, so that there is nothing else to hand out or to let expire.
//! It goes over the wire as a raw public key (RFC 7250), and either end accepts no other than its own. Whoever is let in has proved the
//! array's key once more than it has to: the handshake of nodes takes place inside, unchanged, and alone says who is there.
//!
//! Owns the records of one connection, in memory only: [`Session::open`] takes what came from the socket, [`Session::seal`] gives what goes
//! there. What has not come whole is at most one flight of a handshake or one record; nothing waits to be sealed here.

use std::collections::VecDeque;
use std::io::{BufRead, Write};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::ring::{self, cipher_suite};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, DigitallySignedStruct,
    DistinguishedName, Error, ServerConfig, ServerConnection, SignatureScheme,
};

use super::hmac_sha256;
use crate::icl::link::hello::{self, HelloError, RefusalCode};
use crate::icl::link::hmac::MAC_BYTES;

/// What the identity is derived with. Proofs of the handshake of nodes begin differently.
const IDENTITY: &[u8] = b"braid link tls ed25519";
/// What stands before the 32 bytes of a private key.
///
/// Source: RFC 8410, section 10.3, the first example.
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// The other end has no name that matters; TLS wants one, and is told not to send it.
const NAME: &str = "node.invalid";

/// What a node brings to each connection.
pub struct Identity {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Identity {
    /// The identity that all nodes with the array's key have.
    pub fn new(key: &[u8; MAC_BYTES]) -> Self {
        let provider = Arc::new(CryptoProvider {
            // The shorter key first: it takes less time, and no attack on either is known that would make the longer one worth it.
            cipher_suites: vec![
                cipher_suite::TLS13_AES_128_GCM_SHA256,
                cipher_suite::TLS13_AES_256_GCM_SHA384,
            ],
            ..ring::default_provider()
        });
        let secret = [&PKCS8_ED25519[..], &hmac_sha256(key, &[IDENTITY])].concat();
        let signer = ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(secret));
        let signer = signer.expect("any 32 bytes are a private key");
        let public = signer.public_key().expect("it has a public half");
        let pinned = Arc::new(Pinned {
            public: public.as_ref().to_vec(),
            algorithms: provider.signature_verification_algorithms,
        });
        let own = CertifiedKey::new(vec![CertificateDer::from(public.as_ref().to_vec())], signer);
        let own = Arc::new(own);
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .expect("both suites are of TLS 1.3");
        let mut client = client
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&pinned) as _)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&own))));
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("both suites are of TLS 1.3");
        let mut server = server
            .with_client_cert_verifier(pinned)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(own)));
        server.send_tls13_tickets = 0;
        Self {
            client: Arc::new(client),
            server: Arc::new(server),
        }
    }

    /// The end that has dialled.
    pub fn initiate(&self) -> Session {
        let name = ServerName::try_from(NAME).expect("it has the form of a name");
        let connection = ClientConnection::new(Arc::clone(&self.client), name);
        Session::new(Connection::from(connection.expect("the configuration is whole")))
    }

    /// The end that was dialled.
    pub fn accept(&self) -> Session {
        let connection = ServerConnection::new(Arc::clone(&self.server));
        Session::new(Connection::from(connection.expect("the configuration is whole")))
    }
}

/// Accepts one raw public key, at either end.
#[derive(Debug)]
struct Pinned {
    public: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn check(&self, found: &CertificateDer<'_>) -> Result<(), Error> {
        // It is public, so that the comparison may take as long as it takes.
        if found.as_ref() == self.public {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        found: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let public = SubjectPublicKeyInfoDer::from(found.as_ref());
        verify_tls13_signature_with_raw_key(message, &public, signature, &self.algorithms)
    }
}

/// TLS 1.2 is not offered, so that nothing of it comes to be checked.
fn refuse_older() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.3 is spoken here".to_owned()))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_older()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        refuse_older()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// One end of one connection.
pub struct Session {
    connection: Connection,
    /// Something has come in.
    has_begun: bool,
    /// How many bytes were sealed in each batch that is on its way, in the order in which they left.
    sealed: VecDeque<u64>,
}

impl Session {
    fn new(connection: Connection) -> Self {
        Self {
            connection,
            has_begun: false,
            sealed: VecDeque::new(),
        }
    }

    /// Whether both ends have accepted each other, so that bytes can be sealed.
    pub fn is_established(&self) -> bool {
        !self.connection.is_handshaking()
    }

    /// Whether TLS itself has something to say.
    pub fn wants_to_send(&self) -> bool {
        self.connection.wants_write()
    }

    /// Takes bytes that came from the peer, in arbitrary cuts, and appends to `out` what was sealed in them.
    ///
    /// Errs if the connection must end, once TLS has said what it has to; `out` has what came before.
    pub fn open(&mut self, mut input: &[u8], out: &mut Vec<u8>) -> Result<(), HelloError> {
        if !std::mem::replace(&mut self.has_begun, true) && hello::is_unencrypted(input) {
            return Err(HelloError::Unencrypted);
        }
        while !input.is_empty() {
            // Nothing is taken after the peer has said that nothing follows.
            let taken = self.connection.read_tls(&mut input);
            if !taken.is_ok_and(|bytes| bytes > 0) {
                return Err(HelloError::Tls);
            }
            let processed = self.connection.process_new_packets();
            self.take_opened(out);
            processed.map_err(reason)?;
        }
        Ok(())
    }

    fn take_opened(&mut self, out: &mut Vec<u8>) {
        let mut reader = self.connection.reader();
        // It errs when there is nothing, which is no error here.
        while let Ok(opened @ [_, ..]) = reader.fill_buf() {
            out.extend_from_slice(opened);
            let bytes = opened.len();
            reader.consume(bytes);
        }
    }

    /// Appends to `out` what TLS has to say, and `clear` sealed, for one batch. Panics if there is something to be sealed too early.
    pub fn seal<'a>(&mut self, clear: impl IntoIterator<Item = &'a [u8]>, out: &mut Vec<u8>) {
        self.take_records(out);
        let mut clear_bytes = 0;
        for piece in clear {
            assert!(self.is_established(), "only who was accepted is told anything");
            clear_bytes += piece.len() as u64;
            let mut rest = piece;
            while !rest.is_empty() {
                // As much as fits its buffer, which is emptied at once.
                let taken = self.connection.writer().write(rest);
                let taken = taken.expect("memory does not fail");
                assert!(taken > 0, "an empty buffer has room");
                rest = &rest[taken..];
                self.take_records(out);
            }
        }
        self.sealed.push_back(clear_bytes);
    }

    fn take_records(&mut self, out: &mut Vec<u8>) {
        while self.connection.wants_write() {
            self.connection.write_tls(out).expect("memory does not fail");
        }
    }

    /// The oldest batch on its way has left, or failed: how many bytes were sealed in it.
    pub fn sent(&mut self) -> u64 {
        self.sealed.pop_front().expect("each batch was sealed")
    }
}

/// Why a connection ends, as far as the other end or whoever runs the nodes can do something about it.
fn reason(error: Error) -> HelloError {
    tracing::debug!(%error, "TLS between nodes fails");
    if error == CertificateError::ApplicationVerificationFailure.into() {
        HelloError::Key
    } else if error == Error::AlertReceived(AlertDescription::AccessDenied) {
        HelloError::ByPeer(RefusalCode::Key) // How the peer says the same.
    } else {
        HelloError::Tls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What either end has sealed goes to the other until neither has anything to say. What both opened last, or why one ended.
    fn meet(ends: &mut [Session; 2], cut: usize) -> Result<(), HelloError> {
        let mut result = Ok(());
        while ends.iter().any(Session::wants_to_send) {
            for (from, to) in [(0, 1), (1, 0)] {
                let mut bytes = Vec::new();
                ends[from].seal([], &mut bytes);
                for piece in bytes.chunks(cut) {
                    let mut opened = Vec::new();
                    let one = ends[to].open(piece, &mut opened);
                    assert!(opened.is_empty(), "nothing was sealed");
                    result = result.and(one);
                }
            }
        }
        result
    }

    fn pair() -> [Session; 2] {
        let identity = Identity::new(&[1; MAC_BYTES]);
        [identity.initiate(), identity.accept()]
    }

    #[test]
    fn bytes_arrive_both_ways_whatever_the_cuts_and_are_not_seen_on_the_way() {
        for cut in [1, 7, 1000, usize::MAX] {
            let mut ends = pair();
            meet(&mut ends, cut).expect("they have one key");
            assert!(ends.iter().all(Session::is_established));
            for (from, to) in [(0, 1), (1, 0)] {
                let clear: Vec<u8> = b"no one else reads this. ".repeat(10_000);
                let mut bytes = Vec::new();
                ends[from].seal([&clear[..]], &mut bytes);
                assert!(!bytes.windows(12).any(|window| window == b"no one else "));
                let mut opened = Vec::new();
                for piece in bytes.chunks(cut) {
                    ends[to].open(piece, &mut opened).expect("all is well");
                }
                assert!(opened == clear);
            }
        }
    }

    #[test]
    fn only_two_suites_of_tls_1_3_are_spoken() {
        let mut ends = pair();
        meet(&mut ends, usize::MAX).expect("they have one key");
        for end in &ends {
            assert_eq!(
                end.connection.protocol_version(),
                Some(rustls::ProtocolVersion::TLSv1_3)
            );
            let suite = end
                .connection
                .negotiated_cipher_suite()
                .map(|suite| suite.suite());
            assert_eq!(suite, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256));
        }
        assert_eq!(
            Identity::new(&[1; MAC_BYTES])
                .client
                .crypto_provider()
                .cipher_suites
                .len(),
            2
        );
    }

    #[test]
    fn another_key_is_refused_by_both() {
        let mut ends = [
            Identity::new(&[1; MAC_BYTES]).initiate(),
            Identity::new(&[2; MAC_BYTES]).accept(),
        ];
        let mut words = Vec::new();
        let mut opened = Vec::new();
        ends[0].seal([], &mut words);
        ends[1]
            .open(&words, &mut opened)
            .expect("a greeting says nothing of the key");
        words.clear();
        ends[1].seal([], &mut words);
        assert_eq!(ends[0].open(&words, &mut opened), Err(HelloError::Key));
        words.clear();
        ends[0].seal([], &mut words);
        assert_eq!(
            ends[1].open(&words, &mut opened),
            Err(HelloError::ByPeer(RefusalCode::Key))
        );
        assert!(opened.is_empty());
    }

    #[test]
    fn a_record_that_is_changed_or_cut_is_never_opened() {
        let mut ends = pair();
        meet(&mut ends, usize::MAX).expect("they have one key");
        let mut bytes = Vec::new();
        ends[0].seal([&[7; 100][..]], &mut bytes);
        let mut opened = Vec::new();
        let (last, most) = bytes.split_last_mut().expect("a record is not empty");
        assert_eq!(ends[1].open(most, &mut opened), Ok(()));
        assert!(opened.is_empty(), "it waits for the last byte");
        assert_eq!(ends[1].open(&[*last ^ 1], &mut opened), Err(HelloError::Tls));
        assert_eq!(
            ends[1].open(&[*last], &mut opened),
            Err(HelloError::Tls),
            "for good"
        );
        assert!(opened.is_empty());
    }

    #[test]
    fn garbage_and_peers_that_do_not_encrypt_are_told_apart() {
        for (words, error) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], HelloError::Tls),
            (b"BHEL\x01\x01", HelloError::Unencrypted),
            (&[0xff; 4096], HelloError::Tls),
            (&[22, 3, 1, 0, 4, 1, 0, 0, 0], HelloError::Tls),
        ] {
            for mut end in pair() {
                assert_eq!(end.open(words, &mut Vec::new()), Err(error), "{words:?}");
            }
        }
    }
}
