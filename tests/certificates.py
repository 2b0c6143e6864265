"""Certificates for tests of TLS."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def certificates() -> dict[str, str]:
    """PEM texts: an authority, another one, and a server and a client of the first."""

    def make(name: str, issuer: tuple[Any, Any] | None) -> tuple[Any, Any]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[1].subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )
        return key, builder.sign(issuer[0] if issuer else key, hashes.SHA256())

    def key_pem(key: Any) -> str:
        return key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def cert_pem(cert: Any) -> str:
        return cert.public_bytes(serialization.Encoding.PEM).decode()

    ca, other = make("ca", None), make("other ca", None)
    server, client = make("127.0.0.1", ca), make("postgres", ca)
    return {
        "ca": cert_pem(ca[1]),
        "other_ca": cert_pem(other[1]),
        "server_cert": cert_pem(server[1]),
        "server_key": key_pem(server[0]),
        "client_cert": cert_pem(client[1]),
        "client_key": key_pem(client[0]),
    }
