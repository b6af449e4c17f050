"""A server's TLS certificate, and until when clients accept it."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import logging
import ssl
import time
from pathlib import Path

from qt_jax.errors import UserError

SOON_S = 14 * 24 * 3600.0
"""Seconds before a certificate's end from which on the log warns of it (default of this project)."""
DAY_S = 24 * 3600.0


@dataclasses.dataclass
class Certificate:
    """A certificate chain and its key.

    Attributes:
        cert: PEM file of the chain.
        key: PEM file of the private key.
        context: what the server listens with.
        expires: Unix time at which the first certificate of the chain expires.

    """

    cert: str
    key: str
    context: ssl.SSLContext
    expires: float

    @classmethod
    def read(cls, cert: str, key: str) -> Certificate | None:
        """Reads the PEM files of a certificate chain and its private key; None if neither is given.

        Raises:
            UserError: if only one is given, they cannot be used, or a certificate of the chain has expired
                or is not valid yet, so that no client would connect.

        """
        if not cert and not key:
            return None
        given = f"--tls_cert={cert} --tls_key={key}"
        if not cert or not key:
            raise UserError(f"{given}: TLS needs both; give the other PEM file too.")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(cert, key)
            begins, expires = _validity(cert)
        except (OSError, ValueError) as error:  # ssl's error is an OSError
            raise UserError(f"{given} cannot be used ({error}); expected PEM files.") from error

        now = time.time()
        if now > expires:
            raise UserError(f"--tls_cert={cert} expired at {_shown(expires)}; renew it.")
        if now < begins:
            wrong = f"--tls_cert={cert} is valid from {_shown(begins)} on, and it is {_shown(now)}"
            raise UserError(f"{wrong}; set this machine's clock, or give another certificate.")
        return cls(cert, key, context, expires)

    def renew(self) -> None:
        """Reads the files again, for the connections that come now.

        Raises:
            UserError: see `read`; the context is as it was.

        """
        new = self.read(self.cert, self.key)
        assert new is not None
        self.context.load_cert_chain(self.cert, self.key)
        self.expires = new.expires

    async def watch(self, log: logging.Logger) -> None:
        """Logs once a day, and when it happens, that the certificate expires soon or has expired."""
        while True:
            left = self.expires - time.time()
            fields = {"fields": {"expires": _shown(self.expires)}}
            if left <= 0:
                log.error("the certificate has expired: no client can connect; renew it", extra=fields)
            elif left <= SOON_S:
                log.warning("the certificate expires soon; renew it", extra=fields)
            await asyncio.sleep(min(left, DAY_S) if left > 0 else DAY_S)


def _validity(cert: str) -> tuple[float, float]:
    """Returns the Unix times between which all certificates of a PEM file are valid."""
    from cryptography import x509

    chain = x509.load_pem_x509_certificates(Path(cert).read_bytes())
    begins = max(one.not_valid_before_utc for one in chain)
    return begins.timestamp(), min(one.not_valid_after_utc for one in chain).timestamp()


def _shown(unix: float) -> str:
    return datetime.datetime.fromtimestamp(unix, datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
