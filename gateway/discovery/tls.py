"""TLS by certificate fingerprint: a gateway is whoever holds the key of the certificate that pairing named."""

import asyncio
import hashlib
import ssl

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, openssl/x509_vfy.h


async def fetch_certificate(host: str, port: int, timeout_s: float) -> bytes:
    """The peer's certificate (DER) from a handshake; not one byte is sent inside it. OSError, TimeoutError.

    It proves nothing yet: a context from `pinned` has to accept the peer before anything is said to it.
    """
    async with asyncio.timeout(timeout_s):
        _, writer = await asyncio.open_connection(host, port, ssl=unverified(), server_hostname=host.partition("%")[0])
    try:
        encryption = writer.get_extra_info("ssl_object")
        certificate: bytes | None = encryption.getpeercert(binary_form=True)
    finally:
        writer.transport.abort()  # no farewell: whoever it is has nothing to hear from us
    if certificate is None:
        raise ssl.SSLError("the peer showed no certificate")
    return certificate


def fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of the DER form, 64 lower-case hex digits."""
    return hashlib.sha256(certificate).hexdigest()


def pinned(certificate: bytes) -> ssl.SSLContext:
    """A context that talks to the holder of this certificate's key and to nobody else.

    Its dates are not checked: a Raspberry Pi may have made it before its clock was set, and the pin, not the date, is
    what was agreed. The name is not checked: addresses change.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags = (
        ssl.VerifyFlags(_NO_CHECK_TIME) | ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_TRUSTED_FIRST
    )
    context.load_verify_locations(cadata=certificate)
    return context


def unverified() -> ssl.SSLContext:
    """A context that believes anybody: to look at a certificate, for loopback, and for `--insecure`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
