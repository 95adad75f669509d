"""Certificates for development: an authority of this project's own, and what it signs for localhost.

Some clients send their credentials over https only. A folder beside the store keeps what that needs, so that a
client which was told once whom to trust goes on trusting after a restart:

    authority.pem   the authority's key and certificate; whoever reads it can pass for any host with its clients
    server.pem      the server's key and certificate, made anew before it ends and when its names change
    ca.pem          the authority's certificate
    trusted.pem     that, and every authority that this machine trusts

Hazard: `REQUESTS_CA_BUNDLE` and `SSL_CERT_FILE` replace what a process trusts, they add nothing. A script that
also calls another https address needs trusted.pem, not ca.pem.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import importlib
import ipaddress
import os
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from treadle import ids
from treadle.clock import Clock, SystemClock
from treadle.errors import ConfigurationError

if TYPE_CHECKING:
    import trustme
    from cryptography import x509

NAMES = ("localhost", "127.0.0.1", "::1")
"""By which names every certificate lets the server be called."""

LIFE = dt.timedelta(days=397)
"""How long a certificate holds: the longest that browsers accept."""

MARGIN = dt.timedelta(days=30)
"""A certificate that ends sooner is made anew."""

AUTHORITY, SERVER, CA, TRUSTED = "authority.pem", "server.pem", "ca.pem", "trusted.pem"

_ORGANIZATION = "treadle development"
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.+?-----END \1-----\n?", re.DOTALL)
_HOST = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*\Z"
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Where everything lies that a server with TLS, and its clients, need.

    Shapes: `certfile` and `keyfile` are what uvicorn takes as `ssl_certfile` and `ssl_keyfile`; they are one file,
    which is replaced as a whole. `ca` is for clients that keep their other authorities, `trusted` for those whose
    authorities it replaces. Units: `expires_at` Unix seconds.
    """

    certfile: Path
    keyfile: Path
    ca: Path
    trusted: Path
    names: tuple[str, ...]
    expires_at: int


def folder_of(store: Path | None, root: Path) -> Path:
    """Give the folder for certificates: beside the store's file, or in the project where the store is no file."""
    return (store.absolute().parent if store else root / ".treadle") / "tls"


def development_certificate(
    folder: Path,
    names: Iterable[str] = (),
    *,
    clock: Clock | None = None,
    environ: Mapping[str, str] | None = None,
) -> Certificate:
    """Give the certificate of the folder; make what is missing, ends soon or is of other names.

    Shapes: `names` are further host names and addresses by which the server is called. Of `environ`, the process's
    own environment by default, REQUESTS_CA_BUNDLE tells of further authorities to trust.
    Errors: ConfigurationError without the extra, for a name that no host can have, and for a folder or an
    authority that cannot be used.
    """
    _require()
    wanted = tuple(dict.fromkeys((*NAMES, *map(_name, names))))
    now = dt.datetime.fromtimestamp((clock or SystemClock()).now_ms() / 1000, dt.UTC)
    try:
        _prepare(folder)
        authority = _authority(folder / AUTHORITY)
        served = _served(folder / SERVER, authority, wanted=wanted, now=now)
        ca = authority.cert_pem.bytes()
        _keep(folder / CA, ca, mode=0o644)
        _keep(folder / TRUSTED, _trusted(ca, os.environ if environ is None else environ), mode=0o644)
    except OSError as e:
        raise ConfigurationError(
            f"the folder {folder} cannot keep certificates: {e}",
            hint="name a store in a folder that is yours",
        ) from e
    return Certificate(
        certfile=folder / SERVER,
        keyfile=folder / SERVER,
        ca=folder / CA,
        trusted=folder / TRUSTED,
        names=wanted,
        expires_at=int(served.not_valid_after_utc.timestamp()),
    )


def _require() -> None:
    try:
        importlib.import_module("trustme")
    except ImportError as e:
        raise ConfigurationError(
            "certificates for development need a library that is not installed",
            hint="install it: pip install 'treadle[tls]'",
        ) from e


def _name(name: str) -> str:
    """Give a name as certificates spell it.

    Errors: ConfigurationError.
    """
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(name.strip("[]")))
    if not _HOST.match(name.lower()):
        raise ConfigurationError(
            f"no host can be called '{name}'",
            hint="give names such as build.example.internal, in ASCII (xn--…), or addresses",
        )
    return name.lower()


