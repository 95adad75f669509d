"""Certificates for development: whom clients trust stays, what the server shows is renewed."""

import ssl
import stat
import sys
from pathlib import Path

import certifi
import pytest

from treadle.clock import SystemClock
from treadle.errors import ConfigurationError
from treadle.server import tls
from treadle.server.tls import Certificate, development_certificate, folder_of
from treadle.testing.fakes import FrozenClock

DAY_S = 24 * 3600


def make(folder: Path, *names: str, **options: object) -> Certificate:
    return development_certificate(folder / "tls", names, **{"environ": {}} | options)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def handshake(certificate: Certificate, host: str, *, trusted: Path | None = None) -> str:
    """Let a client that trusts a file meet a server that has the certificate; give what they agree to speak."""
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate.certfile, certificate.keyfile)
    asking = ssl.create_default_context(cafile=str(trusted or certificate.trusted))
    asking.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(there, back, server_side=True)
    client = asking.wrap_bio(back, there, server_hostname=host)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return client.version() or ""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1", "build.example.internal", "10.1.2.3"])
def test_a_client_that_trusts_the_bundle_accepts_the_server_by_each_of_its_names(
    tmp_path: Path, host: str
) -> None:
    certificate = make(tmp_path, "Build.Example.Internal", "10.1.2.3")
    assert handshake(certificate, host) == "TLSv1.3"
    assert handshake(certificate, host, trusted=certificate.ca) == "TLSv1.3"


def test_a_client_refuses_another_name_and_a_client_of_another_folder_refuses_the_server(
    tmp_path: Path,
) -> None:
    one, other = make(tmp_path / "one"), make(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(one, "example.com")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(one, "localhost", trusted=other.trusted)


def test_everything_stays_as_it_is_over_a_restart(tmp_path: Path) -> None:
    first = make(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()}
    again = make(tmp_path)
    assert again == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "tls").iterdir()} == before


def test_a_certificate_that_ends_soon_is_renewed_under_the_same_authority(tmp_path: Path) -> None:
    clock = FrozenClock(wall_ms=SystemClock().now_ms())
    first = make(tmp_path, clock=clock)
    ca, served = first.ca.read_bytes(), first.certfile.read_bytes()
    clock.advance((tls.LIFE - tls.MARGIN).days * DAY_S - 60)
    assert make(tmp_path, clock=clock) == first
    clock.advance(120)
    renewed = make(tmp_path, clock=clock)
    assert renewed.expires_at == clock.now_ms() // 1000 + tls.LIFE.days * DAY_S
    assert renewed.certfile.read_bytes() != served
    assert renewed.ca.read_bytes() == ca


def test_other_names_make_another_certificate_under_the_same_authority(tmp_path: Path) -> None:
    first = make(tmp_path)
    ca, trusted = first.ca.read_bytes(), first.trusted.read_bytes()
    wider = make(tmp_path, "build.example")
    assert (wider.ca.read_bytes(), wider.trusted.read_bytes()) == (ca, trusted)
    assert handshake(wider, "build.example") == "TLSv1.3"
    narrower = make(tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(narrower, "build.example")


def test_a_certificate_that_is_broken_or_of_another_authority_is_made_anew(tmp_path: Path) -> None:
    certificate = make(tmp_path)
    certificate.certfile.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert handshake(make(tmp_path), "localhost") == "TLSv1.3"
    certificate.certfile.write_bytes(make(tmp_path / "other").certfile.read_bytes())
    assert handshake(make(tmp_path), "localhost") == "TLSv1.3"
    certificate.certfile.unlink()
    assert handshake(make(tmp_path), "localhost") == "TLSv1.3"


def test_an_authority_that_cannot_be_read_is_named_and_not_replaced(tmp_path: Path) -> None:
    certificate = make(tmp_path)
    path = certificate.ca.with_name(tls.AUTHORITY)
    path.write_bytes(b"half of it")
    with pytest.raises(ConfigurationError, match="no certificate authority") as e:
        make(tmp_path)
    assert "delete the folder" in (e.value.hint or "")
    assert path.read_bytes() == b"half of it"


def test_keys_are_for_their_owner_only_and_stay_out_of_version_control(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    make(tmp_path)
    folder.chmod(0o755)
    (folder / tls.AUTHORITY).chmod(0o644)
    (folder / tls.SERVER).chmod(0o644)
    make(tmp_path)
    assert mode(folder) == 0o700
    assert mode(folder / tls.AUTHORITY) == mode(folder / tls.SERVER) == 0o600
    assert b"PRIVATE KEY" not in (folder / tls.CA).read_bytes() + (folder / tls.TRUSTED).read_bytes()
    assert (folder / ".gitignore").read_text() == "*\n"


def test_the_bundle_has_our_authority_first_and_everything_that_was_trusted_before(tmp_path: Path) -> None:
    company = make(tmp_path / "company").ca  # stands for an authority of ours that is elsewhere: left out
    certificate = make(tmp_path, environ={"REQUESTS_CA_BUNDLE": str(company)})
    blocks = certificate.trusted.read_text().split("-----END CERTIFICATE-----\n")
    assert len(blocks) == len(set(blocks))
    assert certificate.trusted.read_bytes().startswith(certificate.ca.read_bytes())
    assert company.read_text() not in certificate.trusted.read_text()

    def trusts(file: str) -> set[bytes]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(file)
        return set(context.get_ca_certs(binary_form=True))

    assert trusts(certifi.where()) <= trusts(str(certificate.trusted))


def test_an_authority_that_requests_was_told_of_goes_into_the_bundle(tmp_path: Path) -> None:
    import trustme

    company = trustme.CA(organization_name="Example Company").cert_pem
    told = tmp_path / "company.pem"
    company.write_to_path(told)
    certificate = make(tmp_path, environ={"REQUESTS_CA_BUNDLE": str(told)})
    assert company.bytes() in certificate.trusted.read_bytes()
    assert make(tmp_path, environ={"REQUESTS_CA_BUNDLE": str(tmp_path / "none")}).names == tls.NAMES


def test_the_authority_that_was_first_wins_when_two_servers_start_at_once(tmp_path: Path) -> None:
    path = tmp_path / tls.AUTHORITY
    tls._publish(path, b"first")
    tls._publish(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
    assert mode(path) == 0o600


@pytest.mark.parametrize(
    "name", ["", "a b", "*.example.com", "10.0.0.0/8", "me@example.com", "bücher.example", "-a"]
)
def test_a_name_that_no_host_has_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="no host can be called"):
        make(tmp_path, name)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "tls").write_text("a file")
    with pytest.raises(ConfigurationError, match="cannot keep certificates"):
        make(tmp_path)


def test_without_the_extra_one_line_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ConfigurationError) as e:
        make(tmp_path)
    assert e.value.hint == "install it: pip install 'treadle[tls]'"
    assert not (tmp_path / "tls").exists()


def test_certificates_lie_beside_the_store_or_in_the_project(tmp_path: Path) -> None:
    assert folder_of(tmp_path / "data" / "a.db", tmp_path / "p") == tmp_path / "data" / "tls"
    assert folder_of(None, tmp_path / "p") == tmp_path / "p" / ".treadle" / "tls"
