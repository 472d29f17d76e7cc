"""https: the certificate is checked against the host's name, though the connection is ours."""

import shutil
import ssl
import subprocess

import pytest

from experiments_dagster.alerts.transport import TransportError, UrllibTransport, WireRequest

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -keyout {key} -out {cert} "
        "-subj /CN=localhost -addext subjectAltName=DNS:localhost".split(),
        check=True,
        capture_output=True,
    )
    return key, cert


@pytest.fixture
def receiver(start_receiver, certificate):
    key, cert = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return start_receiver(200, tls=context)


def post(url):
    return UrllibTransport().post(WireRequest(url=url, body=b"{}", headers={}, timeout_s=5))


def test_trusted_certificate_is_delivered_to(receiver, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    port = receiver.port
    assert post(f"https://localhost:{port}/").status == 200


def test_unknown_certificate_is_refused(receiver):
    with pytest.raises(TransportError, match="SSLCertVerificationError"):
        post(f"https://localhost:{receiver.port}/")
    assert receiver.received == []


def test_certificate_of_another_host_is_refused(receiver, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    with pytest.raises(TransportError, match="SSLCertVerificationError"):
        post(f"https://127.0.0.1:{receiver.port}/")
    assert receiver.received == []