def _prepare(folder: Path) -> None:
    """Make the folder, for its owner only, and keep it out of version control."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "geteuid") and folder.stat().st_uid != os.geteuid():
        raise PermissionError("it belongs to somebody else")
    folder.chmod(0o700)
    _keep(folder / ".gitignore", b"*\n", mode=0o644)


def _authority(path: Path) -> trustme.CA:
    """Load the authority, or make it.

    Errors: ConfigurationError for a file that is none: making it anew would take the clients' trust away.
    """
    import trustme

    if not path.exists():
        made = trustme.CA(
            organization_name=_ORGANIZATION, organization_unit_name=f"authority {ids.secret(6)}"
        )
        _publish(path, made.private_key_pem.bytes() + made.cert_pem.bytes())
    path.chmod(0o600)
    blocks = _blocks(path.read_bytes())
    try:
        return trustme.CA.from_pem(blocks["certificate"], blocks["key"])
    except (KeyError, ValueError) as e:
        raise ConfigurationError(
            f"{path} is no certificate authority",
            hint=f"delete the folder {path.parent}: a new one is made, and clients must trust its {TRUSTED}",
        ) from e


def _served(
    path: Path, authority: trustme.CA, *, wanted: tuple[str, ...], now: dt.datetime
) -> x509.Certificate:
    """Give the server's certificate, the kept one as long as it fits."""
    kept = _kept(path, authority, wanted=wanted, now=now)
    if kept is not None:
        return kept
    made = authority.issue_cert(
        *wanted,
        organization_name=_ORGANIZATION,
        organization_unit_name="server",
        # Hazard: the clock of a client may be behind.
        not_before=now - dt.timedelta(days=1),
        not_after=now + LIFE,
    )
    _keep(path, made.private_key_and_cert_chain_pem.bytes(), mode=0o600)
    return _certificate(made.cert_chain_pems[0].bytes())


def _kept(
    path: Path, authority: trustme.CA, *, wanted: tuple[str, ...], now: dt.datetime
) -> x509.Certificate | None:
    """Give the certificate of the file; None where it is none of this authority, for these names, for long enough."""
    from cryptography.exceptions import InvalidSignature

    try:
        path.chmod(0o600)
        blocks = _blocks(path.read_bytes())
        found = _certificate(blocks["certificate"])
        found.verify_directly_issued_by(_certificate(authority.cert_pem.bytes()))
        fits = "key" in blocks and _names(found) == set(wanted)
    except (FileNotFoundError, KeyError, ValueError, TypeError, InvalidSignature):
        return None
    return found if fits and found.not_valid_before_utc <= now < found.not_valid_after_utc - MARGIN else None


def _certificate(pem: bytes) -> x509.Certificate:
    from cryptography import x509

    return x509.load_pem_x509_certificate(pem)


def _names(certificate: x509.Certificate) -> set[str]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    addresses = found.get_values_for_type(x509.IPAddress)
    return {*found.get_values_for_type(x509.DNSName), *(str(address) for address in addresses)}


def _blocks(pem: bytes) -> dict[str, bytes]:
    """Give the first certificate and the first key of a PEM text."""
    found: dict[str, bytes] = {}
    for block in _BLOCK.finditer(pem):
        kind = "key" if block[1].endswith(b"PRIVATE KEY") else block[1].decode().lower()
        found.setdefault(kind, block[0])
    return found


def _trusted(ca: bytes, environ: Mapping[str, str]) -> bytes:
    """Give our authority and all that this machine trusts as one PEM text, each once."""
    found = {ssl.PEM_cert_to_DER_cert(ca.decode()): None}
    # Hazard: what is trusted may be a file of ours, of another folder; its authority is no business of this one.
    found |= {der: None for der in _roots(environ) if _ORGANIZATION.encode() not in der}
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in found).encode()


def _roots(environ: Mapping[str, str]) -> Iterator[bytes]:
    """Give the authorities of the system, of Python's own collection, and of the file that `requests` is told of."""
    yield from ssl.create_default_context().get_ca_certs(binary_form=True)
    files = [environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE")]
    with contextlib.suppress(ImportError):
        import certifi

        files.append(certifi.where())
    for file in files:
        if file and Path(file).is_file():
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            with contextlib.suppress(OSError):
                context.load_verify_locations(file)
            yield from context.get_ca_certs(binary_form=True)


def _keep(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file as a whole, unless it is so already."""
    if path.is_file() and path.read_bytes() == content:
        path.chmod(mode)
        return
    _beside(path, content, mode=mode).replace(path)


def _publish(path: Path, content: bytes) -> None:
    """Write a file that only its owner reads; where another process was first, its file stays."""
    written = _beside(path, content, mode=0o600)
    try:
        os.link(written, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def _beside(path: Path, content: bytes, *, mode: int) -> Path:
    """Write a new file beside another, on the disk before it is named."""
    written = path.with_name(f".{path.name}.{ids.secret(8)}")
    with os.fdopen(os.open(written, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return written
