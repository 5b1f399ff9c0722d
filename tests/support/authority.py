"""Certificates of an authority that only the test knows."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Files:
    """cert: the chain. key: its key. both: both in one file. All PEM."""

    cert: str
    key: str
    both: str


class Authority:
    """Issues certificates, and writes them down.

    ca: the file with its own certificate.
    """

    def __init__(self, folder: Path) -> None:
        import trustme

        self._ca = trustme.CA()
        self._folder = folder
        self._folder.mkdir(parents=True, exist_ok=True)
        self._issued = 0
        self.ca = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca)

    def issue(self, *names: str) -> Files:
        """Give files with a certificate for these host names or addresses."""
        self._issued += 1
        leaf = self._ca.issue_cert(*names)
        paths = [self._folder / f"{self._issued}-{part}.pem" for part in ("cert", "key", "both")]
        for one in leaf.cert_chain_pems:
            one.write_to_path(str(paths[0]), append=True)
        leaf.private_key_pem.write_to_path(str(paths[1]))
        leaf.private_key_and_cert_chain_pem.write_to_path(str(paths[2]))
        return Files(*map(str, paths))


def encrypted(key: str) -> str:
    """Give the same key in a file that asks for a password."""
    out = key + ".encrypted"
    command = ["openssl", "pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", out]
    subprocess.run(command, check=True, timeout=30)
    return out
