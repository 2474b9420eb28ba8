//! The reading side of what the broker signs for relying parties: the compact JWS all of it travels in ([`jws`]), the
//! attestation result ([`ear`]), the X.509-SVID ([`svid`]) and the JWT-SVID ([`jwt_svid`]). And what others sign: their
//! results ([`peer_ear`]), their X.509-SVIDs ([`x509_svid`]) and bundles ([`spiffe_bundle`]).

pub mod authorities;
pub mod ear;
pub mod jws;
pub mod jwt_svid;
pub mod peer_ear;
pub mod spiffe_bundle;
pub mod svid;
pub mod wit_svid;
pub mod x509_svid;

use crate::rejection::reasons;

reasons! {
    /// Why a token or a credential of the broker is rejected.
    ResultReason {
        /// Bounded before anything is decoded.
        TooLarge = "result.token.too_large",
            "the token is larger than its kind can be",
            "present the token as the broker signed it";
        /// RFC 7515, 3.1: three canonical base64url parts.
        Form = "result.token.form",
            "the token is not a compact JWS",
            "present the token as the broker signed it: three base64url parts without padding, joined by dots";
        /// Exactly `alg`, `kid` and `typ`.
        Header = "result.token.header",
            "the header is not the three members alg, kid and typ",
            "present a token of the broker; header members that carry or fetch keys are never read";
        /// ES256 and nothing else (RFC 8725, 3.1).
        Algorithm = "result.token.algorithm",
            "the token names another algorithm than the one in use",
            "present a token signed with ES256";
        /// RFC 8725, 3.11: explicit typing.
        Type = "result.token.type",
            "the token is of another kind than expected here",
            "present the kind of token named as expected";
        /// The pinned set does not hold the key.
        UnknownKey = "result.token.unknown_key",
            "no pinned key has the token's key id",
            "give the verifier the broker's current JWKS, or present a token of the pinned broker";
        /// RFC 7518, 3.4.
        Signature = "result.token.signature",
            "the signature does not verify",
            "present the token unchanged, under the broker that signed it";
        /// Unknown, missing, duplicate and mistyped claims are all refused.
        Payload = "result.token.payload",
            "the claims are not those of this kind of token",
            "present a token of the protocol version in use; every claim named in its definition is required";
        /// A key set that cannot be read whole is not read in part.
        Keys = "result.keys.malformed",
            "the key set cannot be read",
            "give a JWKS of P-256 public keys with kty, crv, x, y, kid, use=sig and alg=ES256, each kid once";
        /// Of another trust domain.
        AuthoritiesIssuer = "result.authorities.issuer",
            "the statement of keys is of another trust domain",
            "follow a broker of the trust domain this verifier serves";
        /// An old statement names keys that are retired.
        AuthoritiesDates = "result.authorities.dates",
            "the statement of keys is not of now",
            "follow the broker itself; synchronise the clocks of broker and verifier";
        /// draft-ietf-rats-ear-04, 3.1.
        EarProfile = "result.ear.profile",
            "the attestation result follows another profile",
            "present an EAR with the profile named as expected";
        /// RFC 7519, 4.1.1.
        EarIssuer = "result.ear.issuer",
            "the attestation result is of another issuer",
            "present an EAR of the trust domain this verifier serves";
        /// RFC 7519, 4.1.4: no grace.
        EarExpired = "result.ear.expired",
            "the attestation result has expired",
            "attest again and present the new result";
        /// RFC 7519, 4.1.6.
        EarNotYetIssued = "result.ear.not_yet_issued",
            "the attestation result was issued in the future",
            "synchronise the clocks of broker and verifier";
        /// RFC 7800: a result is worth nothing without its key.
        EarHolder = "result.ear.holder",
            "the attestation result is bound to another key",
            "prove possession of the credential key that the result was issued for";
        /// AR4SI, 2.3: a status is the worst tier of its vector.
        EarStatus = "result.ear.status",
            "a status contradicts its trustworthiness vector",
            "issue the result again: each status is the worst tier of its vector, and at least one submodule is there";
        /// RFC 9711, 4.1: an answer to another question.
        EarNonce = "result.ear.nonce",
            "the attestation result does not answer the nonce that was sent",
            "ask the verifier again with the nonce named as expected";
        /// AR4SI, 2.3.2: none and warning are not affirming.
        EarNotAffirming = "result.ear.not_affirming",
            "the attestation result does not affirm every submodule",
            "see the verifier's reasons for the submodule named as expected, and attest again";
        /// SPIFFE JWT-SVID, 3.
        JwtSvidIssuer = "result.jwt_svid.issuer",
            "the token is of another issuer",
            "present a token of the issuer and trust domain this verifier serves";
        /// SPIFFE JWT-SVID, 3.2 and 5.4: another service's token is worth nothing here.
        JwtSvidAudience = "result.jwt_svid.audience",
            "the token is for another audience",
            "ask for a token for the audience named as expected";
        /// RFC 7519, 4.1.4: no grace.
        JwtSvidExpired = "result.jwt_svid.expired",
            "the token has expired",
            "attest again and present the new token";
        /// RFC 7519, 4.1.6.
        JwtSvidNotYetIssued = "result.jwt_svid.not_yet_issued",
            "the token was issued in the future",
            "synchronise the clocks of broker and verifier";
        /// RFC 7800.
        JwtSvidHolder = "result.jwt_svid.holder",
            "the token is bound to another key",
            "prove possession of the credential key that the token was issued for";
        /// Of another broker, or for another trust domain.
        WitIssuer = "result.wit.issuer",
            "the workload identity token is of another issuer",
            "present a token of the issuer and trust domain this verifier serves";
        /// RFC 7519, 4.1.4: no grace.
        WitExpired = "result.wit.expired",
            "the workload identity token has expired",
            "attest again and present the new token";
        /// RFC 7519, 4.1.6.
        WitNotYetIssued = "result.wit.not_yet_issued",
            "the workload identity token was issued in the future",
            "synchronise the clocks of broker and verifier";
        /// draft-ietf-wimse-wpt-02, 2: `wth`.
        WitProofToken = "result.wit.proof.token",
            "the proof was made for another token",
            "make a proof for the very token that is sent: wth is its SHA-256";
        /// draft-ietf-wimse-wpt-02, 2: `aud`.
        WitProofAudience = "result.wit.proof.audience",
            "the proof is for another request",
            "make a proof for the target URI of this request, without query and fragment";
        /// draft-ietf-wimse-wpt-02, 2: `exp`, and soon.
        WitProofDates = "result.wit.proof.dates",
            "the proof has expired, or would be valid for too long",
            "make a proof for each request, that ends within two minutes";
        /// draft-ietf-wimse-wpt-02, 2: `jti`.
        WitProofReplayed = "result.wit.proof.replayed",
            "the proof was used before, or cannot be told from others",
            "make a proof for each request, with 128 random bits as its jti";
        /// RFC 5280, 4.1.2.5.
        SvidExpired = "result.svid.expired",
            "the credential has expired",
            "attest again; a credential is renewed before it ends";
        /// RFC 5280, 4.1.2.5.
        SvidNotYetValid = "result.svid.not_yet_valid",
            "the credential is not valid yet",
            "synchronise the clocks of broker and verifier";
        /// No root of the bundle leads to the leaf.
        SvidChain = "result.svid.chain",
            "the credential does not chain to a root of the trust bundle",
            "present a credential of this trust domain with its intermediates, or load the domain's current bundle";
        /// SPIFFE X.509-SVID, 2 and 5.2: one URI SAN.
        SvidId = "result.svid.spiffe_id",
            "the credential does not carry exactly one SPIFFE id",
            "present an X.509-SVID with the one URI SAN named as expected";
        /// SPIFFE-ID, 2.1.
        SvidTrustDomain = "result.svid.trust_domain",
            "the credential is of another trust domain",
            "present a credential of the trust domain this verifier serves";
        /// SPIFFE X.509-SVID, 4 and appendix A.
        SvidProfile = "result.svid.profile",
            "the certificate is not an X.509-SVID for workloads",
            "issue the leaf with CA false, keyUsage digitalSignature alone, and extKeyUsage clientAuth and serverAuth";
        /// SPIFFE Trust Domain and Bundle, 4.
        BundleMalformed = "result.bundle.malformed",
            "the trust bundle cannot be read",
            "send the trust domain's bundle: a JWKS with keys, each x509-svid with one certificate and each jwt-svid with a kid";
        /// The extension that ties the certificate to its decision.
        SvidExtensionMissing = "result.svid.extension.missing",
            "the certificate does not carry the credential extension exactly once",
            "present an execution credential of the broker; any other certificate of the same CA is not one";
        /// DER, complete and exact.
        SvidExtensionMalformed = "result.svid.extension.malformed",
            "the credential extension cannot be read",
            "present an execution credential of the protocol version in use";
    }
}
