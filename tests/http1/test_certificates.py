import ssl
from pathlib import Path

import pytest

from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.http1.certificates import Identity, Trust
from support.authority import Authority, encrypted


def agreed(
    server: ssl.SSLContext, client: ssl.SSLContext, name: str = "router.example"
) -> tuple[str | None, str | None]:
    """Let two contexts shake hands in memory, and give the version and the protocol that they agree on."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=name)
    left = [theirs, ours]
    for _ in range(10):
        for side in list(left):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            left.remove(side)
    assert left == []
    return ours.version(), ours.selected_alpn_protocol()


class TestOfTheRouter:
    @pytest.mark.parametrize("together", [False, True])
    def test_a_client_that_trusts_the_authority_is_served(self, authority: Authority, together: bool) -> None:
        files = authority.issue("router.example")
        identity = Identity(files.both) if together else Identity(files.cert, files.key)
        client = Trust(authority.ca).context()
        assert agreed(identity.context(), client) == ("TLSv1.3", "http/1.1")

    def test_versions_before_1_2_are_not_spoken(self, authority: Authority) -> None:
        files = authority.issue("router.example")
        server, client = Identity(files.cert, files.key).context(), Trust(authority.ca).context()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        assert agreed(server, client)[0] == "TLSv1.2"
        assert (server.minimum_version, client.minimum_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)

    def test_a_client_without_a_certificate_is_refused_when_one_is_asked_for(self, authority: Authority) -> None:
        files, client_files = authority.issue("router.example"), authority.issue("trainer.example")
        server = Identity(files.cert, files.key, authority.ca).context()
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            agreed(server, Trust(authority.ca).context())
        known = Trust(authority.ca, client_files.cert, client_files.key).context()
        assert agreed(server, known) == ("TLSv1.3", "http/1.1")

    def test_a_client_of_another_authority_is_refused(self, authority: Authority, tmp_path: Path) -> None:
        files, stranger = authority.issue("router.example"), Authority(tmp_path).issue("trainer.example")
        server = Identity(files.cert, files.key, authority.ca).context()
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            agreed(server, Trust(authority.ca, stranger.cert, stranger.key).context())


class TestOfWorkers:
    def test_only_the_named_authority_counts(self, authority: Authority, tmp_path: Path) -> None:
        files = authority.issue("router.example")
        server = Identity(files.cert, files.key).context()
        with pytest.raises(ssl.SSLCertVerificationError):
            agreed(server, Trust(Authority(tmp_path).ca).context())
        with pytest.raises(ssl.SSLCertVerificationError):
            agreed(server, Trust().context())

    def test_the_name_counts(self, authority: Authority) -> None:
        files = authority.issue("another.example")
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            agreed(Identity(files.cert, files.key).context(), Trust(authority.ca).context())

    def test_the_system_s_authorities_count_when_none_is_named(self) -> None:
        assert Trust().context().cert_store_stats() == ssl.create_default_context().cert_store_stats()


class TestFiles:
    def test_one_that_is_missing_is_named(self, authority: Authority, tmp_path: Path) -> None:
        files, nowhere = authority.issue("a"), str(tmp_path / "none.pem")
        why = f"names a file that cannot be read, {nowhere} (no such file or directory)"
        for one, flag in (
            (Identity(nowhere, files.key), "--tls-cert"),
            (Identity(files.cert, nowhere), "--tls-key"),
            (Identity(files.cert, files.key, nowhere), "--tls-client-ca"),
            (Trust(nowhere), "--worker-ca"),
            (Trust(None, nowhere, files.key), "--worker-cert"),
            (Trust(None, files.cert, nowhere), "--worker-cert-key"),
        ):
            with pytest.raises(BadSetting) as caught:
                one.context()
            assert caught.value.message == f"{flag} {why}"

    def test_an_encrypted_key_is_refused_and_not_asked_for(self, authority: Authority) -> None:
        files = authority.issue("a")
        key = encrypted(files.key)
        with pytest.raises(BadSetting) as caught:
            Identity(files.cert, key).context()
        why = "the router wants it decrypted, and readable for itself alone"
        assert caught.value.message == f"--tls-key names an encrypted key, {key}; {why}"

    def test_a_key_of_another_certificate_is_named(self, authority: Authority) -> None:
        files, other = authority.issue("a"), authority.issue("b")
        with pytest.raises(BadSetting) as caught:
            Identity(files.cert, other.key).context()
        assert caught.value.message == (
            "--tls-cert and --tls-key name no certificate with the key that belongs to it: "
            f"{files.cert}, {other.key} (key values mismatch)"
        )

    def test_what_is_no_pem_is_named(self, authority: Authority, tmp_path: Path) -> None:
        files, junk = authority.issue("a"), tmp_path / "junk.pem"
        junk.write_text("not a certificate")
        for one, start in (
            (Identity(str(junk), files.key), "--tls-cert and --tls-key name no certificate with the key"),
            (Identity(files.cert, str(junk)), "--tls-cert and --tls-key name no certificate with the key"),
            (Trust(str(junk)), f"--worker-ca names a file without certificates, {junk} ("),
        ):
            with pytest.raises(BadSetting) as caught:
                one.context()
            assert caught.value.message.startswith(start)
