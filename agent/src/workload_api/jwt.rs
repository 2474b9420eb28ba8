//! The JWT profile: the JWT-SVIDs that came with the credential, for the audiences that the operator named.

use core::fmt;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tonic::Status;

use super::feed::refused;
use super::proto::{JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse};
use crate::svid::Svid;

impl fmt::Debug for Jwtsvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the token.
        f.debug_struct("Jwtsvid").field("spiffe_id", &self.spiffe_id).finish_non_exhaustive()
    }
}

/// The token for the one audience that is asked for: each has one of its own, so that no service can use another's.
pub(crate) fn svid_response(svid: &Svid, request: &JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
    let spiffe_id = svid.id().to_string();
    if !request.spiffe_id.is_empty() && request.spiffe_id != spiffe_id {
        return Err(refused());
    }
    let [audience] = request.audience.as_slice() else {
        return Err(Status::invalid_argument("ask for one audience at a time"));
    };
    let token = svid.token(audience).ok_or_else(|| {
        Status::failed_precondition("this host asks for no JWT-SVID for that audience; see --audience of the agent")
    })?;
    let answer = Jwtsvid { spiffe_id, svid: token.to_owned(), hint: String::new() };
    Ok(JwtsvidResponse { svids: vec![answer] })
}

/// The keys that sign JWT-SVIDs, under the trust domain's id.
pub(crate) fn bundles_response(svid: &Svid, document: Option<&[u8]>) -> Result<JwtBundlesResponse, Status> {
    let document = document.ok_or_else(|| {
        Status::failed_precondition("the broker's token keys were not had at enrolment; enrol this host again")
    })?;
    Ok(JwtBundlesResponse { bundles: BTreeMap::from([(svid.trust_domain_id(), document.to_vec())]) })
}

/// A key of a JWKS document (RFC 7517).
#[derive(Deserialize, Serialize)]
struct Key {
    kty: String,
    crv: String,
    x: String,
    y: String,
    kid: String,
    #[serde(rename = "use")]
    usage: String,
    alg: String,
}

#[derive(Deserialize, Serialize)]
struct Keys {
    keys: Vec<Key>,
}

/// The broker's token keys as SPIFFE has them: for the use `jwt-svid` (SPIFFE Trust Domain and Bundle, 4.2.2).
#[must_use]
pub fn jwt_bundle(token_keys: &str) -> Option<Vec<u8>> {
    let mut document: Keys = serde_json::from_str(token_keys).ok()?;
    for key in &mut document.keys {
        "jwt-svid".clone_into(&mut key.usage);
    }
    serde_json::to_vec(&document).ok()
}

#[cfg(test)]
mod tests {
    use countersign_attestation::protocol::IssuedToken;
    use tonic::Code;

    use super::{JwtsvidRequest, bundles_response, jwt_bundle, svid_response};
    use crate::svid::Svid;
    use crate::svid::tests::{ID, offer};

    #[test]
    fn each_audience_has_its_own_token_and_others_have_none() {
        let issued = ["https://a.example", "https://b.example"]
            .map(|audience| IssuedToken { audience: audience.to_owned(), token: format!("for {audience}") });
        let svid = Svid::clone(&offer(1).svid).with_tokens(&issued);
        let ask = |audience: &[&str], spiffe_id: &str| {
            let audience = audience.iter().map(|audience| (*audience).to_owned()).collect();
            svid_response(&svid, &JwtsvidRequest { audience, spiffe_id: spiffe_id.to_owned() })
        };
        for audience in ["https://a.example", "https://b.example"] {
            for id in ["", ID] {
                let answer = ask(&[audience], id).unwrap();
                assert_eq!((answer.svids.len(), answer.svids[0].svid.clone()), (1, format!("for {audience}")));
                assert!(!format!("{answer:?} {svid:?}").contains("for https"), "tokens are not printed");
            }
        }
        assert_eq!(
            ask(&["https://a.example"], "spiffe://a.example/host/x").unwrap_err().code(),
            Code::PermissionDenied
        );
        assert_eq!(ask(&["https://c.example"], "").unwrap_err().code(), Code::FailedPrecondition);
        for several in [&[] as &[&str], &["https://a.example", "https://b.example"]] {
            assert_eq!(ask(several, "").unwrap_err().code(), Code::InvalidArgument);
        }
    }

    #[test]
    fn keys_are_for_jwt_svids_and_absent_ones_are_said_to_be() {
        let keys = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":"BB","kid":"k","use":"sig","alg":"ES256"}]}"#;
        let bundle = jwt_bundle(keys).unwrap();
        assert_eq!(String::from_utf8(bundle.clone()).unwrap(), keys.replace("\"sig\"", "\"jwt-svid\""));
        assert_eq!(jwt_bundle("{}"), None);
        let svid = offer(1).svid;
        assert_eq!(bundles_response(&svid, Some(&bundle)).unwrap().bundles["spiffe://a.example"], bundle);
        assert_eq!(bundles_response(&svid, None).unwrap_err().code(), Code::FailedPrecondition);
    }
}
