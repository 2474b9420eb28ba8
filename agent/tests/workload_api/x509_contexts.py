"""A workload as its developers write it: prints each X.509 context it is sent, and the error that ends the stream."""

import sys
import threading

from spiffe import WorkloadApiClient

ended = threading.Event()


def on_success(context):
    svid = context.default_svid
    bundle = context.x509_bundle_set.get_bundle_for_trust_domain(svid.spiffe_id.trust_domain)
    public = lambda key: key.public_numbers()
    assert public(svid.private_key.public_key()) == public(svid.leaf.public_key())
    svid.leaf.verify_directly_issued_by(next(iter(bundle.x509_authorities)))
    print(svid.spiffe_id, format(svid.leaf.serial_number, "x"), flush=True)


def on_error(error):
    print("error", error, flush=True)
    ended.set()


with WorkloadApiClient(socket_path=sys.argv[1]) as client:
    client.stream_x509_contexts(on_success, on_error, retry_connect=False)
    ended.wait(60)
